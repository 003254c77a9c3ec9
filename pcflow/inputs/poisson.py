"""The Poisson distribution."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pcflow.errors import SettingError
from pcflow.inputs.base import ExponentialFamily, Params
from pcflow.inputs.deviance import deviance, stirling


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
