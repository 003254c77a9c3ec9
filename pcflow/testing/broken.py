"""Hypothesis strategies for near misses: one change away from a property, to be refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args, overload

import torch
from hypothesis import strategies as st

from pcflow.circuit import Circuit, Layer, Parameter, ProductLayer, SumLayer
from pcflow.errors import StructureError
from pcflow.inputs import InputFamily
from pcflow.testing.builders import Decisions, Mixtures
from pcflow.testing.ingredients import SEEDS, Split, anyhow, finite_families, one_by_one

OfLayers = Literal["smooth", "decomposable"]
OfCircuits = Literal["structured_decomposable", "deterministic", "omni_compatible"]
OfPairs = Literal["compatible"]
Pair = tuple[Circuit, Circuit]
Kind = Literal["hadamard", "kronecker"]
Sources = tuple[st.DrawFn, Sequence[InputFamily], Split, torch.Generator]


@overload
def broken(property: OfLayers) -> st.SearchStrategy[Layer]: ...
@overload
def broken(property: OfCircuits) -> st.SearchStrategy[Circuit]: ...
@overload
def broken(property: OfPairs) -> st.SearchStrategy[Pair]: ...
def broken(
    property: OfLayers | OfCircuits | OfPairs,
) -> st.SearchStrategy[Layer] | st.SearchStrategy[Circuit] | st.SearchStrategy[Pair]:
    """Near misses, over at most four variables: each one small change away from the property.

    Args:
        property: "smooth" or "decomposable" draws a root layer that `Circuit` refuses;
            "structured_decomposable", "deterministic" or "omni_compatible" a circuit that truly
            lacks the property; "compatible" a pair of circuits.

    Returns:
        A strategy; of pairs of circuits, for properties of pairs.

    Raises:
        StructureError: if the property is unknown.

    Examples:
        >>> import pcflow as pf
        >>> from hypothesis import given, settings
        >>> @settings(max_examples=5)
        ... @given(broken("deterministic"))
        ... def law(circuit):
        ...     assert not pf.is_deterministic(circuit)
        >>> law()
    """
    if property not in _STRATEGIES:
        raise StructureError(f"properties are {', '.join(_STRATEGIES)}; got {property!r}")
    return _STRATEGIES[property]()


@st.composite
def _not_smooth(draw: st.DrawFn) -> Layer:
    """A sum of two inputs of different scopes."""
    order = draw(st.permutations(range(draw(st.integers(2, 3)))))
    stop = draw(st.integers(1, len(order)))
    start = draw(st.integers(int(stop == len(order)), min(stop, len(order) - 1)))
    make, units = _mixtures(draw), draw(st.integers(1, 2))
    below = [make.build(tuple(order[:stop]), units), make.build(tuple(order[start:]), units)]
    bad = SumLayer.random(below, units, draw(st.booleans()), make.generator)
    return _root(make, _beside(make, bad, len(order)))


@st.composite
def _not_decomposable(draw: st.DrawFn) -> Layer:
    """A product of two inputs that share a variable."""
    order = draw(st.permutations(range(draw(st.integers(1, 3)))))
    stop = draw(st.integers(1, len(order)))
    start = draw(st.integers(0, stop - 1))
    make, units = _mixtures(draw), draw(st.integers(1, 2))
    below = [make.build(tuple(order[:stop]), units), make.build(tuple(order[start:]), units)]
    return _root(make, _beside(make, ProductLayer(below, draw(_KINDS)), len(order)))


@st.composite
def _not_structured_decomposable(draw: st.DrawFn) -> Circuit:
    """Two products that split three variables in ways that cross; a fourth may decide which."""
    make, units = _mixtures(draw), draw(st.integers(1, 2))
    ways: list[Layer] = list(_crossing(make, units))
    decided = draw(st.booleans())
    if decided:
        literals = [make.only(3, [[value]] * units) for value in (0, 1)]
        ways = [ProductLayer(both) for both in zip(literals, ways, strict=True)]
    layer = SumLayer.random(ways, units, draw(st.booleans()), make.generator)
    return Circuit(_root(make, layer if decided else _beside(make, layer, 3)))


@st.composite
def _not_deterministic(draw: st.DrawFn) -> Circuit:
    """A sum of two units, both positive in some state; everything else decides."""
    make = Decisions(*_sources(draw, anyhow(draw)))
    scope = tuple(range(draw(st.integers(1, 2))))
    kind = draw(st.sampled_from(["twice", "overlap", "shared element"]))
    if kind == "twice":
        below = [make.build(scope)] * 2
    elif kind == "overlap":
        last = make.capacity((0,)) - 1
        sets = [[0], [0, 1]] if last == 1 else [[0, 1], [1, 2]]
        below = [make.only(0, [values]) for values in sets]
        if len(scope) == 2:
            rest = make.build((1,))
            below = [ProductLayer([leaf, rest]) for leaf in below]
    else:
        logits = torch.tensor([[0.0, 0.0], [-torch.inf, 0.0]])
        below = [SumLayer([make.build(scope, 2)], Parameter(logits))]
    return Circuit(_beside(make, SumLayer.random(below, generator=make.generator), len(scope)))


@st.composite
def _not_omni_compatible(draw: st.DrawFn) -> Circuit:
    """A product one of whose inputs has two variables or more."""
    order = draw(st.permutations(range(draw(st.integers(3, 4)))))
    stop = draw(st.integers(2, len(order) - 1))
    make, units = _mixtures(draw), draw(st.integers(1, 2))
    below = [make.build(tuple(order[:stop]), units), make.build(tuple(order[stop:]), units)]
    return Circuit(_root(make, ProductLayer(draw(st.permutations(below)))))


@st.composite
def _not_compatible(draw: st.DrawFn) -> tuple[Circuit, Circuit]:
    """Two circuits, some of whose products split three variables in ways that cross."""
    make, units = _mixtures(draw), draw(st.integers(1, 2))
    if draw(st.integers(0, 3)) == 3:
        few, more = make.build((0, 1), units), make.build((0, 1, 2), units)
        return Circuit(_root(make, few)), Circuit(_root(make, more))
    one, other = _crossing(make, units)
    mixed: Layer = other
    if draw(st.booleans()):
        mixed = SumLayer.random([one, other], units, generator=make.generator)
    pair: list[Layer] = [one, mixed]
    if draw(st.booleans()):
        pair = [ProductLayer([layer, make.leaf(3, units)]) for layer in pair]
    a, b = draw(st.permutations(pair))
    return Circuit(_root(make, a)), Circuit(_root(make, b))


_KINDS = st.sampled_from(get_args(Kind))
_STRATEGIES: dict[str, Callable[[], st.SearchStrategy[Any]]] = {
    "smooth": _not_smooth,
    "decomposable": _not_decomposable,
    "structured_decomposable": _not_structured_decomposable,
    "deterministic": _not_deterministic,
    "omni_compatible": _not_omni_compatible,
    "compatible": _not_compatible,
}


def _sources(draw: st.DrawFn, split: Split) -> Sources:
    """What a builder needs, for up to four variables of finite range."""
    families = draw(st.lists(finite_families(), min_size=4, max_size=4))
    return draw, families, split, torch.Generator().manual_seed(draw(SEEDS))


def _mixtures(draw: st.DrawFn) -> Mixtures:
    return Mixtures(*_sources(draw, one_by_one(draw)))


def _crossing(make: Mixtures, units: int) -> tuple[Layer, Layer]:
    """Products over three variables, two and one, one and two."""
    a, b, c = make.draw(st.permutations(range(3)))
    one = ProductLayer([make.build((a, b), units), make.build((c,), units)])
    return one, ProductLayer([make.build((a,), units), make.build((b, c), units)])


def _beside(make: Mixtures, layer: Layer, variable: int) -> Layer:
    """The layer, perhaps in a product with another variable."""
    if make.draw(st.booleans()):
        return ProductLayer([layer, make.leaf(variable, layer.units)])
    return layer


def _root(make: Mixtures, layer: Layer) -> Layer:
    """One unit on top."""
    return layer if layer.units == 1 else SumLayer.random([layer], generator=make.generator)
