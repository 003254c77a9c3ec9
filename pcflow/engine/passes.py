"""The heart: one pass up and one pass down over the arenas of a plan.

`up` writes the value of every unit, inputs first, and returns a `Tape` of what it wrote. `down`
hands the root's flow down by shares: expected counts, posteriors and gradients are this pass.
`follow` goes down along one chosen input per sum: samples and most probable states are this pass.

Legend: F folds, B batch, K units of the layer, J units read by a sum, C copies, D variables.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from pcflow.engine.descent import GraphDescent, TreeDescent
from pcflow.engine.leaves import GateLeaf, Leaf, make_leaf
from pcflow.engine.memory import Incoming, Pool, Sheet
from pcflow.engine.modes import in_ordinary_modes
from pcflow.engine.plan import BankRead, InputStep, Plan, ProductStep, SumStep
from pcflow.engine.routes import Route
from pcflow.engine.row_tables import tables_of
from pcflow.engine.semiring import Scaled, Semiring, Value, Weight, is_zero
from pcflow.engine.tables import BankSums, Tables
from pcflow.engine.tape import Tape
from pcflow.engine.told import Shares, share_of
from pcflow.evidence import CheckedEvidence


@in_ordinary_modes
def up(
    plan: Plan,
    tables: Tables,
    evidence: CheckedEvidence,
    semiring: Semiring,
    pool: Pool,
    waits: bool = True,
) -> Tape:
    """Evaluate every unit, inputs first.

    Args:
        plan: the steps, on the device of the tables; the lean plan if nobody goes down again.
        tables: weights and input tables that all batches share.
        evidence: checked against the circuit.
        semiring: the arithmetic.
        pool: where the sheet comes from.
        waits: see `Cache.refresh`.
    """
    tables.cache.refresh(waits)
    tables = tables_of(tables, evidence)
    sheet = pool.take(plan, len(evidence.values), tables.like)
    sheet.in_log_space = semiring.in_log_space
    tape = Tape(plan, tables, semiring, pool, sheet, tables.weights(semiring.in_log_space))
    keep = plan is not plan.lean
    marks, here = not (semiring.in_log_space or plan.one_scale), tables.like.device.type == "cpu"
    zeros = marks and (sheet.is_sparse or not here)  # elsewhere one would have to wait for it
    for run in plan.runs:
        if not isinstance(plan.steps[run.start], InputStep):
            key = ("up", semiring.arithmetic, run.start, zeros)
            launch = partial(climb, run, sheet, semiring, tape.weights, zeros)
            tape.recordings.run(key, (tape.weights,), launch)
            continue
        for number in run:
            step = plan.steps[number]
            assert isinstance(step, InputStep)
            tape.leaves[number] = make_leaf(step, tables, evidence, semiring, keep)
            tape.leaves[number].up(sheet.outs[number])
            zeros = zeros or (marks and tape.leaves[number].has_zeros())
    _conclude(tape)
    return tape


def climb(
    run: range, sheet: Sheet, semiring: Semiring, weights: dict[int, Weight], zeros: bool
) -> None:
    """Through a run of sums and products; `zeros` if some of what they read may be exactly zero."""
    for number in run:
        step, out = sheet.plan.steps[number], sheet.outs[number]
        if number in sheet.sparse and _climb_sparsely(number, sheet, semiring, weights):
            continue
        inputs = sheet.inputs(number, step)
        if isinstance(step, ProductStep):
            semiring.product(inputs, out, step.kronecker)
            if zeros:
                out.lowest.masked_fill_(is_zero(out), 1.0)  # exact zeros have lost nothing
        else:
            semiring.sum(inputs, weights[number], out)


def _climb_sparsely(
    number: int, sheet: Sheet, semiring: Semiring, weights: dict[int, Weight]
) -> bool:
    """Through a step of which little may be to do; False if most of it is."""
    if not isinstance(semiring, Scaled):
        return False
    return sheet.sparse[number].write(semiring, weights.get(number))


AtLeaf = Callable[[Leaf, Tensor], None]
"""Takes a leaf, and the slopes [F, B, K] of its units (see `Semiring`); not valid afterwards."""

AtWeights = Callable[[BankRead, Tensor, Tables], None]
"""Takes flows [F, K, J] of the weights that are named, to be kept or edited; and whose these are.

