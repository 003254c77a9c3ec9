"""The exponential distribution."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pcflow.errors import SettingError
from pcflow.inputs.base import DensityFamily, ExponentialFamily, Params, Power, refuse_infinite
from pcflow.inputs.intervals import log_one_minus_exp


@dataclass(frozen=True)
class Exponential(ExponentialFamily):
    """Waiting times: values of at least 0, the smaller the likelier; below 0 the density is zero.

    Parameter: `log_mean` [K].

    Args:
        min_mean: no mean that is learned by counting gets below this share of the standard
            deviation of its column (of one, where all values are alike).

    Raises:
        SettingError: if `min_mean` is not positive.

    Examples:
        >>> Exponential().log_prob({"log_mean": torch.zeros(1, 1)}, torch.ones(1, 1)).item()
        -1.0
    """

    min_mean: float = 1e-6

    def __post_init__(self) -> None:
        """Check the floor."""
        SettingError.check("min_mean", self.min_mean, "positive", lambda x: 0 < x < math.inf)

    def parameter_shapes(self, units: int) -> dict[str, tuple[int, ...]]:
        """`log_mean` [K]."""
        return {"log_mean": (units,)}

    def initial(self, units: int, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Standard normal log-means."""
        return {"log_mean": torch.randn(units, generator=generator)}

    def log_prob(self, params: Params, x: Tensor) -> Tensor:
        """Log-density."""
        log_mean = params["log_mean"].unsqueeze(-2)  # [F, 1, K]
        score = -x.clamp_min(0.0).unsqueeze(-1) * torch.exp(-log_mean) - log_mean  # [F, B, K]
        return torch.where((x >= 0).unsqueeze(-1), score, -torch.inf)

    def mean(self, params: Params) -> Tensor:
        """The mean itself."""
        return params["log_mean"].exp()

    def raw_moment(self, params: Params, power: int) -> Tensor:
        """Factorial of the power, times that power of the mean."""
        return torch.exp(math.lgamma(power + 1) + power * params["log_mean"])

    def entropy(self, params: Params) -> Tensor:
        """One plus the log of the mean."""
        return 1 + params["log_mean"]

    def mode(self, params: Params) -> Tensor:
        """Zero."""
        return torch.zeros_like(params["log_mean"])

    def sample(self, params: Params, generator: torch.Generator | None = None) -> Tensor:
        """Mean times a standard exponential draw."""
        mean = params["log_mean"].exp()
        return mean * torch.empty_like(mean).exponential_(generator=generator)

    def log_mass(self, params: Params, lower: Tensor, upper: Tensor) -> Tensor:
        """What is left at the lower end, of which that at the upper end is gone."""
        start, finite = lower.clamp_min(0.0), upper < torch.inf
        log_mean = params["log_mean"].unsqueeze(-2)  # [F, 1, K]
        width = torch.where(finite, upper - start, 1.0).unsqueeze(-1)  # [F, B, 1]
        log_kept = log_one_minus_exp(-width * torch.exp(-log_mean))
        log_kept = torch.where(finite.unsqueeze(-1), log_kept, 0.0)
        return log_kept - start.unsqueeze(-1) * torch.exp(-log_mean)

    def mean_within(self, params: Params, lower: Tensor, upper: Tensor) -> Tensor:
        """Beyond the lower end as beyond zero, cut at the width."""
        start = lower.clamp_min(0.0).unsqueeze(-1)  # [F, B, 1]
        mean = params["log_mean"].exp().unsqueeze(-2)  # [F, 1, K]
        width = (upper.unsqueeze(-1) - start) / mean  # [F, B, K]
        small = torch.where(width < 0.02, width, 0.0)
        series = small / 2 - small**2 / 12 + small**4 / 720
        large = torch.where((width < 0.02) | width.isinf(), 1.0, width)
        cut = torch.where(width.isinf(), 0.0, large / torch.expm1(large))
        return start + mean * torch.where(width < 0.02, series, 1 - cut)

    def moments_within(self, params: Params, lower: Tensor, upper: Tensor) -> Tensor:
        """The mean."""
        return self.mean_within(params, lower, upper).unsqueeze(-2)

    def product(
        self, params: Params, a: Power, other: DensityFamily, others: Params, b: Power
    ) -> tuple[DensityFamily, dict[str, Tensor], Tensor]:
        """Exponential again: rates add up."""
        if not isinstance(other, Exponential):
            return super().product(params, a, other, others, b)
        log_mean, log_means = params["log_mean"].unsqueeze(-1), others["log_mean"].unsqueeze(-2)
        rate = a * torch.exp(-log_mean) + b * torch.exp(-log_means)  # [..., K, L]
        refuse_infinite(rate, self)
        log_mass = -a * log_mean - b * log_means - rate.log()
        family = Exponential(min(self.min_mean, other.min_mean))
        return family, {"log_mean": -rate.log()}, log_mass

    def statistics(self, x: Tensor) -> Tensor:
        """The value."""
        return x.unsqueeze(-1)  # [F, B, 1]

    def moments(self, params: Params) -> Tensor:
        """The mean."""
        return params["log_mean"].exp().unsqueeze(-2)

    def matching(self, moments: Tensor) -> dict[str, Tensor]:
        """The mean."""
        mean = moments.squeeze(-2)
        return {"log_mean": mean.clamp_min(torch.finfo(mean.dtype).tiny).log()}

    def floored(self, params: Params, spread: Tensor, present: Params) -> dict[str, Tensor]:
        """Not below a share of the spread of the column."""
        least = (self.min_mean * spread.masked_fill(spread == 0, 1.0)).log()
        return {"log_mean": torch.maximum(params["log_mean"], least)}
