"""Circuits over 0/1 variables that encode categorical ones, against all their states.

Legend: D variables.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import pcflow as pf
from pcflow.circuit import Layer
from pcflow.testing import enumerate_states

Groups = list[list[int]]


@st.composite
def groupings(draw: st.DrawFn) -> Groups:
    """0/1 variables shared out among one to four variables of one to four values."""
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    order = draw(st.permutations(range(sum(sizes))))
    return [[order.pop() for _ in range(size)] for size in sizes]


@st.composite
def formulas(draw: st.DrawFn, groups: Groups) -> pf.CNF:
    """One of every group, and a few clauses more."""
    literal = st.integers(1, sum(map(len, groups))).flatmap(lambda v: st.sampled_from([v, -v]))
    more = draw(st.lists(st.lists(literal, min_size=2, max_size=4), max_size=4))
    return pf.CNF([*exactly_one(groups), *more])


def exactly_one(groups: Groups) -> list[list[int]]:
    at_least = [[1 + v for v in group] for group in groups]
    return at_least + [[-1 - a, -1 - b] for group in groups for a, b in combinations(group, 2)]


def encoded(states: Tensor, groups: Groups) -> Tensor:
    """The 0/1 variables [N, sum of sizes] of states [N, D]."""
    rows = torch.zeros(len(states), sum(map(len, groups)), dtype=torch.long)
    for variable, group in enumerate(groups):
        rows[torch.arange(len(states)), torch.tensor(group)[states[:, variable]]] = 1
    return rows


def literal(variable: int, value: int) -> pf.InputLayer:
    return pf.InputLayer(variable, pf.Indicator(value))


def mixed(*layers: Layer) -> pf.SumLayer:
    return pf.SumLayer(layers, pf.Parameter(torch.zeros(1, len(layers))))


@given(st.data(), groupings(), st.booleans())
def test_a_decoded_circuit_gives_every_state_the_probability_of_its_code(
    data: st.DataObject, groups: Groups, ordered: bool
) -> None:
    cnf = data.draw(formulas(groups))
    seed = data.draw(st.integers(0, 1000))
    log_weights = torch.randn(
        cnf.num_variables, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    try:
        encoding = pf.compile_cnf(cnf, log_weights, ordered).circuit
    except pf.Unsatisfiable:
        return
    before = len(encoding.layers), encoding.num_categories
    circuit = pf.from_one_hot(encoding, groups)
    assert circuit.num_categories == tuple(map(len, groups))
    assert (len(encoding.layers), encoding.num_categories) == before
    states = enumerate_states(circuit)
    found = pf.reference_log_prob(circuit, states)
    torch.testing.assert_close(
        found, pf.reference_log_prob(encoding, encoded(states, groups)), rtol=1e-9, atol=1e-9
    )
    assert found.logsumexp(0).item() == pytest.approx(0.0, abs=1e-9)
    assert pf.is_deterministic(circuit)


def test_a_decoded_circuit_by_hand() -> None:
    # variable 0 is a pair of 2 and 0, variable 1 of 1 and 3; whoever has 2 has 3
    cnf = pf.CNF([(1, 3), (-1, -3), (2, 4), (-2, -4), (-3, 4)])
    circuit = pf.from_one_hot(pf.compile_cnf(cnf).circuit, [[2, 0], [1, 3]])
    states = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]])
    found = pf.reference_log_prob(circuit, states).exp().tolist()
    assert found == pytest.approx([0.0, 1 / 3, 1 / 3, 1 / 3])


def test_units_of_wide_layers_are_decoded() -> None:
    values = [pf.InputLayer(v, pf.Indicator([0, 0] if v else [1, 1]), 2) for v in range(2)]
    other = [pf.InputLayer(v, pf.Indicator([1, 1] if v else [0, 0]), 2) for v in range(2)]
    products = [pf.ProductLayer(values), pf.ProductLayer(other)]
    weight = pf.Parameter.from_probs([[0.1, 0.2, 0.3, 0.4]])
    circuit = pf.from_one_hot(pf.Circuit(pf.SumLayer(products, weight)), [[0, 1]])
    found = pf.reference_log_prob(circuit, torch.tensor([[0], [1]])).exp().tolist()
    assert found == pytest.approx([0.3, 0.7])


@pytest.mark.parametrize("groups", [[[0, 1], []], [[0], [0, 1]], [[0]], [[0, 1, 2]], [[0, -1]], []])
def test_groups_must_share_out_the_variables(groups: Sequence[Sequence[int]]) -> None:
    circuit = pf.compile_cnf(pf.CNF(exactly_one([[0, 1]]))).circuit
    with pytest.raises(pf.StructureError, match=r"share out variables 0\.\.1"):
        pf.from_one_hot(circuit, groups)


def test_variables_must_be_binary() -> None:
    with pytest.raises(pf.StructureError, match="variable 0 is not 0/1"):
        pf.from_one_hot(pf.hmm(2, 2, pf.Categorical(3)), [[0, 1]])


def test_states_that_are_no_code_are_refused() -> None:
    def decode(*clauses: tuple[int, ...], groups: Groups) -> None:
        pf.from_one_hot(pf.compile_cnf(pf.CNF(clauses, 4)).circuit, groups)

    with pytest.raises(pf.StructureError, match="may be 0 and 1"):
        decode((1,), (2,), (-3,), groups=[[0, 2], [1, 3]])
    both = pf.InputLayer(0, pf.Indicator([0, 1]), 2)
    with pytest.raises(pf.StructureError, match="may be 0 and 1"):
        pf.from_one_hot(pf.Circuit(pf.SumLayer([both], pf.Parameter(torch.zeros(1, 2)))), [[0]])
    with pytest.raises(pf.NotDecomposable):  # 0 and 1 are both one
        decode((1,), (2,), (3,), (-4,), groups=[[0, 1], [2, 3]])
    with pytest.raises(pf.NotSmooth):  # 0 may be zero, and then the first group has no one
        decode((1, 3), (-1, -3), (-2,), (4,), groups=[[0, 1], [2, 3]])
    with pytest.raises(pf.StructureError, match="group 1 is always zero"):
        decode((1,), (-2,), (-3,), (-4,), groups=[[0, 1], [2, 3]])
    with pytest.raises(pf.StructureError, match="nothing but zeros"):
        pf.from_one_hot(pf.Circuit(mixed(literal(0, 0), literal(0, 1))), [[0]])
    with pytest.raises(pf.StructureError, match="no variable is left"):
        pf.from_one_hot(pf.Circuit(literal(0, 0)), [[0]])
