"""The code as it is against that of another commit: times side by side, as a Markdown table.

    python benchmarks/two_commits.py COMMIT
    python benchmarks/two_commits.py                  # against itself: what the machine's noise is

Every row of `our_rows.py` runs in four processes, two of each version, that stay up and are timed
by turns; ratios are medians of those within a turn. The spread is what the two processes of one
version differ by, of both versions the larger one. A row that is slower by more than 5 % beyond its
spread is marked, and so is one that not both can run; then the status is 1.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import torch
from measure import processor
from our_rows import rows
from toy import TOY, arguments, size
from versions import ROOT, checkout

import pcflow as pf

BEYOND = 0.05  # the spread, from where on a difference counts
SECONDS = size(0.03, 0.0)  # a turn takes at least so long, or one run


def main() -> None:
    """Measure, print."""
    parser = arguments(__doc__)
    parser.add_argument("commit", nargs="?", help="the old version; none: the same as the new one")
    parser.add_argument("--only", default="", metavar="REGEX", help="rows whose name has it")
    parser.add_argument("--turns", type=int, default=size(21, 2), help="(%(default)s)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--worker", action="store_true", help="just do what standard input says")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.worker:
        return work()
    print(
        "| row | old, ms | new, ms | new / old | spread | |\n|---|---|---|---|---|---|", flush=True
    )
    found: dict[str, list[str]] = {"slower": [], "faster": [], "broken": []}
    with ExitStack() as stack:
        old = stack.enter_context(checkout(given.commit))
        sides = [stack.enter_context(Worker(folder, given.threads)) for folder in (old, ROOT) * 2]
        for name in filter(re.compile(given.only).search, rows()):
            if verdict := compare(name, sides, given.turns):
                found[verdict].append(name)
    for verdict in ("slower", "faster"):
        print(f"\n{verdict.capitalize()} by more than {BEYOND:.0%} beyond the spread:", end=" ")
        print("; ".join(found[verdict]) or "none")
    print(f"\nNot run by both versions: {'; '.join(found['broken']) or 'none'}")
    print(
        f"\n{processor()}, {given.threads} threads, torch {torch.__version__}; medians of "
        f"{given.turns} turns of two processes of each version."
    )
    sys.exit(bool(found["broken"] or (found["slower"] and not TOY)))


class Worker:
    """A process that imports pcflow from a folder, and runs rows when it is asked to."""

    def __init__(self, folder: Path, threads: int) -> None:
        """Start it."""
        options = ["--worker", "--threads", str(threads), *(["--toy"] if TOY else [])]
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__)), *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(folder)},
        )
        here = self.ask({})
        assert Path(here).is_relative_to(folder), f"{here} was imported, not what is in {folder}"

    def __enter__(self) -> Worker:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End it."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def ask(self, wanted: dict[str, Any]) -> Any:
        """What it answers."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(wanted) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


def work() -> None:
    """A worker: says where pcflow is, prepares a row, or times so many runs of it."""
    answers, every = sys.stdout, rows()
    sys.stdout = sys.stderr
    for line in sys.stdin:
        match json.loads(line):
            case {"row": name}:
                try:
                    torch.manual_seed(0)
                    run = every[name]()
                    run()
                    answer: Any = timed(run, 1)
                except Exception as error:  # a name that this version does not have, for one
                    answer = f"{type(error).__name__}: {error}"
            case {"times": times}:
                answer = timed(run, times)
            case _:
                answer = pf.__file__
        print(json.dumps(answer), file=answers, flush=True)


def timed(run: Any, times: int) -> float:
    """Seconds of a run, on the average of some."""
    began = time.perf_counter()
    for _ in range(times):
        run()
    return (time.perf_counter() - began) / times


def compare(name: str, sides: list[Worker], turns: int) -> str:
    """Time a row on all sides and print it; says whether it is slower, faster or neither."""
    ready = [side.ask({"row": name}) for side in sides]
    broken = [answer for answer in ready if isinstance(answer, str)]
    if broken:
        print(f"| {name} | {' | '.join(map(_told, ready[:2]))} | | | {broken[0]} |", flush=True)
        return "broken"
    times = max(1, round(SECONDS / min(ready)))
    found: list[list[float]] = [[] for _ in sides]
    for turn in range(turns):
        for k in range(len(sides)):  # each turn begins with another one
            n = (k + turn) % len(sides)
            found[n].append(sides[n].ask({"times": times}))
    old, new = found[0] + found[2], found[1] + found[3]
    ratio = _ratio(new, old)
    spread = max(abs(_ratio(found[n], found[n + 2]) - 1) for n in (0, 1))
    limit = 1 + spread + BEYOND
    verdict = "slower" if ratio > limit else "faster" if ratio < 1 / limit else ""
    cells = [name, _told(median(old)), _told(median(new)), f"{ratio:.3f}", f"{spread:.1%}", verdict]
    print(f"| {' | '.join(cells)} |", flush=True)
    return verdict


def _ratio(above: list[float], below: list[float]) -> float:
    """The median over turns, so that what slows a whole turn cancels out."""
    return median(a / b for a, b in zip(above, below, strict=True))


def _told(seconds: float | str) -> str:
    return "-" if isinstance(seconds, str) else f"{1e3 * seconds:.3f}"


if __name__ == "__main__":
    main()
