"""Laws of information: every exact query against sums over all states, every other one refused.

Legend: S states.
"""

import math
import re

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

import pcflow as pf
from pcflow.testing import (
    broken,
    circuits,
    compatible_circuits,
    enumerate_states,
)

ORDERS = st.sampled_from([0.3, 0.5, 1.0, 2.0, 2.5])


def logs(circuit: pf.Circuit) -> Tensor:
    """Log-probability [S] of every state."""
    return pf.reference_log_prob(circuit, enumerate_states(circuit))


def expected(p: Tensor, values: Tensor) -> float:
    """Sum of p(x) f(x), where nothing times infinity is nothing."""
    return torch.where(p > 0, p * values, 0.0).sum().item()


def same(found: float, wanted: float) -> None:
    assert found == pytest.approx(wanted, rel=1e-9, abs=1e-9)


@given(circuits(properties=["deterministic"]))
def test_entropy_is_the_mean_surprise(circuit: pf.Circuit) -> None:
    log_p = logs(circuit)
    same(pf.entropy(circuit), expected(log_p.exp(), -log_p))


@given(compatible_circuits(properties=["deterministic"]))
def test_divergences_of_deterministic_circuits(pair: tuple[pf.Circuit, pf.Circuit]) -> None:
    p, q = pair
    log_p, log_q = logs(p), logs(q)
    same(pf.cross_entropy(p, q), expected(log_p.exp(), -log_q))
    divergence = pf.kl_divergence(p, q)
    same(divergence, expected(log_p.exp(), log_p - log_q))
    for order in (0.3, 0.5, 2.0, 2.5):
        if order > 1 and ((log_p > -math.inf) & (log_q == -math.inf)).any():
            wanted = math.inf
        else:
            both = order * log_p + (1 - order) * log_q
            shared = (log_p > -math.inf) & (log_q > -math.inf)
            wanted = both.masked_fill(~shared, -math.inf).logsumexp(0).item() / (order - 1)
        same(pf.renyi_divergence(p, q, order), wanted)
    assert pf.renyi_divergence(p, q, 1) == divergence


@given(compatible_circuits())
def test_overlaps_of_compatible_circuits(pair: tuple[pf.Circuit, pf.Circuit]) -> None:
    p, q = pair
    log_p, log_q = logs(p), logs(q)
    wanted = (log_p + log_q).logsumexp(0).item()
    same(pf.log_inner_product(p, q), wanted)
    same(pf.inner_product(p, q), math.exp(wanted))
    same(pf.inner_product(q, p), math.exp(wanted))
    if q.properties.deterministic:
        same(pf.cross_entropy(p, q), expected(log_p.exp(), -log_q))
    if p.properties.structured_decomposable and q.properties.structured_decomposable:
        squares = ((2 * logs(c)).logsumexp(0).item() for c in (p, q))
        same(pf.cauchy_schwarz_divergence(p, q), 0.5 * sum(squares) - wanted)
        assert pf.cauchy_schwarz_divergence(p, p) == pytest.approx(0.0, abs=1e-9)


@given(circuits(properties=["deterministic"]), ORDERS | st.just(0.0) | st.just(-1.0))
def test_renyi_entropies(circuit: pf.Circuit, order: float) -> None:
    log_p = logs(circuit)
    log_p = log_p[log_p > -math.inf]
    if order == 1:
        assert pf.renyi_entropy(circuit, order) == pf.entropy(circuit)
    else:
        same(pf.renyi_entropy(circuit, order), (order * log_p).logsumexp(0).item() / (1 - order))


@given(circuits(max_variables=3, properties=["structured_decomposable"]), st.integers(2, 5))
def test_renyi_entropies_of_whole_order_need_no_determinism(
    circuit: pf.Circuit, order: int
) -> None:
    wanted = (order * logs(circuit)).logsumexp(0).item() / (1 - order)
    same(pf.renyi_entropy(circuit, order), wanted)


