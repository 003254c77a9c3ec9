"""Tables as people have them: arrays of anything, dicts of columns, pandas DataFrames.

Every column becomes an array of one of three kinds: numbers (float64, NaN where missing), moments
or durations (NaT where missing), labels (objects, None where missing). Legend: N rows, D columns.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pcflow.errors import EvidenceError, TypeMismatch

Array = npt.NDArray[Any]
Bools = npt.NDArray[np.bool_]

UNDERSTOOD = "a string, a number, a boolean, a date or another label that can be looked up"


class Column(NamedTuple):
    """A column as it is understood.

    Attributes:
        name: what errors call it.
        values: [N], of one of the three kinds.
        told: what may occur, if it is declared to be of categories.
    """

    name: Hashable
    values: Array
    told: tuple[Any, ...] | None = None


def known(values: Array) -> Bools:
    """Which values [N] of an understood column are not missing.

    Examples:
        >>> known(np.array(["a", None], dtype=object)), known(np.array([np.nan, 1.0]))
        (array([ True, False]), array([False,  True]))
    """
    if values.dtype.kind == "O":
        return np.array([value is not None for value in values], dtype=np.bool_)
    return ~(np.isnat(values) if values.dtype.kind in "mM" else np.isnan(values))


def is_frame(table: object) -> bool:
    """Whether it is a pandas DataFrame, or the like."""
    return hasattr(table, "columns") and hasattr(table, "iloc")


def is_dict(table: object) -> bool:
    """Whether it is a dict of columns; some sparse matrices are dicts, too."""
    return isinstance(table, Mapping) and not hasattr(table, "shape")


def columns_of(table: Any) -> list[Column]:
    """The columns of a DataFrame, a dict of columns, or an array [N, D], understood.

    Raises:
        TypeMismatch: if a value is nothing that a column may hold; names column and row.
        EvidenceError: if a number is infinite, or columns are of different lengths.

    Examples:
        >>> [column.values for column in columns_of({"job": ["a", None], "age": [31, 40]})]
        [array(['a', None], dtype=object), array([31., 40.])]
    """
    if is_frame(table):
        return [_of_series(name, table.iloc[:, v]) for v, name in enumerate(table.columns)]
    if is_dict(table):
        found = [Column(name, understood(name, _array(some))) for name, some in table.items()]
        if len({len(column.values) for column in found}) > 1:
            raise EvidenceError("the columns of a table must have equally many rows")
        return found
    return [Column(v, understood(v, column)) for v, column in enumerate(np.asarray(table).T)]


def understood(name: Hashable, values: Array) -> Array:
    """A column [N] of anything as numbers, moments, durations or labels.

    Raises:
        TypeMismatch: if a value cannot be looked up, or is a complex number.
        EvidenceError: if a number is infinite, or it is no column.

    Examples:
        >>> understood("age", np.array([31, None, 2.5], dtype=object))
        array([31. ,  nan,  2.5])
    """
    kind = values.dtype.kind
    if values.ndim != 1:
        raise EvidenceError(f"column {name!r} must be [N], got {values.shape}")
    if kind == "O":
        values = _of_objects(name, values)
    elif kind in "bUS":
        values = values.astype(object)
    elif kind in "iuf":
        values = values.astype(np.float64)
    elif kind in "mM":
        unit = np.datetime_data(values.dtype)[0]
        values = values.astype(f"{kind}8[{'D' if unit in 'YMW' else unit}]")
    else:
        raise TypeMismatch(f"column {name!r}: a value", values[:1], UNDERSTOOD)
    if values.dtype.kind == "f" and np.isinf(values).any():
        raise EvidenceError(f"column {name!r} holds infinity in row {np.isinf(values).argmax()}")
    return values


def _of_series(name: Hashable, series: Any) -> Column:
    """A column of a DataFrame; time zones become UTC."""
    dtype = series.dtype
    if isinstance(dtype, np.dtype) and dtype.kind != "O":
        return Column(name, understood(name, series.to_numpy()))
    if dtype.kind == "M":
        return Column(name, series.dt.tz_convert("UTC").dt.tz_localize(None).to_numpy())
    objects = understood(name, series.to_numpy(dtype=object, na_value=None))
    told = getattr(dtype, "categories", None)
    return Column(name, objects, None if told is None else tuple(told.tolist()))


def _array(some: Any) -> Array:
    """A column [N] as an array; a list may mix what it likes."""
    if not isinstance(some, Sequence) or isinstance(some, str):
        return np.atleast_1d(np.asarray(some))
    found = np.empty(len(some), dtype=object)
    found[:] = some
    return found


def _of_objects(name: Hashable, values: Array) -> Array:
    """By what all of the objects are; labels if they are of several kinds."""
    there = np.array([not _is_missing(value) for value in values], dtype=np.bool_)
    some = [v.item() if isinstance(v, np.bool_ | np.str_) else v for v in values[there]]
    for row, value in zip(np.flatnonzero(there), some, strict=True):
        if not isinstance(value, Hashable):
            raise TypeMismatch(f"column {name!r}, row {row}: the argument", value, UNDERSTOOD)
    if all(_is_number(value) for value in some):
        return _placed(there, [float(value) for value in some], np.array(np.nan))
    if all(isinstance(value, date | np.datetime64) for value in some):
        return _placed(there, [_naive(m) for m in some], np.array("NaT", f"M8[{_unit(some)}]"))
    if all(isinstance(value, timedelta | np.timedelta64) for value in some):
        spans = [np.timedelta64(span).astype("m8[us]") for span in some]
        return _placed(there, spans, np.array("NaT", "m8[us]"))
    return _placed(there, some, np.array(None))


def _is_number(value: Any) -> bool:
    """Whether it is one to compute with; to numpy a duration is a whole number, too."""
    return isinstance(value, Real | Decimal) and not isinstance(value, bool | np.timedelta64)


def _is_missing(value: Any) -> bool:
    """Whether it is None, NaN, NaT, or pandas' NA, of which nothing can be said."""
    try:
        return value is None or bool(value != value)
    except (TypeError, ValueError):
        return type(value).__name__ == "NAType"


def _naive(moment: Any) -> Any:
    """Without its time zone, in UTC."""
    aware = isinstance(moment, datetime) and moment.tzinfo is not None
    return moment.astimezone(UTC).replace(tzinfo=None) if aware else moment


def _unit(moments: Sequence[Any]) -> str:
    """Days of dates, microseconds of what has a time of day."""
    whole = all(isinstance(m, date) and not isinstance(m, datetime) for m in moments)
    return "D" if whole else "us"


def _placed(there: Bools, some: Sequence[Any], nothing: Array) -> Array:
    """The values where they are, and nothing elsewhere."""
    found = np.full(len(there), nothing)
    for row, value in zip(np.flatnonzero(there), some, strict=True):
        found[row] = value
    return found
