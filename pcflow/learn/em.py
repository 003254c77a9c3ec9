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
from pcflow.inputs import DensityFamily, FiniteFamily, InputFamily
from pcflow.leaves import DensityLeaf, FiniteLeaf, Leaf
from pcflow.plan import BankRead, InputStep
from pcflow.queries import refuse_impossible
from pcflow.tables import BankSums


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

    wants_weights = True

    def __init__(self, model: CompiledCircuit) -> None:
        self.engine = model.engine
        self.weights = BankSums(self.engine.plan)
        self.kinds = _input_kinds(s for s in self.engine.plan.steps if isinstance(s, InputStep))
        # of inputs, what `_leaf_counts` finds, kept under the first bank of the family
        self.inputs = [BankSums(self.engine.plan) for _ in range(2)]

    def add(self, x: Tensor) -> Tensor:
        """Add the counts of some rows; returns their log-likelihoods [B]."""
        found = []
        for part in self.engine.parts(self.engine.check(x)):
            evaluation = self.engine.evaluate(part)
            refuse_impossible(evaluation.log_value, "fit", part)
            evaluation.down(torch.ones_like(evaluation.log_value), self)
            found.append(evaluation.log_value)
        return torch.cat(found)

    def write(self, pseudocount: float) -> None:
        """Replace the parameters by smoothed relative counts."""
        banks = self.engine.tables.banks
        for bank, weights in self.weights.found.items():
            banks[bank].copy_(_normalise(weights, banks[bank], pseudocount))
        for family, named in self.kinds:
            for name, value in self._maximize(family, named, pseudocount).items():
                banks[named[name]].copy_(value)

    def at_weights(self, read: BankRead, flow: Tensor) -> None:
        """Add up."""
        self.weights.add(read, flow)

    def at_leaf(self, leaf: Leaf, slope: Tensor) -> None:
        """Add up what the family needs."""
        if leaf.step.parameters:
            read = next(iter(leaf.step.parameters.values()))
            for sums, counts in zip(self.inputs, _leaf_counts(leaf, slope), strict=False):
                sums.add(read, counts)

    def _maximize(
        self, family: InputFamily, named: dict[str, int], pseudocount: float
    ) -> dict[str, Tensor]:
        params = {name: self.engine.tables.banks[bank].detach() for name, bank in named.items()}
        first = next(iter(named.values()))
        if isinstance(family, DensityFamily):
            weight, statistics = (sums.found[first] for sums in self.inputs)
            return family.maximize(params, weight, statistics, pseudocount)
        assert isinstance(family, FiniteFamily)
        return family.maximize(params, self.inputs[0].found[first], pseudocount)


def _leaf_counts(leaf: Leaf, slope: Tensor) -> list[Tensor]:
    """Per fold: of a finite family its counts, of a density total flow and statistics."""
    if isinstance(leaf, DensityLeaf):
        return list(leaf.counts(slope))
    assert isinstance(leaf, FiniteLeaf)
    return [leaf.counts(slope)]


def _normalise(counts: Tensor, logits: Tensor, pseudocount: float) -> Tensor:
    """Log of smoothed relative counts; hard zeros and rows without any count are kept."""
    smoothed = (counts + pseudocount).masked_fill(logits == -torch.inf, 0.0)
    total = smoothed.sum(dim=-1, keepdim=True)
    return torch.where(total > 0, (smoothed / total).log(), logits)


def _input_kinds(steps: Iterable[InputStep]) -> list[tuple[InputFamily, dict[str, int]]]:
    """Families with the banks of their parameters, by name.

    EM counts per layer, so all parameters of a layer must be tied alike.
    """
    kinds: dict[int, tuple[InputFamily, dict[str, int]]] = {}
    for step in steps:
        reads = list(step.parameters.values())
        kind = step.family, {name: read.bank for name, read in step.parameters.items()}
        alike = all(_same_rows(read, reads[0]) for read in reads)
        if not alike or any(kinds.setdefault(read.bank, kind) != kind for read in reads):
            raise StructureError(
                f"EM cannot update {step.family}: its parameters are tied in different ways"
            )
    return [kind for bank, kind in kinds.items() if bank == next(iter(kind[1].values()))]


def _same_rows(a: BankRead, b: BankRead) -> bool:
    if isinstance(a.rows, slice) or isinstance(b.rows, slice):
        return (
            a.rows == b.rows if isinstance(a.rows, slice) and isinstance(b.rows, slice) else False
        )
    return torch.equal(a.rows, b.rows)
