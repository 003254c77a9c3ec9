"""Two circuits side by side: which layers over the same variables meet, from the roots down.

What is computed of a pair is somebody else's business, an `Algebra`: nothing but a proof, numbers,
or the layers of a product. Scopes are bit masks of variables, so that circuits can be compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar, runtime_checkable

from pcflow.circuit.layers import InputLayer, Layer, ProductLayer, SumLayer
from pcflow.circuit.scopes import Scopes
from pcflow.errors import NotCompatible

T = TypeVar("T")
Pair = tuple[Layer, Layer]


@runtime_checkable
class Structure(Protocol):
    """What a proof needs of a circuit."""

    @property
    def root(self) -> Layer:
        """The output layer."""
        ...

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Every layer, inputs before the layers that read them."""
        ...

    @property
    def scopes(self) -> Scopes:
        """The scope of every layer."""
        ...


@dataclass(frozen=True)
class Part(Generic[T]):
    """Inputs of two products that are over the same variables.

    Attributes:
        left: places among the inputs of the first product.
        right: places among those of the second.
        value: what was computed of the two groups, each a product if it has several members.
    """

    left: tuple[int, ...]
    right: tuple[int, ...]
    value: T


class Algebra(Protocol[T]):
    """What becomes of a pair of layers, given what became of the pairs below."""

    def inputs(self, a: InputLayer, b: InputLayer) -> T:
        """Two layers of input units over one variable."""
        ...

    def sums(self, a: Layer, b: Layer, grid: list[list[T]]) -> T:
        """At least one is a sum; the other counts as one that reads only itself, unit by unit."""
        ...

    def products(self, a: ProductLayer, b: ProductLayer, parts: list[Part[T]]) -> T:
        """Two products, with their inputs matched."""
        ...


def walk(a: Structure, b: Structure, algebra: Algebra[T]) -> T:
    """Go through all pairs of layers that meet, those below first.

    Raises:
        NotCompatible: if two products split the same variables in ways that do not nest, or the
            circuits are over different variables.
    """
    pairs = _Pairs(a, b)
    done: dict[Pair, T] = {}
    stack = [(a.root, b.root)]
    while stack:
        pair = stack[-1]
        waiting = [below for below in pairs.below(pair) if below not in done]
        if waiting:
            stack.extend(waiting)
            continue
        stack.pop()
        if pair not in done:
            done[pair] = pairs.combine(pair, algebra, done)
    return done[a.root, b.root]


class _Pairs:
    """Pairs of layers over the same variables, and the pairs that they read."""

    def __init__(self, a: Structure, b: Structure) -> None:
        self.masks = _masks(a) | _masks(b)
        self.names = max(a.scopes.met + b.scopes.met) + 1
        self.groups: dict[tuple[str, tuple[Layer, ...]], Layer] = {}
        self.matched: dict[Pair, list[Part[Pair]]] = {}
        if self.masks[a.root] != self.masks[b.root]:
            raise NotCompatible(a.root, b.root, self.scopes([a.root]), self.scopes([b.root]))

    def below(self, pair: Pair) -> Iterator[Pair]:
        """The pairs that a pair reads."""
        a, b = pair
        if isinstance(a, SumLayer) or isinstance(b, SumLayer):
            return ((x, y) for x in members(a) for y in members(b))
        if isinstance(a, ProductLayer) and isinstance(b, ProductLayer):
            if pair not in self.matched:
                self.matched[pair] = list(self.match(a, b))
            return (part.value for part in self.matched[pair])
        return iter(())

    def combine(self, pair: Pair, algebra: Algebra[T], done: Mapping[Pair, T]) -> T:
        """What the algebra makes of a pair."""
        a, b = pair
        if isinstance(a, SumLayer) or isinstance(b, SumLayer):
            return algebra.sums(a, b, [[done[x, y] for y in members(b)] for x in members(a)])
        if isinstance(a, ProductLayer) and isinstance(b, ProductLayer):
            matched = self.matched[pair]
            return algebra.products(
                a, b, [Part(part.left, part.right, done[part.value]) for part in matched]
            )
        assert isinstance(a, InputLayer)
        assert isinstance(b, InputLayer)
        return algebra.inputs(a, b)

    def match(self, a: ProductLayer, b: ProductLayer) -> Iterator[Part[Pair]]:
        """Inputs of equal scopes, or one input and several that make up its scope."""
        there = [self.masks[y] for y in b.inputs]
        whole = {mask: j for j, mask in enumerate(there)}
        gathered: dict[int, list[int]] = {}
        for i, x in enumerate(a.inputs):
            mask = self.masks[x]
            if mask in whole:
                yield Part((i,), (whole[mask],), (x, b.inputs[whole[mask]]))
                continue
            touched = tuple(j for j, other in enumerate(there) if mask & other)
            if all(there[j] | mask == mask for j in touched):
                yield Part((i,), touched, (x, self.group(b, touched)))
            elif len(touched) == 1:
                gathered.setdefault(touched[0], []).append(i)
            else:
                raise NotCompatible(a, b, self.scopes(a.inputs), self.scopes(b.inputs))
        for j, some in gathered.items():
            yield Part(tuple(some), (j,), (self.group(a, tuple(some)), b.inputs[j]))

    def group(self, product: ProductLayer, places: tuple[int, ...]) -> Layer:
        """The product of some of a product's inputs; always the same layer."""
        inputs = tuple(product.inputs[i] for i in places)
        key = product.kind, inputs
        if key not in self.groups:
            self.groups[key] = ProductLayer(inputs, product.kind)
        return self.groups[key]

    def scopes(self, layers: tuple[Layer, ...] | list[Layer]) -> list[tuple[int, ...]]:
        """The variables below each layer."""
        masks = (self.masks[layer] for layer in layers)
        return [tuple(v for v in range(self.names) if mask >> v & 1) for mask in masks]


def members(layer: Layer) -> tuple[Layer, ...]:
    """What a sum mixes; of any other layer, itself."""
    return layer.inputs if isinstance(layer, SumLayer) else (layer,)


def _masks(circuit: Structure) -> dict[Layer, int]:
    """A bit mask of variables for every layer."""
    masks: dict[Layer, int] = {}
    for layer in circuit.layers:
        if isinstance(layer, InputLayer):
            masks[layer] = 1 << layer.variable
        elif isinstance(layer, SumLayer):
            masks[layer] = masks[layer.inputs[0]]
        else:
            masks[layer] = sum(masks[child] for child in layer.inputs)
    return masks


class CountPairs:
    """The algebra of a proof: that the walk comes to its end is all."""

    def __init__(self) -> None:
        """No pair yet."""
        self.pairs = 0

    def inputs(self, a: InputLayer, b: InputLayer) -> None:
        """One more."""
        self.pairs += 1

    def sums(self, a: Layer, b: Layer, grid: list[list[None]]) -> None:
        """One more."""
        self.pairs += 1

    def products(self, a: ProductLayer, b: ProductLayer, parts: list[Part[None]]) -> None:
        """One more."""
        self.pairs += 1
