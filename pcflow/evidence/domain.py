"""What evidence must be about, and which values fit.

Legend: B batch, D variables, V categories.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import isfinite

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
        if self.is_finite and given.requires_grad and torch.is_grad_enabled():
            raise EvidenceError("values: integers have no gradient; detach them")
        if self.is_finite:  # integers, which a fraction must not be rounded to
            _check_values(given, given, self.num_categories)
            return given.to(self.device, torch.long)
        values = given.to(self.device, self.dtype)
        _check_values(values.detach(), given, self.num_categories)
        return values


def _check_values(values: Tensor, given: Tensor, num_categories: Sequence[int | None]) -> None:
    if values.numel():  # the usual case first, in as few passes as it takes
        least, most = torch.aminmax(values)
        whole = not values.is_floating_point() or bool((values == values.long()).all())
        if whole and least >= 0 and most < min(v or 0 for v in num_categories):
            return
    limit = torch.tensor([torch.inf if v is None else v for v in num_categories]).to(values.device)
    finite = limit.isfinite()
    wrong = (values < 0) & finite | (values >= limit) | ~values.isfinite()
    wrong |= finite & (values != values.round())
    if wrong.any():
        row, variable = (int(i) for i in wrong.nonzero()[0])
        categories = num_categories[variable]
        wanted = "a finite number" if categories is None else f"an integer in 0..{categories - 1}"
        value = shown(given[row, variable], values[row, variable])
        raise EvidenceError(
            f"values: row {row}, variable {variable} is {value}, but must be {wanted}"
        )


def shown(given: Tensor, number: Tensor) -> str:
    """A number as it was given, and what became of it."""
    value, seen = given.item(), number.item()
    if isfinite(value) and not isfinite(seen):
        return f"{value}, which is {seen} in {number.dtype}"
    return str(value)
