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

_TRUTH = {answer: torch.tensor(answer) for answer in (False, True)}


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

    @cached_property
    def _are_alike(self) -> bool:
        """Whether all variables have one range."""
        return len(set(self.num_categories)) <= 1

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
        if not self._are_alike or not given.numel():
            return values, ~self._wrong(given).any()
        fits = self._are_in_range(given)
        if given.is_floating_point():  # a fraction must not be rounded to an integer
            fits = fits & (given.to(self.device) == values).all().to(given.device)
        return values, fits

    def _are_in_range(self, given: Tensor) -> Tensor:
        """Whether all are, where variables are alike: one pass; on a CPU numbers are compared."""
        least, most = torch.aminmax(given)
        if given.device.type != "cpu":
            return (least >= 0) & (most < self.largest)
        return _TRUTH[least.item() >= 0 and most.item() < self.largest]

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