@given(st.data(), circuits(properties=["deterministic"]))
def test_marginal_map_is_the_best_state_of_the_query(
    data: st.DataObject, circuit: pf.Circuit
) -> None:
    size = circuit.num_variables
    query = data.draw(st.permutations(range(size)))
    query = query[: data.draw(st.integers(1, size))]
    rest = [v for v in range(size) if v not in query]
    seen = data.draw(st.lists(st.sampled_from(rest), unique=True)) if rest else []
    states = enumerate_states(circuit)
    state = data.draw(st.sampled_from(states.tolist()))
    row = torch.tensor([[float(state[v]) if v in seen else math.nan for v in range(size)]])
    fits = (states[:, seen] == torch.tensor(state)[seen]).all(dim=1)
    log_p = logs(circuit).masked_fill(~fits, -math.inf)
    assume(log_p.max() > -math.inf)
    alike: dict[tuple[int, ...], list[float]] = {}
    for one, weight in zip(states[:, query].tolist(), log_p.tolist(), strict=True):
        alike.setdefault(tuple(one), []).append(weight)
    totals = {
        one: torch.tensor(each, dtype=torch.float64).logsumexp(0) for one, each in alike.items()
    }
    try:
        found = pf.marginal_map(circuit, query, row)
    except pf.NotDeterministic as refusal:
        assert "map_lower_bound, map_upper_bound" in str(refusal)
        assert rest  # without anything to sum out there is nothing to refuse
        return
    same(found.log_value.item(), max(totals.values()).item())
    same(totals[tuple(found.values[0].long().tolist())].item(), found.log_value.item())


@given(broken("deterministic"))
def test_what_needs_determinism_is_refused_without(circuit: pf.Circuit) -> None:
    tree = pf.naive_bayes([pf.Categorical(n or 0) for n in circuit.num_categories], 1)
    nothing = torch.full((1, circuit.num_variables), math.nan)
    every = range(circuit.num_variables)
    refused = [  # who asked, what there is without the property, and the query
        ("entropy", "entropy_estimate", lambda: pf.entropy(circuit)),
        ("renyi_entropy", "entropy_estimate", lambda: pf.renyi_entropy(circuit, 1)),
        ("renyi_entropy", "whole powers", lambda: pf.renyi_entropy(circuit, 0.5)),
        ("cross_entropy", "cross_entropy_estimate", lambda: pf.cross_entropy(tree, circuit)),
        ("kl_divergence", "kl_estimate", lambda: pf.kl_divergence(tree, circuit)),
        ("kl_divergence", "kl_estimate", lambda: pf.kl_divergence(circuit, tree)),
        ("renyi_divergence", "kl_estimate", lambda: pf.renyi_divergence(tree, circuit, 1)),
        ("renyi_divergence", "expectation_est", lambda: pf.renyi_divergence(circuit, tree, 0.5)),
        ("power(0.5)", "whole powers", lambda: pf.power(circuit, 0.5)),
        ("marginal_map", "map_upper_bound", lambda: pf.marginal_map(circuit, every, nothing)),
    ]
    for name, instead, query in refused:
        with pytest.raises(pf.NotDeterministic, match=f"^{re.escape(name)}[ ,].*{instead}"):
            query()
    assert not pf.compile(circuit).mpe(nothing).exact


@given(broken("compatible"))
def test_what_needs_compatibility_is_refused_without(pair: tuple[pf.Circuit, pf.Circuit]) -> None:
    for query in (pf.multiply, pf.inner_product, pf.log_inner_product):
        with pytest.raises(pf.NotCompatible, match=f"^{query.__name__} needs"):
            query(*pair)


@given(broken("structured_decomposable"))
def test_what_needs_a_vtree_is_refused_without(circuit: pf.Circuit) -> None:
    with pytest.raises(pf.NotStructuredDecomposable, match=r"^cauchy.*expectation_est"):
        pf.cauchy_schwarz_divergence(circuit, circuit)
    if circuit.properties.deterministic is None:
        for query in (pf.power, pf.renyi_entropy):
            with pytest.raises(pf.NotStructuredDecomposable, match=f"^{query.__name__}"):
                query(circuit, 2)


def gaussians(means: list[float], stds: list[float]) -> pf.Circuit:
    """Independent normal variables."""
    layers = []
    for v, (mean, std) in enumerate(zip(means, stds, strict=True)):
        parameters = {
            "mean": pf.Parameter(torch.tensor([mean]).double()),
            "log_std": pf.Parameter(torch.tensor([std]).double().log()),
        }
        layers.append(pf.InputLayer(v, pf.Gaussian(), 1, parameters))
    return pf.Circuit(pf.ProductLayer(layers))


def test_normal_distributions_by_hand() -> None:
    p, q = gaussians([0.0, 1.0], [1.0, 2.0]), gaussians([1.0, 1.0], [2.0, 2.0])
    same(pf.entropy(p), math.log(2 * math.pi * math.e) + math.log(2.0))
    same(pf.kl_divergence(p, q), math.log(2.0) + (1 + 1) / 8 - 0.5)
    same(pf.inner_product(p, p), 1 / (2 * math.sqrt(math.pi)) / (4 * math.sqrt(math.pi)))
    assert pf.renyi_divergence(p, p, 0.5) == pytest.approx(0.0, abs=1e-12)
    squared = pf.power(p, 2)
    both = pf.multiply(p, p)
    rows = torch.randn(5, 2, dtype=torch.float64)
    wanted = pf.reference_log_prob(gaussians([0.0, 1.0], [2**-0.5, 2**0.5]), rows)
    for found in (squared, both):
        torch.testing.assert_close(pf.reference_log_prob(found, rows), wanted)


