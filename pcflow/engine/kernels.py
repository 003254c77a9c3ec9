"""The products that take the time, in the shapes of the engine.

Legend: F folds, B batch, K units of the layer, J units read by a sum, N entries, V categories.
"""

from __future__ import annotations

from math import e, log2

import torch
from torch import Tensor

BLOCK, LARGE = 1024, 16
"""Categories at a time, where few rows meet a large table; and blocks that make a table large."""

COLUMNS, FEW, SOME = 256, 4, 64
"""A thread's columns at least; rows that are few for any table; and for a large one."""

NUMBERS = 1 << 18
"""Numbers at a time of what is worked out piece by piece: a megabyte or two."""

LOG2_E = log2(e)

ENTRIES = 1 << 15
"""Sums or inputs at a time that choose: few enough to stay in a cache, on a CPU."""


def multiply(a: Tensor, b: Tensor, kronecker: bool, out: Tensor | None = None) -> Tensor:
    """Hadamard or Kronecker product over the last axis."""
    if not kronecker:
        return torch.mul(a, b, out=out)
    into = None if out is None else out.unflatten(-1, (a.shape[-1], b.shape[-1]))
    return torch.mul(a.unsqueeze(-1), b.unsqueeze(-2), out=into).flatten(-2)


def outer_add(a: Tensor, b: Tensor) -> Tensor:
    """Kronecker product of logarithms."""
    return (a.unsqueeze(-1) + b.unsqueeze(-2)).flatten(-2)


def matmul(x: Tensor, weight: Tensor, out: Tensor) -> None:
    """Write x [F, B, J] @ weight [F or 1, J, K] to out [F, B, K], flat if weights are shared."""
    if weight.shape[0] == x.shape[0]:
        parts = _parts(x, weight.shape[-1]) if x.shape[:2] == (1, 1) else 1
        if parts > 1:  # one row: a part of the columns for every thread
            columns = weight[0].unflatten(1, (parts, -1)).transpose(0, 1)  # [parts, J, K / parts]
            torch.bmm(x.expand(parts, -1, -1), columns, out=out.view(parts, 1, -1))
        else:
            torch.bmm(x, weight, out=out)
    elif out.is_contiguous() and x.is_contiguous():
        torch.mm(x.flatten(0, 1), weight[0], out=out.flatten(0, 1))
    else:
        out.copy_(x @ weight[0])


def outer(a: Tensor, b: Tensor, shared: bool) -> Tensor:
    """Sum of a [F, B, K] x b [F, B, J] over B: [F, K, J], or [1, K, J] over F too if shared."""
    if shared and len(a) > 1:
        return (a.flatten(0, 1).t() @ b.flatten(0, 1)).unsqueeze(0)
    return torch.bmm(a.transpose(1, 2), b)


def rows_times_table(rows: Tensor, table: Tensor) -> Tensor:
    """Rows [N, V] @ table [V, K]: [N, K], by pieces that suit the machine.

    On a CPU every thread takes its share of the columns, or block by block of the table where there
    is little to do but to read it.
    """
    if table.dtype != rows.dtype:
        return _by_blocks(rows, table)
    if rows.device.type != "cpu":
        return rows @ table
    if len(rows) < FEW or (len(rows) <= SOME and len(table) >= LARGE * BLOCK):
        return _by_blocks(rows, table)
    parts = _parts(rows, table.shape[1])
    if parts < 2:
        return rows @ table
    columns = table.unflatten(1, (parts, -1)).transpose(0, 1)  # [parts, V, K / parts]
    return torch.bmm(rows.expand(parts, -1, -1), columns).transpose(0, 1).flatten(1)


