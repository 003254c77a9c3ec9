"""The memory that a pass writes on, kept between calls so that no fresh pages are touched.

Legend: F folds, B batch, K units, R rows of an arena.
"""

from __future__ import annotations

from torch import Tensor

from pcflow.plan import InputStep, Plan, Rows, Step
from pcflow.semiring import Value

MOST_FREE = 2
"""Sheets that a pool keeps while nobody uses them: one for values, one for slopes."""


class Sheet:
    """An arena per width for one batch size, and the views of it that steps write and read.

    Attributes:
        arenas: by width; units [R, B, K], scale and lowest [R, B].
        outs: what each step writes. Only products write `lowest`; it is one everywhere else.
    """

    def __init__(self, plan: Plan, batch: int, like: Tensor) -> None:
        """Allocate, and cut the views."""
        self.batch = batch
        self.arenas = {
            width: Value(
                like.new_empty(rows, batch, width),
                like.new_zeros(rows, batch),
                like.new_ones(rows, batch),
            )
            for width, rows in plan.arenas.items()
        }
        self.outs = [_view(self.arenas[step.units], step.out) for step in plan.steps]
        self._ins = [self._views(step) for step in plan.steps]

    def inputs(self, number: int, step: Step) -> list[Value]:
        """What step `number` reads: views where its rows lie side by side, copies elsewhere."""
        assert not isinstance(step, InputStep)
        views = self._ins[number]
        return [
            view or _gather(self.arenas[step.inputs[slot].width], step.inputs[slot].rows)
            for slot, view in enumerate(views)
        ]

    def place(self, number: int, slot: int) -> Tensor | None:
        """The units that an input of step `number` reads, if they lie side by side."""
        view = self._ins[number][slot]
        return None if view is None else view.units

    def _views(self, step: Step) -> list[Value | None]:
        if isinstance(step, InputStep):
            return []
        return [
            _view(self.arenas[read.width], read.rows) if isinstance(read.rows, slice) else None
            for read in step.inputs
        ]


class Pool:
    """Sheets that later calls use again.

    Attributes:
        free: those that nobody uses, the latest first.
    """

    def __init__(self) -> None:
        """Start empty."""
        self.free: list[Sheet] = []

    def take(self, plan: Plan, batch: int, like: Tensor) -> Sheet:
        """A sheet with anything on it."""
        for place, sheet in enumerate(self.free):
            if sheet.batch == batch:
                return self.free.pop(place)
        return Sheet(plan, batch, like)

    def give(self, sheet: Sheet) -> None:
        """Hand a sheet back; nobody may read it any more."""
        self.free = [sheet, *self.free][:MOST_FREE]

    def __deepcopy__(self, memo: object) -> Pool:
        """A copied model starts with a pool of its own."""
        return Pool()


def _gather(arena: Value, rows: Rows) -> Value:
    """Copies of arena rows; `lowest` is left behind."""
    assert not isinstance(rows, slice)
    units, scale = arena.units.index_select(0, rows), arena.scale.index_select(0, rows)
    return Value(units, scale, scale)


def _view(arena: Value, rows: Rows) -> Value:
    return Value(*(tensor[rows] for tensor in arena))
