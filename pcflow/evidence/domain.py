"""What evidence must be about, and which values fit.

Legend: B batch, D variables, V categories.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import inf, isfinite

import torch
from torch import Tensor

from pcflow.errors import EvidenceError


@dataclass(frozen=True)
class Domain:
    """What evidence must be about: the variables of a circuit, where it runs and how precisely.

    Args:
        num_categories: per variable its number of categories, None if it has no finite range.
        device: where the circuit is.
        dtype: its floating type.
    """

    num_categories: tuple[int | None, ...]
    device: torch.device
    dtype: torch.dtype

    @cached_property
    def largest(self) -> int:
        """V, the largest number of categories; 0 if no variable has a finite range."""
        return max((n for n in self.num_categories if n is not None), default=0)

    @cached_property
    def is_finite(self) -> bool:
        """Whether every variable has a finite range."""
        return None not in self.num_categories

    def fitting(self, given: Tensor) -> Tensor:
        """Values [B, D] as numbers of the circuit.

        Raises:
            EvidenceError: if one is not in its variable's range, as the circuit would see it; or if
                they want a gradient, and no variable is real.
        """
        values, fits = self.read(given)
        if not bool(fits):
            self.refuse(given)
        return values

    def read(self, given: Tensor) -> tuple[Tensor, Tensor]:
        """Values [B, D] as numbers of the circuit; and whether all fit, one bool that is not read.

        Raises:
            EvidenceError: if they want a gradient, and no variable is real.
        """
        if not self.is_finite:
            values = given.to(self.device, self.dtype)
            return values, ~self._wrong(values.detach()).any()
        if given.requires_grad and torch.is_grad_enabled():
            raise EvidenceError("values: integers have no gradient; detach them")
        given = given.detach()
        values = given.to(self.device, torch.long)
        if len(set(self.num_categories)) > 1 or not given.numel():
            return values, ~self._wrong(given).any()
        least, most = torch.aminmax(given)  # one pass, which is the usual case
        fits = (least >= 0) & (most < self.largest)
        if given.is_floating_point():  # a fraction must not be rounded to an integer
            fits &= (given.to(self.device) == values).all().to(given.device)
        return values, fits

    def refuse(self, given: Tensor) -> None:
        """Name the first of the values [B, D] that does not fit.

        Raises:
            EvidenceError: naming the row, variable and value.
        """
        values = given.detach() if self.is_finite else given.detach().to(self.device, self.dtype)
        wrong = self._wrong(values)
        row, variable = (int(i) for i in wrong.nonzero()[0])
        categories = self.num_categories[variable]
        wanted = "a finite number" if categories is None else f"an integer in 0..{categories - 1}"
        value = shown(given[row, variable], values[row, variable])
        raise EvidenceError(
            f"values: row {row}, variable {variable} is {value}, but must be {wanted}"
        )

    def _wrong(self, values: Tensor) -> Tensor:
        """Which of the values [B, D] are in nobody's range."""
        limit = self._limit.to(values.device)
        finite = limit < torch.inf
        wrong = (values < 0) & finite | (values >= limit)
        if values.is_floating_point():
            wrong |= ~values.isfinite() | (finite & (values != values.round()))
        return wrong

    @cached_property
    def _limit(self) -> Tensor:
        """What values must be below, [D]."""
        sizes = [inf if size is None else size for size in self.num_categories]
        return torch.tensor(sizes, device=self.device)

    @cached_property
    def real(self) -> Tensor:
        """Which variables have no finite range, bool [D]."""
        return torch.tensor([size is None for size in self.num_categories], device=self.device)


def shown(given: Tensor, number: Tensor) -> str:
    """A number as it was given, and what became of it."""
    value, seen = given.item(), number.item()
    if isfinite(value) and not isfinite(seen):
        return f"{value}, which is {seen} in {number.dtype}"
    return str(value)
