"""Files as the system has them: only regular ones are read, and none is ever half written.

What is promised of a file that is replaced: readers see the old one or the new one, also after the
process is killed or the power is cut; it keeps its mode; if `path` is a link, what it points to is
replaced. What killed processes left beside it is removed by the next one that replaces it; without
locks (Windows), by the next one after a minute. There a file that somebody reads is not replaced.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader, BufferedWriter
from pathlib import Path
from secrets import token_hex
from time import time

try:
    import fcntl
except ModuleNotFoundError:  # Windows, where an open file can be neither removed nor renamed
    fcntl = None  # type: ignore[assignment]

StrPath = str | os.PathLike[str]

SECONDS = 60  # of a scratch file without a lock: far longer than from its closing to its renaming


def open_file(path: StrPath) -> BufferedReader:
    """Open a regular file to read it, without ever waiting for somebody else.

    Raises:
        OSError: if it cannot be read, or is a folder, a pipe or a device.
    """
    file = open(os.fspath(path), "rb", opener=_without_waiting)  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise _irregular(path)
    return file


def _without_waiting(path: str, flags: int) -> int:
    """Opens a pipe although nobody writes to it."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def read_bytes(path: StrPath) -> bytes:
    """What a regular file holds.

    Args:
        path: the file.

    Returns:
        What the file holds.

    Raises:
        OSError: if it cannot be read, or is a folder, a pipe or a device: these are refused at
            once, where reading could wait for ever.

    Examples:
        >>> import tempfile, pcflow as pf
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     pf.replace_file(f"{folder}/a.txt", [b"one", b" two"])
        ...     pf.read_bytes(f"{folder}/a.txt")
        b'one two'
    """
    with open_file(path) as file:
        return file.read()


def whole(word: str) -> int:
    """A whole number as C writes it; Python alone reads underscores and other scripts, too."""
    return int(_plain(word))


def real(word: str) -> float:
    """A real number, likewise."""
    return float(_plain(word))


def _plain(word: str) -> str:
    if "_" in word or not word.isascii():
        raise ValueError(f"{word[:40]!r} is not a number")
    return word


def replace_file(path: StrPath, parts: Iterable[bytes | memoryview]) -> None:
    """Write a file in one step: readers see the old one or the new one, whole, and nothing else.

    That holds after a crash and after a power cut too; which of the two it is then, is not
    promised. An old file keeps its mode, a new one has what the umask leaves; a link is followed.

    Args:
        path: the file; its folder must exist.
        parts: its content, piece by piece.

    Raises:
        OSError: if it cannot be written: no such folder, no permission, no space, or a folder, a
            pipe or a device is there. An old file is left as it was.

    Examples:
        >>> import tempfile, pcflow as pf
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     pf.replace_file(f"{folder}/a.txt", (f"{n} ".encode() for n in range(3)))
        ...     pf.read_bytes(f"{folder}/a.txt")
        b'0 1 2 '
    """
    target = Path(os.path.realpath(path))
    mode = _mode(target)
    _sweep(target)
    with _scratch(target, mode) as file:
        file.writelines(parts)
        file.flush()
        os.fsync(file.fileno())  # else a power cut could leave the new name and no content
        if fcntl is None:
            file.close()
        os.replace(file.name, target)  # while it is locked: nobody may sweep it away


def _mode(target: Path) -> int | None:
    """The mode of an old file, None if there is none."""
    try:
        found = target.stat().st_mode
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(found):
        raise _irregular(target)
    return stat.S_IMODE(found) & 0o777


def _irregular(path: StrPath) -> OSError:
    return OSError(errno.EINVAL, "Not a regular file", os.fspath(path))


def _stem(target: Path) -> str:
    """How the names of scratch files for a target begin: not longer than names may be."""
    return f".pcflow-{hashlib.sha256(os.fsencode(target.name)).hexdigest()[:16]}-"


def _sweep(target: Path) -> None:
    """Remove scratch files of killed processes."""
    remove = _remove_unlocked if fcntl else _remove_untouched
    for path in target.parent.glob(f"{_stem(target)}*"):
        with suppress(OSError):  # it is locked, open, or gone by now
            remove(path)


def _remove_unlocked(path: Path) -> None:
    """Living processes hold a lock on theirs."""
    with open_file(path) as file:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        path.unlink()


def _remove_untouched(path: Path) -> None:
    """Living processes keep theirs open, but for the moment before they rename it."""
    if time() - path.stat().st_mtime > SECONDS:
        path.unlink()


@contextmanager
def _scratch(target: Path, mode: int | None) -> Iterator[BufferedWriter]:
    """A new locked file beside the target, removed if it is still there at the end."""
    file = _create(target, 0o666 if mode is None else mode | stat.S_IWUSR)
    try:
        with file:
            if mode is not None and os.name == "posix":  # elsewhere modes say but who may write
                os.fchmod(file.fileno(), mode)
            yield file
    except BaseException:
        with suppress(OSError):
            os.unlink(file.name)
        raise


def _create(target: Path, mode: int) -> BufferedWriter:
    """A new locked file beside the target, with what the umask leaves of a mode."""
    while True:
        name = target.with_name(_stem(target) + token_hex(8))
        file = open(name, "xb", opener=lambda name, flags: os.open(name, flags, mode))  # noqa: SIM115
        if fcntl:
            with suppress(OSError):  # a file system without locks: nobody sweeps there either
                fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file.fileno()).st_nlink > 0:  # else somebody swept before it was locked
            return file
        file.close()
