"""Blocks with masks and a backbone's logits: what circuits are trained on.

Legend: N blocks, B batch, C context length, L positions, V tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from pcflow import Potentials
from pcflow_diffusion.checks import check_alike, check_logits, check_rows
from pcflow_diffusion.models import Backbone, logits_of


@runtime_checkable
class BlockSource(Protocol):
    """Blocks with masks and logits, in memory (`Blocks`) or on disk (`StoredLogits`)."""

    def __len__(self) -> int:
        """How many, N."""
        ...

    def __getitem__(self, rows: Tensor) -> Blocks:
        """Those with the given numbers [B]."""
        ...

    @property
    def x(self) -> Tensor:
        """Tokens with masks, [N, L]."""
        ...


@dataclass(frozen=True, eq=False)
class Blocks:
    """Blocks with masks, and what the backbone says of them.

    Args:
        logits: the backbone's, [N, L, V]; or `pcflow.Potentials` of the only tokens that are
            possible, [N, L, k].
        x: tokens with masks, [N, L].
        x0: the tokens, [N, L].

    Raises:
        ShapeMismatch: if these are no logits and tokens that fit together.
        TypeMismatch: likewise.

    Examples:
        >>> x = torch.full((3, 4), 5)
        >>> len(Blocks(torch.zeros(3, 4, 5), x, x - 1)[torch.tensor([2, 0])])
        2
    """

    logits: Tensor | Potentials
    x: Tensor
    x0: Tensor

    def __post_init__(self) -> None:
        """Check the shapes."""
        check_rows("x", self.x)
        check_alike("x0", self.x0, self.x)
        log = self.logits.log if isinstance(self.logits, Potentials) else self.logits
        check_logits("logits", log, self.x)

    def __len__(self) -> int:
        """How many, N."""
        return len(self.x)

    def __getitem__(self, rows: Tensor) -> Blocks:
        """Those with the given numbers [B]."""
        rows = rows.to(self.x.device)
        return Blocks(self.logits[rows], self.x[rows], self.x0[rows])


def block_logits(backbone: Backbone, rows: Tensor, x: Tensor) -> Tensor:
    """What a backbone says of blocks after their contexts, [N, L, V].

    Args:
        backbone: maps tokens to logits.
        rows: context and block, [N, C + L]; of the blocks nothing is shown.
        x: the blocks with masks, [N, L].

    Returns:
        The logits [N, L, V].

    Raises:
        BackboneError: if it gives anything but logits of every position.

    Examples:
        >>> rows = torch.zeros(3, 6, dtype=torch.long)
        >>> block_logits(lambda tokens: torch.zeros(*tokens.shape, 5), rows, rows[:, 2:]).shape
        torch.Size([3, 4, 5])
    """
    length = x.shape[1]
    shown = torch.cat([rows[:, : rows.shape[1] - length], x], dim=1)
    return logits_of(backbone, shown)[:, -length:]
