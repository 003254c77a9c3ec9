"""Expected counts: what one pass up and down says about every parameter, and what follows from it.

Legend: F folds, B batch, V categories, K units, J units read by a sum, P parameters of a bank,
S statistics.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from pcflow.engine import BankRead, BankSums, DensityLeaf, FiniteLeaf, InputStep, Leaf
from pcflow.errors import StructureError
from pcflow.evidence import Evidence
from pcflow.inputs import DensityFamily, FiniteFamily, InputFamily
from pcflow.learn.data import Conditional, Team, totals, weight_of
from pcflow.queries import CompiledCircuit, refuse_impossible


class Counts:
    """Expected counts of every parameter of a model.

    Attributes:
        weights: flows of weights by bank [P, K, J].
        inputs: of finite families their counts [P, V, K]; of densities total flow [P, K] and
            flow-weighted statistics [P, S, K]. Each under the first bank of the family.
        met: sums over the rows that were added, of weighted log-likelihoods and of weights.
        of_differences: whether these are counts of evidence less counts of what is given.
    """

    def __init__(self, model: CompiledCircuit) -> None:
        """Start with nothing."""
        self.engine = model.engine
        self.weights = BankSums(self.engine.plan)
        self.kinds = _input_kinds(s for s in self.engine.plan.steps if isinstance(s, InputStep))
        self.inputs = [BankSums(self.engine.plan) for _ in range(2)]
        self.met = torch.zeros(2, dtype=torch.float64)
        self.of_differences = False

    @property
    def sums(self) -> tuple[BankSums, BankSums, BankSums]:
        """All of them."""
        return self.weights, self.inputs[0], self.inputs[1]

    @property
    def mean_log_prob(self) -> float:
        """Of the rows that were added."""
        return float(self.met[0] / self.met[1])

    def add(self, x: Tensor) -> None:
        """Add the counts of some rows."""
        self.met += self._add(x, torch.ones(len(x)))

    def add_difference(self, batch: Conditional) -> None:
        """Add the counts of what is evidence less those of what is given, by weight."""
        self.of_differences = True
        weight = weight_of(batch, self.engine.tables.like.new_empty(len(batch)))
        self.met += self._add(batch.evidence, weight)
        self.met[0] += self._add(batch.given, -weight)[0]
        if batch.offset is not None:
            self.met[0] += totals(batch.offset, weight)[0]

    def _add(self, evidence: Evidence | Tensor, weight: Tensor) -> Tensor:
        """Add counts; returns the sums of log-values and of weights, [2]."""
        met = torch.zeros(2, dtype=torch.float64)
        for part in self.engine.parts(self.engine.check(evidence)):
            evaluation = self.engine.evaluate(part)
            refuse_impossible(evaluation.log_value, "fit", part)
            flow = weight.to(evaluation.log_value)
            flow = flow if part.origin is None else flow[part.origin]
            evaluation.down(flow, self.at_leaf, self.at_weights)
            met += totals(evaluation.log_value, flow)
        return met

    def gather(self, team: Team) -> None:
        """Add the counts of all processes."""
        counts = [sums.found[bank] for sums in self.sums for bank in sorted(sums.found)]
        team.add_up([self.met, *counts])

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
            for sums, counts in zip(self.inputs, self.of_leaf(leaf, slope), strict=False):
                sums.add(read, counts)

    def of_leaf(self, leaf: Leaf, slope: Tensor) -> list[Tensor]:
        """Per fold: of a finite family its counts, of a density total flow and statistics."""
        if isinstance(leaf, DensityLeaf):
            return list(leaf.counts(slope))
        assert isinstance(leaf, FiniteLeaf)
        return [leaf.counts(slope)]

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


class PriorCounts(Counts):
    """What a row of which nothing is known would count: top-down probabilities times parameters."""

    def add_nothing(self) -> None:
        """Count one such row."""
        evaluation = self.engine.evaluate(self.engine.nothing())
        evaluation.down(torch.ones_like(evaluation.log_value), self.at_leaf, self.at_weights)

    def of_leaf(self, leaf: Leaf, slope: Tensor) -> list[Tensor]:
        """Flow times expected statistics."""
        flow = leaf.semiring.flow(leaf.out.units, slope).sum(dim=1)  # [F, K]
        if isinstance(leaf, DensityLeaf):
            assert isinstance(leaf.step.family, DensityFamily)
            moments = leaf.step.family.moments(leaf.params())  # [F or 1, S, K]
            return [flow, flow.unsqueeze(-2) * moments]
        assert isinstance(leaf, FiniteLeaf)
        total = flow.sum(dim=0, keepdim=True) if leaf.access.shared else flow
        return [total.unsqueeze(-2) * leaf.tables.table(leaf.step, in_log_space=False)]


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
