"""Python looks for cycles among all its objects whenever enough were made: in vain, for layers.

Whatever makes or meets hundreds of thousands of them spends half of its time on that.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock


class _Pause:
    """Who wants no collection at present, in all threads."""

    def __init__(self) -> None:
        self._lock, self._count, self._was_on = Lock(), 0, False

    def begin(self) -> None:
        with self._lock:
            if self._count == 0:
                self._was_on = gc.isenabled()
                gc.disable()
            self._count += 1

    def end(self) -> None:
        with self._lock:
            self._count -= 1
            if self._count == 0 and self._was_on:
                gc.enable()


_PAUSE = _Pause()


@contextmanager
def no_collection() -> Iterator[None]:
    """Cycles are not looked for, until the last thread that asks for this is done.

    Examples:
        >>> with no_collection():
        ...     gc.isenabled()
        False
        >>> gc.isenabled()
        True
    """
    _PAUSE.begin()
    try:
        yield
    finally:
        _PAUSE.end()
