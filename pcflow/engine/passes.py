"""The heart: one pass up and one pass down over the arenas of a plan.

`up` writes the value of every unit, inputs first, and returns a `Tape` of what it wrote. `down`
hands the root's flow down by shares: expected counts, posteriors and gradients are this pass.
`follow` goes down along one chosen input per sum: samples and most probable states are this pass.

Legend: F folds, B batch, K units of the layer, J units read by a sum, C copies, D variables.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pcflow.engine.descent import GraphDescent, TreeDescent
from pcflow.engine.kernels import add_rows
from pcflow.engine.leaves import Leaf, make_leaf
from pcflow.engine.memory import Pool, Sheet
from pcflow.engine.modes import in_ordinary_modes
from pcflow.engine.plan import BankRead, InputStep, Plan, ProductStep, SumStep
from pcflow.engine.routes import Route
from pcflow.engine.semiring import Semiring
from pcflow.engine.tables import BankSums, Tables
from pcflow.engine.tape import Tape
from pcflow.evidence import CheckedEvidence


@in_ordinary_modes
def up(
    plan: Plan, tables: Tables, evidence: CheckedEvidence, semiring: Semiring, pool: Pool
) -> Tape:
    """Evaluate every unit, inputs first.

    Args:
        plan: the steps, on the device of the tables; the lean plan if nobody goes down again.
        tables: weights and input tables.
        evidence: checked against the circuit.
        semiring: the arithmetic.
        pool: where the sheet comes from.
    """
    tables.cache.refresh()
    sheet = pool.take(plan, len(evidence.values), tables.like)
    sheet.in_log_space = semiring.in_log_space
    tape = Tape(plan, tables, semiring, pool, sheet, tables.weights(semiring.in_log_space))
    keep = plan is not plan.lean
    for number, step in enumerate(plan.steps):
        out = sheet.outs[number]
        if isinstance(step, InputStep):
            tape.leaves[number] = make_leaf(step, tables, evidence, semiring, keep)
            tape.leaves[number].up(out)
        elif isinstance(step, ProductStep):
            semiring.product(sheet.inputs(number, step), out, step.kronecker)
        else:
            semiring.sum(sheet.inputs(number, step), tape.weights[number], out)
    _conclude(tape)
    return tape


AtLeaf = Callable[[Leaf, Tensor], None]
"""Takes a leaf, and the slopes [F, B, K] of its units (see `Semiring`); not valid afterwards."""

AtWeights = Callable[[BankRead, Tensor], None]
"""Takes flows [F, K, J] of the weights that are named, to be kept or edited."""


@in_ordinary_modes
def down(
    tape: Tape, root_flow: Tensor, at_leaf: AtLeaf, at_weights: AtWeights | None = None
) -> None:
    """Hand `root_flow` [B] down: a sum splits its flow by shares, a product passes it to all.

    With a root flow of one, the flow of a unit or weight is the expected number of times that the
    evidence uses it, and the derivative of the log-value with respect to its logarithm
    (Choi, Vergari, Van den Broeck 2020). The tape must not be one of a lean plan.
    """
    plan, semiring, values = tape.plan, tape.semiring, tape.sheet
    tied = BankSums(plan)
    with tape.lock, tape.pool.lend(plan.lean, values.batch, tape.tables.like) as sheet:
        root = values.outs[-1].units[0, :, 0]
        sheet.outs[-1].units[0, :, 0] = semiring.slope(root, root_flow)
        for number, step in reversed(list(enumerate(plan.lean.steps))):
            units, slope = values.outs[number].units, sheet.outs[number].units
            if isinstance(step, InputStep):
                at_leaf(tape.leaves[number], slope)
                continue
            inputs, into = values.inputs(number, plan.steps[number]), _Into(sheet, number, step)
            if isinstance(step, ProductStep):
                semiring.down_product(inputs, semiring.flow(units, slope), step.kronecker, into)
                continue
            weight = tape.weights[number]
            semiring.down_sum(inputs, weight, units, slope, into)
            if at_weights is not None:
                edges = semiring.edges(inputs, weight, units, slope)
                if step.weight.bank in plan.untied:
                    at_weights(step.weight, semiring.flow(weight.tensor, edges))
                else:
                    tied.add(step.weight, edges)
    if at_weights is None:
        return
    for bank, edges in tied.found.items():
        flow = semiring.flow(tape.tables.linear(bank), edges)
        at_weights(BankRead(bank, slice(0, len(edges)), False), flow)


@in_ordinary_modes
def follow(tape: Tape, route: Route, copies: int) -> Tensor:
    """Values [C B, D] found by going down along one input per sum, C times for every row.

    Every variable is reached exactly once, because products are decomposable.
    """
    descent = (TreeDescent if tape.plan.is_tree else GraphDescent)(tape, route, copies)
    steps = tape.plan.steps if descent.batch else ()  # without rows there is nothing to choose
    for number, step in reversed(list(enumerate(steps))):
        if isinstance(step, InputStep):
            descent.leaf(number, step)
        elif isinstance(step, ProductStep):
            descent.product(step)
        else:
            descent.sum(number, step)
    return descent.values.t().contiguous()


class _Into:
    """Slopes of the inputs of one step, on their way into a sheet."""

    def __init__(self, sheet: Sheet, number: int, step: SumStep | ProductStep) -> None:
        self.sheet, self.number, self.step = sheet, number, step
        for read in step.inputs:
            if len(read.first):
                sheet.arenas[read.width].units.index_fill_(0, read.first, 0.0)

    def place(self, slot: int) -> Tensor | None:
        return self.sheet.place(self.number, slot) if self.step.inputs[slot].fresh else None

    def add(self, slot: int, slope: Tensor) -> None:
        read = self.step.inputs[slot]
        units = self.sheet.arenas[read.width].units
        if isinstance(read.rows, slice):
            rows = units[read.rows]
            rows.copy_(slope) if read.fresh else rows.add_(slope)
        elif read.fresh:
            units.index_copy_(0, read.rows, slope)
        else:
            add_rows(units, read.rows, slope)


def _conclude(tape: Tape) -> None:
    """Read the root's log-value, and the smallest unit that could have underflowed."""
    root = tape.sheet.outs[-1]
    units = root.units[0, :, 0]  # [B]
    if tape.semiring.in_log_space:
        tape.log_value = tape.lowest = units.clone()
        return
    tape.log_value, tape.lowest = units.log() + root.scale[0], units.clone()
    if len(tape.sheet.lowest):
        tape.lowest = torch.minimum(tape.lowest, tape.sheet.lowest.amin(dim=0))
