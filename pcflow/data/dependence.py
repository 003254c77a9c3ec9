"""Which columns depend on each other: tests of all pairs of a table at once.

Columns of few values are counted (G-test); all others are ranked and compared by a randomised
dependence coefficient. Legend: N rows, D columns, V values of all columns together, K features.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pcflow.data.table import Floats, pair_counts

Bools = npt.NDArray[np.bool_]

FEATURES = 10
"""Random features of a ranked column; enough for some three waves over its range."""
FREQUENCY = 4.0
"""Their standard deviation in frequency."""
NOTHING = 1e-6
"""Share of the variance below which a direction of the features counts as absent."""


def dependent_groups(
    columns: Floats, sizes: Sequence[int | None], significance: float, rng: np.random.Generator
) -> list[list[int]]:
    """Groups of columns that are connected by dependent pairs; each in rising order.

    Args:
        columns: [N, D]; NaN is a missing value and leaves its row out of the pairs it is part of.
        sizes: number of values of a column to be counted, None of one to be ranked.
        significance: probability, at most, that any independent pair is called dependent.
        rng: source of the random features.

    Examples:
        >>> x = np.tile([[0, 1, 0], [1, 0, 0], [0, 1, 1], [1, 0, 1]], (10, 1)).astype(float)
        >>> dependent_groups(x, (2, 2, 2), 0.01, np.random.default_rng(0))
        [[0, 1], [2]]
    """
    from scipy.sparse.csgraph import connected_components

    pairs = dependent_pairs(columns, sizes, significance, rng)
    count, label = connected_components(pairs, directed=False)
    return [np.flatnonzero(label == group).tolist() for group in range(count)]


def dependent_pairs(
    columns: Floats, sizes: Sequence[int | None], significance: float, rng: np.random.Generator
) -> Bools:
    """Whether each pair of columns is dependent [D, D]; see `dependent_groups`."""
    counted = np.array([size is not None for size in sizes])
    chance: Floats = np.ones((len(sizes), len(sizes)))
    if not counted.all():
        correlation, used, rows = rank_correlations(columns, rng)
        chance = _bartlett(correlation, used, rows)
    if counted.any():
        statistic, freedom = g_tests(columns[:, counted], [s for s in sizes if s is not None])
        chance[np.ix_(counted, counted)] = _above(statistic, freedom)
    pairs = len(sizes) * (len(sizes) - 1) / 2
    return chance < significance / max(pairs, 1)  # Bonferroni: one bad edge joins two groups


def g_tests(columns: Floats, sizes: Sequence[int]) -> tuple[Floats, Floats]:
    """Statistic G = 2 sum O ln(O / E) and degrees of freedom [D, D] of every pair of columns.

    The degrees of freedom count the values that occur in the rows where both columns are known.
    """
    from scipy.special import xlogy

    starts = np.cumsum([0, *sizes[:-1]])
    statistic, freedom = np.zeros((2, len(sizes), len(sizes)))
    for i, counts in enumerate(pair_counts(columns, sizes)):
        own = np.add.reduceat(counts, starts, axis=1)  # [V_i, D]
        other = counts.sum(axis=0)  # [V]
        total = own.sum(axis=0)  # [D]
        together = np.add.reduceat(xlogy(counts, counts).sum(axis=0), starts)
        apart = xlogy(own, own).sum(axis=0) + np.add.reduceat(xlogy(other, other), starts)
        statistic[i] = 2 * (together - apart + xlogy(total, total))
        met = np.add.reduceat((other > 0).astype(np.float64), starts)
        freedom[i] = ((own > 0).sum(axis=0) - 1).clip(0) * (met - 1).clip(0)
    return statistic, freedom


def rank_correlations(columns: Floats, rng: np.random.Generator) -> tuple[Floats, Floats, Floats]:
    """Canonical correlations [D, D, K] of random features of the ranks, largest first.

    The first of them is the randomised dependence coefficient of the pair (Lopez-Paz et al. 2013):
    near 0 if independent, 1 if one column is a function of the other. Also how many directions the
    features of a column have in a pair [D, D] (0 if constant), and the rows [D, D] behind it.
    """
    known = (~np.isnan(columns)).astype(np.float64)
    features = _features(columns, rng)  # [N, D, 1 + K]
    N, D, K = features.shape
    flat = features.reshape(N, D * K)
    between = (flat.T @ flat).reshape(D, K, D, K).swapaxes(1, 2)  # [D, D, K, K]
    squares = ((f[:, :, None] * f[:, None, :]).reshape(N, -1) for f in features.swapaxes(0, 1))
    within = np.stack([known.T @ s for s in squares]).reshape(D, D, K, K)
    rows = within[..., 0, 0]
    mean = within[..., 0, 1:] / np.maximum(rows, 1)[..., None]  # of column i where j is known
    scale = np.maximum(rows, 1)[..., None, None]
    spread = within[..., 1:, 1:] / scale - mean[..., :, None] * mean[..., None, :]
    shared = between[..., 1:, 1:] / scale - mean[..., :, None] * mean.swapaxes(0, 1)[..., None, :]
    whitener, used = _whitener(spread)
    white = whitener @ shared @ whitener.swapaxes(0, 1).swapaxes(2, 3)
    return np.linalg.svd(white, compute_uv=False).clip(0, 1), used, rows


def _features(columns: Floats, rng: np.random.Generator) -> Floats:
    """One, and random waves of the ranks [N, D, 1 + K]; zero where missing."""
    from scipy.stats import rankdata

    rank = rankdata(columns, axis=0, nan_policy="omit")
    share = rank / np.maximum((~np.isnan(columns)).sum(axis=0), 1)
    frequency = FREQUENCY * rng.standard_normal((columns.shape[1], FEATURES))
    phase = rng.uniform(0, 2 * np.pi, frequency.shape)
    waves = np.sin(frequency * share[:, :, None] + phase)
    ones = np.ones((*columns.shape, 1))
    known = ~np.isnan(columns)[:, :, None]
    return np.where(known, np.concatenate([ones, waves], axis=2), 0.0)


def _whitener(covariance: Floats) -> tuple[Floats, Floats]:
    """Rows that decorrelate the features [D, D, K, K], zero beyond their rank [D, D]."""
    variance, direction = np.linalg.eigh(covariance)
    used = variance > NOTHING
    factor = np.where(used, 1 / np.sqrt(np.where(used, variance, 1.0)), 0.0)
    return factor[..., None] * direction.swapaxes(2, 3), used.sum(axis=-1).astype(np.float64)


def _bartlett(correlation: Floats, used: Floats, rows: Floats) -> Floats:
    """Probability [D, D] of canonical correlations this large if independent (Bartlett 1941)."""
    factor = (rows - 1 - (used + used.T + 1) / 2).clip(0)
    unexplained = np.maximum(1 - correlation**2, np.finfo(np.float64).tiny)
    return _above(-factor * np.log(unexplained).sum(axis=-1), used * used.T)


def _above(statistic: Floats, freedom: Floats) -> Floats:
    """Probability that chi-square is larger: one where nothing could vary, for that gives zero."""
    from scipy.special import chdtrc

    found: Floats = chdtrc(np.maximum(freedom, 1), np.maximum(statistic, 0))
    return found
