"""Expectation maximisation: expected counts by one pass up and down, parameters by counting.

Legend: F folds, B batch, V categories, K units, J units read by a sum, P parameters of a bank.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from pcflow.compiled import CompiledCircuit
from pcflow.errors import StructureError
from pcflow.inputs import DensityFamily, FiniteFamily
from pcflow.leaves import DensityLeaf, FiniteLeaf
from pcflow.plan import BankRead, InputStep
from pcflow.queries import refuse_impossible
from pcflow.tables import accumulate


@dataclass(frozen=True)
class EM:
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
    def epoch(self, model: CompiledCircuit, batches: Iterable[Tensor]) -> float:
        """Update the model once from all batches; returns the mean log-likelihood before it.

        Raises:
            NoMassError: if the model gives a row probability zero.
        """
        counts, total, rows = _Counts(model), 0.0, 0
        for x in batches:
            total += float(counts.add(x).double().sum())
            rows += len(x)
        counts.write(self.pseudocount)
        return total / rows


class _Counts:
    """Expected counts of every parameter of a model."""

    def __init__(self, model: CompiledCircuit) -> None:
        self.engine = model.engine
        self.weights: dict[int, Tensor] = {}
        self.inputs: dict[InputStep, list[Tensor]] = {}
        _refuse_mixed_ties([s for s in self.engine.plan.steps if isinstance(s, InputStep)])

    def add(self, x: Tensor) -> Tensor:
        """Add the counts of some rows; returns their log-likelihoods [B]."""
        evaluation = self.engine.evaluate(self.engine.check(x))
        refuse_impossible(evaluation.log_value, "fit")
        for tape, slopes, _ in evaluation.down(torch.ones_like(evaluation.log_value)):
            for bank, weights in slopes.weights.items():
                self.weights[bank] = self.weights.get(bank, 0.0) + weights
            for number, leaf in tape.leaves.items():
                if leaf.step.parameters:
                    found = _leaf_counts(leaf, slopes.sheet.outs[number].units)
                    zeros = [torch.zeros_like(t) for t in found]
                    before = self.inputs.get(leaf.step, zeros)
                    pairs = zip(before, found, strict=True)
                    self.inputs[leaf.step] = [a + b for a, b in pairs]
        return evaluation.log_value

    def write(self, pseudocount: float) -> None:
        """Replace the parameters by smoothed relative counts."""
        banks = self.engine.tables.banks
        for bank, weights in self.weights.items():
            banks[bank].copy_(_normalise(weights, banks[bank], pseudocount))
        for step, counts in self.inputs.items():
            for name, value in self._maximize(step, counts, pseudocount).items():
                banks[step.parameters[name].bank].copy_(value)

    def _maximize(
        self, step: InputStep, counts: list[Tensor], pseudocount: float
    ) -> dict[str, Tensor]:
        banks = self.engine.tables.banks
        params = {name: banks[read.bank].detach() for name, read in step.parameters.items()}
        read = next(iter(step.parameters.values()))
        tied = [_tie(c, read, len(banks[read.bank])) for c in counts]
        if isinstance(step.family, DensityFamily):
            weight, statistics = tied
            return step.family.maximize(params, weight, statistics, pseudocount)
        assert isinstance(step.family, FiniteFamily)
        return step.family.maximize(params, tied[0], pseudocount)


def _leaf_counts(leaf: FiniteLeaf | DensityLeaf, slope: Tensor) -> list[Tensor]:
    return list(leaf.counts(slope)) if isinstance(leaf, DensityLeaf) else [leaf.counts(slope)]


def _tie(folds: Tensor, read: BankRead, size: int) -> Tensor:
    """Counts per fold [F or 1, ...] to counts per parameter of the bank [P, ...]."""
    bank = folds.new_zeros(size, *folds.shape[1:])
    accumulate(bank, read, folds)
    return bank


def _normalise(counts: Tensor, logits: Tensor, pseudocount: float) -> Tensor:
    """Log of smoothed relative counts; hard zeros and rows without any count are kept."""
    smoothed = (counts + pseudocount).masked_fill(logits == -torch.inf, 0.0)
    total = smoothed.sum(dim=-1, keepdim=True)
    return torch.where(total > 0, (smoothed / total).log(), logits)


def _refuse_mixed_ties(steps: list[InputStep]) -> None:
    """EM counts per layer, so all parameters of a layer must be tied alike, in one step only."""
    used: set[int] = set()
    for step in steps:
        reads = list(step.parameters.values())
        alike = all(_same_rows(read, reads[0]) for read in reads)
        if not alike or used & {read.bank for read in reads}:
            raise StructureError(
                f"EM cannot update {step.family}: its parameters are tied in different ways"
            )
        used |= {read.bank for read in reads}


def _same_rows(a: BankRead, b: BankRead) -> bool:
    if isinstance(a.rows, slice) or isinstance(b.rows, slice):
        return (
            a.rows == b.rows if isinstance(a.rows, slice) and isinstance(b.rows, slice) else False
        )
    return torch.equal(a.rows, b.rows)
