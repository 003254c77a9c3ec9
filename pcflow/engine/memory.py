"""The memory that a pass writes on, kept between calls so that no fresh pages are touched.

Legend: F folds, B batch, K units, R rows of an arena, P products.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from threading import RLock

import torch
from torch import Tensor

from pcflow.engine.kernels import add_rows
from pcflow.engine.plan import InputStep, Plan, ProductStep, Read, Step, SumStep
from pcflow.engine.recording import Recordings
from pcflow.engine.semiring import Division, Value
from pcflow.engine.sparse import Sparse, sparse_steps


class Sheet:
    """An arena per width for one batch size, and the views of it that steps write and read.

    Attributes:
        arenas: by width; units [R, B, K] and scale [R, B].
        lowest: [P, B], the smallest unit of every product, at each of its divisions.
        factors: what it was multiplied by there, [P, B].
        scales: of the input steps, [F, B]; if they are added up once.
        outs: what each step writes.
        root: the root's unit [B].
        in_log_space: whether scales mean nothing, and need not be copied.
        recordings: of passes over it.
    """

    in_log_space = False

    def __init__(self, plan: Plan, batch: int, like: Tensor) -> None:
        """Allocate, and cut the views."""
        self.plan, self.batch = plan, batch
        records = plan.machine.records and batch > 0
        self.recordings = Recordings(like.device, records, most=16 * len(plan.runs))
        self.arenas = {w: self._allocate(rows, w, like) for w, rows in plan.arenas.items()}
        self._size = plan.numbers_per_row * batch * like.element_size()
        self.lowest = like.new_ones(sum(plan.products), batch)
        self.factors = torch.ones_like(self.lowest)
        self.scales = like.new_zeros(sum(plan.scaled), batch)
        self.outs = list(self._outs())
        self.root = self.outs[-1].units[0, :, 0]
        self._ins = [self._views(step) for step in plan.steps]
        self._ready = [_all_or_none(views) for views in self._ins]
        self._copies = {
            (slot, width): self._allocate(rows, width, like)
            for (slot, width), rows in plan.gathered.items()
        }

    def _allocate(self, rows: int, width: int, like: Tensor) -> Value:
        units, scaled = like.new_empty(rows, self.batch, width), 0 if self.plan.one_scale else rows
        scale = units.new_zeros(scaled, self.batch, dtype=torch.float64)
        return Value(units, scale, like.new_empty(0))

    def _outs(self) -> Iterator[Value]:
        parts = self.lowest.split(self.plan.products), self.factors.split(self.plan.products)
        scales = self.scales.split(self.plan.scaled)
        for step, lowest, factor, scale in zip(self.plan.steps, *parts, scales, strict=True):
            view = _view(self.arenas[step.units], step.out)
            if isinstance(step, ProductStep):
                yield _divided(view, step, lowest, factor)
            else:
                yield view._replace(scale=scale) if len(scale) else view

    @property
    def scale(self) -> Tensor:
        """That of the root [B], in double."""
        if not self.plan.one_scale:
            return self.outs[-1].scale[0]
        given = self.scales.sum(dim=0, dtype=torch.float64)
        return given.sub_(self.factors.log().sum(dim=0, dtype=torch.float64))

    @cached_property
    def sparse(self) -> dict[int, Sparse]:
        """Steps of which little may be to do, by number."""
        any_rows = self.is_sparse and self.batch > 0
        if not any_rows:
            return {}
        return sparse_steps(self.plan.steps, self.arenas, self.outs, self.batch)

    @property
    def is_sparse(self) -> bool:
        """Whether much may be zero: under a rule; on a CPU, where that can be looked at."""
        return self.plan.has_rules and self.lowest.device.type == "cpu"

    @property
    def size(self) -> int:
        """In bytes, with what recordings read."""
        return self._size + self.recordings.size

    def inputs(self, number: int, step: Step) -> list[Value]:
        """What step `number` reads: views where its rows lie side by side, copies elsewhere.

        The copies hold until the next step asks.
        """
        ready = self._ready[number]
        if ready is not None:
            return ready
        assert not isinstance(step, InputStep)
        return [
            view or self._copy(slot, step.inputs[slot])
            for slot, view in enumerate(self._ins[number])
        ]

    def place(self, number: int, slot: int) -> Tensor | None:
        """The units that an input of step `number` reads, if they lie side by side."""
        view = self._ins[number][slot]
        return None if view is None else view.units

    def _copy(self, slot: int, read: Read) -> Value:
        assert not isinstance(read.rows, slice)
        arena, copy = self.arenas[read.width], self._copies[slot, read.width]
        folds = len(read.rows)
        units = torch.index_select(arena.units, 0, read.rows, out=copy.units[:folds])
        if self.in_log_space or self.plan.one_scale:
            return Value(units, copy.scale[:folds], copy.lowest)
        scale = torch.index_select(arena.scale, 0, read.rows, out=copy.scale[:folds])
        return Value(units, scale, copy.lowest)

    def _views(self, step: Step) -> list[Value | None]:
        if isinstance(step, InputStep):
            return []
        return [
            _view(self.arenas[read.width], read.rows) if isinstance(read.rows, slice) else None
            for read in step.inputs
        ]


class Incoming:
    """Slopes of the inputs of one step, on their way into a sheet; see `Into`.

    Args:
        sheet: theirs.
        number: of the step.
        step: with its inputs.
    """

    def __init__(self, sheet: Sheet, number: int, step: SumStep | ProductStep) -> None:
        """Nothing has come; what others only add to starts at zero."""
        self.sheet, self.number, self.step = sheet, number, step
        for read in step.first:
            sheet.arenas[read.width].units.index_fill_(0, read.first, 0.0)

    def place(self, slot: int) -> Tensor | None:
        """See `Into`."""
        return self.sheet.place(self.number, slot) if self.step.inputs[slot].fresh else None

    def spread(self, slope: Tensor) -> bool:
        """See `Into`."""
        places, many = self.step.places, len(self.step.inputs)
        if places is None or many * slope.numel() > self.sheet.plan.machine.cached:
            return False
        every = slope.expand(many, *slope.shape).flatten(0, 1)  # [H F, B, K]
        self.sheet.arenas[self.step.units].units.index_copy_(0, places, every)
        return True

    def add(self, slot: int, slope: Tensor) -> None:
        """See `Into`."""
        read = self.step.inputs[slot]
        units = self.sheet.arenas[read.width].units
        if isinstance(read.rows, slice):
            rows = units[read.rows]
            rows.copy_(slope) if read.fresh else rows.add_(slope)
        elif read.fresh:
            units.index_copy_(0, read.rows, slope)
        else:
            add_rows(units, read.rows, slope)


class Pool:
    """Sheets that later calls use again. Any number of threads may take and give.

    Args:
        least: how many sheets are kept while nobody uses any, and as many of a single row.

    Attributes:
        free: those that nobody uses, the latest first.
        lent: those in use.
    """

    def __init__(self, least: int) -> None:
        """Start empty."""
        self.least = least
        self.free: list[Sheet] = []
        self.lent: set[Sheet] = set()
        self._lock = RLock()  # a tape may die, and give, in the middle of `take`

    @property
    def size(self) -> int:
        """Bytes of all sheets."""
        with self._lock:
            return sum(sheet.size for sheet in (*self.free, *self.lent))

    @contextmanager
    def lend(self, plan: Plan, batch: int, like: Tensor) -> Iterator[Sheet]:
        """A sheet with anything on it, for a while."""
        sheet = self.take(plan, batch, like)
        try:
            yield sheet
        finally:
            self.give(sheet)

    def take(self, plan: Plan, batch: int, like: Tensor) -> Sheet:
        """A sheet with anything on it, until it is given back."""
        with self._lock:
            fitting = (s for s in self.free if s.plan is plan and s.batch == batch)
            sheet = next(fitting, None) or Sheet(plan, batch, like)
            self.lent.add(sheet)
            self.free = [other for other in self.free if other is not sheet]
        sheet.recordings.begin()
        return sheet

    def give(self, sheet: Sheet) -> None:
        """Hand a sheet back; nobody may read it any more."""
        with self._lock:
            self.lent.discard(sheet)
            kept, most = [sheet, *self.free], max(self.least, len(self.lent))
            # one row takes next to nothing, and must not drive out what batches are written on
            large = [other for other in kept if other.batch > 1][:most]
            self.free = large + [other for other in kept if other.batch <= 1][:most]


def _all_or_none(views: list[Value | None]) -> list[Value] | None:
    found = [view for view in views if view is not None]
    return found if len(found) == len(views) else None


def _view(arena: Value, rows: slice) -> Value:
    return Value(arena.units[rows], arena.scale[rows], arena.lowest)


def _divided(view: Value, step: ProductStep, lowest: Tensor, factor: Tensor) -> Value:
    """With the divisions of a product, of which lowest and factor are [R F, B]."""
    lowest, factor = (rows.unflatten(0, (-1, step.folds)) for rows in (lowest, factor))
    tiny = torch.finfo(factor.dtype).tiny
    counts = [float(count) for count in step.divided]
    divisions = tuple(
        Division(low, by, by.unsqueeze(-1), by.new_full((), count), count * tiny)
        for low, by, count in zip(lowest, factor, counts, strict=True)
    )
    return view._replace(lowest=lowest, divisions=divisions)
