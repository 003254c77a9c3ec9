"""Passes up under a rule, of which much is zero: few categories listed leave few ways open.

A fold of a sum matters for a row if what a product multiplies it with is not zero. That is known
when the sum is due, because classes of categories come before all that follows them. Steps of which
little is not zero read and compute no more than that.

Legend: F folds, B batch, K units, X = F B folds of rows, n of them; N places in a flattened arena.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol, TypeGuard

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import embedding_bag

from pcflow.engine.plan import InputStep, ProductStep, Step, SumStep
from pcflow.engine.semiring import Scaled, Value, Weight

Places = NDArray[np.int64]
Numbers = NDArray[np.float64]


class Rows(NamedTuple):
    """Rows of all folds of an arena, one after another.

    Attributes:
        units: [N, K].
        scale: to be written to as well; -inf where all is zero, [N]. To numpy it is small change;
            to torch each step would be a dozen launches.
    """

    units: Tensor
    scale: Numbers

    @classmethod
    def of(cls, arena: Value) -> Rows:
        """Those of units [R, B, K] and scale [R, B]."""
        return cls(arena.units.flatten(0, 1), arena.scale.numpy().reshape(-1))

    def within(self, some: slice) -> Rows:
        """The rows of some places."""
        return Rows(self.units[some], self.scale[some])

    def set(self, place: Places, units: Tensor, scale: Numbers) -> None:
        """Write some rows [n, K] with their scale [n]; all others are zero."""
        self.units.zero_().index_copy_(0, torch.from_numpy(place), units)
        self.scale.fill(-np.inf)
        self.scale[place] = scale


class Sparse(Protocol):
    """A step of a pass up on one sheet."""

    def write(self, semiring: Scaled, weight: Weight | None) -> bool:
        """Write what is not zero; False if that is most of it, and quicker done as a whole."""
        ...


def sparse_steps(
    steps: Sequence[Step], arenas: Mapping[int, Value], outs: Sequence[Value], batch: int
) -> dict[int, Sparse]:
    """The steps of which little may be to do, by number; on a sheet with these arenas."""
    sheet = _Sheet({width: Rows.of(arena) for width, arena in arenas.items()}, outs, batch)
    return _dense(steps, sheet) | _multiplied(steps, sheet) | _added(steps, sheet)


class _Sheet(NamedTuple):
    arenas: dict[int, Rows]
    outs: Sequence[Value]
    batch: int

    def out(self, step: Step) -> Rows:
        """What a step writes."""
        rows = slice(step.out.start * self.batch, step.out.stop * self.batch)
        return self.arenas[step.units].within(rows)


class Dense(NamedTuple):
    """A sum that nobody reads but products.

    Attributes:
        arena: that it reads.
        reads: what it reads there, [X].
        near: the arena of what it writes.
        met: what it is multiplied with there, by what meets it, [N].
        starts: where that begins for each, [X].
        out: what it writes.
    """

    arena: Rows
    reads: Places
    near: Rows
    met: Places
    starts: Places
    out: Rows

    def write(self, semiring: Scaled, weight: Weight | None) -> bool:
        """See `Sparse`; weights by row are no business of it."""
        if weight is None or weight.by_row:
            return False
        scale = self.arena.scale[self.reads]
        most = np.maximum.reduceat(self.near.scale[self.met], self.starts)
        place = np.flatnonzero(np.minimum(scale, most) > -np.inf)
        if 4 * len(place) > 3 * len(scale):
            return False
        row = torch.from_numpy(self.reads[place])
        found = self.arena.units.index_select(0, row) @ weight.columns[0]  # [n, K]
        semiring.raise_(found)
        self.out.set(place, found, scale[place])
        return True


class Multiplied(NamedTuple):
    """Products of two inputs of one arena, unit by unit.

    Attributes:
        arena: the two are of.
        first: the one, [X].
        second: the other, [X].
        out: what is written.
        lowest: the smallest unit of every product, to be written to as well, [X].
    """

    arena: Rows
    first: Places
    second: Places
    out: Rows
    lowest: NDArray[np.floating]

    def write(self, semiring: Scaled, weight: Weight | None) -> bool:
        """See `Sparse`; what is divided by is the largest unit of a row."""
        scale = self.arena.scale[self.first] + self.arena.scale[self.second]
        place = np.flatnonzero(scale > -np.inf)
        if 4 * len(place) > 3 * len(scale):
            return False
        units = self.arena.units
        one, other = (torch.from_numpy(some[place]) for some in (self.first, self.second))
        found = units.index_select(0, one).mul_(units.index_select(0, other))  # [n, K]
        semiring.raise_(found)
        numbers = found.numpy()
        most = np.maximum(numbers.max(axis=-1), np.finfo(numbers.dtype).tiny)
        self.lowest.fill(1.0)
        self.lowest[place] = numbers.min(axis=-1)
        np.divide(numbers, most[:, np.newaxis], out=numbers)
        self.out.set(place, found, scale[place] + np.log(most, dtype=np.float64))
        return True


class Added(NamedTuple):
    """Sums of rows as they are, of steps that do not read each other.

    Attributes:
        arena: of all.
        reads: what goes into them, sum by sum, [N].
        sums: which sum that is, [N].
        starts: where every sum begins, [X].
        out: where it is written, [X].
    """

    arena: Rows
    reads: Places
    sums: Places
    starts: Places
    out: Places

    def write(self, semiring: Scaled, weight: Weight | None) -> bool:
        """See `Sparse`; each row counts as it does beside the largest scale of its sum."""
        units, scales = self.arena
        scale = scales[self.reads]
        top = np.maximum.reduceat(scale, self.starts)
        used = np.flatnonzero(scale > -np.inf)
        share = torch.from_numpy(np.exp(scale[used] - top[self.sums[used]])).to(units.dtype)
        rows = torch.from_numpy(self.reads[used])
        begins = torch.from_numpy(np.searchsorted(used, self.starts))
        found = embedding_bag(rows, units, begins, per_sample_weights=share, mode="sum")  # [X, K]
        semiring.raise_(found)
        units.index_copy_(0, torch.from_numpy(self.out), found)
        scales[self.out] = top
        return True


class Done(NamedTuple):
    """A step that an earlier one did as well."""

    def write(self, semiring: Scaled, weight: Weight | None) -> bool:
        """See `Sparse`."""
        return True


def _dense(steps: Sequence[Step], sheet: _Sheet) -> dict[int, Sparse]:
    """Of dense sums that nobody reads but products, whose other input is there before."""
    pairs: dict[int, list[tuple[int, int]]] = defaultdict(list)
    others: set[int] = set()  # numbers of sums that somebody else reads
    writer: dict[tuple[int, int], tuple[int, int]] = {}  # step and fold of every row of an arena
    for number, step in enumerate(steps):
        reads = () if isinstance(step, InputStep) else step.inputs
        rows = [read.index.tolist() for read in reads]
        places = [
            [writer[read.width, row] for row in some]
            for read, some in zip(reads, rows, strict=True)
        ]
        for slot, here in enumerate(places):
            for n, (read, fold) in enumerate(here):
                if _is_of_two(step) and places[1 - slot][n][0] < read:
                    pairs[read].append((fold, rows[1 - slot][n]))
                else:
                    others.add(read)
        for fold, row in enumerate(range(step.out.start, step.out.stop)):
            writer[step.units, row] = number, fold
    return {
        number: _meeting(step, pairs[number], sheet)
        for number, step in enumerate(steps)
        if isinstance(step, SumStep) and _is_dense(step) and number not in others
    }


def _meeting(step: SumStep, pairs: list[tuple[int, int]], sheet: _Sheet) -> Dense:
    """Of pairs of a fold and a row that it meets."""
    (read,), (fold, row), batch = step.inputs, torch.tensor(pairs).t(), sheet.batch
    which, order = _flat(fold, batch).sort(stable=True)
    starts = torch.searchsorted(which, torch.arange(step.folds * batch))
    reads, met = _flat(read.index, batch).numpy(), _flat(row, batch)[order].numpy()
    arena, near = sheet.arenas[read.width], sheet.arenas[step.units]
    return Dense(arena, reads, near, met, starts.numpy(), sheet.out(step))


def _multiplied(steps: Sequence[Step], sheet: _Sheet) -> dict[int, Sparse]:
    """Of products of two inputs that are of many folds."""
    found: dict[int, Sparse] = {}
    for number, step in enumerate(steps):
        if _is_of_two(step) and step.alike and step.folds > 1:
            first, second = (_flat(rows, sheet.batch).numpy() for rows in step.rows.unbind(-1))
            arena, lowest = sheet.arenas[step.units], sheet.outs[number].lowest.numpy()
            found[number] = Multiplied(arena, first, second, sheet.out(step), lowest.reshape(-1))
    return found


def _is_of_two(step: Step) -> TypeGuard[ProductStep]:
    return isinstance(step, ProductStep) and len(step.inputs) == 2 and not step.kronecker


def _is_dense(step: SumStep) -> bool:
    alone = not step.mixing and len(step.inputs) == 1
    return alone and step.weight.shared and step.folds > 1


def _added(steps: Sequence[Step], sheet: _Sheet) -> dict[int, Sparse]:
    """Of sums that add what they read as it is.

    Steps that follow one another are done with the first of them where none reads another.
    """
    runs: dict[int, list[SumStep]] = {}
    found: dict[int, Sparse] = {}
    first = -1
    for number, step in enumerate(steps):
        if not isinstance(step, SumStep) or not step.plain:
            continue
        if number - 1 in found and _beside(runs[first], step):
            runs[first].append(step)
        else:
            first, runs[number] = number, [step]
        found[number] = Done()
    return found | {number: _together(run, sheet) for number, run in runs.items()}


def _beside(run: Sequence[SumStep], step: SumStep) -> bool:
    """Whether a step writes to the arena of others, and reads nothing that these write."""
    written = {row for one in run for row in range(one.out.start, one.out.stop)}
    return step.units == run[0].units and written.isdisjoint(step.rows.flatten().tolist())


def _together(steps: Sequence[SumStep], sheet: _Sheet) -> Added:
    batch = sheet.batch
    every = [_flat(step.rows, batch).view(step.folds, -1, batch) for step in steps]
    sums = [rows.transpose(1, 2).flatten(0, 1) for rows in every]  # [X, H] each
    count = torch.cat([torch.full((len(some),), some.shape[1]) for some in sums])
    reads = torch.cat([some.flatten() for some in sums])
    out = torch.cat([torch.arange(step.out.start, step.out.stop) for step in steps])
    places = reads, torch.arange(len(count)).repeat_interleave(count), count.cumsum(0) - count
    found = (place.numpy() for place in (*places, _flat(out, batch)))
    return Added(sheet.arenas[steps[0].units], *found)


def _flat(rows: Tensor, batch: int) -> Tensor:
    """Places in a flattened arena of every row of the batch, [N B] of rows [N]."""
    return (rows.unsqueeze(-1) * batch + torch.arange(batch)).flatten()
