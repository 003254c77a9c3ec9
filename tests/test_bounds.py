"""Laws of the bounds: on either side of what enumeration says, and equal where they must be.

Legend: B batch, S states, D variables, V categories.
"""

import math
from collections import Counter

import pytest
import torch
from device import DEVICE
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import pcflow as pf
from pcflow.algebra.bounds import joint_entropy
from pcflow.engine import SumStep
from pcflow.errors import EvidenceError, NoMassError
from pcflow.testing import (
    circuits,
    deterministic_circuits,
    enumerate_log_prob,
    enumerate_mpe,
    enumerate_states,
    enumerate_weights,
    evidence,
    mixed_families,
)

SLACK = 1e-9


def compiled(circuit: pf.Circuit) -> pf.CompiledCircuit:
    return pf.compile(circuit, DEVICE, torch.float64)


def possible(circuit: pf.Circuit, about: pf.Evidence) -> pf.Evidence | None:
    """The rows of the evidence that have any mass; None if there are none."""
    rows = (enumerate_log_prob(circuit, about) > -torch.inf).nonzero().squeeze(-1)
    return about.rows(rows) if len(rows) else None


def exact_map(circuit: pf.Circuit, query: list[int], about: pf.Evidence) -> Tensor:
    """Marginal MAP [B]: the largest total of the states that agree on the query variables."""
    if not query:
        return enumerate_log_prob(circuit, about)
    found = enumerate_weights(circuit, about)
    group = found.states[:, query].unique(dim=0, return_inverse=True)[1]  # [S]
    members = [found.log_weight[:, group == g] for g in range(int(group.max()) + 1)]
    return torch.stack([m.logsumexp(dim=-1) for m in members]).amax(dim=0)


def queries(count: int) -> st.SearchStrategy[list[int]]:
    """Some of the variables."""
    return st.sets(st.integers(0, count - 1)).map(sorted)


@given(st.data(), circuits())
def test_mpe_is_between_its_bounds(data: st.DataObject, circuit: pf.Circuit) -> None:
    model, about = compiled(circuit), data.draw(evidence(circuit))
    exact, above = enumerate_mpe(circuit, about)[1], pf.mpe_upper_bound(model, about).cpu()
    assert (above >= exact - SLACK).all()
    assert (above <= enumerate_log_prob(circuit, about) + SLACK).all()
    some = possible(circuit, about)
    if some is not None:
        below = pf.mpe_lower_bound(model, some).cpu()
        assert (below <= enumerate_mpe(circuit, some)[1] + SLACK).all()


@given(st.data(), circuits())
def test_map_is_between_its_bounds(data: st.DataObject, circuit: pf.Circuit) -> None:
    model, query = compiled(circuit), data.draw(queries(circuit.num_variables))
    about = data.draw(evidence(circuit))
    exact, above = exact_map(circuit, query, about), pf.map_upper_bound(model, query, about).cpu()
    assert (above >= exact - SLACK).all()
    assert (above <= enumerate_log_prob(circuit, about) + SLACK).all()
    some = possible(circuit, about)
    if some is not None:
        below = pf.map_lower_bound(model, query, some).cpu()
        assert (below <= exact_map(circuit, query, some) + SLACK).all()


@given(st.data(), circuits())
def test_map_of_everything_is_mpe_and_of_nothing_log_prob(
    data: st.DataObject, circuit: pf.Circuit
) -> None:
    about = possible(circuit, data.draw(evidence(circuit)))
    if about is None:
        return
    model, every = compiled(circuit), range(circuit.num_variables)
    close = torch.testing.assert_close
    close(pf.map_upper_bound(model, every, about), pf.mpe_upper_bound(model, about))
    close(pf.map_lower_bound(model, every, about), pf.mpe_lower_bound(model, about))
    total = model.log_prob(about).detach()
    close(pf.map_upper_bound(model, [], about), total, rtol=1e-9, atol=1e-9)
    close(pf.map_lower_bound(model, [], about), total)


