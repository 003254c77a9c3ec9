"""Where the largest numbers are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Numbers = NDArray[Any]


FROM = 1 << 14
"""Lines of so many numbers are worth being gone over one by one."""


def largest(x: Tensor, k: int) -> Tensor:
    """Where the k largest of x [..., V] are, from the first to the last.

    On a CPU numpy selects with vector instructions, which torch does not. Of long lines they are
    found as what is no less than the k-th largest of the maxima of groups, which few others reach.
    """
    if x.device.type != "cpu":
        return x.topk(k, dim=-1, sorted=False).indices.sort(dim=-1).values
    size = min(32, x.shape[-1] // (3 * k))
    if size < 4 or x.shape[-1] < FROM:
        return _by_groups(x, k).sort(dim=-1).values
    places = x.new_empty(*x.shape[:-1], k, dtype=torch.long)
    for found, line in zip(_lines(places), _lines(x), strict=True):
        numbers = _numbers(line)
        found.copy_(torch.from_numpy(_above(numbers.numpy(), _peaks(numbers, size).numpy(), k)))
    return places


def _lines(x: Tensor) -> Iterator[Tensor]:
    """Every line of x [..., V], without a copy of what does not lie in one piece."""
    if x.dim() == 1:
        yield x
        return
    for part in x:
        yield from _lines(part)


def _numbers(x: Tensor) -> Tensor:
    """What numpy knows."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _peaks(x: Tensor, size: int) -> Tensor:
    """The largest number of every group: g holds the places g, g + groups, g + 2 groups, ..."""
    groups = x.shape[-1] // size
    peaks: Tensor = x[..., : size * groups].unflatten(-1, (size, groups)).amax(dim=-2)
    return peaks


def _above(line: Numbers, peaks: Numbers, k: int) -> Numbers:
    """Where the k largest of a line [V] are; those in front where numbers are equal.

    NaN is larger than all, so that nobody overlooks it; no comparison with it holds.
    """
    place = np.flatnonzero(~(line < np.partition(peaks, len(peaks) - k)[len(peaks) - k]))
    numbers = line[place]
    least = np.partition(numbers, len(numbers) - k)[len(numbers) - k]
    if np.isnan(least):
        return np.flatnonzero(np.isnan(line))[:k]
    sure, even = ~(numbers <= least), np.flatnonzero(numbers == least)
    sure[even[: k - int(sure.sum())]] = True
    chosen: Numbers = place[sure]
    return chosen


def _by_groups(x: Tensor, k: int) -> Tensor:
    """Where the k largest are, in any order.

    They all lie in the k groups with the largest maxima, and so on.
    """
    count = x.shape[-1]
    size = min(8, int((count / k) ** 0.5))
    if size < 4:
        numbers = _numbers(x).numpy()
        return torch.from_numpy(np.argpartition(numbers, count - k, axis=-1)[..., count - k :])
    groups = count // size
    offset = torch.arange(0, size * groups, groups).unsqueeze(-1)
    rest = torch.arange(size * groups, count).expand(*x.shape[:-1], -1)
    inside = (_by_groups(_peaks(x, size), k).unsqueeze(-2) + offset).flatten(-2)
    among = torch.cat([inside, rest], dim=-1)
    return among.gather(-1, _by_groups(x.gather(-1, among), k))
