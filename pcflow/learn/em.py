"""Expectation maximisation: expected counts by one pass up and down, parameters by counting.

Legend: B batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pcflow.learn.checkpoint import Memoryless
from pcflow.learn.counts import Counts
from pcflow.learn.data import Batches, unconditional
from pcflow.queries import CompiledCircuit


@dataclass(frozen=True)
class EM(Memoryless):
    """Full-batch expectation maximisation (Choi, Vergari, Van den Broeck 2020).

    One epoch sums expected counts over all batches and then replaces every weight by its relative
    count. Without pseudocounts the log-likelihood never falls. A missing value says nothing about
    its input unit and is not counted there. Hard zeros stay, and so do the parameters of units that
    no row ever uses.

    Args:
        pseudocount: added to every expected count.

    Raises:
        ValueError: if the pseudocount is negative.

    Examples:
        >>> import pcflow as pf
        >>> model = pf.compile(pf.hmm(4, states=2, inputs=pf.Categorical(3)))
        >>> result = pf.fit(model, torch.randint(3, (50, 4)), pf.EM(), epochs=3, progress=False)
        >>> result.train[0] < result.train[-1]
        True
    """

    pseudocount: float = 0.0
    shuffle = False

    def __post_init__(self) -> None:
        """Check the pseudocount."""
        if not self.pseudocount >= 0:
            raise ValueError(f"pseudocount must not be negative, got {self.pseudocount}")

    @torch.no_grad()
    def epoch(self, model: CompiledCircuit, batches: Batches) -> float:
        """Update the model once from all batches; returns the mean log-likelihood before it.

        Raises:
            NoMassError: if the model gives a row probability zero.
            TypeError: if a batch is `Conditional`.
        """
        counts = Counts(model)
        for batch in batches:
            counts.add(unconditional(batch))
        counts.gather(batches.team)
        counts.write(self.pseudocount)
        return counts.mean_log_prob
