"""Contexts of all input units at once, step by step of a plan: for trees with leaves in order.

Where products split neighbouring variables, all that is left of a unit is known and all that is
right of it summed out, whichever prefix ends below it. So units have one context each: a pass up
finds the values to the left, a pass down multiplies them in. Only shares are asked for, so values
need no scale: every vector is divided by its largest number. Written without memory of its own, in
operations that torch differentiates.

Legend: F folds, B batch, K units of the layer, J units read by a sum.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor

from pcflow.engine.kernels import outer, outer_by_row, times_by_row
from pcflow.engine.modes import in_ordinary_modes
from pcflow.engine.plan import InputStep, Plan, ProductStep, Rows, SumStep

Name = int | tuple[int, int]
"""Of a step, or of one of its inputs."""

Place = tuple[Name, int]
"""One fold of it."""


@dataclass(frozen=True, eq=False)
class Pick:
    """Folds of one or several tensors [F, B, K], side by side.

    Attributes:
        names: of the tensors.
        rows: of all of them together.
    """

    names: tuple[Name, ...]
    rows: Rows

    @classmethod
    def of(cls, places: list[Place], folds: Mapping[Name, int]) -> Pick:
        """Those at places, of tensors of so many folds."""
        names = tuple(dict.fromkeys(name for name, _ in places))
        starts, start = {}, 0
        for name in names:
            starts[name] = start
            start += folds[name]
        rows = [starts[name] + fold for name, fold in places]
        if rows == list(range(rows[0], rows[0] + len(rows))):
            return cls(names, slice(rows[0], rows[0] + len(rows)))
        return cls(names, torch.tensor(rows))

    def __call__(self, given: Mapping[Name, Tensor]) -> Tensor:
        """Take them."""
        found = [given[name] for name in self.names]
        whole = found[0] if len(found) == 1 else torch.cat(found)
        if isinstance(self.rows, slice):
            return whole[self.rows]
        return whole.index_select(0, self.rows.to(whole.device))


class Lowest:
    """The smallest numbers of products, before they are divided by their largest."""

    def __init__(self) -> None:
        """None so far."""
        self.each: list[Tensor] = []

    def rescaled(self, product: Tensor) -> Tensor:
        """A product [F, B, K], relative to its largest."""
        held = product.detach()
        self.each.append(held.amin(dim=(0, 2)))
        return product / held.amax(dim=-1, keepdim=True).clamp_min_(torch.finfo(held.dtype).tiny)

    def found(self, one: Tensor) -> Tensor:
        """The smallest of every row, [B]; one if there were no products."""
        return torch.stack([one, *self.each]).amin(dim=0)


@dataclass(frozen=True, eq=False)
class Folded:
    """How the steps of a plan hand values up and contexts down.

    Attributes:
        reads: by step and input, where its values come from.
        above: by step, where its contexts come from: the input of a step.
        orders: by product, its inputs from the left to the right.
        wanted: steps with values that are read on the way down, or by such steps.
    """

    plan: Plan
    reads: dict[tuple[int, int], Pick]
    above: dict[int, Pick]
    orders: dict[int, list[int]]
    wanted: frozenset[int]

    @classmethod
    def of(cls, plan: Plan) -> Folded | None:
        """None if it is no tree of Hadamard products and dense sums, or leaves are in no order."""
        if not plan.is_tree or not all(map(_is_plain, plan.steps)):
            return None
        places = _places(plan)
        orders = _orders(plan, places)
        if orders is None:
            return None
        return cls(plan, *_links(plan, places), orders, _wanted(plan, places, orders))

    def contexts(
        self, units: dict[int, Tensor], weight: Callable[[SumStep], Tensor]
    ) -> tuple[dict[int, Tensor], Tensor]:
        """Contexts [F, B, K] of the input steps, each relative to its largest.

        Args:
            units: of the input steps, [F, B, K], each relative to its largest.
            weight: of sum steps, [F or 1, K, J], or [F or 1, B, K, J] by row.

        Returns:
            The contexts by step; and the smallest number [B] that was met on the way, which tells
            whether something may have been lost.
        """
        lowest = Lowest()
        values = self._up(units, weight, lowest)
        found: dict[int, Tensor] = {}
        handed: dict[Name, Tensor] = {}
        for number in reversed(range(len(self.plan.steps))):
            step = self.plan.steps[number]
            last = number == len(self.plan.steps) - 1
            context = self._one(units) if last else self.above[number](handed)
            if isinstance(step, InputStep):
                found[number] = context
            elif isinstance(step, SumStep):
                handed[number, 0] = times(context, weight(step))
            else:
                for slot in self.orders[number]:
                    handed[number, slot] = context
                    if slot != self.orders[number][-1]:
                        context = lowest.rescaled(context * self.reads[number, slot](values))
        return found, lowest.found(self._one(units)[0, :, 0])

    def _up(
        self, units: dict[int, Tensor], weight: Callable[[SumStep], Tensor], lowest: Lowest
    ) -> dict[Name, Tensor]:
        """The values that are wanted."""
        values: dict[Name, Tensor] = {}
        values |= {number: said for number, said in units.items()}
        for number in sorted(self.wanted):
            step = self.plan.steps[number]
            if isinstance(step, SumStep):
                values[number] = times(self.reads[number, 0](values), weight(step).mT)
            elif isinstance(step, ProductStep):
                value = self.reads[number, 0](values)
                for slot in range(1, len(step.inputs)):
                    value = lowest.rescaled(value * self.reads[number, slot](values))
                values[number] = value
        return values

    def _one(self, units: dict[int, Tensor]) -> Tensor:
        any_units = next(iter(units.values()))
        return any_units.new_ones(1, any_units.shape[1], 1)


def times(x: Tensor, weight: Tensor) -> Tensor:
    """Products [F, B, J] of x [F, B, K] and a weight [F or 1, K, J], or [F or 1, B, K, J]."""
    return cast(Tensor, _Times.apply(x, weight))  # type: ignore[no-untyped-call]


class _Times(torch.autograd.Function):
    """Whoever goes back under autocast would round products that torch differentiates."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        if weight.dim() > 3:
            return times_by_row(x, weight)
        if len(weight) == 1 and len(x) > 1:
            return cast(Tensor, (x.flatten(0, 1) @ weight[0]).unflatten(0, x.shape[:2]))
        return torch.bmm(x, weight)

    @staticmethod
    @in_ordinary_modes
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        multiply = outer_by_row if weight.dim() > 3 else outer
        by_x, by_weight = ctx.needs_input_grad
        return (
            times(grad, weight.mT) if by_x else None,
            multiply(x, grad, len(weight) == 1) if by_weight else None,
        )


