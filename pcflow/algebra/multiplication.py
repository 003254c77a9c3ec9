"""The algebra of `multiply`: out of every pair of layers, a layer of all products of their units.

Legend: K and L units of two layers, J units read by a sum.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pcflow.algebra.massed import (
    NOTHING,
    Massed,
    dense_log_weights,
    mix,
    product_of_inputs,
    select,
    times,
)
from pcflow.circuit import InputLayer, Layer, Part, ProductLayer, SumLayer


@dataclass(frozen=True, eq=False)
class Units:
    """Products of all pairs of units of two layers.

    Attributes:
        massed: units that stand for them.
        index: [K, L], which of the units stands for a pair.
    """

    massed: Massed
    index: Tensor

    def flat(self, rows: Tensor, columns: Tensor) -> Tensor:
        """The units that stand for chosen rows and columns, [K L]."""
        return self.index[rows][:, columns].flatten()


class Multiplication:
    """The algebra of `multiply`: layers of a product out of pairs of layers."""

    def inputs(self, a: InputLayer, b: InputLayer) -> Units:
        """Units of a product family."""
        return _in_order(product_of_inputs(a, 1.0, b, 1.0), a, b)

    def sums(self, a: Layer, b: Layer, grid: list[list[Units]]) -> Units:
        """Sums over all pairs of inputs, weighted by products of weights."""
        blocks = [one for row in grid for one in row]
        mixed = _unit_by_unit(a, b, blocks)
        if mixed is not None:
            return _in_order(mixed, a, b)
        here, there = dense_log_weights(a), dense_log_weights(b)  # [K, J], [L, J]
        widths = [row[0].index.shape[0] for row in grid], [one.index.shape[1] for one in grid[0]]
        columns = []
        for row, left in zip(grid, here.split(widths[0], dim=1), strict=True):
            for one, right in zip(row, there.split(widths[1], dim=1), strict=True):
                joint = left[:, None, :, None] + right[None, :, None, :]
                width = len(one.massed.log_mass)
                weight = torch.full((a.units * b.units, width), NOTHING, dtype=torch.float64)
                weight[:, one.index.flatten()] = joint.flatten(0, 1).flatten(1)
                columns.append(weight)
        return _in_order(mix([one.massed for one in blocks], torch.cat(columns, dim=1)), a, b)

    def products(self, a: ProductLayer, b: ProductLayer, parts: list[Part[Units]]) -> Units:
        """Products of the parts: of all combinations of their units if both layers are."""
        found = [part.value.flat(a.group(part.left), b.group(part.right)) for part in parts]
        inputs = [part.value.massed for part in parts]
        if a.kind == b.kind == "kronecker":
            every = ProductLayer([_layer(one) for one in inputs], "kronecker")
            return Units(times(every, inputs), every.unit_of(found).view(a.units, b.units))
        chosen = [_chosen(one, own) for one, own in zip(inputs, found, strict=True)]
        return _in_order(times(ProductLayer(map(_layer, chosen)), chosen), a, b)


def _in_order(massed: Massed, a: Layer, b: Layer) -> Units:
    """Units that stand for the pairs one after the other."""
    return Units(massed, torch.arange(a.units * b.units).view(a.units, b.units))


def _unit_by_unit(a: Layer, b: Layer, blocks: list[Units]) -> Massed | None:
    """The mixing layer of two mixing layers; None if it cannot be one."""
    if not (isinstance(a, SumLayer) and isinstance(b, SumLayer) and a.mixing and b.mixing):
        return None
    count = torch.arange(a.units * b.units)
    if not all(torch.equal(one.index.flatten(), count) for one in blocks):
        return None
    here, there = a.log_weight(), b.log_weight()
    weight = here[:, None, :, None] + there[None, :, None, :]  # [K, L, inputs of a, inputs of b]
    return mix([one.massed for one in blocks], weight.flatten(0, 1).flatten(1), mixing=True)


def _chosen(massed: Massed, units: Tensor) -> Massed:
    return Massed(select(_layer(massed), units), massed.log_mass[units])


def _layer(massed: Massed) -> Layer:
    assert massed.layer is not None  # nothing is summed out of a product
    return massed.layer
