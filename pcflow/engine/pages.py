"""Memory of gradients, which is used again when nobody holds them any more.

Memory that nobody wrote on before costs its first writer a fault for every page. On a CPU pages are
small, and for a gradient as large as the parameters of a batch that is more work than what is
computed on it. So what a gradient leaves behind waits for the next one; and is made of large pages,
where a system has some.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from contextlib import suppress
from math import prod
from threading import RLock
from weakref import ReferenceType, ref

import torch
from torch import Tensor

LARGE = mmap.PAGESIZE * (mmap.PAGESIZE // 8)
"""Bytes of a large page: what one page of addresses tells of."""


class Pages:
    """Memory that comes back by itself, of which no more is kept than was ever in use at once.

    Any number of threads may take some. On other devices than CPUs torch does the same.
    """

    def __init__(self) -> None:
        """Start with none."""
        self._lent: list[tuple[mmap.mmap, ReferenceType[memoryview]]] = []
        self._waiting: list[mmap.mmap] = []
        self._most, self._lock = 0, RLock()

    @property
    def waiting(self) -> int:
        """Bytes that nobody holds."""
        with self._lock:
            self._collect()
            return sum(map(len, self._waiting))

    def take(self, like: Tensor, shape: Sequence[int]) -> Tensor:
        """Memory of a shape with anything on it, of a tensor's precision and device."""
        size = prod(shape) * like.element_size()
        if like.device.type != "cpu" or size < LARGE:
            return like.new_empty(shape)
        with self._lock:
            self._collect()
            fitting = (memory for memory in self._waiting if len(memory) == size)
            memory = next(fitting, None) or _fresh(size)
            view = memoryview(memory)
            self._lent.append((memory, ref(view)))
            self._forget(memory)
        return torch.frombuffer(view, dtype=like.dtype, count=prod(shape)).view(*shape)

    def _collect(self) -> None:
        """What was lent and is held no more waits, the latest first."""
        lent, self._lent, back = self._lent, [], list[mmap.mmap]()
        for memory, view in lent:
            if view() is None:
                back.append(memory)
            else:
                self._lent.append((memory, view))
        self._waiting = back[::-1] + self._waiting

    def _forget(self, taken: mmap.mmap) -> None:
        """Keep what waits besides, as long as there is room for it."""
        total = sum(len(memory) for memory, _ in self._lent)
        self._most = max(self._most, total)
        waiting, self._waiting = self._waiting, []
        for memory in (one for one in waiting if one is not taken):
            total += len(memory)
            if total <= self._most:
                self._waiting.append(memory)


def _fresh(size: int) -> mmap.mmap:
    """Memory of this process alone; on Linux of large pages, as they are set up by default."""
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return mmap.mmap(-1, size)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # of a kernel without them
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memory
