"""Laws of moments, covariances and mutual information: against enumeration in float64.

Legend: S states, D variables.
"""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import pcflow as pf
from pcflow.algebra import moments
from pcflow.errors import EvidenceError, PropertyRequired
from pcflow.inputs.base import DensityFamily
from pcflow.testing import circuits, enumerate_states, mixed_families

TIGHT = {"rtol": 1e-9, "atol": 1e-9}


def weighed(circuit: pf.Circuit) -> tuple[Tensor, Tensor]:
    """All states [S, D] as numbers, and their probabilities [S]."""
    states = enumerate_states(circuit)
    return states.double(), pf.reference_log_prob(circuit, states).exp()


def entropy(probability: Tensor) -> float:
    return float(torch.special.entr(probability).sum())


def of_marginal(states: Tensor, probability: Tensor, variables: list[int]) -> float:
    """Entropy of some variables, by adding up states that agree on them."""
    place = states[:, variables].unique(dim=0, return_inverse=True)[1]
    return entropy(torch.zeros_like(probability).index_add(0, place, probability))


def mixed_of(seed: int) -> pf.Circuit:
    """Gaussian, finite, Poisson and exponential variables, several units each."""
    columns = [pf.Gaussian(), pf.Categorical(3), pf.Poisson(), pf.Exponential()]
    graph = pf.structure.random_binary_tree(4, replicas=2, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    return pf.build_circuit(graph, columns, units=2, generator=generator)


@given(st.data(), circuits())
def test_moments_are_sums_over_states(data: st.DataObject, circuit: pf.Circuit) -> None:
    variables = st.integers(0, circuit.num_variables - 1)
    powers = data.draw(st.dictionaries(variables, st.integers(0, 4)))
    states, probability = weighed(circuit)
    terms = probability
    for variable, power in powers.items():
        terms = terms * states[:, variable] ** power
    assert pf.moment(circuit, powers) == pytest.approx(float(terms.sum()), rel=1e-9, abs=1e-9)


@given(circuits())
def test_covariance_is_a_sum_over_states(circuit: pf.Circuit) -> None:
    states, probability = weighed(circuit)
    central = states - probability @ states
    wanted = torch.einsum("s,si,sj->ij", probability, central, central)
    found = pf.covariance(circuit)
    assert found.dtype == torch.float64
    assert torch.equal(found, found.t())
    torch.testing.assert_close(found, wanted, **TIGHT)


@given(circuits(families=mixed_families()))
def test_covariance_is_what_moments_say(circuit: pf.Circuit) -> None:
    found, D = pf.covariance(circuit), circuit.num_variables
    means = [pf.moment(circuit, {v: 1}) for v in range(D)]
    for i in range(D):
        for j in range(D):
            both = pf.moment(circuit, {i: 1, j: 1} if i != j else {i: 2})
            scale = max(1.0, abs(both))
            assert found[i, j].item() == pytest.approx(both - means[i] * means[j], abs=1e-9 * scale)


@given(circuits(families=mixed_families()))
def test_moments_follow_from_the_means_given_a_finite_variable(circuit: pf.Circuit) -> None:
    """E[x_i x_j] = sum_v p(v) v E[x_j | x_i = v], which the compiled model knows by itself."""
    model, D = pf.compile(circuit, dtype=torch.float64), circuit.num_variables
    for i in [v for v, n in enumerate(circuit.num_categories) if n is not None]:
        rows = torch.full((int(circuit.num_categories[i] or 0), D), torch.nan).double()
        rows[:, i] = torch.arange(len(rows))
        share = model.log_prob(rows).exp().detach()
        possible = share > 0
        means = model.mean(rows[possible])
        wanted = (share[possible] * rows[possible, i]) @ means  # [D]
        for j in (v for v in range(D) if v != i):
            assert pf.moment(circuit, {i: 1, j: 1}) == pytest.approx(wanted[j].item(), rel=1e-9)


@given(st.integers(0, 10**6))
def test_moments_of_two_densities_are_integrals(seed: int) -> None:
    circuit = mixed_of(seed)
    model = pf.compile(circuit, dtype=torch.float64)
    grid = torch.linspace(-12, 12, 2_001, dtype=torch.float64)
    rows = torch.full((len(grid), 4), torch.nan, dtype=torch.float64)
    rows[:, 0] = grid
    density, means = model.log_prob(rows).exp().detach(), model.mean(rows)
    for power in (1, 2):
        wanted = torch.trapezoid(
            density.unsqueeze(-1) * grid.unsqueeze(-1) ** power * means, grid, dim=0
        )
        for j in range(1, 4):
            found = pf.moment(circuit, {0: power, j: 1})
            assert found == pytest.approx(wanted[j].item(), rel=1e-8, abs=1e-8)


def normal(variable: int, means: list[float], std: float = 1.0) -> pf.InputLayer:
    mean = torch.tensor(means, dtype=torch.float64)
    named = {"mean": pf.Parameter(mean), "log_std": pf.Parameter(mean * 0 + math.log(std))}
    return pf.InputLayer(variable, pf.Gaussian(), len(means), named)


def pair(first: list[float], second: list[float], weight: float = 0.5) -> pf.Circuit:
    """Two components of two normal variables, with standard deviations 1 and 2."""
    units = pf.ProductLayer([normal(0, first), normal(1, second, 2.0)])
    return pf.Circuit(pf.SumLayer([units], pf.Parameter.from_probs([[weight, 1 - weight]])))


def test_covariance_by_hand() -> None:
    """Between components: p (1 - p) times the differences of means; within: the variances."""
    found = pf.covariance(pair([0.0, 4.0], [1.0, -1.0], weight=0.25))
    wanted = torch.tensor([[1 + 3.0, -1.5], [-1.5, 4 + 0.75]], dtype=torch.float64)
    torch.testing.assert_close(found, wanted, **TIGHT)
    assert pf.moment(pair([1.0, 3.0], [0.0, 2.0]), {0: 2, 1: 1}) == pytest.approx(10.0)
    assert pf.moment(pair([1.0, 3.0], [0.0, 2.0]), {}) == 1.0


def test_large_means_do_not_cancel() -> None:
    """Squares of the means have sixteen digits, so their differences alone would have none."""
    found = pf.covariance(pair([1e8 - 1, 1e8 + 1], [-1e8 + 1, -1e8 - 1]))
    assert found[0, 1].item() == pytest.approx(-1.0, rel=1e-6)


@given(circuits(families=mixed_families()))
def test_parts_change_nothing(circuit: pf.Circuit) -> None:
    whole = pf.covariance(circuit)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(moments, "NUMBERS_AT_A_TIME", 1)
        torch.testing.assert_close(pf.covariance(circuit), whole)


@given(circuits(max_variables=4))
def test_listing_in_parts_changes_nothing(circuit: pf.Circuit) -> None:
    if circuit.num_variables == 1:
        return
    whole = pf.pairwise_mutual_information(circuit), pf.mutual_information(circuit, 0, 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(moments, "NUMBERS_AT_A_TIME", 1)
        torch.testing.assert_close(pf.pairwise_mutual_information(circuit), whole[0])
        assert pf.mutual_information(circuit, 0, 1) == pytest.approx(whole[1], abs=1e-12)


@given(st.data(), circuits())
def test_mutual_information_is_a_difference_of_entropies(
    data: st.DataObject, circuit: pf.Circuit
) -> None:
    if circuit.num_variables == 1:
        return
    order = data.draw(st.permutations(range(circuit.num_variables)))
    cut = data.draw(st.integers(1, len(order) - 1))
    end = data.draw(st.integers(cut + 1, len(order)))
    a, b = order[:cut], order[cut:end]
    each = (of_marginal(*weighed(circuit), list(some)) for some in (a, b, a + b))
    wanted = next(each) + next(each) - next(each)
    found = pf.mutual_information(circuit, a, b)
    assert found >= 0
    assert found == pytest.approx(wanted, rel=1e-9, abs=1e-9)
    assert pf.mutual_information(circuit, b, a) == pytest.approx(found, abs=1e-12)


@given(circuits())
def test_pairwise_mutual_information_is_that_of_pairs(circuit: pf.Circuit) -> None:
    found = pf.pairwise_mutual_information(circuit)
    assert (found >= 0).all()
    assert torch.equal(found, found.t())
    states, probability = weighed(circuit)
    D = circuit.num_variables
    alone = [of_marginal(states, probability, [v]) for v in range(D)]
    for i in range(D):
        for j in range(i, D):
            both = of_marginal(states, probability, [i, j])
            assert found[i, j].item() == pytest.approx(alone[i] + alone[j] - both, abs=1e-9)


def test_rounding_makes_no_information_negative() -> None:
    """Units of a variable differ by 1e-10, so that mixing them makes next to no dependence."""
    alike = [torch.randn(5, 1).double() + 1e-10 * torch.randn(5, 2) for _ in range(20)]
    values = [
        pf.InputLayer(v, pf.Categorical(5), 2, {"logits": pf.Parameter(logits)})
        for v, logits in enumerate(alike)
    ]
    circuit = pf.Circuit(pf.SumLayer.random([pf.ProductLayer(values)]))
    found = pf.pairwise_mutual_information(circuit)
    assert (found >= 0).all()
    assert (found - found.diag().diag() < 1e-12).all()
    assert all(0 <= pf.mutual_information(circuit, 0, v) < 1e-12 for v in range(1, 20))


def test_variables_may_be_marginalised_and_a_bit_is_a_bit() -> None:
    """x0 = x1 for certain, x2 is x0 nine times out of ten."""
    flips = pf.Parameter.from_probs(torch.tensor([[0.9, 0.1], [0.1, 0.9]]).double())
    last = pf.InputLayer(2, pf.Categorical(2), 2, {"logits": flips})
    values = [pf.InputLayer(v, pf.Indicator([0, 1]), 2) for v in range(2)]
    units = pf.ProductLayer([*values, last])
    circuit = pf.Circuit(pf.SumLayer([units], pf.Parameter.from_probs([[0.5, 0.5]])))
    assert pf.mutual_information(circuit, 0, [1]) == pytest.approx(math.log(2))
    left = math.log(2) + 0.9 * math.log(0.9) + 0.1 * math.log(0.1)
    assert pf.mutual_information(circuit, [1, 0], 2) == pytest.approx(left)
    assert pf.mutual_information(circuit, [0], [2]) == pytest.approx(left)


class Odd(pf.Gaussian):
    """A density that only says its mean, as a user's may."""

    raw_moment = DensityFamily.raw_moment
    entropy = DensityFamily.entropy


def test_a_family_that_says_nothing_is_refused_with_a_way_out() -> None:
    circuit = pf.Circuit(pf.InputLayer.random(0, Odd()))
    assert pf.moment(circuit, {0: 1}) == pytest.approx(
        pf.compile(circuit).mean(torch.tensor([[torch.nan]])).item()
    )
    for ask in (lambda: pf.moment(circuit, {0: 2}), lambda: pf.covariance(circuit)):
        with pytest.raises(PropertyRequired, match="expectation_estimate"):
            ask()
    with pytest.raises(PropertyRequired, match="entropy_estimate"):
        pf.entropy_upper_bound(circuit)


def test_what_cannot_be_listed_is_refused_with_a_way_out() -> None:
    mixed = mixed_of(0)
    for ask in (
        lambda: pf.mutual_information(mixed, 0, 1),
        lambda: pf.mutual_information(mixed, 1, [2]),
        lambda: pf.pairwise_mutual_information(mixed),
    ):
        with pytest.raises(PropertyRequired, match="mutual_information_estimate"):
            ask()
    long = pf.hmm(21, states=2, inputs=pf.Bernoulli())
    with pytest.raises(PropertyRequired, match=r"1,048,576.*2,097,152.*estimate"):
        pf.mutual_information(long, 0, range(1, 21))
    assert pf.mutual_information(long, 0, 20) >= 0


def test_the_limit_on_states_may_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    circuit = pf.hmm(3, states=2, inputs=pf.Bernoulli())
    monkeypatch.setattr(moments, "MOST_STATES", 4)
    assert pf.mutual_information(circuit, 0, 1) >= 0
    with pytest.raises(PropertyRequired, match=r"at most 4 joint states.*have 8"):
        pf.mutual_information(circuit, 0, [1, 2])


def test_bad_variables_and_powers_are_refused() -> None:
    circuit = pf.hmm(3, states=2, inputs=pf.Bernoulli())
    for ask in (
        lambda: pf.moment(circuit, {3: 1}),
        lambda: pf.moment(circuit, {-1: 1}),
        lambda: pf.mutual_information(circuit, 0, 3),
        lambda: pf.mutual_information(circuit, "0", 1),  # type: ignore[arg-type]
    ):
        with pytest.raises(EvidenceError, match=r"variables must be in 0\.\.2"):
            ask()
    for a, b, why in (
        (0, [0, 1], "both hold variable 0"),
        ([1, 2], [2], "both hold variable 2"),
        ([], 1, "empty"),
        (1, [], "empty"),
    ):
        with pytest.raises(EvidenceError, match=why):
            pf.mutual_information(circuit, a, b)
    for power in (-1, 0.5):
        with pytest.raises(ValueError, match="whole number"):
            pf.moment(circuit, {0: power})  # type: ignore[dict-item]


def test_nothing_is_changed_and_no_gradient_is_needed() -> None:
    circuit = mixed_of(1)
    before = [p.value.clone() for p in circuit.parameters]
    with torch.no_grad():
        found = pf.covariance(circuit)
    assert not found.requires_grad
    assert all(torch.equal(p.value, old) for p, old in zip(circuit.parameters, before, strict=True))
