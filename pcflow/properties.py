"""What a circuit is proved to be, beyond smooth and decomposable.

Determinism is certified syntactically: at every sum unit, any two inputs of non-zero weight differ
on some variable whose possible values below them are disjoint. The proof looks at structure and at
hard zeros (indicators, logits of minus infinity), never at other parameter values.
"""

from __future__ import annotations

from functools import reduce
from itertools import combinations, product
from operator import or_

import torch

from pcflow.circuit import Circuit
from pcflow.inputs import FiniteFamily
from pcflow.layers import InputLayer, Layer, SumLayer

Support = dict[int, int]
"""For each variable with excluded values, a bit mask of the values that remain possible."""


def is_deterministic(circuit: Circuit) -> bool:
    """Whether every sum unit is proved to have at most one non-zero input for any full assignment.

    A deterministic circuit answers MPE exactly (Choi and Darwiche 2017). False means "not proved".

    Examples:
        >>> import pcflow as pf
        >>> either = [pf.InputLayer(0, pf.Indicator(v)) for v in (0, 1)]
        >>> weight = pf.Parameter.from_probs([[0.6, 0.4]])
        >>> is_deterministic(pf.Circuit(pf.SumLayer(either, weight)))
        True
    """
    supports: dict[Layer, list[Support]] = {}
    for layer in circuit.layers:
        if isinstance(layer, SumLayer) and not _has_disjoint_inputs(layer, supports):
            return False
        supports[layer] = _supports(layer, supports)
    return True


def _supports(layer: Layer, below: dict[Layer, list[Support]]) -> list[Support]:
    if isinstance(layer, InputLayer):
        return _input_supports(layer)
    if isinstance(layer, SumLayer):
        edges = (_edges(layer, unit, below) for unit in range(layer.units))
        return [_union(list(edge)) for edge in edges]
    units = [below[child] for child in layer.inputs]
    combined = zip(*units, strict=True) if layer.kind == "hadamard" else product(*units)
    return [{v: mask for part in parts for v, mask in part.items()} for parts in combined]


def _input_supports(layer: InputLayer) -> list[Support]:
    if not isinstance(layer.family, FiniteFamily):
        return [{}] * layer.units
    params = {name: p.value.unsqueeze(0) for name, p in layer.parameters.items()}
    possible = layer.family.log_table(params)[0] > -torch.inf  # [V, K]
    if possible.all():
        return [{}] * layer.units
    columns = possible.t().tolist()
    return [{layer.variable: sum(1 << v for v, p in enumerate(c) if p)} for c in columns]


def _has_disjoint_inputs(layer: SumLayer, below: dict[Layer, list[Support]]) -> bool:
    return all(
        _disjoint(a, b)
        for unit in range(layer.units)
        for a, b in combinations(_edges(layer, unit, below), 2)
    )


def _edges(layer: SumLayer, unit: int, below: dict[Layer, list[Support]]) -> list[Support]:
    """Supports of the inputs that one sum unit gives a non-zero weight."""
    if layer.mixing:
        inputs = [below[child][unit] for child in layer.inputs]
    else:
        inputs = [support for child in layer.inputs for support in below[child]]
    weights = layer.weight.value[unit].tolist()
    return [s for s, w in zip(inputs, weights, strict=True) if w > -torch.inf]


def _disjoint(a: Support, b: Support) -> bool:
    return any(mask & b[v] == 0 for v, mask in a.items() if v in b)


def _union(supports: list[Support]) -> Support:
    """Values possible in any of them; a variable free in one is free in the union."""
    shared = set.intersection(*(set(s) for s in supports))
    return {v: reduce(or_, (s[v] for s in supports)) for v in shared}
