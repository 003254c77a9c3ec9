"""The circuit itself: layers that are proved smooth and decomposable as they are put together.

A circuit is what can be reached from its root layer. This is the intermediate representation:
`compile` turns it into tensors, `reference` evaluates it line by line, files store it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import networkx as nx
from torch import Tensor

from pcflow.errors import NotDecomposable, NotSmooth, StructureError
from pcflow.layers import InputLayer, Layer, Parameter, ProductLayer, SumLayer, layer_parameters

_Scope = tuple[tuple[int, int], ...]
"""Spans [start, stop) of variables, counted as they are met from below: of a tree, a single one."""


class Circuit:
    """A smooth and decomposable circuit: a normalised joint distribution over its variables.

    Args:
        root: the output layer; it must have one unit.

    Raises:
        NotSmooth: if a sum layer mixes inputs of different scopes.
        NotDecomposable: if a product's inputs share a variable.
        StructureError: if the root has several units, the variables are not 0, ..., D - 1, or input
            layers disagree on the number of categories of a variable.

    Attributes:
        root: the output layer.
        layers: every layer, inputs before the layers that read them.
        num_variables: D.
        num_categories: for each variable its number of categories, None if it has no finite range.

    Examples:
        >>> from pcflow.inputs import Bernoulli
        >>> coins = [InputLayer.random(v, Bernoulli()) for v in range(2)]
        >>> Circuit(ProductLayer(coins))
        Circuit(2 variables, 3 layers, 2 parameters)
    """

    def __init__(self, root: Layer) -> None:
        """Sort the layers and prove the structure."""
        if root.units != 1:
            raise StructureError(f"the root must have one unit, {root} has {root.units}")
        self.root = root
        self.layers: tuple[Layer, ...] = tuple(_bottom_up(root))
        self.num_categories = self._categories()
        self.num_variables = len(self.num_categories)
        inputs = (layer for layer in self.layers if isinstance(layer, InputLayer))
        self._met = tuple(dict.fromkeys(layer.variable for layer in inputs))
        self._scopes: dict[Layer, _Scope] = {}
        place = {variable: n for n, variable in enumerate(self._met)}
        for layer in self.layers:
            if isinstance(layer, InputLayer):
                self._scopes[layer] = ((place[layer.variable], place[layer.variable] + 1),)
            else:
                self._scopes[layer] = self._prove(layer)

    def scope(self, layer: Layer) -> tuple[int, ...]:
        """The variables below a layer, sorted."""
        return self._variables(self._scopes[layer])

    def _prove(self, layer: SumLayer | ProductLayer) -> _Scope:
        """The scope of an inner layer; refuses what is not smooth or decomposable."""
        scopes = [self._scopes[child] for child in layer.inputs]
        if isinstance(layer, SumLayer):
            if any(scope != scopes[0] for scope in scopes):
                raise NotSmooth(layer, [self._variables(s) for s in scopes])
            return scopes[0]
        union = _union(scopes)
        if union is None:
            raise NotDecomposable(layer, [self._variables(s) for s in scopes])
        return union

    def _variables(self, scope: _Scope) -> tuple[int, ...]:
        return tuple(sorted(v for start, stop in scope for v in self._met[start:stop]))

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """Every distinct parameter, in the order of the layers."""
        return tuple(dict.fromkeys(p for layer in self.layers for p in layer_parameters(layer)))

    def replace(self, values: Mapping[Parameter, Tensor]) -> Circuit:
        """The same structure with other parameter values; ties are kept."""
        renewed = {p: Parameter(values[p]) if p in values else p for p in self.parameters}
        built: dict[Layer, Layer] = {}
        for layer in self.layers:
            built[layer] = _rebuild(layer, [built[child] for child in layer.inputs], renewed)
        return Circuit(built[self.root])

    def to_networkx(self) -> nx.DiGraph[Layer]:
        """The graph for networkx: nodes are layers, edges point to what a layer reads.

        Examples:
            >>> from pcflow.inputs import Bernoulli
            >>> Circuit(InputLayer.random(0, Bernoulli())).to_networkx().number_of_nodes()
            1
        """
        graph: nx.DiGraph[Layer] = nx.DiGraph()
        graph.add_nodes_from(self.layers)
        graph.add_edges_from((layer, child) for layer in self.layers for child in layer.inputs)
        return graph

    def __repr__(self) -> str:
        """Sizes."""
        count = sum(p.value.numel() for p in self.parameters)
        return (
            f"Circuit({self.num_variables} variables, {len(self.layers)} layers, "
            f"{count} parameters)"
        )

    def __deepcopy__(self, memo: object) -> Circuit:
        """A circuit is immutable, so a copy is the circuit itself."""
        return self

    def _categories(self) -> tuple[int | None, ...]:
        found: dict[int, int | None] = {}
        for layer in self.layers:
            if isinstance(layer, InputLayer):
                categories = layer.family.num_categories
                if found.setdefault(layer.variable, categories) != categories:
                    raise StructureError(
                        f"variable {layer.variable} has {found[layer.variable]} categories in one "
                        f"input layer and {categories} in another"
                    )
        absent = next(v for v in range(len(found) + 1) if v not in found)
        if absent < len(found):
            raise StructureError(f"variables must be 0..{max(found)}, but {absent} is in no input")
        return tuple(found[v] for v in range(len(found)))


def _bottom_up(root: Layer) -> Iterator[Layer]:
    """Depth-first postorder without recursion: chains are as deep as they are long."""
    seen = {root}
    stack = [(root, iter(root.inputs))]
    while stack:
        layer, inputs = stack[-1]
        child = next(inputs, None)
        if child is None:
            stack.pop()
            yield layer
        elif child not in seen:
            seen.add(child)
            stack.append((child, iter(child.inputs)))


def _union(scopes: list[_Scope]) -> _Scope | None:
    """The union of disjoint scopes; None if they are not."""
    spans: list[tuple[int, int]] = []
    for start, stop in sorted(span for scope in scopes for span in scope):
        if spans and start < spans[-1][1]:
            return None
        if spans and start == spans[-1][1]:
            spans[-1] = (spans[-1][0], stop)
        else:
            spans.append((start, stop))
    return tuple(spans)


def _rebuild(layer: Layer, inputs: list[Layer], renewed: Mapping[Parameter, Parameter]) -> Layer:
    match layer:
        case InputLayer():
            parameters = {name: renewed[p] for name, p in layer.parameters.items()}
            return InputLayer(layer.variable, layer.family, layer.units, parameters)
        case SumLayer():
            return SumLayer(inputs, renewed[layer.weight], layer.mixing)
        case ProductLayer():
            return ProductLayer(inputs, layer.kind)
