"""The arithmetic of the upward pass: what a unit's value is, and how sums and products act on it.

`Scaled` is the fast one. A fold of units is a linear-space mantissa with one log-scale per row:

    true value = units * exp(scale),  0 <= units <= 1

A sum is one batched matrix product, a product is elementwise, logarithms touch scales only. Scales
are doubles, whatever the units are: one of a thousand variables is a sum of so many numbers, whose
rounding would all go one way. In a tree no scale is compared with another, so that none is handed
up: what inputs and products were divided by is kept, and added up once a pass (`Plan.one_scale`).

A unit far below the largest of its row can underflow, and a later product can make just that unit
matter. Two checks guard against it. `lowest` records the smallest unit of every product: while it
stays above a floor, nothing can have been lost, because sums and products of nonnegative numbers
keep relative accuracy. Rows that fall below are evaluated once more with every unit raised to at
least the floor. Since sums and products only grow with their inputs, the two results bracket the
truth; rows for which they differ are evaluated a last time by `LogSumProduct`, which is slow and
never underflows. `MaxProduct` computes with maxima in place of sums, for MPE; `MaxInputs` with
maxima at the inputs of chosen variables alone, for bounds.

Legend: F folds, B batch, K units of the layer, J units read by a sum, H inputs of a layer, V
categories, N entries of inputs, D variables.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from pcflow.engine.kernels import exp_, multiply, outer, outer_by_row, take
from pcflow.engine.machine import Machine
from pcflow.engine.plan import DIVIDED


class Division(NamedTuple):
    """One of the times that a product [F, B, K] is multiplied by a factor: K over its sum.

    Attributes:
        lowest: its smallest unit before, [F, B].
        factor: [F, B]; and as a `column`, [F, B, 1].
        number: K, a tensor of no axes.
        least: what a sum is taken for if it is smaller.
    """

    lowest: Tensor
    factor: Tensor
    column: Tensor
    number: Tensor
    least: float


class Value(NamedTuple):
    """Rows of an arena: units [F, B, K]; everything else is of `Scaled` only.

    Attributes:
        scale: [F, B], in double. Where scales are added up once, input steps alone have one, in the
            precision of the units; that of others is empty, and not handed up.
        lowest: the smallest unit of a product at every division, [R, F, B].
        divisions: R of them.
    """

    units: Tensor
    scale: Tensor
    lowest: Tensor
    divisions: tuple[Division, ...] = ()


class Weight(NamedTuple):
    """Weights of a sum step: linear or log; dense [F, K, J] or mixing [F, K, H]; F may be 1.

    `columns` is how a pass up reads it: transposed, [F, J, K] or [H, F, K]. Where every row has its
    own, B comes after F in both.
    """

    tensor: Tensor
    columns: Tensor
    mixing: bool

    @property
    def by_row(self) -> bool:
        """Whether every row has its own."""
        return self.tensor.dim() == 4

    @property
    def over_rows(self) -> Tensor:
        """Weights [F or 1, B or 1, K, J], mixing [F or 1, B or 1, K, H]."""
        return self.tensor if self.by_row else self.tensor.unsqueeze(1)

    @property
    def by_input(self) -> Tensor:
        """Those of mixing sums, input by input: [H, F or 1, B or 1, K]."""
        return self.columns if self.by_row else self.columns.unsqueeze(-2)

    def chosen(self, fold: Tensor, row: Tensor, unit: Tensor) -> Tensor:
        """Those of single units of folds and rows: [N, J], mixing [N, H]."""
        shared = len(self.tensor) == 1
        if self.by_row:  # not laid out fold by fold
            return self.tensor[torch.zeros_like(fold) if shared else fold, row, unit]
        return take(self.tensor, (unit,) if shared else (fold, unit))

    def total(self, edges: Tensor) -> Tensor:
        """Sums of [F, B, K, J] over the folds and rows that share a weight, shaped as they are."""
        found = edges if self.by_row else edges.sum(dim=1)
        return found if len(self.tensor) == len(found) else found.sum(dim=0, keepdim=True)


class Inputs(Protocol):
    """Input units over what is missing: N entries of folds and rows."""

    @property
    def variable(self) -> Tensor:
        """Variable of every entry [N]."""
        ...

    def weighed(self) -> tuple[Tensor, Tensor]:
        """Sum of potential times table over categories: [N, K]; and a log-scale [N]."""
        ...

    def log_joint(self) -> Iterator[tuple[slice, Tensor]]:
        """Blocks of entries with log-table plus log-potential [n, V, K]."""
        ...


class Semiring(Protocol):
    """Sums and products of values, written into `out`, and what goes back down through them.

    What goes down is the *slope* of a unit: the derivative of the result with respect to the unit
    as it is stored. For units stored as logarithms that is the unit's flow; for linear ones it is
    flow / unit, so that sums hand it down by a matrix product alone.
    """

    in_log_space: bool
    maximizes: bool
    """Whether inputs over what is missing may take their largest value in place of their total."""

    @property
    def arithmetic(self) -> Hashable:
        """The same for all that do the same between inputs and root."""
        ...

    def write(self, log_prob: Tensor, out: Value) -> None:
        """Write input units from their logarithms [F, B, K]."""
        ...

    def over_reals(self, mass: Tensor, peak: Tensor, variables: Tensor) -> Tensor:
        """Log of what densities over missing `variables` [N] come to: `mass` or `peak`, [N, K]."""
        ...

    def set_to_one(self, units: Tensor, missing: Tensor) -> None:
        """Set the input units [F, B, K] of what is missing [F, B] to one."""
        ...

    def weigh(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """What input units over what is missing come to: [N, K], and a log-scale [N]."""
        ...

    def settle(self, out: Value, zeros: Callable[[], tuple[Tensor, Tensor] | None]) -> None:
        """Conclude input units; `zeros` finds fold and row of those that are zero, all K of them.

        Others may look so, but are just too small to hold.
        """
        ...

    def product(self, xs: list[Value], out: Value, kronecker: bool) -> None:
        """Multiply the inputs."""
        ...

    def sum(self, xs: list[Value], weight: Weight, out: Value) -> None:
        """Weigh and add the inputs."""
        ...

    def read(self, xs: list[Value], mixing: bool) -> Tensor:
        """A sum's inputs at one scale, side by side: [F, B, J], mixing [F, B, K, H]."""
        ...

    def aligned(self, units: Tensor, scale: Tensor) -> Tensor:
        """Units of several inputs [N, H, ...], each with its scale [N, H], at one scale."""
        ...

    def flow(self, units: Tensor, slope: Tensor) -> Tensor:
        """How often units are used, from their slope; both [F, B, K]."""
        ...

    def slope(self, units: Tensor, flow: Tensor) -> Tensor:
        """The other way round."""
        ...

    def down_product(self, xs: list[Value], flow: Tensor, kronecker: bool, into: Into) -> None:
        """Hand a product's flow to its inputs."""
        ...

    def down_sum(
        self, xs: list[Value], weight: Weight, units: Tensor, slope: Tensor, into: Into
    ) -> None:
        """Hand a sum's slope to its inputs."""
        ...

    def edges(
        self,
        xs: list[Value],
        weight: Weight,
        units: Tensor,
        slope: Tensor,
        onto: Tensor | None = None,
    ) -> Tensor:
        """The derivative by every weight of a sum [F, K, J] (in log space: its flow).

        It is summed over the rows and folds that share the weight, and added to `onto`, if that is
        given. Of weights by row it is written there, where rows come first in memory.
        """
        ...

    def weight_flow(self, weights: Tensor, edges: Tensor) -> Tensor:
        """How often weights are used, from the derivatives by them, which are written over."""
        ...


