"""Which kind of variable suits a column of a table, if nobody says it, or to what it is asked.

Labels and few values are counted, whole numbers get a distribution of whole numbers, others a
density at the scale of the column, beside an atom where one value is frequent. Legend: N rows,
V codes.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from numbers import Real
from typing import Any, NamedTuple

import numpy as np

from pcflow.checks import check_kind, check_kinds
from pcflow.data.frame import Array, Column, known
from pcflow.data.kinds import DAY, STEPS, Codes, Kind, Moments, Scale, days_since, objects
from pcflow.data.table import Floats
from pcflow.errors import EvidenceError, SettingError
from pcflow.inputs import (
    DensityFamily,
    DiscretizedLogistic,
    Exponential,
    Gaussian,
    Inflated,
    InputFamily,
    LogNormal,
)

MOST_CODES = 20
"""A column is taken for codes if it holds at most so many different values, ..."""

ROWS_PER_CODE = 5
"""... and each of them so often, on average."""

MOST_WHOLE = 256
"""Whole numbers from at most so many are counted as such."""

ATOM = 0.1
"""A value of a real column that is at least this share of it has a probability of its own."""

FLOOR = 1e-3
"""How narrow a unit of a positive column may get, of the spread of its logarithm."""


class Wish(NamedTuple):
    """What is asked of a column.

    Attributes:
        family: of its numbers; by default what they look like.
        besides: codes that it may hold besides those that it holds, if it is to be one of codes.
        may_be_coded: whether it is taken for codes if it looks like it.
    """

    family: InputFamily | None = None
    besides: Sequence[Any] | None = None
    may_be_coded: bool = True


def chosen(column: Column, wish: Wish) -> Kind:
    """How a column is encoded."""
    values = column.values[known(column.values)]
    if len(values) == 0:
        raise EvidenceError(f"column {column.name!r} holds no value")
    if column.told is not None and wish.besides is None:
        wish = wish._replace(besides=column.told)
    if values.dtype.kind not in "mM":
        return _plain(column.name, values, wish)
    first = _first(values) if values.dtype.kind == "M" else np.zeros(1, values.dtype)[0]
    if wish.besides is not None:
        besides = days_since(first, np.array(wish.besides, values.dtype))
        wish = wish._replace(besides=besides.tolist())
    return Moments(
        first, _plain(column.name, days_since(first, values), wish), _step(values - first)
    )


def _first(moments: Array) -> Any:
    """The first; or whole days later, in the middle, if the last is too far from it."""
    first, last = moments.min(), moments.max()
    if last - first >= np.zeros((), (last - first).dtype):
        return first
    middle = (first.astype(np.int64) // 2 + last.astype(np.int64) // 2).astype(first.dtype)
    return middle - (middle - first) % DAY


def _step(spans: Array) -> str:
    """The longest unit of which durations [N] are whole multiples."""
    return next(u for u in STEPS if (spans == spans.astype(f"m8[{u}]")).all())


def _plain(name: Hashable, values: Array, wish: Wish) -> Codes | Scale:
    """How labels or numbers [N] are encoded, none of them missing."""
    labels, family = values.dtype.kind == "O", wish.family
    if family is None:
        coded = wish.besides is not None or labels or (wish.may_be_coded and _looks_coded(values))
        return _codes(values, wish.besides) if coded else _numbers(values)
    check_kind("families", family, InputFamily, "input families")
    if labels:
        raise SettingError("families", family, f"of numbers; column {name!r} holds labels")
    found = _of_family(values, family)
    wrong = np.isinf(found.encode(values))
    if wrong.any():
        raise EvidenceError(f"column {name!r} holds {values[wrong][0]:g}, not for {family}")
    return found


def _looks_coded(values: Floats) -> bool:
    """Whether a column is constant, of two whole numbers, or of few values that are seen often."""
    different = np.unique(values)
    if len(different) <= 2 and (different == np.round(different)).all():
        return True
    often = len(values) >= ROWS_PER_CODE * len(different)
    return len(different) == 1 or (often and len(different) <= MOST_CODES)


def _codes(values: Array, besides: Sequence[Any] | None) -> Codes:
    """Codes that are there and codes that may be; of booleans both, and no others."""
    if all(isinstance(value, bool) for value in values):
        return Codes(np.array([False, True], dtype=object))
    different, counts = _counted(values)
    unseen = _share(len(values), sum(count == 1 for count in counts))
    if values.dtype.kind != "O":
        check_kinds("categorical", besides or (), Real, "numbers, as the column holds")
        return Codes(np.union1d(different, np.array(besides or (), dtype=np.float64)), unseen)
    first = list(dict.fromkeys(besides or ()))
    labels = [*first, *(label for label in different if label not in set(first))]
    return Codes(objects(labels), unseen)


def _numbers(values: Floats) -> Scale:
    """By what the numbers look like."""
    different, counts = _counted(values)
    low, reach = different[0], different[-1] - different[0]
    whole = bool((different == np.round(different)).all())
    if whole and 0 < reach < MOST_WHOLE:
        steps = DiscretizedLogistic(int(reach) + 1)
        return Scale(steps, shift=float(low), unseen=_share(len(values)))
    most = int(np.argmax(counts))
    frequent = counts[most] >= max(ATOM * len(values), ROWS_PER_CODE)
    atom = float(different[most]) if frequent and len(different) > 1 else None
    rest = values if atom is None else values[values != atom]
    found = _of_family(rest, _likelier(rest))
    found = found if atom is None else _with_atom(found, atom, len(values))
    return replace(found, whole=whole)


def _likelier(values: Floats) -> InputFamily:
    """A normal density, or one of the logarithm if that fits positive values better."""
    if not (values > 0).all() or np.ptp(values) == 0:
        return Gaussian()
    logs = np.log(values)
    better = logs.std() > 0 and -np.log(logs.std()) - logs.mean() > -np.log(_spread(values))
    return LogNormal(FLOOR * float(logs.std())) if better else Gaussian()


def _of_family(values: Floats, family: InputFamily) -> Scale:
    """At the scale of the values [N]; families of counts take them as they are."""
    share = _share(len(values))
    match family:
        case Inflated():
            others = values[values != family.at]
            rest = _of_family(others, family.density) if len(others) else Scale(family.density)
            return _with_atom(rest, family.at, len(values))
        case Gaussian():
            return Scale(family, _mean(values), _positive(_spread(values)))
        case LogNormal():
            logs = np.log(values[values > 0])
            return Scale(family, scale=_positive(np.exp(logs.mean())), unseen=share)
        case Exponential():
            return Scale(family, scale=_positive(_mean(values)), unseen=share)
    return Scale(family, unseen=share)


def _with_atom(rest: Scale, atom: float, rows: int) -> Scale:
    """What the rest of a column of so many rows has, beside an atom at one of its values."""
    assert isinstance(rest.family, DensityFamily)
    family = Inflated(rest.family, (atom - rest.shift) / rest.scale)
    unseen = _share(rows) if rest.unseen > 0 else 0.0
    return replace(rest, family=family, atom=atom, unseen=unseen)


def _mean(values: Floats) -> float:
    """Their mean, of whatever size they are."""
    power = _power(values)
    return float(np.ldexp(np.ldexp(values, -power).mean(), power))


def _spread(values: Floats) -> float:
    """Their standard deviation, likewise: squares of them need not be numbers."""
    power = _power(values)
    return float(np.ldexp(np.ldexp(values, -power).std(), power))


def _power(values: Floats) -> int:
    """Of two: all values are below it."""
    return int(np.frexp(np.abs(values).max())[1])


def _positive(scale: Any) -> float:
    """What has no scale is left as it is."""
    return float(scale) if 0 < scale < np.inf else 1.0


def _share(rows: int, once: int = 0) -> float:
    """Probability that a value is none of those met, by how many were met once (Good 1953)."""
    return (once + 0.5) / (rows + 1)


def _counted(values: Array) -> tuple[Any, Any]:
    """Different values, in order, and how often each is there."""
    if values.dtype.kind != "O":
        return np.unique(values, return_counts=True)
    counts: dict[Any, int] = {}
    for value in values:
        counts[value] = counts.get(value, 0) + 1
    try:
        order = sorted(counts, key=lambda label: (type(label).__name__, label))
    except TypeError:  # labels without an order
        order = sorted(counts, key=lambda label: (type(label).__name__, repr(label)))
    return order, [counts[label] for label in order]
