"""A circuit told as JSON, and built from it again.

Parameters are told by their places only, so that equal structures have equal descriptions.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from math import log2
from typing import Any

from torch import Tensor

from pcflow.circuit import Circuit, InputLayer, Layer, Parameter, ProductLayer, SumLayer
from pcflow.inputs import FAMILIES, InputFamily
from pcflow.io.container import Json

MOST_UNITS_LOG2 = 40
"""Descriptions of products with more units are refused, by their logarithm."""

MOST_CATEGORIES = 1 << 24
"""Descriptions with a larger variable are refused: its table alone could exhaust the memory."""


def digest(circuit: Circuit) -> str:
    """A number for all that is not a parameter's value."""
    places = {parameter: n for n, parameter in enumerate(circuit.parameters)}
    told = json.dumps(describe(circuit, places), default=repr)
    return hashlib.sha256(told.encode()).hexdigest()


def describe(circuit: Circuit, places: Mapping[Parameter, object]) -> list[Json]:
    """Every layer; a parameter is told by its place."""
    number = {layer: i for i, layer in enumerate(circuit.layers)}

    def one(layer: Layer) -> Json:
        inputs = [number[child] for child in layer.inputs]
        match layer:
            case InputLayer():
                return {
                    "kind": "input",
                    "variable": layer.variable,
                    **_told(layer.family),
                    "units": layer.units,
                    "parameters": {name: places[p] for name, p in layer.parameters.items()},
                }
            case SumLayer():
                weight = places[layer.weight]
                return {"kind": "sum", "inputs": inputs, "weight": weight, "mixing": layer.mixing}
            case ProductLayer():
                return {"kind": layer.kind, "inputs": inputs}

    return [one(layer) for layer in circuit.layers]


def build(described: list[Json], tensors: Mapping[str, Tensor]) -> Circuit:
    """The circuit of a description whose places are [name of a stacked tensor, row]."""
    known: dict[tuple[str, int], Parameter] = {}
    layers: list[Layer] = []

    def parameter(place: list[Any]) -> Parameter:
        name, row = key = str(place[0]), _count(place[1])
        if key not in known:  # a tied parameter is copied once
            known[key] = Parameter(tensors[name][row])
        return known[key]

    for entry in described:
        inputs = [layers[_count(i)] for i in entry.get("inputs", [])]
        if entry["kind"] == "input":
            named = {str(n): parameter(place) for n, place in entry["parameters"].items()}
            family = _family(entry["family"], entry["settings"])
            layers.append(
                InputLayer(_count(entry["variable"]), family, _count(entry["units"]), named)
            )
        elif entry["kind"] == "sum":
            layers.append(SumLayer(inputs, parameter(entry["weight"]), entry["mixing"] is True))
        else:
            layers.append(_product(inputs, entry["kind"]))
    return Circuit(layers[-1])


def _product(inputs: Sequence[Layer], kind: Any) -> ProductLayer:
    """A product; refused before its units are counted if their number has too many digits."""
    if kind == "kronecker" and sum(log2(layer.units) for layer in inputs) > MOST_UNITS_LOG2:
        raise ValueError(f"a product of {len(inputs)} inputs has too many units")
    return ProductLayer(inputs, kind)


def _told(family: InputFamily) -> Json:
    """Name and settings; a setting may be a family itself."""
    settings = {f.name: getattr(family, f.name) for f in _settings(family)}
    inner = {n: _told(one) for n, one in settings.items() if isinstance(one, InputFamily)}
    return {"family": type(family).__name__, "settings": settings | inner}


def _family(name: str, settings: Json) -> InputFamily:
    inner = {n: s for n, s in settings.items() if isinstance(s, dict)}
    families = {n: _family(s["family"], s["settings"]) for n, s in inner.items()}
    family = FAMILIES[name](**settings | families)
    if (family.num_categories or 0) > MOST_CATEGORIES:
        raise ValueError(f"{family.num_categories} categories are more than {MOST_CATEGORIES}")
    return family


def _settings(family: InputFamily) -> list[Any]:
    return [f for f in fields(family) if f.init]  # type: ignore[arg-type]


def _count(number: object) -> int:
    if not isinstance(number, int) or isinstance(number, bool) or number < 0:
        raise ValueError(f"expected a number >= 0, found {number!r}")
    return number
