"""Logarithms of probabilities of counts, without differences of large numbers.

k log r - r - log k! is the difference of numbers as large as k log k. Of their sizes all but a part
like the deviance of a normal distribution cancels on paper: Loader (2000), Fast and accurate
computation of binomial probabilities.
"""

import math

import torch
from torch import Tensor

LARGE = 16.0
"""From here on Stirling's series is right to the fourteenth digit."""


def deviance(count: Tensor, excess: Tensor, expected: Tensor) -> Tensor:
    """A count times log(count / expected), from by how much it exceeds what is expected of it.

    Examples:
        >>> deviance(torch.tensor([0.0, 3.0]), torch.tensor([-2.0, 1.0]), torch.tensor(2.0))
        tensor([-0.0000, 1.2164])
    """
    limits = torch.finfo(expected.dtype)
    share = (excess / expected.clamp_min(limits.tiny)).clamp_min(limits.eps - 1)
    return count * torch.log1p(share)


def stirling(count: Tensor) -> Tensor:
    """By how much log(count!) exceeds count log(count) - count.

    Examples:
        >>> stirling(torch.tensor([0.0, 1.0]))
        tensor([0., 1.])
    """
    few, many = count.clamp_max(LARGE), count.clamp_min(LARGE)
    exact = torch.lgamma(few + 1) - few * few.clamp_min(1.0).log() + few
    inverse = 1 / many
    square = inverse.square()
    series = inverse * (1 / 12 - square * (1 / 360 - square * (1 / 1260 - square / 1680)))
    return torch.where(count < LARGE, exact, 0.5 * torch.log(2 * math.pi * many) + series)
