"""Whether parameters are still the numbers that something was computed from.

Autograd counts the edits of a tensor, but not those that go behind its back: fused optimizers,
`.data`, arrays of numpy, other processes. So a `Stamp` knows of a parameter

* which tensor it is, how often it was edited, and where its memory lies. Torch's own operations,
  whatever replaces a parameter or moves it, and `swap_tensors` change one of these;
* unless it is frozen, its numbers: all of them if they are few, otherwise a sample that is spread
  evenly;
* once a gradient was taken, which asks for a step, the sums of its rows and columns as well, as
  whole numbers: one number that changes changes them for certain, and so do two that change places.

Who edits a frozen parameter behind torch's back, or few of many numbers without a gradient, has to
say so: `torch.autograd.graph.increment_version(parameter)`.

Legend: N bytes, W columns.
"""

from __future__ import annotations

from functools import reduce
from operator import add

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

FEW = 1 << 15
"""Bytes of a parameter that is compared number by number."""

SAMPLE = 1 << 10
"""Numbers of 8 bytes in a sample: the more there are, the more of a short query they cost."""

COLUMNS, ROWS = 1 << 10, 1 << 9
"""Columns that many numbers are laid out in, by 8 bytes; rows at a time, to stay in a cache."""


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
        self._sample = _sample(self._memory)
        self._numbers = _bytes(self._sample) if _may_change_unseen(parameter) else None
        self._sums: bytes | None = None

    def is_of(self, parameter: Tensor) -> bool:
        """Whether this is the parameter, and nothing seems to have changed since."""
        if not self.is_untouched(parameter):
            return False
        if not _may_change_unseen(parameter):
            return True
        same = self._numbers == _bytes(self._sample)
        return same and (self._sums is None or self._sums == _sums(self._memory))

    def is_untouched(self, parameter: Tensor) -> bool:
        """The same, but for edits behind the back of torch."""
        return (
            parameter is self._parameter
            and _version(parameter) == self._version
            and parameter.data_ptr() == self._place
        )

    def watch(self) -> None:
        """From now on look at all numbers."""
        if self._sums is None and self._memory.nbytes > FEW:
            self._sums = _sums(self._memory)


Array = Tensor | npt.NDArray[np.generic]


def _version(parameter: Tensor) -> int:
    return 0 if parameter.is_inference() else parameter._version


def _may_change_unseen(parameter: Tensor) -> bool:
    return parameter.requires_grad or parameter.is_inference()


def _sample(memory: Tensor) -> Array:
    """A view of all numbers, or of some; of numpy on a CPU, which is quicker to read."""
    array = memory.numpy() if memory.device.type == "cpu" else memory
    if memory.nbytes <= FEW or not memory.is_contiguous():
        return array
    step = memory.nbytes // (8 * SAMPLE) + 1
    return array.reshape(-1)[:: 8 // memory.element_size() * step]


def _bytes(array: Array) -> bytes:
    return (array.cpu().numpy() if isinstance(array, Tensor) else array).tobytes()


def _sums(memory: Tensor) -> bytes:
    """Sums by column and by row, in one pass over memory."""
    flat = memory.reshape(-1).view(torch.uint8)  # [N]
    end = flat.numel() - flat.numel() % (8 * COLUMNS)
    grid = flat[:end].view(torch.int64).view(-1, COLUMNS)  # [N / 8 W, W]
    words = grid.numpy() if memory.device.type == "cpu" else grid
    blocks = [words[start : start + ROWS] for start in range(0, len(words), ROWS)]
    by_column: Array = reduce(add, [block.sum(0) for block in blocks])
    return b"".join(map(_bytes, [by_column, *(block.sum(1) for block in blocks), flat[end:]]))
