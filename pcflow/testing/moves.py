"""Short random walks that leave a distribution as it is, there and back alike.

Every step is a Metropolis step of a symmetric proposal, or one from a fitted density, and the steps
of a walk read the same forwards and backwards. So a draw and where its walk ends can change places:
whatever is measured of both, it grew as often as it fell.

Legend: N rows, D variables.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pcflow.testing.fitted import Fitted

HALF = ("single", "single", "together", "single", "jump")
"""The first half of a walk; the other is the same backwards."""


@dataclass(frozen=True)
class Walk:
    """What steps go by.

    Attributes:
        log_prob: log-probabilities [N] of rows [N, D].
        num_categories: per variable, None if it has no finite range.
        fitted: says what is near, and where to jump; of other draws than those that walk.
        generator: for all that is chosen.
    """

    log_prob: Callable[[Tensor], Tensor]
    num_categories: Sequence[int | None]
    fitted: Fitted
    generator: torch.Generator

    def end(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Where walks from rows [N, D] end, and the log-probabilities [N] of both ends."""
        first = here = self.log_prob(rows)
        for name in (*HALF, *reversed(HALF)):
            there = getattr(self, name)(rows)
            known = self.log_prob(there)
            gain = known - here
            if name == "jump":
                gain = gain + self.fitted.log_prob(rows) - self.fitted.log_prob(there)
            taken = self._uniform(len(rows)).log() < gain
            rows = there.where(taken.unsqueeze(-1), rows)
            here = known.where(taken, here)
        return rows, first, here

    def single(self, rows: Tensor) -> Tensor:
        """One variable of every row: another value, or one more or less, or a normal step."""
        count, width = rows.shape
        chosen = torch.randint(width, (count,), generator=self.generator)
        mine = torch.arange(width) == chosen.unsqueeze(-1)
        sizes = torch.tensor([n or 1 for n in self.num_categories]).double()
        other = 1 + (self._uniform(count, 1) * (sizes - 1)).floor()
        cyclic = torch.remainder(rows + other.minimum(sizes - 1), sizes)
        side = torch.where(self._uniform(count, 1) < 0.5, -1.0, 1.0)
        length = self._normal(count, 1).abs() * self._scales(count) * self.fitted.spread
        step = side * torch.where(self.fitted.whole, length.ceil().clamp_min(1.0), length)
        endless = torch.tensor([n is None for n in self.num_categories])
        return torch.where(mine, self._free(rows, torch.where(endless, rows + step, cyclic)), rows)

    def together(self, rows: Tensor) -> Tensor:
        """All real variables, as they go together in other draws."""
        step = self._normal(*rows.shape) * self._scales(len(rows))
        return self._free(rows, rows + step @ self.fitted.root.T)

    def jump(self, rows: Tensor) -> Tensor:
        """To draws of the fitted density."""
        return self.fitted.sample(len(rows), self.generator)

    def _free(self, rows: Tensor, there: Tensor) -> Tensor:
        """Values that have a probability of their own stay."""
        return rows.where(self.fitted.is_atom(rows), there)

    def _scales(self, count: int) -> Tensor:
        """Short and long steps [N, 1], from a sixteenth of a spread to two."""
        return torch.exp2(self._uniform(count, 1) * 5 - 4)

    def _uniform(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self.generator, dtype=torch.float64)

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator, dtype=torch.float64)
