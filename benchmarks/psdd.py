"""A PSDD of half a million elements: seconds to read, compile, ask and write, as a Markdown table.

    OMP_NUM_THREADS=2 python benchmarks/psdd.py

The PSDD is made up: a random vtree that is roughly balanced, and for every vtree node families of
decisions with up to eight elements, no two of which can be true at once, so that they can be the
primes of others. No peer runs this; absolute times are of the machine it runs on. Linux only.
"""

from __future__ import annotations

import math
import os
import random
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import TypeVar

import torch
from measure import processor
from toy import arguments, size

import pcflow as pf

T = TypeVar("T")

MOST = 8
"""Elements of a decision, and nodes of a family."""

Family = list[int]
"""Nodes at one vtree node, no two of which can be true at once."""


class Generator:
    """The lines of a PSDD, children first.

    Args:
        variables: their number.
        families: at most so many families at every vtree node.
        seed: of everything.

    Attributes:
        elements: of all decisions together.
    """

    def __init__(self, variables: int, families: int, seed: int) -> None:
        """Make them."""
        self.random, self.families = random.Random(seed), families
        self.lines: list[str] = []
        self.elements = self.places = 0
        order = self.random.sample(range(1, variables + 1), variables)
        self.below(order, 1, prime=False, root=True)

    def below(self, order: list[int], wanted: int, prime: bool, root: bool = False) -> list[Family]:
        """Families over some variables, as many as are wanted, but for the limit."""
        wanted = min(wanted, self.families)
        if len(order) == 1:
            return self.leaves(order[0], 0 if prime else wanted)
        third = -(-len(order) // 3)
        cut = self.random.randint(third, len(order) - third)
        left = self.below(order[:cut], wanted, prime=True)
        right = cycle(self.below(order[cut:], wanted * MOST, prime=False))  # all have readers
        place = self.place()
        made = (self.family(place, primes, right, root) for primes in cycle(left))
        return list(islice(made, wanted))

    def leaves(self, variable: int, terminals: int) -> list[Family]:
        """Both literals, by turns with terminal nodes, each a family of its own."""
        place = self.place()
        pair = [self.add(f"L {{}} {place} {sign * variable}") for sign in (1, -1)]
        logs = [math.log(self.random.uniform(0.05, 0.95)) for _ in range(terminals)]
        single = [[self.add(f"T {{}} {place} {variable} {value:.6f}")] for value in logs]
        return [family for one in single for family in (one, pair)] or [pair]

    def family(self, place: int, primes: Family, right: Iterator[Family], root: bool) -> Family:
        """Decisions of which no two read the same prime with the same sub."""
        cells: list[list[tuple[int, int]]] = [[] for _ in range(MOST)]
        for number, prime in enumerate(primes):
            subs = next(right)
            parts = -(-min(MOST, len(primes) * len(subs)) // len(subs))
            for c, sub in enumerate(subs[:1] if root else subs):
                node = 0 if root else c + number + len(subs) * (number % parts)
                cells[node % MOST].append((prime, sub))
        return [self.decision(place, cell) for cell in cells if cell]

    def decision(self, place: int, cells: list[tuple[int, int]]) -> int:
        """With random weights."""
        weights = [self.random.gammavariate(1.0, 1.0) + 1e-3 for _ in cells]
        logs = [math.log(weight / sum(weights)) for weight in weights]
        told = (f"{p} {s} {value:.8f}" for (p, s), value in zip(cells, logs, strict=True))
        self.elements += len(cells)
        return self.add(f"D {{}} {place} {len(cells)} {' '.join(told)}")

    def place(self) -> int:
        """A new vtree node."""
        self.places += 1
        return self.places - 1

    def add(self, line: str) -> int:
        """A new node."""
        self.lines.append(line.format(len(self.lines)))
        return len(self.lines) - 1

    def __str__(self) -> str:
        """The file."""
        return "\n".join([f"psdd {len(self.lines)}", *self.lines, ""])


def main() -> None:
    """Generate, measure, print."""
    parser = arguments(__doc__)
    parser.add_argument("--variables", type=int, default=size(1_000, 20))
    parser.add_argument(
        "--families", type=int, default=size(36, 2), help="at a vtree node (%(default)s)"
    )
    parser.add_argument("--rows", type=int, default=size(1_000, 150))
    given = parser.parse_args()
    torch.manual_seed(0)
    made = Generator(given.variables, given.families, seed=0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "made.psdd"
        path.write_text(str(made))
        print(
            f"{given.variables:,} variables, {made.elements:,} elements, {len(made.lines):,} nodes"
        )
        print(
            "\n| stage | seconds | of CPU | next time | of CPU |\n|---|---|---|---|---|", flush=True
        )
        measure(path, given.rows)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"\n{processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}; peak "
        f"memory {peak:.1f} GiB. Other load: {os.getloadavg()[0]:.1f} processes at the end."
    )


@torch.no_grad()
def measure(path: Path, rows: int) -> None:
    """Print a row for every stage."""
    circuit = show("read", lambda: pf.read_psdd(path))
    model = show("compile", lambda: pf.compile(circuit))
    x = torch.cat([model.sample(count) for count in split(rows, 100)])
    nothing = torch.full((1, model.num_variables), torch.nan)
    values = show(f"log_prob of {rows:,} rows", lambda: model.log_prob(x), again=True)
    assert values.isfinite().all()
    show("marginals of all variables", lambda: model.marginals(nothing), again=True)
    assert show("proof that it is deterministic", lambda: circuit.properties.deterministic)
    found = show("MPE, the first with such a proof", lambda: model.mpe(nothing), again=True)
    assert found.exact and found.log_value >= values.max()
    show("entropy, by a pass up and one down", lambda: pf.entropy_upper_bound(model), again=True)
    copy = path.with_name("copy.psdd")
    show("write", lambda: pf.write_psdd(circuit, copy))


def split(total: int, most: int) -> list[int]:
    """Parts of at most so many."""
    return [min(most, total - done) for done in range(0, total, most)]


def show(stage: str, run: Callable[[], T], again: bool = False) -> T:
    """The result; prints the seconds that it took, and those of a second time."""
    result, first = timed(run)
    second = timed(run)[1] if again else " | "
    print(f"| {stage} | {first} | {second} |", flush=True)
    return result


def timed(run: Callable[[], T]) -> tuple[T, str]:
    """The result, and the cells of seconds on the clock and of all threads."""
    clock, work = time.perf_counter(), time.process_time()
    result = run()
    return result, f"{time.perf_counter() - clock:.2f} | {time.process_time() - work:.2f}"


if __name__ == "__main__":
    main()
