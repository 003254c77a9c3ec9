"""What parameters hold as somebody goes on asking: the same for all rows, or of each row its own.

Legend: B batch, S sets of parameters (1 or B), K units, J units read by a sum, V categories.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pcflow.circuit import InputLayer, Parameter, SumLayer
from pcflow.inputs import FiniteFamily


@dataclass(frozen=True, eq=False)
class Held:
    """Numbers in float64 of a circuit that nobody edits.

    Args:
        rows: how many rows there are, B.
        device: where they are wanted.
        own: what rows have of their own [B, *shape] in place of a parameter of the circuit.
    """

    rows: int
    device: torch.device
    own: Mapping[Parameter, Tensor]

    def log_weight(self, layer: SumLayer) -> Tensor:
        """Normalised logarithms of weights, [K, J]; [B, K, J] if they are by row."""
        own = self.own.get(layer.weight)
        return layer.log_weight().to(self.device) if own is None else own.log_softmax(dim=-1)

    def by_row(self, layer: InputLayer) -> bool:
        """Whether some parameter of a layer is."""
        return not self.own.keys().isdisjoint(layer.parameters.values())

    def parameters(self, layer: InputLayer) -> dict[str, Tensor]:
        """Those of an input layer by name, [S, ...]."""
        sets = self.rows if self.by_row(layer) else 1
        return {name: self._sets(p, sets) for name, p in layer.parameters.items()}

    def log_table(self, layer: InputLayer) -> Tensor:
        """Log-probabilities (nats) of a layer with a finite range, [V, K]; [B, V, K] by row."""
        assert isinstance(layer.family, FiniteFamily)
        table = layer.family.log_table(self.parameters(layer)).double().to(self.device)
        return table if self.by_row(layer) else table.squeeze(0)

    def _sets(self, parameter: Parameter, sets: int) -> Tensor:
        if parameter in self.own:
            return self.own[parameter]
        shared = parameter.value.double().to(self.device)
        return shared.expand(sets, *shared.shape)
