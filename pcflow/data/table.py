"""Rows as a table of numbers: categories of its columns, and how often pairs of them meet.

Legend: N rows, D variables, V values of all variables together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pcflow.errors import EvidenceError
from pcflow.evidence import Numbers, as_tensor

Floats = npt.NDArray[np.float64]

BINS = 8
"""Quantiles by which a real-valued column is counted."""

MOST_VALUES = 4096
"""Whole numbers from here on are not listed: tables of pairs grow with the largest, squared."""

LIGHTEST, HEAVIEST = 1e-30, 1e30
"""Sums of weights that counts in single precision hold, with room to spare."""


def as_table(data: Any) -> Floats:
    """A copy of rows [N, D], of any numbers; NaN is a missing value.

    Raises:
        EvidenceError: if they are no real numbers, or no rows with columns.
    """
    rows = as_tensor("data", data)
    check_shape("data", rows.shape)
    table: Floats = rows.detach().to("cpu", torch.float64, copy=True).numpy()
    return table


def as_weights(name: str, given: Numbers, rows: int) -> Tensor:
    """How much every row counts [N], in double on the CPU; zero if single precision has no such.

    Raises:
        EvidenceError: if they are not as many, not all numbers from zero up, or all zero; naming
            the first that is wrong. Or if their sum is nothing that single precision can add up.
    """
    weights = as_tensor(name, given).detach().to("cpu", torch.float64)
    if weights.shape != (rows,):
        raise EvidenceError(
            f"{name} must be [{rows}], one for each row, got {tuple(weights.shape)}"
        )
    wrong = ~((weights >= 0) & weights.isfinite())
    if wrong.any():
        row = int(wrong.nonzero()[0])
        raise EvidenceError(f"{name}: row {row} is {weights[row].item()}, but must be at least 0")
    if not weights.any():
        raise EvidenceError(f"{name} are all zero")
    total = weights.sum().item()
    if not LIGHTEST <= total <= HEAVIEST:
        wanted = f"between {LIGHTEST:g} and {HEAVIEST:g}"
        raise EvidenceError(f"the sum of {name} is {total:g}, but must be {wanted}")
    return weights.masked_fill(weights < torch.finfo(torch.float32).tiny, 0.0)


def weighed(data: Any, weights: Numbers | None) -> tuple[Floats, Floats | None]:
    """A table of the rows that count, and how much each does [N]; None if all count alike.

    Raises:
        EvidenceError: see `as_table` and `as_weights`.

    Examples:
        >>> weighed([[0, 1], [2, 3]], [0, 5])
        (array([[2., 3.]]), array([5.]))
    """
    table = as_table(data)
    if weights is None:
        return table, None
    counts: Floats = as_weights("weights", weights, len(table)).numpy()
    return table[counts > 0], counts[counts > 0]


def check_shape(name: str, shape: Sequence[int], width: int | None = None) -> None:
    """Refuse what is no rows with columns, `width` of them if that is known.

    Raises:
        EvidenceError: naming the argument and its shape.
    """
    if len(shape) != 2 or 0 in shape or width not in (None, shape[1]):
        wanted = f"[N, {width or 'D'}] with rows and columns"
        raise EvidenceError(f"{name} must be {wanted}, got {tuple(shape)}")


def as_categories(data: Any, real: Sequence[bool] = ()) -> tuple[Floats, tuple[int, ...]]:
    """Columns [N, D] of small whole numbers (NaN where missing), and how many values each has.

    Whole numbers from 0 on are what they are. Real values, and numbers too large to be listed, are
    counted by quantiles, few different ones each by itself; so their units make no difference.

    Args:
        data: rows [N, D].
        real: of every column, whether it holds real values even if all of them are whole numbers.

    Raises:
        EvidenceError: if a column holds no value, or an infinite one.
    """
    given = as_table(data)
    columns, sizes = np.empty_like(given), []
    for v, column in enumerate(given.T):
        known = column[~np.isnan(column)]
        if len(known) == 0 or not np.isfinite(known).all():
            raise EvidenceError(f"column {v} holds no value, or an infinite one")
        listed = not (real and real[v]) and bool(are_values(known).all())
        columns[:, v] = column if listed else _by_quantile(column, known)
        sizes.append(int(np.nanmax(columns[:, v])) + 1)
    return columns, tuple(sizes)


def are_values(known: Floats) -> npt.NDArray[np.bool_]:
    """Which numbers are whole, from 0 on, and small enough to be listed."""
    fine: npt.NDArray[np.bool_] = (known >= 0) & (known == np.round(known)) & (known < MOST_VALUES)
    return fine


def _by_quantile(column: Floats, known: Floats) -> Floats:
    """Between which of the quantiles of what is known the values [N] are."""
    cuts = np.unique(known)[1:]
    if len(cuts) >= BINS:
        cuts = np.unique(np.quantile(known, np.linspace(0, 1, BINS + 1)[1:-1]))
    return np.where(np.isnan(column), np.nan, np.searchsorted(cuts, column, side="right"))


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
