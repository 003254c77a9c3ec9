"""The log-normal distribution."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from pcflow.inputs.base import DensityFamily, ExponentialFamily, Params, Power
from pcflow.inputs.gaussian import Gaussian
from pcflow.inputs.intervals import NormalInterval


@dataclass(frozen=True)
class LogNormal(ExponentialFamily):
    """Positive values whose logarithm is normal; elsewhere the density is zero.

    Parameters: `mean` [K] and `log_std` [K] of the logarithm.

    Args:
        min_std: no unit that is learned by counting gets a smaller standard deviation of the
            logarithm, which has no units.

    Raises:
        StructureError: if `min_std` is not positive.

    Examples:
        >>> zero = torch.zeros(1, 1)
        >>> LogNormal().log_prob({"mean": zero, "log_std": zero}, torch.ones(1, 1)).item()
        -0.9189...
    """

    min_std: float = 1e-3
    separate: ClassVar[frozenset[str]] = frozenset({"mean"})
    locations: ClassVar[Mapping[str, str]] = {"mean": "log_std"}
    _log: Gaussian = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Everything happens to the logarithm."""
        object.__setattr__(self, "_log", Gaussian(self.min_std))

    def parameter_shapes(self, units: int) -> dict[str, tuple[int, ...]]:
        """`mean` [K], `log_std` [K]."""
        return self._log.parameter_shapes(units)

    def initial(self, units: int, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Standard normal means, unit variance."""
        return self._log.initial(units, generator)

    def log_prob(self, params: Params, x: Tensor) -> Tensor:
        """Normal log-density of the logarithm, per unit of the value."""
        log_x = _log_where_positive(x)
        score = self._log.log_prob(params, log_x) - log_x.unsqueeze(-1)  # [F, B, K]
        return torch.where((x > 0).unsqueeze(-1), score, -torch.inf)

    def mean(self, params: Params) -> Tensor:
        """Of the value, not of its logarithm."""
        return torch.exp(params["mean"] + 0.5 * (2 * params["log_std"]).exp())

    def raw_moment(self, params: Params, power: int) -> Tensor:
        """The moment generating function of the logarithm, at the power."""
        return torch.exp(power * params["mean"] + 0.5 * power**2 * (2 * params["log_std"]).exp())

    def entropy(self, params: Params) -> Tensor:
        """That of the logarithm, plus its mean."""
        return self._log.entropy(params) + params["mean"]

    def mode(self, params: Params) -> Tensor:
        """Exponential of mean less variance, or the nearest number that is positive and finite."""
        mode = (params["mean"] - (2 * params["log_std"]).exp()).exp()
        return mode.clamp(torch.finfo(mode.dtype).tiny, torch.finfo(mode.dtype).max)

    def sample(self, params: Params, generator: torch.Generator | None = None) -> Tensor:
        """Exponential of a normal draw."""
        return self._log.sample(params, generator).exp()

    def log_mass(self, params: Params, lower: Tensor, upper: Tensor) -> Tensor:
        """That of the logarithm."""
        return self._within(params, lower, upper).log_mass

    def mean_within(self, params: Params, lower: Tensor, upper: Tensor) -> Tensor:
        """The mean, times what the interval has of the mass that the value is weighed with."""
        mean, log_std = params["mean"].unsqueeze(-2), params["log_std"].unsqueeze(-2)
        variance = (2 * log_std).exp()
        tilted = {"mean": (mean + variance).squeeze(-2), "log_std": params["log_std"]}
        log_mean = mean + 0.5 * variance + self.log_mass(tilted, lower, upper)
        return (log_mean - self.log_mass(params, lower, upper)).exp()

    def moments_within(self, params: Params, lower: Tensor, upper: Tensor) -> Tensor:
        """Of the logarithm's deviation from its mean, and of its square."""
        return self._log.moments_within(params, _log_end(lower), _log_end(upper))

    def _within(self, params: Params, lower: Tensor, upper: Tensor) -> NormalInterval:
        """The interval of the logarithm, whose width is no difference of logarithms."""
        share = torch.where(lower > 0, (upper - lower) / lower, torch.inf)
        return self._log.within(params, _log_end(lower), _log_end(upper), share.log1p())

    def product(
        self, params: Params, a: Power, other: DensityFamily, others: Params, b: Power
    ) -> tuple[DensityFamily, dict[str, Tensor], Tensor]:
        """Log-normal again: that of the logarithms, tilted by what is left of 1 / x."""
        if not isinstance(other, LogNormal):
            return super().product(params, a, other, others, b)
        _, both, log_mass = self._log.product(params, a, other._log, others, b)
        variance, tilt = (2 * both["log_std"]).exp(), 1 - a - b
        tilted = both["mean"] + tilt * variance
        log_mass = log_mass + tilt * both["mean"] + 0.5 * tilt * tilt * variance
        family = LogNormal(min(self.min_std, other.min_std))
        return family, {"mean": tilted, "log_std": both["log_std"]}, log_mass

    def statistics(self, x: Tensor) -> Tensor:
        """Logarithm and its square."""
        return self._log.statistics(_log_where_positive(x))  # [F, B, 2]

    def tally(self, params: Params, x: Tensor, weight: Tensor) -> Tensor:
        """Deviations of the logarithm, and their squares."""
        return self._log.tally(params, _log_where_positive(x), weight)

    def recentred(self, tallies: Tensor, weight: Tensor, before: Params, params: Params) -> Tensor:
        """From other means of the logarithm."""
        return self._log.recentred(tallies, weight, before, params)

    def moments(self, params: Params) -> Tensor:
        """Of the logarithm: no deviation from its mean, and its variance."""
        return self._log.moments(params)

    def maximize(
        self, params: Params, weight: Tensor, statistics: Tensor, pseudocount: float
    ) -> dict[str, Tensor]:
        """As a normal distribution of the logarithm."""
        return self._log.maximize(params, weight, statistics, pseudocount)

    def matching(self, moments: Tensor) -> dict[str, Tensor]:
        """Mean and standard deviation of the logarithm."""
        return self._log.matching(moments)

    def floored(self, params: Params, spread: Tensor, present: Params) -> dict[str, Tensor]:
        """Not below the floor, whatever the column."""
        return self._log.floored(params, torch.ones_like(spread), present)


def _log_where_positive(x: Tensor) -> Tensor:
    """Zero elsewhere, so that what has no flow adds nothing; NaN is kept."""
    return torch.where(x <= 0, 1.0, x).log()


def _log_end(x: Tensor) -> Tensor:
    """The logarithm of an end of an interval; nothing lies below zero."""
    return x.clamp_min(0.0).log()
