"""Expected counts: what one pass up and down says about every parameter, and what follows from it.

What a row says nothing about is not counted: neither at the inputs of variables that are missing
nor at sums below which nothing is known, whose flow is the model's own opinion.

Legend: F folds, B batch, D variables, V categories, K units, J units read by a sum, P parameters of
a bank, R rows of an arena, S statistics.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import Tensor

from pcflow.engine import (
    BankRead,
    BankSums,
    DensityLeaf,
    FiniteLeaf,
    InputStep,
    Leaf,
    Shares,
    Tables,
    share_of,
    told_below,
)
from pcflow.errors import EvidenceError, StructureError, TypeMismatch
from pcflow.evidence import CheckedEvidence, send
from pcflow.inputs import DensityFamily, FiniteFamily, InputFamily
from pcflow.learn.batch import Batch, Model, totals
from pcflow.learn.categories import ALL, Block, CategoryCounts, blocks, of
from pcflow.learn.spread import both, by_row, seen, spread, together, unseen
from pcflow.learn.team import Team
from pcflow.queries import never

Smoothing = Callable[[int], float]
"""What is added to every count of a distribution over so many values."""

Rule = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Takes what a unit counts if it is used once as it is, what was counted, and the total of that."""


class Counts:
    """Expected counts of every parameter of a model.

    Attributes:
        weights: flows of weights by bank [P, K, J].
        categories: of finite input families, counts of every category; this and the following are
            each under the first bank of the family.
        flows: of input densities, the whole flow [P, K].
        statistics: of input densities, their tallies [P, S, K].
        columns: what was met of every variable [3, D], see `spread`; of input densities only.
        met: sums over the rows that were added, of weighted log-likelihoods and of weights.
        told: by width, the weight of all rows that know something about a fold [R].
        telling: the weight of all rows that know something, [1].
        of_differences: whether these are counts of evidence less counts of what is given.
    """

    def __init__(self, model: Model) -> None:
        """Start with nothing."""
        self.engine = model.engine.counting
        self.steps = [s for s in self.engine.plan.steps if isinstance(s, InputStep)]
        self.kinds = _input_kinds(self.steps)
        self.has_densities = any(isinstance(family, DensityFamily) for family, _ in self.kinds)
        self.weights, self.flows, self.statistics = (BankSums(self.engine.plan) for _ in range(3))
        self.categories = CategoryCounts(self.engine.plan)
        self.met = torch.zeros(2, dtype=torch.float64)
        self.columns = unseen(model.num_variables)
        self.telling = torch.zeros(1, dtype=torch.float64)
        like, arenas = self.engine.tables.like, self.engine.plan.arenas
        self.told = {width: like.new_zeros(rows) for width, rows in arenas.items()}
        self.of_differences = False

    @property
    def sums(self) -> tuple[BankSums, ...]:
        """All of them, but for categories."""
        return self.weights, self.flows, self.statistics

    def add(self, batch: Batch) -> None:
        """Add the counts of what is evidence less those of what is given, by weight.

        Raises:
            EvidenceError: if rows have features or parameters, of which counts know nothing.
        """
        if batch.features is not None:
            raise EvidenceError("EM takes no features (learn what depends on them by Gradient)")
        weight = batch.weights.to(self.engine.tables.like)
        evidence = self.engine.check(batch.evidence).of_shared("a learner that counts")
        self.telling += _telling(evidence, batch.weights)
        if self.has_densities:
            self.columns = both(self.columns, seen(evidence, weight))
        self.met += self._add(batch, evidence, evidence.told, weight)
        if batch.given is not None:
            self.of_differences = True
            given = self.engine.check(batch.given).of_shared("a learner that counts")
            self.met[0] += self._add(batch, given, evidence.told, -weight, given=True)[0]
        if batch.offset is not None:
            self.met[0] += totals(batch.offset, weight)[0]

    def _add(
        self,
        batch: Batch,
        evidence: CheckedEvidence,
        told: Tensor | None,
        weight: Tensor,
        given: bool = False,
    ) -> Tensor:
        """Add counts where something is told; the sums of log-values and of weights, [2]."""
        met = torch.zeros(2, dtype=torch.float64)
        there = None if told is None else send(told, weight.device).to(weight)  # [B, D]
        for part in self.engine.parts(evidence):
            evaluation = self.engine.evaluate(part)
            why = partial(never, self.engine, part)
            batch.refuse_impossible(evaluation.log_value, part.origin, why)
            flow = _of_part(weight, part)
            shares = None if there is None else told_below(self.engine.plan, _of_part(there, part))
            evaluation.down(flow, self.at_leaf, self.at_weights, shares)
            if not given:
                self._tell(shares, flow)
            met += totals(evaluation.log_value, flow)
        return met

    def at_weights(self, read: BankRead, flow: Tensor, tables: Tables) -> None:
        """Add the flow of weights."""
        self.weights.add(read, flow)

    def _tell(self, shares: Shares | None, weight: Tensor) -> None:
        """Add the weights [B] of rows that know something, fold by fold."""
        for width, told in self.told.items():
            told += weight.sum() if shares is None else shares[width] @ weight

    def gather(self, team: Team) -> None:
        """Add the counts of all processes."""
        found = [*(sums.found for sums in self.sums), self.told]
        counts = [numbers[key] for numbers in found for key in sorted(numbers)]
        team.add_up([self.met, self.telling, *counts])
        self.categories.gather(team)
        if self.has_densities:
            places = torch.arange(self.columns.shape[1])
            self.columns = together(self.columns, places, len(places), team)

    def change(self, rule: Rule) -> None:
        """Put in place of what every unit counted what a rule makes of it."""
        tables, weights, flows = self.engine.tables, self.weights.found, self.flows.found
        for bank, flow in weights.items():
            weights[bank] = rule(tables.linear(bank), flow, flow.sum(dim=-1, keepdim=True))
        for family, named in self.kinds:
            if isinstance(family, DensityFamily):
                first, params = next(iter(named.values())), self.params(named)
                statistics, total = self.statistics.found, flows[first].unsqueeze(-2)  # [P, 1, K]
                statistics[first] = rule(family.moments(params), statistics[first], total)
                flows[first] = rule(torch.ones_like(flows[first]), flows[first], flows[first])
        before = self.categories.flow

        def changed(bank: int, block: Block) -> Tensor:
            flow = before(bank, block)
            return rule(self.table(bank, block), flow, flow.sum(dim=-2, keepdim=True))

        self.categories.flow = changed

    def table(self, first: int, block: Block) -> Tensor:
        """Probabilities [p, V, k] of a block of finite units, of a kind with this first bank."""
        family, named = next(kind for kind in self.kinds if first in kind[1].values())
        assert isinstance(family, FiniteFamily)
        return family.table(self.params(named, block))

    def maximize(self, smoothing: Smoothing, alike: float = 0.0) -> None:
        """Give the model the parameters that fit these counts, smoothed.

        Frozen ones are kept, and those of units of which nothing was counted.

        Args:
            smoothing: what is added to counts.
            alike: stands for the spread of columns whose values were all alike.
        """
        banks = self.engine.tables.banks
        for bank, flow in self.weights.found.items():
            if banks[bank].requires_grad:
                added = smoothing(flow.shape[-1])
                banks[bank].copy_(_normalise(flow, banks[bank], added))
        for family, named in self.kinds:
            if isinstance(family, DensityFamily):
                found = self._maximize(family, named, smoothing(1), alike)
                self._put(named, ALL, found)
                continue
            assert isinstance(family, FiniteFamily)
            for block in blocks(self.params(named), self.engine.plan.machine):
                params = self.params(named, block)
                flow = self.categories.flow(first_of(named), block)
                values = 1 if family.logits is None else flow.shape[-2]  # a table that is free
                found = family.maximize(params, flow, smoothing(values))
                self._put(named, block, _kept(found, params, flow))

    def _maximize(
        self, family: DensityFamily, named: dict[str, int], pseudocount: float, alike: float
    ) -> dict[str, Tensor]:
        params, first = self.params(named), first_of(named)
        flow, statistics = self.flows.found[first], self.statistics.found[first]
        found = family.maximize(params, flow, statistics, pseudocount)
        width = spread(by_row(self.columns, self.steps, first, len(flow)))
        width = width.masked_fill(width == 0, alike).to(flow).unsqueeze(-1)  # [P, 1]
        return family.floored(found, width, params)

    def params(self, named: dict[str, int], block: Block = ALL) -> dict[str, Tensor]:
        """Present parameters of a block of a family, by name."""
        banks = self.engine.tables.banks
        return {n: of(banks[bank].detach(), block).contiguous() for n, bank in named.items()}

    def _put(self, named: dict[str, int], block: Block, params: dict[str, Tensor]) -> None:
        """Write parameters that are not frozen."""
        for name, value in params.items():
            bank = self.engine.tables.banks[named[name]]
            if bank.requires_grad:
                of(bank, block).copy_(value)

    def at_leaf(self, leaf: Leaf, slope: Tensor) -> None:
        """Add up what the family needs."""
        read = next(iter(leaf.step.parameters.values()), None)
        if read is None:
            return
        if isinstance(leaf, DensityLeaf):
            flow, statistics = self.of_density(leaf, slope)
            self.flows.add(read, flow)
            self.statistics.add(read, statistics)
        else:
            assert isinstance(leaf, FiniteLeaf)
            self.of_categories(read, leaf, slope)

    def of_density(self, leaf: DensityLeaf, slope: Tensor) -> tuple[Tensor, Tensor]:
        """Per fold the whole flow [F, K] and the statistics [F, S, K]."""
        return leaf.counts(slope)

    def of_categories(self, read: BankRead, leaf: FiniteLeaf, slope: Tensor) -> None:
        """Add what the leaf counts."""
        self.categories.add(read, leaf, slope)


