"""What a picture of boxes and lines says, before it is laid out: a plain value."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

from pcflow.plot.style import listed


class Node(NamedTuple):
    """A box.

    Attributes:
        kind: says how it looks, see `style.BOXES`.
        row: counted from the top, which is 0.
        lines: what is written in it; a dot if nothing is.
        column: counted from the left; by default above what it leads to.
    """

    kind: str
    row: int
    lines: tuple[str, ...] = ()
    column: int | None = None


class Edge(NamedTuple):
    """A line between two nodes, downwards unless the diagram is directed; and what it says."""

    above: int
    below: int
    label: str = ""


@dataclass(frozen=True)
class Diagram:
    """Boxes in rows, and lines between them.

    Attributes:
        title: what it is of.
        nodes: the boxes.
        edges: pairs of numbers of nodes.
        directed: whether lines are arrows, which may lead anywhere.
    """

    title: str
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    directed: bool = False


@runtime_checkable
class Drawable(Protocol):
    """Whatever says how it is drawn: circuits, models, region graphs, automata."""

    def diagram(self, names: Sequence[str] | None = None, most: int = 40) -> Diagram:
        """Boxes and lines."""


MOST_LETTERS = 20
"""Of names in a box."""

MOST_ROWS = 12
"""Of levels that are drawn one by one; of more, some stand for several."""


def by_depth(
    title: str,
    kinds: Sequence[str],
    inputs: Sequence[Sequence[int]],
    alone: Callable[[int], tuple[str, ...]],
    together: Callable[[list[int]], tuple[str, ...]],
    most: int,
) -> Diagram:
    """Nodes by how far they are from the root: one by one, or those of a kind and level together.

    Args:
        title: of the diagram.
        kinds: of every node.
        inputs: what every node reads, by number; nodes come after those.
        alone: what is written in the box of a node.
        together: the same of a box for several of a kind.
        most: of boxes for single nodes.
    """
    depth = _depth_below(inputs)
    if len(kinds) <= most:
        nodes = tuple(Node(kind, depth[n], alone(n)) for n, kind in enumerate(kinds))
        edges = (Edge(n, below) for n, some in enumerate(inputs) for below in some)
        return Diagram(title, nodes, tuple(edges))
    return _by_level(title, kinds, inputs, depth, together)


def _by_level(
    title: str,
    kinds: Sequence[str],
    inputs: Sequence[Sequence[int]],
    depth: Sequence[int],
    together: Callable[[list[int]], tuple[str, ...]],
) -> Diagram:
    """A box for the nodes of a kind and level; of many levels, one for those of several."""
    levels = 1 + max(depth)
    few = levels <= MOST_ROWS
    places = [_place(d, levels, bool(below)) for d, below in zip(depth, inputs, strict=True)]
    groups: dict[tuple[int, int, str], list[int]] = defaultdict(list)
    for number, (place, kind) in enumerate(zip(places, kinds, strict=True)):
        groups[*place, kind if few else ""].append(number)
    home = {n: g for g, members in enumerate(groups.values()) for n in members}
    nodes = []
    for (row, column, _), members in groups.items():
        found = list(dict.fromkeys(kinds[n] for n in reversed(members)))
        lines = [together([n for n in members if kinds[n] == kind]) for kind in found]
        kind = found[0] if len(found) == 1 else "several"
        nodes.append(Node(kind, row, tuple(line for some in lines for line in some), column))
    pairs = dict.fromkeys((home[n], home[below]) for n, some in enumerate(inputs) for below in some)
    ahead = range(1, 2 if few else 3)  # what is read from afar has readers that are near, too
    edges = (Edge(a, b) for a, b in pairs if nodes[b].row - nodes[a].row in ahead)
    return Diagram(title, tuple(nodes), tuple(edges))


def _place(depth: int, levels: int, inner: bool) -> tuple[int, int]:
    """Row and column of nodes: what reads nothing stands to the left, below its readers."""
    if levels <= MOST_ROWS:
        return depth, int(inner)
    bands = MOST_ROWS // 2
    band = (depth if inner else depth - 1) * bands // levels
    return (2 * band, 1) if inner else (2 * band + 1, 0)


def _depth_below(inputs: Sequence[Sequence[int]]) -> list[int]:
    """How far every node is from the roots, by the longest way; nodes follow their inputs.

    Examples:
        >>> _depth_below([(), (), (0, 1), (0, 2)])
        [2, 2, 1, 0]
    """
    depth = [0] * len(inputs)
    for number in reversed(range(len(inputs))):
        for below in inputs[number]:
            depth[below] = max(depth[below], depth[number] + 1)
    return depth


def span(numbers: Sequence[int]) -> str:
    """The smallest and the largest of some numbers.

    Examples:
        >>> span([3, 1, 2]), span([4, 4])
        ('1-3', '4')
    """
    low, high = min(numbers), max(numbers)
    return f"{low:,}" if low == high else f"{low:,}-{high:,}"


def counted(count: int | str, noun: str) -> str:
    """A number and what it counts.

    Examples:
        >>> counted(1, "unit"), counted(2, "unit"), counted("1-3", "unit")
        ('1 unit', '2 units', '1-3 units')
    """
    told = count if isinstance(count, str) else f"{count:,}"
    return f"{told} {noun}" if told == "1" else f"{told} {noun}s"


def scope_text(variables: Sequence[int], names: Sequence[str] | None) -> str:
    """Some variables, by name if there are few; a long name is cut short.

    Examples:
        >>> scope_text([0, 1, 2, 4], None), scope_text([0, 1], ["age", "height"])
        ('x0-x2, x4', 'age, height')
    """
    told = listed(variables) if names is None else ", ".join(names[v] for v in variables)
    if len(told) <= MOST_LETTERS:
        return told
    alone = f"{told[: MOST_LETTERS - 3]}..."
    return alone if len(variables) == 1 else counted(len(variables), "variable")
