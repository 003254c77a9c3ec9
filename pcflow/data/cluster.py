"""Rows of a table into clusters: k-means that leaves missing values out.

Legend: N rows, D columns, V features, K clusters.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pcflow.data.table import Floats

Labels = npt.NDArray[np.int64]

STEPS = 50
"""Rounds after which k-means stops, settled or not."""


def kmeans(
    columns: Floats, sizes: Sequence[int | None], clusters: int, rng: np.random.Generator
) -> Labels:
    """A cluster [N] for every row; some of the `clusters` may be empty.

    Distances go over the values that a row has, centres are means of the values that are there.

    Args:
        columns: [N, D]; NaN is a missing value.
        sizes: number of values of a column to be compared for equality, None of a real one.
        clusters: how many, K.
        rng: source of the first centres (k-means++, Arthur and Vassilvitskii 2007).

    Examples:
        >>> x = np.array([[0.0], [0.1], [5.0], [5.1]])
        >>> label = kmeans(x, [None], 2, np.random.default_rng(0))
        >>> bool(label[0] == label[1] != label[2] == label[3])
        True
    """
    points = np.concatenate([_points(c, s) for c, s in zip(columns.T, sizes, strict=True)], axis=1)
    known = (~np.isnan(points)).astype(np.float64)
    points = np.where(known > 0, points, 0.0)  # [N, V]
    centres = _far_apart(points, known, clusters, rng)  # [K, V]
    label = np.full(len(points), -1)
    for _ in range(STEPS):
        before, label = label, _distances(points, known, centres).argmin(axis=1)
        if (label == before).all():
            break
        member = (label == np.arange(clusters)[:, None]).astype(np.float64)  # [K, N]
        there = member @ known
        centres = np.where(there > 0, member @ points / np.maximum(there, 1), centres)
    return label


def _points(column: Floats, size: int | None) -> Floats:
    """A real column as multiples of its standard deviation [N, 1], others one-hot [N, V]."""
    if size is not None:
        values = np.unique(column[~np.isnan(column)])
        one_hot = (column[:, None] == values).astype(np.float64)
        return np.where(np.isnan(column)[:, None], np.nan, one_hot)
    there = column[~np.isnan(column)]
    middle, spread = (there.mean(), there.std()) if len(there) else (0.0, 0.0)
    return ((column - middle) / (spread if spread > 0 else 1.0))[:, None]


def _distances(points: Floats, known: Floats, centres: Floats) -> Floats:
    """Squared distances [N, K] less what does not depend on the centre."""
    found: Floats = known @ (centres**2).T - 2 * points @ centres.T
    return found


def _far_apart(points: Floats, known: Floats, clusters: int, rng: np.random.Generator) -> Floats:
    """Rows [K, V], each drawn with the square of its distance to those before."""
    chosen = [int(rng.integers(len(points)))]
    square = (points**2).sum(axis=1, keepdims=True)
    while len(chosen) < clusters:
        distance = (square + _distances(points, known, points[chosen])).min(axis=1).clip(0)
        total = distance.sum()
        chance = distance / total if total > 1e-9 * len(points) else None
        chosen.append(int(rng.choice(len(points), p=chance)))
    return points[chosen]
