"""Whether parameters are still the numbers that something was computed from.

Autograd counts the edits of a tensor, but not those that go behind its back: fused optimizers,
`.data`, arrays of numpy, other processes. So a `Stamp` knows of a parameter

* which tensor it is, how often it was edited, and where its memory lies. Torch's own operations,
  whatever replaces a parameter or moves it, and `swap_tensors` change one of these;
* unless it is frozen, its numbers: all of them if they are few, otherwise a sample that is spread
  evenly;
* once a gradient was taken, which asks for a step, the sums of its rows and columns as well, as
  whole numbers: one number that changes changes them for certain, and so do two that change places.

On a GPU one has to wait for a comparison: a query reads with its certificate whether there are
`doubts`. Who edits a frozen parameter behind torch's back, or few of many numbers without a
gradient, has to say so: `torch.autograd.graph.increment_version(parameter)`.

Legend: N bytes, W columns.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

FEW = 1 << 15
"""Bytes of a parameter that is compared number by number."""

SAMPLE = 1 << 10
"""Numbers of 8 bytes in a sample: the more there are, the more of a short query they cost."""

_SAME_SIZE = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}

COLUMNS, ROWS = 1 << 12, 1 << 5
"""Columns that many numbers are laid out in, by 8 bytes; rows at a time, to stay in a cache."""


class Stamp:
    """A parameter as it is now.

    Args:
        parameter: what may change later.
        before: what it was like earlier, if that is known.
    """

    def __init__(self, parameter: Tensor, before: Stamp | None = None) -> None:
        """Look at it."""
        self._parameter, self._version = parameter, _version(parameter)
        self._place = parameter.data_ptr()
        if before is not None and before.is_laid_out_as(parameter):
            self._memory: Tensor = before._memory
            self._sample: Array = before._sample
        else:
            # while this alias lives, no other tensor can get the same place
            self._memory = parameter.detach()
            self._sample = _sample(self._memory)
        self._numbers: Numbers | None = None
        if _may_change_unseen(parameter):
            numbers = _read(self._sample)
            self._numbers = numbers.clone() if isinstance(numbers, Tensor) else numbers
        self._sums: Numbers | None = None

    def is_of(self, parameter: Tensor) -> bool:
        """Whether this is the parameter, and nothing seems to have changed since."""
        return self.is_untouched(parameter) and not any(map(bool, self.doubts()))

    def doubts(self) -> Iterator[bool | Tensor]:
        """Whether some number was edited behind the back of torch; if any answer is true."""
        if not _may_change_unseen(self._parameter):
            return
        if self._numbers is None:
            yield True  # it was frozen, and nobody looked
        else:
            yield _differ(self._numbers, _read(self._sample))
        if self._sums is not None:
            yield _differ(self._sums, _sums(self._memory))

    def is_untouched(self, parameter: Tensor) -> bool:
        """The same, but for edits behind the back of torch."""
        return (
            parameter is self._parameter
            and _version(parameter) == self._version
            and parameter.data_ptr() == self._place
        )

    def is_laid_out_as(self, parameter: Tensor) -> bool:
        """Whether the memory is that of the parameter, number by number."""
        mine = self._memory
        return (
            parameter.data_ptr() == self._place
            and parameter.shape == mine.shape
            and parameter.stride() == mine.stride()
            and parameter.dtype == mine.dtype
        )

    def watch(self) -> None:
        """From now on look at all numbers."""
        if self._sums is None and self._memory.nbytes > FEW:
            self._sums = _sums(self._memory)


Array = Tensor | npt.NDArray[np.generic]
Numbers = Tensor | bytes
"""Numbers to compare with: bytes on a CPU, which is quickest; whole numbers where they are else."""


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


def _read(array: Array) -> Numbers:
    if isinstance(array, Tensor):  # NaN equals itself as a whole number
        return array.view(_SAME_SIZE[array.element_size()])
    return array.tobytes()


def _differ(before: Numbers, now: Numbers) -> bool | Tensor:
    if isinstance(before, Tensor) and isinstance(now, Tensor):
        return torch.ne(before, now).any()
    return before != now


def _sums(memory: Tensor) -> Numbers:
    """Sums by column and by row, in one pass over memory."""
    flat = memory.reshape(-1).view(torch.uint8)  # [N]
    end = flat.numel() - flat.numel() % (8 * COLUMNS)
    grid = flat[:end].view(torch.int64).view(-1, COLUMNS)  # [N / 8 W, W]
    if memory.device.type != "cpu":
        return torch.cat([grid.sum(0), grid.sum(1), flat[end:].long()])
    by_column = grid.new_zeros(COLUMNS)
    by_row = []
    for block in grid.split(ROWS):
        by_column.add_(block.sum(0))
        by_row.append(block.sum(1))
    return b"".join(part.numpy().tobytes() for part in (by_column, torch.cat(by_row), flat[end:]))
