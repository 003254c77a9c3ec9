"""The way down along one input per sum, step by step.

A tree is descended everywhere at once: every sample reaches every fold, so units are whole arrays.
Elsewhere the folds that a sample reaches are looked up first.

Legend: F folds, B batch, C copies, S = C B samples, K units, J units read by a sum, N entries.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from functools import cached_property, partial, reduce

import torch
from torch import Tensor

from pcflow.engine.kernels import places_of, take
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
        chosen: by width, the unit [R, S] of every fold that a sample comes to.
        values: [D, S].
    """

    def __init__(self, tape: Tape, route: Route, copies: int) -> None:
        """Begin at the root."""
        self.plan, self.sheet, self.tables = tape.plan, tape.sheet, tape.tables
        self.semiring, self.weights, self.leaves = tape.semiring, tape.weights, tape.leaves
        self.recordings, self.route, self.copies = tape.recordings, route, copies
        self.batch, device = self.sheet.batch, tape.log_value.device
        self.samples = copies * self.batch
        make = partial(torch.empty, dtype=torch.long, device=device)
        self.chosen = {
            width: self.unwritten(width, partial(make, rows, self.samples))
            for width, rows in self.plan.arenas.items()
        }
        self.chosen[1][self.plan.steps[-1].out] = 0
        dtype = reduce(torch.promote_types, (leaf.x.dtype for leaf in self.leaves.values()))
        self.values = torch.zeros(self.plan.num_variables, self.samples, dtype=dtype, device=device)

    def unwritten(self, width: int, make: Callable[[], Tensor]) -> Tensor:
        """Room for the units of one width; all are written before they are read."""
        return make()

    @abstractmethod
    def go_through(self, run: range) -> None:
        """Through a run of sums and products, by their numbers."""

    @abstractmethod
    def leaf(self, number: int) -> None:
        """Write values."""

    @cached_property
    def knows_nothing(self) -> bool:
        """Whether nothing is observed, so that all units are one, and sums go by weights alone."""
        if self.semiring.maximizes or self.recordings.on or self.tables.own or self.plan.has_rules:
            return False
        leaves = self.leaves.values()
        return all(not leaf.any_soft and bool(leaf.hidden.all()) for leaf in leaves)

    def goes_by_weight(self, step: SumStep) -> bool:
        """Whether that is so, and samples are enough to be worth a table of running sums."""
        return self.knows_nothing and 4 * self.samples >= step.units

    def row_of(self, sample: Tensor) -> Tensor:
        """The row of the batch that samples are of."""
        return sample if self.copies == 1 else sample % self.batch

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

    def unwritten(self, width: int, make: Callable[[], Tensor]) -> Tensor:
        """The same at every call, where calls are recorded."""
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
        entry = places_of(missing if self.copies == 1 else missing.repeat(1, self.copies))
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
        (read,) = step.inputs
        here = self.chosen[step.units][step.out]
        if step.mixing:
            self.go(read, here)
            return
        if step.lowest and self.may_skip:
            self.sum_over_missing(step, read, here)
            return
        into = self.chosen[read.width]
        below = into[read.rows] if isinstance(read.rows, slice) else torch.empty_like(here)
        choose = self.chooser(number, step, here, route, room)
        size = max(1, self.plan.machine.choices // (self.samples * read.width))
        for start in range(0, step.folds, size):
            some = slice(start, start + size)
            choose(some, below[some])
        if not isinstance(read.rows, slice):
            into.index_copy_(0, read.rows, below)

    def chooser(
        self, number: int, step: SumStep, here: Tensor, route: Route, room: _Room
    ) -> Callable[[slice, Tensor], object]:
        """What writes down the inputs of units [F, S], for a block of folds at a time."""
        if self.goes_by_weight(step):
            fold = torch.arange(step.folds, device=here.device).unsqueeze(-1).expand_as(here)
            return lambda some, below: below.copy_(
                self.by_weight(step, fold[some], here[some], route)
            )
        units, edges = self.inputs(number, step), self.edges(self.weights[number], here, room)
        units = units if self.copies == 1 else units.unsqueeze(1)  # [F, B, J] or [F, 1, B, J]
        copies = units.shape[1:] if self.copies == 1 else (self.copies, *units.shape[2:])

        def choose(some: slice, below: Tensor) -> None:
            found = self.choose(edges(some).view(-1, *copies), units[some], route)
            below.view(found.shape).copy_(found)

        return choose

    def edges(self, weight: Weight, here: Tensor, room: _Room) -> Callable[[slice], Tensor]:
        """What finds the weights of the inputs of units [F, S], a block of folds at a time."""
        shared = weight.tensor.shape[0] == 1
        if weight.by_row:
            fold = torch.arange(len(here), device=here.device).unsqueeze(-1)  # [F, 1]
            row = torch.arange(self.samples, device=here.device) % self.batch
            fold = torch.zeros_like(fold) if shared else fold
            return lambda some: weight.chosen(fold[some], row, here[some])
        table, places = weight.tensor.flatten(0, 1), here  # [F K or K, J]
        if not shared:
            starts = torch.arange(0, table.shape[0], weight.tensor.shape[1], device=here.device)
            places = here + starts.unsqueeze(-1)
        return lambda some: room.rows(table, places[some].flatten())

    def by_weight(self, step: SumStep, fold: Tensor, unit: Tensor, route: Route) -> Tensor:
        """Choose inputs of units [F, S] of folds, all inputs of which are one."""
        found = route.by_weight(self.tables, step, fold.flatten(), unit.flatten())
        assert found is not None
        return found.view_as(unit)

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

    def rows(self, table: Tensor, place: Tensor) -> Tensor:
        """Rows [N, J] of a table at places [N]."""
        count, width = place.shape[0], table.shape[1]
        if self.numbers is None or self.numbers.shape[0] < count * width:
            self.numbers = table.new_empty(count * width)
        into = self.numbers[: count * width].view(count, width)
        return torch.index_select(table, 0, place, out=into)


class GraphDescent(Descent):
    """Entries (fold, sample) are looked up, step by step.

    Attributes:
        come: by width, whether a sample comes to a fold [R, S].
    """

    def __init__(self, tape: Tape, route: Route, copies: int) -> None:
        """All come to the root."""
        super().__init__(tape, route, copies)
        self.come = {
            w: torch.zeros_like(every, dtype=torch.bool) for w, every in self.chosen.items()
        }
        self.come[1][self.plan.steps[-1].out] = True

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
        if not unit.numel():
            return
        row = self.row_of(sample)
        entry = fold * self.batch + row
        values = leaf.x.flatten().index_select(0, entry).to(self.values.dtype)
        some = places_of(leaf.missing.flatten().index_select(0, entry))
        drawn = leaf.draw(unit[some], fold[some], row[some], self.route)
        values.index_copy_(0, some, drawn.to(values.dtype))
        place = leaf.step.variables.index_select(0, fold) * self.samples + sample
        self.values.view(-1).index_copy_(0, place, values)

    def product(self, step: ProductStep) -> None:
        """The same samples go to every input."""
        unit, fold, sample = self.reached(step)
        if not unit.numel():
            return
        if step.alike and not step.kronecker:
            rows = step.rows.index_select(0, fold)  # [N, H]
            every = unit.unsqueeze(-1).expand_as(rows).flatten()
            self.go(step.units, rows, sample.unsqueeze(-1), every)
            return
        for read, below in zip(step.inputs, factor_units(step, unit), strict=True):
            self.go(read.width, _rows(read.rows, fold), sample, below)

    def go(self, width: int, row: Tensor, sample: Tensor, unit: Tensor) -> None:
        """Samples go to units [N] of rows of an arena, of as many numbers in any shape."""
        place = (row if self.samples == 1 else row * self.samples + sample).flatten()
        self.chosen[width].view(-1).scatter_(0, place, unit)
        self.come[width].view(-1).index_fill_(0, place, True)

    def sum(self, number: int, step: SumStep) -> None:
        """Choose among all units of all inputs; of a mixing sum, among those of its own number."""
        unit, fold, sample = self.reached(step)
        if not unit.numel():
            return
        index = self.pick(number, step, unit, fold, self.row_of(sample))
        first, *others = step.inputs
        if not others and not step.mixing:
            self.go(first.width, _rows(first.rows, fold), sample, index)
        elif step.alike:
            slot, below = (index, unit) if step.mixing else _divided(index, first.width)
            self.go(
                first.width,
                step.rows.view(-1).index_select(0, fold * step.rows.shape[1] + slot),
                sample,
                below,
            )
        else:
            self.go_apart(step, index, fold, sample)

    def go_apart(self, step: SumStep, index: Tensor, fold: Tensor, sample: Tensor) -> None:
        """To inputs of several widths."""
        starts = torch.tensor([0, *(r.width for r in step.inputs)], device=index.device).cumsum(0)
        slot = torch.bucketize(index, starts[1:-1], right=True)
        below = index - starts[slot]
        for i, read in enumerate(step.inputs):
            some = places_of(slot == i)
            self.go(read.width, _rows(read.rows, fold[some]), sample[some], below[some])

    def reached(self, step: InputStep | SumStep | ProductStep) -> tuple[Tensor, Tensor, Tensor]:
        """Unit, fold and sample [N] of every entry."""
        place = places_of(self.come[step.units][step.out])
        if not place.numel():
            return place, place, place
        unit = self.chosen[step.units][step.out].flatten().index_select(0, place)
        return unit, *_divided(place, self.samples)

    def pick(self, number: int, step: SumStep, unit: Tensor, fold: Tensor, row: Tensor) -> Tensor:
        """Which of the inputs, or of their units side by side, every entry follows: [N]."""
        if self.goes_by_weight(step):
            found = self.route.by_weight(self.tables, step, fold, unit)
            assert found is not None
            return found
        weight, read = self.weights[number], self.reader(number, step)
        most, parts = self.plan.machine.choices // weight.tensor.shape[-1], []
        for u, f, r in _blocks(most, unit, fold, row):
            found = read(u, f, r)  # [N, J], mixing [N, H]
            if step.plain:  # by weights of one
                parts.append(self.route.index(found, self.semiring.in_log_space))
            else:
                parts.append(self.choose(weight.chosen(f, r, u), found, self.route))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def reader(self, number: int, step: SumStep) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        """What sums read, by their units, folds and rows [N]: [N, J], mixing [N, H]."""
        if not step.alike:
            every = self.inputs(number, step)
            return lambda unit, fold, row: take(every, (fold, row))
        arena, (first, *others) = self.sheet.arenas[step.inputs[0].width], step.inputs
        if not others and not step.mixing:
            return lambda unit, fold, row: take(arena.units, (_rows(first.rows, fold), row))

        def read(unit: Tensor, fold: Tensor, row: Tensor) -> Tensor:
            place = step.rows.index_select(0, fold)  # [N, H]
            if self.batch > 1:
                place = place.mul_(self.batch).add_(row.unsqueeze(-1))
            scale = arena.scale.view(-1).index_select(0, place.flatten()).view_as(place)
            if step.mixing:
                single = (place * first.width).add_(unit.unsqueeze(-1))
                units = arena.units.view(-1).index_select(0, single.flatten())
                return self.semiring.aligned(units.view_as(place), scale)
            units = arena.units.flatten(0, 1).index_select(0, place.flatten())
            return self.semiring.aligned(units.view(*place.shape, -1), scale).flatten(1)

        return read


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
    return fold + rows.start if isinstance(rows, slice) else rows.index_select(0, fold)


def _divided(number: Tensor, by: int) -> tuple[Tensor, Tensor]:
    """Quotient and remainder."""
    if by == 1:
        return number, torch.zeros_like(number)
    quotient = number // by
    return quotient, number - quotient * by
