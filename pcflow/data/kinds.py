"""A column of a table as a variable of a circuit, and back: codes, numbers at a scale, moments.

A value that cannot be, because the data that a column was made of do not have it, becomes infinite.
Legend: N rows, V codes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
import torch

from pcflow.data.columns import impossible
from pcflow.data.form import Json, plain
from pcflow.data.frame import Array, Bools, known
from pcflow.data.table import Floats
from pcflow.errors import SettingError
from pcflow.inputs import Categorical, InputFamily

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
        >>> from pcflow.inputs import Gaussian
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
        >>> from pcflow.inputs import Gaussian
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


Kind = Codes | Scale | Moments


def kind_told(
    *,
    family: InputFamily,
    unseen: float,
    first: Sequence[Any] | None = None,
    step: str = "",
    labels: Sequence[Any] | None = None,
    codes: Sequence[float] | None = None,
    **numbers: Any,
) -> Kind:
    """A column as its `told` has told it.

    Raises:
        ValueError: if it is none.
    """
    if first is not None:
        kind, unit, steps = first
        days = kind_told(family=family, unseen=unseen, labels=labels, codes=codes, **numbers)
        moment = np.array(steps, dtype=np.int64).astype(f"{kind}8[{unit}]")[()]
        if isinstance(days, Moments) or labels is not None:
            raise ValueError("labels are no days")
        if step not in STEPS:
            raise ValueError(f"{step!r} is no unit of time")
        return Moments(moment, days, step)
    if not 0 <= unseen < 1:
        raise ValueError(f"{unseen!r} is no probability")
    if labels is not None:
        return Codes(objects(plain("label", labels)), unseen)
    if codes is not None:
        return Codes(np.array(plain("code", codes), dtype=np.float64), unseen)
    return Scale(family, unseen=unseen, **numbers)


def objects(some: Sequence[Any]) -> Array:
    """An array [V] of objects, whatever they are."""
    found = np.empty(len(some), dtype=object)
    found[:] = some
    return found
