"""Circuits rebuilt from chosen units of every layer: what growing, pruning, algebra come down to.

Legend: K units, J units read by a sum.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from pcflow.circuit.circuit import Circuit
from pcflow.circuit.layers import (
    InputLayer,
    Layer,
    Parameter,
    ProductLayer,
    SumLayer,
    layer_parameters,
)

Edit = Callable[[Tensor], Tensor]


def read_units(circuit: Circuit) -> dict[Layer, Tensor]:
    """The units of every layer that something with a weight above zero reads, at least one.

    Inputs of Hadamard products and of mixing sums, and layers that share a parameter, choose alike.
    """
    import networkx as nx

    alike: nx.Graph[Layer] = nx.Graph()
    alike.add_nodes_from(circuit.layers)
    holder: dict[Parameter, Layer] = {}
    for layer in circuit.layers:
        if _is_unit_by_unit(layer):
            alike.add_edges_from((layer, child) for child in layer.inputs)
        alike.add_edges_from((layer, holder.setdefault(p, layer)) for p in layer_parameters(layer))
    masks: dict[Layer, Tensor] = {}
    for group in nx.connected_components(alike):
        masks.update(dict.fromkeys(group, torch.zeros(next(iter(group)).units, dtype=torch.bool)))
    masks[circuit.root] |= True
    seen = -1
    while (marked := sum(int(mask.sum()) for mask in masks.values())) > seen:
        seen = marked
        for layer in reversed(circuit.layers):
            if not masks[layer].any():
                masks[layer][0] = True
            for child, read in _reads(layer, masks[layer]):
                masks[child] |= read
    return {layer: mask.nonzero().squeeze(-1) for layer, mask in masks.items()}


def _is_unit_by_unit(layer: Layer) -> bool:
    if isinstance(layer, SumLayer):
        return layer.mixing
    return isinstance(layer, ProductLayer) and layer.kind == "hadamard"


def _reads(layer: Layer, units: Tensor) -> list[tuple[Layer, Tensor]]:
    """Which units of its inputs some units of a layer read."""
    if _is_unit_by_unit(layer):
        return [(child, units) for child in layer.inputs]
    widths = [child.units for child in layer.inputs]
    if isinstance(layer, SumLayer):
        read = (layer.weight.value[units] > -torch.inf).any(dim=0)
        return list(zip(layer.inputs, read.split(widths), strict=True))
    if isinstance(layer, ProductLayer):
        grid = units.view(widths)
        axes = [tuple(a for a in range(len(widths)) if a != i) for i in range(len(widths))]
        return [(c, grid.any(dim=axis)) for c, axis in zip(layer.inputs, axes, strict=True)]
    return []


def rebuild(circuit: Circuit, chosen: Mapping[Layer, Tensor], edit: Edit) -> Circuit:
    """Inputs and sums of chosen units, with products over them; `edit` changes log-weights."""
    built: dict[Layer, Layer] = {}
    origin: dict[Layer, Tensor] = {}  # the old unit of every new one
    made: dict[tuple[Parameter, tuple[int, ...]], Parameter] = {}

    def once(old: Parameter, *index: Tensor, make: Callable[[], Tensor]) -> Parameter:
        """Layers that were tied and chose alike stay tied."""
        key = old, tuple(n for part in index for n in (len(part), *part.tolist()))
        if key not in made:
            made[key] = Parameter(make())
        return made[key]

    for layer in circuit.layers:
        inputs, units = [built[child] for child in layer.inputs], chosen[layer]
        match layer:
            case InputLayer():
                named = {
                    name: once(p, units, make=partial(p.value.index_select, -1, units))
                    for name, p in layer.parameters.items()
                }
                family = layer.family.of_units(units.tolist())
                built[layer] = InputLayer(layer.variable, family, len(units), named)
            case ProductLayer():
                units = _combined([origin[child] for child in layer.inputs], layer)
                built[layer] = ProductLayer(inputs, layer.kind)
            case SumLayer():
                read = _columns([origin[child] for child in layer.inputs], layer)
                make = partial(_chosen_weights, layer.weight.value, units, read, edit)
                weight = once(layer.weight, units, read, make=make)
                built[layer] = SumLayer(inputs, weight, layer.mixing)
        origin[layer] = units
    return Circuit(built[circuit.root])


def _combined(parts: list[Tensor], layer: ProductLayer) -> Tensor:
    """The old units of a product of chosen units."""
    units = parts[0]
    if layer.kind == "kronecker":
        for part, child in zip(parts[1:], layer.inputs[1:], strict=True):
            units = (units.unsqueeze(-1) * child.units + part).flatten()
    return units


def _columns(parts: list[Tensor], layer: SumLayer) -> Tensor:
    """The old columns of a sum's weight that its chosen inputs stand for."""
    if layer.mixing:
        return torch.arange(len(parts))
    starts = torch.tensor([0, *(child.units for child in layer.inputs)]).cumsum(0).tolist()
    return torch.cat([part + start for part, start in zip(parts, starts, strict=False)])


def _chosen_weights(weight: Tensor, units: Tensor, read: Tensor, edit: Edit) -> Tensor:
    """Weights of chosen units, shared out among the copies of what they read."""
    copies = torch.bincount(read, minlength=weight.shape[-1])[read]
    return edit(weight[units][:, read] - copies.log().to(weight))
