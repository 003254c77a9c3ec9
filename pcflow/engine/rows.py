"""Which row of an arena every fold gets.

An arena holds all folds of one width. Folds of one strip lie side by side. With `reuse`, a row is
free again after the last strip that reads it; on the way down that strip is the first to write
there, so the same rows serve both ways.
"""

from __future__ import annotations

from bisect import bisect
from collections import defaultdict
from dataclasses import dataclass
from itertools import chain, count

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
        row.update(zip(strip, count(start)))
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
        last.update(dict.fromkeys(chain.from_iterable(layer.inputs for layer in strip), number))
    dying: dict[int, list[Layer]] = defaultdict(list)
    for layer, number in last.items():
        dying[number].append(layer)
    return dying


class _Arena:
    """Rows in use, and gaps of rows that are free, each as wide as it can be."""

    def __init__(self) -> None:
        self.size = 0
        self.starts: list[int] = []  # of the gaps, rising
        self.stops: list[int] = []

    def take(self, count: int) -> int:
        """The first of `count` rows in a row: the lowest gap that is wide enough, or new ones."""
        for place, (start, stop) in enumerate(zip(self.starts, self.stops, strict=True)):
            if stop - start >= count:
                self._fill(place, count)
                return start
        start = self.size
        if self.stops and self.stops[-1] == self.size:
            self.stops.pop()
            start = self.starts.pop()
        self.size = start + count
        return start

    def give(self, rows: list[int]) -> None:
        """Rows are free again; those that follow one another at once."""
        start = stop = -1
        for row in sorted(rows):
            if row != stop:
                self._open(start, stop)
                start = row
            stop = row + 1
        self._open(start, stop)

    def _fill(self, place: int, count: int) -> None:
        self.starts[place] += count
        if self.starts[place] == self.stops[place]:
            del self.starts[place], self.stops[place]

    def _open(self, start: int, stop: int) -> None:
        """A new gap, one with those beside it."""
        if start == stop:
            return
        place = bisect(self.starts, start)
        if place < len(self.starts) and self.starts[place] == stop:
            stop = self.stops[place]
            del self.starts[place], self.stops[place]
        if place and self.stops[place - 1] == start:
            self.stops[place - 1] = stop
        else:
            self.starts.insert(place, start)
            self.stops.insert(place, stop)
