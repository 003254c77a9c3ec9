"""The Poisson distribution."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pcflow.errors import SettingError
from pcflow.inputs.base import ExponentialFamily, Params
from pcflow.inputs.deviance import deviance, stirling
from pcflow.inputs.intervals import log_difference, log_integral


@dataclass(frozen=True)
class Poisson(ExponentialFamily):
    """Counts 0, 1, 2, ... without a largest one; anything else has probability zero.

    Parameter: `log_rate` [K], log of the mean.

    Args:
        min_rate: EM never goes below this rate; counts have no units.

    Raises:
        SettingError: if `min_rate` is not positive.

    Examples:
        >>> Poisson().log_prob({"log_rate": torch.zeros(1, 1)}, torch.zeros(1, 1)).item()
        -1.0
    """

    min_rate: float = 1e-6
    whole: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the floor."""
        SettingError.check("min_rate", self.min_rate, "positive", lambda x: 0 < x < math.inf)

    def parameter_shapes(self, units: int) -> dict[str, tuple[int, ...]]:
        """`log_rate` [K]."""
        return {"log_rate": (units,)}

    def initial(self, units: int, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Standard normal log-rates."""
        return {"log_rate": torch.randn(units, generator=generator)}

    def log_prob(self, params: Params, x: Tensor) -> Tensor:
        """Log-probability of a count."""
        limits = torch.finfo(params["log_rate"].dtype)
        rate = params["log_rate"].exp().clamp_max(limits.max).unsqueeze(-2)  # [F, 1, K]
        possible = (x >= 0) & (x == x.round())
        count = torch.where(possible, x, 0.0).unsqueeze(-1)  # [F, B, 1]
        excess = count - rate  # [F, B, K]
        score = excess - deviance(count, excess, rate) - stirling(count)
        return torch.where(possible.unsqueeze(-1), score, -torch.inf)

    def mean(self, params: Params) -> Tensor:
        """The rate."""
        return params["log_rate"].exp()

    def raw_moment(self, params: Params, power: int) -> Tensor:
        """By the recurrence of Touchard's polynomials, E x^k = rate E (x + 1)^(k-1)."""
        rate = params["log_rate"].exp()
        moments = [torch.ones_like(rate)]
        for k in range(power):
            shifted = sum(math.comb(k, j) * moments[j] for j in range(k + 1))
            moments.append(rate * shifted)
        return moments[power]

    def entropy(self, params: Params) -> Tensor:
        """By adding up; of rates above `LARGE` by the asymptotic series, then as exact.

        Evans and Boersma (1988), The entropy of a Poisson distribution, SIAM Review 30.
        """
        log_rate = params["log_rate"].double()  # [P, K]
        counts = torch.arange(2 * LARGE, dtype=log_rate.dtype, device=log_rate.device)
        log_prob = self.log_prob(
            {"log_rate": log_rate}, counts.expand(len(log_rate), -1)
        )  # [P, N, K]
        added_up = -(log_prob.exp() * log_prob).sum(dim=-2)
        inverse = (-log_rate).exp()
        series = sum(c * inverse**n for n, c in enumerate(SERIES, start=1))
        series = 0.5 * (math.log(2 * math.pi * math.e) + log_rate) - series
        entropy = torch.where(log_rate > math.log(LARGE), series, added_up)
        return entropy.to(params["log_rate"].dtype)

    def mode(self, params: Params) -> Tensor:
        """The rate, rounded down."""
        return params["log_rate"].exp().floor()

    def sample(self, params: Params, generator: torch.Generator | None = None) -> Tensor:
        """Draw a count."""
        return torch.poisson(params["log_rate"].exp(), generator=generator)

    def log_mass(self, params: Params, lower: Tensor, upper: Tensor) -> Tensor:
        """Of few counts by adding them up, of many by what lies below and above."""
        low, high = lower.clamp_min(0.0).ceil(), upper.floor()  # [F, B]
        high = high.masked_fill(high > FARTHEST, torch.inf)
        possible = (low <= high) & (low <= FARTHEST)
        low, high = torch.where(possible, low, 0.0), torch.where(possible, high, 0.0)
        few = high - low < FEW
        many = torch.where(few, 0.0, low), torch.where(few, torch.inf, high)
        found = torch.where(
            few.unsqueeze(-1), self._log_of_few(params, low, high), self._log_of_many(params, *many)
        )
        return torch.where(possible.unsqueeze(-1), found, -torch.inf)

    def mean_within(self, params: Params, lower: Tensor, upper: Tensor) -> Tensor:
        """The rate, times what the interval moved down by one has of the mass."""
        log_mass = self.log_mass(params, lower, upper)
        log_mean = params["log_rate"].unsqueeze(-2) + self.log_mass(params, lower - 1, upper - 1)
        return (log_mean - log_mass).exp().masked_fill(log_mass == -torch.inf, 0.0)

    def moments_within(self, params: Params, lower: Tensor, upper: Tensor) -> Tensor:
        """The mean."""
        return self.mean_within(params, lower, upper).unsqueeze(-2)

    def mode_within(self, params: Params, lower: Tensor, upper: Tensor) -> Tensor:
        """The count of the interval that is nearest to the mode."""
        return super().mode_within(params, lower.ceil(), upper.floor())

    def sample_within(
        self,
        params: Params,
        lower: Tensor,
        upper: Tensor,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Not looked for where less than a rounding error of the mass is left."""
        rate, low = params["log_rate"].exp(), lower.clamp_min(0.0).ceil()
        farthest = (torch.maximum(low, rate) + 10 * rate.sqrt() + 100).floor()
        high = torch.minimum(upper.floor(), farthest)
        return super().sample_within(params, low, high, generator)

    def _log_of_few(self, params: Params, low: Tensor, high: Tensor) -> Tensor:
        """Log-mass [F, B, K] of at most `FEW` counts from `low` to `high` [F, B]."""
        counts = low.unsqueeze(-1) + torch.arange(FEW).to(low)  # [F, B, T]
        each = self.log_prob(params, counts.flatten(1)).unflatten(1, counts.shape[1:])
        beyond = counts > high.unsqueeze(-1)
        return torch.logsumexp(each.masked_fill(beyond.unsqueeze(-1), -torch.inf), dim=2)

    def _log_of_many(self, params: Params, low: Tensor, high: Tensor) -> Tensor:
        """The same of any number of counts, by whichever tails are the smaller."""
        below, above = self._log_below(params, low - 1), self._log_above(params, high + 1)
        rate = params["log_rate"].exp().unsqueeze(-2)  # [F, 1, K]
        right, left = low.unsqueeze(-1) >= rate, high.unsqueeze(-1) + 1 <= rate
        gone = torch.where(right | left, 0.0, below.exp() + above.exp())
        found = torch.where(
            right, log_difference(self._log_above(params, low), above), torch.log1p(-gone)
        )
        return torch.where(left, log_difference(self._log_below(params, high), below), found)

    def _log_above(self, params: Params, count: Tensor) -> Tensor:
        """Log P(x >= count) [F, B, K] of counts [F, B] not below the rate.

        An incomplete gamma function: the integral of t^(count - 1) exp(-t) up to the rate, by the
        logarithm of t, relative to where it ends.
        """
        possible = (count > 0) & (count < torch.inf)
        count = torch.where(possible, count, 1.0)
        rate, k = params["log_rate"].exp().unsqueeze(-2), count.unsqueeze(-1)
        slope, detached = (k - rate).clamp_min(0.0), rate.detach()
        short = (108 / detached).sqrt()
        reach = torch.minimum(40 / slope.detach(), torch.where(short < 1, short, 1 + 40 / detached))
        log_area = log_integral(reach, lambda s: slope * s + rate * (s + torch.expm1(-s)))
        found = self.log_prob(params, count) + k.log() + log_area
        return torch.where(possible.unsqueeze(-1), found, -torch.inf)

    def _log_below(self, params: Params, count: Tensor) -> Tensor:
        """Log P(x <= count) [F, B, K] of counts [F, B] of at most the rate less one: likewise."""
        possible = (count >= 0) & (count < torch.inf)
        count = torch.where(possible, count, 0.0)
        rate, k = params["log_rate"].exp().unsqueeze(-2), count.unsqueeze(-1)
        slope, detached = (rate - k - 1).clamp_min(0.0), rate.detach()
        reach = torch.minimum(40 / slope.detach(), (80 / detached).sqrt().clamp_max(9.0))
        log_area = log_integral(reach, lambda s: slope * s + rate * (torch.expm1(s) - s))
        found = self.log_prob(params, count) + rate.log() + log_area
        return torch.where(possible.unsqueeze(-1), found, -torch.inf)

    def statistics(self, x: Tensor) -> Tensor:
        """The count."""
        return x.unsqueeze(-1)  # [F, B, 1]

    def moments(self, params: Params) -> Tensor:
        """The rate."""
        return params["log_rate"].exp().unsqueeze(-2)

    def matching(self, moments: Tensor) -> dict[str, Tensor]:
        """The rate, not below the floor."""
        return {"log_rate": moments.squeeze(-2).clamp_min(self.min_rate).log()}


LARGE = 256
"""Above this rate the series is right to a few units of the fourteenth digit; below, so is the sum
over counts below twice as much."""

SERIES = (1 / 12, 1 / 24, 19 / 360, 9 / 80, 863 / 2520)
"""Coefficients of the powers of 1 / rate that are taken from log(2 pi e rate) / 2."""

FEW = 32
"""So many counts in a row are added up one by one."""

FARTHEST = 1e15
"""Beyond it, neighbouring counts are hardly different numbers any more."""
