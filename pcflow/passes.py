"""The heart: one pass up and one pass down over the arenas of a plan.

`up` writes the value of every unit, inputs first, and returns a `Tape` of what it wrote. `flows`
hands the root's flow down by shares: expected counts, posteriors and gradients are this pass.
`follow` goes down along one chosen input per sum: samples and most probable states are this pass.

Legend: F folds, B batch, K units of the layer, J units read by a sum, S samples, V categories.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import reduce
from math import prod

import torch
from torch import Tensor

from pcflow.evidence import CheckedEvidence
from pcflow.leaves import DensityLeaf, FiniteLeaf, make_leaf
from pcflow.plan import InputStep, Plan, ProductStep, Read, Rows, SumStep
from pcflow.routes import Route
from pcflow.semiring import Semiring, Value
from pcflow.tables import Tables, accumulate


class Pool:
    """Memory that later calls use again, so that no fresh pages are touched.

    It never holds more pieces than were once in use at the same time.
    """

    def __init__(self) -> None:
        """Start empty."""
        self._free: list[torch.UntypedStorage] = []

    def take(self, shape: Iterable[int], like: Tensor) -> Tensor:
        """An uninitialised tensor in the smallest free piece that is large enough."""
        shape = tuple(shape)
        size, count = prod(shape) * like.element_size(), len(self._free)
        self._free.sort(key=torch.UntypedStorage.nbytes)
        place = next((i for i, p in enumerate(self._free) if p.nbytes() >= size), count)
        if place == count:  # a larger piece takes the place of the largest
            del self._free[-1:]
            return like.new_empty(shape)
        return like.new_empty(0).set_(self._free.pop(place))[: prod(shape)].view(shape)

    def give(self, tensor: Tensor) -> None:
        """Hand a tensor back; nobody may read it any more."""
        self._free.append(tensor.untyped_storage())

    def __deepcopy__(self, memo: object) -> Pool:
        """A copied model starts with a pool of its own."""
        return Pool()


@dataclass
class Tape:
    """What an upward pass wrote down. Its memory returns to the pool with the last reference.

    Attributes:
        arenas: per width the units [R, B, K] of all folds, with the scale and lowest unit [R, B].
        reads: per sum step its inputs, side by side.
        leaves: per input step its leaf.
        log_value: [B] (nats).
        lowest: [B], the smallest unit of any product of the row, and of the root.
    """

    plan: Plan
    tables: Tables
    semiring: Semiring
    pool: Pool
    arenas: dict[int, Value]
    reads: dict[int, Value] = field(default_factory=dict)
    leaves: dict[int, FiniteLeaf | DensityLeaf] = field(default_factory=dict)
    log_value: Tensor = field(init=False)
    lowest: Tensor = field(init=False)

    def __del__(self) -> None:
        """Recycle the arenas."""
        for tensor in (t for arena in self.arenas.values() for t in arena):
            self.pool.give(tensor)


@dataclass
class Flows:
    """Flows of the input units per input step [F, B, K], and of the weights per bank [P, K, J]."""

    pool: Pool
    arenas: dict[int, Tensor]
    inputs: dict[int, Tensor] = field(default_factory=dict)
    weights: dict[int, Tensor] = field(default_factory=dict)

    def __del__(self) -> None:
        """Recycle the arenas."""
        for tensor in self.arenas.values():
            self.pool.give(tensor)


def up(
    plan: Plan, tables: Tables, evidence: CheckedEvidence, semiring: Semiring, pool: Pool
) -> Tape:
    """Evaluate every unit, inputs first.

    Args:
        plan: the steps, on the device of the tables.
        tables: weights and input tables.
        evidence: checked against the circuit.
        semiring: the arithmetic.
        pool: where the arenas' memory comes from.
    """
    batch, like = len(evidence.values), tables.like
    arenas = {
        width: Value(*(pool.take(shape, like) for shape in ((r, batch, width), *[(r, batch)] * 2)))
        for width, r in plan.arenas.items()
    }
    tape = Tape(plan, tables, semiring, pool, arenas)
    for number, step in enumerate(plan.steps):
        out = _rows(arenas[step.units], step.out)
        if isinstance(step, InputStep):
            tape.leaves[number] = make_leaf(step, tables, evidence, semiring)
            tape.leaves[number].up(out)
            continue
        inputs = [_rows(arenas[read.width], read.rows) for read in step.inputs]
        if isinstance(step, ProductStep):
            semiring.product(inputs, out, step.kronecker)
        else:
            tape.reads[number] = semiring.read(inputs, step.mixing)
            semiring.sum(tape.reads[number], tables.weight(step, semiring.in_log_space), out)
    _conclude(tape)
    return tape


def flows(tape: Tape, root_flow: Tensor) -> Flows:
    """Hand `root_flow` [B] down: a sum splits its flow by shares, a product passes it to all.

    With a root flow of one, the flow of a unit or weight is the expected number of times that the
    evidence uses it, and the derivative of the log-value with respect to its logarithm
    (Choi, Vergari, Van den Broeck 2020).
    """
    plan, semiring = tape.plan, tape.semiring
    arenas = {w: tape.pool.take(a.units.shape, a.units) for w, a in tape.arenas.items()}
    found = Flows(tape.pool, arenas)
    for width in {r.width for s in _inner(plan) for r in s.inputs if not r.fresh}:
        arenas[width].zero_()
    arenas[1][plan.steps[-1].out] = root_flow.unsqueeze(-1)
    for number, step in reversed(list(enumerate(plan.steps))):
        flow = arenas[step.units][step.out]  # [F, B, K]
        if isinstance(step, InputStep):
            found.inputs[number] = flow
        elif isinstance(step, ProductStep):
            for read, part in zip(step.inputs, _factors(step, flow), strict=True):
                _add(arenas[read.width], read, part)
        else:
            weight = tape.tables.weight(step, semiring.in_log_space)
            units = tape.arenas[step.units].units[step.out]
            inner, edges = semiring.flow(tape.reads[number], weight, units, flow)
            parts = (
                inner.unbind(-1) if step.mixing else inner.split([r.width for r in step.inputs], -1)
            )
            for read, part in zip(step.inputs, parts, strict=True):
                _add(arenas[read.width], read, part)
            _add_edges(found.weights, step, edges, tape.tables)
    return found


def follow(tape: Tape, route: Route, rows: Tensor) -> Tensor:
    """Values [S, D] found by going down along one input per sum, sample s in row `rows[s]`.

    Every variable is reached exactly once, because products are decomposable.
    """
    plan = tape.plan
    shape = {width: (count, len(rows)) for width, count in plan.arenas.items()}
    chosen = {width: rows.new_full(s, -1) for width, s in shape.items()}  # unit of every fold
    chosen[1][plan.steps[-1].out] = 0
    dtype = reduce(torch.promote_types, (leaf.x.dtype for leaf in tape.leaves.values()))
    values = torch.zeros(len(rows), plan.num_variables, dtype=dtype, device=rows.device)
    for number, step in reversed(list(enumerate(plan.steps))):
        here = chosen[step.units][step.out]  # [F, S]
        fold, sample = (here >= 0).nonzero(as_tuple=True)  # [N] each
        unit = here[fold, sample]
        if isinstance(step, InputStep):
            found = tape.leaves[number].choose(unit, fold, rows[sample], route)
            values[sample, step.variables[fold]] = found.to(dtype)
        elif isinstance(step, ProductStep):
            for read, part in zip(step.inputs, _factor_units(step, unit), strict=True):
                chosen[read.width][_row(read.rows, fold), sample] = part
        else:
            slot, below = _pick(tape, number, step, route, (unit, fold, rows[sample]))
            for i, read in enumerate(step.inputs):
                some = (slot == i).nonzero().squeeze(-1) if len(step.inputs) > 1 else slice(None)
                chosen[read.width][_row(read.rows, fold[some]), sample[some]] = below[some]
    return values


def _conclude(tape: Tape) -> None:
    """Read the root's log-value, and the smallest unit that could have underflowed."""
    root = _rows(tape.arenas[1], tape.plan.steps[-1].out)
    units = root.units[0, :, 0]  # [B]
    if tape.semiring.in_log_space:
        tape.log_value = tape.lowest = units.clone()
        return
    tape.log_value, tape.lowest = units.log() + root.scale[0], units.clone()
    for step in tape.plan.steps:
        if isinstance(step, ProductStep):
            lowest = tape.arenas[step.units].lowest[step.out].amin(dim=0)
            tape.lowest = torch.minimum(tape.lowest, lowest)


