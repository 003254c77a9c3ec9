"""All columns of a table as variables of a circuit, and back.

A value that was never seen gets a share of its own: it says nothing of the other columns.
Legend: N rows, D columns.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from pcflow.data.choice import Wish, chosen
from pcflow.data.form import Json
from pcflow.data.frame import Array, Column, known
from pcflow.data.kinds import Codes, Kind, Moments, kind_told
from pcflow.data.table import Floats
from pcflow.errors import EvidenceError
from pcflow.inputs import InputFamily


@dataclass(frozen=True)
class Encoding:
    """How every column of a table becomes a variable; make one with `of`.

    Args:
        names: of the columns.
        each: one entry per column.

    Examples:
        >>> from pcflow.data import columns_of
        >>> columns = columns_of(np.array([[7.0, 0.5], [9.0, 1.5], [7.0, 1.0], [7.0, 0.3]]))
        >>> encoding = Encoding.of(columns)
        >>> encoding.families
        [Categorical(num_categories=2), LogNormal(min_std=...)]
        >>> encoding.decode(encoding.encode(columns))[0]
        array([7., 9., 7., 7.])
    """

    names: tuple[Hashable, ...]
    each: tuple[Kind, ...]

    @classmethod
    def of(cls, columns: Sequence[Column], wishes: Mapping[int, Wish] | None = None) -> Encoding:
        """Learn codes and scales from the columns of a table.

        Args:
            columns: as they are understood.
            wishes: what is asked of columns, by index; of the others nothing.

        Raises:
            EvidenceError: if a column holds no value, or one that its family does not allow.
            SettingError: if a column of labels is to have a family of numbers.

        Examples:
            >>> from pcflow.data import columns_of
            >>> from pcflow.inputs import Gaussian
            >>> Encoding.of(columns_of(np.array([[0.5], [3.5]])), {0: Wish(Gaussian())}).each[0]
            Scale(family=Gaussian(min_std=0.001), shift=2.0, scale=1.5, ...)
        """
        asked = wishes or {}
        each = [chosen(column, asked.get(v, Wish())) for v, column in enumerate(columns)]
        return cls(tuple(column.name for column in columns), tuple(each))

    @property
    def families(self) -> list[InputFamily]:
        """One input family per variable."""
        return [column.family for column in self.each]

    def encode(self, columns: Sequence[Column]) -> Floats:
        """Values of variables [N, D]; NaN stays, what was never seen becomes infinite.

        Raises:
            EvidenceError: if a column holds something else than when the encoding was made.
        """
        pairs = zip(self.each, columns, strict=True)
        return np.stack([_encoded(how, column) for how, column in pairs], axis=1)

    @property
    def bounds(self) -> dict[str, Callable[[Sequence[Column]], Floats]]:
        """How "lower" and "upper" bounds of columns become bounds [N, D] of variables."""
        return {side: partial(self._bounds, side) for side in ("lower", "upper")}

    def _bounds(self, side: str, columns: Sequence[Column]) -> Floats:
        pairs = zip(self.each, columns, strict=True)
        return np.stack([_bound(how, column, side) for how, column in pairs], axis=1)

    def decode(self, values: Floats) -> list[Array]:
        """Columns [N] from values of variables [N, D]."""
        return [how.decode(part) for how, part in zip(self.each, values.T, strict=True)]

    def log_gains(self, values: Floats) -> Floats:
        """What log-densities [N] of the variables (nats) gain in the units of the columns."""
        gains = [_log_gain(how, part) for how, part in zip(self.each, values.T, strict=True)]
        found: Floats = np.stack(gains).sum(axis=0)
        return found

    def only(self, columns: Sequence[int]) -> Encoding:
        """Of some of the columns."""
        return Encoding(tuple(self.names[v] for v in columns), tuple(self.each[v] for v in columns))

    def told(self) -> list[Json]:
        """Every column as JSON; families are those of the circuit.

        Raises:
            TypeMismatch: if a label has no place there.
        """
        return [how.told() for how in self.each]

    @classmethod
    def from_told(
        cls, names: Sequence[Hashable], told: Sequence[Json], families: Sequence[InputFamily]
    ) -> Encoding:
        """What `told` has told.

        Raises:
            ValueError: if columns and families do not fit.
        """
        each = [kind_told(**one, family=f) for one, f in zip(told, families, strict=True)]
        if len(names) != len(each) or [how.family for how in each] != list(families):
            raise ValueError("its columns are not those of the circuit")
        return cls(tuple(names), tuple(each))


def _encoded(how: Kind, column: Column) -> Floats:
    """Values [N] of a column that holds what it held before, or nothing."""
    there = known(column.values)
    if not there.any():
        return np.full(len(there), np.nan)
    if not isinstance(how, Codes):
        _check_kind(column, "mM" if isinstance(how, Moments) else "f")
    return how.encode(column.values)


def _bound(how: Kind, column: Column, side: str) -> Floats:
    """Bounds [N] of a column."""
    there = known(column.values)
    if not there.any():
        return np.full(len(there), np.nan)
    if isinstance(how, Codes) and how.values.dtype.kind == "O":
        raise EvidenceError(f"column {column.name!r} holds labels, which have no bounds")
    _check_kind(column, "mM" if isinstance(how, Moments) else "f")
    return how.bound(column.values, side)


def _check_kind(column: Column, wanted: str) -> None:
    """Refuse what is of another kind than it was."""
    if column.values.dtype.kind not in wanted:
        held = "numbers" if wanted == "f" else "dates or durations"
        value = column.values[known(column.values)][0]
        raise EvidenceError(f"column {column.name!r} held {held}, and now {value!r}")


def _log_gain(how: Kind, values: Floats) -> Floats:
    """Nothing where a value is missing, the share of the unseen where it is such."""
    never = np.log(how.unseen) if how.unseen > 0 else -np.inf
    seen = how.log_units(values) + np.log1p(-how.unseen)
    return np.where(np.isnan(values), 0.0, np.where(np.isinf(values), never, seen))
