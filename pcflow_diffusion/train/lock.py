"""One run at a time: a file that the system holds for a process, and lets go when it ends."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pcflow_diffusion.errors import AlreadyRunning


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a file that no other process holds; what a killed one left behind is no hindrance.

    Args:
        path: the file; made, and removed in the end. Its folder must be there.

    Raises:
        AlreadyRunning: if another process, or another place of this one, holds it.
        OSError: if it cannot be made.

    Examples:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder, locked(Path(folder) / "lock"):
        ...     print(os.listdir(folder))
        ['lock']
    """
    held = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        if not (_hold(held) and _is(held, path)):
            raise AlreadyRunning(path)
        try:
            yield
        finally:
            with suppress(OSError):  # a system that removes no open file
                path.unlink()
    finally:
        os.close(held)


def _hold(file: int) -> bool:
    """Whether an open file is this one's now; until it is closed, or the process is gone.

    Where the file system knows no locks, every one is.
    """
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:
        return True
    return True


def _is(file: int, path: Path) -> bool:
    """Whether that is still the file of a path: one that has just ended may have removed it."""
    return path.exists() and os.path.samestat(os.fstat(file), path.stat())