def _pick(
    tape: Tape, number: int, step: SumStep, route: Route, at: tuple[Tensor, Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """Which input layer [N] and which of its units [N] the sums (unit, fold, row) follow."""
    unit, fold, row = at
    in_log_space = tape.semiring.in_log_space
    weight = tape.tables.weight(step, in_log_space).tensor
    edges = weight[fold if len(weight) > 1 else 0, unit]  # [N, J]
    read = tape.reads[number].units
    units = read[fold, row, unit] if step.mixing else read[fold, row]  # [N, J]
    index = route.index(edges + units if in_log_space else edges * units, in_log_space)
    if step.mixing:
        return index, unit
    starts = torch.tensor([0, *(r.width for r in step.inputs)], device=index.device).cumsum(0)
    slot = torch.bucketize(index, starts[1:-1], right=True)
    return slot, index - starts[slot]


def _factors(step: ProductStep, flow: Tensor) -> list[Tensor]:
    """The flow that a product gives to each of its inputs: [F, B, K of that input]."""
    if not step.kronecker:
        return [flow] * len(step.inputs)
    grid = flow.unflatten(-1, [read.width for read in step.inputs])
    axes = range(2, grid.dim())
    return [grid.sum([a for a in axes if a != axis]) for axis in axes]


def _factor_units(step: ProductStep, unit: Tensor) -> list[Tensor]:
    """The unit [N] of each input that makes up a product's unit."""
    if not step.kronecker:
        return [unit] * len(step.inputs)
    found = []
    for read in reversed(step.inputs):
        found.append(unit % read.width)
        unit = unit // read.width
    return found[::-1]


def _add(arena: Tensor, read: Read, flow: Tensor) -> None:
    if isinstance(read.rows, slice):
        rows = arena[read.rows]
        rows.copy_(flow) if read.fresh else rows.add_(flow)
    elif read.fresh:  # the flow may be a view of the same arena
        arena.index_copy_(0, read.rows, flow.clone())
    else:
        arena.index_add_(0, read.rows, flow.clone())


def _add_edges(weights: dict[int, Tensor], step: SumStep, edges: Tensor, tables: Tables) -> None:
    read = step.weight
    if read.bank not in weights:
        weights[read.bank] = torch.zeros_like(tables.banks[read.bank])
    accumulate(weights[read.bank], read, edges)


def _rows(arena: Value, rows: Rows) -> Value:
    """Rows of an arena: views for a slice, copies for an index."""
    return Value(*(t[rows] for t in arena))


def _row(rows: Rows, fold: Tensor) -> Tensor:
    return fold + rows.start if isinstance(rows, slice) else rows[fold]


def _inner(plan: Plan) -> list[SumStep | ProductStep]:
    return [step for step in plan.steps if not isinstance(step, InputStep)]
