"""The products that take the time, in the shapes of the engine.

Legend: F folds, B batch, K units of the layer, J units read by a sum, N entries, V categories.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from math import e, log, log2

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

LOG2_E = log2(e)


def take(table: Tensor, place: tuple[Tensor, ...]) -> Tensor:
    """Rows [N, J] of a table [..., J] at places of its last axes before J; much faster than []."""
    index = place[0]
    for part, size in zip(place[1:], table.shape[-len(place) : -1], strict=True):
        index = index * size + part
    return table.flatten(0, -2).index_select(0, index)


def multiply(a: Tensor, b: Tensor, kronecker: bool, out: Tensor | None = None) -> Tensor:
    """Hadamard or Kronecker product over the last axis."""
    if not kronecker:
        return torch.mul(a, b, out=out)
    into = None if out is None else out.unflatten(-1, (a.shape[-1], b.shape[-1]))
    return torch.mul(a.unsqueeze(-1), b.unsqueeze(-2), out=into).flatten(-2)


def outer_add(a: Tensor, b: Tensor) -> Tensor:
    """Kronecker product of logarithms."""
    return (a.unsqueeze(-1) + b.unsqueeze(-2)).flatten(-2)


def outer(a: Tensor, b: Tensor, shared: bool, onto: Tensor | None = None) -> Tensor:
    """Sum of a [F, B, K] x b [F, B, J] over B: [F, K, J], or [1, K, J] over F too if shared.

    Added to `onto`, if it is given.
    """
    if shared and len(a) > 1:
        a, b = a.flatten(0, 1).unsqueeze(0), b.flatten(0, 1).unsqueeze(0)
    return torch.bmm(a.mT, b) if onto is None else onto.baddbmm_(a.mT, b)


def outer_by_row(a: Tensor, b: Tensor, shared: bool, out: Tensor | None = None) -> Tensor:
    """Each a [F, B, K] x b [F, B, J]: [F, B, K, J]; or their sum over F [1, B, K, J], if shared.

    In memory rows come first, as do parameters of rows, and in `out` if that is given.
    """
    a, b = a.transpose(0, 1).contiguous(), b.transpose(0, 1).contiguous()
    into = None if out is None else out.transpose(0, 1)  # [B, F or 1, K, J]
    if shared and a.shape[1] > 1:
        place = None if into is None else into.squeeze(1)
        return torch.bmm(a.transpose(1, 2), b, out=place).unsqueeze(0)
    return torch.mul(a.unsqueeze(-1), b.unsqueeze(-2), out=into).transpose(0, 1)


def times_by_row(x: Tensor, weight: Tensor) -> Tensor:
    """Every x [F, B, J] @ a matrix of its own [F or 1, B, J, K], each of which is read once."""
    x, weight = x.transpose(0, 1), weight.transpose(0, 1)
    if weight.shape[1] == 1:
        return torch.bmm(x, weight.squeeze(1)).transpose(0, 1)
    product = torch.bmm(x.reshape(-1, 1, x.shape[-1]), weight.flatten(0, 1))
    return product.view(*x.shape[:2], weight.shape[-1]).transpose(0, 1)


def exp_(x: Tensor) -> Tensor:
    """Exponential in place, by way of exp2, which does not slow down where it underflows."""
    return x.mul_(LOG2_E).exp2_()


def log_total(parts: Sequence[Tensor], low: Tensor) -> tuple[Tensor, Tensor, bool]:
    """Log-sum-exp [F, 1, K] over V of logits in parts [F, V, K], of which the smallest is known.

    Returns:
        It; a number that no log-softmax is below; and whether all logits are moderate: neither
        exponentials nor what divides them can come near the ends of a precision, so that they need
        no peak. On a CPU torch then computes them three times as fast, and is as much slower where
        they underflow.
    """
    limit = log(torch.finfo(low.dtype).max) / 4
    if low.device.type == "cpu" and low > -limit:
        total = reduce(torch.add, (some.exp().sum(dim=1, keepdim=True) for some in parts)).log_()
        high = total.amax()
        if high < limit:
            return total, low - high, True
    peak = reduce(torch.maximum, (some.amax(dim=1, keepdim=True) for some in parts))
    shares = (exp_(some - peak).sum(dim=1, keepdim=True) for some in parts)
    total = reduce(torch.add, shares).log_().add_(peak)
    return total, low - total.amax(), False


SEARCHED = 1 << 12
"""Sums, of up to 64 for each point, from where on to count them takes less time than to search."""


def first_at_least(sums: Tensor, point: Tensor) -> Tensor:
    """The first place [...] of rising sums [..., X] that is at least point [..., 1].

    The sums may be written over.
    """
    if sums.shape[-1] > 64 or (sums.numel() < SEARCHED and not sums.is_cuda):
        return torch.searchsorted(sums, point).squeeze(-1).clamp_max_(sums.shape[-1] - 1)
    return sums.lt_(point).sum(dim=-1).long()  # counting them needs no branches


def places_of(flags: Tensor) -> Tensor:
    """Numbers [N] of the flags [...] that are set, in their order; on a CPU four times as fast."""
    if flags.device.type != "cpu":
        return flags.flatten().nonzero().squeeze(-1)
    return torch.from_numpy(np.flatnonzero(flags.numpy()))


def add_rows(target: Tensor, index: Tensor, rows: Tensor) -> None:
    """Add rows [N, ...] to the rows of target [V, ...] that index [N] names, always in one order.

    On CUDA `index_add_` adds by atomics, in an order of its own every time, while `index_put_`
    sorts the index first (both as torch.use_deterministic_algorithms lists them).
    """
    if target.is_cuda:
        add_sorted(target, index, rows)
    else:
        target.index_add_(0, index, rows)


def add_sorted(target: Tensor, index: Tensor, rows: Tensor) -> None:
    """The same by sorting.

    Rows of equal index are added one after another, so many rows go into several copies of a
    small target, which take an eighth of the rows' memory.
    """
    copies = len(index) // (8 * len(target)) if len(target) else 0
    if copies < 2:
        target.index_put_((index,), rows, accumulate=True)
        return
    spread = rows.new_zeros(copies, *target.shape)
    copy = torch.arange(len(index), device=index.device) % copies
    spread.index_put_((copy, index), rows, accumulate=True)
    target.add_(spread.sum(dim=0))


def numbered(index: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Which of `count` indices are named [n], rising, and the number of each [...] among them.

    What `unique` finds by sorting, quicker where many indices name a few.

    Examples:
        >>> numbered(torch.tensor([5, 2, 5]), 9)
        (tensor([2, 5]), tensor([1, 0, 1]))
    """
    named = torch.zeros(count, dtype=torch.bool, device=index.device)
    named.index_fill_(0, index.flatten(), True)
    return named.nonzero().squeeze(-1), (named.cumsum(0) - 1)[index]


