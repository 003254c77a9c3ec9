"""What models learn from: tensors, numpy arrays (mapped from disk too) and DataLoaders, in batches.

Legend: N rows, B batch, D variables.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator, Sized
from dataclasses import replace
from typing import Any, Protocol, TypeGuard

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from pcflow.data import as_weights, check_shape
from pcflow.errors import EvidenceError, TypeMismatch
from pcflow.evidence import Evidence, Numbers, as_tensor
from pcflow.learn.batch import Batch, Likelihood, check_told
from pcflow.learn.team import Team

NUMBERS = 1 << 18
"""So many numbers tell an array from others: all of a small one, some rows of a large one."""


class Examples(Protocol):
    """Rows that are made when they are asked for.

    If it has a method `fingerprint` without arguments, whose tensors tell these rows from others,
    then a checkpoint of them is refused for others. If it has a method `of_epoch`, then what that
    makes of the number of an epoch, 0, 1, ..., are the rows to learn from in it: others every time,
    or a part of too many. It is asked once more after a stop, so it must answer alike.
    """

    def __len__(self) -> int:
        """How many."""
        ...

    def take(self, rows: Tensor) -> Tensor | Batch:
        """Some rows; not kept for longer than one step of learning.

        Args:
            rows: their numbers [B].
        """
        ...


Data = Numbers | Evidence | DataLoader[Any] | Examples
"""Rows [N, D] of numbers, NaN where missing; N rows of evidence, soft or in intervals; a loader of
batches, which are [B, D] or a `Batch`, or of tuples whose first part is one; or `Examples`, as a
`Batch` of all rows is, too."""


class Rows:
    """Rows of an array, by their numbers; only those that are asked for are read."""

    def __init__(self, name: str, x: Numbers, width: int) -> None:
        """Check shape and type, and that anything is known at all."""
        self.name = name
        self.x = x if isinstance(x, np.ndarray) else as_tensor(name, x)
        check_shape(name, self.x.shape, width)
        blocks = (self.take(rows) for rows in torch.arange(len(self)).split(4096))
        if not any((~block.isnan()).any() for block in blocks):
            raise EvidenceError(f"{name} holds no observed value")

    def __len__(self) -> int:
        """How many."""
        return len(self.x)

    def take(self, rows: Tensor) -> Tensor:
        """Those rows [B, D]."""
        if isinstance(self.x, Tensor):
            return self.x[rows.to(self.x.device)]
        return as_tensor(self.name, self.x[rows.numpy()])

    def fingerprint(self) -> list[Tensor]:
        """The first row, the last, and some in between, evenly spaced."""
        count = min(len(self), max(2, NUMBERS // max(1, self.x.shape[1])))
        return [self.take(torch.linspace(0, len(self) - 1, count, dtype=torch.float64).long())]


class Source:
    """Training or validation data, gone over as often as one likes.

    Attributes:
        team: the processes that share every batch.
        numbers: the rows, where they are numbers.
        weights: how much every row counts [N]; rows of weight zero are not there.
    """

    def __init__(
        self,
        name: str,
        data: Data,
        width: int,
        size: int,
        team: Team,
        weights: Numbers | None = None,
    ) -> None:
        """Check what can be checked before it is read."""
        self.name, self.width, self.size, self.team = name, width, size, team
        self.data: Examples | DataLoader[Any]
        numbers = data.evidence if isinstance(data, Batch) else data
        self.numbers = Rows(name, numbers, width) if _holds_numbers(numbers) else None
        if self.numbers is not None and numbers is data:
            self.data = self.numbers
        elif isinstance(data, Evidence):
            self.data = Batch(data)
        elif isinstance(data, DataLoader) or _makes_rows(data):
            self.data = data
        else:
            wanted = "numbers in rows, Evidence, a DataLoader or `Examples` that make rows"
            raise TypeMismatch(name, data, wanted)
        if not isinstance(self.data, DataLoader) and len(self.data) == 0:
            raise EvidenceError(f"{name} has no rows")
        self.weights = None if weights is None else self._weights(weights)

    def _weights(self, given: Numbers) -> Tensor:
        if isinstance(self.data, DataLoader):
            wanted = "None for a loader, which makes Batches with weights of their own"
            raise TypeMismatch(f"weights of {self.name}", given, wanted)
        if hasattr(self.data, "of_epoch"):
            wanted = "None for rows that change by epoch, which makes Batches with weights"
            raise TypeMismatch(f"weights of {self.name}", given, wanted)
        return as_weights(f"weights of {self.name}", given, len(self.data))

    def check_told(self, model: Likelihood) -> None:
        """Refuse rows without features for a model that is told some, as far as is known here.

        Raises:
            EvidenceError: see `check_told`.
        """
        if isinstance(self.data, Rows | Batch):
            check_told(self.name, model, getattr(self.data, "features", None) is not None)

    def of_epoch(self, number: int) -> Source:
        """The rows of an epoch: always the same, unless the data make others."""
        others = getattr(self.data, "of_epoch", None)
        if others is None:
            return self
        found = copy.copy(self)
        found.data = others(number)
        return found

    @property
    def order(self) -> Tensor:
        """The numbers of the rows that count."""
        assert not isinstance(self.data, DataLoader)
        every = torch.arange(len(self.data))
        return every if self.weights is None else every[self.weights > 0]

    @property
    def rows(self) -> int | None:
        """How many; None if a loader does not know."""
        if not isinstance(self.data, DataLoader):
            return len(self.order)
        return len(self.data.dataset) if isinstance(self.data.dataset, Sized) else None

    @property
    def count(self) -> int:
        """How many batches there are; 1 if a loader does not know."""
        if not isinstance(self.data, DataLoader):
            return -(-len(self.order) // self.size)
        return len(self.data) if isinstance(self.data.dataset, Sized) else 1

    @property
    def about(self) -> dict[str, object]:
        """What tells these data from others, at little cost: a loader is not read."""
        parts: list[Tensor] = getattr(self.data, "fingerprint", list)()
        weights = None if self.weights is None else _told(self.weights)
        content = [_told(part) for part in parts]
        return {"rows": self.rows, "content": content, "weights": weights}

    def in_order(self) -> Iterator[Batch]:
        """All of it, as it comes."""
        if isinstance(self.data, DataLoader):
            return self._loaded(self.data)
        return self._made(self.data, self.order)

    def shuffled(self, generator: torch.Generator | None) -> Iterator[Batch]:
        """All of it in an order that is drawn now; a loader sees to that itself."""
        if isinstance(self.data, DataLoader):
            return self._loaded(self.data)
        device = None if generator is None else generator.device
        rows = self.order
        order = torch.randperm(len(rows), generator=generator, device=device)
        self.team.follow_first([order])
        return self._made(self.data, rows[order.cpu()])

    def _made(self, data: Examples, order: Tensor) -> Iterator[Batch]:
        for block in order.split(self.size):
            rows = self.team.share(block)
            batch = replace(self._batch(data.take(rows)), rows=rows)
            yield batch if self.weights is None else batch.weighed(self.weights[rows])

    def _loaded(self, loader: DataLoader[Any]) -> Iterator[Batch]:
        seen = 0
        for item in loader:
            x = item[0] if isinstance(item, tuple | list) else item
            if not isinstance(x, Batch) and not self._fits(x):
                found = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
                raise EvidenceError(f"{self.name} must load [B, {self.width}], got {found}")
            yield replace(self._batch(x), rows=torch.arange(seen, seen + len(x)))
            seen += len(x)
        if seen == 0:
            raise EvidenceError(f"{self.name} loads no row")

    def _fits(self, x: object) -> bool:
        return isinstance(x, Tensor) and x.dim() == 2 and x.shape[1] == self.width

    def _batch(self, made: object) -> Batch:
        if not isinstance(made, Tensor | Batch):
            raise TypeMismatch(f"what {self.name} makes", made, "a tensor [B, D] or a Batch")
        return Batch(made) if isinstance(made, Tensor) else made


def _holds_numbers(data: object) -> TypeGuard[Numbers]:
    return isinstance(data, Tensor | list | tuple) or hasattr(data, "__array__")


def _makes_rows(data: object) -> TypeGuard[Examples]:
    return hasattr(data, "take") and hasattr(data, "__len__")


def _told(part: Tensor) -> str:
    """Type, shape and content of a tensor, in short."""
    content = part.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
    digest = hashlib.blake2b(content.tobytes(), digest_size=16).hexdigest()
    return f"{part.dtype} {list(part.shape)} {digest}"
