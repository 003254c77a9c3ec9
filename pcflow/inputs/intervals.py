"""Numbers of intervals: masses that neither underflow in tails nor cancel where they are narrow.

Legend: ... any shape, Q points of a quadrature.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from torch import Tensor

FAR = 1e18
"""So many standard deviations away, a square is still a number in float32."""

LOG_TWO_PI = math.log(2 * math.pi)

LEAST = -(1 << 63)
"""The smallest number of 64 bits."""


def log_sum(x: Tensor, dim: int) -> Tensor:
    """Log-sum-exp whose derivative is zero, not NaN, where everything is -inf."""
    peak = x.detach().amax(dim, keepdim=True).nan_to_num(neginf=0.0)
    total = (x - peak).exp().sum(dim)
    positive = torch.where(total > 0, total, 1.0)
    return torch.where(total > 0, positive.log() + peak.squeeze(dim), -torch.inf)


def log_one_minus_exp(x: Tensor) -> Tensor:
    """log(1 - exp(x)) of x < 0; -inf, with a derivative of zero, elsewhere (Maechler 2012)."""
    below = torch.where(x < 0, x, -1.0)
    near = torch.where(below > -math.log(2), below, -0.5)
    far = torch.where(below > -math.log(2), -1.0, below)
    found = torch.where(
        below > -math.log(2), torch.log(-torch.expm1(near)), torch.log1p(-torch.exp(far))
    )
    return torch.where(x < 0, found, -torch.inf)


def log_difference(a: Tensor, b: Tensor) -> Tensor:
    """log(exp(a) - exp(b)) of a >= b."""
    some = a > -torch.inf
    a = torch.where(some, a, 0.0)
    return torch.where(some, a + log_one_minus_exp(torch.where(some, b, 0.0) - a), -torch.inf)


def log_integral(reach: Tensor, falls: Callable[[Tensor], Tensor]) -> Tensor:
    """Log of the integral of exp(-f(s)) from 0 to `reach` [F, B, K], where f is about 40 or more.

    Args:
        reach: up to where.
        falls: f of points [Q, F, B, K], convex, from 0 on.
    """
    points, weights = (x.view(-1, 1, 1, 1) for x in points_of(64, reach))
    return torch.logsumexp(weights.log() - falls(points * reach), dim=0) + reach.log()


def points_of(count: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Points between 0 and 1, and weights, of Gauss and Legendre: [Q] both."""
    points, weights = _legendre(count)
    return points.to(like), weights.to(like)


@cache
def _legendre(count: int) -> tuple[Tensor, Tensor]:
    points, weights = np.polynomial.legendre.leggauss(count)
    return torch.from_numpy((points + 1) / 2), torch.from_numpy(weights / 2)


