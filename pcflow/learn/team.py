"""The processes that learn together.

Every batch is shared out among them, and what they find is added up.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Team:
    """The processes that learn together: this one alone, or those of `torch.distributed`.

    Args:
        together: whether there may be others, which all do the same with parts of the same rows.

    Raises:
        RuntimeError: if there may be, and `torch.distributed` is not initialised.

    Examples:
        >>> import torch
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
        """This process's part of the rows of a batch.

        Args:
            rows: of the whole batch [B].
        """
        return rows[self.rank :: self.size] if self.together else rows

    def add_up(self, tensors: Iterable[Tensor]) -> None:
        """Replace every tensor by its sum over all processes.

        Args:
            tensors: of the same shapes in every process; written in place.
        """
        if self.together:
            for tensor in tensors:
                total = _reachable(tensor)
                dist.all_reduce(total)
                tensor.copy_(total)

    def follow_first(self, tensors: Iterable[Tensor]) -> None:
        """Replace every tensor by that of the first process.

        Args:
            tensors: of the same shapes in every process; written in place.
        """
        if self.together:
            for tensor in tensors:
                first = _reachable(tensor)
                dist.broadcast(first, src=0)
                tensor.copy_(first)


ALONE = Team()


def _reachable(tensor: Tensor) -> Tensor:
    """The tensor, or a copy, in one piece and where the processes can exchange it."""
    nccl = dist.get_backend() == dist.Backend.NCCL
    return (tensor.cuda() if nccl else tensor).contiguous()
