"""Laws of the Monte Carlo estimates: near what is exact, as near as they say, by seeds that stay.

Legend: S states, n draws.
"""

import math
from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import of_fifty
from torch import Tensor

import pcflow as pf
from pcflow.errors import EvidenceError, StructureError
from pcflow.testing import circuits, enumerate_states, mixed_families

SEEDS = st.integers(0, 2**31 - 1)
# five standard errors are not always enough
STEADY = settings(derandomize=True, max_examples=of_fifty(30))
DRAWS = 2_000


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def near(found: pf.Estimate, exact: float) -> bool:
    return abs(found.value - exact) <= 5 * found.standard_error + 1e-9


def log_probs(*some: pf.Circuit) -> list[Tensor]:
    """Of all states [S], for circuits over the same variables."""
    return [pf.reference_log_prob(circuit, enumerate_states(some[0])) for circuit in some]


@STEADY
@given(circuits(), SEEDS)
def test_entropy_is_near(circuit: pf.Circuit, seed: int) -> None:
    (log_prob,) = log_probs(circuit)
    exact = float(torch.special.entr(log_prob.exp()).sum())
    assert near(pf.entropy_estimate(circuit, DRAWS, seeded(seed)), exact)


@STEADY
@given(circuits(max_variables=4), SEEDS)
def test_divergences_are_near(p: pf.Circuit, seed: int) -> None:
    """q is p with its parameters shrunk, which keeps hard zeros."""
    q = p.replace({parameter: parameter.value * 0.5 for parameter in p.parameters})
    log_p, log_q = log_probs(p, q)
    weight = log_p.exp()
    cross = float((-weight * log_q.masked_fill(weight == 0, 0.0)).sum())
    divergence = cross - float(torch.special.entr(weight).sum())
    assert near(pf.cross_entropy_estimate(p, q, DRAWS, seeded(seed)), cross)
    assert near(pf.kl_estimate(p, q, DRAWS, seeded(seed)), divergence)


@STEADY
@given(circuits(), SEEDS)
def test_mutual_information_is_near(circuit: pf.Circuit, seed: int) -> None:
    D = circuit.num_variables
    if D > 1:
        a, b = [D - 1], range(D - 1)
        found = pf.mutual_information_estimate(circuit, a, b, DRAWS, seeded(seed))
        assert near(found, pf.mutual_information(circuit, a, b))


@STEADY
@given(circuits(families=mixed_families(), max_variables=4), SEEDS)
def test_expectations_are_near(circuit: pf.Circuit, seed: int) -> None:
    for i, j in combinations(range(circuit.num_variables), 2):

        def function(x: Tensor, i: int = i, j: int = j) -> Tensor:
            return x[:, i] * x[:, j]

        n = 10 * DRAWS  # log-normal values have long tails
        found = pf.expectation_estimate(circuit, function, n, seeded(seed))
        assert near(found, pf.moment(circuit, {i: 1, j: 1}))


def normal(variable: int, *means: float) -> pf.InputLayer:
    mean = torch.tensor(means, dtype=torch.float64)
    named = {"mean": pf.Parameter(mean), "log_std": pf.Parameter(mean * 0)}
    return pf.InputLayer(variable, pf.Gaussian(), len(means), named)


def test_densities_by_hand() -> None:
    p, q = (pf.Circuit(normal(0, mean)) for mean in (0.0, 1.5))
    entropy = 0.5 * math.log(2 * math.pi * math.e)
    assert near(pf.entropy_estimate(p, DRAWS, seeded(0)), entropy)
    assert near(pf.kl_estimate(p, q, DRAWS, seeded(1)), 0.5 * 1.5**2)
    assert near(pf.cross_entropy_estimate(p, q, DRAWS, seeded(2)), entropy + 0.5 * 1.5**2)
    units = pf.ProductLayer([normal(0, -30.0, 30.0), normal(1, -30.0, 30.0)])
    signs = pf.Circuit(pf.SumLayer([units], pf.Parameter.from_probs([[0.5, 0.5]])))
    found = pf.mutual_information_estimate(signs, 0, 1, 100, seeded(3))
    assert found.value == pytest.approx(math.log(2), abs=1e-9)