class PriorCounts(Counts):
    """What a row of which nothing is known would count: top-down probabilities times parameters.

    Args:
        model: whose parameters they are.
        shares: of one row, how much of it counts at every fold; all by default.

    Attributes:
        units: flows of finite input units by the first bank of their family [P, K].
    """

    def __init__(self, model: Model, shares: Shares | None = None) -> None:
        """Count one such row."""
        super().__init__(model)
        self.shares, self.units = shares, BankSums(self.engine.plan)
        self.categories.flow = self._expected
        evaluation = self.engine.evaluate(self.engine.nothing())
        flow = torch.ones_like(evaluation.log_value)
        evaluation.down(flow, self.at_leaf, self.at_weights, shares)

    def of_density(self, leaf: DensityLeaf, slope: Tensor) -> tuple[Tensor, Tensor]:
        """Flow, and flow times expected statistics."""
        assert isinstance(leaf.step.family, DensityFamily)
        flow = self._flow(leaf, slope)
        moments = leaf.step.family.moments(leaf.params())  # [F or 1, S, K]
        return flow, flow.unsqueeze(-2) * moments

    def of_categories(self, read: BankRead, leaf: FiniteLeaf, slope: Tensor) -> None:
        """Add the flow of units, which becomes counts when these are asked for."""
        flow = self._flow(leaf, slope)
        self.units.add(read, flow.sum(dim=0, keepdim=True) if not leaf.sets.by_fold else flow)

    def _expected(self, bank: int, block: Block) -> Tensor:
        """Flow times probabilities."""
        return of(self.units.found[bank], block).unsqueeze(-2) * self.table(bank, block)

    def _flow(self, leaf: Leaf, slope: Tensor) -> Tensor:
        """What counts of the flow of input units [F, K]."""
        flow = leaf.semiring.flow(leaf.out.units, slope)
        return (flow if self.shares is None else flow * share_of(self.shares, leaf.step)).sum(dim=1)


