"""The tree that keeps most of what pairs of variables say about each other (Chow and Liu 1968).

Legend: N rows, D variables.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pcflow.data import Floats, as_categories, mutual_information
from pcflow.structure.region_graph import Partition, Region, RegionGraph


@dataclass(frozen=True, eq=False)
class DependenceTree:
    """A rooted tree over variables.

    Attributes:
        parent: of every variable, -1 for the root.
        order: the variables, parents before children.

    Examples:
        >>> DependenceTree(parent=(-1, 0, 0), order=(0, 1, 2)).children(0)
        (1, 2)
    """

    parent: tuple[int, ...]
    order: tuple[int, ...]

    def children(self, variable: int) -> tuple[int, ...]:
        """The variables whose parent a variable is, in rising order.

        Args:
            variable: its number.
        """
        return tuple(v for v, p in enumerate(self.parent) if p == variable)


def chow_liu_tree(data: Any) -> RegionGraph:
    """A region for every subtree of the Chow-Liu tree, split into its top variable and the rest.

    Columns of whole numbers 0, 1, ... are counted as they are, real ones by quantiles. A missing
    value (NaN) leaves its row out of the pairs that it is part of.

    Args:
        data: rows [N, D] of numbers; NaN is a missing value.

    Returns:
        The region graph.

    Raises:
        EvidenceError: if there are no rows or columns, or a column holds no value or an infinite
            one.

    Examples:
        >>> data = [[0, 0, 0], [1, 1, 0], [1, 1, 1], [0, 0, 0], [1, 0, 0]]
        >>> len(chow_liu_tree(data).leaves)
        3
    """
    tree = dependence_tree(data)
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

    Every pair of values counts `alpha` more; rows count once, or with a weight [N] of their own.

    Args:
        data: rows [N, D], NaN where missing.
        alpha: added to counts of pairs of values.
        weight: how much every row counts, [N].

    Returns:
        The tree.

    Examples:
        >>> rows = [[0, 0, 0], [0, 0, 0], [1, 1, 0], [1, 1, 1], [1, 1, 1]]
        >>> dependence_tree(rows).parent  # the second column copies the first, the third does not
        (-1, 0, 0)
    """
    import networkx as nx

    columns, sizes = as_categories(data)
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
