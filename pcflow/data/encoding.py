"""Columns of a table as variables of a circuit, and back.

Labels and few values are counted, whole numbers get a distribution of whole numbers, others a
density at the scale of the column, beside an atom where one value is frequent. A value that cannot
be, because the data of which the encoding was made do not have it, gets a share of its own: it
says nothing of the other columns. Legend: N rows, D columns, V codes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property, partial
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
import torch

from pcflow.checks import check_kind, check_kinds
from pcflow.data.columns import impossible
from pcflow.data.form import Json, plain
from pcflow.data.frame import Array, Bools, Column, known
from pcflow.data.table import Floats
from pcflow.errors import EvidenceError, SettingError
from pcflow.inputs import (
    Categorical,
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

DAY = np.timedelta64(1, "D")
FARTHEST = 2**63 - 2**20
"""Units from 1970, or from zero, that numpy can still tell of, also if they were rounded."""

STEPS = ("D", "h", "m", "s", "ms", "us", "ns", "ps", "fs", "as")


@dataclass(frozen=True, eq=False)
class Codes:
    """A column of codes or labels: variable values 0, 1, ... in their order.

    Args:
        values: the codes [V], floats or objects.
        unseen: probability of a value that is none of them.

    Examples:
        >>> Codes(np.array([10.0, 25.0])).encode(np.array([25.0, np.nan, 7.0]))
        array([ 1., nan, inf])
    """

    values: Array
    unseen: float = 0.0

    @property
    def family(self) -> InputFamily:
        """A probability for every code."""
        return Categorical(len(self.values))

    def encode(self, column: Array) -> Floats:
        """The place of every code [N]; infinite where there is no such code."""
        found = [self._place.get(value, np.inf) for value in column.tolist()]
        return np.where(known(column), np.array(found, dtype=np.float64), np.nan)

    def bound(self, column: Floats, side: str) -> Floats:
        """Places [N] of numbers among the codes, none of them whole where there is no code."""
        places = np.arange(len(self.values), dtype=np.float64)
        found: Floats = np.interp(column, self.values, places, left=-1.0, right=len(places))
        return found

    def decode(self, values: Floats) -> Array:
        """The codes [N] at these places."""
        return self.values[values.astype(np.int64)]

    def log_units(self, values: Floats) -> Floats:
        """Zeros [N]: probabilities have no unit."""
        return np.zeros(len(values))

    def told(self) -> Json:
        """As JSON."""
        kind = "labels" if self.values.dtype.kind == "O" else "codes"
        return {kind: plain("a label", self.values.tolist()), "unseen": self.unseen}

    @cached_property
    def _place(self) -> dict[Any, float]:
        return {value: float(place) for place, value in enumerate(self.values.tolist())}


@dataclass(frozen=True)
class Scale:
    """A column of numbers, at the scale of a family.

    Args:
        family: of the scaled values.
        shift: what is subtracted.
        scale: what it is divided by then.
        unseen: probability of values that the family does not allow.
        whole: whether values are whole numbers although the family is a density.
        atom: the value that has a probability of its own, if there is one.

    Raises:
        SettingError: if the numbers are not finite, or the scale is not positive.

    Examples:
        >>> Scale(Gaussian(), shift=10.0, scale=2.0).encode(np.array([10.0, 14.0]))
        array([0., 2.])
    """

    family: InputFamily
    shift: float = 0.0
    scale: float = 1.0
    unseen: float = 0.0
    whole: bool = False
    atom: float | None = None

    def __post_init__(self) -> None:
        """Check the numbers, which files may tell."""
        SettingError.check("shift", self.shift, "finite", math.isfinite)
        SettingError.check("scale", self.scale, "positive", lambda s: 0 < s < math.inf)
        SettingError.check("atom", self.atom, "finite", lambda a: a is None or math.isfinite(a))

    def encode(self, column: Array) -> Floats:
        """Scaled values [N]; infinite where the family does not allow them."""
        values: Floats = (column - self.shift) / self.scale
        wrong = impossible(torch.from_numpy(values), self.family).numpy() & known(column)
        return np.where(wrong, np.inf, values)

    def bound(self, column: Floats, side: str) -> Floats:
        """Scaled values [N], allowed or not; around whole numbers all that is rounded to them."""
        if self.whole:
            column = np.ceil(column) - 0.5 if side == "lower" else np.floor(column) + 0.5
        found: Floats = (column - self.shift) / self.scale
        return found

    def decode(self, values: Floats) -> Floats:
        """Values [N] of the column."""
        found = values * self.scale + self.shift
        found = np.round(found) if self.whole else found
        return found if self.atom is None else np.where(self._is_atom(values), self.atom, found)

    def log_units(self, values: Floats) -> Floats:
        """What log-densities [N] of the scaled values (nats) gain per unit of the column."""
        return np.where(self._is_atom(values), 0.0, -np.log(self.scale))

    def told(self) -> Json:
        """As JSON."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "family"}

    def _is_atom(self, values: Floats) -> Bools:
        return np.isin(values, getattr(self.family, "atoms", ()))


