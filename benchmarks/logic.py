"""Model counting against decision diagrams, CUDD (by dd) and PySDD, as a Markdown table.

    python benchmarks/logic.py --seconds 120      # how long a peer may take on one formula

Seconds are wall time from a list of clauses to a count. Peers run in processes of their own, in
their usual way: CUDD conjoins clause by clause and reorders variables; PySDD reads the formula with
a balanced vtree. Counts must be equal; PySDD's weighted counts must agree to 1e-9, relative.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import random
import tempfile
import time
from collections.abc import Callable
from itertools import combinations, pairwise
from multiprocessing.connection import Connection
from typing import NamedTuple

import torch
from toy import arguments, is_installed, size

import pcflow as pf


class Answer(NamedTuple):
    """What one side says.

    Attributes:
        count: number of models.
        log_count: logarithm of the weighted count, if asked for.
        seconds: for the number of models.
    """

    count: int
    log_count: float | None
    seconds: float


Peer = Callable[[pf.CNF, torch.Tensor], Answer]


def main() -> None:
    """Count everywhere, compare, print."""
    parser = arguments(__doc__)
    parser.add_argument(
        "--seconds",
        type=float,
        default=size(120.0, 10.0),
        help="that a peer may take (%(default)s)",
    )
    seconds = parser.parse_args().seconds
    print("| formula | D | clauses | models | pcflow (s) | circuit (s) | layers |", end="")
    print("".join(f" {name} (s) | ratio |" for name in PEERS))
    print("|---|" + "---:|" * (6 + 2 * len(PEERS)))
    for name, cnf in formulas().items():
        print(row(name, cnf, seconds), flush=True)


def row(name: str, cnf: pf.CNF, limit: float) -> str:
    """One line of the table; raises if counts differ."""
    generator = torch.Generator().manual_seed(0)
    log_weights = torch.randn(cnf.num_variables, 2, generator=generator, dtype=torch.float64)
    ours = count(cnf, log_weights)
    start = time.perf_counter()
    circuit = pf.compile_cnf(cnf).circuit
    compiled = time.perf_counter() - start
    assert pf.is_deterministic(circuit)
    cells = [name, cnf.num_variables, len(cnf.clauses), f"{ours.count:,}"]
    cells += [f"{ours.seconds:.2f}", f"{compiled:.2f}", f"{len(circuit.layers):,}"]
    for name, peer in PEERS.items():
        if not is_installed(PACKAGES[name]):
            cells += ["not installed", ""]
            continue
        theirs = within(limit, peer, cnf, log_weights)
        if theirs is None:
            cells += [f"> {limit:.0f}", f"> {limit / ours.seconds:.0f}"]
            continue
        assert theirs.count == ours.count, (name, theirs.count, ours.count)
        if theirs.log_count is not None and ours.log_count is not None:
            assert math.isclose(theirs.log_count, ours.log_count, rel_tol=1e-9)
        cells += [f"{theirs.seconds:.2f}", f"{theirs.seconds / ours.seconds:.1f}"]
    return "| " + " | ".join(map(str, cells)) + " |"


def count(cnf: pf.CNF, log_weights: torch.Tensor) -> Answer:
    """Ours."""
    start = time.perf_counter()
    number = pf.model_count(cnf)
    seconds = time.perf_counter() - start
    return Answer(number, pf.compile_cnf(cnf, log_weights).log_count, seconds)


def cudd(cnf: pf.CNF, log_weights: torch.Tensor) -> Answer:
    """A binary decision diagram."""
    from dd.cudd import BDD

    start = time.perf_counter()
    bdd = BDD()
    bdd.configure(reordering=True)
    bdd.declare(*(f"x{v}" for v in range(1, cnf.num_variables + 1)))
    models = bdd.true
    for clause in cnf.clauses:
        some = bdd.false
        for literal in clause:
            some |= bdd.var(f"x{literal}") if literal > 0 else ~bdd.var(f"x{-literal}")
        models &= some
    found = bdd.count(models, cnf.num_variables)
    return Answer(int(found), None, time.perf_counter() - start)


def sdd(cnf: pf.CNF, log_weights: torch.Tensor) -> Answer:
    """A sentential decision diagram."""
    from pysdd.sdd import SddManager

    with tempfile.NamedTemporaryFile(suffix=".cnf") as file:
        pf.write_dimacs(cnf, file.name)
        start = time.perf_counter()
        manager, models = SddManager.from_cnf_file(file.name.encode(), b"balanced")
        found = models.global_model_count()
        seconds = time.perf_counter() - start
    counter = models.wmc(log_mode=True)
    for v, (zero, one) in enumerate(log_weights.tolist(), start=1):
        counter.set_literal_weight(manager.literal(-v), zero)
        counter.set_literal_weight(manager.literal(v), one)
    return Answer(found, counter.propagate(), seconds)


PEERS: dict[str, Peer] = {"CUDD": cudd, "PySDD": sdd}
PACKAGES = {"CUDD": "dd", "PySDD": "pysdd"}


def within(limit: float, peer: Peer, cnf: pf.CNF, log_weights: torch.Tensor) -> Answer | None:
    """A peer's answer, or None if it takes longer."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(there, peer, cnf, log_weights))
    process.start()
    there.close()
    try:
        return here.recv() if here.poll(limit + 10.0) else None  # torch takes a while to import
    finally:
        process.kill()
        process.join()


def _answer(pipe: Connection, peer: Peer, cnf: pf.CNF, log_weights: torch.Tensor) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # PySDD prints what it reads
    pipe.send(peer(cnf, log_weights))


def formulas() -> dict[str, pf.CNF]:
    """Random ones, and some with structure; counts are below 2^53, where CUDD's stay exact."""
    return {
        "random 3-CNF": random_cnf(*size((30, 90), (6, 12)), seed=0),
        "random 3-CNF, larger": random_cnf(*size((40, 120), (8, 16)), seed=0),
        "random 3-CNF, as in the tests": random_cnf(*size((50, 150), (10, 20)), seed=0),
        "independent sets of a path": pf.CNF([(-v, -v - 1) for v in range(1, size(70, 6))]),
        "independent sets of an 8 x 8 grid": independent_sets(size(8, 3)),
        "permutations of 6": permutations(size(6, 3)),
        "at most 3 of 24": pf.CNF(
            [[-v for v in four] for four in combinations(range(1, size(25, 7)), 4)]
        ),
    }


def random_cnf(num_variables: int, num_clauses: int, seed: int) -> pf.CNF:
    """Random clauses of three variables; `random.random` draws alike in every Python."""
    draw = random.Random(seed).random
    clauses = []
    for _ in range(num_clauses):
        three = sorted(range(1, num_variables + 1), key=lambda _: draw())[:3]
        clauses.append([v if draw() < 0.5 else -v for v in three])
    return pf.CNF(clauses, num_variables)


def independent_sets(side: int) -> pf.CNF:
    """No two neighbours of a square grid are both one."""
    cell = [[1 + side * row + column for column in range(side)] for row in range(side)]
    right = [(-a, -b) for line in cell for a, b in pairwise(line)]
    down = [(-a, -b) for r in range(side - 1) for a, b in zip(cell[r], cell[r + 1], strict=True)]
    return pf.CNF(right + down)


def permutations(size: int) -> pf.CNF:
    """Exactly one cell is one in every line of a square."""
    cell = [[1 + size * row + column for column in range(size)] for row in range(size)]
    lines = [*cell, *map(list, zip(*cell, strict=True))]
    return pf.CNF([*lines, *((-a, -b) for line in lines for a, b in combinations(line, 2))])


if __name__ == "__main__":
    main()
