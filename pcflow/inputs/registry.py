"""Which families files may name: those of pcflow, and those that are registered."""

from __future__ import annotations

from dataclasses import is_dataclass
from inspect import isabstract
from typing import TypeVar

from pcflow.errors import SettingError, TypeMismatch
from pcflow.inputs.base import InputFamily
from pcflow.inputs.bernoulli import Bernoulli
from pcflow.inputs.binomial import Binomial
from pcflow.inputs.categorical import Categorical
from pcflow.inputs.discretized_logistic import DiscretizedLogistic
from pcflow.inputs.exponential import Exponential
from pcflow.inputs.gaussian import Gaussian
from pcflow.inputs.histogram import Histogram
from pcflow.inputs.indicator import Indicator
from pcflow.inputs.inflated import Inflated
from pcflow.inputs.log_normal import LogNormal
from pcflow.inputs.poisson import Poisson

FAMILIES: dict[str, type[InputFamily]] = {
    family.__name__: family
    for family in (
        Bernoulli,
        Binomial,
        Categorical,
        DiscretizedLogistic,
        Exponential,
        Gaussian,
        Histogram,
        Indicator,
        Inflated,
        LogNormal,
        Poisson,
    )
}
"""Every family that files may name, by class name."""

Family = TypeVar("Family", bound=type[InputFamily])


def register_family(family: Family) -> Family:
    """Let files name a family of one's own; use it as a decorator of the class.

    `load` reads only families that are registered in its process, under the name of their class.
    `pcflow.testing.check_input_family` says whether the family does what is asked of it.

    Args:
        family: a dataclass, frozen, that derives from `FiniteFamily` or `DensityFamily`.

    Returns:
        The class itself.

    Raises:
        TypeMismatch: if it is no such class, or lacks a method that its base class asks for.
        SettingError: if a family has that name already.

    Examples:
        >>> from dataclasses import dataclass
        >>> import pcflow as pf
        >>> @pf.register_family
        ... @dataclass(frozen=True)
        ... class Grade(pf.Categorical):
        ...     num_categories: int = 6
        >>> pf.InputLayer.random(0, Grade())
        InputLayer(variable 0, Grade(num_categories=6), 1 units)
    """
    wanted = "a dataclass of an input family, with all of its abstract methods"
    if not (isinstance(family, type) and issubclass(family, InputFamily)):
        raise TypeMismatch("family", family, wanted)
    if isabstract(family) or not is_dataclass(family):
        raise TypeMismatch("family", family, wanted)
    if family.__name__ in FAMILIES:
        raise SettingError("family", family.__name__, "of a name that no family has yet")
    FAMILIES[family.__name__] = family
    return family
