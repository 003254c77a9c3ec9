"""Hypothesis strategies for circuits that are proved to have properties, and for pairs of them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Literal

import torch
from hypothesis import strategies as st

from pcflow.circuit import Circuit, InputLayer, Layer, ProductLayer, SumLayer
from pcflow.construct import chow_liu
from pcflow.errors import StructureError
from pcflow.inputs import Indicator, InputFamily
from pcflow.testing.builders import Decisions, Mixtures
from pcflow.testing.ingredients import (
    SEEDS,
    Split,
    along,
    anyhow,
    finite_families,
    one_by_one,
    sizes,
    vtrees,
)

Property = Literal["structured_decomposable", "deterministic", "omni_compatible"]
PROPERTIES: tuple[Property, ...] = ("structured_decomposable", "deterministic", "omni_compatible")


@st.composite
def deterministic_circuits(draw: st.DrawFn, max_variables: int = 6) -> Circuit:
    """Random decision diagrams over binary variables: deterministic, so that MPE is exact.

    Every sum decides on one variable; its branches may share what comes after. For deterministic
    circuits of other kinds see `circuits(properties=["deterministic"])`.

    Examples:
        >>> import pcflow as pf
        >>> from hypothesis import find
        >>> pf.is_deterministic(find(deterministic_circuits(), lambda c: c.num_variables == 3))
        True
    """
    generator = torch.Generator().manual_seed(draw(SEEDS))
    below: list[Layer] = []
    for variable in reversed(range(draw(st.integers(1, max_variables)))):
        nodes: list[Layer] = []
        for _ in range(2 if variable else 1):
            picks = torch.randint(2, (2,), generator=generator).tolist()
            branches: list[Layer] = []
            for value, pick in enumerate(picks):
                literal = InputLayer(variable, Indicator(value))
                branches.append(ProductLayer([literal, below[pick]]) if below else literal)
            nodes.append(SumLayer.random(branches, generator=generator))
        below = nodes
    return Circuit(below[0])


@st.composite
def tree_distributions(draw: st.DrawFn, max_variables: int = 6) -> Circuit:
    """Chow-Liu trees of random rows over 2 or 3 values: every sum decides on one variable.

    Examples:
        >>> import pcflow as pf
        >>> from hypothesis import given, settings
        >>> @settings(max_examples=5)
        ... @given(tree_distributions())
        ... def law(circuit):
        ...     assert pf.is_deterministic(circuit)
        >>> law()
    """
    values = torch.tensor([draw(st.integers(2, 3)) for _ in range(draw(sizes(max_variables)))])
    generator = torch.Generator().manual_seed(draw(SEEDS))
    rows = (torch.rand(12, len(values), generator=generator) * values).long()
    alpha = draw(st.sampled_from([1.0, 0.0]))  # without smoothing some weights are hard zeros
    return chow_liu(torch.cat([rows, values.unsqueeze(0) - 1]), alpha)


@st.composite
def circuits_with(
    draw: st.DrawFn,
    max_variables: int,
    families: st.SearchStrategy[InputFamily] | None,
    properties: frozenset[Property],
) -> Circuit:
    """Circuits with at least the given properties."""
    if "deterministic" in properties and families is None and "omni_compatible" not in properties:
        kind = draw(st.sampled_from(["decisions", "decisions", "diagram", "tree"]))
        if kind == "diagram":
            return draw(deterministic_circuits(max_variables))
        if kind == "tree":
            return draw(tree_distributions(max_variables))
    inputs = draw(_inputs(max_variables, families))
    return _build(draw, inputs, _split(draw, len(inputs), properties), properties)


@st.composite
def compatible_circuits(
    draw: st.DrawFn,
    max_variables: int = 4,
    families: st.SearchStrategy[InputFamily] | None = None,
    properties: Collection[Property] = (),
) -> tuple[Circuit, Circuit]:
    """Two circuits over the same variables whose product is a circuit.

    Both split variables along one vtree, in different orders and into different numbers of parts;
    or the first splits them one by one, the second anyhow. Both have the same family at every
    variable, but where they decide on it: those units are Indicator or Categorical.

    Args:
        draw: given by Hypothesis.
        max_variables: the largest number of variables.
        families: of the inputs, one drawn per variable; by default finite ones.
        properties: what both circuits are proved to be.

    Raises:
        StructureError: if a property is unknown.

    Examples:
        >>> import pcflow as pf
        >>> from hypothesis import given, settings
        >>> @settings(max_examples=5)
        ... @given(compatible_circuits())
        ... def law(pair):
        ...     pf.multiply(*pair)
        >>> law()
    """
    wanted = known_properties(properties)
    inputs = draw(_inputs(max_variables, families))
    vtree = draw(vtrees(len(inputs)))
    split = along(draw, vtree)
    kinds = [(split, split), (one_by_one(draw), one_by_one(draw))]
    if "structured_decomposable" not in wanted:
        kinds.append((one_by_one(draw), anyhow(draw)))
    pair = kinds[1] if "omni_compatible" in wanted else draw(st.sampled_from(kinds))
    return _build(draw, inputs, pair[0], wanted), _build(draw, inputs, pair[1], wanted)


def known_properties(properties: Collection[Property]) -> frozenset[Property]:
    """The properties, if all are known.

    Raises:
        StructureError: if one is not.
    """
    unknown = sorted(set(properties) - set(PROPERTIES))
    if unknown:
        raise StructureError(f"properties are {', '.join(PROPERTIES)}; got {unknown[0]!r}")
    return frozenset(properties)


@st.composite
def _inputs(
    draw: st.DrawFn, max_variables: int, families: st.SearchStrategy[InputFamily] | None
) -> list[InputFamily]:
    """A family for each of some variables."""
    some = finite_families() if families is None else families
    return [draw(some) for _ in range(draw(sizes(max_variables)))]


def _split(draw: st.DrawFn, variables: int, properties: frozenset[Property]) -> Split:
    if "omni_compatible" in properties:
        return one_by_one(draw)
    if "structured_decomposable" in properties or not draw(st.sampled_from([False, True, True])):
        return along(draw, draw(vtrees(variables)))
    return anyhow(draw)


def _build(
    draw: st.DrawFn,
    inputs: Sequence[InputFamily],
    split: Split,
    properties: frozenset[Property],
) -> Circuit:
    generator = torch.Generator().manual_seed(draw(SEEDS))
    kind = Decisions if "deterministic" in properties else Mixtures
    builder = kind(draw, inputs, split, generator)
    scope = tuple(range(len(inputs)))
    if kind is Decisions:
        return Circuit(builder.build(scope))
    units = draw(st.integers(1, 2))
    layer = builder.build(scope, units)
    return Circuit(layer if units == 1 else SumLayer.random([layer], 1, generator=generator))
