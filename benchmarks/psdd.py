"""A PSDD of half a million elements: seconds to read, compile and ask, as a Markdown table.

    OMP_NUM_THREADS=2 python benchmarks/psdd.py

The PSDD is made up: a random vtree that is roughly balanced, and for every vtree node several
families of nodes whose supports are disjoint, so that they can be the primes of a decision. No
peer runs this; absolute times are of the machine it runs on. Linux only (peak memory).
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from itertools import cycle, islice
from typing import TypeVar

T = TypeVar("T")
MOST = 8
"""Elements of a decision, nodes of a family."""

Family = list[int]
"""Nodes at one vtree node, no two of which are ever both true."""


class Generator:
    """Writes the lines of a PSDD, and of its vtree, bottom up."""

    def __init__(self, variables: int, families: int, seed: int) -> None:
        """Nothing is written yet."""
        self.random, self.families = random.Random(seed), families
        self.lines: list[str] = []
        self.elements = self.vtrees = 0
        order = list(range(1, variables + 1))
        self.random.shuffle(order)
        (root,) = self.below(order, 1, prime=False, root=True)
        assert root == [len(self.lines) - 1]

    def below(self, order: list[int], wanted: int, prime: bool, root: bool = False) -> list[Family]:
        """Families of nodes over some variables, at most as many as are `wanted`."""
        wanted = min(wanted, self.families)
        if len(order) == 1:
            return self.leaves(order[0], 0 if prime else wanted)
        cut = self.random.randint(-(-len(order) // 3), len(order) * 2 // 3)
        left = self.below(order[:cut], wanted, prime=True)
        right = self.below(order[cut:], wanted * MOST, prime=False)
        place, self.vtrees = self.vtrees, self.vtrees + 1
        turn = cycle(right)  # every family is read by someone
        made = (self.family(place, primes, turn, root) for primes in cycle(left))
        return list(islice(made, wanted))

    def leaves(self, variable: int, terminals: int) -> list[Family]:
        """Both literals, and terminal nodes, each a family of its own."""
        place, self.vtrees = self.vtrees, self.vtrees + 1
        pair = [self.add(f"L {{}} {place} {sign * variable}") for sign in (1, -1)]
        logs = [math.log(self.random.uniform(0.05, 0.95)) for _ in range(terminals)]
        found = ([self.add(f"T {{}} {place} {variable} {x:.6f}")] for x in logs)
        return [family for one in found for family in (one, pair)] or [pair]

    def family(self, place: int, primes: Family, right: Iterator[Family], root: bool) -> Family:
        """Nodes of which no two read the same prime and the same sub."""
        cells: list[list[tuple[int, int]]] = [[] for _ in range(1 if root else MOST)]
        for number, prime in enumerate(primes):
            subs = next(right)
            parts = -(-min(MOST, len(primes) * len(subs)) // len(subs))
            for c, sub in enumerate(subs):
                cells[(c + number + len(subs) * (number % parts)) % MOST if not root else 0].append(
                    (prime, sub)
                )
                if root:
                    break
        return [self.decision(place, cell) for cell in cells if cell]

    def decision(self, place: int, cells: list[tuple[int, int]]) -> int:
        """A decision on primes and subs, with random weights; its id."""
        weights = [self.random.gammavariate(1.0, 1.0) + 1e-3 for _ in cells]
        total = sum(weights)
        told = (
            f"{p} {s} {math.log(w / total):.8f}" for (p, s), w in zip(cells, weights, strict=True)
        )
        self.elements += len(cells)
        return self.add(f"D {{}} {place} {len(cells)} {' '.join(told)}")

    def add(self, line: str) -> int:
        """Write a line; its id."""
        self.lines.append(line.format(len(self.lines)))
        return len(self.lines) - 1
