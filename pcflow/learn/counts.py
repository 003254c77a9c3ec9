"""Expected counts: what one pass up and down says about every parameter, and what follows from it.

What a row says nothing about is not counted: neither at the inputs of variables that are missing
nor at sums below which nothing is known, whose flow is the model's own opinion.

Legend: F folds, B batch, D variables, V categories, K units, J units read by a sum, P parameters of
a bank, R rows of an arena, S statistics.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import pairwise

import torch
from torch import Tensor

from pcflow.engine import (
    BankRead,
    BankSums,
    DensityLeaf,
    Engine,
    FiniteLeaf,
    InputStep,
    Leaf,
    Normalizer,
    Shares,
    SumStep,
    Tables,
    expected_flows,
    share_of,
    told_below,
)
from pcflow.errors import EvidenceError, StructureError, TypeMismatch
from pcflow.evidence import CheckedEvidence, send
from pcflow.inputs import DensityFamily, FiniteFamily, InputFamily, Params, log_shares, smoothed
from pcflow.learn.batch import Batch, Model, totals
from pcflow.learn.categories import ALL, EVERY, Block, CategoryCounts, blocks, by_rows, of
from pcflow.learn.spread import both, by_row, seen, spread, together, unseen
from pcflow.learn.team import Team
from pcflow.queries import never

Smoothing = Callable[[int], float]
"""What is added to every count of a distribution over so many values."""


@dataclass(frozen=True)
class Rule:
    """What is to be counted, in place of what was.

    Attributes:
        counts: of a block of a bank [p, V, k], which may be written over; V being the inputs of a
            sum or the values of an input.
        of_all: whether every unit of a bank is sure to count something.
    """

    counts: Callable[[int, Block], Tensor]
    of_all: Callable[[int], bool]


class Layout:
    """What of a circuit is counted, looked up once.

    Attributes:
        steps: of input units.
        sums: all steps of sums.
        kinds: families with the banks of their parameters, by name.
        kind: the same of a finite family, by its first bank.
    """

    def __init__(self, engine: Engine) -> None:
        """Look.

        Raises:
            StructureError: if parameters are tied in a way that counting cannot respect.
        """
        self.engine, self.plan = engine, engine.plan
        self.steps = [s for s in self.plan.steps if isinstance(s, InputStep)]
        self.sums = [s for s in self.plan.steps if isinstance(s, SumStep)]
        self.kinds = _input_kinds(self.steps)
        self.has_densities = any(isinstance(family, DensityFamily) for family, _ in self.kinds)
        self.kind: dict[int, tuple[FiniteFamily, dict[str, int]]] = {}
        for family, named in self.kinds:
            if isinstance(family, FiniteFamily):
                self.kind[first_of(named)] = family, named

    @cached_property
    def _by_rows(self) -> dict[int, dict[tuple[int, int], InputStep]]:
        """By first bank, steps by the rows that they read, from where to where, if all lie so."""
        found: dict[int, dict[tuple[int, int], InputStep]] = {first: {} for first in self.kind}
        crossed = set()
        for step in self.steps:
            for read in step.parameters.values():
                if isinstance(read.rows, slice) and read.bank in found:
                    found[read.bank][read.rows.start, read.rows.stop] = step
                else:
                    crossed.add(read.bank)
        for first, rows in found.items():
            if first in crossed or any(a[1] > b[0] for a, b in pairwise(sorted(rows))):
                found[first] = {}
        return found

    def blocks(self, first: int, params: Params) -> Iterator[Block]:
        """Blocks of the parameters of a finite family, none across steps."""
        ranges = [slice(*rows) for rows in sorted(self._by_rows[first])]
        return blocks(params, self.plan.machine, ranges or None)

    def read(self, first: int, block: Block) -> tuple[InputStep, Block] | None:
        """The step that reads a block, and as which block of its own; None if several do."""
        some = block.parameters
        for (start, stop), step in self._by_rows[first].items():
            if start <= some.start and some.stop <= stop:
                here = slice(some.start - start, some.stop - start)
                return step, block._replace(parameters=here)
        return None


class Counts:
    """Expected counts of every parameter of a model.

    Args:
        layout: what is counted.

    Attributes:
        weights: flows of weights by bank [P, K, J].
        categories: of finite input families, counts of every category; this and the following are
            each under the first bank of the family.
        flows: of input densities, the whole flow [P, K].
        statistics: of input densities, their tallies [P, S, K].
        columns: what was met of every variable [3, D], see `spread`; of input densities only.
        met: sums over the rows that were added, of weighted log-likelihoods and of weights.
        telling: the weight of all rows that know something, [1].
        of_differences: whether these are counts of evidence less counts of what is given.
    """

    def __init__(self, layout: Layout) -> None:
        """Start with nothing."""
        self.layout, self.engine, plan = layout, layout.engine, layout.plan
        self.kinds, self.has_densities = layout.kinds, layout.has_densities
        sums = [BankSums(plan, self.engine.tables.pages) for _ in range(4)]
        self.weights, self.flows, self.statistics, dense = sums
        self.categories = CategoryCounts(plan, dense)
        self.met = torch.zeros(2, dtype=torch.float64)
        self.columns = unseen(plan.num_variables)
        self.telling = torch.zeros(1, dtype=torch.float64)
        self.everywhere = self.engine.tables.like.new_zeros(())
        self.of_differences = False
        self._tables: dict[InputStep, Tensor | Normalizer | None] = {}
        self._totals: dict[int, Tensor] = {}

    @property
    def sums(self) -> tuple[BankSums, ...]:
        """All of them, but for categories."""
        return self.weights, self.flows, self.statistics

    @cached_property
    def told(self) -> dict[int, Tensor]:
        """By width, the weight of all rows that know something about a fold [R].

        Without that of rows that know something `everywhere`.
        """
        like, arenas = self.engine.tables.like, self.layout.plan.arenas
        return {width: like.new_zeros(rows) for width, rows in arenas.items()}

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
        place = self.weights.place(read, flow.shape[1:], flow)
        if place is None:
            self.weights.add(read, flow)
        else:
            place.copy_(flow)

    def _tell(self, shares: Shares | None, weight: Tensor) -> None:
        """Add the weights [B] of rows that know something, fold by fold."""
        if shares is None:
            self.everywhere += weight.sum()
            return
        for width, told in self.told.items():
            told += shares[width] @ weight

    def gather(self, team: Team) -> None:
        """Add the counts of all processes."""
        if not team.together:
            return
        found = [*(sums.found for sums in self.sums), self.told]
        counts = [numbers[key] for numbers in found for key in sorted(numbers)]
        team.add_up([self.met, self.telling, self.everywhere, *counts])
        self.categories.gather(team)
        if self.has_densities:
            places = torch.arange(self.columns.shape[1])
            self.columns = together(self.columns, places, len(places), team)

    def counted(self, bank: int, block: Block) -> Tensor:
        """What was counted of a block of a bank: see `Rule`."""
        weights = self.weights.found.get(bank)
        return self.categories.counted(bank, block) if weights is None else of(weights.mT, block)

    def total(self, bank: int) -> Tensor:
        """What every unit of a finite family has counted [P, K]."""
        if bank not in self._totals:
            self._totals[bank] = self.categories.total(bank)
        return self._totals[bank]

    def upon(self, bank: int, sums: Tensor, momentum: float, block: Block) -> None:
        """Let sums [p, V, k] of a block of a bank fade, and add to them what it has counted."""
        weights = self.weights.found.get(bank)
        if weights is None:
            self.categories.upon(bank, sums, momentum, block)
        else:
            torch.add(of(weights.mT, block), sums, alpha=momentum, out=sums)

    def weighed(self, bank: int, block: Block, times: Tensor) -> Tensor:
        """The present probabilities [p, V, k] of a block, of sums or of inputs by the first bank.

        Every unit times a number of [p, 1, k]. As the pass left them, or else by the parameters of
        the block alone: others may already have moved.
        """
        tables = self.engine.tables
        if bank in self.weights.found:
            linear = tables.kept_weights(bank)
            if linear is not None:
                return of(linear.mT, block) * times
            return torch.softmax(of(tables.banks[bank].detach().mT, block), dim=-2).mul_(times)
        read = self.layout.read(bank, block)
        if read is not None:
            step, here = read
            found = self._table_of(step, block.rows != EVERY)
            if isinstance(found, Normalizer):
                return found.weighed(here, times)
            if found is not None:
                return of(found, here) * times
        family, named = self.layout.kind[bank]
        return family.table(self.params(named, block)) * times

    def _table_of(self, step: InputStep, cut: bool) -> Tensor | Normalizer | None:
        """Probabilities of a step, or what makes them of logits; None if the pass has left neither.

        If blocks are `cut` through units, this is found before the first of them is written over.
        """
        if step not in self._tables:
            tables = self.engine.tables
            normalizer = tables.normalizer if cut else tables.kept_normalizer
            kept = tables.kept_table(step)
            self._tables[step] = normalizer(step) if kept is None else kept
        return self._tables[step]

    def maximize(self, rule: Rule, smoothing: Smoothing, alike: float = 0.0) -> None:
        """Give the model the parameters that fit counts, smoothed.

        Frozen ones are kept, and those of units of which nothing was counted.

        Args:
            rule: what is to be counted, in place of what was.
            smoothing: what is added to counts.
            alike: stands for the spread of columns whose values were all alike.
        """
        for bank in self.weights.found:
            self._maximize_sums(bank, rule, smoothing)
        for family, named in self.kinds:
            if isinstance(family, DensityFamily):
                found = self._maximize_density(family, named, smoothing(1), alike)
                self._put(named, ALL, found)
                continue
            assert isinstance(family, FiniteFamily)
            first, free = first_of(named), family.logits is not None
            added = smoothing(family.num_categories if free else 1)
            if free and self._goes_by_rows(first, rule):
                self._maximize_rows(first, rule, added)
                continue
            for block in self.layout.blocks(first, self.params(named)):
                params, flow = self.params(named, block), rule.counts(first, block)
                found = family.maximize(params, flow, added)
                self._put(named, block, _kept(found, params, flow))

    def _goes_by_rows(self, bank: int, rule: Rule) -> bool:
        """Whether a unit is too large for a cache, and sure to move."""
        parameter = self.engine.tables.banks[bank]
        is_large = parameter[:1].numel() > self.layout.plan.machine.numbers
        if not (is_large and parameter.requires_grad and parameter.is_contiguous()):
            return False
        each = (Block(slice(number, number + 1)) for number in range(len(parameter)))
        return all(self.layout.read(bank, one) for one in each) and rule.of_all(bank)

    def _maximize_rows(self, bank: int, rule: Rule, added: float) -> None:
        """Of free tables [P, V, K] as they lie in memory: write shares, and divide them then."""
        logits = self.engine.tables.banks[bank].detach()
        total = logits.new_zeros(len(logits), 1, logits.shape[-1])
        parts = list(by_rows(logits, self.layout.plan.machine))
        for block in parts:
            some = of(logits, block)
            smoothed(rule.counts(bank, block), some, added, out=some)
            total[block.parameters] += some.sum(dim=-2, keepdim=True)
        for block in parts:
            of(logits, block).div_(total[block.parameters]).log_()

    def _maximize_sums(self, bank: int, rule: Rule, smoothing: Smoothing) -> None:
        weights = self.engine.tables.banks[bank]
        if not weights.requires_grad:
            return
        logits, added = weights.detach().mT, smoothing(weights.shape[-1])  # [P, J, K]
        for block in blocks({"": logits}, self.layout.plan.machine):
            some, flow = of(logits, block), rule.counts(bank, block)
            found = {"": log_shares(flow, some, added)}
            some.copy_(_kept(found, {"": some}, flow)[""])

    def _maximize_density(
        self, family: DensityFamily, named: dict[str, int], pseudocount: float, alike: float
    ) -> dict[str, Tensor]:
        params, first = self.params(named), first_of(named)
        flow, statistics = self.flows.found[first], self.statistics.found[first]
        found = family.maximize(params, flow, statistics, pseudocount)
        width = spread(by_row(self.columns, self.layout.steps, first, len(flow)))
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
            flow, statistics = leaf.counts(slope)
            self.flows.add(read, flow)
            self.statistics.add(read, statistics)
        else:
            assert isinstance(leaf, FiniteLeaf)
            self.categories.add(read, leaf, slope)


def expected_units(layout: Layout, shares: Shares) -> dict[int, Tensor]:
    """How often a row of which nothing is known would use units, times how much of it counts.

    Args:
        layout: of the model.
        shares: at every fold.

    Returns:
        By bank of weights, and by the first bank of every input family, [P, K].
    """
    sums = BankSums(layout.plan, layout.engine.tables.pages)
    if _by_halves(layout.engine, shares, sums):
        return sums.found
    flows = expected_flows(layout.plan, layout.engine.tables)
    counted = {width: flow * shares[width] for width, flow in flows.items()}
    for step in layout.sums:
        sums.add(step.weight, counted[step.units][step.out])
    for leaf in layout.steps:
        for read in list(leaf.parameters.values())[:1]:
            sums.add(read, counted[leaf.units][leaf.out])
    return sums.found


def _by_halves(engine: Engine, shares: Shares, units: BankSums) -> bool:
    """Add the same of a long chain of few states, level by level; False if it is none."""
    chain = engine.by_halves(engine.nothing())
    if chain is None:
        return False

    def at_leaf(leaf: Leaf, slope: Tensor) -> None:
        flow = leaf.semiring.flow(leaf.out.units, slope) * share_of(shares, leaf.step)
        for read in list(leaf.step.parameters.values())[:1]:
            units.add(read, flow.sum(dim=1))

    def at_weights(read: BankRead, flow: Tensor, tables: Tables) -> None:
        units.add(read, flow.sum(dim=-1))

    chain.down(torch.ones_like(chain.log_value), at_leaf, at_weights, shares)
    return True


def first_of(named: dict[str, int]) -> int:
    """The first bank of a family."""
    return next(iter(named.values()))


def _kept(found: dict[str, Tensor], params: dict[str, Tensor], flow: Tensor) -> dict[str, Tensor]:
    """What was found [P, ..., k], but for units that have no flow [P, V, k]."""
    total = flow.sum(dim=-2)  # [P, k]
    if not total.is_cuda and total.amin().item() > 0:  # not to wait for a GPU
        return found
    used = total > 0
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


def refuse_half_frozen(layout: Layout) -> None:
    """Raise if counting would learn parameters of input units that depend on frozen ones.

    Raises:
        StructureError: naming both.
    """
    banks = layout.engine.tables.banks
    for family, named in layout.kinds:
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
