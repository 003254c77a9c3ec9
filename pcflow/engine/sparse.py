"""Passes up under a rule, of which much is zero: few categories listed leave few ways open.

A fold of a sum matters for a row if what a product multiplies it with is not zero. That is known
when the sum is due, because classes of categories come before all that follows them. Steps of which
little is not zero read and compute no more than that.

Legend: F folds, B batch, K units, X = F B folds of rows, n of them; N places in a flattened arena.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol, TypeGuard

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import embedding_bag

from pcflow.engine.kernels import exp_
from pcflow.engine.plan import InputStep, ProductStep, Step, SumStep
from pcflow.engine.semiring import Scaled, Value, Weight

Arenas = Mapping[int, Value]
Places = NDArray[np.int64]
Numbers = NDArray[np.float64]

MANY = 1 << 16
"""Numbers of rows, from which on it is worth finding those that are zero, and not to read them."""


class Sparse(Protocol):
    """A step of a pass up over batches of one size."""

    def write(self, semiring: Scaled, arenas: Arenas, weight: Weight | None, out: Value) -> bool:
        """Write what is not zero; False if that is most of it, and quicker done as a whole."""
        ...


def sparse_steps(steps: Sequence[Step], batch: int) -> dict[int, Sparse]:
    """The steps of which little may be to do, by number."""
    return _dense(steps, batch) | _added(steps, batch)


class Dense(NamedTuple):
    """A sum that nobody reads but products.

    Attributes:
        width: of the arena that it reads.
        reads: what it reads there, [X].
        met: what it is multiplied with, in the arena of what it writes, by what meets it, [N].
        starts: where that begins for each, [X].
    """

    width: int
    reads: Places
    met: Places
    starts: Places

    def write(self, semiring: Scaled, arenas: Arenas, weight: Weight | None, out: Value) -> bool:
        """See `Sparse`; weights by row are no business of it."""
        if weight is None or weight.by_row:
            return False
        read, met = arenas[self.width], arenas[out.units.shape[-1]]
        scale = _scales(read)[self.reads]
        most = np.maximum.reduceat(_scales(met)[self.met], self.starts)
        place = np.flatnonzero(np.minimum(scale, most) > -np.inf)
        if 4 * len(place) > 3 * len(scale):
            return False
        row = torch.from_numpy(self.reads[place])
        found = read.units.flatten(0, 1).index_select(0, row) @ weight.columns[0]  # [n, K]
        out.units.zero_().flatten(0, 1).index_copy_(0, torch.from_numpy(place), found)
        semiring.raise_(out.units)
        mine = _scales(out)
        mine.fill(-np.inf)
        mine[place] = scale[place]
        return True


class Added(NamedTuple):
    """Sums of rows as they are, of steps that do not read each other.

    Attributes:
        reads: what goes into them, sum by sum, [N].
        starts: where every sum begins, [X].
        counts: how much goes into it, [X].
        out: where it is written, [X].
    """

    reads: Places
    starts: Places
    counts: Places
    out: Places

    def write(self, semiring: Scaled, arenas: Arenas, weight: Weight | None, out: Value) -> bool:
        """See `Sparse`; each row counts as it does beside the largest scale of its sum."""
        arena = arenas[out.units.shape[-1]]
        scales, units = _scales(arena), arena.units.flatten(0, 1)
        scale = scales[self.reads]
        top = np.maximum.reduceat(scale, self.starts)
        scales[self.out] = top
        least = np.maximum(top, np.finfo(top.dtype).min).repeat(self.counts)
        found = self._weighed(exp_(torch.from_numpy(scale - least).to(units.dtype)), units)
        semiring.raise_(found)
        units.index_copy_(0, torch.from_numpy(self.out), found)
        return True

    def _weighed(self, weights: Tensor, units: Tensor) -> Tensor:
        """Sums by weights [N] of rows of units [.., K]: [X, K]."""
        place, starts = self.reads, self.starts
        if len(place) * units.shape[-1] > MANY:
            used = np.flatnonzero(weights.numpy())
            place, starts = place[used], np.searchsorted(used, starts)
            weights = weights.index_select(0, torch.from_numpy(used))
        rows, offsets = torch.from_numpy(place), torch.from_numpy(starts)
        return embedding_bag(rows, units, offsets, per_sample_weights=weights, mode="sum")


class Done(NamedTuple):
    """A step that an earlier one did as well."""

    def write(self, semiring: Scaled, arenas: Arenas, weight: Weight | None, out: Value) -> bool:
        """See `Sparse`."""
        return True


def _dense(steps: Sequence[Step], batch: int) -> dict[int, Sparse]:
    """Of dense sums that nobody reads but products, whose other input is there before."""
    pairs: dict[int, list[tuple[int, int]]] = defaultdict(list)
    others: set[int] = set()  # numbers of sums that somebody else reads
    writer: dict[tuple[int, int], tuple[int, int]] = {}  # step and fold of every row of an arena
    for number, step in enumerate(steps):
        reads = () if isinstance(step, InputStep) else step.inputs
        rows = [read.index.tolist() for read in reads]
        places = [
            [writer[read.width, row] for row in some]
            for read, some in zip(reads, rows, strict=True)
        ]
        for slot, here in enumerate(places):
            for n, (read, fold) in enumerate(here):
                if _is_of_two(step) and places[1 - slot][n][0] < read:
                    pairs[read].append((fold, rows[1 - slot][n]))
                else:
                    others.add(read)
        for fold, row in enumerate(range(step.out.start, step.out.stop)):
            writer[step.units, row] = number, fold
    return {
        number: _meeting(step, pairs[number], batch)
        for number, step in enumerate(steps)
        if isinstance(step, SumStep) and _is_dense(step) and number not in others
    }


def _meeting(step: SumStep, pairs: list[tuple[int, int]], batch: int) -> Dense:
    """Of pairs of a fold and a row that it meets."""
    (read,), (fold, row) = step.inputs, torch.tensor(pairs).t()
    which, order = _flat(fold, batch).sort(stable=True)
    starts = torch.searchsorted(which, torch.arange(step.folds * batch))
    places = _flat(read.index, batch), _flat(row, batch)[order], starts
    return Dense(read.width, *(place.numpy() for place in places))


def _is_of_two(step: Step) -> TypeGuard[ProductStep]:
    return isinstance(step, ProductStep) and len(step.inputs) == 2 and not step.kronecker


def _is_dense(step: SumStep) -> bool:
    alone = not step.mixing and len(step.inputs) == 1
    return alone and step.weight.shared and step.folds > 1


def _added(steps: Sequence[Step], batch: int) -> dict[int, Sparse]:
    """Of sums that add what they read as it is.

    Steps that follow one another are done with the first of them where none reads another.
    """
    runs: dict[int, list[SumStep]] = {}
    found: dict[int, Sparse] = {}
    first = -1
    for number, step in enumerate(steps):
        if not isinstance(step, SumStep) or not step.plain:
            continue
        if number - 1 in found and _beside(runs[first], step):
            runs[first].append(step)
        else:
            first, runs[number] = number, [step]
        found[number] = Done()
    return found | {number: _together(run, batch) for number, run in runs.items()}


def _beside(run: Sequence[SumStep], step: SumStep) -> bool:
    """Whether a step writes to the arena of others, and reads nothing that these write."""
    written = {row for one in run for row in range(one.out.start, one.out.stop)}
    return step.units == run[0].units and written.isdisjoint(step.rows.flatten().tolist())


def _together(steps: Sequence[SumStep], batch: int) -> Added:
    every = [_flat(step.rows, batch).view(step.folds, -1, batch) for step in steps]
    sums = [rows.transpose(1, 2).flatten(0, 1) for rows in every]  # [X, H] each
    count = torch.cat([torch.full((len(some),), some.shape[1]) for some in sums])
    reads = torch.cat([some.flatten() for some in sums])
    out = torch.cat([torch.arange(step.out.start, step.out.stop) for step in steps])
    places = reads, count.cumsum(0) - count, count, _flat(out, batch)
    return Added(*(place.numpy() for place in places))


def _flat(rows: Tensor, batch: int) -> Tensor:
    """Places in a flattened arena of every row of the batch, [N B] of rows [N]."""
    return (rows.unsqueeze(-1) * batch + torch.arange(batch)).flatten()


def _scales(arena: Value) -> Numbers:
    """Scales [..] of the rows of all folds, to be written to as well; -inf where all is zero.

    To numpy they are small change; to torch each step would be a dozen launches.
    """
    found: Numbers = arena.scale.numpy().reshape(-1)
    return found