def _parts(like: Tensor, columns: int) -> int:
    """Among how many threads so many columns are shared out, 1 if they cannot be."""
    if columns < 2 * COLUMNS:
        return 1
    parts = min(torch.get_num_threads(), columns // COLUMNS)
    return parts if like.device.type == "cpu" and parts > 1 and columns % parts == 0 else 1


def _by_blocks(rows: Tensor, table: Tensor) -> Tensor:
    """The same block by block of V, in the table's precision: rounded before it is added up."""
    low, size = rows.to(table.dtype), max(BLOCK, len(table) // (2 * LARGE))
    blocks = len(table) // size
    split = blocks * size
    rest = (low[:, split:] @ table[split:]).to(rows.dtype)
    if blocks == 0:
        return rest
    parts = low[:, :split].unflatten(1, (blocks, size)).transpose(0, 1)  # [blocks, N, size]
    product = torch.bmm(parts, table[:split].unflatten(0, (blocks, size)))
    return product.sum(dim=0, dtype=rows.dtype).add_(rest)


def rows_times_transposed(rows: Tensor, table: Tensor) -> Tensor:
    """Rows [N, K] @ table [V, K]^T: [N, V]; on a CPU by blocks that are read where they lie."""
    if table.dtype != rows.dtype:
        return (rows.to(table.dtype) @ table.t()).to(rows.dtype)
    blocks = len(table) // BLOCK
    if rows.device.type != "cpu" or blocks < 2:
        return rows @ table.t()
    split = blocks * BLOCK
    out = rows.new_empty(len(rows), len(table))
    parts = torch.matmul(rows, table[:split].unflatten(0, (blocks, BLOCK)).transpose(1, 2))
    out[:, :split].unflatten(1, (blocks, BLOCK)).copy_(parts.transpose(0, 1))
    if split < len(table):
        out[:, split:] = rows @ table[split:].t()
    return out


def exp_(x: Tensor) -> Tensor:
    """Exponential in place, by way of exp2, which torch computes four times as fast on a CPU."""
    return x.mul_(LOG2_E).exp2_()


def log_normalizer(logits: Tensor) -> tuple[Tensor, float]:
    """Log-sum-exp [F, 1, K] over V of logits [F, V, K]; and the smallest log-softmax."""
    totals, lowest = [], torch.inf
    size = max(1, NUMBERS // logits[0].numel())
    for block in logits.split(size):
        peak = block.amax(dim=1, keepdim=True)
        total = exp_(block - peak).sum(dim=1, keepdim=True).log_().add_(peak)
        lowest = min(lowest, float((block.amin(dim=1, keepdim=True) - total).min()))
        totals.append(total)
    return torch.cat(totals), lowest


def first_at_least(sums: Tensor, point: Tensor) -> Tensor:
    """The first place [...] of rising sums [..., X] that is at least point [..., 1].

    The sums are written over.
    """
    if sums.shape[-1] > 64:
        return torch.searchsorted(sums, point).squeeze(-1).clamp_max_(sums.shape[-1] - 1)
    return sums.lt_(point).sum(dim=-1).long()  # counting them needs no branches


class Cumulative:
    """Running sums of the columns of a table, to find where one reaches a given point.

    Two levels of about the square root of V: the sums at the ends of blocks, and the blocks.

    Args:
        table: nonnegative, [F, V, K].
    """

    def __init__(self, table: Tensor) -> None:
        """Add up."""
        folds, categories, units = table.shape
        self.units, self.last = units, categories - 1
        size = max(1, round(categories**0.5))
        sums = table.transpose(1, 2).reshape(folds * units, categories).cumsum(dim=-1)
        self.total = sums[:, -1].clone()  # [F K]
        padded = torch.nn.functional.pad(sums, (0, -categories % size), value=torch.inf)
        self.blocks = padded.view(-1, size)  # [F K blocks, size]
        self.ends = self.blocks[:, -1].reshape(folds * units, -1).contiguous()  # [F K, blocks]

    def first_at_least(self, column: Tensor, point: Tensor) -> Tensor:
        """The first place [N] where the sum of column [N] is at least point [N]."""
        blocks = zip(column.split(ENTRIES), point.split(ENTRIES), strict=True)
        return torch.cat([self._first(*block) for block in blocks])

    def _first(self, column: Tensor, point: Tensor) -> Tensor:
        point = point.unsqueeze(-1)
        block = first_at_least(self.ends.index_select(0, column), point)
        inside = self.blocks.index_select(0, column * self.ends.shape[1] + block)
        place = block * self.blocks.shape[1] + first_at_least(inside, point)
        return place.clamp_max_(self.last)
