"""Prefixes of all lengths at once: what every layer says at each of its stages.

A layer says something else only when a variable of its own becomes known. So all prefixes together
have one value of it for each stage, which is a number of its variables that are known, the first
ones of them; at stage 0 it is one. A pass up over all stages finds the masses of all prefixes, in
one call of each operation per layer, while a walk (`prefixes`) makes as many for every turn. Where
scopes are small that is no more arithmetic, too; on chains it is as much as a row for every prefix.

Legend: B batch, K units, S stages of a layer, from 1 on, as many as it has variables.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pcflow.circuit import Circuit, InputLayer, Parameter, ProductLayer, SumLayer
from pcflow.engine import LogMatrix
from pcflow.inputs import log_sum
from pcflow.queries.prefixes import LogWeight

Said = Callable[[InputLayer], Tensor]
"""The logarithms [B, K] of what an input layer says of its variable."""


class Stages:
    """The stages of all layers of a circuit.

    Attributes:
        numbers: of all stages of all layers, per row.
    """

    def __init__(self, circuit: Circuit) -> None:
        """Find out which stages of its inputs a stage of a product reads."""
        self._circuit = circuit
        self.numbers = sum(circuit.scopes.size(la) * la.units for la in circuit.layers)
        products = (layer for layer in circuit.layers if isinstance(layer, ProductLayer))
        self._reads = {layer: _reads(circuit, layer) for layer in products}

    @staticmethod
    def count(circuit: Circuit) -> int:
        """How many there are of all layers together."""
        return sum(map(circuit.scopes.size, circuit.layers))

    def log_masses(self, log_weight: LogWeight, said: Said) -> Tensor:
        """Log-masses [D, B] of all prefixes of at least one variable, in float64."""
        matrices: dict[Parameter, LogMatrix] = {}

        def at_sum(layer: SumLayer, below: tuple[Tensor, ...]) -> Tensor:
            if layer.mixing:
                return log_sum(layer.read(below) + log_weight(layer), dim=-1)
            if layer.weight not in matrices:
                matrices[layer.weight] = LogMatrix(log_weight(layer).mT)
            rows = torch.cat(below, dim=-1)  # [S, B, J]
            found = matrices[layer.weight].after(rows.flatten(0, 1))
            return found.view(*rows.shape[:2], layer.units)

        def at_product(layer: ProductLayer, below: tuple[Tensor, ...]) -> Tensor:
            stages = zip(below, self._reads[layer], strict=True)
            return layer.combine([_at(values, read) for values, read in stages], torch.add)

        root = self._circuit.fold(lambda layer: said(layer).unsqueeze(0), at_sum, at_product)
        return root.squeeze(-1)


def _reads(circuit: Circuit, layer: ProductLayer) -> list[Tensor]:
    """For every input of a product, its stage at each of those of the product [S]."""
    scope = circuit.scope(layer)
    return [_stages(circuit.scope(child), scope) for child in layer.inputs]


def _stages(own: Sequence[int], scope: Sequence[int]) -> Tensor:
    return torch.tensor([bisect_right(own, variable) for variable in scope])


def _at(values: Tensor, stages: Tensor) -> Tensor:
    """Values [S, B, K] of stages from 1 on at any stages [S']: [S', B, K]."""
    nothing = values.new_zeros(1, *values.shape[1:])
    return torch.cat([nothing, values]).index_select(0, stages.to(values.device))
