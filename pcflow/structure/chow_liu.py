"""The tree that keeps most of what pairs of variables say about each other (Chow and Liu 1968).

Legend: N rows, D variables, V values of all variables together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import networkx as nx
import numpy as np
import numpy.typing as npt

from pcflow.errors import StructureError
from pcflow.region_graph import Partition, Region, RegionGraph

Floats = npt.NDArray[np.float64]

BINS = 8
"""Quantiles by which a real-valued column is counted."""


@dataclass(frozen=True, eq=False)
class DependenceTree:
    """A rooted tree over variables.

    Attributes:
        parent: of every variable, -1 for the root.
        order: the variables, parents before children.
    """

    parent: tuple[int, ...]
    order: tuple[int, ...]

    def children(self, variable: int) -> tuple[int, ...]:
        """In rising order."""
        return tuple(v for v, p in enumerate(self.parent) if p == variable)


def chow_liu_tree(data: Any, alpha: float = 1.0) -> RegionGraph:
    """A region for every subtree of the Chow-Liu tree, split into its top variable and the rest.

    Columns of whole numbers 0, 1, ... are counted as they are, real ones by quantiles. A missing
    value (NaN) leaves its row out of the pairs that it is part of.

    Args:
        data: rows [N, D], anything that numpy reads.
        alpha: added to the count of every pair of values.

    Raises:
        StructureError: if there are no rows or columns, or a column holds no value or an infinite
            one, or alpha is negative.

    Examples:
        >>> data = [[0, 0, 0], [1, 1, 0], [1, 1, 1], [0, 0, 0], [1, 0, 0]]
        >>> len(chow_liu_tree(data).leaves)
        3
    """
    tree = dependence_tree(data, alpha)
    region: dict[int, Region] = {}
    partitions = []
    for variable in reversed(tree.order):
        below = [region[child] for child in tree.children(variable)]
        region[variable] = Region([variable, *(v for part in below for v in part.variables)])
        if below:
            partitions.append(Partition(region[variable], (Region([variable]), *below)))
    return RegionGraph(region[tree.order[0]], partitions)


def dependence_tree(data: Any, alpha: float = 1.0, weight: Floats | None = None) -> DependenceTree:
    """The maximum spanning tree of mutual information, rooted at its centre to keep it shallow.

    Rows count once, or with a weight [N] of their own.
    """
    columns, sizes = as_categories(data)
    if alpha < 0:
        raise StructureError(f"alpha must not be negative, got {alpha}")
    information = mutual_information(columns, sizes, alpha, weight)
    graph: nx.Graph[int] = nx.Graph()
    graph.add_nodes_from(range(len(sizes)))
    pairs = zip(*np.triu_indices(len(sizes), 1), strict=True)
    graph.add_weighted_edges_from((int(i), int(j), -information[i, j]) for i, j in pairs)
    tree = nx.minimum_spanning_tree(graph)
    root = min(nx.center(tree))
    parent = {root: -1} | {child: above for above, child in nx.bfs_edges(tree, root)}
    order = (root, *(child for _, child in nx.bfs_edges(tree, root)))
    return DependenceTree(tuple(parent[v] for v in range(len(sizes))), order)


def as_table(data: Any) -> Floats:
    """A copy of rows [N, D], anything that numpy reads; NaN is a missing value."""
    given = np.array(np.asarray(data), dtype=np.float64)
    if given.ndim != 2 or 0 in given.shape:
        raise StructureError(f"data must be [N, D] with rows and columns, got {given.shape}")
    return given


def as_categories(data: Any) -> tuple[Floats, tuple[int, ...]]:
    """Columns [N, D] of small whole numbers (NaN where missing), and how many values each has."""
    given = as_table(data)
    columns, sizes = np.empty_like(given), []
    for v, column in enumerate(given.T):
        known = column[~np.isnan(column)]
        if len(known) == 0 or not np.isfinite(known).all():
            raise StructureError(f"column {v} holds no value, or an infinite one")
        if (known < 0).any() or (known != np.round(known)).any():
            inner = np.linspace(0, 1, BINS + 1)[1:-1]
            counted = np.searchsorted(np.unique(np.quantile(known, inner)), column, side="right")
            columns[:, v] = np.where(np.isnan(column), np.nan, counted)
        else:
            columns[:, v] = column
        sizes.append(int(np.nanmax(columns[:, v])) + 1)
    return columns, tuple(sizes)


def mutual_information(
    columns: Floats, sizes: Sequence[int], alpha: float, weight: Floats | None = None
) -> Floats:
    """Mutual information [D, D] (nats) of every pair, from smoothed counts."""
    found = np.zeros((len(sizes), len(sizes)))
    for i, tables in enumerate(pair_tables(columns, sizes, alpha, weight)):
        for j, joint in enumerate(tables):
            if i != j:
                apart = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
                some = joint > 0
                found[i, j] = float((joint[some] * np.log(joint[some] / apart[some])).sum())
    return found


def pair_tables(
    columns: Floats, sizes: Sequence[int], alpha: float, weight: Floats | None = None
) -> Iterator[list[Floats]]:
    """For every variable, its joint distribution [V_i, V_j] with each of all variables.

    A pair of which nothing is known together is uniform, also without smoothing.
    """
    ends = np.cumsum(sizes)
    for counts in pair_counts(columns, sizes, weight):
        tables = np.split(counts + alpha, ends[:-1], axis=1)
        yield [t / t.sum() if t.sum() > 0 else np.full(t.shape, 1 / t.size) for t in tables]


def pair_counts(
    columns: Floats, sizes: Sequence[int], weight: Floats | None = None
) -> Iterator[Floats]:
    """For every variable, how often (or with which weight [N]) its values meet others' [V_i, V]."""
    ends = np.cumsum([0, *sizes])
    # without weights these are whole numbers, which float32 holds
    one_hot = np.zeros((len(columns), ends[-1]), np.float32 if weight is None else np.float64)
    row, variable = np.nonzero(~np.isnan(columns))
    one_hot[row, ends[variable] + columns[row, variable].astype(np.int64)] = 1.0
    for start, stop in pairwise(ends):
        own = one_hot[:, start:stop] if weight is None else one_hot[:, start:stop] * weight[:, None]
        yield (own.T @ one_hot).astype(np.float64)
