"""What queries do on a card: operations, launches, and every wait for the card, in Markdown tables.

    python benchmarks/gpu_profile.py

Of each query the time, how much of it the card is at work, how many kernels that is and by how many
launches (a graph is launched once for all of its kernels); the operations that take most; and where
the host waits for the card, by the functions that ask for it, innermost first. On a CPU, at toy
size, operations are those of the CPU.
"""

from __future__ import annotations

import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from gpu_rates import DEVICE, MEMORY, Table, card, in_a_line, require_card, synced
from measure import Run, forward
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from toy import arguments, size

import pcflow as pf
import pcflow_diffusion
from pcflow_diffusion import CircuitHead

LENGTH, STATES, SYMBOLS, ROWS = size((64, 1024, 4096, 256), (8, 16, 4, 4))
BLOCK, TOKENS, LISTED = size((32, 126_464, 256), (4, 64, 8))
SHOWN, FRAMES = 12, 3
LAUNCHES = ("cudaLaunchKernel", "cuLaunchKernel", "cudaGraphLaunch")


def main() -> None:
    """Profile, print."""
    arguments(__doc__).parse_args()
    require_card()
    failed = False
    for build in (chain_queries, head_queries):
        for name, run in build():
            print(f"\n### {name}\n", flush=True)
            try:
                report(run)
            except Exception as error:
                failed = True
                print(in_a_line(error), flush=True)
    print(f"\n{card()}")
    raise SystemExit(failed)


def chain_queries() -> Iterator[tuple[str, Run]]:
    """Scoring and learning of a hidden Markov model."""
    model = pf.compile(pf.hmm(LENGTH, STATES, pf.Categorical(SYMBOLS)), DEVICE, memory=MEMORY)
    x = torch.randint(SYMBOLS, (ROWS, LENGTH), device=DEVICE)
    learning = pf.EM().start(model)
    yield "HMM: log_prob", forward(lambda: model.log_prob(x))
    yield "HMM: a step of EM", lambda: learning.step([pf.Batch(x)])


def head_queries() -> Iterator[tuple[str, Run]]:
    """One coupled sample of a block."""
    circuit = pf.hmm(BLOCK, STATES, pf.Categorical(TOKENS))
    model = pf.compile(circuit, DEVICE, memory=MEMORY).requires_grad_(False)
    mask = TOKENS - 1
    for coupling, listed, batch in (
        ("product", LISTED, 1),
        ("product", LISTED, 8),
        ("product", None, 1),
        ("projection", None, 1),
        ("projection", LISTED, 1),
    ):
        head = CircuitHead(model, mask, coupling, top_k=listed)
        logits = 3 * torch.randn(batch, BLOCK, TOKENS, device=DEVICE)
        x = torch.full((batch, BLOCK), mask, device=DEVICE)
        among = "all tokens" if listed is None else f"the top {listed}"
        yield f"sample of {among}, {coupling}, B={batch}", partial(head.sample, logits, x)


def report(run: Run) -> None:
    """Print the tables of a query."""
    for _ in range(3):  # whatever is made once is made now
        run()
    seconds = elapsed(run)
    with synchronisations() as waits:
        run()
    events = list(recorded(run).key_averages())
    kernels = [event for event in events if event.device_type == DeviceType.CUDA]
    busy = sum(event.self_device_time_total for event in kernels) / 1e6
    launches = sum(event.count for event in events if event.key.startswith(LAUNCHES))
    Table("ms", "card at work, ms", "kernels", "launches", "waits").row(
        f"{1e3 * seconds:.3f}",
        f"{1e3 * busy:.3f}",
        *map(str, (sum(event.count for event in kernels), launches, waits.total())),
    )
    print_largest(kernels or events)
    print_waits(waits)


def elapsed(run: Run) -> float:
    """Seconds of one run."""
    began = time.perf_counter()
    synced(run)()
    return time.perf_counter() - began


def recorded(run: Run) -> Any:
    """What the profiler saw of one run."""
    kinds = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (DEVICE.type == "cuda")
    with profile(activities=kinds, acc_events=True) as seen:
        synced(run)()
    return seen


def print_largest(events: list[Any]) -> None:
    """The operations that take most, in all calls together."""

    def microseconds(event: Any) -> float:
        return event.self_device_time_total or event.self_cpu_time_total

    print()
    table = Table("operation", "calls", "ms")
    for event in sorted(events, key=microseconds, reverse=True)[:SHOWN]:
        name = event.key.replace("|", "/")[:100]
        table.row(name, str(event.count), f"{microseconds(event) / 1e3:.3f}")


def print_waits(waits: Counter[str]) -> None:
    """Where the host waits for the card."""
    if waits:
        print()
        table = Table("waits", "asked for by")
        for place, times in waits.most_common():
            table.row(str(times), place)


@contextmanager
def synchronisations() -> Iterator[Counter[str]]:
    """Count the waits for the card by who asks for them; torch warns of each."""
    found: Counter[str] = Counter()

    def note(message: Warning | str, *_: object, **__: object) -> None:
        if "synchronizing" in str(message):
            found[asked_by()] += 1

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = note
        try:
            _warn_of_waits("warn")
            yield found
        finally:
            _warn_of_waits("default")


def _warn_of_waits(how: str) -> None:
    if DEVICE.type == "cuda":
        torch.cuda.set_sync_debug_mode(how)


def asked_by() -> str:
    """The innermost functions of pcflow that are running, as file:line."""
    packages = [Path(pf.__file__).parent, Path(pcflow_diffusion.__file__).parent]
    ours = [
        f"{Path(frame.filename).relative_to(package.parent)}:{frame.lineno}"
        for frame in reversed(traceback.extract_stack())
        for package in packages
        if Path(frame.filename).is_relative_to(package)
    ]
    return " < ".join(ours[:FRAMES]) or "outside of pcflow"


if __name__ == "__main__":
    main()
