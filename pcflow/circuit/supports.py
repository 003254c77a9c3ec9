"""Supports: which values are possible below a unit, and which units exclude each other.

Only structure and hard zeros count (indicators, logits of minus infinity), never other parameters.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Generator, Iterable, Sequence
from functools import reduce
from itertools import product
from operator import or_

from pcflow.circuit.layers import InputLayer, Layer, ProductLayer, SumLayer, Unit
from pcflow.circuit.pairing import Structure
from pcflow.circuit.scopes import Scope
from pcflow.inputs import FiniteFamily

Support = dict[int, int]
"""For each variable with excluded values, a bit mask of the values that remain possible."""

Pair = tuple[Unit, Unit]

Units = frozenset[Unit]

LOOKS = 16
"""Units that are looked at in sets, for every edge of a circuit, before only pairs are."""


class Supports:
    """The support of every unit of a circuit, found as it is asked for."""

    def __init__(self, circuit: Structure) -> None:
        """Nothing is known yet."""
        self._scopes = circuit.scopes
        self._supports: dict[Layer, list[Support]] = {}
        self._active: dict[SumLayer, list[list[Unit]]] = {}
        self._excluded: dict[Pair, bool] = {}
        self._multiplied: dict[Unit, dict[Scope, Unit]] = {}
        self._families: dict[Units, bool] = {}
        self._looks = LOOKS * sum(len(layer.inputs) * layer.units for layer in circuit.layers)
        self._every: dict[int, int] = {}  # the mask of all values of a variable

    def visit(self, layer: Layer) -> None:
        """Find the supports of a layer, once those of its inputs are found."""
        self._supports[layer] = self._of_layer(layer)

    def of(self, unit: Unit) -> Support:
        """The support of one unit."""
        return self._supports[unit[0]][unit[1]]

    def active(self, layer: SumLayer, unit: int) -> list[Unit]:
        """The units to which one sum unit gives a weight above zero."""
        if layer not in self._active:
            self._active[layer] = layer.edges()
        return self._active[layer][unit]

    def decides(self, units: Sequence[Unit]) -> int | None:
        """The first variable by whose value alone any two of the units exclude each other."""
        masks = [self.of(unit) for unit in units]
        shared = sorted(v for v in masks[0] if all(v in mask for mask in masks))
        return next((v for v in shared if _are_apart(mask[v] for mask in masks)), None)

    def are_family(self, units: Sequence[Unit]) -> bool:
        """Whether it is easily seen that any two of the units exclude each other.

        False says nothing, pairs may exclude each other all the same. Units are looked at together,
        which takes as long as they have inputs, where pairs take the square of that. But there are
        more sets than pairs, so that sets are given up after so many `LOOKS`.
        """
        return len(set(units)) == len(units) and self._settle_family(frozenset(units))

    def _settle_family(self, units: Units) -> bool:
        """A list in place of recursion: what a search asks for is found out before it goes on."""
        answer = self._families.get(units)
        stack = [] if answer is not None else [(units, self._search(units))]
        while stack:
            try:
                asked = stack[-1][1].send(answer)
            except StopIteration as end:
                answer = self._families[stack.pop()[0]] = bool(end.value)
            else:
                answer = self._families.get(asked)
                if answer is None:
                    stack.append((asked, self._search(asked)))
        return bool(answer)

    def _search(self, units: Units) -> Generator[Units, bool | None, bool]:
        """Whether units are a family; asks the same of the units below that it names."""
        parts = list(units)
        while any(isinstance(layer, SumLayer) for layer, _ in parts):
            parts = [one for unit in parts for one in self._inputs(unit)]
            self._looks -= len(parts)
        if len(parts) == 1:
            return True
        if self._looks < 0 or len(set(parts)) < len(parts):
            return False
        if self.decides(parts) is not None:
            return True
        if not all(isinstance(layer, ProductLayer) for layer, _ in parts):
            return False
        factors = [self._factors(unit) for unit in parts]
        for scope in factors[0]:
            if all(scope in some for some in factors) and (yield from self._split(factors, scope)):
                return True
        return False

    def _split(
        self, products: list[dict[Scope, Unit]], scope: Scope
    ) -> Generator[Units, bool | None, bool]:
        """Whether products are told apart by one factor, and those that share it by another."""
        self._looks -= len(products)
        sharing: dict[Unit, list[dict[Scope, Unit]]] = defaultdict(list)
        for factors in products:
            sharing[factors[scope]].append(factors)
        if not (yield frozenset(sharing)):
            return False
        for some in sharing.values():
            if len(some) > 1 and not (yield from self._by_another(some, scope)):
                return False
        return True

    def _by_another(
        self, products: list[dict[Scope, Unit]], scope: Scope
    ) -> Generator[Units, bool | None, bool]:
        for other in products[0]:
            if other != scope and all(other in factors for factors in products):
                units = frozenset(factors[other] for factors in products)
                if len(units) == len(products) and (yield units):
                    return True
        return False

    def exclude(self, a: Unit, b: Unit) -> bool:
        """Whether no assignment makes both units positive, as far as structure can tell."""
        while not isinstance(answer := self._look(a, b), bool):
            self._settle(answer)
        return answer

    def _look(self, a: Unit, b: Unit) -> bool | Pair:
        """Whether two units exclude each other; or a pair below that must be settled first."""
        known = self._excluded.get((a, b))
        if known is not None:
            return known
        if isinstance(a[0], ProductLayer) and isinstance(b[0], ProductLayer):
            return self._look_at_products(a, b)
        if a == b or _disjoint(self.of(a), self.of(b)):
            return a != b
        return (a, b) if isinstance(a[0], SumLayer) or isinstance(b[0], SumLayer) else False

    def _look_at_products(self, a: Unit, b: Unit) -> bool | Pair:
        """Products exclude each other if two of their factors over the same variables do."""
        here, there, known = self._factors(a), self._factors(b), self._excluded
        if here.keys() != there.keys() and _disjoint(self.of(a), self.of(b)):
            return True
        first: Pair | None = None
        for scope, unit in here.items():
            if scope not in there:
                continue
            pair = unit, there[scope]
            answer: bool | Pair | None = known.get(pair)
            if answer is None:
                nested = isinstance(unit[0], ProductLayer) and isinstance(pair[1][0], ProductLayer)
                answer = pair if nested else self._look(*pair)
            if answer is True:
                return True
            if not isinstance(answer, bool):
                first = first or answer
        return first or False

    def _settle(self, pair: Pair) -> None:
        """Find out about a pair; a sum excludes what all its inputs exclude.

        A list in place of recursion: circuits may be as deep as they have variables.
        """
        stack = [(pair, self._below(*pair))]
        while stack:
            pair, below = stack[-1]
            answer: bool | Pair = True
            while below and answer is True:
                answer = self._look(*below[-1])
                if answer is True:
                    below.pop()
            if isinstance(answer, bool):
                self._excluded[pair] = answer
                stack.pop()
            else:
                stack.append((answer, self._below(*answer)))

    def _below(self, a: Unit, b: Unit) -> list[Pair]:
        """Pairs of inputs, the first one last; what is no sum counts as one of itself."""
        return list(product(self._inputs(a), self._inputs(b)))[::-1]

    def _inputs(self, unit: Unit) -> list[Unit]:
        layer, number = unit
        return self.active(layer, number) if isinstance(layer, SumLayer) else [unit]

    def _factors(self, unit: Unit) -> dict[Scope, Unit]:
        """What a product unit multiplies, by scope."""
        if unit not in self._multiplied:
            assert isinstance(unit[0], ProductLayer)
            parts = unit[0].factors(unit[1])
            self._multiplied[unit] = {self._scopes[part[0]]: part for part in parts}
        return self._multiplied[unit]

    def _of_layer(self, layer: Layer) -> list[Support]:
        if isinstance(layer, InputLayer):
            return self._of_inputs(layer)
        if isinstance(layer, SumLayer):
            units = (self.active(layer, unit) for unit in range(layer.units))
            return [self._union([self.of(unit) for unit in some]) for some in units]
        factors = (layer.factors(unit) for unit in range(layer.units))
        return [{v: m for part in parts for v, m in self.of(part).items()} for parts in factors]

    def _of_inputs(self, layer: InputLayer) -> list[Support]:
        if not isinstance(layer.family, FiniteFamily):
            return [{}] * layer.units
        possible = layer.log_table() > -float("inf")  # [V, K]
        self._every[layer.variable] = (1 << len(possible)) - 1
        if possible.all():
            return [{}] * layer.units
        masks = [_mask(column) for column in possible.t().tolist()]
        return [self._kept({layer.variable: mask}) for mask in masks]

    def _union(self, supports: list[Support]) -> Support:
        """Values possible in any of them; a variable free in one is free in the union."""
        shared = set.intersection(*(set(s) for s in supports))
        return self._kept({v: reduce(or_, (s[v] for s in supports)) for v in shared})

    def _kept(self, support: Support) -> Support:
        """Without the variables of which every value is possible."""
        return {v: mask for v, mask in support.items() if mask != self._every[v]}


def _mask(possible: list[bool]) -> int:
    """A bit for every value that is possible."""
    return sum(1 << value for value, some in enumerate(possible) if some)


def values_of(mask: int) -> tuple[int, ...]:
    """The values in a bit mask."""
    return tuple(v for v in range(mask.bit_length()) if mask >> v & 1)


def _are_apart(masks: Iterable[int]) -> bool:
    """Whether no value is in two of the masks."""
    taken = 0
    for mask in masks:
        if taken & mask:
            return False
        taken |= mask
    return True


def _disjoint(a: Support, b: Support) -> bool:
    return any(mask & b[v] == 0 for v, mask in a.items() if v in b)
