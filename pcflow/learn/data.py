"""What models learn from: tensors, numpy arrays (mapped from disk too) and DataLoaders, in batches.

In several processes every batch is shared out, and what they find is added up.

Legend: N rows, B batch, D variables.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import DataLoader

from pcflow.errors import EvidenceError, NoMassError

Data = Tensor | npt.NDArray[Any] | DataLoader[Any]
"""Rows [N, D] of numbers, NaN where missing; or a loader of batches [B, D], or of tuples whose
first part is one."""


@dataclass(frozen=True)
class Team:
    """The processes that learn together: this one alone, or those of `torch.distributed`."""

    together: bool = False

    @property
    def rank(self) -> int:
        """Which of them this one is."""
        return dist.get_rank() if self.together else 0

    @property
    def size(self) -> int:
        """How many there are."""
        return dist.get_world_size() if self.together else 1

    def share(self, rows: Tensor) -> Tensor:
        """This process's part of the rows of a batch."""
        return rows[self.rank :: self.size] if self.together else rows

    def add_up(self, tensors: Iterable[Tensor]) -> None:
        """Replace every tensor by its sum over all processes."""
        if self.together:
            for tensor in tensors:
                total = _reachable(tensor)
                dist.all_reduce(total)
                tensor.copy_(total)

    def follow_first(self, tensors: Iterable[Tensor]) -> None:
        """Replace every tensor by that of the first process."""
        if self.together:
            for tensor in tensors:
                first = _reachable(tensor)
                dist.broadcast(first, src=0)
                tensor.copy_(first)


def _reachable(tensor: Tensor) -> Tensor:
    """The tensor, or a copy, in one piece and where the processes can exchange it."""
    nccl = dist.get_backend() == dist.Backend.NCCL
    return (tensor.cuda() if nccl else tensor).contiguous()


class Rows:
    """Rows of an array, by their numbers; only those that are asked for are read."""

    def __init__(self, name: str, x: Tensor | npt.NDArray[Any], width: int) -> None:
        """Check shape and type, and that anything is known at all."""
        if not isinstance(x, Tensor | np.ndarray):
            raise TypeError(
                f"{name} must be a tensor, a numpy array or a DataLoader, got {type(x).__name__}"
            )
        if x.ndim != 2 or x.shape[1] != width or len(x) == 0:
            wanted = f"[N, {width}] with at least one row"
            raise EvidenceError(f"{name} must be {wanted}, got {tuple(x.shape)}")
        if isinstance(x, np.ndarray) and x.dtype.kind not in "biuf":
            raise EvidenceError(f"{name} must hold numbers, not {x.dtype}")
        self.x = x
        blocks = (self.take(rows) for rows in torch.arange(len(x)).split(4096))
        if not any((~block.isnan()).any() for block in blocks):
            raise EvidenceError(f"{name} holds no observed value")

    def __len__(self) -> int:
        """How many."""
        return len(self.x)

    def take(self, rows: Tensor) -> Tensor:
        """Those rows [B, D]."""
        if isinstance(self.x, Tensor):
            return self.x[rows.to(self.x.device)]
        part = self.x[rows.numpy()]
        if part.dtype.kind == "f":
            return torch.from_numpy(np.ascontiguousarray(part, dtype=part.dtype.newbyteorder("=")))
        return torch.from_numpy(part.astype(np.int64))


class Batches:
    """One epoch over the data, which remembers where it is.

    Attributes:
        source: numbers of rows, and the rows [B, D].
        team: the processes that share it.
    """

    def __init__(self, source: Iterable[tuple[Tensor, Tensor]], team: Team) -> None:
        """Begin at the first batch."""
        self.source, self.team, self.now = source, team, torch.arange(0)

    def __iter__(self) -> Iterator[Tensor]:
        """Batches [B, D]."""
        for rows, x in self.source:
            self.now = rows
            yield x

    def rename(self, error: NoMassError) -> NoMassError:
        """The same error with rows of the data in place of rows of the batch."""
        return NoMassError(self.now[list(error.rows)].tolist(), "fit")


class Source:
    """Training or validation data, gone over as often as one likes.

    Attributes:
        team: the processes that share every batch.
    """

    def __init__(self, name: str, data: Data, width: int, size: int, team: Team) -> None:
        """Check what can be checked before it is read."""
        self.name, self.width, self.size, self.team = name, width, size, team
        self.data = data if isinstance(data, DataLoader) else Rows(name, data, width)

    @property
    def rows(self) -> int | None:
        """How many; None if a loader does not know."""
        if isinstance(self.data, Rows):
            return len(self.data)
        return len(self.data.dataset) if isinstance(self.data.dataset, Sized) else None

    def in_order(self) -> Batches:
        """All of it, as it comes."""
        if isinstance(self.data, Rows):
            return self._batches(self.data, torch.arange(len(self.data)))
        return Batches(self._loaded(self.data), self.team)

    def shuffled(self, generator: torch.Generator | None) -> Batches:
        """All of it in an order that is drawn now; a loader sees to that itself."""
        if not isinstance(self.data, Rows):
            return self.in_order()
        device = None if generator is None else generator.device
        order = torch.randperm(len(self.data), generator=generator, device=device)
        self.team.follow_first([order])
        return self._batches(self.data, order.cpu())

    def _batches(self, data: Rows, order: Tensor) -> Batches:
        parts = (self.team.share(rows) for rows in order.split(self.size))
        return Batches(((rows, data.take(rows)) for rows in parts), self.team)

    def _loaded(self, loader: DataLoader[Any]) -> Iterator[tuple[Tensor, Tensor]]:
        seen = 0
        for item in loader:
            x = item[0] if isinstance(item, tuple | list) else item
            if not isinstance(x, Tensor) or x.dim() != 2 or x.shape[1] != self.width:
                found = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
                raise EvidenceError(f"{self.name} must load [B, {self.width}], got {found}")
            yield torch.arange(seen, seen + len(x)), x
            seen += len(x)