def first_of(named: dict[str, int]) -> int:
    """The first bank of a family."""
    return next(iter(named.values()))


def _normalise(counts: Tensor, logits: Tensor, pseudocount: float) -> Tensor:
    """Log of smoothed relative counts; hard zeros and rows without any count are kept."""
    smoothed = (counts + pseudocount).masked_fill(logits == -torch.inf, 0.0)
    relative = smoothed / smoothed.sum(dim=-1, keepdim=True)
    return torch.where(counts.sum(dim=-1, keepdim=True) > 0, relative.log(), logits)


def _kept(found: dict[str, Tensor], params: dict[str, Tensor], flow: Tensor) -> dict[str, Tensor]:
    """What was found [P, ..., k], but for units that have no flow [P, V, k]."""
    used = flow.sum(dim=-2) > 0  # [P, k]
    if used.all():
        return found
    return {
        name: torch.where(used if p.dim() == 2 else used.unsqueeze(-2), found[name], p)
        for name, p in params.items()
    }


def _telling(evidence: CheckedEvidence, weight: Tensor) -> Tensor:
    """The weight of rows that know something, [1] in double."""
    told, weight = evidence.told, weight.double().cpu()
    return (weight if told is None else weight[told.any(dim=1)]).sum(dim=0, keepdim=True)


def _of_part(rows: Tensor, part: CheckedEvidence) -> Tensor:
    return rows if part.origin is None else rows[part.origin]


def refuse_half_frozen(model: Model) -> None:
    """Raise if counting would learn parameters of input units that depend on frozen ones.

    Raises:
        StructureError: naming both.
    """
    plan, banks = model.engine.plan, model.engine.tables.banks
    for family, named in _input_kinds(s for s in plan.steps if isinstance(s, InputStep)):
        learned = {name for name, bank in named.items() if banks[bank].requires_grad}
        if learned - family.separate and learned != named.keys():
            frozen = ", ".join(sorted(named.keys() - learned))
            raise StructureError(
                f"{', '.join(sorted(learned))} of {family} cannot be counted while {frozen} is "
                "frozen: freeze all of them, or learn by Gradient"
            )


def refuse_more_than_a_circuit(model: Model) -> None:
    """Raise if there are parameters that counting would leave as they are.

    Raises:
        TypeMismatch: if there is a network beside the circuit, learning or not.
    """
    counted = {id(bank) for bank in model.engine.tables.banks}
    if any(id(p) not in counted for p in model.parameters()):
        wanted = "a circuit alone (with a network beside it, learn by Gradient)"
        raise TypeMismatch("model", model, wanted)


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
    if isinstance(a.rows, Tensor) and isinstance(b.rows, Tensor):
        return torch.equal(a.rows, b.rows)
    return type(a.rows) is type(b.rows) and a.rows == b.rows
