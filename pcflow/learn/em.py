"""Expectation maximisation: expected counts by one pass up and down, parameters by counting.

Legend: B batch.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

from pcflow.engine import in_ordinary_modes
from pcflow.errors import SettingError
from pcflow.learn.batch import Batch, Model
from pcflow.learn.checkpoint import must_be_like
from pcflow.learn.counts import (
    Counts,
    Layout,
    Rule,
    refuse_half_frozen,
    refuse_more_than_a_circuit,
)
from pcflow.learn.learner import State
from pcflow.learn.team import ALONE, Team

Settings = TypeVar("Settings")


class CountingRun(ABC, Generic[Settings]):
    """A run that moves parameters by expected counts, and remembers nothing."""

    def __init__(self, learner: Settings, model: Model, team: Team) -> None:
        """Begin.

        Raises:
            StructureError: if parameters are tied or frozen in a way that counting cannot respect.
            TypeMismatch: if there are others than the circuit's.
        """
        refuse_more_than_a_circuit(model)
        self._layout = Layout(model.engine.counting)
        refuse_half_frozen(self._layout)
        self.learner, self.model, self.team = learner, model, team

    @in_ordinary_modes
    @torch.no_grad()
    def step(self, batches: Iterable[Batch], done: float = 0.0) -> Tensor:
        """See `Run`.

        Raises:
            NoMassError: if the model gives a row probability zero.
            TypeMismatch: if something is given and the learner does not learn from such rows.
            PropertyRequired: if something is given and an input unit has a density.
        """
        counts = Counts(self.layout)
        for batch in batches:
            counts.add(self.accepted(batch, counts))
        counts.gather(self.team)
        self.update(counts, done)
        return counts.met

    @property
    def layout(self) -> Layout:
        """What is counted: found again if the model was moved."""
        engine = self.model.engine.counting
        if engine is not self._layout.engine:
            self._layout = Layout(engine)
        return self._layout

    def accepted(self, batch: Batch, counts: Counts) -> Batch:
        """The batch, if the learner learns from such rows."""
        return batch.unconditional()

    @abstractmethod
    def update(self, counts: Counts, done: float) -> None:
        """Move the parameters by what some rows count, a share of all learning being done."""

    def state(self) -> State:
        """Nothing."""
        return {}

    def restore(self, state: State) -> None:
        """Nothing."""
        must_be_like(state, self.state(), "learner")


@dataclass(frozen=True)
class EM:
    """Full-batch expectation maximisation (Choi, Vergari, Van den Broeck 2020).

    One step sums expected counts over all rows and then replaces every weight by its relative
    count. What is missing is not counted: neither at its input unit nor at sums over variables of
    which a row says nothing. Hard zeros stay, and so do the parameters of units that no row ever
    uses.

    Args:
        pseudocount: added to every expected count, in rows. By default a value that no row has
            keeps a share, which costs next to nothing elsewhere. With 0 it gets none, and the
            log-likelihood never falls; otherwise, where every parameter is a probability, it is
            the log-likelihood plus `pseudocount` times the sum of all their logarithms that never
            does (the mode under a Dirichlet prior).

    Raises:
        SettingError: if the pseudocount is negative.

    Examples:
        >>> import pcflow as pf
        >>> model = pf.compile(pf.hmm(4, states=2, inputs=pf.Categorical(3)))
        >>> result = pf.fit(model, torch.randint(3, (50, 4)), pf.EM(), epochs=3, progress=False)
        >>> result.train[0] < result.train[-1]
        True
    """

    pseudocount: float = 1e-3
    full_batch = True

    def __post_init__(self) -> None:
        """Check the pseudocount."""
        check_pseudocount(self.pseudocount)

    def start(self, model: Model, team: Team = ALONE) -> EMRun:
        """Begin to learn the parameters of a model, among the processes of a team.

        Args:
            model: what learns, in place.
            team: the processes that share its batches; this one alone if not given.
        """
        return EMRun(self, model, team)


class EMRun(CountingRun[EM]):
    """EM at work on a model."""

    def update(self, counts: Counts, done: float) -> None:
        """Relative counts; these are all rows, so what is alike stays alike."""
        rule = Rule(counts.counted, lambda bank: bool((counts.total(bank) > 0).all()))
        counts.maximize(rule, lambda values: self.learner.pseudocount, alike=1.0)


def check_pseudocount(pseudocount: float) -> None:
    """Raise if it cannot be added to counts.

    Raises:
        SettingError: if it is negative, infinite or no number.
    """
    SettingError.check("pseudocount", pseudocount, "at least 0", lambda a: 0 <= a < math.inf)