class NormalInterval:
    """What a standard normal variable does between two numbers [...].

    Args:
        lower: standardised, -inf allowed.
        upper: the same, inf allowed; not below `lower`.
        width: their difference, which may be known better than by subtracting; not read if one of
            them is infinite.

    Attributes:
        log_mass: of the interval (nats).
    """

    def __init__(self, lower: Tensor, upper: Tensor, width: Tensor) -> None:
        """Turn round what lies above zero, so that no mass is a difference of numbers near 1."""
        self._turned = lower + upper > 0
        low = torch.where(self._turned, -upper, lower)
        self._high = torch.where(self._turned, -lower, upper)
        self._open = low == -torch.inf
        self._low = torch.where(self._open, -1.0, low)
        self._width = torch.where(self._open, 1.0, width)
        self._narrow = ~self._open & (self._width * (1 + self._low.abs()) < 1)
        self._points, self._log_terms = self._quadrature()
        self._log_kept = log_one_minus_exp(self._log_gone())
        wide = log_cdf(self._high) + self._log_kept
        self.log_mass = torch.where(self._narrow, self._narrow_mass(), wide)

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean, and mean square, given the interval; zero where it has no mass."""
        share = self._log_terms.softmax(dim=-1)
        mean, square = self._wide_moments()
        mean = torch.where(self._narrow, (share * self._points).sum(dim=-1), mean)
        square = torch.where(self._narrow, (share * self._points.square()).sum(dim=-1), square)
        mean, none = torch.where(self._turned, -mean, mean), self.log_mass == -torch.inf
        return mean.masked_fill(none, 0.0), square.masked_fill(none, 0.0)

    def _quadrature(self) -> tuple[Tensor, Tensor]:
        """Points of narrow intervals, and log-density plus log-weight: [..., Q] both."""
        points, weights = points_of(QUADRATURE, self._width)
        low, width = (torch.where(self._narrow, x, 1.0) for x in (self._low, self._width))
        found = low.unsqueeze(-1) + width.unsqueeze(-1) * points
        return found, log_normal(found) + weights.log()

    def _narrow_mass(self) -> Tensor:
        some = self._narrow & (self._width > 0)
        log_width = torch.where(some, self._width, 1.0).log()
        return torch.where(some, log_width + self._log_terms.logsumexp(dim=-1), -torch.inf)

    def _log_gone(self) -> Tensor:
        """Log of which share of the mass below `high` lies below `low`."""
        tails = log_tail(self._low) - log_tail(self._high) + self._log_ratio()
        gone = torch.where(self._high < 0, tails, log_cdf(self._low) - log_cdf(self._high))
        return torch.where(self._open, -torch.inf, gone)

    def _log_ratio(self) -> Tensor:
        """Log of the density at `low` over that at `high`."""
        return self._width * (self._low + self._high.clamp(-FAR, FAR)) / 2

    def _wide_moments(self) -> tuple[Tensor, Tensor]:
        """By the densities at both ends, over the mass."""
        high = self._high.clamp(-FAR, FAR)
        beyond = log_normal(high) - log_cdf(high)
        in_tail = -0.5 * LOG_TWO_PI - log_tail(high)
        height = (torch.where(high < 0, in_tail, beyond) - self._log_kept).exp()
        ratio = torch.where(self._open, -torch.inf, self._log_ratio())
        return height * torch.expm1(ratio), 1 - height * (high - self._low * ratio.exp())


QUADRATURE = 12
"""Points for what is narrow: there the exponent changes by 1.5 at most."""


def standardised(bound: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """How many standard deviations above the mean; infinite where the bound is, without slope."""
    finite = bound.isfinite()
    score = (torch.where(finite, bound, 0.0) - mean) * torch.exp(-log_std)
    return torch.where(finite, score.clamp(-FAR, FAR), bound)


def log_normal(x: Tensor) -> Tensor:
    """The standard normal log-density."""
    return -0.5 * x.square() - 0.5 * LOG_TWO_PI


def log_cdf(x: Tensor) -> Tensor:
    """Log of the standard normal distribution function; its slope is as good in the tails."""
    above = torch.where(x < 0, 1.0, x)
    upper = torch.log1p(-0.5 * torch.special.erfc(above * math.sqrt(0.5)))
    below = torch.where(x < 0, x, -1.0).clamp_min(-FAR)
    found = torch.where(x < 0, log_tail(x) - 0.5 * below.square(), upper)
    return torch.where(x == -torch.inf, -torch.inf, found)


def log_tail(x: Tensor) -> Tensor:
    """The same of x < 0, without its square: what is left when two of them are compared."""
    below = torch.where(x < 0, x, -1.0).clamp_min(-FAR)
    return torch.log(0.5 * torch.special.erfcx(-below * math.sqrt(0.5)))


def inverse(
    log_below: Callable[[Tensor], Tensor],
    log_target: Tensor,
    lower: Tensor,
    upper: Tensor,
    whole: bool,
) -> Tensor:
    """The first number between two whose log-mass below reaches a target; all [N], in float64.

    Halves what lies between in the order of floating-point numbers, infinite ones too, so that the
    answer is as exact as `log_below`, wherever it is; `whole` says to look at whole numbers alone.
    """
    number = _as_float if whole else _number
    low, high = (end.long() if whole else _rank(end) for end in (lower, upper))
    while bool((low < high).any()):
        middle = (low >> 1) + (high >> 1) + (low & high & 1)
        reached = log_below(number(middle)) >= log_target
        low = torch.where(reached | (low == high), low, middle + 1)
        high = torch.where(reached, middle, high)
    return number(high)


def _rank(x: Tensor) -> Tensor:
    """Whole numbers in the order of numbers of float64."""
    bits = x.contiguous().view(torch.int64)
    return torch.where(bits < 0, LEAST - bits, bits)


def _number(rank: Tensor) -> Tensor:
    """The number of a rank."""
    return torch.where(rank < 0, LEAST - rank, rank).view(torch.float64)


def _as_float(rank: Tensor) -> Tensor:
    return rank.double()
