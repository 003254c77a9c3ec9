"""One model asked by eight threads at once: wrong answers, exceptions, and queries per second.

    python benchmarks/threads.py

Every thread asks four kinds of query in turn, of batches that differ in size, and compares each
answer with one that was found before by one thread alone. The switch interval is how long Python
lets a thread run; the shorter, the more often threads meet where they should not.

Every operation of torch gives Python's lock away and has to get it back, so that threads whose
operations take microseconds wait for each other more than they compute; "in turn" is how fast they
are if a lock lets one query run at a time.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from threading import Lock

import torch
from torch import Tensor
from toy import arguments, size

import pcflow as pf

THREADS, TURNS = 8, size(1000, 8)
LENGTH, STATES, CATEGORIES = size((16, 128, 1000), (4, 4, 5))
SMALL, LARGE = size(((1, 16, 32, 48), (1024,)), ((1, 2, 3, 4), (5,)))

Query = Callable[[pf.CompiledCircuit, pf.Evidence], Tensor]


def gradient(model: pf.CompiledCircuit, about: pf.Evidence) -> Tensor:
    """Of one bank."""
    found = torch.autograd.grad(model.log_prob(about).sum(), list(model.parameters()))
    return found[0]


def log_prob(model: pf.CompiledCircuit, about: pf.Evidence) -> Tensor:
    """Without gradients."""
    with torch.no_grad():
        return model.log_prob(about)


QUERIES: dict[str, Query] = {
    "log_prob": log_prob,
    "gradient": gradient,
    "marginals": lambda model, about: model.marginals(about),
    "sample": lambda model, about: model.sample(1, about, torch.Generator().manual_seed(0)),
}


def evidence(rows: int) -> pf.Evidence:
    """Half of the values are missing."""
    x = torch.randint(CATEGORIES, (rows, LENGTH)).float()
    return pf.Evidence(x.masked_fill(torch.rand(x.shape) < 0.5, torch.nan))


def run(
    model: pf.CompiledCircuit,
    batches: tuple[int, ...],
    threads: int,
    interval: float = 5e-3,
    turn_by: AbstractContextManager[object] | None = None,
) -> str:
    """A row of the table."""
    about = [evidence(rows) for rows in batches]
    wanted = [[query(model, e) for e in about] for query in QUERIES.values()]
    kinds = list(QUERIES.values())

    turns = TURNS if batches is SMALL else size(TURNS // 50, 4)

    def ask(thread: int) -> Counter[str]:
        found: Counter[str] = Counter()
        for turn in range(turns):
            kind, which = (thread + turn) % len(kinds), (turn // len(kinds)) % len(about)
            try:
                with turn_by or nullcontext():
                    answer = kinds[kind](model, about[which])
            except Exception as error:  # whatever it is, it counts
                found[type(error).__name__] += 1
                continue
            found["wrong"] += not torch.allclose(answer, wanted[kind][which], 1e-4, 1e-5)
        return found

    before = sys.getswitchinterval()
    sys.setswitchinterval(interval)
    start = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        found = sum(pool.map(ask, range(threads)), Counter[str]())
    seconds = time.perf_counter() - start
    sys.setswitchinterval(before)
    wrong = found.pop("wrong", 0)
    rate = threads * turns / seconds
    how = f"{threads}, in turn" if turn_by else str(threads)
    rows = ", ".join(map(str, batches))
    return f"| {rows} | {how} | {interval:g} | {wrong} | {dict(found) or 0} | {rate:.0f} |"


def main() -> None:
    """Ask by one thread, then by eight."""
    arguments(__doc__).parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)  # a thread of Python has one of torch
    model = pf.compile(pf.hmm(LENGTH, STATES, pf.Categorical(CATEGORIES)))
    print("| rows | threads | switch interval, s | wrong | exceptions | queries / s |")
    print("|---|---|---|---|---|---|")
    for batches in (SMALL, LARGE):
        for threads in (1, 2, THREADS):
            print(run(model, batches, threads), flush=True)
        print(run(model, batches, THREADS, turn_by=Lock()), flush=True)
    for threads in (1, THREADS):
        print(run(model, SMALL, threads, 1e-6), flush=True)
    print(
        f"\nHMM of {LENGTH} steps, {STATES} states, {CATEGORIES} categories; a thread asks {TURNS} "
        f"queries of few rows, of {', '.join(QUERIES)}; torch {torch.__version__}."
    )


if __name__ == "__main__":
    main()
