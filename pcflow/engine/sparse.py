"""Sums under a rule, of which much is zero: where few categories are listed, few ways are open.

A fold matters for a row if what a product multiplies it with is not zero. That is known when the
sum is due, because classes of categories come before all that follows them.

Legend: F folds, B batch, K units, H inputs of a mixing sum, N pairs of a fold and what it meets.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from pcflow.engine.kernels import exp_
from pcflow.engine.plan import InputStep, ProductStep, Step, SumStep
from pcflow.engine.semiring import Scaled, Value, Weight


class Beside(NamedTuple):
    """What a dense sum is multiplied with.

    Attributes:
        folds: F.
        fold: [N].
        row: in the arena of the same width, [N].
    """

    folds: int
    fold: Tensor
    row: Tensor

    def matters(self, arena: Value) -> Tensor:
        """Which folds matter for which rows, bool [F, B]."""
        known = (arena.scale.index_select(0, self.row) > -torch.inf).long()  # [N, B]
        return known.new_zeros(self.folds, known.shape[1]).index_add_(0, self.fold, known) > 0


def beside(steps: Sequence[Step]) -> dict[int, Beside]:
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
        of_two = isinstance(step, ProductStep) and len(reads) == 2 and not step.kronecker
        for slot, here in enumerate(places):
            for n, (read, fold) in enumerate(here):
                if of_two and places[1 - slot][n][0] < read:
                    pairs[read].append((fold, rows[1 - slot][n]))
                else:
                    others.add(read)
        for fold, row in enumerate(range(step.out.start, step.out.stop)):
            writer[step.units, row] = number, fold
    dense = {n: step for n, step in enumerate(steps) if _is_dense(step) and n not in others}
    return {n: Beside(step.folds, *torch.tensor(pairs[n]).t()) for n, step in dense.items()}


def _is_dense(step: Step) -> bool:
    if not isinstance(step, SumStep) or step.mixing or len(step.inputs) > 1:
        return False
    return step.weight.shared and step.folds > 1


def add(semiring: Scaled, arena: Value, rows: Tensor, out: Value) -> None:
    """Rows [F, H] of an arena added up as they are, those that are zero left out."""
    batch = arena.scale.shape[1]
    scale = arena.scale[rows]  # [F, H, B]
    torch.amax(scale, dim=1, out=out.scale)
    top = out.scale.clamp_min(torch.finfo(scale.dtype).min).unsqueeze(1)
    factor = exp_((scale - top).to(arena.units.dtype)).transpose(1, 2)  # [F, B, H]
    place = rows.unsqueeze(1) * batch + torch.arange(batch).unsqueeze(-1)
    used = factor.flatten().nonzero().squeeze(-1)
    starts = torch.searchsorted(used, torch.arange(0, factor.numel(), factor.shape[-1]))
    weights, place = (part.flatten().index_select(0, used) for part in (factor, place))
    units = arena.units.flatten(0, 1)
    found = embedding_bag(place, units, starts, per_sample_weights=weights, mode="sum")
    out.units.copy_(found.view_as(out.units))
    semiring.raise_(out.units)


def some(semiring: Scaled, x: Value, weight: Weight, out: Value, matters: Tensor) -> None:
    """The dense sum of folds and rows that matter [F, B] and are not zero already."""
    place = (matters & (x.scale > -torch.inf)).flatten().nonzero().squeeze(-1)
    if 4 * len(place) > 3 * matters.numel():
        semiring.sum([x], weight, out)
        return
    out.units.zero_()
    out.scale.fill_(-torch.inf)
    found = x.units.flatten(0, 1).index_select(0, place) @ weight.columns[0]
    out.units.view(-1, out.units.shape[-1]).index_copy_(0, place, found)
    out.scale.view(-1).index_copy_(0, place, x.scale.flatten().index_select(0, place))
    semiring.raise_(out.units)
