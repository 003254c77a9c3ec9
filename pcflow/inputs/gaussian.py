"""The normal distribution."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pcflow.errors import SettingError
from pcflow.inputs.base import DensityFamily, ExponentialFamily, Params, Power, refuse_infinite
from pcflow.inputs.intervals import NormalInterval, standardised


@dataclass(frozen=True)
class Gaussian(ExponentialFamily):
    """Real values with mean and standard deviation.

    Parameters: `mean` [K] and `log_std` [K].

    Args:
        min_std: no unit that is learned by counting gets narrower than this share of the standard
            deviation of its column (of one, where all values are alike).

    Raises:
        SettingError: if `min_std` is not positive.

    Examples:
        >>> zero = torch.zeros(1, 1)
        >>> Gaussian().log_prob({"mean": zero, "log_std": zero}, torch.zeros(1, 1)).item()
        -0.9189...
    """

    min_std: float = 1e-3
    separate: ClassVar[frozenset[str]] = frozenset({"mean"})
    locations: ClassVar[Mapping[str, str]] = {"mean": "log_std"}

    def __post_init__(self) -> None:
        """Check the floor."""
        SettingError.check("min_std", self.min_std, "positive", lambda x: 0 < x < math.inf)

    def parameter_shapes(self, units: int) -> dict[str, tuple[int, ...]]:
        """`mean` [K], `log_std` [K]."""
        return {"mean": (units,), "log_std": (units,)}

    def initial(self, units: int, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Standard normal means, unit variance."""
        return {"mean": torch.randn(units, generator=generator), "log_std": torch.zeros(units)}

    def log_prob(self, params: Params, x: Tensor) -> Tensor:
        """Normal log-density."""
        mean, log_std = params["mean"].unsqueeze(-2), params["log_std"].unsqueeze(-2)  # [F, 1, K]
        precision = torch.exp(-log_std).clamp_max(torch.finfo(log_std.dtype).max)  # not infinite
        score = (x.unsqueeze(-1) - mean) * precision  # [F, B, K]
        return -0.5 * score.square() - log_std - 0.5 * math.log(2 * math.pi)

    def mean(self, params: Params) -> Tensor:
        """The mean itself."""
        return params["mean"]

    def raw_moment(self, params: Params, power: int) -> Tensor:
        """By the recurrence of Stein's lemma, E x^k = mean E x^(k-1) + (k-1) variance E x^(k-2)."""
        mean, variance = params["mean"], (2 * params["log_std"]).exp()
        before, moment = torch.ones_like(mean), mean
        for k in range(2, power + 1):
            before, moment = moment, mean * moment + (k - 1) * variance * before
        return moment

    def entropy(self, params: Params) -> Tensor:
        """Half the log of 2 pi e times the variance."""
        return params["log_std"] + 0.5 * math.log(2 * math.pi * math.e)

    def mode(self, params: Params) -> Tensor:
        """The mean."""
        return params["mean"]

    def sample(self, params: Params, generator: torch.Generator | None = None) -> Tensor:
        """Mean plus scaled standard normal noise."""
        mean = params["mean"]
        noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype, device=mean.device)
        return mean + params["log_std"].exp() * noise

    def log_mass(self, params: Params, lower: Tensor, upper: Tensor) -> Tensor:
        """By the normal distribution function."""
        return self.within(params, lower, upper, upper - lower).log_mass

    def mean_within(self, params: Params, lower: Tensor, upper: Tensor) -> Tensor:
        """Mean plus scaled mean of the score."""
        score = self.within(params, lower, upper, upper - lower).moments()[0]
        return params["mean"].unsqueeze(-2) + params["log_std"].exp().unsqueeze(-2) * score

    def moments_within(self, params: Params, lower: Tensor, upper: Tensor) -> Tensor:
        """Of the deviation from the mean, and of its square."""
        score, square = self.within(params, lower, upper, upper - lower).moments()
        std = params["log_std"].exp().unsqueeze(-2)
        return torch.stack([std * score, std**2 * square], dim=-2)

    def within(self, params: Params, lower: Tensor, upper: Tensor, width: Tensor) -> NormalInterval:
        """Intervals in units of every standard deviation.

        Args:
            params: by name, [F, K] each.
            lower: the lower ends [F, B].
            upper: the upper ends [F, B].
            width: what lies between [F, B], which may be known better than their difference.
        """
        mean, log_std = params["mean"].unsqueeze(-2), params["log_std"].unsqueeze(-2)  # [F, 1, K]
        low, high = (standardised(x.unsqueeze(-1), mean, log_std) for x in (lower, upper))
        width = width.nan_to_num(posinf=1.0).unsqueeze(-1) * torch.exp(-log_std)
        return NormalInterval(low, high, width)

    def product(
        self, params: Params, a: Power, other: DensityFamily, others: Params, b: Power
    ) -> tuple[DensityFamily, dict[str, Tensor], Tensor]:
        """Gaussian again: precisions add up."""
        if not isinstance(other, Gaussian):
            return super().product(params, a, other, others, b)
        mean, log_std = params["mean"].unsqueeze(-1), params["log_std"].unsqueeze(-1)  # [..., K, 1]
        means, log_stds = others["mean"].unsqueeze(-2), others["log_std"].unsqueeze(-2)
        here, there = a * torch.exp(-2 * log_std), b * torch.exp(-2 * log_stds)
        precision = here + there  # [..., K, L]
        refuse_infinite(precision, self)
        log_two_pi = math.log(2 * math.pi)
        log_mass = 0.5 * (log_two_pi - precision.log()) - a * (0.5 * log_two_pi + log_std)
        log_mass = log_mass - b * (0.5 * log_two_pi + log_stds)
        log_mass = log_mass - 0.5 * here * there / precision * (mean - means).square()
        middle = (here * mean + there * means) / precision
        family = Gaussian(min(self.min_std, other.min_std))
        return family, {"mean": middle, "log_std": -0.5 * precision.log()}, log_mass

    def statistics(self, x: Tensor) -> Tensor:
        """Value and square."""
        side_by_side = torch.stack([x, x.square()], dim=1)  # in memory, for what multiplies them
        return side_by_side.movedim(1, -1)  # [F, B, 2]

    def tally(self, params: Params, x: Tensor, weight: Tensor) -> Tensor:
        """Deviations from the present means, and their squares.

        Added up from the middle of the column, which is near; what is small is moved from there.
        """
        middle = x.nanmean(dim=1, keepdim=True).nan_to_num(nan=0.0)  # [F, 1]
        deviation = (x - middle).nan_to_num(nan=0.0)
        known = (~x.isnan()).to(x).unsqueeze(1)
        told = torch.cat([known, self.statistics(deviation).movedim(-1, 1)], dim=1)  # [F, 3, B]
        found = told @ weight  # [F, 3, K]
        return _moved(found[:, 1:], found[:, 0], middle - params["mean"])

    def recentred(self, tallies: Tensor, weight: Tensor, before: Params, params: Params) -> Tensor:
        """From other means."""
        return _moved(tallies, weight, before["mean"] - params["mean"])

    def moments(self, params: Params) -> Tensor:
        """No deviation from the mean, and the variance."""
        variance = (2 * params["log_std"]).exp()
        return torch.stack([torch.zeros_like(variance), variance], dim=-2)

    def maximize(
        self, params: Params, weight: Tensor, statistics: Tensor, pseudocount: float
    ) -> dict[str, Tensor]:
        """Mean and standard deviation, found as a move from the present mean."""
        here = {**params, "mean": torch.zeros_like(params["mean"])}
        moved = super().maximize(here, weight, statistics, pseudocount)
        return moved | {"mean": params["mean"] + moved["mean"]}

    def matching(self, moments: Tensor) -> dict[str, Tensor]:
        """Mean and standard deviation, as far as the squares resolve it."""
        mean, square = moments.unbind(dim=-2)  # [P, K]
        limits = torch.finfo(square.dtype)
        variance = torch.maximum(square - mean.square(), limits.eps * square)
        return {"mean": mean, "log_std": 0.5 * variance.clamp_min(limits.tiny).log()}

    def floored(self, params: Params, spread: Tensor, present: Params) -> dict[str, Tensor]:
        """Not narrower than a share of the column; where nothing varies, as narrow as before."""
        least = (self.min_std * spread).log()
        log_std = torch.where(
            spread > 0, torch.maximum(params["log_std"], least), present["log_std"]
        )
        return {**params, "log_std": log_std}


def _moved(tallies: Tensor, weight: Tensor, by: Tensor) -> Tensor:
    """Tallies [P, 2, K] of values that all of a flow [P, K] sees moved by so much."""
    first, second = tallies.unbind(dim=-2)
    return torch.stack([first + weight * by, second + by * (2 * first + weight * by)], dim=-2)
