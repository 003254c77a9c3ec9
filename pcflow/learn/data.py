"""What models learn from: tensors, numpy arrays (mapped from disk too) and DataLoaders, in batches.

In several processes every batch is shared out, and what they find is added up.

Legend: N rows, B batch, D variables, V categories.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import DataLoader

from pcflow.errors import EvidenceError, NoMassError
from pcflow.evidence import Evidence
from pcflow.queries import CompiledCircuit


@dataclass(frozen=True, eq=False)
class Conditional:
    """Rows whose conditional log-likelihood is to be learned, in place of their likelihood.

    What is maximised is log p(evidence) - log p(given) + offset: with all values as evidence and
    some of them given, the conditional likelihood of the others (discriminative training); with
    potentials given, the likelihood under a reweighted and normalised circuit.

    Args:
        evidence: B rows.
        given: as many rows, each at least as probable as that of `evidence`, potentials apart.
        offset: [B], what does not depend on the circuit (nats); zeros by default.
        weight: [B], how much every row counts; ones by default.

    Raises:
        EvidenceError: if the numbers of rows differ.

    Examples:
        >>> import pcflow as pf
        >>> model = pf.compile(pf.naive_bayes([pf.Categorical(3)] * 4, units=2))
        >>> x = torch.randint(3, (6, 4))
        >>> label_hidden = torch.tensor([[True, False, False, False]]).expand(6, -1)
        >>> bool((Conditional(x, pf.Evidence(x, label_hidden)).log_prob(model) <= 0).all())
        True
    """

    evidence: Evidence | Tensor
    given: Evidence | Tensor
    offset: Tensor | None = None
    weight: Tensor | None = None

    def __post_init__(self) -> None:
        """Count the rows."""
        parts = (self.evidence, self.given, self.offset, self.weight)
        counts = {_count(part) for part in parts if part is not None}
        if len(counts) != 1:
            raise EvidenceError(f"Conditional needs equally many rows everywhere, got {counts}")

    def __len__(self) -> int:
        """How many rows."""
        return _count(self.evidence)

    def log_prob(self, model: CompiledCircuit) -> Tensor:
        """Of every row [B] (nats), without its weight; differentiable in the parameters."""
        difference = model.log_prob(self.evidence) - model.log_prob(self.given)
        return difference if self.offset is None else difference + self.offset.to(difference)


def _count(part: Evidence | Tensor) -> int:
    return part.batch_size if isinstance(part, Evidence) else len(part)


Batch = Tensor | Conditional
"""Rows [B, D] whose likelihood is learned; or whose conditional likelihood is."""


class Examples(Protocol):
    """Rows that are made when they are asked for."""

    def __len__(self) -> int:
        """How many."""
        ...

    def take(self, rows: Tensor) -> Batch:
        """Those rows, by their numbers [B]; not kept for longer than one step of learning."""
        ...


Data = Tensor | npt.NDArray[Any] | DataLoader[Any] | Examples
"""Rows [N, D] of numbers, NaN where missing; or a loader of batches [B, D], or of tuples whose
first part is one; or `Examples`."""


def log_prob(model: CompiledCircuit, batch: Batch) -> Tensor:
    """What is learned [B] (nats)."""
    return model.log_prob(batch) if isinstance(batch, Tensor) else batch.log_prob(model)


def unconditional(batch: Batch) -> Tensor:
    """The rows, if it is their likelihood that is learned.

    Raises:
        TypeError: if it is not.
    """
    if isinstance(batch, Conditional):
        raise TypeError("conditional likelihoods are learned by Anemone or Gradient only")
    return batch


def weight_of(batch: Batch, like: Tensor) -> Tensor:
    """How much every row counts [B], as the numbers `like` [B]."""
    weight = None if isinstance(batch, Tensor) else batch.weight
    return torch.ones_like(like) if weight is None else weight.to(like)


def totals(log_prob: Tensor, weight: Tensor) -> Tensor:
    """Weighted sum [2] in double, and the sum of the weights, both [B]."""
    log_prob, weight = log_prob.detach().double().cpu(), weight.double().cpu()
    return torch.stack([weight @ log_prob, weight.sum()])


@dataclass(frozen=True)
class Team:
    """The processes that learn together: this one alone, or those of `torch.distributed`.

    Args:
        together: whether there may be others, which all do the same with parts of the same rows.

    Raises:
        RuntimeError: if there may be, and `torch.distributed` is not initialised.

    Examples:
        >>> alone = Team()
        >>> alone.rank, alone.size, alone.share(torch.tensor([4, 2, 0]))
        (0, 1, tensor([4, 2, 0]))
    """

    together: bool = False

    def __post_init__(self) -> None:
        """Look for the others."""
        if self.together and not dist.is_initialized():
            raise RuntimeError("distributed needs torch.distributed.init_process_group first")

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
        source: numbers of rows, and the rows.
        team: the processes that share it.
        count: how many batches there are; 1 if that is not known.
        span: the part of all learning that this epoch is, from 0 to 1.
        done: how much of all learning is over before the batch at hand.
    """

    span = (0.0, 1.0)

    def __init__(self, source: Iterable[tuple[Tensor, Batch]], team: Team, count: int = 1) -> None:
        """Begin at the first batch."""
        self.source, self.team, self.count, self.now = source, team, count, torch.arange(0)
        self.done = 0.0

    def __iter__(self) -> Iterator[Batch]:
        """Batches, of rows [B, D] or `Conditional`."""
        start, stop = self.span
        for number, (rows, batch) in enumerate(self.source):
            self.now = rows
            self.done = start + (stop - start) * min(1.0, number / self.count)
            yield batch

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
        self.data: Examples | DataLoader[Any]
        if isinstance(data, Tensor | np.ndarray) or not hasattr(data, "take"):
            self.data = data if isinstance(data, DataLoader) else Rows(name, data, width)
        else:
            self.data = data

    @property
    def rows(self) -> int | None:
        """How many; None if a loader does not know."""
        if not isinstance(self.data, DataLoader):
            return len(self.data)
        return len(self.data.dataset) if isinstance(self.data.dataset, Sized) else None

    def in_order(self) -> Batches:
        """All of it, as it comes."""
        if isinstance(self.data, DataLoader):
            known = isinstance(self.data.dataset, Sized)
            return Batches(self._loaded(self.data), self.team, len(self.data) if known else 1)
        return self._batches(self.data, torch.arange(len(self.data)))

    def shuffled(self, generator: torch.Generator | None) -> Batches:
        """All of it in an order that is drawn now; a loader sees to that itself."""
        if isinstance(self.data, DataLoader):
            return self.in_order()
        device = None if generator is None else generator.device
        order = torch.randperm(len(self.data), generator=generator, device=device)
        self.team.follow_first([order])
        return self._batches(self.data, order.cpu())

    def _batches(self, data: Examples, order: Tensor) -> Batches:
        blocks = order.split(self.size)
        parts = (self.team.share(rows) for rows in blocks)
        return Batches(((rows, data.take(rows)) for rows in parts), self.team, len(blocks))

    def _loaded(self, loader: DataLoader[Any]) -> Iterator[tuple[Tensor, Tensor]]:
        seen = 0
        for item in loader:
            x = item[0] if isinstance(item, tuple | list) else item
            if not isinstance(x, Tensor) or x.dim() != 2 or x.shape[1] != self.width:
                found = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
                raise EvidenceError(f"{self.name} must load [B, {self.width}], got {found}")
            yield torch.arange(seen, seen + len(x)), x
            seen += len(x)
