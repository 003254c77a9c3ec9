"""Speed and memory against peers on the same circuits, as a Markdown table of ratios.

    pip install -r benchmarks/requirements.txt .
    python benchmarks/speed.py
    python benchmarks/speed.py --long                 # whole steps, in one process
    python benchmarks/speed.py --long --threads 1
    python benchmarks/speed.py --long --judged        # the rows that matter most, in 10 minutes

Both sides carry the same parameters; before anything is timed, their results must agree. Every
workload runs in a process of its own, so that none finds the memory that another left behind; with
`--long` all run in one, as training does, which has freed and taken memory of all sizes before.
What is measured then are the steps of `steps.py`. Memory is always that of a fresh process.
Without a peer, its rows give times over the floor, and memory. Of the rows that are judged, memory
is measured where that of a peer is.
"""

from __future__ import annotations

import argparse
import re
import warnings
from pathlib import Path

import chains
import images
import steps
import torch
import trees
from measure import HEADER, Machine, Run, Workload, ask, measure_machine, peak, processor, row
from toy import TOY, arguments, size


def main() -> None:
    """Measure, print."""
    parser = arguments(__doc__)
    parser.add_argument("--only", default="", metavar="REGEX", help="workloads whose name has it")
    parser.add_argument(
        "--repeats", type=int, default=size(30, 1), help="timed turns (%(default)s)"
    )
    parser.add_argument("--long", action="store_true", help="whole steps, all in one process")
    parser.add_argument("--judged", action="store_true", help="of these the rows that matter most")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--no-memory", action="store_true", help="leave the memory columns empty")
    parser.add_argument("--peak", choices=["ours", "theirs"], help="just print that side's memory")
    parser.add_argument("--row", type=float, nargs=2, help="just print the times, given two rates")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    warnings.simplefilter("ignore")  # the peers'
    fresh = images.workloads() | chains.workloads() | trees.workloads()
    every = steps.workloads() if given.long else fresh
    some = given.only or (steps.JUDGED if given.judged else "")
    builders = {name: build for name, build in every.items() if re.search(some, name)}
    if given.peak or given.row:
        (build,) = builders.values()
        torch.manual_seed(0)
        print(measured(build(), given))
        return
    machine = measure_machine(given.repeats)
    print(HEADER, flush=True)
    for number, (name, build) in enumerate(builders.items()):
        quick = TOY and number > 0  # to start a process takes longer than to run these
        torch.manual_seed(0)
        here = given.long or quick
        times = row(build(), machine, given.repeats) if here else alone(name, machine, given)
        left_out = quick or given.no_memory or (given.judged and "libcirkit" not in times)
        memory = ["", ""] if left_out else peaks(name, given)
        print(f"| {' | '.join([times, *memory])} |", flush=True)
    print(
        f"\n{processor()}, {given.threads} threads, torch {torch.__version__}; medians of "
        f"{given.repeats} interleaved runs. GEMM {machine.flops / 1e9:.0f} GFLOP/s, copy "
        f"{4 * machine.numbers / 1e9:.1f} GB/s. Memory: what a first run adds at its peak."
    )


def alone(name: str, machine: Machine, given: argparse.Namespace) -> str:
    """The cells of a workload's times, measured in a process of its own."""
    rates = ["--row", str(machine.flops), str(machine.numbers), "--repeats", str(given.repeats)]
    return ask(Path(__file__), [*only(name, given), *rates])


def peaks(name: str, given: argparse.Namespace) -> list[str]:
    """Those of both sides' memory, each in a process of its own."""
    sides = ("ours", "theirs")
    return [ask(Path(__file__), [*only(name, given), "--peak", side]) for side in sides]


def only(name: str, given: argparse.Namespace) -> list[str]:
    """What tells such a process of which workload it is."""
    long = ["--long"] if given.long else []
    return ["--threads", str(given.threads), "--only", f"^{re.escape(name)}$", *long]


def measured(work: Workload, given: argparse.Namespace) -> str:
    """What it prints."""
    if given.row:
        return row(work, Machine(*given.row), given.repeats)
    side: Run | None = getattr(work, given.peak)
    return "-" if side is None else f"{peak(side):.0f}"


if __name__ == "__main__":
    main()
