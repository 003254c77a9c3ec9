"""A chain times an automaton, as a circuit that shares the chain's parameters.

What follows at a place depends on the hidden state and on that of the automaton:

    U_t[s] = sum over classes c of G_t[c] * (A U_t+1[next(s, c)]),    G_t[c] = sum of B[v], v in c,

vectors over the K hidden states. So a class is an input layer that reads its share of the emission
table, and all states share the transition A: nothing is as large as states times K squared. Only
states are there through which an accepted string of the length passes. Sums over classes add up
what they read as it is, because a string has one way through the automaton: the circuit is not
normalised, and its value is the mass of what is accepted.

Legend: D variables, V categories, C classes, S states, K units.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import torch

from pcflow.automata.automaton import Automaton
from pcflow.circuit import (
    Circuit,
    Fixed,
    InputLayer,
    Layer,
    Parameter,
    ProductLayer,
    SumLayer,
)
from pcflow.errors import NotAChain, PropertyRequired
from pcflow.inputs import FiniteFamily, Gate, shares


def times(circuit: Circuit, rule: Automaton, between: bool = False) -> Circuit:
    """The part of a chain, or of independent variables, that a rule accepts.

    Args:
        circuit: the chain.
        rule: with S states.
        between: begin and end in any state, each behind a gate, of two variables more: gate s is
            for an end in state s, gate S + s for a start.

    Raises:
        NotAChain: if the circuit is none.
        PropertyRequired: if the chain does not go by the variables in their order, or one has no
            finite range.
        EmptyLanguage: if the rule accepts no string of as many categories as there are variables.
        SettingError: if it is about more categories than there are.
    """
    places, sizes = _places(circuit), set(circuit.num_categories)
    if None in sizes or len(sizes) > 1:
        raise PropertyRequired(f"a rule needs one finite range for all variables, got {sizes}")
    return Circuit(_Builder(circuit, places, rule.widened(sizes.pop() or 0), between).root())


@dataclass(frozen=True)
class _Place:
    """A variable: what it emits, and the sums that arrive before it, unless others come first."""

    emission: Layer
    arrivals: tuple[SumLayer, ...]


def _places(circuit: Circuit) -> list[_Place]:
    """The variables as a circuit goes by them: beside each product there is at most one other."""
    variable, found, layer = _variables(circuit), list[_Place](), [circuit.root]
    while layer:
        arrivals, below = _arrivals(layer[0])
        together = isinstance(below, ProductLayer) and below.unit_by_unit
        parts = below.inputs if together else (below,)
        emissions = sorted((p for p in parts if p in variable), key=variable.__getitem__)
        layer = [p for p in parts if p not in variable]
        if not emissions or len(layer) > 1:
            raise NotAChain(below)
        found.append(_Place(emissions[0], arrivals))
        found += [_Place(emission, ()) for emission in emissions[1:]]
    order = [variable[place.emission] for place in found]
    if order != sorted(order):
        raise PropertyRequired(f"a rule reads variables in their order, but the chain {order[:8]}")
    return found


def _variables(circuit: Circuit) -> dict[Layer, int]:
    """Of layers over a single variable, which it is."""
    found: dict[Layer, int] = {}
    for layer in circuit.layers:
        if isinstance(layer, InputLayer):
            found[layer] = layer.variable
        elif isinstance(layer, SumLayer) and layer.inputs[0] in found:
            found[layer] = found[layer.inputs[0]]
    return found


def _arrivals(layer: Layer) -> tuple[tuple[SumLayer, ...], Layer]:
    """The sums over one layer each that come first, and what is below them."""
    found = []
    while isinstance(layer, SumLayer) and len(layer.inputs) == 1:
        found.append(layer)
        (layer,) = layer.inputs
    return tuple(found), layer


class _Builder:
    """Layers from the last variable to the first."""

    def __init__(
        self, circuit: Circuit, places: Sequence[_Place], rule: Automaton, between: bool
    ) -> None:
        self.places, self.next, self.between = places, rule.next.tolist(), between
        live = rule.live(len(places), anywhere=between).tolist()
        self.live = [[s for s, there in enumerate(row) if there] for row in live]
        inputs = [layer for layer in circuit.layers if isinstance(layer, InputLayer)]
        labels = range(rule.next.shape[1])
        self.shares = {
            family: shares(family, rule.classes, labels)
            for family in {layer.family for layer in inputs}
            if isinstance(family, FiniteFamily)
        }
        self.ones = cache(_ones)

    def root(self) -> Layer:
        after: dict[int, Layer | None] = dict.fromkeys(self.live[-1])
        if self.between:
            after = {s: self.gate(0, s) for s in after}
        for t in reversed(range(len(self.places))):
            after = self.place(t, after)
        starts = {s: layer for s, layer in after.items() if layer is not None}
        if self.between:
            return self.added(tuple(_both(la, self.gate(1, s)) for s, la in starts.items()))
        return starts[0]

    def gate(self, side: int, state: int) -> Layer:
        """What rows weigh a state by, after the last variable or before the first."""
        number = Fixed(torch.tensor([float(side * len(self.next) + state)]))
        return InputLayer(len(self.places) + side, Gate(), 1, {"number": number})

    def place(self, t: int, after: dict[int, Layer | None]) -> dict[int, Layer | None]:
        """The layers of the states before a variable, from those of the states after it."""
        emission, arrivals = self.places[t].emission, self.places[t].arrivals

        @cache
        def read(label: int) -> Layer:
            return self.share(emission, label)

        @cache
        def one_of(labels: tuple[int, ...]) -> Layer:
            return self.added(tuple(map(read, labels)))

        @cache
        def way(labels: tuple[int, ...], there: int) -> Layer:
            rest = after[there]
            return one_of(labels) if rest is None else _both(one_of(labels), rest)

        @cache
        def either(ways: tuple[Layer, ...]) -> Layer:
            found = self.added(ways)
            for arrival in reversed(arrivals):
                found = replace(arrival, inputs=(found,))
            return found

        here: dict[int, Layer | None] = {}
        for state in self.live[t]:
            labels = defaultdict(list)
            for label, there in enumerate(self.next[state]):
                if there in after:
                    labels[there].append(label)
            here[state] = either(tuple(way(tuple(c), s) for s, c in labels.items()))
        return here

    def share(self, emission: Layer, label: int) -> Layer:
        """An emission of the values of one class."""
        if isinstance(emission, InputLayer):
            assert isinstance(emission.family, FiniteFamily)
            return replace(emission, family=self.shares[emission.family][label])
        return replace(emission, inputs=tuple(self.share(one, label) for one in emission.inputs))

    def added(self, layers: tuple[Layer, ...]) -> Layer:
        """Unit by unit the sum, as it is."""
        if len(layers) == 1:
            return layers[0]
        return SumLayer(layers, self.ones(layers[0].units, len(layers)), mixing=True)


def _both(layer: Layer, other: Layer) -> Layer:
    """Unit by unit, or all units of the first with the only one of a gate."""
    return ProductLayer(
        [layer, other], kind="hadamard" if layer.units == other.units else "kronecker"
    )


def _ones(units: int, inputs: int) -> Parameter:
    return Fixed(torch.zeros(units, inputs))
