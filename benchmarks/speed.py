"""Speed and memory against peers on the same circuits, as a Markdown table of ratios.

    pip install -r benchmarks/requirements.txt .
    python benchmarks/speed.py

Both sides carry the same parameters; before anything is timed, their results must agree. Every
workload runs in a process of its own, so that none finds the memory that another left behind.
Without a peer, its rows give times over the floor, and memory.
"""

from __future__ import annotations

import argparse
import re
import warnings
from pathlib import Path

import chains
import images
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
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--no-memory", action="store_true", help="leave the memory columns empty")
    parser.add_argument("--peak", choices=["ours", "theirs"], help="just print that side's memory")
    parser.add_argument("--row", type=float, nargs=2, help="just print the times, given two rates")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    warnings.simplefilter("ignore")  # the peers'
    every = images.workloads() | chains.workloads() | trees.workloads()
    builders = {name: build for name, build in every.items() if re.search(given.only, name)}
    if given.peak or given.row:
        (build,) = builders.values()
        torch.manual_seed(0)
        print(alone(build(), given))
        return
    machine = measure_machine(given.repeats)
    print(HEADER, flush=True)
    for number, (name, build) in enumerate(builders.items()):
        if TOY and number > 0:  # to start a process takes longer than to run these
            print(f"| {row(build(), machine, given.repeats)} | | |", flush=True)
        else:
            print(f"| {' | '.join(apart(name, machine, given))} |", flush=True)
    print(
        f"\n{processor()}, {given.threads} threads, torch {torch.__version__}; medians of "
        f"{given.repeats} interleaved runs. GEMM {machine.flops / 1e9:.0f} GFLOP/s, copy "
        f"{4 * machine.numbers / 1e9:.1f} GB/s. Memory: what a first run adds at its peak."
    )


def apart(name: str, machine: Machine, given: argparse.Namespace) -> list[str]:
    """The cells of a workload's row, all measured in processes of their own."""
    options = ["--threads", str(given.threads), "--only", f"^{re.escape(name)}$"]
    rates = ["--row", str(machine.flops), str(machine.numbers), "--repeats", str(given.repeats)]
    peaks = [] if given.no_memory else [["--peak", side] for side in ("ours", "theirs")]
    cells = [ask(Path(__file__), [*options, *wanted]) for wanted in (rates, *peaks)]
    return cells if peaks else [*cells, "", ""]


def alone(work: Workload, given: argparse.Namespace) -> str:
    """What such a process prints."""
    if given.row:
        return row(work, Machine(*given.row), given.repeats)
    side: Run | None = getattr(work, given.peak)
    return "-" if side is None else f"{peak(side):.0f}"


if __name__ == "__main__":
    main()