def _is_plain(step: object) -> bool:
    if isinstance(step, SumStep):
        return not (step.mixing or step.plain)
    return not (isinstance(step, ProductStep) and step.kronecker)


def _places(plan: Plan) -> dict[tuple[int, int], Place]:
    """The step and fold that write a row of an arena, by width and row."""
    return {
        (step.units, step.out.start + fold): (number, fold)
        for number, step in enumerate(plan.steps)
        for fold in range(step.folds)
    }


def _read(plan: Plan, places: dict[tuple[int, int], Place], number: int) -> Iterable[list[Place]]:
    """For every input of a step the folds that it reads."""
    step = plan.steps[number]
    for read in () if isinstance(step, InputStep) else step.inputs:
        yield [places[read.width, row] for row in read.index.tolist()]


def _orders(plan: Plan, places: dict[tuple[int, int], Place]) -> dict[int, list[int]] | None:
    """The inputs of every product from the left to the right; None if they cross."""
    spans: dict[Place, tuple[int, int]] = {}
    found = {}
    for number, step in enumerate(plan.steps):
        if isinstance(step, InputStep):
            spans |= {(number, fold): (v, v) for fold, v in enumerate(step.over)}
            continue
        below = [[spans[place] for place in folds] for folds in _read(plan, places, number)]
        order = sorted(range(len(below)), key=lambda slot: below[slot][0])
        for left, right in pairwise(order):
            if any(a[1] >= b[0] for a, b in zip(below[left], below[right], strict=True)):
                return None
        for fold, ends in enumerate(zip(below[order[0]], below[order[-1]], strict=True)):
            spans[number, fold] = (ends[0][0], ends[1][1])
        found[number] = order
    return found


def _links(
    plan: Plan, places: dict[tuple[int, int], Place]
) -> tuple[dict[tuple[int, int], Pick], dict[int, Pick]]:
    """Where steps read values, and where their contexts come from."""
    folds: dict[Name, int] = {n: step.folds for n, step in enumerate(plan.steps)}
    reads: dict[tuple[int, int], Pick] = {}
    readers: dict[Place, Place] = {}
    for number, step in enumerate(plan.steps):
        for slot, read in enumerate(_read(plan, places, number)):
            reads[number, slot] = Pick.of(read, folds)
            folds[number, slot] = step.folds
            readers |= {place: ((number, slot), fold) for fold, place in enumerate(read)}
    above = {
        n: Pick.of([readers[n, fold] for fold in range(step.folds)], folds)
        for n, step in enumerate(plan.steps[:-1])
    }
    return reads, above


def _wanted(
    plan: Plan, places: dict[tuple[int, int], Place], orders: dict[int, list[int]]
) -> frozenset[int]:
    """Steps whose values are read."""
    found: set[Name] = set()
    for number in reversed(range(len(plan.steps))):
        for slot, read in enumerate(_read(plan, places, number)):
            if number in found or slot != orders[number][-1]:
                found.update(step for step, _ in read)
    return frozenset(n for n in range(len(plan.steps)) if n in found)
