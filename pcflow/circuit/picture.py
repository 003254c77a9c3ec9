"""Circuits as diagrams."""

from __future__ import annotations

from collections.abc import Sequence

from pcflow.circuit.layers import InputLayer, Layer, ProductLayer, SumLayer
from pcflow.circuit.scopes import Scopes
from pcflow.plot import Diagram, by_depth, counted, scope_text, span


def kind_of(layer: Layer) -> str:
    """Input, sum or product."""
    match layer:
        case InputLayer():
            return "input"
        case SumLayer():
            return "sum"
        case ProductLayer():
            return "product"


def diagram(
    title: str, layers: Sequence[Layer], scopes: Scopes, names: Sequence[str] | None, most: int
) -> Diagram:
    """Layers with their kind, scope and units."""
    number = {layer: n for n, layer in enumerate(layers)}

    def alone(n: int) -> tuple[str, ...]:
        layer = layers[n]
        scope = scope_text(scopes.variables(scopes[layer]), names)
        if isinstance(layer, InputLayer):
            family = type(layer.family).__name__
            return scope, family, counted(layer.units, "unit")
        return f"{_sign(layer)}  {counted(layer.units, 'unit')}", scope

    def together(some: list[int]) -> tuple[str, ...]:
        members = [layers[n] for n in some]
        units = counted(span([layer.units for layer in members]), "unit")
        if isinstance(members[0], InputLayer):
            families = {type(la.family).__name__ for la in members if isinstance(la, InputLayer)}
            return f"{counted(len(some), 'input')} of {units}", ", ".join(sorted(families))
        over = span([scopes.size(layer) for layer in members])
        signs = "".join(dict.fromkeys(map(_sign, members)))
        told = counted(len(some), kind_of(members[0]))
        return f"{signs}  {told} of {units}", f"over {counted(over, 'variable')}"

    inputs = [[number[child] for child in layer.inputs] for layer in layers]
    return by_depth(title, list(map(kind_of, layers)), inputs, alone, together, most)


def _sign(layer: Layer) -> str:
    if isinstance(layer, ProductLayer):
        return "\N{MULTIPLICATION SIGN}" if layer.kind == "hadamard" else "\N{CIRCLED TIMES}"
    return "+"
