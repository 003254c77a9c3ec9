"""Which parameters the folds and rows of an input step read.

Where rows have parameters of their own, those of a step are sets side by side, row after row, which
is how they were given. A family sees no rows: to it they are so many sets.

Legend: F folds, B batch, K units, N entries (fold, row), S sets, M entries of a set.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sets:
    """S = rows * folds sets of parameters.

    Attributes:
        rows: B if every row has its own; 1 if all share them.
        folds: F if every fold has its own; 1 if all share them.
    """

    rows: int
    folds: int

    @property
    def by_row(self) -> bool:
        """Whether every row has its own."""
        return self.rows != 1

    @property
    def by_fold(self) -> bool:
        """Whether every fold has its own, for all rows alike."""
        return not self.by_row and self.folds > 1

    @property
    def count(self) -> int:
        """S."""
        return self.rows * self.folds

    def number(self, fold: Tensor, row: Tensor) -> Tensor:
        """The set that every entry reads, of folds and rows that broadcast."""
        found = fold if self.folds > 1 else torch.zeros_like(fold)
        return found + row * self.folds if self.by_row else found

    def spread(self, each: Tensor) -> Tensor:
        """What is said of every set [S, ...], by fold and row: [F or 1, B or 1, ...]."""
        return each.view(self.rows, self.folds, *each.shape[1:]).transpose(0, 1)

    def collect(self, grid: Tensor) -> Tensor:
        """What is said of every fold and row [F, B, ...], set by set: [S, M, ...].

        Of sets that all rows share, [F, B, ...] as it is.
        """
        if not self.by_row:
            return grid
        shape = self.count, len(grid) // self.folds, *grid.shape[2:]
        return grid.transpose(0, 1).reshape(shape)

    def release(self, each: Tensor, folds: int) -> Tensor:
        """The other way round."""
        if not self.by_row:
            return each
        return each.reshape(self.rows, folds, *each.shape[2:]).transpose(0, 1)

    def total(self, grid: Tensor) -> Tensor:
        """Sums [S, K] over what reads a set, of [F, B, K]."""
        if self.by_row or self.by_fold:
            return self.collect(grid).sum(dim=1)
        return grid.sum(dim=(0, 1)).unsqueeze(0)
