"""Prefixes: what a circuit says of a variable, given those before it.

One walk through the turns of the variables (see `circuit/turns`): down to the next one by contexts,
up again by values. What a prefix does not reach is summed out, and therefore one. All numbers are
logarithms in float64, and no product loses what is small (`LogMatrix`), so there is no certificate
to ask.

Legend: B batch, D variables (W of them), K units, J units read by a sum, V categories.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from pcflow.circuit import InputLayer, Layer, Parameter, ProductLayer, SumLayer, Turn, Turns
from pcflow.engine import LogMatrix
from pcflow.inputs import log_sum

Contexts = Mapping[InputLayer, Tensor]
"""Logarithms [B, K] for the units of input layers, such as what they are multiplied by."""

LogWeight = Callable[[SumLayer], Tensor]
"""The logarithms of the weights of a sum, as its layer stores them; [B, ...] if by row."""


class Walk:
    """Where a walk is: before, or at, the turn of a variable. `copy` of it goes its own way.

    Args:
        turns: of the circuit.
        log_weight: of every sum, in float64.
        log_mass: of every row, [B], before anything is known: zero.
    """

    def __init__(self, turns: Turns, log_weight: LogWeight, log_mass: Tensor) -> None:
        """At the beginning, where nothing is known."""
        self._turns, self._log_weight = turns, log_weight
        self._matrices: dict[tuple[Parameter, int, int, bool], LogMatrix] = {}
        self._one = log_mass.unsqueeze(-1)
        self._contexts: dict[Layer, Tensor] = {}
        self._values: dict[Layer, Tensor] = {}

    def __copy__(self) -> Walk:
        """The same place."""
        other = object.__new__(Walk)
        other.__dict__ |= self.__dict__
        other._contexts, other._values = dict(self._contexts), dict(self._values)
        return other

    def enter(self, turn: Turn) -> Contexts:
        """The contexts [B, K] of the input layers of the variable whose turn it is."""
        for layer in turn.enter:
            self._contexts[layer] = self._context(layer)
        found = {layer: self._contexts.pop(layer) for layer in turn.inputs}
        for layer in turn.idle_contexts:
            del self._contexts[layer]
        return found

    def leave(self, turn: Turn, units: Contexts) -> None:
        """Go on, with the logarithms [B, K] of what its input units say of the variable."""
        for layer in turn.renew:
            known = units[layer] if isinstance(layer, InputLayer) else self._value(layer)
            self._values[layer] = known
        for layer in turn.idle_values:
            self._values.pop(layer, None)

    def _context(self, layer: Layer) -> Tensor:
        above = [self._from(parent, place) for parent, place in self._turns.parents[layer]]
        if len(above) < 2:
            return above[0] if above else self._one
        return log_sum(torch.stack(above), dim=0)

    def _from(self, parent: Layer, place: int) -> Tensor:
        """What a unit is multiplied by on its way through one that reads it, [B, units]."""
        context = self._contexts[parent]
        if isinstance(parent, ProductLayer):
            return self._through_product(parent, place, context)
        assert isinstance(parent, SumLayer)
        if parent.mixing:
            return context + self._log_weight(parent)[..., place]
        widths = [child.units for child in parent.inputs]
        start = sum(widths[:place])
        return self._matrix(parent, start, start + widths[place]).after(context)

    def _through_product(self, parent: ProductLayer, place: int, context: Tensor) -> Tensor:
        beside = self._values.get(parent.inputs[1 - place])
        if parent.unit_by_unit:
            return context if beside is None else context + beside
        grid = context.unflatten(-1, [child.units for child in parent.inputs])  # [B, K, K']
        grid = grid if place == 0 else grid.transpose(1, 2)
        return log_sum(grid if beside is None else grid + beside.unsqueeze(1), dim=-1)

    def _value(self, layer: Layer) -> Tensor:
        below = [self._known(child) for child in layer.inputs]
        if isinstance(layer, ProductLayer):
            return layer.combine(below, torch.add)
        assert isinstance(layer, SumLayer)
        if layer.mixing:
            return log_sum(layer.read(below) + self._log_weight(layer), dim=-1)
        return self._matrix(layer, up=True).after(torch.cat(below, dim=-1))

    def _known(self, layer: Layer) -> Tensor:
        found = self._values.get(layer)
        return self._one.expand(-1, layer.units) if found is None else found

    def _matrix(
        self, layer: SumLayer, start: int = 0, stop: int | None = None, up: bool = False
    ) -> LogMatrix:
        """The weights [K, J] of some inputs of a sum, or [J, K] on the way up; made once."""
        key = layer.weight, start, stop or 0, up
        if key not in self._matrices:
            logs = self._log_weight(layer)[..., start:stop]
            self._matrices[key] = LogMatrix(logs.mT if up else logs)
        return self._matrices[key]


def log_mass(contexts: Contexts, units: Contexts) -> Tensor:
    """The log-mass [B] of a prefix, by what the units of its last variable say of it."""
    found = [context + units[layer] for layer, context in contexts.items()]
    return log_sum(torch.cat(found, dim=-1), dim=-1)
