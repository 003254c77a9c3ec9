"""Automata as graphs and diagrams.

Legend: V categories, C classes, S states.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from pcflow.logic.automata.table import NOWHERE, Table, Wholes
from pcflow.plot import MOST_ROWS, Diagram, Edge, Node, counted

if TYPE_CHECKING:
    import networkx as nx

SHOWN = 4
"""Categories that are written at an edge."""


def to_networkx(table: Table) -> nx.DiGraph[int]:
    """States as nodes, with `accept`; edges with the `classes` that lead along them."""
    import networkx as nx

    graph: nx.DiGraph[int] = nx.DiGraph(start=table.start)
    for state, ends in enumerate(table.accept.tolist()):
        graph.add_node(state, accept=ends)
    for (here, there), classes in ways(table).items():
        graph.add_edge(here, there, classes=tuple(classes))
    return graph


def ways(table: Table) -> dict[tuple[int, int], list[int]]:
    """The classes that lead from a state to another."""
    found: dict[tuple[int, int], list[int]] = defaultdict(list)
    for here, row in enumerate(table.next.tolist()):
        for label, there in enumerate(row):
            if there >= 0:
                found[here, there].append(label)
    return found


def diagram(table: Table, names: Sequence[str], most: int) -> Diagram:
    """States by their distance from the start, one by one or those of a distance together.

    Args:
        table: the automaton.
        names: of the categories.
        most: of boxes for single states.
    """
    states, classes = table.next.shape
    title = f"Automaton: {states} states, {classes} classes of {len(table.classes)} categories"
    steps = _steps(table)
    if states > most:
        return _by_distance(title, table, steps)
    nodes = (_state(table, n, row) for n, row in enumerate(steps.tolist()))
    edges = (Edge(*pair, _label(table, some, names)) for pair, some in ways(table).items())
    return Diagram(title, tuple(nodes), tuple(edges), directed=True)


def _state(table: Table, number: int, row: int) -> Node:
    ends = bool(table.accept[number])
    told = ["start"] * (number == table.start) + ["end"] * ends
    lines = (str(number), " ".join(told)) if told else (str(number),)
    return Node("end" if ends else "state", row, lines)


def _by_distance(title: str, table: Table, steps: Wholes) -> Diagram:
    """A box for the states of a distance; of many distances, one for those of several."""
    levels = 1 + int(steps.max())
    bands = min(levels, MOST_ROWS)
    band = steps * bands // levels
    nodes = []
    for row in range(bands):
        here = band == row
        ends = int((here & table.accept).sum())
        lines = [counted(int(here.sum()), "state"), counted(ends, "end")]
        nodes.append(Node("several", row, tuple(lines[: 1 + (ends > 0)])))
    edges = (Edge(row, row + 1) for row in range(bands - 1))
    return Diagram(title, tuple(nodes), tuple(edges), directed=True)


def _steps(table: Table) -> Wholes:
    """How far every state is from the start."""
    steps = np.full(len(table.next), NOWHERE)
    edge, far = np.array([table.start]), 0
    while len(edge):
        steps[edge] = far
        following = np.unique(table.next[edge])
        following = following[following >= 0]
        edge, far = following[steps[following] < 0], far + 1
    return steps


def _label(table: Table, classes: Sequence[int], names: Sequence[str]) -> str:
    """The first categories that lead along an edge, by name."""
    some = np.flatnonzero(np.isin(table.classes, classes)).tolist()
    return " ".join(names[c] for c in some[:SHOWN]) + (" ..." if len(some) > SHOWN else "")
