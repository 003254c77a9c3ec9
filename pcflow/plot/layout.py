"""Where boxes and lines of a diagram go, in points: one layout for matplotlib and SVG.

Whoever reads nothing gets the next place from the left, in the order in which it is met; others
stand above the middle of what they read. Then every row moves apart, as little as it must.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from pcflow.plot.diagram import Diagram, Node

SIZE = 9.0  # of the first line of text; the others are smaller
SMALL = 8.0
GAP, ROW_GAP, PAD, MARGIN = 12.0, 26.0, 6.0, 10.0
DOT = 7.0

Point = tuple[float, float]


class Placed(NamedTuple):
    """A node with its box: the middle, and how wide and high it is."""

    node: Node
    x: float
    y: float
    width: float
    height: float


class Curve(NamedTuple):
    """A line from one point to another, both ends upright, and what is written at it."""

    start: Point
    end: Point
    label: str

    @property
    def bends(self) -> tuple[Point, Point]:
        """The two points between that a cubic Bezier curve is drawn towards."""
        middle = (self.start[1] + self.end[1]) / 2
        return (self.start[0], middle), (self.end[0], middle)


class Layout(NamedTuple):
    """All of a picture; y counts downwards."""

    title: str
    width: float
    height: float
    boxes: tuple[Placed, ...]
    curves: tuple[Curve, ...]


def lay_out(diagram: Diagram) -> Layout:
    """Give every node a place such that no box overlaps with another."""
    nodes, sizes = diagram.nodes, [_size(node) for node in diagram.nodes]
    inputs: list[list[int]] = [[] for _ in nodes]
    for edge in diagram.edges:
        inputs[edge.above].append(edge.below)
    wanted = _columns(inputs, sizes)
    wide = GAP + max(width for width, _ in sizes)
    wanted = [
        w if n.column is None else n.column * wide for n, w in zip(nodes, wanted, strict=True)
    ]
    rows: dict[int, list[int]] = defaultdict(list)
    for number in sorted(range(len(nodes)), key=lambda n: wanted[n]):
        rows[nodes[number].row].append(number)
    x, y = [0.0] * len(nodes), [0.0] * len(nodes)
    top = MARGIN
    for row in sorted(rows):
        members = rows[row]
        high = max(sizes[n][1] for n in members)
        apart = _apart([wanted[n] for n in members], [sizes[n][0] for n in members])
        for number, place in zip(members, apart, strict=True):
            x[number], y[number] = place, top + high / 2
        top += high + ROW_GAP
    left = min(x[n] - sizes[n][0] / 2 for n in range(len(nodes))) - MARGIN
    boxes = tuple(Placed(nodes[n], x[n] - left, y[n], *sizes[n]) for n in range(len(nodes)))
    width = max(box.x + box.width / 2 for box in boxes) + MARGIN
    curves = tuple(_curve(boxes[e.above], boxes[e.below], e.label) for e in diagram.edges)
    return Layout(diagram.title, width, top - ROW_GAP + MARGIN, boxes, curves)


def text_width(text: str, size: float) -> float:
    """About how wide a text is in a sans-serif font, rather too wide than too narrow."""
    narrow = sum(text.count(c) for c in "iljt.,:;|'()[]fI -")
    return size * (0.62 * len(text) - 0.24 * narrow)


def _size(node: Node) -> tuple[float, float]:
    if not node.lines:
        return DOT, DOT
    sizes = [SIZE, *[SMALL] * (len(node.lines) - 1)]
    wide = max(text_width(t, s) for t, s in zip(node.lines, sizes, strict=True))
    return wide + 2 * PAD, 1.3 * sum(sizes) + PAD


def _columns(inputs: Sequence[Sequence[int]], sizes: Sequence[tuple[float, float]]) -> list[float]:
    """Where nodes would like to stand; a node's inputs are before or after it."""
    columns: dict[int, float] = {}
    edge = 0.0
    read = {below for some in inputs for below in some}
    stack = [(n, False) for n in reversed(range(len(inputs))) if n not in read]
    while stack:
        number, done = stack.pop()
        if done:
            places = [columns[below] for below in inputs[number]]
            columns[number] = sum(places) / len(places)
        elif number not in columns:
            if inputs[number]:
                stack.append((number, True))
                stack.extend((below, False) for below in reversed(inputs[number]))
            else:
                columns[number] = edge + sizes[number][0] / 2
                edge += sizes[number][0] + GAP
    return [columns[n] for n in range(len(inputs))]


def _apart(wanted: Sequence[float], widths: Sequence[float]) -> list[float]:
    """The nearest places, by squares, in the same order and without overlap."""
    steps = [0.0]
    for left, right in pairwise(widths):
        steps.append(steps[-1] + (left + right) / 2 + GAP)
    pools: list[list[float]] = []  # of places that stand side by side: their sum, and how many
    for place, step in zip(wanted, steps, strict=True):
        pools.append([place - step, 1.0])
        while len(pools) > 1 and pools[-2][0] * pools[-1][1] >= pools[-1][0] * pools[-2][1]:
            total, count = pools.pop()
            pools[-1][0] += total
            pools[-1][1] += count
    level = [total / count for total, count in pools for _ in range(int(count))]
    return [start + step for start, step in zip(level, steps, strict=True)]


def _curve(above: Placed, below: Placed, label: str) -> Curve:
    start = above.x, above.y + above.height / 2
    return Curve(start, (below.x, below.y - below.height / 2), label)
