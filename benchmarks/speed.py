"""Speed and memory against peers on the same circuits, as a Markdown table of ratios.

    pip install -r benchmarks/requirements.txt .
    python benchmarks/speed.py

Both sides carry the same parameters; before anything is timed, their results must agree. Every
workload runs in a process of its own, so that none finds the memory that another left behind.
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
from measure import HEADER, Machine, ask, measure_machine, peak, processor, row


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="", metavar="REGEX", help="workloads whose name has it")
    parser.add_argument("--repeats", type=int, default=30, help="timed turns (%(default)s)")
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
        work = build()
        if given.peak:
            print(f"{peak(getattr(work, given.peak)):.0f}")
        else:
            print(row(work, Machine(*given.row), given.repeats))
        return
    machine = measure_machine(given.repeats)
    print(HEADER, flush=True)
    for name in builders:
        options = ["--threads", str(given.threads), "--only", f"^{re.escape(name)}$"]
        rates = ["--row", str(machine.flops), str(machine.numbers), "--repeats", str(given.repeats)]
        cells = [ask(Path(__file__), [*options, *rates])]
        for side in ("ours", "theirs"):
            cells.append("" if given.no_memory else ask(Path(__file__), [*options, "--peak", side]))
        print(f"| {' | '.join(cells)} |", flush=True)
    print(
        f"\n{processor()}, {given.threads} threads, torch {torch.__version__}; medians of "
        f"{given.repeats} interleaved runs. GEMM {machine.flops / 1e9:.0f} GFLOP/s, copy "
        f"{4 * machine.numbers / 1e9:.1f} GB/s. Memory: what a first run adds at its peak."
    )


if __name__ == "__main__":
    main()
