"""Where boxes and lines of a diagram go, in points: one layout for matplotlib and SVG.

Whoever reads nothing gets the next place from the left, in the order in which it is met; others
stand above the middle of what they read. Then every row moves apart, as little as it must.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from math import hypot
from typing import NamedTuple

from pcflow.plot.diagram import Diagram, Edge, Node

SIZE = 9.0  # of the first line of text; the others are smaller
SMALL = 8.0
GAP, ROW_GAP, PAD, MARGIN = 12.0, 26.0, 6.0, 10.0
DOT = 7.0
ARROW, LABEL = 6.0, 3.0

QUARTERS = [
    ((1 - t) ** 3, 3 * (1 - t) ** 2 * t, 3 * (1 - t) * t**2, t**3) for t in (0.25, 0.5, 0.75)
]
"""What the four points of a Bezier curve weigh at its quarters."""

Point = tuple[float, float]


class Placed(NamedTuple):
    """A node with its box: the middle, and how wide and high it is."""

    node: Node
    x: float
    y: float
    width: float
    height: float


class Curve(NamedTuple):
    """A cubic Bezier curve from one point to another, and what is written at it.

    Attributes:
        start: where it begins.
        bends: the two points between that it is drawn towards.
        end: where it ends.
        label: what is written beside its middle.
        directed: whether it ends in an arrow.
    """

    start: Point
    bends: tuple[Point, Point]
    end: Point
    label: str = ""
    directed: bool = False

    @property
    def inner(self) -> list[Point]:
        """The points a quarter, half and three quarters along."""
        (a, b), ((c, d), (e, f)), (g, h) = self.start, self.bends, self.end
        return [
            (w * a + x * c + y * e + z * g, w * b + x * d + y * f + z * h)
            for w, x, y, z in QUARTERS
        ]

    @property
    def written(self) -> Point:
        """Where the label begins, on the side of the middle that the curve leaves free."""
        x, y = self.inner[1]
        return x + LABEL, y + (0.9 if self.end[0] < self.start[0] else -0.1) * SMALL

    @property
    def head(self) -> tuple[Point, ...]:
        """The three points of its arrow; none if it has no direction."""
        if not self.directed:
            return ()
        (x, y), (from_x, from_y) = self.end, self.bends[1]
        far = hypot(x - from_x, y - from_y)
        back_x, back_y = ARROW * (x - from_x) / far, ARROW * (y - from_y) / far
        left = x - back_x - 0.4 * back_y, y - back_y + 0.4 * back_x
        right = x - back_x + 0.4 * back_y, y - back_y - 0.4 * back_x
        return self.end, left, right

    @property
    def right(self) -> float:
        """How far it reaches to the right, with what is written at it."""
        told = text_width(self.label, SMALL) + LABEL if self.label else 0.0
        return max(x for x, _ in self.inner) + told


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
    told = max((text_width(edge.label, SMALL) for edge in diagram.edges), default=0.0)
    inputs: list[list[int]] = [[] for _ in nodes]
    for edge in diagram.edges:
        if nodes[edge.above].row < nodes[edge.below].row:
            inputs[edge.above].append(edge.below)
    wanted = _columns(inputs, [width + told for width, _ in sizes])
    wide = GAP + max(width for width, _ in sizes)
    wanted = [
        w if n.column is None else n.column * wide for n, w in zip(nodes, wanted, strict=True)
    ]
    rows: dict[int, list[int]] = defaultdict(list)
    for number in sorted(range(len(nodes)), key=lambda n: wanted[n]):
        rows[nodes[number].row].append(number)
    x, y = [0.0] * len(nodes), [0.0] * len(nodes)
    top, row_gap = MARGIN, ROW_GAP + (2 * SMALL if told else 0.0)
    for row in sorted(rows):
        members = rows[row]
        high = max(sizes[n][1] for n in members)
        apart = _apart([wanted[n] for n in members], [sizes[n][0] + told for n in members])
        for number, place in zip(members, apart, strict=True):
            x[number], y[number] = place, top + high / 2
        top += high + row_gap
    left = min(x[n] - sizes[n][0] / 2 for n in range(len(nodes))) - MARGIN
    boxes = tuple(Placed(nodes[n], x[n] - left, y[n], *sizes[n]) for n in range(len(nodes)))
    curves = tuple(_curve(boxes, edge, diagram.directed) for edge in diagram.edges)
    right = max([box.x + box.width / 2 for box in boxes] + [curve.right for curve in curves])
    low = max([top - row_gap] + [max(y for _, y in curve.inner) for curve in curves])
    return Layout(diagram.title, right + MARGIN, low + MARGIN, boxes, curves)


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


def _columns(inputs: Sequence[Sequence[int]], widths: Sequence[float]) -> list[float]:
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
                columns[number] = edge + widths[number] / 2
                edge += widths[number] + GAP
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


def _curve(boxes: Sequence[Placed], edge: Edge, directed: bool) -> Curve:
    """From bottom to top where it leads downwards; else below its row, and up on the right."""
    here, there = boxes[edge.above], boxes[edge.below]
    if here.node.row < there.node.row:
        start, end = (here.x, here.y + here.height / 2), (there.x, there.y - there.height / 2)
        middle = (start[1] + end[1]) / 2
        bends = (start[0], middle), (end[0], middle)
    elif here is there:
        side, high = here.x + here.width / 2, here.height / 4
        start, end = (side, here.y - high), (side, here.y + high)
        bends = (side + 3 * ARROW, here.y - 3 * high), (side + 3 * ARROW, here.y + 3 * high)
    elif here.node.row == there.node.row:
        start, end = (here.x, here.y + here.height / 2), (there.x, there.y + there.height / 2)
        bends = (start[0], start[1] + 2 * ARROW), (end[0], end[1] + 3 * ARROW)
    else:
        start, end = (here.x, here.y + here.height / 2), (there.x + there.width / 2, there.y)
        rows = range(there.node.row, here.node.row + 1)
        side = max(box.x + box.width / 2 for box in boxes if box.node.row in rows)
        side += 2 * GAP + ARROW * len(rows)  # past loops of the boxes between
        bends = (side, start[1] + 3 * GAP), (side, end[1])
    return Curve(start, bends, end, edge.label, directed)
