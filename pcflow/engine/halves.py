"""Long hidden Markov chains of few rows: neighbouring steps are multiplied, level by level.

Position after position takes as many rounds of small calls as there are positions. Here a step is
a matrix of logarithms, from the states before a position to those at it, and the product of two
says all that lies between: the levels of a binary tree, all of a level at once. That is K times
the arithmetic in log2 N rounds (Hassan, Sarkka, Garcia-Fernandez 2021). Everything is a logarithm
in float64.

Legend: N steps, B batch, K states, I rows and J columns of a product.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pcflow.engine.kernels import exp_

SMALL = 1e-290
"""Beside sums as large as this, what was too small to hold does not count."""
ENTRIES = 1 << 14
"""Of a product, that are found one by one at a time."""


def best_path(steps: Tensor) -> tuple[Tensor, Tensor]:
    """The best path [N, B] through steps [N, B, K, K] from state 0, and its log-value [B]."""
    levels = levels_of(steps, max_product)
    log_value, ends = levels[-1][:, :, 0].max(dim=-1)  # [1, B], after every product of a level
    for level in reversed(levels[:-1]):
        left, right = level[0::2], level[1::2]
        ends = ends[: len(left)]
        starts = torch.cat([torch.zeros_like(ends[:1]), ends[:-1]])
        ways = _take(left, starts, axis=2) + _take(right, ends, axis=3)  # [N, B, K]
        ends = _by_turns(ways.argmax(dim=-1), ends)
    return ends[: len(steps)], log_value[0]


def around(levels: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Logarithms of all ways to a state before every step, and from one after it to the end.

    Args:
        levels: of sums over all ways.

    Returns:
        [N, B, 1, K], from state 0; and [N, B, K, 1].
    """
    after = torch.zeros_like(levels[-1][..., :1])  # [N, B, K, 1]
    before = torch.full_like(levels[-1][..., :1, :], -torch.inf)  # [N, B, 1, K]
    before[..., 0] = 0.0
    for level in reversed(levels[:-1]):
        left, right = level[0::2], level[1::2]
        before, after = before[: len(left)], after[: len(left)]
        before = _by_turns(before, sum_product(before, left))
        after = _by_turns(sum_product(right, after), after)
    return before, after


def stay(like: Tensor) -> Tensor:
    """The step [K, K] that changes nothing."""
    return torch.eye(like.shape[-1], dtype=like.dtype, device=like.device).log_()


def max_product(a: Tensor, b: Tensor) -> Tensor:
    """Logarithms [..., I, J] of the best way of all, of a [..., I, K] and b [..., K, J]."""
    best = a[..., :, :1] + b[..., :1, :]
    for k in range(1, a.shape[-1]):
        torch.maximum(best, a[..., :, k : k + 1] + b[..., k : k + 1, :], out=best)
    return best


def sum_product(a: Tensor, b: Tensor) -> Tensor:
    """Logarithms [..., I, J] of the sum of all ways, of a [..., I, K] and b [..., K, J].

    A product of matrices, relative to the largest of every row and column. Where that comes out
    so small that something may have been lost, sums are found one by one.
    """
    rows, columns = peak(a, -1), peak(b, -2)
    total = exp_(a - rows) @ exp_(b - columns)
    doubtful = total < SMALL
    log_total = total.log_().add_(rows).add_(columns)
    if doubtful.any():
        there = (a > -torch.inf).to(a) @ (b > -torch.inf).to(b)  # how many ways there are
        _mend(log_total, doubtful & (there > 0), a, b)
    return log_total


def _mend(log_total: Tensor, doubtful: Tensor, a: Tensor, b: Tensor) -> None:
    """Write the entries that are doubtful, one by one."""
    for place in doubtful.nonzero().split(ENTRIES):
        *lead, row, column = place.t()
        ways = a[(*lead, row)] + b.transpose(-1, -2)[(*lead, column)]  # [entries, K]
        log_total[(*lead, row, column)] = ways.logsumexp(dim=-1)


def levels_of(steps: Tensor, product: Callable[[Tensor, Tensor], Tensor]) -> list[Tensor]:
    """The steps, their products two by two, and so on up to the product of all.

    Every level but the last is even: where that takes one more step, it changes nothing.
    """
    levels = [steps]
    while len(levels[-1]) > 1:
        if len(levels[-1]) % 2:
            levels[-1] = torch.cat([levels[-1], stay(steps).expand_as(levels[-1][:1])])
        levels.append(product(levels[-1][0::2], levels[-1][1::2]))
    return levels


def peak(logs: Tensor, axis: int) -> Tensor:
    """The largest along an axis, zero where all are -inf."""
    top = logs.amax(dim=axis, keepdim=True)
    return top.masked_fill_(top == -torch.inf, 0.0)


def _take(matrices: Tensor, place: Tensor, axis: int) -> Tensor:
    """Of matrices [N, B, K, K] the row or column [N, B, K] that is named by place [N, B]."""
    shape = [*matrices.shape]
    shape[axis] = 1
    return matrices.gather(axis, place[..., None, None].expand(shape)).squeeze(axis)


def _by_turns(first: Tensor, second: Tensor) -> Tensor:
    """Of each its first, its second, and so on: [2 N, ...]."""
    return torch.stack([first, second], dim=1).flatten(0, 1)