@dataclass(frozen=True, eq=False)
class Moments:
    """A column of moments or durations, as days since a first one.

    Args:
        first: the first, or one in the middle, in the unit in which they are given back.
        days: the column of days.
        step: the unit, as numpy has it, in which moments are whole: days, hours, ...

    Examples:
        >>> column = Moments(np.datetime64("2020-01-01"), Scale(Gaussian(), scale=366.0), "D")
        >>> column.encode(np.array(["2021-01-01"], dtype="datetime64[D]"))
        array([1.])
    """

    first: Any
    days: Codes | Scale
    step: str

    @property
    def family(self) -> InputFamily:
        """Of the days."""
        return self.days.family

    @property
    def unseen(self) -> float:
        """Of the days."""
        return self.days.unseen

    def encode(self, column: Array) -> Floats:
        """Days, as the column of them has it."""
        return self.days.encode(days_since(self.first, column))

    def bound(self, column: Array, side: str) -> Floats:
        """As the column of days has it."""
        return self.days.bound(days_since(self.first, column), side)

    def decode(self, values: Floats) -> Array:
        """Moments, or durations."""
        steps = np.round(self.days.decode(values) * (DAY / np.ones((), f"m8[{self.step}]")))
        steps = np.clip(steps, *self._reach)
        return np.asarray(self.first + steps.astype(f"m8[{self.step}]"), dtype=self.first.dtype)

    @property
    def _reach(self) -> Floats:
        """How many steps the first and last moments [2] that numpy has are from the first here."""
        ends = np.array([-FARTHEST, FARTHEST]).view(f"m8[{np.datetime_data(self.first.dtype)[0]}]")
        step, start = np.ones((), f"m8[{self.step}]"), np.zeros((), self.first.dtype)
        reach = ends / step - (self.first - start) / step
        return np.asarray(reach.clip(*(ends / step)), dtype=np.float64)

    def log_units(self, values: Floats) -> Floats:
        """Densities are per day."""
        return self.days.log_units(values)

    def told(self) -> Json:
        """As JSON."""
        unit = np.datetime_data(self.first.dtype)[0]
        first = [self.first.dtype.kind, unit, int(self.first.astype(np.int64))]
        return {"first": first, "step": self.step, **self.days.told()}


def days_since(first: Any, column: Array) -> Floats:
    """Days [N] from a moment to others; NaN where there is none.

    What is farther apart than 64 bits can say, as nanoseconds of three centuries are, has turned
    round; it is found by way of the moment that is zero.
    """
    spans, zero = column - first, np.zeros((), first.dtype)
    turned = (spans < np.zeros((), spans.dtype)) != (column < first)
    days = np.where(turned, (column - zero) / DAY - (first - zero) / DAY, spans / DAY)
    return np.asarray(days, dtype=np.float64)


def _first(moments: Array) -> Any:
    """The first; or whole days later, in the middle, if the last is too far from it."""
    first, last = moments.min(), moments.max()
    if last - first >= np.zeros((), (last - first).dtype):
        return first
    middle = (first.astype(np.int64) // 2 + last.astype(np.int64) // 2).astype(first.dtype)
    return middle - (middle - first) % DAY


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
    each: tuple[Codes | Scale | Moments, ...]

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
            >>> Encoding.of(columns_of(np.array([[0.5], [3.5]])), {0: Wish(Gaussian())}).each[0]
            Scale(family=Gaussian(min_std=0.001), shift=2.0, scale=1.5, ...)
        """
        asked = wishes or {}
        each = [_made(column, asked.get(v, Wish())) for v, column in enumerate(columns)]
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
        each = [_from_told(**one, family=f) for one, f in zip(told, families, strict=True)]
        if len(names) != len(each) or [how.family for how in each] != list(families):
            raise ValueError("its columns are not those of the circuit")
        return cls(tuple(names), tuple(each))


def _from_told(
    *,
    family: InputFamily,
    unseen: float,
    first: Sequence[Any] | None = None,
    step: str = "",
    labels: Sequence[Any] | None = None,
    codes: Sequence[float] | None = None,
    **numbers: Any,
) -> Codes | Scale | Moments:
    """A column as `told` has told it."""
    if first is not None:
        kind, unit, steps = first
        days = _from_told(family=family, unseen=unseen, labels=labels, codes=codes, **numbers)
        moment = np.array(steps, dtype=np.int64).astype(f"{kind}8[{unit}]")[()]
        if isinstance(days, Moments) or labels is not None:
            raise ValueError("labels are no days")
        if step not in STEPS:
            raise ValueError(f"{step!r} is no unit of time")
        return Moments(moment, days, step)
    if not 0 <= unseen < 1:
        raise ValueError(f"{unseen!r} is no probability")
    if labels is not None:
        return Codes(_objects(plain("label", labels)), unseen)
    if codes is not None:
        return Codes(np.array(plain("code", codes), dtype=np.float64), unseen)
    return Scale(family, unseen=unseen, **numbers)


def _encoded(how: Codes | Scale | Moments, column: Column) -> Floats:
    """Values [N] of a column that holds what it held before, or nothing."""
    there = known(column.values)
    if not there.any():
        return np.full(len(there), np.nan)
    if not isinstance(how, Codes):
        _check_kind(column, "mM" if isinstance(how, Moments) else "f")
    return how.encode(column.values)


def _bound(how: Codes | Scale | Moments, column: Column, side: str) -> Floats:
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


def _log_gain(how: Codes | Scale | Moments, values: Floats) -> Floats:
    """Nothing where a value is missing, the share of the unseen where it is such."""
    never = np.log(how.unseen) if how.unseen > 0 else -np.inf
    seen = how.log_units(values) + np.log1p(-how.unseen)
    return np.where(np.isnan(values), 0.0, np.where(np.isinf(values), never, seen))


def _made(column: Column, wish: Wish) -> Codes | Scale | Moments:
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
    return Codes(_objects(labels), unseen)


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


def _objects(some: Sequence[Any]) -> Array:
    """An array [V] of objects, whatever they are."""
    found = np.empty(len(some), dtype=object)
    found[:] = some
    return found
