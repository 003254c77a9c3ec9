"""Automata as graphs and drawings.

Legend: V categories, C classes, S states.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pcflow.logic.automata.table import Table
from pcflow.plot import BOXES, GREY, INK, axes_of, titled

if TYPE_CHECKING:
    import networkx as nx
    from matplotlib.axes import Axes


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


def draw(table: Table, names: Sequence[str], axes: Axes | None) -> Axes:
    """States by their distance from the start, ringed where strings may end."""
    import networkx as nx

    graph = to_networkx(table)
    for state, steps in nx.shortest_path_length(graph, table.start).items():
        graph.nodes[state]["steps"] = steps
    place = nx.multipartite_layout(graph, subset_key="steps")
    steps = 1 + max(steps for _, steps in graph.nodes(data="steps"))
    axes = axes_of(axes, min(14.0, 2.0 + 1.5 * steps), 4.0)
    rings = [3.0 if ends else 1.0 for _, ends in graph.nodes(data="accept")]
    fill, edge = BOXES["state"]
    nx.draw_networkx(
        graph, place, ax=axes, node_color=fill, edgecolors=edge, linewidths=rings,
        edge_color=GREY, font_size=9, font_color=INK, connectionstyle="arc3,rad=0.15",
    )  # fmt: skip
    labels = {(a, b): _label(table, c, names) for a, b, c in graph.edges(data="classes")}
    nx.draw_networkx_edge_labels(
        graph, place, labels, ax=axes, font_size=8, font_color=INK, connectionstyle="arc3,rad=0.15"
    )
    axes.set_axis_off()
    states, classes = table.next.shape
    return titled(
        axes, f"Automaton: {states} states, {classes} classes of {len(table.classes)} categories"
    )


def _label(table: Table, classes: Sequence[int], names: Sequence[str]) -> str:
    """The first categories that lead along an edge, by name."""
    import numpy as np

    some = np.flatnonzero(np.isin(table.classes, classes))
    return " ".join(names[c] for c in some[:4].tolist()) + (" ..." if len(some) > 4 else "")
