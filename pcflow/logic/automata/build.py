"""Automata from what people say: options, phrases, lengths, templates, numbers in a range.

Tables are made of the categories that are named and one for all others, so that a list of words is
no larger for a vocabulary of 126,464.

Legend: V categories, S states.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from functools import reduce

import numpy as np

from pcflow.logic.automata.combine import either
from pcflow.logic.automata.table import Table, Wholes, of_edges, of_rows

Text = Sequence[int]
"""Categories, one after the other."""


def trie(texts: Sequence[Text], num_categories: int) -> Table:
    """These and no others."""
    label, texts = _named(texts, num_categories)
    ways = _Tree.of(texts)
    edges = [(here, [c], there) for here, way in enumerate(ways.next) for c, there in way.items()]
    return of_edges(label.max() + 1, edges, 0, ways.ends, len(ways.next)).among(label)


def occurrence(texts: Sequence[Text], num_categories: int) -> Table:
    """All in which one of the texts occurs (Aho and Corasick 1975).

    A beginning that does not go on falls back to the longest of its ends with which a text begins.
    """
    label, texts = _named(texts, num_categories)
    ways = _Tree.of(texts)
    after = np.zeros((len(ways.next), label.max() + 1), dtype=np.int64)
    ends, back = set(ways.ends), [0] * len(ways.next)
    waiting = deque([0])
    while waiting:
        here = waiting.popleft()
        after[here] = after[back[here]] if here else 0
        ends |= {here} if back[here] in ends else set()
        for category, there in ways.next[here].items():
            back[there] = int(after[back[here], category]) if here else 0
            after[here, category] = there
            waiting.append(there)
    found = list(ends)
    after[found] = np.array(found)[:, None]  # it has occurred, whatever follows
    return of_rows(after, 0, found).among(label)


def lengths(least: int, most: int | None, num_categories: int) -> Table:
    """All of some length."""
    last = least if most is None else most
    edges = [(length, [0], length + 1) for length in range(last)]
    edges += [(last, [0], last)] if most is None else []
    found = of_edges(1, edges, 0, range(least, last + 1), last + 1)
    return found.among(np.zeros(num_categories, dtype=np.int64))


def steps(choices: Sequence[Wholes], num_categories: int) -> Table:
    """One of some categories after the other."""
    edges = [(n, some, n + 1) for n, some in enumerate(choices)]
    return of_edges(num_categories, edges, 0, [len(choices)], len(choices) + 1)


def repeated(category: int, num_categories: int) -> Table:
    """A category as often as one likes, or not at all."""
    return of_edges(num_categories, [(0, [category], 0)], 0, [0], 1)


def numbers(lower: int, upper: int, digits: Sequence[int], num_categories: int) -> Table:
    """Whole numbers from `lower` to `upper` in decimals, without zeros in front."""
    label, (named,) = _named([digits], num_categories)
    parts = []
    for length in range(len(str(lower)), len(str(upper)) + 1):
        low = max(lower, 10 ** (length - 1) if length > 1 else 0)
        high = min(upper, 10**length - 1)
        parts.append(_of_one_length(str(low), str(high), named, label.max() + 1))
    return reduce(either, parts).among(label)


def _of_one_length(low: str, high: str, digits: Sequence[int], num_categories: int) -> Table:
    """States are places, and whether all digits so far were the lowest, the highest allowed."""
    length = len(low)
    number = {
        (n, at_low, at_high): 4 * n + 2 * at_low + at_high
        for n in range(length + 1)
        for at_low in (False, True)
        for at_high in (False, True)
    }
    edges = []
    for (n, at_low, at_high), here in number.items():
        if n < length:
            first = int(low[n]) if at_low else 0
            last = int(high[n]) if at_high else 9
            for digit in range(first, last + 1):
                there = (n + 1, at_low and digit == first, at_high and digit == last)
                edges.append((here, [digits[digit]], number[there]))
    accept = [state for (n, *_), state in number.items() if n == length]
    return of_edges(num_categories, edges, number[0, True, True], accept, len(number))


def _named(texts: Sequence[Text], num_categories: int) -> tuple[Wholes, list[list[int]]]:
    """Numbers for categories [V], from 1 on for those in texts and 0 for others; texts of these."""
    label = np.zeros(num_categories, dtype=np.int64)
    named = sorted({category for text in texts for category in text})
    label[named] = np.arange(1, len(named) + 1)
    return label, [[int(label[category]) for category in text] for text in texts]


class _Tree:
    """Texts by their beginnings: the way on from each, and which are whole texts."""

    def __init__(self) -> None:
        self.next: list[dict[int, int]] = [{}]
        self.ends: list[int] = []

    @classmethod
    def of(cls, texts: Sequence[Text]) -> _Tree:
        tree = cls()
        for text in texts:
            here = 0
            for category in text:
                there = tree.next[here].setdefault(category, len(tree.next))
                if there == len(tree.next):
                    tree.next.append({})
                here = there
            tree.ends.append(here)
        return tree