Of weights by row they are [F, B, K, J].
"""


@in_ordinary_modes
def down(
    tape: Tape,
    root_flow: Tensor,
    at_leaf: AtLeaf,
    at_weights: AtWeights | None = None,
    shares: Shares | None = None,
) -> None:
    """Hand `root_flow` [B] down: a sum splits its flow by shares, a product passes it to all.

    With a root flow of one, the flow of a unit or weight is the expected number of times that the
    evidence uses it, and the derivative of the log-value with respect to its logarithm
    (Choi, Vergari, Van den Broeck 2020). The tape must not be one of a lean plan. Of the flow of
    a sum its weights are told a share, if there are `shares`: all of it goes down.
    """
    plan, values = tape.plan, tape.sheet
    shares = None if shares is None else tape.recordings.stay("shares", shares)
    edges = None if at_weights is None else _Edges(tape.tables, tape.semiring, at_weights, shares)
    with tape.lock, tape.pool.lend(plan.lean, values.batch, tape.tables.like) as slopes:
        root, slope = (sheet.root for sheet in (values, slopes))  # [B]
        slope.copy_(tape.semiring.slope(root, root_flow))
        for run in reversed(plan.lean.runs):
            if isinstance(plan.steps[run.start], InputStep):
                for number in reversed(run):
                    at_leaf(tape.leaves[number], slopes.outs[number].units)
            else:
                _hand_down(run, tape, slopes, edges)
    if edges is not None:
        edges.conclude()


def _hand_down(run: range, tape: Tape, slopes: Sheet, edges: _Edges | None) -> None:
    """Through a run of sums and products: recorded, if that is done."""
    values, semiring, weights = tape.sheet, tape.semiring, tape.weights
    if not tape.recordings.on:
        _descend(run, values, slopes, semiring, weights, edges)
        return
    shares = None if edges is None else edges.shares
    key = ("down", semiring.arithmetic, edges is not None, shares is not None, run.start)
    launch: Callable[[], _Kept | None] = partial(_descend, run, values, slopes, semiring, weights)
    if edges is not None:
        launch = partial(_descend_and_keep, run, tape, slopes, shares)
    kept = tape.recordings.run(key, (weights, slopes), launch)
    if edges is not None and kept is not None:
        edges.take(kept)


def _descend(
    run: range,
    values: Sheet,
    slopes: Sheet,
    semiring: Semiring,
    weights: dict[int, Weight],
    edges: _Edges | None = None,
) -> None:
    for number in reversed(run):
        step = slopes.plan.steps[number]
        assert not isinstance(step, InputStep)
        units, slope = values.outs[number].units, slopes.outs[number].units
        inputs = values.inputs(number, values.plan.steps[number])
        into = Incoming(slopes, number, step)
        if isinstance(step, ProductStep):
            semiring.down_product(inputs, semiring.flow(units, slope), step.kronecker, into)
            continue
        semiring.down_sum(inputs, weights[number], units, slope, into)
        if edges is not None:
            edges.meet(number, weights[number], inputs, units, slope)


class _Kept(NamedTuple):
    """What the weights of a run have met: flows of their own, and edges by bank of those tied."""

    flows: list[tuple[BankRead, Tensor]]
    tied: dict[int, Tensor]


def _descend_and_keep(run: range, tape: Tape, slopes: Sheet, shares: Shares | None) -> _Kept:
    flows: list[tuple[BankRead, Tensor]] = []

    def keep(read: BankRead, flow: Tensor, tables: Tables) -> None:
        flows.append((read, flow))

    edges = _Edges(tape.tables, tape.semiring, keep, shares)
    _descend(run, tape.sheet, slopes, tape.semiring, tape.weights, edges)
    return _Kept(flows, edges.tied.found)


class _Edges:
    """What weights meet on the way down, on its way to who asked."""

    def __init__(
        self, tables: Tables, semiring: Semiring, at_weights: AtWeights, shares: Shares | None
    ) -> None:
        self.plan, self.tables, self.semiring = tables.plan, tables, semiring
        self.at_weights, self.shares = at_weights, shares
        self.tied = BankSums(tables.plan, tables.pages, tables.own)

    def meet(
        self, number: int, weight: Weight, xs: list[Value], units: Tensor, slope: Tensor
    ) -> None:
        step = self.plan.steps[number]
        assert isinstance(step, SumStep)
        slope = slope if self.shares is None else slope * share_of(self.shares, step)
        if step.weight.bank in self.plan.untied:
            edges = self.semiring.edges(xs, weight, units, slope, self._room(weight))
            flow = self.semiring.weight_flow(weight.tensor, edges)
            self.at_weights(step.weight, flow, self.tables)
            return
        onto = self.tied.room(step.weight, weight.tensor.shape[1:], weight.tensor)
        room = self._room(weight) if onto is None else onto
        edges = self.semiring.edges(xs, weight, units, slope, room)
        if onto is None:
            self.tied.add(step.weight, edges)

    def _room(self, weight: Weight) -> Tensor | None:
        """Memory for the edges of weights by row; the others have none of their own."""
        if not weight.by_row:
            return None
        by_row = weight.tensor.transpose(0, 1)  # [B, F or 1, K, J]
        return self.tables.pages.take(by_row, by_row.shape).transpose(0, 1)

    def take(self, kept: _Kept) -> None:
        for read, flow in kept.flows:
            self.at_weights(read, flow.clone(), self.tables)  # the next time it is written over
        for bank, found in kept.tied.items():
            self.tied.add(BankRead(bank, slice(0, len(found)), False), found)

    def conclude(self) -> None:
        """Hand over what was added up for weights that several folds share."""
        for bank, edges in self.tied.found.items():
            flow = self.semiring.weight_flow(self.tables.linear(bank), edges)
            self.at_weights(BankRead(bank, slice(0, len(edges)), False), flow, self.tables)


@in_ordinary_modes
def follow(tape: Tape, route: Route, copies: int) -> Tensor:
    """Values [C B, D] found by going down along one input per sum, C times for every row.

    Every variable is reached exactly once, because products are decomposable.
    """
    descent = (TreeDescent if tape.plan.is_tree else GraphDescent)(tape, route, copies)
    runs = tape.plan.runs if descent.batch else ()  # without rows there is nothing to choose
    for run in reversed(runs):
        if isinstance(tape.plan.steps[run.start], InputStep):
            for number in reversed(run):
                if not isinstance(tape.leaves[number], GateLeaf):  # which has no values
                    descent.leaf(number)
        else:
            descent.go_through(run)
    return descent.values.t().contiguous()


def _conclude(tape: Tape) -> None:
    """Read the root's log-value, and the smallest unit that could have underflowed."""
    units = tape.sheet.root  # [B]
    if tape.semiring.in_log_space:
        tape.log_value = tape.lowest = units.clone()
        return
    scale, lowest = tape.sheet.scale, tape.sheet.lowest
    tape.log_value = (units.log() + scale).to(units.dtype)
    tape.lowest = torch.minimum(units, lowest.amin(dim=0)) if len(lowest) else units.clone()
    tape.lowest.masked_fill_(scale == -torch.inf, 1.0)  # exact zeros have lost nothing
    for leaf in tape.leaves.values():
        if leaf.dead is not None:
            tape.lowest = tape.lowest.masked_fill(leaf.dead, 0.0)
