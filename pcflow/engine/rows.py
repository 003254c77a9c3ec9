"""Which row of an arena every fold gets.

An arena holds all folds of one width. Folds of one strip lie side by side. With `reuse`, a row is
free again after the last strip that reads it; on the way down that strip is the first to write
there, so the same rows serve both ways.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from pcflow.circuit import Layer


@dataclass(frozen=True)
class Placement:
    """Where layers are stored.

    Attributes:
        of: row of every layer, in the arena of its width.
        counts: rows of every arena, by width.
    """

    of: dict[Layer, int]
    counts: dict[int, int]


def assign_rows(strips: list[list[Layer]], reuse: bool) -> Placement:
    """Give every layer a row; those of one strip follow one another."""
    arenas: dict[int, _Arena] = defaultdict(_Arena)
    row: dict[Layer, int] = {}
    dying = _last_readers(strips) if reuse else {}
    for number, strip in enumerate(strips):
        start = arenas[strip[0].units].take(len(strip))
        row.update({layer: start + offset for offset, layer in enumerate(strip)})
        freed: dict[int, list[int]] = defaultdict(list)
        for layer in dying.get(number, ()):
            freed[layer.units].append(row[layer])
        for width, rows in freed.items():
            arenas[width].give(rows)
    return Placement(row, {width: arena.size for width, arena in arenas.items()})


def _last_readers(strips: list[list[Layer]]) -> dict[int, list[Layer]]:
    """Which layers every strip is the last to read."""
    last: dict[Layer, int] = {}
    for number, strip in enumerate(strips):
        last.update({child: number for layer in strip for child in layer.inputs})
    dying: dict[int, list[Layer]] = defaultdict(list)
    for layer, number in last.items():
        dying[number].append(layer)
    return dying


class _Arena:
    """Rows in use and rows that are free."""

    def __init__(self) -> None:
        self.size = 0
        self.free: list[int] = []  # rising

    def take(self, count: int) -> int:
        """The first of `count` rows in a row: the lowest gap that is wide enough, or new ones."""
        run = 0
        for place, row in enumerate(self.free):
            run = run + 1 if place and row == self.free[place - 1] + 1 else 1
            if run == count:
                del self.free[place - count + 1 : place + 1]
                return row - count + 1
        keep = run if self.free and self.free[-1] == self.size - 1 else 0
        start = self.size - keep
        del self.free[len(self.free) - keep :]
        self.size = start + count
        return start

    def give(self, rows: list[int]) -> None:
        self.free += sorted(rows)
        self.free.sort()  # two runs, which takes linear time
