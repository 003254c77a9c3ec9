"""The arithmetic of the upward pass: what a unit's value is, and how sums and products act on it.

`Scaled` is the fast one. A fold of units is a linear-space mantissa with one log-scale per row:

    true value = units * exp(scale),  0 <= units <= 1

A sum is one batched matrix product, a product is elementwise, logarithms touch scales only. A unit
far below the largest of its row can underflow, and a later product can make just that unit matter.
Two checks guard against it. `lowest` records the smallest unit of every product: while it stays
above a floor, nothing can have been lost, because sums and products of nonnegative numbers keep
relative accuracy. Rows that fall below are evaluated once more with every unit raised to at
least the floor. Since sums and products only grow with their inputs, the two results bracket the
truth; rows for which they differ are evaluated a last time by `LogSumProduct`, which is slow and
never underflows. `MaxProduct` computes with maxima in place of sums, for MPE.

Legend: F folds, B batch, K units of the layer, J units read by a sum, H inputs of a layer.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

LOG_BLOCK = 1 << 24
"""Largest number of elements that a broadcast in log space may hold at a time."""


class Value(NamedTuple):
    """Rows of an arena: units [F, B, K]; scale and lowest [F, B], only used by `Scaled`."""

    units: Tensor
    scale: Tensor
    lowest: Tensor


class Weight(NamedTuple):
    """Weights of a sum step: linear or log; dense [F, K, J] or mixing [F, K, H]; F may be 1."""

    tensor: Tensor
    mixing: bool


class Semiring(Protocol):
    """Sums and products of values, written into `out`."""

    in_log_space: bool

    def product(self, xs: list[Value], out: Value, kronecker: bool) -> None:
        """Multiply the inputs."""
        ...

    def read(self, xs: list[Value], mixing: bool) -> Value:
        """Bring a sum's inputs to one scale, side by side: units [F, B, J], mixing [F, B, K, H]."""
        ...

    def sum(self, x: Value, weight: Weight, out: Value) -> None:
        """Weigh and add what `read` returned."""
        ...

    def flow(self, x: Value, weight: Weight, units: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
        """Split the flow [F, B, K] of sums with values `units` by each input's share.

        Returns the flow of what `read` returned, and the flow of every weight, summed over rows
        (and over folds where they share the weight).
        """
        ...


def floor_of(dtype: torch.dtype) -> float:
    """A unit above this has lost nothing to underflow: 1e10 times the smallest normal number."""
    return 1e10 * torch.finfo(dtype).tiny


@dataclass(frozen=True)
class Scaled:
    """Sum-product in linear space with one scale per row.

    Args:
        raised: raise every unit to at least the floor, for an upper bound of the value.
    """

    raised: bool = False
    in_log_space = False

    def product(self, xs: list[Value], out: Value, kronecker: bool) -> None:
        """Multiply, and divide every row by its largest unit."""
        torch.add(xs[0].scale, xs[1].scale, out=out.scale)
        out.lowest.fill_(1.0)
        units = xs[0].units
        for count, x in enumerate(xs[1:], start=2):
            if count > 2:
                out.scale.add_(x.scale)
            last = count == len(xs)
            into = out.units if last or not kronecker else None
            units = multiply(units, x.units, kronecker, into)
            if last or count % 4 == 0:  # long products must not underflow on the way
                self._rescale(units, out)

    def _rescale(self, units: Tensor, out: Value) -> None:
        self.raise_(units)
        torch.minimum(out.lowest, units.amin(dim=-1), out=out.lowest)
        peak = units.amax(dim=-1)  # [F, B]
        peak.masked_fill_(peak == 0, 1.0)
        units.div_(peak.unsqueeze(-1))
        out.scale.add_(peak.log_())

    def raise_(self, units: Tensor) -> None:
        """Raise units to the floor. Exact zeros stay zeros: their rows have a scale of -inf."""
        if self.raised:
            units.clamp_min_(floor_of(units.dtype))

    def read(self, xs: list[Value], mixing: bool) -> Value:
        """Inputs of one sum relative to the largest of their scales."""
        if len(xs) == 1:
            x = xs[0]
            return x._replace(units=x.units.unsqueeze(-1)) if mixing else x
        scale = torch.stack([x.scale for x in xs]).amax(dim=0)  # [F, B]
        base = scale.nan_to_num(neginf=0.0)
        parts = [x.units * (x.scale - base).exp_().unsqueeze(-1) for x in xs]
        units = torch.stack(parts, dim=-1) if mixing else torch.cat(parts, dim=-1)
        return Value(units, scale, scale)

    def sum(self, x: Value, weight: Weight, out: Value) -> None:
        """One (batched) matrix product."""
        if weight.mixing:
            torch.sum(x.units * weight.tensor.unsqueeze(-3), dim=-1, out=out.units)
        else:
            matmul(x.units, weight.tensor.transpose(-1, -2), out.units)
        out.scale.copy_(x.scale)
        self.raise_(out.units)

    def flow(self, x: Value, weight: Weight, units: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
        """Slope = flow / value; a unit too small to divide by has no flow that counts."""
        slope = flow / units.clamp_min(torch.finfo(units.dtype).tiny)  # [F, B, K]
        if weight.mixing:
            shares = x.units * slope.unsqueeze(-1)  # [F, B, K, H]
            edges = weight.tensor * shares.sum(dim=1)
            inner = shares.mul_(weight.tensor.unsqueeze(-3))
            return inner, edges
        if len(weight.tensor) == 1:
            table = weight.tensor[0]
            inner = (slope @ table).mul_(x.units)
            edges = table * (slope.flatten(0, 1).t() @ x.units.flatten(0, 1))
            return inner, edges.unsqueeze(0)
        inner = torch.bmm(slope, weight.tensor).mul_(x.units)
        return inner, weight.tensor * torch.bmm(slope.transpose(1, 2), x.units)


class LogSumProduct:
    """Sum-product on logarithms of single units: slow, exact over the whole floating range."""

    in_log_space = True

    def product(self, xs: list[Value], out: Value, kronecker: bool) -> None:
        """Add the logarithms."""
        units = xs[0].units
        for x in xs[1:]:
            units = outer_add(units, x.units) if kronecker else units + x.units
        out.units.copy_(units)

    def read(self, xs: list[Value], mixing: bool) -> Value:
        """Nothing to align."""
        units = [x.units for x in xs]
        joined = torch.stack(units, dim=-1) if mixing else torch.cat(units, dim=-1)
        return xs[0]._replace(units=joined)

    def sum(self, x: Value, weight: Weight, out: Value) -> None:
        """Reduce weight + input over the inputs, a block of rows at a time."""
        for rows in row_blocks(x.units, weight.tensor):
            out.units[:, rows] = self.reduce(log_terms(x.units[:, rows], weight))

    def flow(self, x: Value, weight: Weight, units: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
        """Edge by edge: the share is exp(log-weight + log-input - log-value)."""
        inner, edges = torch.zeros_like(x.units), torch.zeros_like(weight.tensor)
        for rows in row_blocks(x.units, weight.tensor):
            shares = log_terms(x.units[:, rows], weight) - units[:, rows].unsqueeze(-1)
            shares = shares.exp_().nan_to_num_(nan=0.0).mul_(flow[:, rows].unsqueeze(-1))
            inner[:, rows] = shares if weight.mixing else shares.sum(dim=-2)
            total = shares.sum(dim=1)  # [F, K, J]
            edges += total if len(edges) > 1 else total.sum(dim=0, keepdim=True)
        return inner, edges

    def reduce(self, terms: Tensor) -> Tensor:
        """Log-sum-exp over the last axis."""
        return torch.logsumexp(terms, dim=-1)


class MaxProduct(LogSumProduct):
    """Max-product on logarithms: the value of the best assignment of variables and latents."""

    def reduce(self, terms: Tensor) -> Tensor:
        """Maximum over the last axis."""
        return terms.amax(dim=-1)


SCALED, RAISED = Scaled(), Scaled(raised=True)
LOG_SUM_PRODUCT, MAX_PRODUCT = LogSumProduct(), MaxProduct()


def log_terms(units: Tensor, weight: Weight) -> Tensor:
    """Log-weight plus log-input for every edge: [F, B, K, J] (mixing: [F, B, K, H])."""
    inputs = units if weight.mixing else units.unsqueeze(-2)
    return inputs + weight.tensor.unsqueeze(-3)


def row_blocks(units: Tensor, weight: Tensor) -> list[slice]:
    """Blocks of the batch axis such that the edges of one block fit into `LOG_BLOCK`."""
    folds, batch = units.shape[:2]
    edges = folds * weight.shape[-1] * weight.shape[-2]
    size = max(1, LOG_BLOCK // max(1, edges))
    return [slice(start, start + size) for start in range(0, batch, size)]


def multiply(a: Tensor, b: Tensor, kronecker: bool, out: Tensor | None = None) -> Tensor:
    """Hadamard or Kronecker product over the last axis."""
    if not kronecker:
        return torch.mul(a, b, out=out)
    into = None if out is None else out.unflatten(-1, (a.shape[-1], b.shape[-1]))
    return torch.mul(a.unsqueeze(-1), b.unsqueeze(-2), out=into).flatten(-2)


def outer_add(a: Tensor, b: Tensor) -> Tensor:
    """Kronecker product of logarithms."""
    return (a.unsqueeze(-1) + b.unsqueeze(-2)).flatten(-2)


def matmul(x: Tensor, weight: Tensor, out: Tensor) -> None:
    """Write x [F, B, J] @ weight [F or 1, J, K] to out [F, B, K], flat if weights are shared."""
    if weight.shape[0] == 1 and out.is_contiguous() and x.is_contiguous():
        torch.mm(x.flatten(0, 1), weight[0], out=out.flatten(0, 1))
    elif weight.shape[0] == 1:
        out.copy_(x @ weight[0])
    else:
        torch.bmm(x, weight, out=out)
