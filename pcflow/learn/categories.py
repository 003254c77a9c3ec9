"""Expected counts of categories: of large tables the rows that are named, and block by block.

A table may be larger than all else, and a batch name few of its rows. So what a batch counts is
kept by name, and what follows from it is worked out for a few units at a time, each of which is
complete: nothing as large as the table is made for a step.

Legend: P parameters of a bank, V categories, K units, k of them, R = P V rows of a flattened table,
n of them, F folds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from pcflow.engine import BankRead, BankSums, FiniteLeaf, Machine, Plan, add_rows, named_sums
from pcflow.inputs import Params
from pcflow.learn.team import Team

Block = tuple[slice, slice]
"""Some parameters [P, ..., K] of a bank, and some units of them."""

ALL: Block = (slice(None), slice(None))

LINE = 16
"""Units that are read together, whether they are wanted or not: a line of the cache."""


class CategoryCounts:
    """What is counted of finite input units, under the first bank of their parameters.

    Attributes:
        dense: of all rows [P, V, K].
        named: and besides, which rows [n] count [n, K]; all of them if none is named.
        rows: of tables of which rows are named, R.
    """

    def __init__(self, plan: Plan, dense: BankSums) -> None:
        """Start with nothing."""
        self.plan, self.dense = plan, dense
        self.named: dict[int, tuple[Tensor | None, Tensor]] = {}
        self.rows: dict[int, int] = {}

    def __iter__(self) -> Iterator[int]:
        """The banks."""
        return iter(dict.fromkeys((*self.dense.found, *self.named)))

    def add(self, read: BankRead, leaf: FiniteLeaf, slope: Tensor) -> None:
        """Add what a leaf counts, by slopes [F, B, K] of its units."""
        if leaf.names_few:
            size = leaf.access.family.num_categories
            self.rows[read.bank] = len(self.plan.banks[read.bank]) * size
            place, counts = leaf.named_counts(slope)
            self._name(read.bank, _in_bank(place, read, size), counts)
            return
        shape = torch.Size([leaf.access.family.num_categories, slope.shape[-1]])
        out = self.dense.place(read, shape, slope)
        found = leaf.counts(slope, out)
        if out is None:
            self.dense.add(read, found)

    def _name(self, bank: int, place: Tensor, counts: Tensor) -> None:
        """Add counts [n, K] of rows [n]; once half of all rows would be named, all of them are."""
        before, sums = self.named.get(bank, (place[:0], counts[:0]))
        if before is None:
            add_rows(sums, place, counts)
            return
        place, counts = named_sums(torch.cat([before, place]), torch.cat([sums, counts]))
        rows = self.rows[bank]
        every = _spread(place, counts, rows) if 2 * len(place) > rows else None
        self.named[bank] = (place, counts) if every is None else (None, every)

    def counted(self, bank: int, block: Block = ALL) -> Tensor:
        """What a block has counted [p, V, k]."""
        dense, named = self.dense.found.get(bank), self.named.get(bank)
        if named is None:
            assert dense is not None
            return of(dense, block)
        place, counts = named
        parameters, units = len(self.plan.banks[bank]), block[1]
        if place is None:
            found = of(counts.unflatten(0, (parameters, -1)), block)
        else:
            some, size = range(parameters)[block[0]], self.rows[bank] // parameters
            ends = torch.tensor([some.start * size, some.stop * size], device=place.device)
            first, last = torch.searchsorted(place, ends).tolist()
            counts, place = counts[first:last, units], place[first:last] - some.start * size
            found = _spread(place, counts, len(some) * size).unflatten(0, (len(some), -1))
        return found if dense is None else found + of(dense, block)

    def gather(self, team: Team) -> None:
        """Add the counts of all processes."""
        if team.together:
            self.dense.found = {bank: self.counted(bank) for bank in self}
            self.named.clear()
            team.add_up(self.dense.found[bank] for bank in sorted(self.dense.found))

    def names_few(self, bank: int) -> bool:
        """Whether all that a bank has counted are some of its rows."""
        return bank not in self.dense.found and self.named[bank][0] is not None

    def upon(self, bank: int, sums: Tensor, momentum: float) -> None:
        """Let sums [P, V, K] fade, and add to them what a bank has counted that names few."""
        place, counts = self.named[bank]
        assert place is not None
        rows = sums.flatten(0, 1)
        some = torch.add(counts, rows[place], alpha=momentum)
        rows.mul_(momentum).index_copy_(0, place, some)


def _spread(place: Tensor, counts: Tensor, rows: int) -> Tensor:
    """All rows [R, k] of a flattened table, of which some [n] count [n, k]."""
    every: Tensor = counts.new_zeros(rows, counts.shape[1])
    return every.index_copy_(0, place, counts)


def _in_bank(place: Tensor, read: BankRead, size: int) -> Tensor:
    """The rows [n] of a bank's flattened tables, of those that the folds of a step read."""
    if isinstance(read.rows, slice):
        start: int = read.rows.start
        return place + start * size
    fold = place.new_zeros(()) if read.shared else place // size
    return read.rows[fold] * size + place % size


def of(tensor: Tensor, block: Block) -> Tensor:
    """The numbers of a block, [p, ..., k] of [P, ..., K]."""
    return tensor[block[0], ..., block[1]]


def blocks(
    params: Params, machine: Machine, ranges: Iterable[slice] | None = None
) -> Iterator[Block]:
    """Block after block of parameters [P, ..., K], as many numbers at a time as fit a cache.

    Some parameters as they lie in memory; of parameters that are too large, some of their units.

    Args:
        params: all of them.
        machine: whose cache it is.
        ranges: none is of more than one of these; of all by default.
    """
    first, *_ = params.values()
    one, units = (max(size) for size in zip(*map(_sizes, params.values()), strict=True))
    for some in ranges or [slice(0, len(first))]:
        count = some.stop - some.start
        if one <= machine.numbers:
            size = machine.numbers // max(1, one)
            for at in range(some.start, some.stop, size):
                yield slice(at, min(at + size, some.stop)), ALL[1]
            continue
        size = max(LINE, machine.numbers * units // (one * count))
        for at in range(0, units, size):
            yield some, slice(at, at + size)


def _sizes(parameter: Tensor) -> tuple[int, int]:
    """Numbers of one parameter of [P, ..., K], and units."""
    return parameter[:1].numel(), parameter.shape[-1]
