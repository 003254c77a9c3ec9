"""Scopes: which variables lie below a layer, and the proof that a circuit's fit together.

A scope is a tuple of spans [start, stop) of variables, counted in the order in which they are met
from below: of a tree, every scope is a single span, however large it is.
"""

from __future__ import annotations

from collections.abc import Sequence

from pcflow.circuit.layers import InputLayer, Layer, SumLayer
from pcflow.errors import NotDecomposable, NotSmooth
from pcflow.structure import Span, joined

Scope = tuple[Span, ...]


class Scopes:
    """The scope of every layer; proves smoothness and decomposability as it finds them.

    Args:
        layers: every layer, inputs before the layers that read them.

    Raises:
        NotSmooth: if a sum layer mixes inputs of different scopes.
        NotDecomposable: if a product's inputs share a variable.

    Attributes:
        met: the variables, in the order in which they are met.
    """

    def __init__(self, layers: Sequence[Layer]) -> None:
        """Go through the layers once, from below."""
        inputs = (layer for layer in layers if isinstance(layer, InputLayer))
        self.met = tuple(dict.fromkeys(layer.variable for layer in inputs))
        place = {variable: n for n, variable in enumerate(self.met)}
        self._spans: dict[Layer, Scope] = {}
        for layer in layers:
            if isinstance(layer, InputLayer):
                self._spans[layer] = ((place[layer.variable], place[layer.variable] + 1),)
            else:
                self._spans[layer] = self._prove(layer, [self._spans[la] for la in layer.inputs])

    def __getitem__(self, layer: Layer) -> Scope:
        """The spans of a layer."""
        return self._spans[layer]

    def size(self, layer: Layer) -> int:
        """How many variables the scope of a layer has."""
        return sum(stop - start for start, stop in self._spans[layer])

    def variables(self, scope: Scope) -> tuple[int, ...]:
        """The variables of a scope, sorted."""
        return tuple(sorted(v for start, stop in scope for v in self.met[start:stop]))

    def _prove(self, layer: Layer, scopes: list[Scope]) -> Scope:
        """The scope of an inner layer; refuses what is not smooth or decomposable."""
        if isinstance(layer, SumLayer):
            if any(scope != scopes[0] for scope in scopes):
                raise NotSmooth(layer, [self.variables(s) for s in scopes])
            return scopes[0]
        union = joined(span for scope in scopes for span in scope)
        if union is None:
            raise NotDecomposable(layer, [self.variables(s) for s in scopes])
        return union
