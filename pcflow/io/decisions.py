"""A circuit as the nodes of a PSDD, if it is one: units one by one, numbered children first.

A sum of products of two is a decision: the first input of every product is the prime, the second
the sub. All products over the same variables must split them alike (one vtree), which is proved
here, and the elements of a decision must exclude one another, which their supports tell.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from pcflow.circuit import Circuit, InputLayer, Layer, ProductLayer, SumLayer, Supports
from pcflow.errors import PropertyRequired, StructureError
from pcflow.inputs import FiniteFamily

ROUNDING = 1e-14
"""Logarithms whose exponentials miss a sum of one by less are written as they are."""


@dataclass(frozen=True)
class Leaf:
    """A terminal node: log-probabilities of both values of a variable."""

    variable: int
    logs: tuple[float, float]


@dataclass(frozen=True)
class Decision:
    """A decision node: elements (prime, sub, log-weight), by their numbers."""

    elements: tuple[tuple[int, int, float], ...]


Node = Leaf | Decision
Edges = list[tuple[Layer, int, float]]
"""Units that a unit reads, with log-weights."""

Element = tuple[int, int]
"""Prime and sub: what a product unit is."""


class Decisions:
    """The nodes of a circuit.

    Args:
        circuit: smooth and decomposable.

    Raises:
        StructureError: if variables are not binary, or products do not split them alike.
        PropertyRequired: if the elements of some decision are not proved to exclude one another.

    Attributes:
        nodes: children before parents; the last is the root.
        place: for every node its place in `vtrees`.
        vtrees: for every place a variable, or two other places.
    """

    def __init__(self, circuit: Circuit) -> None:
        """Take the circuit apart, unit by unit."""
        self.nodes: list[Node] = []
        self.place: list[int] = []
        self.vtrees: list[int | tuple[int, int]] = []
        self._known: dict[object, int] = {}
        self._supports = Supports(circuit)
        self._units: dict[tuple[Layer, int], int | Element] = {}
        reached = _reached(circuit)
        for layer in circuit.layers:
            for unit, edges in sorted(reached[layer].items()):
                self._units[layer, unit] = self._unit(layer, unit, edges)
            self._supports.visit(layer)
        self.root = self.node(circuit.root, 0)

    def below(self, node: int) -> list[int]:
        """The nodes that a node reads."""
        found = self.nodes[node]
        if isinstance(found, Leaf):
            return []
        return [child for prime, sub, _ in found.elements for child in (prime, sub)]

    def node(self, layer: Layer, unit: int) -> int:
        """The node of a unit; of a product one with a single element."""
        found = self._units[layer, unit]
        return found if isinstance(found, int) else self._single(found)

    def _unit(self, layer: Layer, unit: int, edges: Edges) -> int | Element:
        if isinstance(layer, InputLayer):
            return self._leaf(layer.variable, _input_logs(layer)[unit])
        if isinstance(layer, SumLayer):
            return self._sum(layer, edges)
        parts = [self.node(child, k) for child, k, _ in edges]
        sub = parts[-1]
        for prime in reversed(parts[1:-1]):  # the rest of a longer product hangs on the right
            sub = self._single((prime, sub))
        return parts[0], sub

    def _leaf(self, variable: int, logs: tuple[float, float]) -> int:
        place = self._place(variable)
        if -torch.inf not in logs:
            return self._add(Leaf(variable, logs), place)
        key = variable, logs[1] > logs[0]
        if key not in self._known:  # literals are written once
            self._known[key] = self._add(Leaf(variable, logs), place)
        return self._known[key]

    def _sum(self, layer: SumLayer, edges: Edges) -> int | Element:
        found = [(self._units[child, k], w) for child, k, w in edges]
        if len(found) == 1:
            return found[0][0]
        leaves: list[tuple[Leaf, float]] = []
        elements: list[tuple[int, int, float]] = []
        for of, w in found:
            below = self.nodes[of] if isinstance(of, int) else Decision(((*of, 0.0),))
            if isinstance(below, Leaf):
                leaves.append((below, w))
            else:  # a sum of sums is one decision
                elements += [(prime, sub, w + own) for prime, sub, own in below.elements]
        if leaves:
            return self._mixture(leaves)
        places = {(self.place[prime], self.place[sub]) for prime, sub, _ in elements}
        if len(places) > 1:
            raise StructureError(f"not a PSDD: the products below {layer} split variables unlike")
        self._exclusive(layer, edges)
        (split,) = places
        return self._add(Decision(tuple(elements)), self._place(split))

    def _mixture(self, leaves: list[tuple[Leaf, float]]) -> int:
        mixed = [[value + w for value in leaf.logs] for leaf, w in leaves]
        neg, pos = torch.tensor(mixed, dtype=torch.float64).logsumexp(dim=0).tolist()
        return self._leaf(leaves[0][0].variable, (neg, pos))

    def _single(self, element: Element) -> int:
        """The decision with one element, the same for all who ask."""
        key = "single", element
        if key not in self._known:
            place = self._place((self.place[element[0]], self.place[element[1]]))
            self._known[key] = self._add(Decision(((*element, 0.0),)), place)
        return self._known[key]

    def _add(self, node: Node, place: int) -> int:
        self.nodes.append(node)
        self.place.append(place)
        return len(self.nodes) - 1

    def _place(self, vtree: int | tuple[int, int]) -> int:
        key = "vtree", vtree
        if key not in self._known:
            self._known[key] = len(self.vtrees)
            self.vtrees.append(vtree)
        return self._known[key]

    def _exclusive(self, layer: SumLayer, edges: Edges) -> None:
        """A sum below has told its own elements apart, so units stand for all that they mix."""
        for (a, i, _), (b, j, _) in combinations(edges, 2):
            if not self._supports.exclude((a, i), (b, j)):
                raise PropertyRequired(
                    f"not a PSDD: two products below {layer} can be true at once; the first input "
                    "of every product must be its prime, and primes must exclude one another"
                )


def _reached(circuit: Circuit) -> dict[Layer, dict[int, Edges]]:
    """Units of every layer that have a part in the root, and what they read."""
    reached: dict[Layer, dict[int, Edges]] = {layer: {} for layer in circuit.layers}
    reached[circuit.root][0] = []
    for layer in reversed(circuit.layers):
        edges_of = _edges(layer)
        for unit in reached[layer]:
            reached[layer][unit] = edges_of(unit)
            for child, k, _ in reached[layer][unit]:
                reached[child].setdefault(k, [])
    return reached


def _edges(layer: Layer) -> Callable[[int], Edges]:
    """What each unit reads: all but hard zeros."""
    if isinstance(layer, InputLayer):
        return lambda unit: []
    if isinstance(layer, ProductLayer):
        return lambda unit: [(*of, 0.0) for of in layer.factors(unit)]
    edges, rows = layer.edges(), _settled(layer.weight.value.double()).tolist()
    used = [[w for w in row if w > -torch.inf] for row in rows]
    return lambda unit: [(*of, w) for of, w in zip(edges[unit], used[unit], strict=True)]


def _input_logs(layer: InputLayer) -> list[tuple[float, float]]:
    """Log-probabilities of both values, for every unit."""
    family = layer.family
    if not isinstance(family, FiniteFamily) or family.num_categories != 2:
        raise StructureError(f"not a PSDD: {layer} is not over a binary variable")
    if family.logits is None:
        return [(neg, pos) for neg, pos in layer.log_table().t().tolist()]
    given = layer.float64()[family.logits].t()  # [K, V]
    return [(neg, pos) for neg, pos in _settled(given).tolist()]


def _settled(logs: Tensor) -> Tensor:
    """Normalised over the last axis; not touched if they are, so that files stay as they are."""
    total = logs.logsumexp(dim=-1, keepdim=True)
    return torch.where(total.abs() < ROUNDING, logs, logs - total)
