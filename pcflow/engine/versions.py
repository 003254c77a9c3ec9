"""Whether parameters are still the numbers that something was computed from.

Autograd counts the edits of a tensor, but not those that go behind its back: fused optimizers,
`.data`, arrays of numpy, other processes. So a `Stamp` knows of a parameter

* which tensor it is, how often it was edited, and where its memory lies. Torch's own operations,
  whatever replaces a parameter or moves it, and `swap_tensors` change one of these;
* unless it is frozen, its numbers. Of a small parameter that is all of them; of a large one the
  sums of its rows and of its columns, as whole numbers: one number that changes changes them for
  certain, and so do two that change places.

Who edits a frozen parameter behind torch's back has to say so:
`torch.autograd.graph.increment_version(parameter)`.

Legend: N bytes, W columns.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

SMALL = 1 << 15
"""Bytes of a parameter that is compared number by number."""

COLUMNS, ROWS = 1 << 10, 1 << 9
"""Columns that a large parameter is laid out in, by 8 bytes; rows at a time, to stay in a cache."""


class Stamp:
    """A parameter as it is now.

    Args:
        parameter: what may change later.
    """

    def __init__(self, parameter: Tensor) -> None:
        """Look at it."""
        self._parameter, self._version = parameter, _version(parameter)
        self._place = parameter.data_ptr()
        # while this alias lives, no other tensor can get the same place
        self._memory = parameter.detach()
        self._array = self._memory.numpy() if parameter.device.type == "cpu" else None
        self._numbers = self._look() if _may_change_unseen(parameter) else None

    def is_of(self, parameter: Tensor) -> bool:
        """Whether this is the parameter, and nothing has changed since."""
        return self.is_untouched(parameter) and (
            not _may_change_unseen(parameter) or self._numbers == self._look()
        )

    def is_untouched(self, parameter: Tensor) -> bool:
        """The same, but for edits behind the back of torch."""
        return (
            parameter is self._parameter
            and _version(parameter) == self._version
            and parameter.data_ptr() == self._place
        )

    def _look(self) -> bytes:
        if self._array is None:
            return _digest_on_device(self._memory)
        if self._array.nbytes <= SMALL:
            return self._array.tobytes()
        return _digest(self._array)


def _version(parameter: Tensor) -> int:
    return 0 if parameter.is_inference() else parameter._version


def _may_change_unseen(parameter: Tensor) -> bool:
    return parameter.requires_grad or parameter.is_inference()


def _digest(array: npt.NDArray[np.generic]) -> bytes:
    """Sums by column and by row, in one pass over memory."""
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)  # [N]
    end = flat.size - flat.size % (8 * COLUMNS)
    grid = flat[:end].view(np.int64).reshape(-1, COLUMNS)  # [N / 8 W, W]
    by_column, by_row = np.zeros(COLUMNS, np.int64), np.empty(len(grid), np.int64)
    for start in range(0, len(grid), ROWS):
        block = grid[start : start + ROWS]
        by_column += block.sum(axis=0)
        block.sum(axis=1, out=by_row[start : start + ROWS])
    return b"".join((by_column.tobytes(), by_row.tobytes(), flat[end:].tobytes()))


def _digest_on_device(memory: Tensor) -> bytes:
    """The same where the numbers are; only what is small is copied."""
    flat = memory.reshape(-1).view(torch.uint8)  # [N]
    end = flat.numel() - flat.numel() % (8 * COLUMNS) if flat.numel() > SMALL else 0
    grid = flat[:end].view(torch.int64).view(-1, COLUMNS)  # [N / 8 W, W]
    sums = torch.cat([grid.sum(dim=0), grid.sum(dim=1)])
    return sums.cpu().numpy().tobytes() + flat[end:].cpu().numpy().tobytes()