class Into(Protocol):
    """Where slopes of inputs go."""

    def place(self, slot: int) -> Tensor | None:
        """Memory to write the slope of an input into, if nobody else hands it any."""
        ...

    def add(self, slot: int, slope: Tensor) -> None:
        """Add the slope of an input that has no such place."""
        ...

    def spread(self, slope: Tensor) -> bool:
        """Hand all inputs the same slope in one call; False if that is no gain, and not done."""
        ...


def is_zero(value: Value) -> Tensor:
    """Which rows [F, B] are exactly zero, all units of them."""
    return value.scale == -torch.inf


def floor_of(dtype: torch.dtype) -> float:
    """A unit above this has lost nothing to underflow: 1e10 times the smallest normal number."""
    return 1e10 * torch.finfo(dtype).tiny


@dataclass(frozen=True)
class Scaled:
    """Sum-product in linear space with one scale per row.

    Args:
        machine: whose sizes products go by.
        raised: raise every unit to at least the floor, for an upper bound of the value.
    """

    machine: Machine
    raised: bool = False
    in_log_space = False
    maximizes = False

    @property
    def arithmetic(self) -> Hashable:
        """Raised units are others."""
        return "raised" if self.raised else "scaled"

    def write(self, log_prob: Tensor, out: Value) -> None:
        """Split into a scale and a mantissa."""
        scale = log_prob.amax(dim=-1)  # [F, B]
        out.scale.copy_(scale)
        torch.exp(log_prob - scale.nan_to_num(neginf=0.0).unsqueeze(-1), out=out.units)
        self.raise_(out.units)

    def over_reals(self, mass: Tensor, peak: Tensor, variables: Tensor) -> Tensor:
        """Their total."""
        return mass

    def set_to_one(self, units: Tensor, missing: Tensor) -> None:
        """The larger of both: probabilities are at most one. Much faster than masked_fill_."""
        torch.maximum(units, missing.to(units.dtype).unsqueeze(-1), out=units)

    def weigh(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """By linear potentials."""
        return inputs.weighed()

    def settle(self, out: Value, zeros: Callable[[], tuple[Tensor, Tensor] | None]) -> None:
        """Exact zeros have a scale of -inf, all others may be raised."""
        exact = zeros()
        if exact is not None:
            out.scale[exact] = -torch.inf
        self.raise_(out.units)

    def product(self, xs: list[Value], out: Value, kronecker: bool) -> None:
        """Multiply, and divide every row by the mean of its units."""
        units, divisions = xs[0].units, iter(out.divisions)
        for count, x in enumerate(xs[1:], start=2):
            last = count == len(xs)
            into = out.units if last or not kronecker else None
            units = multiply(units, x.units, kronecker, into)
            if last or count % DIVIDED == 0:
                self._divide(units, next(divisions))
        if out.scale.numel():
            self._add_scales(xs, out)

    def _divide(self, units: Tensor, by: Division) -> None:
        self.raise_(units)
        torch.amin(units, -1, out=by.lowest)
        torch.sum(units, -1, out=by.factor).clamp_min_(by.least)
        torch.div(by.number, by.factor, out=by.factor)
        units.mul_(by.column)

    def _add_scales(self, xs: list[Value], out: Value) -> None:
        torch.add(xs[0].scale, xs[1].scale, out=out.scale)
        for x in xs[2:]:
            out.scale.add_(x.scale)
        for by in out.divisions:
            out.scale.sub_(by.factor.log())

    def raise_(self, units: Tensor) -> None:
        """Raise units to the floor. Exact zeros stay zeros: their rows have a scale of -inf."""
        if self.raised:
            units.clamp_min_(floor_of(units.dtype))

    def sum(self, xs: list[Value], weight: Weight, out: Value) -> None:
        """One (batched) matrix product, or one product for each input that is mixed."""
        if len(xs) == 1 and out.scale.numel():
            out.scale.copy_(xs[0].scale)
        if weight.mixing:
            self._mix(xs, weight.by_input, out)
        else:
            self.machine.matmul(self._beside(xs, out), weight.columns, out.units)
        self.raise_(out.units)

    def _mix(self, xs: list[Value], columns: Tensor, out: Value) -> None:
        torch.mul(xs[0].units, columns[0], out=out.units)
        if len(xs) == 1:
            return
        factors = self._align(xs, out.scale)
        out.units.mul_(factors[0])
        for x, column, factor in zip(xs[1:], columns[1:], factors[1:], strict=True):
            out.units.addcmul_(x.units * column, factor)

    def _beside(self, xs: list[Value], out: Value) -> Tensor:
        if len(xs) == 1:
            return xs[0].units
        factors = self._align(xs, out.scale)
        return torch.cat([x.units * f for x, f in zip(xs, factors, strict=True)], dim=-1)

    def _align(self, xs: list[Value], scale: Tensor | None = None) -> list[Tensor]:
        """Factors [F, B, 1] that bring inputs to the largest of their scales, which is written."""
        top = torch.stack([x.scale for x in xs]).amax(dim=0)  # [F, B]
        if scale is not None:
            scale.copy_(top)
        top.nan_to_num_(neginf=0.0)
        return [exp_((x.scale - top).to(x.units.dtype)).unsqueeze(-1) for x in xs]

    def read(self, xs: list[Value], mixing: bool) -> Tensor:
        """Inputs relative to the largest of their scales."""
        if len(xs) == 1:
            return xs[0].units.unsqueeze(-1) if mixing else xs[0].units
        parts = [x.units * f for x, f in zip(xs, self._align(xs), strict=True)]
        return torch.stack(parts, dim=-1) if mixing else torch.cat(parts, dim=-1)

    def aligned(self, units: Tensor, scale: Tensor) -> Tensor:
        """Relative to the largest of the scales."""
        top = scale.amax(dim=-1, keepdim=True).nan_to_num_(neginf=0.0)
        factor = exp_((scale - top).to(units.dtype))
        return units * factor.view(*factor.shape, *[1] * (units.dim() - 2))

    def flow(self, units: Tensor, slope: Tensor) -> Tensor:
        """Slope times unit."""
        return slope * units

    def slope(self, units: Tensor, flow: Tensor) -> Tensor:
        """Flow over unit; a unit too small to divide by has no flow that counts."""
        return flow / units.clamp_min(torch.finfo(units.dtype).tiny)

    def down_product(self, xs: list[Value], flow: Tensor, kronecker: bool, into: Into) -> None:
        """Every input has the product's flow; of a Kronecker product, what its own unit gets."""
        flows = marginal_flows(flow, xs) if kronecker else [flow] * len(xs)
        for slot, (x, part) in enumerate(zip(xs, flows, strict=True)):
            place = into.place(slot)
            units = torch.clamp_min(x.units, torch.finfo(part.dtype).tiny, out=place)
            torch.div(part, units, out=units)
            if place is None:
                into.add(slot, units)

    def down_sum(
        self, xs: list[Value], weight: Weight, units: Tensor, slope: Tensor, into: Into
    ) -> None:
        """A matrix product; where inputs are mixed, a product for each."""
        factors = self._align(xs) if len(xs) > 1 else None
        if weight.mixing:
            for slot, column in enumerate(weight.by_input):
                place = into.place(slot)
                part = torch.mul(slope, column, out=place)
                if factors is not None:
                    part.mul_(factors[slot])
                if place is None:
                    into.add(slot, part)
            return
        place = into.place(0) if factors is None else None
        width = weight.tensor.shape[-1]
        inner = slope.new_empty(*slope.shape[:-1], width) if place is None else place
        self.machine.matmul(slope, weight.tensor, inner)
        if place is None:
            parts = inner.split([x.units.shape[-1] for x in xs], dim=-1)
            for slot, part in enumerate(parts):
                into.add(slot, part if factors is None else part * factors[slot])

    def edges(
        self,
        xs: list[Value],
        weight: Weight,
        units: Tensor,
        slope: Tensor,
        onto: Tensor | None = None,
    ) -> Tensor:
        """A matrix product; where inputs are mixed, a product and a sum for each."""
        if not weight.mixing:
            x, shared = self.read(xs, mixing=False), len(weight.tensor) == 1
            if weight.by_row:
                return outer_by_row(slope, x, shared, onto)
            return outer(slope, x, shared, onto)
        factors = self._align(xs) if len(xs) > 1 else [slope.new_ones(1)]
        parts = [(x.units * slope).mul_(f) for x, f in zip(xs, factors, strict=True)]
        if weight.by_row:
            return torch.stack(parts, dim=-1, out=onto)
        found = torch.stack([part.sum(dim=1) for part in parts], dim=-1)  # [F, K, H]
        if len(weight.tensor) < len(found):
            found = found.sum(dim=0, keepdim=True)
        return found if onto is None else onto.add_(found)

    def weight_flow(self, weights: Tensor, edges: Tensor) -> Tensor:
        """Derivative times weight."""
        return edges.mul_(weights)


def marginal_flows(flow: Tensor, xs: list[Value]) -> list[Tensor]:
    """The flow of a Kronecker product summed over the units of all inputs but one, for each."""
    grid = flow.unflatten(-1, [x.units.shape[-1] for x in xs])
    axes = range(2, grid.dim())
    return [grid.sum([a for a in axes if a != axis]) for axis in axes]
