"""The way down along one input per sum, step by step.

A tree is descended everywhere at once: every sample reaches every fold, so units are whole arrays.
Elsewhere the folds that a sample reaches are looked up first.

Legend: F folds, B batch, C copies, S = C B samples, K units, J units read by a sum, N entries.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from functools import partial, reduce

import torch
from torch import Tensor

from pcflow.engine.kernels import take
from pcflow.engine.leaves import Leaf
from pcflow.engine.plan import InputStep, ProductStep, Read, Rows, SumStep
from pcflow.engine.routes import Route
from pcflow.engine.semiring import Weight
from pcflow.engine.tape import Tape
from pcflow.evidence import send


class Descent(ABC):
    """Samples on their way down.

    Args:
        tape: of an upward pass.
        route: how to choose.
        copies: samples of every row; sample c B + b is of row b.

    Attributes:
        chosen: by width, the unit [R, S] of every fold; -1 where a sample does not come.
        values: [D, S].
    """

    def __init__(self, tape: Tape, route: Route, copies: int) -> None:
        """Begin at the root."""
        self.plan, self.sheet, self.tables = tape.plan, tape.sheet, tape.tables
        self.semiring, self.weights, self.leaves = tape.semiring, tape.weights, tape.leaves
        self.recordings, self.route, self.copies = tape.recordings, route, copies
        self.batch, device = self.sheet.batch, tape.log_value.device
        self.samples = copies * self.batch
        self.chosen = {
            width: self.nowhere(width, partial(torch.full, (rows, self.samples), -1, device=device))
            for width, rows in self.plan.arenas.items()
        }
        self.chosen[1][self.plan.steps[-1].out] = 0
        dtype = reduce(torch.promote_types, (leaf.x.dtype for leaf in self.leaves.values()))
        self.values = torch.zeros(self.plan.num_variables, self.samples, dtype=dtype, device=device)

    @abstractmethod
    def nowhere(self, width: int, make: Callable[[], Tensor]) -> Tensor:
        """Units of one width before the way down."""

    @abstractmethod
    def go_through(self, run: range) -> None:
        """Through a run of sums and products, by their numbers."""

    @abstractmethod
    def leaf(self, number: int) -> None:
        """Write values."""

    def inputs(self, number: int, step: SumStep) -> Tensor:
        """What a sum reads, side by side: [F, B, J], mixing [F, B, K, H]."""
        return self.semiring.read(self.sheet.inputs(number, step), step.mixing)

    def choose(self, edges: Tensor, units: Tensor, route: Route) -> Tensor:
        """One of J alternatives [...] by weights and units [..., J]; `edges` is written over."""
        in_log_space = self.semiring.in_log_space
        return route.index(edges.add_(units) if in_log_space else edges.mul_(units), in_log_space)


class TreeDescent(Descent):
    """Every sample reaches every fold."""

    def __init__(self, tape: Tape, route: Route, copies: int) -> None:
        """Note what is missing, by width and row of the input units' arena: [R, B]."""
        super().__init__(tape, route, copies)
        leaves = self.leaves.values()
        self.missing = {
            width: torch.zeros(rows, self.batch, dtype=torch.bool)
            for width, rows in self.plan.arenas.items()
        }
        for leaf in leaves:
            self.missing[leaf.step.units][leaf.step.out] = leaf.hidden
        soft = any(leaf.any_soft for leaf in leaves)
        # what is missing is looked up, which cannot be recorded
        one_by_one = self.semiring.in_log_space or self.recordings.on or bool(self.tables.own)
        self.may_skip = not (soft or one_by_one)
        self.leaf_at = {(leaf.step.units, leaf.step.out.start): leaf for leaf in leaves}
        self.done: set[Leaf] = set()

    def nowhere(self, width: int, make: Callable[[], Tensor]) -> Tensor:
        """Anything: every unit will be written before it is read."""
        return self.recordings.memory(("chosen", self.copies, width), make)

    def go_through(self, run: range) -> None:
        """Recorded, if that is done: then all that is drawn at random is drawn before."""
        recordings = self.recordings
        if not recordings.on:
            self.descend(run, self.route)
            return
        key = ("follow", self.semiring.arithmetic, type(self.route), self.copies, run.start)
        steps = [self.plan.steps[number] for number in run]
        sums = sum(step.folds for step in steps if isinstance(step, SumStep) and not step.mixing)
        make = partial(self.tables.like.new_empty, sums * self.samples)
        numbers = recordings.memory(("random", *key), make)
        self.route.fill(numbers)
        recordings.run(key, (self.weights,), partial(self.descend, run, self.route, numbers))

    def descend(self, run: range, route: Route, numbers: Tensor | None = None) -> None:
        """Step by step; by uniform `numbers`, if there are any."""
        route, room = route if numbers is None else route.by(numbers), _Room()
        for number in reversed(run):
            step = self.plan.steps[number]
            if isinstance(step, ProductStep):
                self.product(step)
            elif isinstance(step, SumStep):
                self.sum(number, step, route, room)

    def leaf(self, number: int) -> None:
        """Observed values, and draws for the others."""
        leaf = self.leaves[number]
        if leaf in self.done:
            return
        entry, fold, unit = self.entries(leaf.hidden, self.chosen[leaf.step.units][leaf.step.out])
        self.write(leaf, entry, leaf.draw(unit, fold, entry % self.batch, self.route))

    def write(self, leaf: Leaf, entry: Tensor, drawn: Tensor) -> None:
        """Observed values, and those drawn [N] at places in [F S]."""
        values = leaf.x.to(self.values.dtype).repeat(1, self.copies)
        values.view(-1).index_copy_(0, entry, drawn.to(values.dtype))
        self.values.index_copy_(0, leaf.step.variables, values)

    def entries(self, missing: Tensor, here: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Place in [F S], fold and unit [N] of what is missing, [F, B]."""
        entry = missing.repeat(1, self.copies).flatten().nonzero().squeeze(-1)
        entry = send(entry, here.device)
        return entry, entry // here.shape[1], here.flatten().index_select(0, entry)

    def product(self, step: ProductStep) -> None:
        """The same samples go to every input."""
        here = self.chosen[step.units][step.out]
        for read, unit in zip(step.inputs, factor_units(step, here), strict=True):
            self.go(read, unit)

    def go(self, read: Read, unit: Tensor) -> None:
        """Units [F, S] of what a step reads."""
        chosen = self.chosen[read.width]
        if isinstance(read.rows, slice):
            chosen[read.rows] = unit
        else:
            chosen.index_copy_(0, read.rows, unit.clone())

    def sum(self, number: int, step: SumStep, route: Route, room: _Room) -> None:
        """Choose for all folds of a block at once; rows that are copied share their units."""
        (read,), weight = step.inputs, self.weights[number]
        here = self.chosen[step.units][step.out]
        if step.mixing:
            self.go(read, here)
            return
        if step.lowest and self.may_skip:
            self.sum_over_missing(step, read, here)
            return
        units, width = self.inputs(number, step).unsqueeze(1), read.width  # [F, 1, B, J]
        edges = self.edges(weight, here, room)
        below = torch.empty_like(here)
        size = max(1, self.plan.machine.choices // (here.shape[1] * width))
        for start in range(0, step.folds, size):
            some = slice(start, start + size)
            of_inputs = edges(some).view(-1, self.copies, self.batch, width)
            below[some] = self.choose(of_inputs, units[some], route).flatten(1)
        self.go(read, below)

    def edges(self, weight: Weight, here: Tensor, room: _Room) -> Callable[[slice], Tensor]:
        """What finds the weights of the inputs of units [F, S], a block of folds at a time."""
        folds = torch.arange(len(weight.tensor), device=here.device).unsqueeze(-1)  # [F or 1, 1]
        if weight.by_row:
            row = torch.arange(self.samples, device=here.device) % self.batch
            folds = folds.expand(len(here), 1)
            return lambda some: weight.chosen(folds[some], row, here[some])
        table = weight.tensor.flatten(0, 1)  # [F K or K, J]
        places = here + folds * weight.tensor.shape[1]

        def look_up(some: slice) -> Tensor:
            place = places[some].flatten()
            found = room.of(len(place), table.shape[1], table)
            return torch.index_select(table, 0, place, out=found)

        return look_up

    def sum_over_missing(self, step: SumStep, read: Read, here: Tensor) -> None:
        """Input units that miss their value are all one; for the others any choice will do."""
        rows = read.rows if isinstance(read.rows, slice) else read.rows.cpu()
        entry, fold, unit = self.entries(self.missing[read.width][rows], here)
        leaf = self.leaf_below(read, step.folds)
        drawn = None if leaf is None else leaf.draw_mixed(unit, fold, self.route, step)
        if leaf is not None and drawn is not None:
            self.write(leaf, entry, drawn)
            self.done.add(leaf)
            return
        below = torch.zeros_like(here)
        found = self.route.by_weight(self.tables, step, fold, unit)
        assert found is not None
        below.view(-1).index_copy_(0, entry, found)
        self.go(read, below)

    def leaf_below(self, read: Read, folds: int) -> Leaf | None:
        """The leaf of which every fold is read, in order."""
        if not isinstance(read.rows, slice):
            return None
        leaf = self.leaf_at.get((read.width, read.rows.start))
        return leaf if leaf is not None and leaf.step.folds == folds else None


class _Room:
    """Memory for a block of choices, the same for all."""

    def __init__(self) -> None:
        self.numbers: Tensor | None = None

    def of(self, rows: int, width: int, like: Tensor) -> Tensor:
        """Memory [rows, width]."""
        if self.numbers is None or len(self.numbers) < rows * width:
            self.numbers = like.new_empty(rows * width)
        return self.numbers[: rows * width].view(rows, width)


class GraphDescent(Descent):
    """Entries (fold, sample) are looked up, step by step."""

    def nowhere(self, width: int, make: Callable[[], Tensor]) -> Tensor:
        """-1 everywhere."""
        return make()

    def go_through(self, run: range) -> None:
        """Step by step."""
        for number in reversed(run):
            step = self.plan.steps[number]
            if isinstance(step, ProductStep):
                self.product(step)
            elif isinstance(step, SumStep):
                self.sum(number, step)

    def leaf(self, number: int) -> None:
        """Observed values, and draws for the others."""
        leaf = self.leaves[number]
        unit, fold, sample = self.reached(leaf.step)
        if not len(unit):
            return
        row = sample % self.batch
        values = leaf.x[fold, row].to(self.values.dtype)
        some = leaf.missing[fold, row].nonzero().squeeze(-1)
        drawn = leaf.draw(unit[some], fold[some], row[some], self.route)
        values[some] = drawn.to(values.dtype)
        self.values[leaf.step.variables[fold], sample] = values

    def product(self, step: ProductStep) -> None:
        """The same samples go to every input."""
        unit, fold, sample = self.reached(step)
        for read, below in zip(step.inputs, factor_units(step, unit), strict=True):
            self.chosen[read.width][_rows(read.rows, fold), sample] = below

    def sum(self, number: int, step: SumStep) -> None:
        """Choose among all units of all inputs."""
        unit, fold, sample = self.reached(step)
        if not len(unit):
            return
        if step.mixing:
            self.mix(number, step, unit, fold, sample)
            return
        index = self.pick(number, step, unit, fold, sample % self.batch)
        if len(step.inputs) == 1:
            (read,) = step.inputs
            self.chosen[read.width][_rows(read.rows, fold), sample] = index
            return
        starts = torch.tensor([0, *(r.width for r in step.inputs)], device=index.device).cumsum(0)
        slot = torch.bucketize(index, starts[1:-1], right=True)
        below = index - starts[slot]
        for i, read in enumerate(step.inputs):
            some = (slot == i).nonzero().squeeze(-1)
            place = _rows(read.rows, fold[some])
            self.chosen[read.width][place, sample[some]] = below[some]

    def mix(self, number: int, step: SumStep, unit: Tensor, fold: Tensor, sample: Tensor) -> None:
        """Choose an input for every entry, by its own unit of each."""
        weight, width = self.weights[number], step.units
        arena, most = self.sheet.arenas[width], self.plan.machine.choices // len(step.inputs)
        for u, f, s in _blocks(most, unit, fold, sample):
            place = step.rows[f]  # [N, H]
            row = (s % self.batch).unsqueeze(-1)
            units = arena.units[place, row, u.unsqueeze(-1)]
            units = self.semiring.aligned(units, arena.scale[place, row])
            edges = weight.chosen(f, s % self.batch, u)  # [N, H]
            index = self.choose(edges, units, self.route).unsqueeze(-1)
            self.chosen[width][place.gather(-1, index).squeeze(-1), s] = u

    def reader(self, number: int, step: SumStep) -> Callable[[Tensor, Tensor], Tensor]:
        """What a sum reads of folds and rows [N], side by side: [N, J]."""
        if len(step.inputs) > 1:
            every = self.inputs(number, step)
            return lambda fold, row: take(every, (fold, row))
        (only,) = step.inputs
        units = self.sheet.arenas[only.width].units
        return lambda fold, row: take(units, (_rows(only.rows, fold), row))

    def reached(self, step: InputStep | SumStep | ProductStep) -> tuple[Tensor, Tensor, Tensor]:
        """Unit, fold and sample [N] of every entry."""
        here = self.chosen[step.units][step.out]
        fold, sample = (here >= 0).nonzero(as_tuple=True)
        return here[fold, sample], fold, sample

    def pick(self, number: int, step: SumStep, unit: Tensor, fold: Tensor, row: Tensor) -> Tensor:
        """Which of the units of all inputs, side by side, every entry follows: [N]."""
        weight, read = self.weights[number], self.reader(number, step)
        most, found = self.plan.machine.choices // weight.tensor.shape[-1], []
        for u, f, r in _blocks(most, unit, fold, row):
            edges = weight.chosen(f, r, u)  # [N, J]
            units = read(f, r)  # [N, J]
            found.append(self.choose(edges, units, self.route))
        return found[0] if len(found) == 1 else torch.cat(found)


def factor_units(step: ProductStep, unit: Tensor) -> list[Tensor]:
    """The unit of each input that makes up a product's unit."""
    if not step.kronecker:
        return [unit] * len(step.inputs)
    found = []
    for read in reversed(step.inputs):
        found.append(unit % read.width)
        unit = unit // read.width
    return found[::-1]


def _blocks(most: int, *entries: Tensor) -> Iterable[tuple[Tensor, ...]]:
    """Entries [N] of each, so many at a time."""
    if len(entries[0]) <= most:
        return [entries]
    return zip(*(entry.split(max(1, most)) for entry in entries), strict=True)


def _rows(rows: Rows, fold: Tensor) -> Tensor:
    return fold + rows.start if isinstance(rows, slice) else rows[fold]