def skewed() -> pf.Circuit:
    return pf.hmm(5, states=3, inputs=pf.Categorical(3), generator=seeded(1))


def test_the_standard_error_shrinks_with_the_root_of_the_draws() -> None:
    few, many = (pf.entropy_estimate(skewed(), n, seeded(n)) for n in (1_000, 64_000))
    assert few.standard_error / many.standard_error == pytest.approx(8.0, rel=0.1)


def test_errors_are_as_large_as_they_are_said_to_be() -> None:
    model = pf.compile(skewed(), dtype=torch.float64)
    (log_prob,) = log_probs(skewed())
    exact = float(torch.special.entr(log_prob.exp()).sum())
    found = [pf.entropy_estimate(model, 200, seeded(seed)) for seed in range(400)]
    scores = torch.tensor([(value - exact) / error for value, error in found])
    assert abs(scores.mean()) < 0.25
    assert scores.square().mean().item() == pytest.approx(1.0, abs=0.25)


def test_value_and_error_are_mean_and_deviation_however_draws_are_parted() -> None:
    for size in (1 << 22, 7 * 5):
        model = pf.compile(skewed(), dtype=torch.float64, machine=pf.Machine(values=size))
        met: list[Tensor] = []

        def score(x: Tensor, met: list[Tensor] = met) -> Tensor:
            met.append(1e6 + x.double().square().sum(dim=1))
            return met[-1]

        found = pf.expectation_estimate(model, score, 100, seeded(0))
        assert [len(part) for part in met] == ([100] if size > 100 else [7] * 14 + [2])
        scores = torch.cat(met)
        assert found.value == pytest.approx(scores.mean().item(), rel=1e-12)
        wanted = scores.std().item() / 10
        assert found.standard_error == pytest.approx(wanted, rel=1e-9)


def test_draws_are_those_of_the_generator() -> None:
    model = pf.compile(skewed())
    again = [pf.entropy_estimate(model, 50, seeded(5)) for _ in range(2)]
    assert again[0] == again[1] != pf.entropy_estimate(model, 50, seeded(6))
    torch.manual_seed(5)
    assert pf.entropy_estimate(model, 50) == again[0]


def coin(probability: float) -> pf.Circuit:
    odds = torch.tensor([probability], dtype=torch.float64).logit()
    return pf.Circuit(pf.InputLayer(0, pf.Bernoulli(), 1, {"logits": pf.Parameter(odds)}))


def test_what_is_infinite_is_said_to_be_so() -> None:
    fair, certain = coin(0.5), coin(1.0)
    for estimate in (pf.kl_estimate, pf.cross_entropy_estimate):
        assert estimate(fair, certain, 100, seeded(0)) == (math.inf, 0.0)
    assert pf.kl_estimate(certain, fair, 100, seeded(0)) == (pytest.approx(math.log(2)), 0.0)
    assert pf.entropy_estimate(certain, 100, seeded(0)) == (0.0, 0.0)

    def undefined(x: Tensor) -> Tensor:
        return torch.where(x[:, 0] > 0, torch.inf, -torch.inf)

    found = pf.expectation_estimate(fair, undefined, 100, seeded(0))
    assert math.isnan(found.value)
    assert math.isnan(found.standard_error)


def test_bad_questions_are_refused() -> None:
    circuit = skewed()
    for n in (1, 0, -3):
        with pytest.raises(ValueError, match="at least 2"):
            pf.entropy_estimate(circuit, n)
    for function in (lambda x: x, lambda x: x.sum(), lambda x: 1.0):
        with pytest.raises(ValueError, match=r"\[10\]"):
            pf.expectation_estimate(circuit, function, 10)
    with pytest.raises(StructureError, match="same variables"):
        pf.kl_estimate(circuit, coin(0.5), 10)
    with pytest.raises(EvidenceError, match="both hold variable 0"):
        pf.mutual_information_estimate(circuit, 0, [0, 1], 10)
    with pytest.raises(TypeError, match="Circuit"):
        pf.entropy_estimate(3, 10)  # type: ignore[arg-type]


def test_no_gradients_are_kept() -> None:
    model = pf.compile(skewed())
    pf.expectation_estimate(model, lambda x: model.log_prob(x), 10)
    assert all(bank.grad is None for bank in model.banks)
