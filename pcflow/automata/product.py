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
from dataclasses import dataclass
from functools import cache

import torch

from pcflow.automata.automaton import Automaton
from pcflow.circuit import (
    Circuit,
    Fixed,
    InputLayer,
    Layer,
    MarkovChain,
    Parameter,
    ProductLayer,
    SumLayer,
)
from pcflow.errors import PropertyRequired
from pcflow.inputs import FiniteFamily, InputFamily, shares


def times(circuit: Circuit, rule: Automaton) -> Circuit:
    """The part of a chain, or of independent variables, that a rule accepts.

    Raises:
        NotAChain: if the circuit is none.
        PropertyRequired: if the chain does not go by the variables in their order, or one has no
            finite range.
        EmptyLanguage: if the rule accepts no string of as many categories as there are variables.
        SettingError: if it is about more categories than there are.
    """
    places = _places(circuit)
    sizes = {place.emission.family.num_categories for place in places}
    if None in sizes or len(sizes) > 1:
        raise PropertyRequired(f"a rule needs one finite range for all variables, got {sizes}")
    rule = rule.widened(sizes.pop() or 0)
    builder = _Builder(places, rule)
    return Circuit(builder.root())


@dataclass(frozen=True)
class _Place:
    """A variable: what it emits, and the sum that arrives before it, unless others come first."""

    emission: InputLayer
    arrival: SumLayer | None


def _places(circuit: Circuit) -> list[_Place]:
    found = []
    for position in MarkovChain.of(_with_a_sum(circuit)).positions:
        for emission in sorted(position.emissions, key=lambda layer: layer.variable):
            first = position.arrival if emission.variable == min(position.variables) else None
            found.append(_Place(emission, first))
    order = [place.emission.variable for place in found]
    if order != sorted(order):
        raise PropertyRequired(f"a rule reads variables in their order, but the chain {order[:8]}")
    return found


def _with_a_sum(circuit: Circuit) -> Circuit:
    """Independent variables are a chain of one position and one state."""
    if isinstance(circuit.root, SumLayer):
        return circuit
    return Circuit(SumLayer([circuit.root], Fixed(torch.zeros(1, 1))))


class _Builder:
    """Layers from the last variable to the first."""

    def __init__(self, places: Sequence[_Place], rule: Automaton) -> None:
        self.places, self.rule, self.next = places, rule, rule.next.tolist()
        live = rule.live(len(places)).tolist()
        self.live = [[s for s, there in enumerate(row) if there] for row in live]
        labels = range(rule.next.shape[1])
        families = {place.emission.family for place in places}
        self.shares = {f: shares(_finite(f), rule.classes, labels) for f in families}
        self.ones = cache(_ones)

    def root(self) -> Layer:
        after: dict[int, Layer | None] = dict.fromkeys(self.live[-1])
        for t in reversed(range(len(self.places))):
            after = self.place(t, after)
        (root,) = after.values()
        assert root is not None
        return root

    def place(self, t: int, after: dict[int, Layer | None]) -> dict[int, Layer | None]:
        """The layers of the states before a variable, from those of the states after it."""
        emission, arrival = self.places[t].emission, self.places[t].arrival

        @cache
        def read(label: int) -> Layer:
            share = self.shares[emission.family][label]
            return InputLayer(emission.variable, share, emission.units, emission.parameters)

        @cache
        def one_of(labels: tuple[int, ...]) -> Layer:
            return self.added(tuple(map(read, labels)))

        @cache
        def way(labels: tuple[int, ...], there: int) -> Layer:
            rest = after[there]
            return one_of(labels) if rest is None else ProductLayer([one_of(labels), rest])

        @cache
        def either(ways: tuple[Layer, ...]) -> Layer:
            found = self.added(ways)
            return found if arrival is None else SumLayer([found], arrival.weight)

        here: dict[int, Layer | None] = {}
        for state in self.live[t]:
            labels = defaultdict(list)
            for label, there in enumerate(self.next[state]):
                if there in after:
                    labels[there].append(label)
            here[state] = either(tuple(way(tuple(c), s) for s, c in labels.items()))
        return here

    def added(self, layers: tuple[Layer, ...]) -> Layer:
        """Unit by unit the sum, as it is."""
        if len(layers) == 1:
            return layers[0]
        return SumLayer(layers, self.ones(layers[0].units, len(layers)), mixing=True)


def _finite(family: InputFamily) -> FiniteFamily:
    assert isinstance(family, FiniteFamily)
    return family


def _ones(units: int, inputs: int) -> Parameter:
    return Fixed(torch.zeros(units, inputs))
