"""Speed and memory against peers on the same circuits, as a Markdown table of ratios.

    pip install -r benchmarks/requirements.txt .
    python benchmarks/speed.py

Both sides carry the same parameters; before anything is timed, their results must agree.
"""

from __future__ import annotations

import argparse
import platform
import re
import warnings
from pathlib import Path

import chains
import images
import torch
import trees
from measure import HEADER, measure_machine, peak, peaks, row


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="", metavar="REGEX", help="workloads whose name has it")
    parser.add_argument("--repeats", type=int, default=30, help="timed turns (%(default)s)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--no-memory", action="store_true", help="leave the memory columns empty")
    parser.add_argument("--peak", choices=["ours", "theirs"], help="just print that side's memory")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    warnings.simplefilter("ignore")  # the peers'
    every = images.workloads() | chains.workloads() | trees.workloads()
    builders = {name: build for name, build in every.items() if re.search(given.only, name)}
    if given.peak:
        (build,) = builders.values()
        torch.manual_seed(0)
        print(f"{peak(getattr(build(), given.peak)):.0f}")
        return
    machine = measure_machine(given.repeats)
    print(HEADER, flush=True)
    for name, build in builders.items():
        memory = ("", "") if given.no_memory else peaks(Path(__file__), name)
        torch.manual_seed(0)
        print(row(build(), machine, given.repeats, memory), flush=True)
    print(
        f"\n{platform.machine()}, {given.threads} threads, torch {torch.__version__}; medians of "
        f"{given.repeats} interleaved runs. GEMM {machine.flops / 1e9:.0f} GFLOP/s, copy "
        f"{4 * machine.numbers / 1e9:.1f} GB/s. Memory: what a first run adds at its peak."
    )


if __name__ == "__main__":
    main()
