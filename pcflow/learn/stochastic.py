"""Expectation maximisation by mini-batches: Anemone, and the plain kind.

Legend: B batch, K units, P parameters of a bank.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from pcflow.engine import Plan, Shares, floor_of
from pcflow.errors import PropertyRequired, SettingError
from pcflow.inputs import DensityFamily, FiniteFamily
from pcflow.learn.batch import Batch, Model
from pcflow.learn.categories import EVERY, Block, of
from pcflow.learn.checkpoint import must_be_like
from pcflow.learn.counts import Counts, Layout, Rule, Smoothing, expected_units, first_of
from pcflow.learn.em import CountingRun, check_pseudocount
from pcflow.learn.learner import State
from pcflow.learn.spread import both, unseen
from pcflow.learn.team import ALONE, Team

Settings = TypeVar("Settings")

PSEUDOCOUNT = 1e-6
"""Added to every count of a small distribution, of a batch's mean."""

FEW = 1000
"""Values that one has then; more of them get no more in all."""


@dataclass(frozen=True)
class Anemone:
    """Mini-batch EM in which every unit moves as much as it is used (arXiv 2505.19982).

    New parameters are relative counts of a mixture: `step` of the batch's mean flows, and the rest
    of what the model itself expects of a row of which nothing is known, wherever rows say something
    and by the share of those that do. A unit that the batch uses more than the model expects moves
    far, one that it does not use stays.

    Where something is given it learns by two flows: to what the model expects, `step` of the
    difference between the flows of the evidence and those of what is given is added, which is
    the growth transform of extended Baum-Welch (Gopalakrishnan et al. 1991) with the same steps.
    No count falls by more than that share. With potentials of one throughout as what is given it
    is the same as above. Conditional likelihoods may fall: judge by validation data.

    Args:
        step: share of the batch, in (0, 1].
        momentum: of the flows and of how many rows they are of, in [0, 1): every row of a batch
            weighs alike, in a short one too.
        pseudocount: added to every count of the batch's mean, so that its weight is that of the
            batch whatever the step is. Unlike in `EM` it is by row: one row more in N is 1 / N. By
            default 1e-6, but to a distribution over more than 1,000 values a thousandth in all:
            what every one of many values gets adds up.
        decay: let the step fall linearly, to zero at the end of the last epoch.

    Raises:
        SettingError: if a number is out of range.

    Examples:
        >>> import pcflow as pf
        >>> model = pf.compile(pf.hmm(4, states=2, inputs=pf.Categorical(3)))
        >>> x = torch.randint(3, (50, 4))
        >>> result = pf.fit(model, x, pf.Anemone(), epochs=5, batch_size=10, progress=False)
        >>> result.train[0] < result.train[-1]
        True
    """

    step: float = 0.4
    momentum: float = 0.9
    pseudocount: float | None = None
    decay: bool = False
    full_batch = False

    def __post_init__(self) -> None:
        """Check the numbers."""
        _check_step(self.step)
        check_pseudocount(0.0 if self.pseudocount is None else self.pseudocount)
        SettingError.check("momentum", self.momentum, "in [0, 1)", lambda share: 0 <= share < 1)

    def start(self, model: Model, team: Team = ALONE) -> AnemoneRun:
        """Begin to learn the parameters of a model, among the processes of a team.

        Args:
            model: what learns, in place.
            team: the processes that share its batches; this one alone if not given.
        """
        return AnemoneRun(self, model, team)


class BatchRun(CountingRun[Settings]):
    """A run by batches, each of which knows but some of the rows: remembers how columns spread."""

    def __init__(self, learner: Settings, model: Model, team: Team) -> None:
        """Begin with nothing seen."""
        super().__init__(learner, model, team)
        self.columns = unseen(model.num_variables)

    def maximize(self, counts: Counts, rule: Rule, smoothing: Smoothing) -> None:
        """Move the parameters, with floors by all rows so far."""
        if counts.has_densities:
            self.columns = counts.columns = both(self.columns, counts.columns)
        counts.maximize(rule, smoothing)

    def state(self) -> State:
        """What was met of every column."""
        return {"columns": self.columns}

    def restore(self, state: State) -> None:
        """Go on from there."""
        must_be_like(state, self.state(), "learner")
        self.columns = state["columns"]


Sums = list[dict[int, Tensor]]
"""Flows by bank, for every kind of count; and by width the weight of rows that told of a fold."""


