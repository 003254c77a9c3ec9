"""Automata from automata: of both, of either, of neither, one after the other.

Legend: V categories, C classes, S states.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import TypeVar

import numpy as np

from pcflow.logic.automata.table import NOWHERE, Flags, Table, Wholes, of_edges

State = TypeVar("State", bound=Hashable)


def both(a: Table, b: Table) -> Table:
    """The strings of both."""
    return _beside(a, b, np.logical_and, lambda here, there: (here < 0) | (there < 0))


def either(a: Table, b: Table) -> Table:
    """The strings of one or both."""
    return _beside(a, b, np.logical_or, lambda here, there: (here < 0) & (there < 0))


def complement(table: Table) -> Table:
    """All other strings."""
    total = table.total()
    return total._replace(accept=~total.accept)


Progress = tuple[int, frozenset[int]]
"""Where the first of two automata is, and where the second may be."""


def concatenation(a: Table, b: Table) -> Table:
    """Every string of the first, followed by every string of the second."""
    a, b, classes, labels = _shared(a, b)

    def entered(first: int, seconds: frozenset[int]) -> Progress:
        return first, seconds | {b.start} if first >= 0 and a.accept[first] else seconds

    left, right = np.array(labels).T  # [C] each

    def follow(state: Progress) -> dict[int, Progress]:
        first, seconds = state
        ahead = a.after(np.array(first), left)  # [C]
        after = b.next[sorted(seconds)][:, right]  # [states, C]
        onward = np.flatnonzero((ahead >= 0) | (after >= 0).any(axis=0)).tolist()
        behind = {c: frozenset(after[after[:, c] >= 0, c].tolist()) for c in onward}
        return {c: entered(int(ahead[c]), some) for c, some in behind.items()}

    start = entered(a.start, frozenset())

    def ends(state: Progress) -> bool:
        return bool(b.accept[list(state[1])].any())

    return _explored(len(labels), start, follow, ends).among(classes)


def _explored(
    classes: int,
    start: State,
    follow: Callable[[State], Mapping[int, State]],
    ends: Callable[[State], bool],
) -> Table:
    """The table of all states that are met, by the classes that lead on."""
    number, order, edges = {start: 0}, [start], []
    for here, state in enumerate(order):  # which grows meanwhile
        for label, there in follow(state).items():
            if there not in number:
                number[there] = len(order)
                order.append(there)
            edges.append((here, [label], number[there]))
    finals = [n for n, state in enumerate(order) if ends(state)]
    return of_edges(classes, edges, 0, finals, len(order))


def _beside(
    a: Table,
    b: Table,
    ends: Callable[[Flags, Flags], Flags],
    lost: Callable[[Wholes, Wholes], Flags],
) -> Table:
    """Both side by side: a state is a pair, as the number a (S_b + 1) + b of states from -1 up."""
    a, b, classes, labels = _shared(a, b)
    left, right = np.array(labels).T  # [C] each
    width = len(b.next) + 1
    codes = np.array([(a.start + 1) * width + b.start + 1])
    rows: list[Wholes] = []
    known = seen = codes
    while len(codes):
        here, there = codes // width - 1, codes % width - 1
        after = a.after(here[:, None], left), b.after(there[:, None], right)  # [codes, C]
        row = np.where(lost(*after), NOWHERE, (after[0] + 1) * width + after[1] + 1)
        rows.append(row)
        codes = np.setdiff1d(row[row >= 0], seen)
        seen, known = np.union1d(seen, codes), np.concatenate([known, codes])
    order = known.argsort()
    place = order[np.searchsorted(known[order], np.concatenate(rows)).clip(max=len(known) - 1)]
    after_all = np.where(np.concatenate(rows) < 0, NOWHERE, place)
    here, there = known // width - 1, known % width - 1
    accept = ends(_accepting(a, here), _accepting(b, there))
    return Table(classes, after_all, 0, accept)


def _accepting(table: Table, states: Wholes) -> Flags:
    return np.append(table.accept, False)[states]


def _shared(a: Table, b: Table) -> tuple[Table, Table, Wholes, list[tuple[int, int]]]:
    """Both over the larger range; classes of both [V], and of which two each consists."""
    count = max(len(a.classes), len(b.classes))
    a, b = a.widened(count), b.widened(count)
    pairs = a.classes * b.next.shape[1] + b.classes
    found, classes = np.unique(pairs, return_inverse=True)
    labels = [divmod(pair, b.next.shape[1]) for pair in found.tolist()]
    return a, b, classes.astype(np.int64), labels
