"""Circuits put together at random on given splits: mixtures of any kind, and deterministic ones.

Legend: K units, V categories, J inputs of a sum.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch
from hypothesis import strategies as st
from torch import Tensor

from pcflow.circuit import InputLayer, Layer, Parameter, ProductLayer, SumLayer
from pcflow.inputs import Categorical, Indicator, InputFamily
from pcflow.testing.ingredients import Scope, Split


@dataclass
class Mixtures:
    """Products of both kinds, dense and mixing sums, side by side and on top of each other.

    Args:
        draw: given by Hypothesis.
        families: of the inputs, one per variable.
        split: how products split their scope.
        generator: source of the numbers.
    """

    draw: st.DrawFn
    families: Sequence[InputFamily]
    split: Split
    generator: torch.Generator

    def build(self, scope: Scope, units: int = 1) -> Layer:
        """A layer of so many units over a scope."""
        if len(scope) == 1:
            below: list[Layer] = [self.leaf(scope[0], units)]
        else:
            below = [self.product(scope, units) for _ in range(self.draw(_OFTEN_ONE))]
        if len(below) == 1 and below[0].units == units and not self.draw(st.booleans()):
            return below[0]
        mixing = all(layer.units == units for layer in below) and self.draw(st.booleans())
        return SumLayer.random(below, units, mixing, self.generator)

    def product(self, scope: Scope, units: int) -> ProductLayer:
        """A product that splits the scope."""
        parts = [self.build(part, units) for part in self.split(scope)]
        square = units > 1 and len(parts) < 4 and self.draw(st.booleans())
        return ProductLayer(parts, "kronecker" if square else "hadamard")

    def leaf(self, variable: int, units: int) -> InputLayer:
        """Input units of the variable's family."""
        return InputLayer.random(variable, self.families[variable], units, self.generator)

    def capacity(self, scope: Scope) -> int:
        """How many units over a scope can exclude each other."""
        return prod(self.families[v].num_categories or 1 for v in scope)

    def only(self, variable: int, sets: list[list[int]]) -> InputLayer:
        """Input units, each positive at a set of values."""
        V = self.capacity((variable,))
        if all(len(values) == 1 for values in sets) and self.draw(st.booleans()):
            return InputLayer(variable, Indicator([v for (v,) in sets], V), len(sets))
        logits = torch.full((V, len(sets)), -torch.inf)
        for unit, values in enumerate(sets):
            logits[values, unit] = torch.randn(len(values), generator=self.generator)
        return InputLayer(variable, Categorical(V), len(sets), {"logits": Parameter(logits)})


_OFTEN_ONE = st.sampled_from([1, 1, 2])
_OFTEN_SEVERAL = st.sampled_from([1, 2, 2, 3])