class AnemoneRun(BatchRun[Anemone]):
    """Anemone at work on a model: remembers flows, and of how many rows; both fade by momentum."""

    def __init__(self, learner: Anemone, model: Model, team: Team) -> None:
        """Begin with nothing counted."""
        super().__init__(learner, model, team)
        self.rows = 0.0
        self.sums: Sums | None = None  # of the first batch on

    def accepted(self, batch: Batch, counts: Counts) -> Batch:
        """Any, if something is given only where inputs are finite."""
        if batch.given is not None:
            for family, _ in counts.kinds:
                if isinstance(family, DensityFamily):
                    raise PropertyRequired(f"{family} has no two flows: learn by Gradient")
        return batch

    def update(self, counts: Counts, done: float) -> None:
        """Mix smoothed mean flows with those of the prior."""
        learner, rows = self.learner, float(counts.telling[0])
        if rows == 0:  # none tells anything
            return
        step = learner.step * (1 - done if learner.decay else 1.0)
        fading = self._fade(counts)
        self.rows = rows + learner.momentum * self.rows
        assert self.sums is not None
        weights, categories, flows, statistics, told = self.sums
        left = 1.0 if counts.of_differences else 1 - step
        units = expected_units(counts.layout, _shares(told, counts.layout.plan, left))
        mix = partial(_differ, kept=1 - step) if counts.of_differences else _mix
        mix = partial(mix, share=step / self.rows)
        for family, named in counts.kinds:
            if isinstance(family, DensityFamily):
                first = first_of(named)
                moments = units[first].unsqueeze(-2) * family.moments(counts.params(named))
                counts.statistics.found[first] = mix(moments, statistics[first])
                counts.flows.found[first] = mix(units[first], flows[first])

        def mixed(bank: int, block: Block) -> Tensor:
            sums = of(weights[bank].mT if bank in weights else categories[bank], block)
            if bank in fading:
                counts.upon(bank, sums, learner.momentum, block)
            used = of(units[bank], block).unsqueeze(-2)  # [p, 1, k]
            return mix(counts.weighed(bank, block, used), sums)

        def of_all(bank: int) -> bool:
            return bool((units[bank] > floor_of(units[bank].dtype)).all())

        self.maximize(counts, Rule(mixed, of_all), smoothing_by(learner.pseudocount, step))

    def maximize(self, counts: Counts, rule: Rule, smoothing: Smoothing) -> None:
        """Move the parameters, and count the sums from where they are then."""
        real = [(f, named) for f, named in counts.kinds if isinstance(f, DensityFamily)]
        before = [{n: p.clone() for n, p in counts.params(named).items()} for _, named in real]
        super().maximize(counts, rule, smoothing)
        assert self.sums is not None
        _, _, flows, statistics, _ = self.sums
        for (family, named), params in zip(real, before, strict=True):
            first, now = next(iter(named.values())), counts.params(named)
            statistics[first] = family.recentred(statistics[first], flows[first], params, now)

    def _fade(self, counts: Counts) -> frozenset[int]:
        """Let sums fade and add new counts: every row weighs alike, in a short batch too.

        Returns:
            The banks of which this is left to do, block by block as they are learned.
        """
        told = {width: rows + counts.everywhere for width, rows in counts.told.items()}
        found = counts.weights.found, counts.flows.found, counts.statistics.found
        if self.sums is None:
            categories = {b: counts.categories.counted(b).clone() for b in counts.categories}
            new = [{b: flow.clone() for b, flow in one.items()} for one in found]
            self.sums = [new[0], categories, *new[1:], told]
            return frozenset()
        momentum = self.learner.momentum
        weights, categories, *rest, before = self.sums
        for one, sums in zip(found[1:], rest, strict=True):
            for bank, flow in one.items():
                sums[bank] = torch.add(flow, sums[bank], alpha=momentum)
        for width, rows in told.items():
            before[width] = torch.add(rows, before[width], alpha=momentum)
        fading = set(weights) | set(categories)
        banks = counts.engine.tables.banks
        for bank in weights:
            if not banks[bank].requires_grad:  # nobody learns it
                torch.add(found[0][bank], weights[bank], alpha=momentum, out=weights[bank])
                fading.remove(bank)
        return frozenset(fading)

    def state(self) -> State:
        """Sums, and of how many rows."""
        with torch.no_grad():
            so_far = self.sums or _nothing(self.layout)
        # copies: large sums are written over
        sums = [{bank: t.clone() for bank, t in sums.items()} for sums in so_far]
        return super().state() | {"rows": self.rows, "sums": sums}

    def restore(self, state: State) -> None:
        """Go on from there."""
        super().restore(state)
        device = self.model.engine.tables.like.device
        self.rows = state["rows"]
        self.sums = [
            {bank: t.to(device, copy=True) for bank, t in sums.items()} for sums in state["sums"]
        ]


