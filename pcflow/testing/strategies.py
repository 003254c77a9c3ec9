"""Hypothesis strategies: region graphs, circuits of every kind, and evidence about them."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from hypothesis import strategies as st
from torch import Tensor

from pcflow.circuit import Circuit, InputLayer, Layer, Parameter, ProductLayer, SumLayer
from pcflow.construct import build_circuit, hmm
from pcflow.evidence import Evidence
from pcflow.inputs import InputFamily
from pcflow.queries import compile
from pcflow.structure import (
    RegionGraph,
    chain,
    fully_factorized,
    poon_domingos,
    quad_graph,
    quad_tree,
    random_binary_tree,
)
from pcflow.testing.by_property import Property, circuits_with, known_properties
from pcflow.testing.ingredients import SEEDS, finite_families, sizes


@st.composite
def region_graphs(draw: st.DrawFn, max_variables: int = 6) -> RegionGraph:
    """Region graphs of every kind over at most `max_variables` variables.

    Examples:
        >>> from hypothesis import find
        >>> find(region_graphs(), lambda rg: rg.num_variables == 1).root
        Region(variables=(0,))
    """
    counts = st.integers(1, max_variables)
    grids = {"quad tree": quad_tree, "quad graph": quad_graph, "cuts": poon_domingos}
    kind = draw(st.sampled_from(["factorized", "chain", "binary", *grids]))
    if kind in grids:
        height = draw(counts)
        width = draw(st.integers(1, max_variables // height))
        return grids[kind]((height, width))
    count = draw(counts)
    if kind == "binary":
        depth = draw(st.none() | st.integers(0, 3))
        return random_binary_tree(count, depth, draw(st.integers(1, 3)), seed=draw(SEEDS))
    return fully_factorized(count) if kind == "factorized" else chain(count)


def circuits(
    max_variables: int = 6,
    families: st.SearchStrategy[InputFamily] | None = None,
    properties: Collection[Property] = (),
) -> st.SearchStrategy[Circuit]:
    """Circuits of every kind: CP, Tucker and HMM, tied parameters, hard zeros, built by hand.

    With properties: mixtures of products along a vtree or one by one; deterministic ones are
    decision diagrams, tree distributions, and sums of units that exclude each other by any
    variables, with or without a common vtree.

    Args:
        max_variables: the largest number of variables.
        families: of the inputs, one drawn per variable; by default finite ones, so that
            every query can be checked by enumeration.
        properties: what the circuits are proved to be, among "structured_decomposable",
            "deterministic" and "omni_compatible"; all are smooth and decomposable.

    Returns:
        A strategy.

    Raises:
        StructureError: if a property is unknown.

    Examples:
        >>> from hypothesis import find
        >>> some = circuits(properties=["deterministic"])
        >>> print(find(some, lambda c: len(c.layers) == 2).properties.deterministic)
        deterministic: sums decide on variable 0: {0} | {1}
    """
    wanted = known_properties(properties)
    some = finite_families() if families is None else families
    drawn = circuits_with(max_variables, families, wanted)
    if wanted <= {"structured_decomposable"}:
        drawn |= _hmms(max_variables, some) | _by_hand(max_variables, some)
    if not wanted:
        drawn |= _on_region_graphs(max_variables, some)
        drawn |= circuits_with(max_variables, families, frozenset({"deterministic"}))
    return _with_some_zeros(drawn)


@st.composite
def _with_some_zeros(draw: st.DrawFn, drawn: st.SearchStrategy[Circuit]) -> Circuit:
    circuit = draw(drawn)
    share = draw(st.sampled_from([0.0, 0.0, 0.3]))
    if share == 0.0:
        return circuit
    return _with_zeros(circuit, share, torch.Generator().manual_seed(draw(SEEDS)))


@st.composite
def _on_region_graphs(
    draw: st.DrawFn, max_variables: int, families: st.SearchStrategy[InputFamily]
) -> Circuit:
    generator = torch.Generator().manual_seed(draw(SEEDS))
    graph = draw(region_graphs(max_variables))
    inputs = [draw(families) for _ in range(graph.num_variables)]
    if draw(st.booleans()):
        return build_circuit(graph, inputs, draw(st.integers(1, 2)), "tucker", generator)
    return build_circuit(graph, inputs, draw(st.integers(1, 3)), "cp", generator)


@st.composite
def evidence(
    draw: st.DrawFn, circuit: Circuit, max_rows: int = 4, potentials: bool = True
) -> Evidence:
    """Evidence about a finite circuit: observed, missing and soft in any mixture, per row.

    Rows may be impossible: potentials of -inf occur.

    Args:
        draw: given by Hypothesis.
        circuit: every variable must have a finite range.
        max_rows: the largest number of rows.
        potentials: whether soft evidence occurs.

    Examples:
        >>> import pcflow as pf
        >>> from hypothesis import find
        >>> circuit = pf.hmm(2, states=1, inputs=pf.Bernoulli())
        >>> find(evidence(circuit), lambda e: bool(e.missing.all())).missing
        tensor([[True, True]])
    """
    sizes = torch.tensor([int(n or 0) for n in circuit.num_categories])
    generator = torch.Generator().manual_seed(draw(SEEDS))
    shape = (draw(st.integers(1, max_rows)), len(sizes))
    values = (torch.rand(shape, generator=generator) * sizes).long()
    share = draw(st.sampled_from([0.0, 0.5, 1.0]))
    missing = torch.rand(shape, generator=generator) < share
    soft = None
    if potentials and draw(st.booleans()):
        soft = 2.0 * torch.randn(*shape, int(sizes.max()), generator=generator)
        forbidden = torch.rand(soft.shape, generator=generator)
        soft = soft.masked_fill(forbidden < draw(st.sampled_from([0.0, 0.2])), -torch.inf)
    if draw(st.booleans()):
        return Evidence(values.double().masked_fill(missing, torch.nan), missing, soft)
    return Evidence(values, missing, soft)


@st.composite
def intervals(draw: st.DrawFn, circuit: Circuit, max_rows: int = 4) -> Evidence:
    """Evidence about any circuit: observed, missing, or in one or two intervals, in any mixture.

    Every row is possible: values are drawn, and intervals laid around them, which may be open to
    one side, be narrow, or overlap with each other. `lower` and `upper` are [B, D, U].

    Args:
        draw: given by Hypothesis.
        circuit: of finite variables and others.
        max_rows: the largest number of rows.

    Examples:
        >>> import pcflow as pf
        >>> from hypothesis import find
        >>> circuit = pf.hmm(2, states=1, inputs=pf.Gaussian())
        >>> find(intervals(circuit), lambda e: bool(e.lower.isfinite().all())).lower.shape
        torch.Size([1, 2, 1])
    """
    generator = torch.Generator().manual_seed(draw(SEEDS))
    rows, count = draw(st.integers(1, max_rows)), draw(st.integers(1, 2))
    values = compile(circuit, dtype=torch.float64).sample(rows, generator=generator).double()
    hidden = torch.rand(values.shape, generator=generator) < draw(st.sampled_from([0.5, 1.0]))
    shape = (*values.shape, count)

    def reach() -> Tensor:
        exponent = draw(st.sampled_from([-12.0, 0.0, 1.0])) + torch.randn(
            shape, generator=generator
        )
        return exponent.double().exp()

    lower, upper = values.unsqueeze(-1) - reach(), values.unsqueeze(-1) + reach()
    if count > 1:
        apart = 3 * torch.randn(values.shape, generator=generator).double()
        lower[..., 1] += apart
        upper[..., 1] += apart
    unbound = torch.rand((2, *shape), generator=generator) < draw(st.sampled_from([0.0, 0.3]))
    unbound |= unbound[..., :1].all(dim=0)  # or what is left would lie elsewhere
    return Evidence(
        values.masked_fill(hidden, torch.nan),
        lower=lower.masked_fill(unbound[0], torch.nan),
        upper=upper.masked_fill(unbound[1], torch.nan),
    )


@st.composite
def _hmms(draw: st.DrawFn, max_variables: int, families: st.SearchStrategy[InputFamily]) -> Circuit:
    generator = torch.Generator().manual_seed(draw(SEEDS))
    length, states = draw(sizes(max_variables)), draw(st.integers(1, 3))
    if draw(st.booleans()):
        return hmm(length, states, draw(families), generator=generator)
    inputs = [draw(families) for _ in range(length)]
    return hmm(length, states, inputs, homogeneous=False, generator=generator)


@st.composite
def _by_hand(
    draw: st.DrawFn, max_variables: int, families: st.SearchStrategy[InputFamily]
) -> Circuit:
    """Products of both kinds, sums of both kinds, inputs side by side, parameters tied."""
    generator = torch.Generator().manual_seed(draw(SEEDS))
    count = draw(sizes(max_variables))
    inputs = [draw(families) for _ in range(count)]
    tie = draw(st.booleans())

    def half(start: int, stop: int) -> Layer:
        if stop - start == 1:
            layers = [InputLayer.random(start, inputs[start], 2, generator) for _ in range(2)]
            if tie:
                layers[1] = InputLayer(start, inputs[start], 2, layers[0].parameters)
            return _mix(layers, draw(st.booleans()), generator)
        middle = draw(st.integers(start + 1, stop - 1))
        parts = half(start, middle), half(middle, stop)
        squares = ProductLayer(parts, "kronecker"), ProductLayer(parts, "hadamard")
        if not draw(st.booleans()):
            return SumLayer.random([squares[0], squares[1]], 2, generator=generator)
        weight = Parameter(torch.randn(2, 2, generator=generator))
        sums = [SumLayer([squares[1]], weight), SumLayer([squares[1]], weight)]
        return _mix(sums, True, generator)

    return Circuit(SumLayer.random([half(0, count)], generator=generator))


def _mix(layers: Sequence[Layer], mixing: bool, generator: torch.Generator) -> Layer:
    return SumLayer.random(layers, 2, mixing=mixing, generator=generator)


def _with_zeros(circuit: Circuit, share: float, generator: torch.Generator) -> Circuit:
    """Give some weights of sums a logit of -inf; every sum keeps its first positive input."""
    values: dict[Parameter, Tensor] = {}
    for layer in circuit.layers:
        if isinstance(layer, SumLayer):
            drop = torch.rand(layer.weight.shape, generator=generator) < share
            first = (layer.weight.value > -torch.inf).int().argmax(dim=-1, keepdim=True)
            drop.scatter_(1, first, False)
            values[layer.weight] = layer.weight.value.masked_fill(drop, -torch.inf)
    return circuit.replace(values)
