"""Sums over the states of two circuits at once, pair by pair of their layers: numbers, no circuits.

Legend: K and L units of two layers, J units read by a sum, V categories.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pcflow.algebra.massed import NOTHING, check_ranges, dense_log_weights
from pcflow.circuit import InputLayer, Layer, Part, ProductLayer, Structure, walk
from pcflow.inputs import DensityFamily, log_sum, powered

TINY = 1e-280
"""Sums of shifted exponentials below this may have lost terms; they are added up one by one."""


def log_overlap(p: Structure, q: Structure, a: float = 1.0, b: float = 1.0) -> float:
    """Log sum_x p(x)^a q(x)^b (nats); zero stays zero under any power.

    A power other than one is right for a deterministic circuit only.

    Raises:
        NotCompatible: if the circuits are not compatible.
        PropertyRequired: if two input families have no such product.
    """
    return walk(p, q, _Overlap(a, b)).item()


def covered(p: Structure, q: Structure) -> tuple[float, float]:
    """The mass that p has on the support of q, and sum_x p(x) log q(x) (nats) there.

    Right if q is deterministic.

    Raises:
        NotCompatible: if the circuits are not compatible.
        PropertyRequired: if two input families have no such product.
    """
    root = walk(p, q, _LogMean())
    return root.mass.item(), root.log.item()


class _Overlap:
    """The algebra of `log_overlap`: log-sums [K, L] of all pairs of units."""

    def __init__(self, a: float, b: float) -> None:
        self.a, self.b = a, b

    def inputs(self, a: InputLayer, b: InputLayer) -> Tensor:
        check_ranges(a, b)
        if isinstance(a.family, DensityFamily) and isinstance(b.family, DensityFamily):
            here, there = a.float64(), b.float64()
            return a.family.product(here, self.a, b.family, there, self.b)[2]
        return log_matmul(powered(a.log_table().t(), self.a), powered(b.log_table(), self.b))

    def sums(self, a: Layer, b: Layer, grid: list[list[Tensor]]) -> Tensor:
        below = torch.cat([torch.cat(row, dim=1) for row in grid])  # [J, J]
        here, there = dense_log_weights(a), dense_log_weights(b)  # [K, J], [L, J]
        half = log_matmul(powered(here, self.a), below)
        return log_matmul(half, powered(there, self.b).t())

    def products(self, a: ProductLayer, b: ProductLayer, parts: list[Part[Tensor]]) -> Tensor:
        return torch.stack([spread(a, b, part) for part in parts]).sum(dim=0)


@dataclass(frozen=True, eq=False)
class _Moments:
    """Of every pair of units u and v.

    Attributes:
        mass: [K, L], the mass of u where v is positive.
        log: [K, L], the sum of u log v there (nats).
    """

    mass: Tensor
    log: Tensor


class _LogMean:
    """The algebra of `covered`: masses and sums of logarithms, which move past decisions."""

    def inputs(self, a: InputLayer, b: InputLayer) -> _Moments:
        check_ranges(a, b)
        if isinstance(a.family, DensityFamily) and isinstance(b.family, DensityFamily):
            return _density_moments(a, b)
        here, there = a.log_table().exp().t(), b.log_table()  # [K, V], [V, L]
        return _Moments(here @ (there > NOTHING).double(), here @ _finite(there))

    def sums(self, a: Layer, b: Layer, grid: list[list[_Moments]]) -> _Moments:
        mass = torch.cat([torch.cat([one.mass for one in row], dim=1) for row in grid])
        log = torch.cat([torch.cat([one.log for one in row], dim=1) for row in grid])
        here, there = dense_log_weights(a).exp(), dense_log_weights(b).t()  # [K, J], [J, L]
        mass, log, chosen = here @ mass, here @ log, (there > NOTHING).double()
        return _Moments(mass @ chosen, log @ chosen + mass @ _finite(there))

    def products(self, a: ProductLayer, b: ProductLayer, parts: list[Part[_Moments]]) -> _Moments:
        mass, log = torch.ones(a.units, b.units).double(), torch.zeros(a.units, b.units).double()
        for part in parts:
            own = spread(a, b, Part(part.left, part.right, part.value.mass))
            own_log = spread(a, b, Part(part.left, part.right, part.value.log))
            mass, log = mass * own, log * own + mass * own_log
        return _Moments(mass, log)


def _density_moments(a: InputLayer, b: InputLayer) -> _Moments:
    """The derivative of log sum u v^t at t = 0 is the mean of log v where v is positive."""
    assert isinstance(a.family, DensityFamily)
    assert isinstance(b.family, DensityFamily)
    with torch.enable_grad():
        t = torch.zeros(a.units, b.units, dtype=torch.float64, requires_grad=True)
        log_mass = a.family.product(a.float64(), 1.0, b.family, b.float64(), t)[2]
        (slope,) = torch.autograd.grad(log_mass.sum(), t)
    mass = log_mass.detach().exp()
    return _Moments(mass, mass * torch.where(mass > 0, slope, 0.0))


def spread(a: ProductLayer, b: ProductLayer, part: Part[Tensor]) -> Tensor:
    """A part's numbers, for all pairs of units [K, L] of the two products."""
    return part.value[a.group(part.left)][:, b.group(part.right)]


def log_matmul(a: Tensor, b: Tensor) -> Tensor:
    """Matrix product [K, L] of logarithms [K, J] and [J, L]."""
    top = a.amax(dim=1, keepdim=True).nan_to_num(neginf=0.0)
    left = b.amax(dim=0, keepdim=True).nan_to_num(neginf=0.0)
    total = (a - top).exp() @ (b - left).exp()
    if total.numel() and total.min() < TINY:
        return log_sum(a.unsqueeze(-1) + b, dim=1)
    return total.log() + top + left


def _finite(log_p: Tensor) -> Tensor:
    return log_p.masked_fill(log_p == NOTHING, 0.0)
