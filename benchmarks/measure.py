"""Interleaved timing of two sides, and the floors of the machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch


@dataclass(frozen=True)
class Workload:
    """One row of the table.

    Attributes:
        name: what is computed.
        peer: who else computes it.
        ours: runs pcflow once.
        theirs: runs the peer once.
        flops: the least arithmetic of one run, in floating-point operations.
        numbers: the least memory traffic of one run, in float32 numbers read or written.
    """

    name: str
    peer: str
    ours: Callable[[], object]
    theirs: Callable[[], object]
    flops: float
    numbers: float


@dataclass(frozen=True)
class Machine:
    """Rates that no program on this machine exceeds by much.

    Attributes:
        flops: of a large float32 matrix product, per second.
        numbers: float32 numbers read or written by a copy into a warm buffer, per second.
    """

    flops: float
    numbers: float

    def floor(self, workload: Workload) -> float:
        """Seconds that arithmetic or memory alone would take, whichever is longer."""
        return max(workload.flops / self.flops, workload.numbers / self.numbers)


def measure_machine(repeats: int) -> Machine:
    """Measure both rates."""
    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    source = torch.randn(1 << 24)
    target, product = torch.empty_like(source), torch.empty_like(a)
    (gemm, copy) = interleaved(
        [lambda: torch.mm(a, b, out=product), lambda: target.copy_(source)], repeats
    )
    return Machine(2 * 1024**3 / gemm, 2 * source.numel() / copy)


def interleaved(sides: list[Callable[[], object]], repeats: int) -> list[float]:
    """Median seconds of every side, run by turns so that a busy moment hits all alike."""
    times: list[list[float]] = [[] for _ in sides]
    for turn in range(repeats + 3):
        for side, found in zip(sides, times, strict=True):
            start = time.perf_counter()
            side()
            if turn >= 3:  # the first turns warm up
                found.append(time.perf_counter() - start)
    return [median(found) for found in times]


def table(workloads: list[Workload], machine: Machine, repeats: int) -> str:
    """Measure every workload; one Markdown row each."""
    lines = [
        "| workload | peer | pcflow is faster by | time over the floor |",
        "|---|---|---|---|",
    ]
    for work in workloads:
        ours, theirs = interleaved([work.ours, work.theirs], repeats)
        over = ours / machine.floor(work)
        lines.append(f"| {work.name} | {work.peer} | {theirs / ours:.2f} x | {over:.1f} x |")
    return "\n".join(lines)