@dataclass(frozen=True)
class MiniBatchEM:
    """EM by batches with one step size for all units (Peharz et al. 2020).

    Every unit that the batch uses moves from its parameters towards the relative counts.

    Args:
        step: how far, in (0, 1].
        pseudocount: added to every relative count of the batch; by default as in `Anemone`.

    Raises:
        SettingError: if a number is out of range.

    Examples:
        >>> import pcflow as pf
        >>> model = pf.compile(pf.hmm(4, states=2, inputs=pf.Categorical(3)))
        >>> x = torch.randint(3, (50, 4))
        >>> result = pf.fit(model, x, pf.MiniBatchEM(), epochs=5, batch_size=10, progress=False)
        >>> result.train[0] < result.train[-1]
        True
    """

    step: float = 0.1
    pseudocount: float | None = None
    full_batch = False

    def __post_init__(self) -> None:
        """Check the numbers."""
        _check_step(self.step)
        check_pseudocount(0.0 if self.pseudocount is None else self.pseudocount)

    def start(self, model: Model, team: Team = ALONE) -> MiniBatchRun:
        """Begin to learn the parameters of a model, among the processes of a team.

        Args:
            model: what learns, in place.
            team: the processes that share its batches; this one alone if not given.
        """
        return MiniBatchRun(self, model, team)


class MiniBatchRun(BatchRun[MiniBatchEM]):
    """Mini-batch EM at work on a model."""

    def update(self, counts: Counts, done: float) -> None:
        """Mix relative counts with present parameters."""
        for family, named in counts.kinds:
            if isinstance(family, DensityFamily):
                first, present = first_of(named), family.moments(counts.params(named))
                flows, statistics = counts.flows.found, counts.statistics.found
                total = flows[first]  # [P, K]
                kept, share = self._shares(total)
                present = present * kept.unsqueeze(-2)
                statistics[first] = present.addcmul_(statistics[first], share.unsqueeze(-2))
                flows[first] = kept.addcmul_(total, share)

        def mixed(bank: int, block: Block) -> Tensor:
            flow = counts.counted(bank, block)
            total = flow.sum(dim=-2) if block.rows == EVERY else of(counts.total(bank), block)
            kept, share = self._shares(total.unsqueeze(-2))
            return counts.weighed(bank, block, kept).addcmul_(flow, share)

        rule = Rule(mixed, of_all=lambda bank: True)
        self.maximize(counts, rule, smoothing_by(self.learner.pseudocount, self.learner.step))

    def _shares(self, total: Tensor) -> tuple[Tensor, Tensor]:
        """Of what is present, and of counts: a step, where anything was counted at all."""
        used, step = total > 0, self.learner.step
        kept = torch.where(used, 1 - step, torch.ones_like(total))
        return kept, torch.where(used, step / total, 0.0)


def _nothing(layout: Layout) -> Sums:
    """Sums of nothing, as large as those of a model."""
    banks, plan = layout.engine.tables.banks, layout.plan
    weights = {step.weight.bank: banks[step.weight.bank] for step in layout.sums}
    categories, flows, statistics = {}, {}, {}
    for family, named in layout.kinds:
        first, parameter = first_of(named), banks[first_of(named)]
        units = parameter.new_zeros(len(parameter), parameter.shape[-1])
        if isinstance(family, FiniteFamily):
            shape = len(units), family.num_categories, units.shape[-1]
            categories[first] = units.new_zeros(shape)
        else:
            assert isinstance(family, DensityFamily)
            params = {name: banks[bank].detach() for name, bank in named.items()}
            flows[first], statistics[first] = units, torch.zeros_like(family.moments(params))
    told = {width: layout.engine.tables.like.new_zeros(rows) for width, rows in plan.arenas.items()}
    nothing = {bank: torch.zeros_like(weight) for bank, weight in weights.items()}
    return [nothing, categories, flows, statistics, told]


def _shares(told: dict[int, Tensor], plan: Plan, left: float) -> Shares:
    """At every fold the share of rows that know something of it, among those that know anything.

    Times what is left of what they count.
    """
    root = plan.steps[-1]
    anything = told[root.units][root.out]  # [1]
    # [R, 1]
    return {width: (rows * (left / anything)).unsqueeze(-1) for width, rows in told.items()}


def smoothing_by(pseudocount: float | None, step: float) -> Smoothing:
    """A pseudocount, or the default, that weighs with the step.

    Examples:
        >>> added = smoothing_by(None, step=0.5)
        >>> added(2) == added(1000) == 5e-7, added(10_000) == 5e-8
        (True, True)
    """
    if pseudocount is None:
        return lambda values: step * PSEUDOCOUNT * min(1.0, FEW / values)
    return lambda values: step * pseudocount


def _check_step(step: float) -> None:
    SettingError.check("step", step, "in (0, 1]", lambda share: 0 < share <= 1)


def _mix(expected: Tensor, flow: Tensor, share: float) -> Tensor:
    """Go a step from expected counts to mean ones of some rows.

    Args:
        expected: what is left of expected counts after the step; may be written over.
        flow: what some rows have counted.
        share: the step, by their number.
    """
    return expected.add_(flow, alpha=share)


def _differ(expected: Tensor, flow: Tensor, share: float, kept: float) -> Tensor:
    """Go a step from expected counts [...], all of them, by a mean difference.

    A difference of counts is at least minus what is given, which is not always what is expected;
    so nothing may fall by more than it would if the evidence did not use it at all.
    """
    least = kept * expected
    found = expected.add_(flow, alpha=share)
    return torch.maximum(found, least, out=found)
