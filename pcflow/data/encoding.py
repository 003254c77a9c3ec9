"""Columns of a table as variables of a circuit, and back: codes counted, real values standardised.

Legend: N rows, D columns, V codes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pcflow.data.table import Floats
from pcflow.errors import EvidenceError, SettingError
from pcflow.inputs import Categorical, Gaussian, InputFamily

Coded = Sequence[int] | Mapping[int, Sequence[float]] | str
"""Which columns hold codes: "auto", their indices, or those with codes that may occur."""

MOST_CODES = 20
"""A column of whole numbers is taken for codes if it holds at most so many different ones."""


@dataclass(frozen=True, eq=False)
class Codes:
    """A column of codes, any numbers: variable values 0, 1, ... in rising order of the codes.

    Args:
        values: the codes [V], rising.

    Examples:
        >>> Codes(np.array([10.0, 25.0])).encode(np.array([25.0, np.nan, 7.0]))
        array([ 1., nan, inf])
    """

    values: Floats
    log_scale = 0.0

    @property
    def family(self) -> InputFamily:
        """A probability for every code."""
        return Categorical(len(self.values))

    def encode(self, column: Floats) -> Floats:
        """The place of every code [N]; infinite where there is no such code."""
        place = np.searchsorted(self.values, column).clip(max=len(self.values) - 1)
        known = np.where(self.values[place] == column, place, np.inf)
        return np.where(np.isnan(column), np.nan, known)

    def decode(self, values: Floats) -> Floats:
        """The codes [N] at these places."""
        return self.values[values.astype(np.int64)]


@dataclass(frozen=True)
class Scale:
    """A column of real values: of mean zero and variance one as a variable.

    Args:
        mean: what is subtracted.
        std: what it is divided by then.

    Examples:
        >>> Scale(mean=10.0, std=2.0).encode(np.array([10.0, 14.0]))
        array([0., 2.])
    """

    mean: float
    std: float

    @property
    def family(self) -> InputFamily:
        """A normal density."""
        return Gaussian()

    @property
    def log_scale(self) -> float:
        """What the log-density (nats) loses when it is taken per unit of the column."""
        return float(np.log(self.std))

    def encode(self, column: Floats) -> Floats:
        """Standard scores [N]."""
        return (column - self.mean) / self.std

    def decode(self, values: Floats) -> Floats:
        """Values [N] with these standard scores."""
        return values * self.std + self.mean


@dataclass(frozen=True)
class Encoding:
    """How every column of a table becomes a variable; make one with `of`.

    Args:
        each: one entry per column.

    Examples:
        >>> columns = Encoding.of(np.array([[7.0, 0.5], [9.0, 1.5], [7.0, np.nan]]))
        >>> columns.families
        [Categorical(num_categories=2), Gaussian(min_std=0.001)]
        >>> columns.decode(columns.encode(np.array([[9.0, 2.5]])))
        array([[9. , 2.5]])
    """

    each: tuple[Codes | Scale, ...]

    @classmethod
    def of(cls, data: Floats, categorical: Coded = "auto") -> Encoding:
        """Learn codes, means and scales from a table.

        Args:
            data: rows [N, D]; NaN is a missing value.
            categorical: which columns hold codes, by index; a mapping also tells codes that may
                occur and are not in the table. "auto" takes columns with at most 20 different
                values, all of them whole numbers.

        Raises:
            EvidenceError: if a column holds no value.
            SettingError: if `categorical` is neither "auto" nor columns of the table.

        Examples:
            >>> Encoding.of(np.array([[0.0], [2.0]]), categorical=[]).each
            (Scale(mean=1.0, std=1.0),)
        """
        known = [column[~np.isnan(column)] for column in data.T]
        empty = [v for v, values in enumerate(known) if len(values) == 0]
        if empty:
            raise EvidenceError(f"column {empty[0]} holds no value")
        coded = _coded(known, categorical)
        return cls(
            tuple(
                Codes(np.union1d(values, coded[v])) if v in coded else _scale(values)
                for v, values in enumerate(known)
            )
        )

    @property
    def families(self) -> list[InputFamily]:
        """One input family per variable."""
        return [column.family for column in self.each]

    @property
    def log_scales(self) -> Floats:
        """Per column [D], what a log-density (nats) of its variable is too large by."""
        return np.array([column.log_scale for column in self.each])

    def encode(self, data: Floats) -> Floats:
        """Values of variables [N, D] from rows; NaN stays, a code never seen becomes infinite."""
        pairs = zip(self.each, data.T, strict=True)
        return np.stack([column.encode(values) for column, values in pairs], axis=1)

    def decode(self, values: Floats) -> Floats:
        """Rows [N, D] from values of variables."""
        pairs = zip(self.each, values.T, strict=True)
        return np.stack([column.decode(part) for column, part in pairs], axis=1)


def _coded(known: Sequence[Floats], categorical: Coded) -> Mapping[int, Sequence[float]]:
    """The columns that hold codes, with codes that they may hold besides."""
    columns = range(len(known))
    wanted = f'"auto" or some of the columns 0 to {columns[-1]}'
    if isinstance(categorical, str):
        SettingError.check("categorical", categorical, wanted, lambda word: word == "auto")
        return {v: () for v, values in enumerate(known) if _looks_coded(values)}
    SettingError.check("categorical", categorical, wanted, lambda some: set(some) <= set(columns))
    return categorical if isinstance(categorical, Mapping) else dict.fromkeys(categorical, ())


def _looks_coded(values: Floats) -> bool:
    return bool((values == np.round(values)).all()) and len(np.unique(values)) <= MOST_CODES


def _scale(values: Floats) -> Scale:
    """Mean and standard deviation; a constant has neither a scale nor rounding errors for one."""
    std = float(values.std()) if np.ptp(values) > 0 else 0.0
    return Scale(float(values.mean()), std or 1.0)