@pytest.mark.parametrize(
    "family", [pf.Gaussian(), pf.Exponential(), pf.LogNormal(), pf.Histogram([0.0, 0.5, 2.0, 9.0])]
)
def test_products_and_overlaps_of_densities_are_integrals(family: pf.Gaussian) -> None:
    generator = torch.Generator().manual_seed(3)
    p, q = (pf.Circuit(pf.InputLayer.random(0, family, 1, generator)) for _ in range(2))
    grid = torch.linspace(-30, 60, 900_001, dtype=torch.float64) + 5e-5
    width = torch.full_like(grid, 1e-4)
    if isinstance(family, pf.LogNormal):  # its tail is heavy: go by logarithms
        grid = (grid / 4).exp()
        width = width / 4 * grid
    x = grid.unsqueeze(-1)
    log_p, log_q = pf.reference_log_prob(p, x), pf.reference_log_prob(q, x)
    both = log_p + log_q
    total = (both.exp() * width).sum().item()
    assert pf.inner_product(p, q) == pytest.approx(total, rel=1e-4)
    found = pf.reference_log_prob(pf.multiply(p, q), x)
    torch.testing.assert_close(found.exp(), both.exp() / total, rtol=1e-3, atol=1e-4)
    mean = expected(log_p.exp() * width, log_p - log_q)
    assert pf.kl_divergence(p, q) == pytest.approx(mean, rel=1e-3, abs=1e-4)
    order = 0.7
    mixed = ((order * log_p + (1 - order) * log_q).exp() * width).sum().item()
    wanted = math.log(mixed) / (order - 1)
    assert pf.renyi_divergence(p, q, order) == pytest.approx(wanted, rel=1e-3, abs=1e-4)


def test_families_without_products_are_refused_by_name() -> None:
    p = pf.Circuit(pf.InputLayer.random(0, pf.Poisson()))
    with pytest.raises(pf.PropertyRequired, match=r"Poisson.*expectation_estimate"):
        pf.inner_product(p, p)
    q = pf.Circuit(pf.InputLayer.random(0, pf.Gaussian()))
    with pytest.raises(pf.PropertyRequired, match=r"Poisson.*Gaussian"):
        pf.multiply(p, q)
    with pytest.raises(pf.PropertyRequired, match="no finite mass"):
        pf.power(q, -1.0)


def test_ranges_and_orders_are_checked() -> None:
    two, three = (pf.naive_bayes([pf.Categorical(n)] * 2, 1) for n in (2, 3))
    for query in (pf.multiply, pf.inner_product, pf.cross_entropy):
        with pytest.raises(pf.StructureError, match=r"2 categories .* 3"):
            query(two, three)
    with pytest.raises(pf.NotCompatible):
        pf.inner_product(two, pf.naive_bayes([pf.Bernoulli()], 1))
    for order in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="order"):
            pf.renyi_divergence(two, two, order)
    with pytest.raises(ValueError, match="finite"):
        pf.power(two, math.inf)
    rows = torch.tensor([[0.0, math.nan], [math.nan, math.nan]])
    with pytest.raises(pf.EvidenceError, match="variable 0 is observed in some rows"):
        pf.marginal_map(two, [1], rows)
    with pytest.raises(pf.EvidenceError, match="no potentials"):
        pf.marginal_map(two, [1], pf.Evidence(log_potentials=torch.zeros(1, 2, 2)))


def test_mass_that_underflows_side_by_side_is_found() -> None:
    odds = pf.Parameter(torch.tensor([[0.0], [-800.0]], dtype=torch.float64))
    tilted = {"logits": odds}
    layers = [pf.InputLayer(v, pf.Categorical(2), 1, tilted) for v in range(3)]
    p = pf.Circuit(pf.ProductLayer(layers))
    ones = pf.Circuit(pf.ProductLayer([pf.InputLayer(v, pf.Indicator(1)) for v in range(3)]))
    same(pf.log_inner_product(p, ones), -2400.0)
    same(pf.cross_entropy(ones, p), 2400.0)
    assert pf.log_inner_product(ones, p) == pf.log_inner_product(p, ones)
    assert pf.cross_entropy(p, ones) == math.inf
