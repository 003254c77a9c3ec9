"""Circuits rebuilt from chosen units of every layer: what growing, pruning, algebra come down to.

Legend: K units, J units read by a sum.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

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


def alike(circuit: Circuit) -> list[set[Layer]]:
    """Groups of layers that must choose alike, every layer in one.

    Inputs of Hadamard products and of mixing sums do, and layers that share a parameter.
    """
    import networkx as nx

    graph: nx.Graph[Layer] = nx.Graph()
    graph.add_nodes_from(circuit.layers)
    holder: dict[Parameter, Layer] = {}
    for layer in circuit.layers:
        if not isinstance(layer, InputLayer) and layer.unit_by_unit:
            graph.add_edges_from((layer, child) for child in layer.inputs)
        graph.add_edges_from((layer, holder.setdefault(p, layer)) for p in layer_parameters(layer))
    return list(nx.connected_components(graph))


def kept(groups: Iterable[set[Layer]]) -> set[Layer]:
    """Layers that keep every unit, and each once.

    A Kronecker product has a unit for all that its inputs chose together. What must choose like one
    cannot choose, then, nor can what it reads.
    """
    group_of = {layer: group for group in groups for layer in group}
    found: set[Layer] = set()
    stack = [group for group in groups if len(group) > 1 and any(map(_is_kronecker, group))]
    while stack:
        group = stack.pop()
        if not group <= found:
            found |= group
            stack += [group_of[child] for la in group if _is_kronecker(la) for child in la.inputs]
    return found


def _is_kronecker(layer: Layer) -> bool:
    return isinstance(layer, ProductLayer) and not layer.unit_by_unit


def read_units(circuit: Circuit) -> dict[Layer, Tensor]:
    """The units of every layer that something with a weight above zero reads, at least one."""
    masks: dict[Layer, Tensor] = {}
    groups = alike(circuit)
    for group in groups:
        masks.update(dict.fromkeys(group, torch.zeros(next(iter(group)).units, dtype=torch.bool)))
    for layer in (circuit.root, *kept(groups)):
        masks[layer] |= True
    seen = -1
    while (marked := sum(int(mask.sum()) for mask in masks.values())) > seen:
        seen = marked
        for layer in reversed(circuit.layers):
            if not masks[layer].any():
                masks[layer][0] = True
            if not (isinstance(layer, InputLayer) or layer.unit_by_unit):  # they share their mask
                for child, read in _reads(layer, masks[layer]):
                    masks[child] |= read
    return {layer: mask.nonzero().squeeze(-1) for layer, mask in masks.items()}


def _reads(layer: SumLayer | ProductLayer, units: Tensor) -> list[tuple[Layer, Tensor]]:
    """Which units of its inputs some units of a layer read."""
    if isinstance(layer, SumLayer):
        used = (layer.weight.value[units] > -torch.inf).any(dim=0)
        return [(la, used[own]) for la, own in zip(layer.inputs, layer.columns(), strict=True)]
    factors = layer.factors(units.nonzero().squeeze(-1))
    return [(child, torch.isin(torch.arange(child.units), own)) for child, own in factors]


class Chosen(NamedTuple):
    """A layer of chosen units, and the old unit of each."""

    layer: Layer
    origin: Tensor


def rebuild(circuit: Circuit, chosen: Mapping[Layer, Tensor], edit: Edit) -> Circuit:
    """Inputs and sums of chosen units, with products over them; `edit` changes log-weights."""
    made: dict[tuple[Parameter, tuple[int, ...]], Parameter] = {}

    def once(old: Parameter, *index: Tensor, make: Callable[[], Tensor]) -> Parameter:
        """Layers that were tied and chose alike stay tied."""
        key = old, tuple(n for part in index for n in (len(part), *part.tolist()))
        if key not in made:
            made[key] = Parameter(make())
        return made[key]

    def at_input(layer: InputLayer) -> Chosen:
        units = chosen[layer]
        named = {
            name: once(p, units, make=partial(p.value.index_select, -1, units))
            for name, p in layer.parameters.items()
        }
        family = layer.family.of_units(units.tolist())
        return Chosen(InputLayer(layer.variable, family, len(units), named), units)

    def at_sum(layer: SumLayer, below: Sequence[Chosen]) -> Chosen:
        units, columns = chosen[layer], zip(layer.columns(), below, strict=True)
        read = layer.read([column[one.origin] for column, one in columns])[0]  # [J]
        make = partial(_chosen_weights, layer.weight.value, units, read, edit)
        weight, inputs = once(layer.weight, units, read, make=make), tuple(o.layer for o in below)
        return Chosen(replace(layer, inputs=inputs, weight=weight), units)

    def at_product(layer: ProductLayer, below: Sequence[Chosen]) -> Chosen:
        new = replace(layer, inputs=tuple(one.layer for one in below))
        factors = zip(below, new.factors(torch.arange(new.units)), strict=True)
        return Chosen(new, layer.unit_of([one.origin[unit] for one, (_, unit) in factors]))

    return Circuit(circuit.fold(at_input, at_sum, at_product).layer)


def _chosen_weights(weight: Tensor, units: Tensor, read: Tensor, edit: Edit) -> Tensor:
    """Weights of chosen units, shared out among the copies of what they read."""
    copies = torch.bincount(read)[read]
    return edit(weight[units][:, read] - copies.log().to(weight))