@given(st.data(), st.integers(1, 5), st.integers(0, 10**6))
def test_bounds_meet_where_variables_are_independent(
    data: st.DataObject, count: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    regions = pf.structure.fully_factorized(count)
    circuit = pf.build_circuit(regions, pf.Categorical(3), units=1, generator=generator)
    about = possible(circuit, data.draw(evidence(circuit)))
    if about is None:
        return
    query = data.draw(queries(count))
    exact = exact_map(circuit, query, about)
    for bound in (pf.map_lower_bound, pf.map_upper_bound):
        found = bound(circuit, query, about)
        torch.testing.assert_close(found, exact, rtol=1e-9, atol=1e-9)


@given(st.data(), deterministic_circuits())
def test_the_lower_bound_of_a_deterministic_circuit_is_exact(
    data: st.DataObject, circuit: pf.Circuit
) -> None:
    about = possible(circuit, data.draw(evidence(circuit)))
    if about is not None:
        found, exact = pf.mpe_lower_bound(circuit, about), enumerate_mpe(circuit, about)[1]
        torch.testing.assert_close(found, exact, rtol=1e-9, atol=1e-9)


@given(circuits(families=mixed_families()), st.integers(0, 10**6))
def test_no_draw_is_above_the_upper_bound(circuit: pf.Circuit, seed: int) -> None:
    model, generator = compiled(circuit), torch.Generator(DEVICE).manual_seed(seed)
    nothing = torch.full((1, circuit.num_variables), torch.nan)
    drawn = model.sample(50, generator=generator)
    best = pf.mpe_upper_bound(model, nothing)
    assert (model.log_prob(drawn) <= best + SLACK).all()
    assert pf.mpe_lower_bound(model, nothing) <= best + SLACK


def normal(variable: int, means: list[float], std: float) -> pf.InputLayer:
    mean = torch.tensor(means, dtype=torch.float64)
    named = {"mean": pf.Parameter(mean), "log_std": pf.Parameter(mean * 0 + math.log(std))}
    return pf.InputLayer(variable, pf.Gaussian(), len(means), named)


def test_bounds_of_densities_by_hand() -> None:
    """Peaks are 1 / sqrt(2 pi) for the first variable and half of that for the second."""
    units = pf.ProductLayer([normal(0, [0.0, 50.0], 1.0), normal(1, [0.0, 90.0], 2.0)])
    circuit = pf.Circuit(pf.SumLayer([units], pf.Parameter.from_probs([[0.3, 0.7]])))
    peak = 1 / math.sqrt(2 * math.pi)
    nothing, at = torch.full((1, 2), torch.nan), torch.tensor([[torch.nan, 90.0]])
    for found, wanted in (
        (pf.mpe_upper_bound(circuit, nothing), peak * peak / 2),
        (pf.mpe_lower_bound(circuit, nothing), 0.7 * peak * peak / 2),
        (pf.map_upper_bound(circuit, [0], nothing), peak),
        (pf.map_lower_bound(circuit, [0], nothing), 0.7 * peak),
        (pf.map_upper_bound(circuit, [1], nothing), peak / 2),
        (pf.map_upper_bound(circuit, [1], at), 0.7 * peak / 2),
        (pf.map_upper_bound(circuit, [0], at), 0.7 * peak * peak / 2),
    ):
        assert found.exp().item() == pytest.approx(wanted, rel=1e-9)


def test_a_narrow_density_outweighs_a_likely_one() -> None:
    """.3 over a standard deviation of .1 is more than .7 over one."""
    parts = [normal(0, [0.0], 0.1), normal(0, [9.0], 1.0)]
    circuit = pf.Circuit(pf.SumLayer(parts, pf.Parameter.from_probs([[0.3, 0.7]])))
    nothing, peak = torch.full((1, 1), torch.nan), 1 / math.sqrt(2 * math.pi)
    assert pf.compile(circuit).mpe(nothing).values.item() == 0.0
    assert pf.mpe_lower_bound(circuit, nothing).exp().item() == pytest.approx(3 * peak)
    assert pf.mpe_upper_bound(circuit, nothing).exp().item() == pytest.approx(3.7 * peak)


def by_hand() -> pf.Circuit:
    """.6 [a = 0 x uniform over ten] + .4 [a = 1 x certain]."""
    either = pf.InputLayer(0, pf.Indicator([0, 1]), 2)
    table = torch.stack([torch.full((10,), 0.1), torch.eye(10)[3]], dim=1).double()
    other = pf.InputLayer(1, pf.Categorical(10), 2, {"logits": pf.Parameter.from_probs(table)})
    weight = pf.Parameter.from_probs([[0.6, 0.4]])
    return pf.Circuit(pf.SumLayer([pf.ProductLayer([either, other])], weight))


def test_bounds_by_hand() -> None:
    circuit, nothing = by_hand(), torch.full((1, 2), torch.nan)
    for found, wanted in (
        (pf.mpe_lower_bound(circuit, nothing), 0.4),
        (pf.mpe_upper_bound(circuit, nothing), 0.06 + 0.4),
        (pf.map_lower_bound(circuit, [0], nothing), 0.4),
        (pf.map_upper_bound(circuit, [0], nothing), 0.6 + 0.4),
        (pf.map_lower_bound(circuit, [1], nothing), 0.06 + 0.4),
        (pf.map_upper_bound(circuit, [1], nothing), 0.06 + 0.4),
    ):
        assert found.exp().item() == pytest.approx(wanted)


def test_potentials_count_where_they_are_listed_too() -> None:
    potentials = torch.zeros(1, 2, 10)
    potentials[0, 0, 1:] = torch.tensor([math.log(0.5)] + [-torch.inf] * 8)  # two are read
    potentials[0, 1, 7] = math.log(50.0)  # .6 x .1 x 50 = 3
    soft = pf.Evidence(log_potentials=potentials)
    assert pf.mpe_lower_bound(by_hand(), soft).exp().item() == pytest.approx(3.0)
    assert pf.mpe_upper_bound(by_hand(), soft).exp().item() == pytest.approx(3.2)
    assert pf.map_lower_bound(by_hand(), [1], soft.top_k(1)).exp().item() == pytest.approx(3.0)
    assert pf.map_upper_bound(by_hand(), [0], soft.top_k(1)).exp().item() == pytest.approx(3.0)


def test_real_values_are_no_indices_of_potentials() -> None:
    """Negative ones, and ones beyond the number of categories."""
    coin = pf.InputLayer(2, pf.Bernoulli(), 1, {"logits": pf.Parameter(torch.zeros(1).double())})
    circuit = pf.Circuit(pf.ProductLayer([normal(0, [-7.0], 1.0), normal(1, [7.0], 1.0), coin]))
    potentials = torch.zeros(1, 3, 2, dtype=torch.float64)
    potentials[0, 2] = torch.tensor([2.0, 3.0]).log()
    soft = pf.Evidence(log_potentials=potentials)
    peak = 1 / math.sqrt(2 * math.pi)
    for found, wanted in (
        (pf.mpe_lower_bound(circuit, soft), 1.5 * peak**2),
        (pf.mpe_upper_bound(circuit, soft), 1.5 * peak**2),
        (pf.map_lower_bound(circuit, [0, 1], soft), 2.5 * peak**2),
        (pf.map_upper_bound(circuit, [0, 2], soft), 1.5 * peak),
    ):
        assert found.exp().item() == pytest.approx(wanted)


def by_recursion(circuit: pf.Circuit) -> tuple[float, float]:
    """H(Z) and H(X | Z), bottom up: of a sum its weights' entropy and the mean of its inputs'."""
    found: dict[pf.layers.Layer, tuple[Tensor, Tensor]] = {}
    for layer in circuit.layers:
        below = [torch.stack(found[child]) for child in layer.inputs]  # [2, K] each
        if isinstance(layer, pf.InputLayer):
            params = {n: p.value.double().unsqueeze(0) for n, p in layer.parameters.items()}
            inputs = layer.family.entropy(params)[0].double()
            found[layer] = torch.zeros_like(inputs), inputs
        elif isinstance(layer, pf.SumLayer):
            weight = layer.weight.value.double().softmax(dim=-1)  # [K, J]
            mixed = torch.stack(below, -1) if layer.mixing else torch.cat(below, -1).unsqueeze(1)
            both = (mixed * weight).sum(dim=-1)  # [2, K]
            found[layer] = both[0] + torch.special.entr(weight).sum(-1), both[1]
        else:
            total = below[0]
            for factor in below[1:]:
                if layer.kind == "kronecker":
                    total = (total.unsqueeze(-1) + factor.unsqueeze(-2)).flatten(-2)
                else:
                    total = total + factor
            found[layer] = total[0], total[1]
    choices, inputs = found[circuit.root]
    return choices.item(), inputs.item()


@given(circuits() | circuits(families=mixed_families()))
def test_joint_entropy_follows_the_chain_rule(circuit: pf.Circuit) -> None:
    choices, inputs = by_recursion(circuit)
    found = joint_entropy(compiled(circuit))
    assert found.choices == pytest.approx(choices, abs=1e-9)
    assert found.inputs == pytest.approx(inputs, abs=1e-9)
    assert pf.entropy_lower_bound(circuit) == pytest.approx(inputs, abs=1e-9)
    assert pf.entropy_upper_bound(circuit) == pytest.approx(choices + inputs, abs=1e-9)
    narrow = pf.entropy_upper_bound(pf.compile(circuit, DEVICE, torch.float32))
    assert narrow == pytest.approx(choices + inputs, rel=1e-4, abs=1e-4)


def test_joint_entropy_of_more_folds_than_run_at_a_time() -> None:
    """Steps then read parts of a bank."""
    regions = pf.structure.random_binary_tree(512)
    circuit = pf.build_circuit(regions, pf.Bernoulli(), units=20)
    model = compiled(circuit)
    sums = [step for step in model.plan.steps if isinstance(step, SumStep)]
    assert max(Counter(step.weight.bank for step in sums).values()) > 1
    assert joint_entropy(model) == pytest.approx(by_recursion(circuit), rel=1e-9)


def exact_entropy(circuit: pf.Circuit) -> float:
    log_prob = pf.reference_log_prob(circuit, enumerate_states(circuit))
    return float(torch.special.entr(log_prob.exp()).sum())


@given(circuits())
def test_entropy_is_between_its_bounds(circuit: pf.Circuit) -> None:
    exact = exact_entropy(circuit)
    assert pf.entropy_lower_bound(circuit) <= exact + SLACK
    assert exact <= pf.entropy_upper_bound(circuit) + SLACK


@given(deterministic_circuits())
def test_the_upper_bound_of_a_deterministic_circuit_is_its_entropy(circuit: pf.Circuit) -> None:
    assert pf.entropy_upper_bound(circuit) == pytest.approx(exact_entropy(circuit), abs=1e-9)


def test_entropy_bounds_of_a_mixture_by_hand() -> None:
    """Two normals 40 apart: the choice shows in the value, and both are 1 / 2 log(2 pi e)."""
    inputs = 0.5 * math.log(2 * math.pi * math.e)
    weight = pf.Parameter.from_probs([[0.25, 0.75]])
    far = pf.Circuit(pf.SumLayer([normal(0, [0.0, 40.0], 1.0)], weight))
    choice = -0.25 * math.log(0.25) - 0.75 * math.log(0.75)
    assert pf.entropy_lower_bound(far) == pytest.approx(inputs)
    assert pf.entropy_upper_bound(far) == pytest.approx(inputs + choice)
    near = pf.Circuit(pf.SumLayer([normal(0, [0.0, 2.0], 1.0)], weight))
    grid = torch.linspace(-10, 12, 20_001, dtype=torch.float64)
    density = pf.reference_log_prob(near, grid.unsqueeze(-1)).exp()
    exact = float(torch.trapezoid(torch.special.entr(density), grid))
    assert inputs < exact < inputs + choice
    assert pf.entropy_lower_bound(near) < exact < pf.entropy_upper_bound(near)


def test_bad_questions_are_refused() -> None:
    circuit, nothing = by_hand(), torch.full((1, 2), torch.nan)
    for bound in (pf.map_lower_bound, pf.map_upper_bound):
        with pytest.raises(EvidenceError, match=r"query: variables must be in 0\.\.1"):
            bound(circuit, [2], nothing)
        with pytest.raises(EvidenceError, match="values must be"):
            bound(circuit, [0], torch.zeros(1, 3))
    impossible = torch.tensor([[1.0, 0.0]])
    assert pf.mpe_upper_bound(circuit, impossible).item() == -torch.inf
    with pytest.raises(NoMassError, match="row 0"):
        pf.mpe_lower_bound(circuit, impossible)
    with pytest.raises(TypeError, match="Circuit"):
        pf.mpe_upper_bound("circuit", nothing)  # type: ignore[arg-type]
    assert pf.mpe_upper_bound(circuit, torch.full((0, 2), torch.nan)).shape == (0,)


def test_rows_in_parts_change_nothing() -> None:
    circuit = pf.hmm(6, states=3, inputs=pf.Categorical(4))
    rows = torch.randint(4, (40, 6)).double().masked_fill(torch.rand(40, 6) < 0.5, torch.nan)
    whole, parts = (pf.compile(circuit, dtype=torch.float64, memory=m) for m in (1 << 30, 1 << 12))
    for bound in (pf.map_upper_bound, pf.map_lower_bound):
        torch.testing.assert_close(bound(parts, [0, 3], rows), bound(whole, [0, 3], rows))
