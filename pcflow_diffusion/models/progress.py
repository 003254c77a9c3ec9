"""How far long work has come: bars and lines for those who look, nothing where all is to be quiet.

A bar shows itself where standard error is a terminal, unless a function is told otherwise
(`progress=`); so pipes and logs hold none. `quietly` is for commands: no bar, no line of news.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

INTERRUPTED = 130
"""What a command returns that was interrupted, as shells have it."""

_quiet: ContextVar[bool] = ContextVar("quiet", default=False)


@contextmanager
def quietly(quiet: bool = True) -> Iterator[None]:
    """Within it nothing is told on the way, but by who is told to: results are still printed.

    Args:
        quiet: False changes nothing.

    Examples:
        >>> with quietly():
        ...     say("step 1")
    """
    before = _quiet.set(quiet or _quiet.get())
    try:
        yield
    finally:
        _quiet.reset(before)


@contextmanager
def interruptible() -> Iterator[None]:
    """A command that somebody stops by Ctrl-C says so in a line.

    Raises:
        SystemExit: with 130, as shells have it.
    """
    try:
        yield
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None


def shown(progress: bool | None = None) -> bool | None:
    """Whether there is to be a bar; None if that depends on whether anybody looks."""
    return False if progress is None and _quiet.get() else progress


def looked_at() -> bool:
    """Whether a bar would be shown to somebody."""
    return sys.stderr.isatty() if shown() is None else False


def bar(items: Iterable[Any] | None = None, progress: bool | None = None, **how: Any) -> Any:
    """A bar of `tqdm`.

    Args:
        items: what is gone over, if it is a loop.
        progress: whether to show it; by default if standard error is a terminal.
        how: the other settings of `tqdm`.
    """
    from tqdm import tqdm

    wanted = shown(progress)
    return tqdm(items, disable=None if wanted is None else not wanted, **how)


def tell(line: str) -> None:
    """Print a line of news."""
    if not _quiet.get():
        print(line, flush=True)


def say(line: str) -> None:
    """Print what comes next, apart from what was before."""
    tell(f"\n{line}")
