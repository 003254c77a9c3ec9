"""Launches that are recorded once and played back from then on.

A pass is many small operations, and a GPU spends more time on being told of them than on doing
them. What is recorded reads and writes the same memory each time, looks at no number and draws
none: between the inputs of a circuit and its root that is so. A CPU has nothing to play back: it
makes the same calls again, which tests what is said here wherever there is no GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from operator import is_
from threading import Lock
from typing import TypeVar, cast

import torch
from torch import Tensor

T = TypeVar("T")

_CAPTURE = Lock()  # one at a time


class Recordings:
    """What was recorded of passes over one sheet.

    Args:
        device: where the sheet is.
        on: whether anything is recorded.
        most: how many there may be, before all are forgotten: batches are followed by any number
            of draws, and each number has recordings and memory of its own.
    """

    def __init__(self, device: torch.device, on: bool, most: int) -> None:
        """Nothing yet."""
        self.on, self.most = on, most
        self._make = _Graph if device.type == "cuda" else _Calls
        self._known: dict[Hashable, tuple[tuple[object, ...], _Played | None]] = {}
        self._memory: dict[Hashable, Tensor] = {}

    def run(self, key: Hashable, reads: tuple[object, ...], launch: Callable[[], T]) -> T:
        """Launch, or play back what was recorded.

        The first time it is launched as it is, and libraries prepare what they need; the second
        time it is recorded.

        Args:
            key: what is done.
            reads: whose memory is used beside that of the sheet: the same objects as long as it
                is the same memory.
            launch: does it.

        Returns:
            What `launch` does. If it was recorded, that is written over the next time.
        """
        if not self.on:
            return launch()
        key = (_precision(), key)
        met, recording = self._known.get(key, (None, None))
        if met is None or len(met) != len(reads) or not all(map(is_, met, reads)):
            self._known[key] = reads, None
            return launch()
        if recording is None:
            recording = self._make(launch)
            self._known[key] = met, recording
        return cast(T, recording.play())

    def memory(self, key: Hashable, make: Callable[[], Tensor]) -> Tensor:
        """Memory that stays where it is, for what a recording reads or writes; if there is any."""
        if not self.on:
            return make()
        if key not in self._memory:
            self._memory[key] = make()
        return self._memory[key]

    def stay(self, name: Hashable, given: dict[int, Tensor]) -> dict[int, Tensor]:
        """The same numbers in memory that stays where it is; if there is any."""
        if not self.on:
            return given
        keep = {key: self.memory((name, key), t.clone) for key, t in given.items()}
        return {key: kept.copy_(given[key]) for key, kept in keep.items()}

    @property
    def size(self) -> int:
        """Bytes of the memory that stays."""
        return sum(tensor.nbytes for tensor in self._memory.values())

    def begin(self) -> None:
        """Before a pass, when nobody holds what may be forgotten."""
        if len(self._known) > self.most:
            self._known.clear()
            self._memory.clear()


def _precision() -> Hashable:
    """How torch is asked to multiply float32, which a recording keeps."""
    asked = getattr(torch.backends.cuda.matmul, "fp32_precision", None)
    return torch.get_float32_matmul_precision(), asked


class _Graph:
    """A CUDA graph."""

    def __init__(self, launch: Callable[[], object]) -> None:
        self._graph = torch.cuda.CUDAGraph()
        with _CAPTURE, torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._result = launch()

    def play(self) -> object:
        self._graph.replay()
        return self._result


class _Calls:
    """The calls that were made when it was recorded, to be made again."""

    def __init__(self, launch: Callable[[], object]) -> None:
        self.play = launch


_Played = _Graph | _Calls

NEVER = Recordings(torch.device("cpu"), on=False, most=0)
"""Nothing is recorded."""
