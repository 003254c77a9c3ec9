"""Hypothesis strategies: region graphs, circuits of every kind, and evidence about them.

Hypothesis chooses shapes and seeds; torch generators fill in the numbers, so examples shrink to
small circuits and replay exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from hypothesis import strategies as st
from torch import Tensor

from pcflow.build import build_circuit, hmm
from pcflow.circuit import Circuit
from pcflow.evidence import Evidence
from pcflow.inputs import (
    Bernoulli,
    Binomial,
    Categorical,
    DiscretizedLogistic,
    Exponential,
    Gaussian,
    Histogram,
    Indicator,
    InputFamily,
    LogNormal,
    Poisson,
)
from pcflow.layers import InputLayer, Layer, Parameter, ProductLayer, SumLayer
from pcflow.region_graph import RegionGraph
from pcflow.structure import (
    chain,
    fully_factorized,
    poon_domingos,
    quad_graph,
    quad_tree,
    random_binary_tree,
)

SEEDS = st.integers(0, 2**31 - 1)


@st.composite
def region_graphs(draw: st.DrawFn, max_variables: int = 6) -> RegionGraph:
    """Region graphs of every kind over at most `max_variables` variables.

    Examples:
        >>> from hypothesis import find
        >>> find(region_graphs(), lambda rg: rg.num_variables == 1).root
        Region(variables=(0,))
    """
    sizes = st.integers(1, max_variables)
    grids = {"quad tree": quad_tree, "quad graph": quad_graph, "cuts": poon_domingos}
    kind = draw(st.sampled_from(["factorized", "chain", "binary", *grids]))
    if kind in grids:
        height = draw(sizes)
        width = draw(st.integers(1, max_variables // height))
        return grids[kind]((height, width))
    count = draw(sizes)
    if kind == "binary":
        depth = draw(st.none() | st.integers(0, 3))
        return random_binary_tree(count, depth, draw(st.integers(1, 3)), seed=draw(SEEDS))
    return fully_factorized(count) if kind == "factorized" else chain(count)


def finite_families() -> st.SearchStrategy[InputFamily]:
    """Families over 2 or 3 values.

    Examples:
        >>> from hypothesis import find
        >>> find(finite_families(), lambda family: family.num_categories == 3)
        Categorical(num_categories=3)
    """
    return st.sampled_from([Bernoulli(), Categorical(2), Categorical(3)])


@st.composite
def circuits(
    draw: st.DrawFn,
    max_variables: int = 6,
    families: st.SearchStrategy[InputFamily] | None = None,
) -> Circuit:
    """Circuits of every kind: CP, Tucker and HMM, tied parameters, hard zeros, built by hand.

    Args:
        draw: given by Hypothesis.
        max_variables: the largest number of variables.
        families: of the inputs, one drawn per variable; by default finite ones, so that
            every query can be checked by enumeration.

    Examples:
        >>> from hypothesis import find
        >>> find(circuits(), lambda circuit: circuit.num_variables == 3).num_variables
        3
    """
    families = finite_families() if families is None else families
    kind = draw(st.sampled_from(["cp", "tucker", "hmm", "mixed", "indicators"]))
    generator = torch.Generator().manual_seed(draw(SEEDS))
    if kind == "hmm":
        circuit = _hmm(draw, max_variables, families, generator)
    elif kind == "mixed":
        circuit = _by_hand(draw, max_variables, families, generator)
    elif kind == "indicators":
        circuit = draw(deterministic_circuits(max_variables))
    else:
        graph = draw(region_graphs(max_variables))
        inputs = [draw(families) for _ in range(graph.num_variables)]
        units = draw(st.integers(1, 3 if kind == "cp" else 2))
        layer: Callable[..., Circuit] = build_circuit
        circuit = layer(graph, inputs, units, kind, generator)
    zeros = draw(st.sampled_from([0.0, 0.0, 0.3]))
    return _with_zeros(circuit, zeros, generator) if zeros else circuit


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
def deterministic_circuits(draw: st.DrawFn, max_variables: int = 6) -> Circuit:
    """Random decision diagrams over binary variables: deterministic, so that MPE is exact.

    Every sum decides on one variable; its branches may share what comes after.

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


def _hmm(
    draw: st.DrawFn,
    max_variables: int,
    families: st.SearchStrategy[InputFamily],
    generator: torch.Generator,
) -> Circuit:
    length, states = draw(st.integers(1, max_variables)), draw(st.integers(1, 3))
    if draw(st.booleans()):
        return hmm(length, states, draw(families), generator=generator)
    inputs = [draw(families) for _ in range(length)]
    return hmm(length, states, inputs, homogeneous=False, generator=generator)


def _by_hand(
    draw: st.DrawFn,
    max_variables: int,
    families: st.SearchStrategy[InputFamily],
    generator: torch.Generator,
) -> Circuit:
    """Products of both kinds, sums of both kinds, inputs side by side, parameters tied."""
    count = draw(st.integers(1, max_variables))
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
    """Give some weights of sums a logit of -inf; every sum keeps its first input."""
    values: dict[Parameter, Tensor] = {}
    for layer in circuit.layers:
        if isinstance(layer, SumLayer):
            drop = torch.rand(layer.weight.shape, generator=generator) < share
            drop[:, 0] = False
            values[layer.weight] = layer.weight.value.masked_fill(drop, -torch.inf)
    return circuit.replace(values)


def mixed_families() -> st.SearchStrategy[InputFamily]:
    """Families with and without a finite range, for circuits that mix them.

    Whole numbers from 1 to 1,000 are possible under all that have no finite range.

    Examples:
        >>> from hypothesis import find
        >>> find(mixed_families(), lambda family: family.num_categories is None)
        Gaussian(min_std=0.001)
    """
    return st.sampled_from(
        [
            Gaussian(),
            Bernoulli(),
            Categorical(3),
            Binomial(2),
            Poisson(),
            Exponential(),
            LogNormal(),
            DiscretizedLogistic(3),
            Histogram([0.0, 1.5, 4.0, 1000.0]),
        ]
    )
