"""Automata as plain tables, and their normal form: what every way of making one goes through.

Legend: V categories, C classes, S states, E ways from state to state.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pcflow.errors import EmptyLanguage

Wholes = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
NOWHERE = -1
"""In place of a state: no string goes on from here."""


class Table(NamedTuple):
    """A deterministic automaton; any numbers of states and classes say the same language.

    Attributes:
        classes: of every category, [V].
        next: the state after a state and a class, or NOWHERE, [S, C].
        start: the first state.
        accept: in which states a string may end, [S].
    """

    classes: Wholes
    next: Wholes
    start: int
    accept: Flags

    def after(self, state: Wholes, label: Wholes) -> Wholes:
        """The states that classes lead to; from NOWHERE they lead nowhere."""
        found: Wholes = np.where(state < 0, NOWHERE, self.next[state, label])
        return found

    def widened(self, num_categories: int) -> Table:
        """The same strings among more categories, which lead nowhere."""
        missing = num_categories - len(self.classes)
        if missing <= 0:
            return self
        classes = np.pad(self.classes, (0, missing), constant_values=self.next.shape[1])
        return self._replace(classes=classes, next=_with_nowhere(self.next, axis=1))

    def among(self, label: Wholes) -> Table:
        """The same over categories [V] each of which stands for one of these."""
        return self._replace(classes=self.classes[label])

    def total(self) -> Table:
        """The same with a state of its own in place of NOWHERE."""
        lost = len(self.next)
        after = np.where(self.next < 0, lost, self.next)
        sink = np.full((1, after.shape[1]), lost)
        return self._replace(
            next=np.concatenate([after, sink]), accept=np.append(self.accept, False)
        )


def of_edges(
    num_categories: int,
    edges: Iterable[tuple[int, Iterable[int] | Wholes, int]],
    start: int,
    accept: Iterable[int],
    states: int,
) -> Table:
    """From edges (state, categories, state after); later ones win."""
    after = np.full((states, num_categories), NOWHERE, dtype=np.int64)
    for here, categories, there in edges:
        after[here, np.asarray(categories, dtype=np.int64)] = there
    return of_rows(after, start, accept)


def of_rows(after: Wholes, start: int, accept: Iterable[int]) -> Table:
    """From the state after every state and category, [S, V]."""
    ends = np.zeros(len(after), dtype=np.bool_)
    ends[list(accept)] = True
    classes, first = alike(after.T)
    return Table(classes, after[:, first], start, ends)


def normal(table: Table) -> Table:
    """The only table of its language: as few states and classes as can be, in a fixed order.

    Classes are numbered by their first category, states as they are met from the start.

    Raises:
        EmptyLanguage: if no string is accepted.
    """
    table = _merged(_trimmed(_used(table)))
    label, _ = alike(table.next.T)
    classes, first = alike(label[table.classes][:, None])
    after = table.next[:, table.classes[first]]
    order = _as_met(after, table.start)
    number = np.empty(len(order) + 1, dtype=np.int64)  # the last is that of NOWHERE
    number[order], number[-1] = np.arange(len(order)), NOWHERE
    return Table(classes, number[after[order]], 0, table.accept[order])


def alike(rows: npt.NDArray[np.int64]) -> tuple[Wholes, Wholes]:
    """A number for every different row, by where it occurs first; and these places."""
    if not rows.shape[1]:
        return np.zeros(len(rows), dtype=np.int64), np.zeros(1, dtype=np.int64)
    for seed in range(1, 100):  # digests of different rows are the same once in 2^64
        digest = _digest(rows, seed)
        _, first, number = np.unique(digest, return_index=True, return_inverse=True)
        if np.array_equal(rows, rows[first[number]]):
            break
    order = first.argsort()
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return rank[number].astype(np.int64), first[order]


def _digest(rows: Wholes, seed: int) -> npt.NDArray[np.uint64]:
    random = np.random.default_rng(seed)
    value = random.integers(0, 2**64, size=int(rows.max()) + 2, dtype=np.uint64)
    factor = random.integers(0, 2**64, size=(rows.shape[1],), dtype=np.uint64)
    found = np.zeros(len(rows), dtype=np.uint64)
    for c in range(rows.shape[1]):  # column by column, so that no more than one is copied
        mixed = value[rows[:, c]] * (factor[c] | np.uint64(1))
        found += mixed ^ (mixed >> np.uint64(29))
    return found


def _used(table: Table) -> Table:
    """Without classes that no category is of."""
    used, classes = np.unique(table.classes, return_inverse=True)
    return table._replace(classes=classes, next=table.next[:, used])


def _trimmed(table: Table) -> Table:
    """Without states that no string reaches, or from which none ends."""
    keep = useful(table)
    if not keep[table.start]:
        raise EmptyLanguage("no string is accepted")
    number = np.append(np.where(keep, keep.cumsum() - 1, NOWHERE), NOWHERE)
    after = number[table.next[keep]]
    return Table(table.classes, after, int(number[table.start]), table.accept[keep])


def useful(table: Table) -> Flags:
    """Which states some accepted string passes, [S]."""
    here, label = np.nonzero(table.next >= 0)
    there = table.next[here, label]
    starts = np.zeros(len(table.next), dtype=np.bool_)
    starts[table.start] = True
    return _reached(here, there, starts) & _reached(there, here, table.accept)


def reached(table: Table) -> Flags:
    """Which states some string comes to, [S]."""
    here, label = np.nonzero(table.next >= 0)
    starts = np.arange(len(table.next)) == table.start
    return _reached(here, table.next[here, label], starts)


def _reached(here: Wholes, there: Wholes, starts: Flags) -> Flags:
    """What can be reached along edges [E] from some of the states, [S]."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import breadth_first_order

    count = len(starts)
    first = np.flatnonzero(starts)
    ends = np.concatenate([here, np.full(len(first), count)]), np.concatenate([there, first])
    graph = coo_array((np.ones(len(ends[0])), ends), shape=(count + 1, count + 1)).tocsr()
    found = np.zeros(count + 1, dtype=np.bool_)
    found[breadth_first_order(graph, count, return_predecessors=False)] = True
    return found[:count]


def _merged(table: Table) -> Table:
    """With one state for all that accept the same strings (Moore's refinement)."""
    block, _ = alike(table.accept[:, None].astype(np.int64))
    count = 0
    while block.max() + 1 > count:
        count = block.max() + 1
        block, first = alike(np.column_stack([block, np.append(block, NOWHERE)[table.next]]))
    after = np.append(block, NOWHERE)[table.next[first]]
    return Table(table.classes, after, int(block[table.start]), table.accept[first])


def _as_met(after: Wholes, start: int) -> Wholes:
    """All states, in the order of a search in breadth from the start."""
    met, order = {start}, [start]
    for state in order:  # which grows meanwhile
        for there in dict.fromkeys(after[state].tolist()):
            if there >= 0 and there not in met:
                met.add(there)
                order.append(there)
    return np.array(order)


def _with_nowhere(after: Wholes, axis: int) -> Wholes:
    width = [(0, 0), (0, 0)]
    width[axis] = (0, 1)
    return np.pad(after, width, constant_values=NOWHERE)
