"""What a learner is: settings, from which a run at a model is started."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from pcflow.learn.batch import Batch, Model
from pcflow.learn.team import ALONE, Team

State = dict[str, Any]
"""A nest of dicts, lists, tuples, numbers, strings and tensors."""


class Run(Protocol):
    """A learner at work on a model: what it remembers from step to step is here, nowhere else."""

    def step(self, batches: Iterable[Batch], done: float = 0.0) -> Tensor:
        """Move the model's parameters once, by all rows of some batches.

        Args:
            batches: one or more; they are read once.
            done: the share of all learning that is over, in [0, 1].

        Returns:
            Weighted sum of the log-likelihoods (nats) that were met, and the sum of the weights,
            [2] in float64.
        """
        ...

    def state(self) -> State:
        """What it remembers, for a checkpoint."""
        ...

    def restore(self, state: State) -> None:
        """Remember that in place of what it does.

        Args:
            state: what `state` of such a run returned.

        Raises:
            FileFormatError: if it is not what such a run remembers; nothing has changed then.
        """
        ...


@runtime_checkable
class Learner(Protocol):
    """One way to improve a model on data: a plain value, which remembers nothing."""

    @property
    def full_batch(self) -> bool:
        """Whether a step takes all rows, so that their order does not matter."""
        ...

    def start(self, model: Model, team: Team = ALONE) -> Run:
        """Begin to learn the parameters of a model, among the processes of a team.

        Args:
            model: what learns, in place.
            team: the processes that share its batches; this one alone if not given.
        """
        ...
