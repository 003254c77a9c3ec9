"""Times that can be compared: all sides by turns in one process, and what the machine can do."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import NamedTuple

import torch

Run = Callable[[], object]


class Rates(NamedTuple):
    """What the machine does in a second.

    Attributes:
        bandwidth: bytes read, of a tensor as large as the tables that are timed.
        flops: floating-point operations of a large matrix product.
    """

    bandwidth: float
    flops: float


def interleaved(sides: Mapping[str, Run], repeats: int) -> dict[str, float]:
    """Median seconds of every side, run by turns after two turns that warm up.

    Examples:
        >>> sorted(interleaved({"a": lambda: None, "b": lambda: sum(range(9))}, repeats=3))
        ['a', 'b']
    """
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats + 2):
        for name, run in sides.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    return {name: median(found[2:]) for name, found in times.items()}


def machine_sides(rows: int, columns: int) -> dict[str, Run]:
    """What is to be timed with all else to know the `Rates`."""
    table, square = torch.ones(rows, columns), torch.ones(1024, 1024)
    return {"read": table.sum, "multiply": lambda: square @ square}


def rates_of(found: Mapping[str, float], rows: int, columns: int) -> Rates:
    """From the seconds of `machine_sides`.

    Examples:
        >>> rates_of({"read": 2.0, "multiply": 2.0}, rows=10, columns=5).bandwidth
        100.0
    """
    return Rates(4 * rows * columns / found["read"], 2 * 1024**3 / found["multiply"])
