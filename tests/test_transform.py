"""Laws of the algebra: every transformed circuit against the numbers that it stands for.

Legend: S states, D variables.
"""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import pcflow as pf
from pcflow.algebra import condition, marginalize, mixture, multiply, power, restrict
from pcflow.testing import (
    broken,
    circuits,
    compatible_circuits,
    enumerate_log_prob,
    enumerate_states,
)

ANY = circuits() | circuits(properties=["deterministic"])


def logs(circuit: pf.Circuit) -> Tensor:
    """Log-probability [S] of every state."""
    return pf.reference_log_prob(circuit, enumerate_states(circuit))


def assert_same(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


def some_variables(data: st.DataObject, circuit: pf.Circuit, least: int = 0) -> list[int]:
    variables = st.integers(0, circuit.num_variables - 1)
    most = circuit.num_variables - 1
    return data.draw(st.lists(variables, min_size=least, max_size=most, unique=True))


@given(st.data(), ANY)
def test_a_conditioned_circuit_is_the_distribution_given_the_values(
    data: st.DataObject, circuit: pf.Circuit
) -> None:
    known = some_variables(data, circuit)
    state = data.draw(st.sampled_from(enumerate_states(circuit).tolist()))
    values = {v: state[v] for v in known}
    row = torch.tensor([[float(values.get(v, math.nan)) for v in range(circuit.num_variables)]])
    log_mass = enumerate_log_prob(circuit, row)
    if log_mass.item() == -math.inf:
        with pytest.raises(pf.NoMassError):
            condition(circuit, values)
        return
    found = condition(circuit, values)
    left = [v for v in range(circuit.num_variables) if v not in values]
    states = enumerate_states(found)
    whole = row.repeat(len(states), 1)
    whole[:, left] = states.float()
    assert_same(
        pf.reference_log_prob(found, states), pf.reference_log_prob(circuit, whole) - log_mass
    )
    keeps(circuit, found, ["structured_decomposable", "deterministic"])


@given(st.data(), ANY)
def test_a_marginal_sums_out_the_others(data: st.DataObject, circuit: pf.Circuit) -> None:
    keep = data.draw(st.permutations(range(circuit.num_variables)))
    keep = keep[: data.draw(st.integers(1, len(keep)))]
    found = marginalize(circuit, keep)
    states = enumerate_states(found)
    rows = torch.full((len(states), circuit.num_variables), math.nan)
    rows[:, keep] = states.float()
    assert_same(pf.reference_log_prob(found, states), enumerate_log_prob(circuit, rows))
    keeps(circuit, found, ["structured_decomposable"])


@given(st.data(), ANY)
def test_a_restriction_forgets_what_is_not_allowed(
    data: st.DataObject, circuit: pf.Circuit
) -> None:
    allowed = {
        v: data.draw(st.lists(st.integers(0, (circuit.num_categories[v] or 1) - 1), min_size=1))
        for v in some_variables(data, circuit)
    }
    states = enumerate_states(circuit)
    fits = torch.tensor([all(s[v] in allowed[v] for v in allowed) for s in states.tolist()])
    wanted = logs(circuit).masked_fill(~fits, -math.inf)
    log_mass = wanted.logsumexp(0)
    if log_mass.item() == -math.inf:
        with pytest.raises(pf.NoMassError):
            restrict(circuit, allowed)
        return
    found = restrict(circuit, allowed)
    assert_same(pf.reference_log_prob(found, states), wanted - log_mass)
    keeps(circuit, found, ["structured_decomposable", "deterministic"])


@given(st.data(), ANY)
def test_a_mixture_adds_up(data: st.DataObject, circuit: pf.Circuit) -> None:
    other = circuit.replace({p: torch.randn(p.shape) for p in circuit.parameters})
    share = data.draw(st.floats(0, 1))
    found = mixture([circuit, other], [share, 1 - share])
    wanted = share * logs(circuit).exp() + (1 - share) * logs(other).exp()
    assert_same(logs(found).exp(), wanted)


@given(compatible_circuits())
def test_a_product_multiplies(pair: tuple[pf.Circuit, pf.Circuit]) -> None:
    a, b = pair
    both = logs(a) + logs(b)
    if both.max().item() == -math.inf:
        with pytest.raises(pf.NoMassError):
            multiply(a, b)
        return
    found = multiply(a, b)
    assert_same(logs(found), both - both.logsumexp(0))
    if a.properties.deterministic and b.properties.deterministic:
        assert found.properties.deterministic


@given(compatible_circuits(properties=["structured_decomposable", "deterministic"]))
def test_a_product_of_circuits_along_one_vtree_is_along_it(
    pair: tuple[pf.Circuit, pf.Circuit],
) -> None:
    a, b = pair
    if (logs(a) + logs(b)).max().item() == -math.inf:
        return
    found = multiply(a, b)
    assert found.properties.deterministic
    scopes = {frozenset(c.scope(layer)) for c in (a, b) for layer in c.layers}
    if all(x <= y or y <= x or not x & y for x in scopes for y in scopes):  # one vtree holds all
        assert found.properties.structured_decomposable


@given(st.data(), compatible_circuits())
def test_a_circuit_given_a_row_is_the_row_given_its_values(
    data: st.DataObject, pair: tuple[pf.Circuit, pf.Circuit]
) -> None:
    """Symbolic and per-row forms of one query agree."""
    circuit = pair[0]
    known = some_variables(data, circuit)
    states = enumerate_states(circuit)
    state = data.draw(st.sampled_from(states[logs(circuit) > -math.inf].tolist()))
    fits = states[(states[:, known] == torch.tensor(state)[known]).all(dim=1)]
    part = torch.full((1, circuit.num_variables), math.nan)
    part[0, known] = torch.tensor(state)[known].float()
    model = pf.compile(circuit, dtype=torch.float64)
    rest = [v for v in range(circuit.num_variables) if v not in known]
    given_ = pf.compile(condition(circuit, {v: state[v] for v in known}), dtype=torch.float64)
    assert_same(given_.log_prob(fits[:, rest]), model.log_prob(fits) - model.log_prob(part))
    below = pf.compile(marginalize(circuit, rest), dtype=torch.float64)
    free = states.double()
    free[:, known] = math.nan
    assert_same(below.log_prob(states[:, rest]), model.log_prob(free))


@given(
    circuits(properties=["deterministic"]), st.sampled_from([-1.5, -1.0, 0.0, 0.5, 1.0, 2.0, 3.3])
)
def test_a_power_of_a_deterministic_circuit(circuit: pf.Circuit, exponent: float) -> None:
    log_p = logs(circuit)
    raised = torch.where(log_p > -math.inf, exponent * log_p.clamp_min(-1e300), -math.inf)
    found = power(circuit, exponent)
    assert_same(logs(found), raised - raised.logsumexp(0))
    keeps(circuit, found, ["structured_decomposable", "deterministic"])


@given(circuits(max_variables=4) | broken("structured_decomposable"), st.integers(1, 3))
def test_a_whole_power_of_a_structured_circuit(circuit: pf.Circuit, exponent: int) -> None:
    if circuit.properties.structured_decomposable is None:
        if circuit.properties.deterministic is None:
            with pytest.raises(pf.NotStructuredDecomposable, match="power"):
                power(circuit, exponent)
        return
    raised = exponent * logs(circuit)
    assert_same(logs(power(circuit, exponent)), raised - raised.logsumexp(0))


def keeps(before: pf.Circuit, after: pf.Circuit, names: list[str]) -> None:
    for name in names:
        if getattr(before.properties, name) is not None:
            assert getattr(after.properties, name) is not None, name


def categorical(variable: int, units: int) -> pf.InputLayer:
    return pf.InputLayer.random(variable, pf.Categorical(2), units)


def test_units_of_a_product_in_another_order_find_each_other() -> None:
    def one(first: int, second: int) -> pf.Circuit:
        square = pf.ProductLayer([categorical(first, 2), categorical(second, 2)], "kronecker")
        return pf.Circuit(pf.SumLayer.random([pf.ProductLayer([square, categorical(2, 4)])]))

    a, b = one(0, 1), one(1, 0)
    both = logs(a) + logs(b)
    assert_same(logs(multiply(a, b)), both - both.logsumexp(0))


def test_mixing_layers_multiply_to_mixing_layers() -> None:
    def one() -> pf.Circuit:
        pairs = [pf.ProductLayer([categorical(0, 3), categorical(1, 3)]) for _ in range(2)]
        return pf.Circuit(pf.SumLayer.random([pf.SumLayer.random(pairs, 3, mixing=True)]))

    a, b = one(), one()
    found = multiply(a, b)
    both = logs(a) + logs(b)
    assert_same(logs(found), both - both.logsumexp(0))
    mixed = [layer for layer in found.layers if isinstance(layer, pf.SumLayer) and layer.mixing]
    assert [layer.weight.shape for layer in mixed] == [(9, 4)]


def test_variables_that_do_not_fit_are_refused_by_name() -> None:
    chain = pf.hmm(3, states=2, inputs=pf.Bernoulli())
    for keep in ([0, 0], [3], [-1], [0.5]):
        with pytest.raises(pf.EvidenceError, match=r"keep: .* 0\.\.2"):
            marginalize(chain, keep)  # type: ignore[arg-type]
    with pytest.raises(pf.EvidenceError, match="values: variables"):
        condition(chain, {3: 0})
    with pytest.raises(pf.EvidenceError, match=r"variable 1 is 2\.0"):
        condition(chain, {1: 2})
    with pytest.raises(pf.StructureError, match="no variable is left"):
        condition(chain, {0: 0, 1: 0, 2: 0})
    with pytest.raises(pf.StructureError, match="no variable is left"):
        marginalize(chain, [])
    with pytest.raises(pf.EvidenceError, match=r"variable 1 needs values in 0\.\.1, got \[2\]"):
        restrict(chain, {1: [2]})
    with pytest.raises(pf.EvidenceError, match="needs a finite range"):
        restrict(pf.hmm(3, states=2, inputs=pf.Gaussian()), {1: [2]})
    for weights in ([0.5], [0.5, -0.5], [0.0, 0.0], [math.inf, 1.0]):
        with pytest.raises(pf.StructureError, match="2 circuits need as many weights"):
            mixture([chain, chain], weights)
    with pytest.raises(pf.NotSmooth):
        mixture([chain, pf.hmm(2, states=2, inputs=pf.Bernoulli())], [0.5, 0.5])
