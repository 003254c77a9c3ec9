"""Products of rows of logarithms with a matrix of them, in which nothing is lost.

Relative to the largest number of every row and column they are products of matrices. What comes
out so small that something may have been lost is found again number by number.

Legend: B batch, K units, N columns, E entries.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import log
from typing import Any, cast

import torch
from torch import Tensor

from pcflow.engine.halves import ENTRIES, SMALL, peak
from pcflow.engine.kernels import exp_
from pcflow.engine.once import once


class LogMatrix:
    """A matrix of logarithms in float64, [K, N]; or one for every row, [B, K, N].

    Attributes:
        logs: as given.
        peak: the largest of every column, [1, N] or [B, N].
        linear: the exponentials, relative to it.
    """

    def __init__(self, logs: Tensor) -> None:
        """Take the exponentials once."""
        self.logs, self._held = logs, logs.detach()
        top = peak(self._held, -2)
        self.linear = exp_(self._held - top)
        self.peak = top if logs.dim() < 3 else top.squeeze(-2)

    def after(self, rows: Tensor) -> Tensor:
        """Logarithms [B, N] of the product of what rows [B, K] are logarithms of and the matrix.

        Differentiable once. What is -inf has no derivative.
        """
        return cast(Tensor, _After.apply(rows, self.logs, self))  # type: ignore[no-untyped-call]

    def multiply(self, rows: Tensor) -> Tensor:
        """The same without a derivative."""
        top = peak(rows, -1)
        total = _times(exp_(rows - top), self.linear)
        doubtful = total < SMALL
        found = total.log_().add_(top).add_(self.peak)
        if doubtful.any():
            there = _times((rows > -torch.inf).to(rows), (self._held > -torch.inf).to(rows))
            for row, column in _places(doubtful & (there > 0)):
                found[row, column] = self._ways(rows, row, column).logsumexp(dim=-1)
        return found

    def gradients(self, rows: Tensor, found: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
        """Derivatives by the rows and by the matrix, from those [B, N] by what was found."""
        top = peak(rows, -1)
        above = top + self.peak - found  # [B, N], infinite where nothing was found
        doubtful = above > -log(SMALL)
        grad = grad.masked_fill(found == -torch.inf, 0.0)
        share = grad * exp_(above.masked_fill(doubtful, -torch.inf))
        left = exp_(rows - top)
        to_rows, to_logs = (
            left * _times(share, self.linear.mT),
            self.linear * self._outer(left, share),
        )
        for row, column in _places(doubtful & (found > -torch.inf)):
            ways = self._ways(rows, row, column) - found[row, column].unsqueeze(-1)  # [E, K]
            ways = exp_(ways) * grad[row, column].unsqueeze(-1)
            to_rows.index_put_((row,), ways, accumulate=True)
            to_logs.mT.index_put_(self._entry(row, column), ways, accumulate=True)
        return to_rows, to_logs

    def _outer(self, left: Tensor, share: Tensor) -> Tensor:
        if self.linear.dim() < 3:
            return left.t() @ share
        return left.unsqueeze(-1) * share.unsqueeze(-2)

    def _ways(self, rows: Tensor, row: Tensor, column: Tensor) -> Tensor:
        """The summands [E, K] of some entries of the product."""
        return rows[row] + self._held.mT[self._entry(row, column)]

    def _entry(self, row: Tensor, column: Tensor) -> tuple[Tensor, ...]:
        """Where in the transposed matrix the weights of an entry are."""
        return (column,) if self.linear.dim() < 3 else (row, column)


def _places(where: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows and columns of some entries [B, N], as many at a time as may have summands at once."""
    for some in where.nonzero().split(ENTRIES):
        row, column = some.t()
        yield row, column


def _times(rows: Tensor, matrix: Tensor) -> Tensor:
    """Products [B, N] of rows [B, K] and one matrix, or one each."""
    if matrix.dim() < 3:
        return rows @ matrix
    return torch.bmm(rows.unsqueeze(1), matrix).squeeze(1)


class _After(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, logs: Tensor, matrix: LogMatrix) -> Tensor:
        found = matrix.multiply(rows)
        ctx.save_for_backward(rows, found)
        ctx.matrix = matrix
        return found

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, found = ctx.saved_tensors
        with torch.no_grad():
            gradients = ctx.matrix.gradients(rows, found, grad)
        return once(*gradients, None)
