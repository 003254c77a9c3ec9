"""How a table was given, and tables given back alike.

Pandas is imported only where a DataFrame was given. Legend: N rows, D columns.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from math import inf
from typing import Any

import numpy as np

from pcflow.data.frame import Array, Bools, Column, is_dict, is_frame, known
from pcflow.data.table import Floats
from pcflow.errors import EvidenceError, SettingError, TypeMismatch

Json = dict[str, Any]

KINDS = ("array", "dict", "frame")


@dataclass(frozen=True)
class Form:
    """Kind, names and types of a table.

    Args:
        kind: "array", "dict" or "frame".
        names: of the columns; 0, 1, ... of an array.
        types: of the columns of a frame, as pandas has them.

    Raises:
        EvidenceError: if two columns have the same name.

    Examples:
        >>> Form.of({"age": [31], "job": ["a"]}).table([np.array([40.0]), np.array(["b"])])
        {'age': array([40.]), 'job': array(['b'], dtype='<U1')}
    """

    kind: str
    names: tuple[Hashable, ...]
    types: tuple[Any, ...] = ()

    def __post_init__(self) -> None:
        """Names must tell columns apart."""
        if len(set(self.names)) < len(self.names):
            raise EvidenceError("two columns of a table have the same name")

    @classmethod
    def of(cls, table: Any) -> Form:
        """The form of a DataFrame, a dict of columns, or an array [N, D]."""
        if is_frame(table):
            return cls("frame", tuple(table.columns), tuple(table.dtypes))
        if is_dict(table):
            return cls("dict", tuple(table))
        return cls("array", tuple(range(np.shape(table)[1])))

    def place(self, column: Any) -> int:
        """The index of a column by its name, or by that index.

        Raises:
            SettingError: if there is no such column.

        Examples:
            >>> Form("dict", ("age", "job")).place("job"), Form("dict", ("age", "job")).place(0)
            (1, 0)
        """
        if column in self.names:
            return self.names.index(column)
        indices = range(len(self.names))
        shown = ", ".join(repr(name) for name in self.names[:8])
        more = ", ..." if len(self.names) > 8 else ""
        SettingError.check("column", column, f"one of {shown}{more}", lambda v: v in indices)
        return int(column)

    def without(self, gone: Sequence[int]) -> Form:
        """The form of a table that lacks some columns."""
        left = [v for v in range(len(self.names)) if v not in gone]
        types = tuple(self.types[v] for v in left) if self.types else ()
        return replace(self, names=tuple(self.names[v] for v in left), types=types)

    def answering(self, table: Any) -> Form:
        """That in which an answer about a table of these columns is given."""
        if is_frame(table):
            return Form.of(table)
        return replace(self, kind="dict" if is_dict(table) else "array")

    def completed(self, columns: Sequence[Column]) -> list[Column]:
        """All columns, of which some are given; the others are missing."""
        found = {self.place(column.name): column for column in columns}
        nothing = np.full(len(columns[0].values), np.nan)
        return [found.get(v, Column(name, nothing)) for v, name in enumerate(self.names)]

    def with_gaps(self, table: Any, chosen: Sequence[int]) -> Any:
        """A frame that lacks the chosen columns and no others, with them."""
        names = list(self.names)
        others = [name for v, name in enumerate(names) if v not in chosen]
        lacks = is_frame(table) and list(table.columns) == others
        return table.reindex(columns=names) if lacks else table

    def table(self, columns: Sequence[Array]) -> Any:
        """A table of columns [N]."""
        if self.kind == "array":
            return _stacked(columns)
        if self.kind == "dict":
            return dict(zip(self.names, columns, strict=True))
        import pandas

        typed = [_typed(values, dtype) for values, dtype in zip(columns, self.types, strict=True)]
        frame = pandas.concat([pandas.Series(one) for one in typed], axis=1)
        frame.columns = list(self.names)
        return frame

    def filled(self, table: Any, given: Sequence[Column], columns: Sequence[Array]) -> Any:
        """A copy of a table with its gaps filled from columns [N]; all else stays as it is."""
        merged = [_merged(g.values, c) for g, c in zip(given, columns, strict=True)]
        if not is_frame(table):
            return self.table(merged)
        found = table.copy()
        for column, values, dtype in zip(given, merged, self.types, strict=True):
            there = known(column.values)
            if not there.all():
                found[column.name] = _beside(table[column.name], there, _typed(values, dtype))
        return found

    def named(self, table: Any, names: Sequence[Any], numbers: Floats) -> Any:
        """Columns [N, V] of numbers that are told of the rows of a table, with names."""
        if self.kind == "array":
            return numbers
        if self.kind == "dict":
            return dict(zip(names, numbers.T, strict=True))
        import pandas

        return pandas.DataFrame(numbers, table.index, pandas.Index(names))

    def told(self) -> Json:
        """As JSON.

        Raises:
            TypeMismatch: if a name or a category has no place there.
        """
        names = plain("the name of a column", self.names)
        return {"kind": self.kind, "names": names, "types": [*map(_told, self.types)]}

    @classmethod
    def from_told(cls, told: Json) -> Form:
        """What `told` has told."""
        kind, names = told["kind"], tuple(plain("name", told["names"]))
        types = tuple(_dtype(**one) for one in told["types"])
        if kind not in KINDS or len(types) != (len(names) if kind == "frame" else 0):
            raise ValueError(f"{len(types)} types in a table of kind {kind!r}")
        return cls(kind, names, types)


def plain(name: str, some: Sequence[Any]) -> list[Any]:
    """Strings, booleans and finite numbers, which files can keep.

    Raises:
        TypeMismatch: naming the first that is none.
    """
    for one in some:
        if not isinstance(one, str | bool | int | float) or one in (inf, -inf) or one != one:
            raise TypeMismatch(name, one, "a string, a boolean or a number, to be kept in a file")
    return list(some)


def _stacked(columns: Sequence[Array]) -> Array:
    """An array [N, D]; of objects if columns are of several kinds."""
    kinds = {column.dtype.kind for column in columns}
    if len(kinds) == 1:
        return np.stack(columns, axis=1)
    return np.stack([column.astype(object) for column in columns], axis=1)


def _merged(given: Array, filled: Array) -> Array:
    """What is known of a column [N], and elsewhere what fills it."""
    there = known(given)
    alike = given.dtype.kind == filled.dtype.kind or not there.any()
    found = filled.copy() if alike else filled.astype(object)
    found[there] = given[there]
    return found


def _beside(series: Any, there: Bools, filled: Any) -> Any:
    """What is there of a column [N] of a frame, as it is, and elsewhere what fills it."""
    return series.astype(filled.dtype).where(there, filled)


def _typed(values: Array, dtype: Any) -> Any:
    """A column [N] as pandas has it in a column of that type, or of its own if that holds none."""
    import pandas

    if isinstance(dtype, pandas.DatetimeTZDtype):
        return pandas.Series(values).dt.tz_localize("UTC").dt.tz_convert(dtype.tz).array
    if isinstance(dtype, pandas.CategoricalDtype):
        new = [value for value in pandas.unique(values) if value not in dtype.categories]
        return pandas.Categorical(values, [*dtype.categories, *new], dtype.ordered)
    if dtype.kind in "iuf" and values.dtype.kind in "OmM":
        return pandas.Series(values).array  # so is a column of gaps alone
    if dtype.kind == "O" and values.dtype == "M8[D]":
        held = values.clip(np.datetime64(date.min), np.datetime64(date.max)).astype(object)
        return pandas.Series(held, dtype=object).array
    if dtype.kind in "iu":
        return pandas.array(_whole(values, getattr(dtype, "numpy_dtype", dtype)), dtype)
    return pandas.Series(values).astype(dtype).array


def _whole(values: Floats, dtype: Any) -> Array:
    """The nearest whole numbers [N] that a type holds."""
    least, most = np.iinfo(dtype).min, np.iinfo(dtype).max
    found = np.rint(values)
    inside = found.clip(least, np.nextafter(float(most), 0)).astype(dtype)
    return np.where(found >= most, most, inside).astype(dtype)


def _told(dtype: Any) -> Json:
    """A type of pandas as JSON."""
    told: Json = {"name": str(dtype)}
    if hasattr(dtype, "categories"):
        categories = plain("a category", dtype.categories.tolist())
        told |= {"categories": categories, "ordered": bool(dtype.ordered)}
    return told


def _dtype(name: str, categories: list[Any] | None = None, ordered: bool = False) -> Any:
    import pandas

    if categories is not None:
        return pandas.CategoricalDtype(categories, ordered)
    return pandas.api.types.pandas_dtype(name)
