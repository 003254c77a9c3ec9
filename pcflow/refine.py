"""Circuit to circuit: more units where one is trained, fewer where they do nothing.

Both are one operation: every layer is rebuilt from chosen units of its old self.
Legend: K units, J units read by a sum, H inputs of a mixing sum.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial

import networkx as nx
import torch
from torch import Tensor

from pcflow.circuit import Circuit
from pcflow.compiled import CompiledCircuit
from pcflow.errors import StructureError
from pcflow.layers import InputLayer, Layer, Parameter, ProductLayer, SumLayer, layer_parameters
from pcflow.learn.counts import Counts
from pcflow.learn.data import Data, Source, Team

Edit = Callable[[Tensor], Tensor]


def grow(
    circuit: Circuit,
    copies: int = 2,
    noise: float = 0.3,
    generator: torch.Generator | None = None,
) -> Circuit:
    """Every unit becomes several that start almost alike (Dang, Liu, Van den Broeck 2022).

    A trained circuit that is grown and trained on reaches better optima than a large random one.
    The copies of a unit share its weight; without noise the distribution stays what it was.

    Args:
        circuit: the circuit; it is not changed.
        copies: of every unit but the root.
        noise: standard deviation of what is added to the logarithm of every weight.
        generator: source of the noise; torch's global one by default.

    Raises:
        StructureError: if `copies` is below 1 or `noise` negative.

    Examples:
        >>> import pcflow as pf
        >>> pf.grow(pf.hmm(4, states=3, inputs=pf.Categorical(2)))
        Circuit(4 variables, 11 layers, 54 parameters)
    """
    if copies < 1 or not noise >= 0:
        raise StructureError(f"need copies >= 1 and noise >= 0, got {copies} and {noise}")

    def shaken(weight: Tensor) -> Tensor:
        return weight + noise * torch.randn(weight.shape, generator=generator).to(weight)

    times = {layer: 1 if layer is circuit.root else copies for layer in circuit.layers}
    chosen = {la: torch.arange(la.units).repeat_interleave(n) for la, n in times.items()}
    return _rebuild(circuit, chosen, shaken)


@torch.no_grad()
def prune(model: CompiledCircuit, data: Data, keep: float = 1.0, batch_size: int = 512) -> Circuit:
    """Drop the edges that data use least, and then the units that nobody reads.

    Every sum unit keeps its most used edge (Dang, Liu, Van den Broeck 2022). Train on afterwards.

    Args:
        model: a trained circuit; it is not changed.
        data: rows [N, D] whose flows are counted, of any kind that `fit` takes; NaN is a missing
            value.
        keep: share of the edges to keep, in (0, 1]; 1 drops only edges without any flow.
        batch_size: rows at a time.

    Raises:
        ValueError: if `keep` is out of range.
        EvidenceError: if the data do not fit the circuit.
        NoMassError: if the model gives a row probability zero.

    Examples:
        >>> import pcflow as pf
        >>> model = pf.compile(pf.hmm(4, states=3, inputs=pf.Categorical(2)))
        >>> smaller = pf.prune(model, torch.randint(2, (50, 4)), keep=0.5)
        >>> smaller.num_variables
        4
    """
    if not 0 < keep <= 1:
        raise ValueError(f"keep must be in (0, 1], got {keep}")
    counts = Counts(model)
    for x in Source("data", data, model.num_variables, batch_size, Team()).in_order():
        counts.add(x)
    circuit = model.engine.circuit.replace(_without_least_flow(model, counts, keep))
    return _rebuild(circuit, _read_units(circuit), lambda weight: weight)


def _without_least_flow(
    model: CompiledCircuit, counts: Counts, keep: float
) -> dict[Parameter, Tensor]:
    """The model's parameters with -inf at the edges that go."""
    flows = counts.weights.found  # [P, K, J] by bank
    present = {bank: model.banks[bank].detach() > -torch.inf for bank in flows}
    used = [flow[present[bank]] for bank, flow in flows.items()]
    every = torch.cat(used) if used else torch.zeros(1)  # a circuit may have no sum
    least = every.sort(descending=True).values[math.ceil(keep * len(every)) - 1]
    values = [bank.detach() for bank in model.banks]
    for bank, flow in flows.items():
        most_used = torch.zeros_like(present[bank]).scatter_(
            -1, flow.argmax(dim=-1, keepdim=True), True
        )
        kept = present[bank] & ((flow >= least) & (flow > 0) | most_used)
        values[bank] = values[bank].masked_fill(~kept, -torch.inf)
    pairs = zip(model.plan.banks, values, strict=True)
    return {p: v for members, bank in pairs for p, v in zip(members, bank.cpu(), strict=True)}


def _read_units(circuit: Circuit) -> dict[Layer, Tensor]:
    """The units of every layer that something with a weight above zero reads, at least one.

    Inputs of Hadamard products and of mixing sums, and layers that share a parameter, choose alike.
    """
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


def _rebuild(circuit: Circuit, chosen: Mapping[Layer, Tensor], edit: Edit) -> Circuit:
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
