"""Intervals: where a value lies that is not known itself.

Legend: B batch, D variables, U intervals of a variable, C values.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from pcflow.errors import EvidenceError


@dataclass(frozen=True, eq=False)
class Intervals:
    """For every row and variable a union of closed intervals that do not meet; `of` makes them.

    Args:
        lower: [B, D, U], NaN where there is no interval.
        upper: the same, nowhere below `lower`.
    """

    lower: Tensor
    upper: Tensor

    @staticmethod
    def of(lower: Tensor, upper: Tensor) -> Intervals:
        """The union of any intervals [B, D, U], those of two NaN left out.

        Examples:
            >>> lower, upper = torch.tensor([[[0.0, 3.0]]]), torch.tensor([[[2.0, torch.nan]]])
            >>> Intervals.of(lower, upper).holds(torch.tensor([[[1.0, 2.5, 7.0]]]))
            tensor([[[ True, False,  True]]])
        """
        lower, upper = _opened(lower, upper)
        lower, order = lower.sort(dim=-1)  # NaN comes last
        upper = upper.gather(-1, order)
        reached = upper[..., :-1].cummax(dim=-1).values
        beyond = torch.nextafter(reached, torch.full_like(reached, torch.inf))
        lower = torch.cat([lower[..., :1], torch.maximum(lower[..., 1:], beyond)], dim=-1)
        gone = ~(lower <= upper) | (lower == torch.inf)
        return Intervals(lower.masked_fill(gone, torch.nan), upper.masked_fill(gone, torch.nan))

    @staticmethod
    def empty(lower: Tensor, upper: Tensor) -> Tensor:
        """Which of given intervals [B, D, U] hold no finite number."""
        lower, upper = _opened(lower, upper)
        sound = (lower <= upper) & (lower < torch.inf) & (upper > -torch.inf)
        return ~(sound | lower.isnan())

    @cached_property
    def there(self) -> Tensor:
        """Which variables are bounded at all, [B, D]."""
        return (self.lower.isfinite() | self.upper.isfinite()).any(dim=-1)

    @property
    def middle(self) -> Tensor:
        """The average of all finite ends [B, D]; zero where there are none."""
        ends = torch.cat([self.lower, self.upper], dim=-1)  # [B, D, 2 U]
        return ends.masked_fill(ends.isinf(), torch.nan).nanmean(dim=-1).nan_to_num(nan=0.0)

    def holds(self, values: Tensor) -> Tensor:
        """Which values [B, D, C], or [C] of every variable, lie in the union: [B, D, C]."""
        found = (~self.there).unsqueeze(-1)
        for lower, upper in zip(self.lower.unbind(-1), self.upper.unbind(-1), strict=True):
            inside = (values >= lower.unsqueeze(-1)) & (values <= upper.unsqueeze(-1))
            found = found | inside
        return found


def as_unions(lower: Tensor | None, upper: Tensor | None, shape: tuple[int, int]) -> list[Tensor]:
    """Both ends [B, D, U], as they were given.

    Raises:
        EvidenceError: if they are not about such rows and variables, are not equally many, or want
            a gradient.
    """
    given = {n: t for n, t in (("lower", lower), ("upper", upper)) if t is not None}
    for name, bound in given.items():
        if bound.requires_grad and torch.is_grad_enabled():
            raise EvidenceError(f"{name}: bounds have no gradient; detach them")
        if bound.dim() not in (2, 3) or bound.shape[:2] != shape or 0 in bound.shape[2:]:
            batch, width = shape
            wanted = f"[{batch}, {width}] or [{batch}, {width}, U]"
            raise EvidenceError(f"{name} must be {wanted}, got {tuple(bound.shape)}")
    ends = [bound if bound.dim() == 3 else bound.unsqueeze(-1) for bound in given.values()]
    if len({bound.shape for bound in ends}) > 1:
        shapes = " and ".join(str(tuple(bound.shape)) for bound in given.values())
        raise EvidenceError(f"lower and upper must have one shape, got {shapes}")
    open_end = torch.full(ends[0].shape, torch.nan, device=ends[0].device)
    return [open_end if lower is None else ends[0], open_end if upper is None else ends[-1]]


def _opened(lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """With infinite ends in place of missing ones; NaN where both are missing."""
    absent = lower.isnan() & upper.isnan()
    return (
        lower.masked_fill(lower.isnan() & ~absent, -torch.inf),
        upper.masked_fill(upper.isnan() & ~absent, torch.inf),
    )
