"""What is installed, for a report of a fault: `python -m pcflow`."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version

import torch

import pcflow

_DEVELOPERS = re.compile("extra == .(dev|docs|test).")
"""Marks what only those need who work on pcflow."""


def report() -> str:
    """Versions, the machine, and what torch can use of it, a line each.

    Examples:
        >>> print(report())
        pcflow       ...
        Python       ...
    """
    lines = [*_software(), *_machine(), *_packages()]
    return "\n".join(f"{name:<12} {told}" for name, told in lines)


def _software() -> Iterator[tuple[str, str]]:
    yield "pcflow", f"{version('pcflow')} at {os.path.dirname(pcflow.__file__)}"
    yield "Python", f"{platform.python_version()} ({sys.executable})"
    yield "system", platform.platform()


def _machine() -> Iterator[tuple[str, str]]:
    yield (
        "processor",
        f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}",
    )
    yield "numbers", str(torch.get_default_dtype())
    for number in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(number)
        yield f"cuda:{number}", f"{about.name}, {about.total_memory / 2**30:.0f} GiB"
    if not torch.cuda.is_available():
        yield "cuda", "none here" if torch.version.cuda else "none: this torch is built without"


def _packages() -> Iterator[tuple[str, str]]:
    """What pcflow needs, and what its extras would, as far as it is there."""
    wanted = [line for line in requires("pcflow") or [] if not _DEVELOPERS.search(line)]
    names = [re.split(r"[^\w.-]", line)[0] for line in wanted]
    for name in dict.fromkeys(name for name in names if name != "pcflow"):
        yield name, _version(name)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


if __name__ == "__main__":
    print(report())
