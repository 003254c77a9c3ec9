"""Toy size: with `--toy`, every file here runs in seconds, without peers and without data.

`.ci/run` runs each of them so, which shows that it still runs; its figures then say nothing.
"""

from __future__ import annotations

import argparse
import sys
from importlib.util import find_spec
from typing import TypeVar

T = TypeVar("T")

TOY = (
    "--toy" in sys.argv
)  # so that sizes may be constants, in processes that a benchmark starts too


def size(full: T, toy: T) -> T:
    """The first, or the second at toy size."""
    return toy if TOY else full


def arguments(about: str | None) -> argparse.ArgumentParser:
    """A parser that knows `--toy`, about what the first line of a module's docstring says."""
    parser = argparse.ArgumentParser(description=(about or "").splitlines()[0])
    parser.add_argument("--toy", action="store_true", help="in seconds, to see that it runs")
    return parser


def is_installed(package: str) -> bool:
    """Whether a peer can be imported; without it, its cells say so."""
    return find_spec(package) is not None
