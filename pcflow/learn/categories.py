"""Expected counts of categories: of large tables the rows that are named, and block by block.

A table may be larger than all else, and a batch name few of its rows. So what a batch counts is
kept by name, and what follows from it is worked out for a few units at a time, each of which is
complete: nothing as large as the table is made for a step.

Legend: P parameters of a bank, V categories, K units, k of them, R = P V rows of a flattened table,
n of them, F folds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from pcflow.engine import BankRead, BankSums, FiniteLeaf, Machine, Plan, add_rows, named_sums
from pcflow.inputs import Params
from pcflow.learn.team import Team

EVERY = slice(None)


class Block(NamedTuple):
    """Some parameters [P, V, ..., K] of a bank, some units of them, and some rows of these.

    Those that say nothing of rows are complete: all numbers of every unit that they are about.
    """

    parameters: slice = EVERY
    units: slice = EVERY
    rows: slice = EVERY


ALL = Block()

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
            once = read.shared or isinstance(read.rows, slice)
            self._name(read.bank, _in_bank(place, read, size), counts, once)
            return
        shape = torch.Size([leaf.access.family.num_categories, slope.shape[-1]])
        out = self.dense.place(read, shape, slope)
        found = leaf.counts(slope, out)
        if out is None:
            self.dense.add(read, found)

    def _name(self, bank: int, place: Tensor, counts: Tensor, once: bool) -> None:
        """Add counts [n, K] of rows [n], which rise if each is named once.

        As soon as half of all rows would be named, all of them are.
        """
        before, sums = self.named.get(bank, (place[:0], counts[:0]))
        if before is None:
            add_rows(sums, place, counts)
            return
        if not once or len(before):
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
        if named[0] is None:
            found = of(named[1].unflatten(0, (len(self.plan.banks[bank]), -1)), block)
        else:
            place, counts, (parameters, rows) = self._of_block(bank, block)
            found = _spread(place, counts, parameters * rows).unflatten(0, (parameters, rows))
        return found if dense is None else found + of(dense, block)

    def total(self, bank: int) -> Tensor:
        """What every unit has counted [P, K]."""
        if not self.names_few(bank):
            return self.counted(bank).sum(dim=1)
        place, counts = self.named[bank]
        assert place is not None
        parameters = len(self.plan.banks[bank])
        found = counts.new_zeros(parameters, counts.shape[1])
        add_rows(found, place // (self.rows[bank] // parameters), counts)
        return found

    def _of_block(self, bank: int, block: Block) -> tuple[Tensor, Tensor, tuple[int, int]]:
        """The rows [n] of a block that are named, their counts [n, k], and what [p, V] it has."""
        place, counts = self.named[bank]
        assert place is not None
        every = len(self.plan.banks[bank])
        size = self.rows[bank] // every
        some, rows = range(every)[block.parameters], range(size)[block.rows]
        assert len(rows) == size or len(some) == 1
        start, stop = some.start * size + rows.start, (some.stop - 1) * size + rows.stop
        ends = torch.tensor([start, stop], device=place.device)
        first, last = torch.searchsorted(place, ends).tolist()
        named = place[first:last] - start, counts[first:last, block.units]
        return *named, (len(some), len(rows))

    def gather(self, team: Team) -> None:
        """Add the counts of all processes."""
        if team.together:
            self.dense.found = {bank: self.counted(bank) for bank in self}
            self.named.clear()
            team.add_up(self.dense.found[bank] for bank in sorted(self.dense.found))

    def names_few(self, bank: int) -> bool:
        """Whether all that a bank has counted are some of its rows."""
        return bank not in self.dense.found and self.named[bank][0] is not None

    def upon(self, bank: int, sums: Tensor, momentum: float, block: Block = ALL) -> None:
        """Let sums [p, V, k] of a block fade, and add to them what it has counted."""
        if not self.names_few(bank):
            torch.add(self.counted(bank, block), sums, alpha=momentum, out=sums)
            return
        place, counts, (_, size) = self._of_block(bank, block)
        sums.mul_(momentum)[place // size, place % size] += counts


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
    """The numbers of a block, [p, v, ..., k] of [P, V, ..., K], or [p, k] of [P, K]."""
    if tensor.dim() == 2:
        return tensor[block.parameters, block.units]
    return tensor[block.parameters, block.rows, ..., block.units]


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
                yield Block(slice(at, min(at + size, some.stop)))
            continue
        size = max(LINE, machine.numbers * units // (one * count))
        for at in range(0, units, size):
            yield Block(some, slice(at, at + size))


def by_rows(parameter: Tensor, machine: Machine) -> Iterator[Block]:
    """Some rows of every parameter [P, V, K] after another, as they lie in memory."""
    size = max(1, machine.cached // max(1, parameter.shape[-1]))
    for number in range(len(parameter)):
        for at in range(0, parameter.shape[1], size):
            yield Block(slice(number, number + 1), rows=slice(at, at + size))


def _sizes(parameter: Tensor) -> tuple[int, int]:
    """Numbers of one parameter of [P, ..., K], and units."""
    return parameter[:1].numel(), parameter.shape[-1]
