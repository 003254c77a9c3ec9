"""A circuit times an automaton, as a circuit that shares the parameters of the first.

A layer over some neighbouring variables becomes one for every two states: the part of it whose
values lead the automaton from the one to the other. An input is a share of its table, a sum the
same sum over the parts of its inputs, and a product the sum over the states in between,

    P[s, t] = sum over states m of A[s, m] * B[m, t].

Behind the last variable it does not matter which of the accepting states was reached. So of a
hidden Markov chain, whose products are an emission and all that follows, there are S sums for every
variable, which share the transition:

    U_t[s] = sum over classes c of G_t[c] * (A U_t+1[next(s, c)]),    G_t[c] = sum of B[v], v in c,

and nothing is as large as states times K squared. Only states are there through which an accepted
string of the length passes. What is added up is added as it is, because a string has one way
through the automaton: the circuit is not normalised, and its value is the mass of what is accepted.

Legend: D variables, V categories, C classes, S states, K units.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from itertools import pairwise

import torch

from pcflow.circuit import (
    Circuit,
    Fixed,
    InputLayer,
    Layer,
    Parameter,
    ProductLayer,
    SumLayer,
)
from pcflow.errors import NotCompatible, PropertyRequired
from pcflow.inputs import FiniteFamily, Gate, Share, few
from pcflow.logic.automata.automaton import Automaton

End = int | None
"""The state behind some variables; None behind the last one, where a string may end."""

Ways = dict[tuple[int, End], Layer]
"""The parts of a layer by the states before and behind its variables."""


def times(circuit: Circuit, rule: Automaton, between: bool = False) -> Circuit:
    """The part of a circuit that a rule accepts.

    Args:
        circuit: its products split neighbouring variables from one another.
        rule: with S states.
        between: begin and end in any state, each behind a gate, of two variables more: gate s is
            for an end in state s, gate S + s for a start.

    Raises:
        NotCompatible: if a product splits variables that are no neighbours.
        PropertyRequired: if variables differ in their range, or one has no finite one.
        EmptyLanguage: if the rule accepts no string of as many categories as there are variables.
        SettingError: if it is about more categories than there are.
    """
    sizes = set(circuit.num_categories)
    if None in sizes or len(sizes) > 1:
        raise PropertyRequired(f"a rule needs one finite range for all variables, got {sizes}")
    return Circuit(_Builder(circuit, rule.widened(sizes.pop() or 0), between).root())


class _Builder:
    """The parts of all layers, inputs first."""

    def __init__(self, circuit: Circuit, rule: Automaton, between: bool) -> None:
        self.circuit, self.rule, self.between = circuit, rule, between
        self.first, self.last = _spans(circuit, rule)
        live = rule.live(circuit.num_variables, anywhere=between).tolist()
        self.live = [dict.fromkeys(s for s, there in enumerate(row) if there) for row in live]
        self.few = cache(lambda family, *parameters: few(family, rule.classes))  # by table
        self.large, self.labels = cache(self._large), cache(self._labels)
        self.share, self.gate, self.ones = cache(self._share), cache(self._gate), cache(_ones)
        self.found: dict[Layer, Ways] = {}

    def root(self) -> Layer:
        for layer in self.circuit.layers:
            if self.first[layer] < self.last[layer]:
                self.found[layer] = self.of(layer)
        ways = self.ways(self.circuit.root)
        if self.between:
            return self.added(tuple(_both(way, self.gate(1, s)) for (s, _), way in ways.items()))
        return ways[0, None]

    def ways(self, layer: Layer) -> Ways:
        if layer not in self.found:  # whoever reads one of several variables has found it
            self.found[layer] = self.at_variable(layer)
        return self.found[layer]

    def of(self, layer: Layer) -> Ways:
        """The parts of a layer over several variables."""
        if isinstance(layer, ProductLayer):
            return self.of_product(layer)
        assert isinstance(layer, SumLayer)
        every = [self.ways(one) for one in layer.inputs]

        @cache
        def make(*inputs: Layer) -> Layer:
            return replace(layer, inputs=inputs)

        return {states: make(*(ways[states] for ways in every)) for states in every[0]}

    def of_product(self, layer: ProductLayer) -> Ways:
        """From the last variables to the first."""
        parts = sorted(layer.inputs, key=self.first.__getitem__)
        turned = parts != list(layer.inputs) and not layer.unit_by_unit
        found = self.ways(parts[-1])
        for part in reversed(parts[:-1]):

            def make(before: Layer, behind: Layer) -> Layer:
                pair = [behind, before] if turned else [before, behind]
                return ProductLayer(pair, layer.kind)

            found = self.joined(self.ways(part), found, make)
        return found

    def joined(self, before: Ways, behind: Ways, make: Callable[[Layer, Layer], Layer]) -> Ways:
        """What leads over some states in between."""
        onward: dict[End, list[tuple[End, Layer]]] = defaultdict(list)
        for (middle, end), layer in behind.items():
            onward[middle].append((end, layer))
        terms: dict[tuple[int, End], list[Layer]] = defaultdict(list)
        make, either = cache(make), cache(self.added)
        for (start, there), layer in before.items():
            for end, rest in onward[there]:
                terms[start, end].append(make(layer, rest))
        return {states: either(tuple(layers)) for states, layers in terms.items()}

    def at_variable(self, layer: Layer) -> Ways:
        """The parts of a layer over one variable: shares of the classes that lead on."""
        place = self.first[layer]
        one_of = cache(lambda *labels: self.added(tuple(self.share(layer, c) for c in labels)))
        either, found = cache(self.added), Ways()
        for state in self.live[place]:
            onward, live = self.labels(state).items(), self.live[place + 1]
            ways = {there: one_of(*some) for there, some in onward if there in live}
            if place + 1 < len(self.live) - 1:
                found |= {(state, there): way for there, way in ways.items()}
            elif ways:
                ends = (_both(w, self.gate(0, s)) if self.between else w for s, w in ways.items())
                found[state, None] = either(tuple(ends))
        return found

    def _share(self, layer: Layer, label: int) -> Layer:
        """A layer over one variable where that has values of one class."""
        if isinstance(layer, InputLayer):
            assert isinstance(layer.family, FiniteFamily)
            small = self.few(layer.family, *layer.parameters.values())
            return replace(layer, family=small.get(label) or self.large(layer.family, label))
        return replace(layer, inputs=tuple(self.share(one, label) for one in layer.inputs))

    def _large(self, family: FiniteFamily, label: int) -> Share:
        return Share(family, (self.rule.classes == label).nonzero().squeeze(-1))

    def _labels(self, state: int) -> dict[int, list[int]]:
        """The classes that lead on from a state, by the state after it."""
        found: dict[int, list[int]] = defaultdict(list)
        ways = self.rule.next[state]
        for label in (ways >= 0).nonzero().squeeze(-1).tolist():
            found[int(ways[label])].append(label)
        return found

    def _gate(self, side: int, state: int) -> Layer:
        """What rows weigh a state by, after the last variable or before the first."""
        number = Fixed(torch.tensor([float(side * len(self.rule.next) + state)]))
        variable = self.circuit.num_variables + side
        return InputLayer(variable, Gate(), 1, {"number": number})

    def added(self, layers: tuple[Layer, ...]) -> Layer:
        """Unit by unit the sum, as it is."""
        if len(layers) == 1:
            return layers[0]
        return SumLayer(layers, self.ones(layers[0].units, len(layers)), mixing=True)


def _both(layer: Layer, other: Layer) -> Layer:
    """All units of the first with the only one of a gate."""
    return ProductLayer([layer, other], "kronecker")


def _ones(units: int, inputs: int) -> Parameter:
    return Fixed(torch.zeros(units, inputs))


def _spans(circuit: Circuit, rule: Automaton) -> tuple[dict[Layer, int], dict[Layer, int]]:
    """The first and the last variable of every layer, which is over all in between.

    Raises:
        NotCompatible: naming the first product that splits variables in another way.
    """
    first: dict[Layer, int] = {}
    last: dict[Layer, int] = {}
    for layer in circuit.layers:
        if isinstance(layer, InputLayer):
            first[layer] = last[layer] = layer.variable
            continue
        parts = sorted(layer.inputs, key=first.__getitem__)
        if isinstance(layer, ProductLayer) and not _in_order(layer, parts, first, last):
            wanted = [(variable,) for variable in circuit.scope(layer)]
            raise NotCompatible(layer, rule, [circuit.scope(p) for p in layer.inputs], wanted)
        first[layer], last[layer] = first[parts[0]], last[parts[-1]]
    return first, last


def _in_order(
    layer: ProductLayer, parts: Sequence[Layer], first: dict[Layer, int], last: dict[Layer, int]
) -> bool:
    """Whether variables go from part to part, and units of three or more do as well."""
    turned = len(parts) > 2 and not layer.unit_by_unit and list(parts) != list(layer.inputs)
    return not turned and all(last[a] + 1 == first[b] for a, b in pairwise(parts))