class Decisions(Mixtures):
    """Layers whose sums choose: by the value of one variable, or by what primes below exclude.

    Every layer that `build` makes has units of which no two are positive at once. Such units are
    put together from smaller ones, the elements of a sentential decision diagram (Darwiche 2011):
    all combinations of units over the parts, or a part that decides times parts that do not.
    """

    def build(self, scope: Scope, units: int = 1) -> Layer:
        """A layer of units that exclude each other, at most `capacity` of them."""
        if len(scope) == 1:
            count = self.draw(st.integers(units, self.capacity(scope)))
            leaf = self.exclusive(scope[0], count)
            return leaf if count == units else self.choose([leaf], units)
        wanted = max(units, self.draw(_OFTEN_SEVERAL))
        elements = self.elements(scope, min(wanted, self.capacity(scope)))
        whole = len(elements) == 1 and elements[0].units == units
        return elements[0] if whole and self.draw(st.booleans()) else self.choose(elements, units)

    def elements(self, scope: Scope, units: int) -> list[Layer]:
        """Layers, side by side, of units that exclude each other: at least so many in all."""
        parts = self.split(scope)
        kind = self.draw(st.sampled_from(["values", "combinations", "primes"]))
        finite = [part for part in parts if len(part) == 1 and self.capacity(part) > 1]
        if kind == "values" and finite:
            widest = self.widest(part for part in parts if part != finite[0])
            if units <= 2 * self.capacity(widest):
                return self.by_value(parts, finite[0], widest, units)
        widest = self.widest(parts)
        if kind == "primes" and units <= self.capacity(widest):
            return self.by_prime(parts, widest, units)
        return [self.all_combinations(parts, units)]

    def widest(self, parts: Iterable[Scope]) -> Scope:
        """The part with the most states."""
        return max(parts, key=self.capacity)

    def by_value(self, parts: list[Scope], decides: Scope, inner: Scope, units: int) -> list[Layer]:
        """For every set of values of one variable a product of its own; some share a part."""
        variable = decides[0]
        sets = self.sets_of_values(variable, self.draw(st.integers(2, self.capacity(decides))))
        fewest = -(-units // len(sets))
        count = self.draw(st.integers(fewest, min(units, self.capacity(inner))))
        found: list[Layer] = []
        for values in sets:
            if not found or self.draw(st.booleans()):
                below = self.build(inner, count)
            literals = self.only(variable, [values] * count)
            found.append(self.times(parts, {decides: literals, inner: below}, count))
        return found

    def by_prime(self, parts: list[Scope], decides: Scope, units: int) -> list[Layer]:
        """Units over one part that exclude each other, each times units over the other parts."""
        primes = self.build(decides, units)
        if self.draw(st.booleans()):
            return [self.times(parts, {decides: primes}, units)]
        rows = torch.eye(units).log().unsqueeze(1)  # [K, 1, K]
        chosen = [SumLayer([primes], Parameter(row)) for row in rows]
        return [self.times(parts, {decides: prime}, 1) for prime in chosen]

    def times(self, parts: list[Scope], given: Mapping[Scope, Layer], units: int) -> ProductLayer:
        """Unit by unit: the given layers, and over the other parts any."""
        return ProductLayer([given.get(part) or self.any(part, units) for part in parts])

    def all_combinations(self, parts: list[Scope], units: int) -> ProductLayer:
        """Units over every part that exclude each other, and all combinations of them."""
        counts = [1] * len(parts)
        for i, part in enumerate(parts):
            while prod(counts) < units and counts[i] < self.capacity(part):
                counts[i] += 1
            if len(parts) < 4 and counts[i] < min(3, self.capacity(part)):
                counts[i] += self.draw(st.booleans())
        layers = [self.build(part, count) for part, count in zip(parts, counts, strict=True)]
        return ProductLayer(layers, "kronecker")

    def any(self, scope: Scope, units: int) -> Layer:
        """Units that need not exclude each other."""
        if len(scope) == 1 and self.draw(st.booleans()):
            return self.leaf(scope[0], units)
        below = self.build(scope, self.draw(st.integers(1, min(3, self.capacity(scope)))))
        return SumLayer([below], Parameter(self.some_weight(units, below.units)))

    def choose(self, layers: list[Layer], units: int) -> SumLayer:
        """Sums over units that exclude each other, each of which is read at most once."""
        if all(layer.units == units for layer in layers) and self.draw(st.booleans()):
            return SumLayer(layers, Parameter(self.some_weight(units, len(layers))), mixing=True)
        J = sum(layer.units for layer in layers)
        rest = torch.randint(-1, units, (J - units,), generator=self.generator)  # -1: by nobody
        reader = torch.cat([torch.arange(units), rest])  # [J]
        logits = torch.randn(units, J, generator=self.generator)
        apart = reader != torch.arange(units).unsqueeze(-1)  # [K, J]
        return SumLayer(layers, Parameter(logits.masked_fill(apart, -torch.inf)))

    def some_weight(self, units: int, inputs: int) -> Tensor:
        """Logits [K, J], some of them hard zeros."""
        logits = torch.randn(units, inputs, generator=self.generator)
        zero = torch.rand(units, inputs, generator=self.generator) < 0.2
        zero[:, -1] = False
        return logits.masked_fill(zero, -torch.inf)

    def exclusive(self, variable: int, units: int) -> InputLayer:
        """Input units that share no value; a single one is of the variable's family."""
        if units == 1:
            return self.leaf(variable, 1)
        return self.only(variable, self.sets_of_values(variable, units))

    def sets_of_values(self, variable: int, count: int) -> list[list[int]]:
        """Disjoint sets of values, none of them empty; some values may be in none."""
        V = self.capacity((variable,))
        order = torch.randperm(V, generator=self.generator).tolist()
        sets = [[value] for value in order[:count]]
        for value in order[count:]:
            place = int(torch.randint(-1, count, (), generator=self.generator))
            if place >= 0:
                sets[place].append(value)
        return [sorted(values) for values in sets]