def named_sums(index: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Every index [M] that is named, each once [n], and the sums [n, K] of rows [M, K] that do."""
    named, place = index.unique(return_inverse=True)
    sums = rows.new_zeros(len(named), rows.shape[1])
    add_rows(sums, place, rows)
    return named, sums


def weighed_sums(index: Tensor, weights: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """For every index that is named, the sum of the rows that name it, each by its weight.

    The transpose of a sum of weighed rows, without a table of all indices or of all products.

    Args:
        index: of every row, [N, C]; at least one.
        weights: of every row, [N, C].
        rows: [N, K].

    Returns:
        The indices that are named [n], each once, and their sums [n, K].
    """
    rising, order = index.flatten().sort(stable=True)
    named, counts = rising.unique_consecutive(return_counts=True)
    starts, row = counts.cumsum(0) - counts, order // index.shape[1]
    weights = weights.flatten()[order].to(rows.dtype)
    return named, embedding_bag(row, rows, starts, mode="sum", per_sample_weights=weights)


def running_sums(x: Tensor, out: Tensor | None = None) -> Tensor:
    """Sums of x [..., X] up to each place of the last axis, always added in one order.

    They may be written on `out`, which may be x.

    On CUDA torch scans a single line of floats block by block, each waiting for whichever sums are
    there; lines beside one another are scanned each in its order (ATen/native/cuda/ScanUtils.cuh).
    """
    if x.is_cuda and x.numel() == x.shape[-1]:
        return x.expand(2, *x.shape).cumsum(dim=-1)[0]
    return torch.cumsum(x, dim=-1, out=out)


class Cumulative:
    """Running sums of the columns of a table, to find where one reaches a given point.

    Two levels of about the square root of V: the sums at the ends of blocks, and the blocks.

    Args:
        table: nonnegative, [F, V, K].
        entries: points at a time.
    """

    def __init__(self, table: Tensor, entries: int) -> None:
        """Add up."""
        folds, categories, units = table.shape
        self.units, self.last, self.entries = units, categories - 1, entries
        size = max(1, round(categories**0.5))
        sums = running_sums(table.transpose(1, 2).reshape(folds * units, categories))
        self.total = sums[:, -1].clone()  # [F K]
        padded = torch.nn.functional.pad(sums, (0, -categories % size), value=torch.inf)
        self.blocks = padded.view(-1, size)  # [F K blocks, size]
        self.ends = self.blocks[:, -1].reshape(folds * units, -1).contiguous()  # [F K, blocks]

    def first_at_least(self, column: Tensor, point: Tensor) -> Tensor:
        """The first place [N] where the sum of column [N] is at least point [N]."""
        blocks = zip(column.split(self.entries), point.split(self.entries), strict=True)
        return torch.cat([self._first(*block) for block in blocks])

    def _first(self, column: Tensor, point: Tensor) -> Tensor:
        point = point.unsqueeze(-1)
        block = first_at_least(self.ends.index_select(0, column), point)
        inside = self.blocks.index_select(0, column * self.ends.shape[1] + block)
        place = block * self.blocks.shape[1] + first_at_least(inside, point)
        return place.clamp_max_(self.last)
