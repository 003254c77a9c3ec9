"""Automata as plain tables, and their normal form: what every way of making one goes through.

Legend: V categories, C classes, S states, E ways from state to state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pcflow.errors import EmptyLanguage

Wholes = npt.NDArray[np.int64]
Way = Callable[[], tuple[Wholes, Wholes]]
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


def of_ways(num_categories: int, ways: Sequence[Way], start: int, accept: Iterable[int]) -> Table:
    """From what leads on from every state, without a number for every state and category.

    Args:
        num_categories: how many categories there are, V.
        ways: of every state, different categories and the states after them, made when asked.
        start: the first state.
        accept: in which states a string may end.
    """
    for seed in range(1, 100):
        digest, found = Digest(len(ways), len(ways), seed), np.zeros(num_categories, np.uint64)
        for here, way in enumerate(ways):
            categories, there = way()
            found[categories] += digest.of(here, there)
        _, first, number = np.unique(found, return_index=True, return_inverse=True)
        classes, first = _by_first(first, number)
        sizes = np.bincount(classes)
        after = np.full((len(ways), len(first)), NOWHERE, dtype=np.int64)
        rows = zip(after, ways, strict=True)
        if all(_written(row, classes, sizes, *way()) for row, way in rows):
            break
    ends = np.zeros(len(ways), dtype=np.bool_)
    ends[list(accept)] = True
    return Table(classes, after, start, ends)


def _written(
    row: Wholes, classes: Wholes, sizes: Wholes, categories: Wholes, there: Wholes
) -> bool:
    """Whether the states after categories are those of their classes, which are written."""
    label = classes[categories]
    row[label] = there
    return bool((row[label] == there).all() and sizes[np.unique(label)].sum() == len(label))


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
    said = np.count_nonzero(rows >= 0)
    sparse = bool(said * 8 < rows.size)
    for seed in range(1, 100):  # digests of different rows are the same once in 2^64
        digest = _sparse_digest(rows, seed) if sparse else _digest(rows, seed)
        _, first, number = np.unique(digest, return_index=True, return_inverse=True)
        if _equal(rows, first[number], sparse):
            break
    return _by_first(first, number)


def _by_first(first: Wholes, number: Wholes) -> tuple[Wholes, Wholes]:
    """Numbers of rows anew, in the order in which they first occur; and these places."""
    order = first.argsort()
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return rank[number].astype(np.int64), first[order]


def _equal(rows: Wholes, others: Wholes, sparse: bool) -> bool:
    """Whether every row is equal to another, by number."""
    if not sparse:
        return np.array_equal(rows, rows[others])
    here, column = np.nonzero(rows >= 0)
    count = np.bincount(here, minlength=len(rows))
    same = rows[here, column] == rows[others[here], column]
    return bool(same.all() and (count == count[others]).all())


class Digest:
    """Random numbers for places in a row and what stands there."""

    def __init__(self, columns: int, values: int, seed: int) -> None:
        """Draw them; the last value is that of NOWHERE."""
        random = np.random.default_rng(seed)
        self.value = random.integers(0, 2**64, size=values + 1, dtype=np.uint64)
        self.factor = random.integers(0, 2**64, size=columns, dtype=np.uint64) | np.uint64(1)

    def of(self, column: int | Wholes, value: Wholes) -> npt.NDArray[np.uint64]:
        """What is added up over a row."""
        mixed = self.value[value] * self.factor[column]
        found: npt.NDArray[np.uint64] = mixed ^ (mixed >> np.uint64(29))
        return found


def _digest(rows: Wholes, seed: int) -> npt.NDArray[np.uint64]:
    digest = Digest(rows.shape[1], int(rows.max()) + 1, seed)
    found = np.zeros(len(rows), dtype=np.uint64)
    for c in range(rows.shape[1]):  # column by column, so that no more than one is copied
        found += digest.of(c, rows[:, c])
    return found


def _sparse_digest(rows: Wholes, seed: int) -> npt.NDArray[np.uint64]:
    """The same of rows that lead nowhere almost everywhere."""
    digest = Digest(rows.shape[1], int(rows.max()) + 1, seed)
    here, column = np.nonzero(rows >= 0)
    found = np.zeros(len(rows), dtype=np.uint64)
    np.add.at(found, here, digest.of(column, rows[here, column]))
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
        for there in dict.fromkeys(after[state][after[state] >= 0].tolist()):
            if there not in met:
                met.add(there)
                order.append(there)
    return np.array(order)


def _with_nowhere(after: Wholes, axis: int) -> Wholes:
    width = [(0, 0), (0, 0)]
    width[axis] = (0, 1)
    return np.pad(after, width, constant_values=NOWHERE)
