"""Arithmetic in log space: sum-product where scales fail, and max-product.

Legend: F folds, B batch, K units of the layer, J units read by a sum, H inputs of a mixing sum,
D variables.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from pcflow.engine.kernels import exp_, outer_add
from pcflow.engine.machine import Machine
from pcflow.engine.semiring import Inputs, Into, Value, Weight, marginal_flows


@dataclass(frozen=True, eq=False)
class LogSumProduct:
    """Sum-product on logarithms of single units: slow, exact over the whole floating range.

    Args:
        machine: whose sizes blocks go by.
    """

    machine: Machine
    in_log_space = True
    maximizes = False
    arithmetic = "log sums"

    def write(self, log_prob: Tensor, out: Value) -> None:
        """As they are."""
        out.units.copy_(log_prob)

    def set_to_one(self, units: Tensor, missing: Tensor) -> None:
        """The larger of both, which leaves NaN as it is."""
        torch.maximum(units, missing.to(units.dtype).log_().unsqueeze(-1), out=units)

    def weigh(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """Category by category, a block of entries at a time."""
        variable, blocks = inputs.variable, inputs.log_joint()
        units = [self.over_categories(joint, variable[some]) for some, joint in blocks]
        found = torch.cat(units)
        return found, found.new_zeros(len(found))

    def settle(self, out: Value, zeros: Callable[[], tuple[Tensor, Tensor] | None]) -> None:
        """Nothing to mark or to raise."""

    def product(self, xs: list[Value], out: Value, kronecker: bool) -> None:
        """Add the logarithms."""
        units = xs[0].units
        if not kronecker and len(xs) == 2:
            torch.add(units, xs[1].units, out=out.units)
        elif not kronecker:
            self._add(xs, out.units)
        else:
            for x in xs[1:]:
                units = outer_add(units, x.units)
            out.units.copy_(units)

    def _add(self, xs: list[Value], out: Tensor) -> None:
        """Many of them, as many by many and not one by one, lest their rounding add up."""
        size = max(1, self.machine.cached // max(1, len(xs) * out[:1].numel()))
        if len(out) <= size:
            torch.sum(torch.stack([x.units for x in xs]), dim=0, out=out)
            return
        for start in range(0, len(out), size):
            some = slice(start, start + size)
            torch.sum(torch.stack([x.units[some] for x in xs]), dim=0, out=out[some])

    def sum(self, xs: list[Value], weight: Weight, out: Value) -> None:
        """Reduce weight + input over the inputs, a block of rows at a time."""
        if all(x.units.shape[-1] == 1 for x in (out, *xs)):
            self._sum_of_ones(xs, weight, out)
            return
        x = self.read(xs, weight.mixing)
        for rows in row_blocks(x, weight.tensor, self.machine.edges):
            out.units[:, rows] = self.reduce(log_terms(x, weight, rows))

    def _sum_of_ones(self, xs: list[Value], weight: Weight, out: Value) -> None:
        """Inputs of one unit, one after the other: every pass is over whole rows, in a cache."""
        log_weight = weight.tensor.movedim(-1, 0).squeeze(-1)  # [H, F or 1] or [H, F or 1, B]
        log_weight = log_weight if weight.by_row else log_weight.unsqueeze(-1)
        size = max(1, self.machine.cached // max(1, len(xs) * out.units.shape[1]))
        for start in range(0, len(out.units), size):
            some = slice(start, start + size)
            into = out.units[some].squeeze(-1)  # [F, B]
            terms = into.new_empty(len(xs), *into.shape)
            for term, x, logs in zip(terms, xs, log_weight, strict=True):
                torch.add(
                    x.units[some].squeeze(-1), logs if len(logs) == 1 else logs[some], out=term
                )
            self.reduce_first(terms, into)

    def read(self, xs: list[Value], mixing: bool) -> Tensor:
        """Nothing to align."""
        units = [x.units for x in xs]
        return torch.stack(units, dim=-1) if mixing else torch.cat(units, dim=-1)

    def aligned(self, units: Tensor, scale: Tensor) -> Tensor:
        """As they are."""
        return units

    def flow(self, units: Tensor, slope: Tensor) -> Tensor:
        """The derivative by a logarithm is the flow; a copy, which other rows may be made of."""
        return slope.clone()

    def slope(self, units: Tensor, flow: Tensor) -> Tensor:
        """The same."""
        return flow

    def down_product(self, xs: list[Value], flow: Tensor, kronecker: bool, into: Into) -> None:
        """Pass it to all."""
        if not kronecker and into.spread(flow):
            return
        for slot, part in enumerate(marginal_flows(flow, xs) if kronecker else [flow] * len(xs)):
            into.add(slot, part)

    def down_sum(
        self, xs: list[Value], weight: Weight, units: Tensor, slope: Tensor, into: Into
    ) -> None:
        """Edge by edge: every input gets its share."""
        x = self.read(xs, weight.mixing)
        inner = torch.empty_like(x)
        for rows, shares in self._shares(x, weight, units, slope):
            inner[:, rows] = shares if weight.mixing else shares.sum(dim=-2)
        widths = [x.units.shape[-1] for x in xs]
        parts = inner.unbind(-1) if weight.mixing else inner.split(widths, dim=-1)
        for slot, part in enumerate(parts):
            into.add(slot, part)

    def edges(
        self,
        xs: list[Value],
        weight: Weight,
        units: Tensor,
        slope: Tensor,
        onto: Tensor | None = None,
    ) -> Tensor:
        """The same shares, summed over rows."""
        total = torch.zeros_like(weight.tensor) if onto is None else onto
        if weight.by_row:
            total.zero_()
        for rows, shares in self._shares(self.read(xs, weight.mixing), weight, units, slope):
            part = total[:, rows] if weight.by_row else total
            part += weight.total(shares)
        return total

    def weight_flow(self, weights: Tensor, edges: Tensor) -> Tensor:
        """The same."""
        return edges

    def _shares(
        self, x: Tensor, weight: Weight, units: Tensor, slope: Tensor
    ) -> Iterator[tuple[slice, Tensor]]:
        """A block of rows at a time, exp(log-weight + log-input - log-value) times slope."""
        for rows in row_blocks(x, weight.tensor, self.machine.edges):
            shares = log_terms(x, weight, rows) - units[:, rows].unsqueeze(-1)
            shares = shares.exp_().nan_to_num_(nan=0.0)
            yield rows, shares.mul_(slope[:, rows].unsqueeze(-1))

    def reduce(self, terms: Tensor) -> Tensor:
        """Log-sum-exp over the last axis."""
        return torch.logsumexp(terms, dim=-1)

    def over_categories(self, joint: Tensor, variables: Tensor) -> Tensor:
        """What input units over `variables` [N] make of table times potential [N, V, K]: [N, K]."""
        return self.reduce(joint.transpose(-1, -2))

    def over_reals(self, mass: Tensor, peak: Tensor, variables: Tensor) -> Tensor:
        """What densities over missing `variables` [N] come to: their total `mass` [N, K]."""
        return mass

    def reduce_first(self, terms: Tensor, out: Tensor) -> None:
        """The same over the first axis, into `out`; the terms are written over."""
        peak = terms.amax(dim=0).clamp_min_(torch.finfo(terms.dtype).min)
        torch.sum(exp_(terms.sub_(peak)), dim=0, out=out)
        out.log_().add_(peak)


class MaxProduct(LogSumProduct):
    """Max-product on logarithms: the value of the best assignment of variables and latents."""

    maximizes = True
    arithmetic = "log maxima"

    def reduce(self, terms: Tensor) -> Tensor:
        """Maximum over the last axis."""
        return terms.amax(dim=-1)

    def over_reals(self, mass: Tensor, peak: Tensor, variables: Tensor) -> Tensor:
        """The largest."""
        return peak

    def reduce_first(self, terms: Tensor, out: Tensor) -> None:
        """Maximum over the first axis."""
        torch.amax(terms, dim=0, out=out)


@dataclass(frozen=True, eq=False)
class MaxInputs(LogSumProduct):
    """Sum-product above inputs that take their largest value.

    A maximum of a sum is at most the sum of the maxima, so this is an upper bound of the maximum
    over the variables that were chosen, of the sum over the others.

    Args:
        machine: whose sizes blocks go by.
        chosen: which variables, bool [D].
    """

    chosen: Tensor
    maximizes = True

    def over_categories(self, joint: Tensor, variables: Tensor) -> Tensor:
        """The largest or the sum, by the variable."""
        largest, total = joint.amax(dim=-2), torch.logsumexp(joint, dim=-2)
        return torch.where(self.chosen[variables].unsqueeze(-1), largest, total)

    def over_reals(self, mass: Tensor, peak: Tensor, variables: Tensor) -> Tensor:
        """The largest or the total, by the variable."""
        return torch.where(self.chosen[variables].unsqueeze(-1), peak, mass)


def log_terms(units: Tensor, weight: Weight, rows: slice) -> Tensor:
    """Log-weight plus log-input for every edge of some rows, [F, n, K, J] (mixing [F, n, K, H])."""
    inputs = units[:, rows] if weight.mixing else units[:, rows].unsqueeze(-2)
    log_weight = weight.over_rows
    return inputs + (log_weight[:, rows] if weight.by_row else log_weight)


def row_blocks(units: Tensor, weight: Tensor, most: int) -> list[slice]:
    """Blocks of the batch axis with at most so many edges each."""
    folds, batch = units.shape[:2]
    edges = folds * weight.shape[-1] * weight.shape[-2]
    size = max(1, most // max(1, edges))
    return [slice(start, start + size) for start in range(0, batch, size)]
