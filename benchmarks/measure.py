"""Workloads, interleaved timing of two sides, memory of each in a process of its own, floors."""

from __future__ import annotations

import gc
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn
from torch.autograd.graph import increment_version
from toy import TOY, size

import pcflow as pf

Run = Callable[[], object]


@dataclass(frozen=True)
class Workload:
    """One row of the table.

    Attributes:
        name: what is computed.
        peer: who else computes it.
        ours: runs pcflow once.
        theirs: runs the peer once; None if it is not installed.
        flops: the least arithmetic of one run, in floating-point operations.
        numbers: the least memory traffic of one run, in float32 numbers read or written.
        per: how many answers one run of ours and of theirs gives, if not equally many.
        goal: theirs / ours that pcflow promises; None for rows that are only shown.
    """

    name: str
    peer: str
    ours: Run
    theirs: Run | None
    flops: float = 0.0
    numbers: float = 0.0
    per: tuple[int, int] = (1, 1)
    goal: float | None = None


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


def interleaved(
    sides: list[Run],
    repeats: int,
    seconds: float = 20.0,
    clock: Callable[[], float] = time.perf_counter,
) -> list[float]:
    """Median seconds of every side, run by turns so that a busy moment hits all alike.

    Two turns warm up. Then as many as asked for, or as fit into `seconds`, but at least three.
    """
    times: list[list[float]] = [[] for _ in sides]
    began = time.perf_counter()
    for turn in range(repeats + 2):
        if turn >= 5 and time.perf_counter() - began > seconds:
            break
        for side, found in zip(sides, times, strict=True):
            start = clock()
            side()
            if turn >= 2:
                found.append(clock() - start)
    return [median(found) for found in times]


HEADER = (
    "| workload | peer | pcflow is faster by | promised | time over the floor | "
    "memory, MiB | memory of the peer |\n|---|---|---|---|---|---|---|"
)


def row(work: Workload, machine: Machine, repeats: int) -> str:
    """Measure the times of a workload; the cells of one Markdown row but for the memory."""
    ours, *theirs = interleaved([side for side in (work.ours, work.theirs) if side], repeats)
    ratios = [f"{(time / work.per[1]) / (ours / work.per[0]):.2f} x" for time in theirs]
    floor = machine.floor(work)
    over = f"{ours / floor:.1f} x" if floor > 0 else ""
    goal = "" if work.goal is None else f"{work.goal:.2f} x"
    return " | ".join(
        [
            work.name.strip(),
            work.peer,
            *(ratios or ["not installed" if work.peer else ""]),
            goal,
            over,
        ]
    )


def ask(script: Path, options: list[str]) -> str:
    """The last line that `script` prints in a fresh process."""
    everything_large_is_given_back = {"MALLOC_MMAP_THRESHOLD_": "65536"}
    env = os.environ | (everything_large_is_given_back if "--peak" in options else {})
    command = [sys.executable, str(script), *options, *(["--toy"] if TOY else [])]
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=env)
    return run.stdout.strip().splitlines()[-1]


def processor() -> str:
    """What /proc/cpuinfo calls the processor."""
    found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found[1] if found else platform.machine()


def peak(run: Run) -> float:
    """MiB by which the run makes the memory of this process larger, at its peak (Linux only)."""
    torch.mm(torch.ones(1024, 1024), torch.ones(1024, 1024))  # starts the threads
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = _status("VmRSS")
    run()
    return (_status("VmHWM") - before) / 1024


def _status(field: str) -> int:
    """A figure of this process in KiB."""
    found = re.search(rf"^{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1])


def agree(ours: Callable[[], Tensor], theirs: Callable[[], Tensor] | None) -> None:
    """Refuse to time two sides that compute different things."""
    if theirs is None or "--peak" in sys.argv:  # what a first run adds is about to be measured
        return
    with torch.no_grad():
        near_zero = size(0.0, 1e-5)  # where small circuits have their log-probabilities
        torch.testing.assert_close(ours(), theirs(), rtol=1e-5, atol=near_zero)


def forward(run: Callable[[], Tensor]) -> Run:
    """Without gradients."""
    return torch.no_grad()(run)


def backward(module: nn.Module, run: Callable[[], Tensor]) -> Run:
    """With the gradients of all parameters."""

    def both() -> None:
        module.zero_grad(set_to_none=True)
        run().mean().backward()

    return both


def fit_step(model: pf.CompiledCircuit, x: Tensor, learner: pf.Learner) -> Run:
    """One step of learning from all rows at once."""
    return lambda: pf.fit(model, x, learner, epochs=1, batch_size=len(x), progress=False)


def em_step(model: pf.CompiledCircuit, x: Tensor) -> Run:
    """Expected counts and new parameters."""
    return fit_step(model, x, pf.EM())


def renewed(module: nn.Module, run: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """Run as after an optimizer's step: nothing computed from the parameters may be kept."""

    def fresh() -> Tensor:
        for parameter in module.parameters():
            increment_version(parameter)
        return run()

    return fresh
