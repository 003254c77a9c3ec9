"""Files as PyJuice writes them, in our own words."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from math import gcd
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

import pcflow as pf

PLAIN = "pyjuice.nodes.distributions.categorical"
EXTERN = "pyjuice.nodes.distributions.external_categorical"


class Categorical:
    """What a file says of categories: a state."""

    def __init__(self, count: int) -> None:
        self.num_cats = count
        self.sampling_fns: list[object] = []


class ExternProductCategorical:
    """What a file says of soft categories: a call."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.count,)


@contextmanager
def importable(kind: type, module: str) -> Iterator[None]:
    """Pickle finds the class where PyJuice has it."""
    kind.__module__ = module
    parts = module.split(".")
    names = [".".join(parts[: n + 1]) for n in range(len(parts))]
    sys.modules.update({name: ModuleType(name) for name in names})
    setattr(sys.modules[module], kind.__name__, kind)
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]


def distribution(count: int, soft: bool = False) -> bytes:
    """The pickle within the pickle."""
    kind: Any = ExternProductCategorical if soft else Categorical
    with importable(kind, EXTERN if soft else PLAIN):
        return pickle.dumps(kind(count), protocol=4)


def nodes_of(circuit: pf.Circuit, block: int = 1, soft: bool = False, forward: bool = False) -> Any:
    """Nodes as PyJuice keeps them; of tied ones the first, or the last, has the parameters."""
    number = {layer: n for n, layer in enumerate(circuit.layers)}
    owner: dict[object, int] = {}
    for layer in circuit.layers if forward else circuit.layers[::-1]:
        if not isinstance(layer, pf.ProductLayer):
            owner[parameter_of(layer)] = number[layer]
    return [node_of(layer, number, owner, block, soft) for layer in circuit.layers]


def parameter_of(layer: Any) -> pf.Parameter:
    """That of an input or a sum."""
    return layer.parameters["logits"] if isinstance(layer, pf.InputLayer) else layer.weight


def node_of(layer: Any, number: Any, owner: Any, most: int, soft: bool) -> dict[str, Any]:
    """One node."""
    block = gcd(layer.units, most)
    node: dict[str, Any] = {"num_node_blocks": layer.units // block, "block_size": block}
    node["chs"] = tuple(number[child] for child in layer.inputs)
    if isinstance(layer, pf.ProductLayer):
        return node | {"type": "Product"} | edges_of(layer, most)
    source = owner[parameter_of(layer)]
    shared = source != number[layer]
    node["source_node"] = source if shared else None
    probs = parameter_of(layer).value
    if isinstance(layer, pf.InputLayer):
        assert isinstance(layer.family, pf.Categorical)
        count = layer.family.num_categories
        node |= {"type": "Input", "scope": [layer.variable], "dist": distribution(count, soft)}
        return node if shared else node | {"params": probs.softmax(0).t().flatten().numpy()}
    width = gcd(most, *(child.units for child in layer.inputs))
    read = sum(child.units for child in layer.inputs) // width
    parts = probs.softmax(1).view(layer.units // block, block, read, width).transpose(1, 2)
    kept = (parts > 0).flatten(2).any(-1).nonzero() if block == width == 1 else None
    some = (
        torch.cartesian_prod(torch.arange(len(parts)), torch.arange(read)) if kept is None else kept
    )
    node |= {"type": "Sum", "edge_ids": some.t().numpy()}
    return node if shared else node | {"params": parts[some[:, 0], some[:, 1]].numpy()}


def edges_of(layer: pf.ProductLayer, most: int) -> dict[str, Any]:
    """Which blocks of its children a product reads."""
    if layer.kind == "hadamard":
        count = layer.units // gcd(layer.units, most)
        return {"edge_ids": np.arange(count)[:, None].repeat(len(layer.inputs), 1)}
    pairs = torch.cartesian_prod(*(torch.arange(child.units) for child in layer.inputs))
    return {"edge_ids": pairs.numpy(), "num_node_blocks": layer.units, "block_size": 1}


def write(path: Path, nodes: Any, protocol: int = 4) -> Path:
    """A file as PyJuice writes it."""
    path.write_bytes(pickle.dumps(nodes, protocol=protocol))
    return path
