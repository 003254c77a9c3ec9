"""Layers with a mass: units that are not normalised, as algebra on circuits meets them.

A unit's value is exp(log-mass) times a normalised unit's, so that every layer that is built is part
of a circuit, and what it had to be divided by is known.

Legend: K units, J units read by a sum, N chosen units, V categories.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pcflow.circuit import (
    Circuit,
    InputLayer,
    Layer,
    Parameter,
    ProductLayer,
    SumLayer,
    read_units,
    rebuild,
)
from pcflow.errors import StructureError
from pcflow.inputs import Categorical, DensityFamily, FiniteFamily, Power, powered

NOTHING = -torch.inf


@dataclass(frozen=True, eq=False)
class Massed:
    """Units, and what they must be multiplied with.

    Attributes:
        layer: normalised units; None if all variables below are gone, and a number is left.
        log_mass: [K] (nats, float64), -inf where a unit is impossible.
    """

    layer: Layer | None
    log_mass: Tensor

    @property
    def is_normalised(self) -> bool:
        """Whether all masses are exactly one."""
        return not self.log_mass.any()


def dense_log_weights(layer: Layer) -> Tensor:
    """Log-weights [K, J] of a layer that may mix; of one that is no sum, each unit itself."""
    if isinstance(layer, SumLayer):
        return layer.dense_log_weight()
    return torch.eye(layer.units, dtype=torch.float64).log()


def check_ranges(a: InputLayer, b: InputLayer) -> None:
    """Refuse two layers over one variable that do not agree on its values.

    Raises:
        StructureError: naming the variable and both ranges.
    """
    if a.family.num_categories != b.family.num_categories:
        raise StructureError(
            f"variable {a.variable} has {a.family.num_categories} categories in one circuit and "
            f"{b.family.num_categories} in the other"
        )


def from_table(variable: int, log_table: Tensor) -> Massed:
    """Categorical units proportional to a log-table [V, K]."""
    log_mass = log_table.logsumexp(dim=0)
    impossible = log_mass == NOTHING
    point = torch.full_like(log_table, NOTHING)  # stands in for what has no mass
    point[0] = 0.0
    logits = torch.where(impossible, point, log_table - log_mass.masked_fill(impossible, 0.0))
    parameters = {"logits": Parameter(logits)}
    layer = InputLayer(variable, Categorical(len(logits)), logits.shape[1], parameters)
    return Massed(layer, log_mass)


def product_of_inputs(a: InputLayer, power_a: Power, b: InputLayer, power_b: Power) -> Massed:
    """Units [K L] proportional to every unit of one layer times every unit of another, to powers.

    Raises:
        PropertyRequired: if the families have no such product.
    """
    check_ranges(a, b)
    if isinstance(a.family, DensityFamily) and isinstance(b.family, DensityFamily):
        family, params, log_mass = a.family.product(
            a.float64(), power_a, b.family, b.float64(), power_b
        )
        named = {name: Parameter(value.flatten(-2)) for name, value in params.items()}
        layer = InputLayer(a.variable, family, a.units * b.units, named)
        return Massed(layer, log_mass.flatten())
    here, there = powered(a.log_table(), power_a), powered(b.log_table(), power_b)  # [V, K], [V, L]
    return from_table(a.variable, (here.unsqueeze(-1) + there.unsqueeze(-2)).flatten(-2))


def power_of_inputs(layer: InputLayer, power: float) -> Massed:
    """Units proportional to those of a layer to a power.

    Raises:
        PropertyRequired: if the family has no such power.
    """
    if isinstance(layer.family, FiniteFamily):
        return from_table(layer.variable, powered(layer.log_table(), power))
    first = {name: Parameter(p.value[..., :1]) for name, p in layer.parameters.items()}
    return product_of_inputs(layer, power, InputLayer(layer.variable, layer.family, 1, first), 0.0)


def mix(inputs: Sequence[Massed], log_weight: Tensor, mixing: bool = False) -> Massed:
    """Weighted sums of units; the weights need not add up to one."""
    masses = [one.log_mass for one in inputs]
    below = torch.stack(masses, dim=-1) if mixing else torch.cat(masses)
    joint = log_weight + below  # [K, J], or [K, number of inputs]
    log_mass = joint.logsumexp(dim=-1)
    layers = [one.layer for one in inputs if one.layer is not None]
    if not layers:
        return Massed(None, log_mass)
    widths = [1] * len(layers) if mixing else [layer.units for layer in layers]
    columns = joint.split(widths, dim=-1)
    read = [i for i, some in enumerate(columns) if (some > NOTHING).any()] or [0]
    joint = torch.cat([columns[i] for i in read], dim=-1)
    first = torch.full_like(joint, NOTHING)  # stands in for what has no mass
    first[:, 0] = 0.0
    weight = Parameter(torch.where((log_mass == NOTHING).unsqueeze(-1), first, joint))
    return Massed(SumLayer([layers[i] for i in read], weight, mixing), log_mass)


def mix_like(layer: SumLayer, inputs: Sequence[Massed]) -> Massed:
    """The sums of a layer over other inputs; tied parameters stay tied where nothing changes."""
    layers = tuple(one.layer for one in inputs if one.layer is not None)
    if len(layers) == len(inputs) and all(one.is_normalised for one in inputs):
        return Massed(replace(layer, inputs=layers), torch.zeros(layer.units, dtype=torch.float64))
    return mix(inputs, layer.log_weight(), layer.mixing)


def times(layer: ProductLayer, inputs: Sequence[Massed]) -> Massed:
    """The products of a layer over other inputs, of which some may be mere numbers."""
    log_mass = layer.combine([one.log_mass for one in inputs], torch.add)
    places = [n for n, one in enumerate(inputs) if one.layer is not None]
    layers = tuple(one.layer for one in inputs if one.layer is not None)
    if not layers:
        return Massed(None, log_mass)
    left = layers[0] if len(layers) == 1 else replace(layer, inputs=layers)
    return Massed(select(left, layer.group(places)), log_mass)


def select(layer: Layer, units: Tensor) -> Layer:
    """Chosen units [N] of a layer, in that order."""
    if torch.equal(units, torch.arange(layer.units)):
        return layer
    one_hot = torch.full((len(units), layer.units), NOTHING, dtype=torch.float64)
    one_hot[torch.arange(len(units)), units] = 0.0
    return SumLayer([layer], Parameter(one_hot))


def finish(root: Massed) -> Circuit:
    """The circuit of what is left, without units that nobody reads.

    Raises:
        StructureError: if nothing is left.
    """
    if root.layer is None:
        raise StructureError("no variable is left")
    circuit = Circuit(root.layer)
    return rebuild(circuit, read_units(circuit), lambda weight: weight)
