"""Laws of the queries: over generated circuits and evidence, against enumeration in float64.

Legend: B batch, S states, D variables, V categories.
"""

import math

import torch
from device import DEVICE
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import of_fifty
from torch import Tensor

import pcflow as pf
from pcflow.testing import (
    circuits,
    deterministic_circuits,
    enumerate_log_prob,
    enumerate_marginals,
    enumerate_mpe,
    enumerate_states,
    evidence,
    mixed_families,
)

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5}
SEEDS = st.integers(0, 2**31 - 1)
DTYPES = st.sampled_from([torch.float64, torch.float32])


def compiled(circuit: pf.Circuit, dtype: torch.dtype = torch.float64) -> pf.CompiledCircuit:
    return pf.compile(circuit, DEVICE, dtype)


def assert_close(found: Tensor, wanted: Tensor) -> None:
    """Equal up to the precision of `found`, relative to 1 or to the number if that is larger."""
    tolerance = TOLERANCE[found.dtype]
    torch.testing.assert_close(
        found.double().cpu(), wanted.double(), rtol=tolerance, atol=tolerance, equal_nan=True
    )


def possible(circuit: pf.Circuit, about: pf.Evidence) -> pf.Evidence | None:
    """The rows of the evidence that have any mass; None if there are none."""
    rows = (enumerate_log_prob(circuit, about) > -torch.inf).nonzero().squeeze(-1)
    return about.rows(rows) if len(rows) else None


@given(circuits(), DTYPES)
def test_a_circuit_sums_to_one(circuit: pf.Circuit, dtype: torch.dtype) -> None:
    total = compiled(circuit, dtype).log_prob(enumerate_states(circuit)).logsumexp(0)
    assert_close(total, torch.zeros(()))


@given(st.data(), circuits(), DTYPES)
def test_log_prob_is_the_sum_over_what_is_not_observed(
    data: st.DataObject, circuit: pf.Circuit, dtype: torch.dtype
) -> None:
    about = data.draw(evidence(circuit))
    assert_close(compiled(circuit, dtype).log_prob(about), enumerate_log_prob(circuit, about))


@given(st.data(), circuits(families=mixed_families()))
def test_log_prob_is_the_reference_with_densities_too(
    data: st.DataObject, circuit: pf.Circuit
) -> None:
    values = data.draw(st.integers(0, 2**31 - 1).map(_values_for(circuit)))
    wanted = pf.reference_log_prob(circuit, values)
    assert_close(compiled(circuit).log_prob(values), wanted)
    narrow = compiled(circuit, torch.float32).log_prob(values).double().cpu()
    torch.testing.assert_close(narrow, wanted, rtol=1e-5, atol=1e-5)


def _values_for(circuit: pf.Circuit):  # type: ignore[no-untyped-def]
    """Random complete and incomplete rows [4, D], whatever the variables' ranges."""

    def make(seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        columns = [
            torch.randn(4, generator=generator, dtype=torch.float64)
            if n is None
            else torch.randint(n, (4,), generator=generator).double()
            for n in circuit.num_categories
        ]
        values = torch.stack(columns, dim=1)
        return values.masked_fill(torch.rand(values.shape, generator=generator) < 0.3, torch.nan)

    return make


@given(st.data(), circuits(), DTYPES)
def test_marginals_are_the_posterior_of_every_variable(
    data: st.DataObject, circuit: pf.Circuit, dtype: torch.dtype
) -> None:
    about = possible(circuit, data.draw(evidence(circuit)))
    if about is not None:
        found = compiled(circuit, dtype).marginals(about)
        assert_close(found.exp(), enumerate_marginals(circuit, about).exp())


@given(st.data(), circuits())
def test_unlikely_values_have_accurate_marginals_too(
    data: st.DataObject, circuit: pf.Circuit
) -> None:
    about = possible(circuit, data.draw(evidence(circuit)))
    if about is not None:
        assert_close(compiled(circuit).marginals(about), enumerate_marginals(circuit, about))


def test_posteriors_added_up_over_input_layers_are_normalised_to_the_last_digit() -> None:
    """On the way down through 200 variables, rounding adds up to several digits."""
    torch.manual_seed(0)
    chains = [pf.hmm(200, 8, pf.Categorical(3)).root for _ in range(3)]
    model = compiled(pf.Circuit(pf.SumLayer.random(chains, 1)), torch.float32)
    rows = torch.randint(3, (4, 200)).float()
    rows[:, ::2] = torch.nan
    assert model.marginals(rows).logsumexp(dim=-1).abs().max() < 3e-7


@given(st.data(), circuits())
def test_mpe_is_a_bound_and_its_value_is_that_of_the_state(
    data: st.DataObject, circuit: pf.Circuit
) -> None:
    about = possible(circuit, data.draw(evidence(circuit)))
    if about is None:
        return
    values, log_value, exact = compiled(circuit).mpe(about)
    best = enumerate_mpe(circuit, about)[1]
    assert (log_value.cpu() <= best + 1e-9).all()
    assert_close(log_value, score(circuit, about, values.cpu()))
    if exact:
        assert_close(log_value, best)


@given(st.data(), deterministic_circuits())
def test_mpe_of_a_deterministic_circuit_is_exact(data: st.DataObject, circuit: pf.Circuit) -> None:
    about = possible(circuit, data.draw(evidence(circuit)))
    if about is not None:
        found = compiled(circuit).mpe(about)
        assert found.exact
        assert_close(found.log_value, enumerate_mpe(circuit, about)[1])


def score(circuit: pf.Circuit, about: pf.Evidence, values: Tensor) -> Tensor:
    """Log-weight [B] of complete states, whose observed values must be those of the evidence."""
    assert about.values is not None
    assert about.missing is not None
    kept = about.missing | (about.values == values)
    assert kept.all()
    if about.log_potentials is None:
        return pf.reference_log_prob(circuit, values)
    chosen = about.log_potentials.gather(-1, values.long().unsqueeze(-1)).squeeze(-1)
    soft = chosen.double().masked_fill(~about.missing, 0.0).sum(-1)
    return pf.reference_log_prob(circuit, values) + soft


@given(st.data(), circuits())
def test_draws_keep_what_is_observed_and_are_possible(
    data: st.DataObject, circuit: pf.Circuit
) -> None:
    about = possible(circuit, data.draw(evidence(circuit)))
    if about is None:
        return
    drawn = compiled(circuit).sample(20, about).cpu()  # [20, B, D]
    for values in drawn:
        assert (score(circuit, about, values) > -torch.inf).all()


@given(st.data(), circuits(), st.sampled_from([torch.float64, torch.float32]))
def test_folding_changes_nothing(
    data: st.DataObject, circuit: pf.Circuit, dtype: torch.dtype
) -> None:
    about = data.draw(evidence(circuit))
    folded, plain = (pf.compile(circuit, DEVICE, dtype, fold=fold) for fold in (True, False))
    assert_close(folded.log_prob(about), plain.log_prob(about).cpu())
    some = possible(circuit, about)
    if some is not None:
        assert_close(folded.marginals(some).exp(), plain.marginals(some).exp().cpu())


@st.composite
def tilted(draw: st.DrawFn, circuit: pf.Circuit) -> pf.Evidence:
    """Evidence with two soft variables or more, if there are as many."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31 - 1)))
    sizes = torch.tensor([int(n or 0) for n in circuit.num_categories])
    shape = (3, len(sizes))
    values = (torch.rand(shape, generator=generator) * sizes).long()
    missing = torch.rand(shape, generator=generator) < 0.7
    missing[:, :2] = True
    soft = torch.randn(*shape, int(sizes.max()), generator=generator)
    return pf.Evidence(values, missing, soft)


CHAINS = st.builds(
    lambda length, states, seed: pf.hmm(
        length, states, pf.Categorical(3), generator=torch.Generator().manual_seed(seed)
    ),
    st.integers(2, 5),
    st.integers(2, 3),
    st.integers(0, 10**6),
)


@settings(max_examples=of_fifty(40))
@given(st.data(), CHAINS | circuits(max_variables=4))
def test_projection_reaches_any_marginals_that_potentials_can_make(
    data: st.DataObject, circuit: pf.Circuit
) -> None:
    about = possible(circuit, data.draw(tilted(circuit)))
    if about is None:
        return
    target = enumerate_marginals(circuit, about)
    visible = pf.Evidence(about.values, about.missing)
    fitted = compiled(circuit).project(visible, target, sweeps=200, tolerance=1e-8)
    for _ in range(25):  # strongly coupled variables take longer; fitting goes on where it was
        assert fitted.mismatch is not None
        if (fitted.mismatch < 1e-7).all():
            break
        fitted = compiled(circuit).project(fitted, target, sweeps=200, tolerance=1e-8)
    assert fitted.log_potentials is not None
    soft = pf.Evidence(about.values, about.missing, fitted.log_potentials.cpu())
    found = enumerate_marginals(circuit, soft)
    torch.testing.assert_close(found.exp(), target.exp(), rtol=1e-6, atol=1e-6)
    assert fitted.mismatch is not None
    assert (fitted.mismatch < 1e-6).all()


@given(st.data(), circuits())
def test_means_are_those_of_the_marginals(data: st.DataObject, circuit: pf.Circuit) -> None:
    about = possible(circuit, data.draw(evidence(circuit)))
    if about is None:
        return
    probability = enumerate_marginals(circuit, about).exp()  # [B, D, V]
    wanted = probability @ torch.arange(probability.shape[-1]).double()
    found = compiled(circuit).mean(about)
    assert_close(found, wanted)


def normal(variable: int, *means: float) -> pf.InputLayer:
    """Units of standard deviation one."""
    mean, log_std = torch.tensor(means).double(), torch.zeros(len(means)).double()
    named = {"mean": pf.Parameter(mean), "log_std": pf.Parameter(log_std)}
    return pf.InputLayer(variable, pf.Gaussian(), len(means), named)


def test_a_mean_through_log_space_by_hand() -> None:
    """Unit 1 is e^-800 of unit 0 at variable 1, unit 0 of unit 1 at variable 2: both count half."""
    units = pf.ProductLayer([normal(0, 3.0, 7.0), normal(1, 0.0, 40.0), normal(2, 0.0, 40.0)])
    model = compiled(pf.Circuit(pf.SumLayer([units], pf.Parameter.from_probs([[0.5, 0.5]]))))
    rows = torch.tensor([[torch.nan, 0.0, 0.0], [torch.nan, 0.0, 40.0], [torch.nan, 40.0, 40.0]])
    wanted = torch.tensor([[3.0, 0, 0], [5.0, 0, 40], [7.0, 40, 40]]).double()
    assert_close(model.mean(rows), wanted)
    assert model.rows.log_space == 1


def test_what_a_long_product_lost_on_its_way_is_found() -> None:
    """After four factors unit 1 is 1e-44, which float32 rounds; after six it is the largest."""
    first = [normal(v, *means) for v, means in enumerate([(10.77, 0.0), *[(0.0, 8.17)] * 3])]
    units = pf.ProductLayer([*first, normal(4, 10.49, 0.0), normal(5, 0.0, 0.0)])
    circuit = pf.Circuit(pf.SumLayer([units], pf.Parameter.from_probs([[0.5, 0.5]])))
    model, x = compiled(circuit, torch.float32), torch.zeros(1, 6)
    assert_close(model.log_prob(x), pf.reference_log_prob(circuit, x))
    assert model.rows.log_space == 1


def test_a_mean_over_several_input_layers_by_hand() -> None:
    """.5 N(1) N(0) + .5 N(5) N(2) at x1 = 0: odds of the first are e^2."""
    parts = [pf.ProductLayer([normal(0, a), normal(1, b)]) for a, b in ((1.0, 0.0), (5.0, 2.0))]
    model = compiled(pf.Circuit(pf.SumLayer(parts, pf.Parameter.from_probs([[0.5, 0.5]]))))
    share = 1 / (1 + math.exp(-2.0))
    found = model.mean(torch.tensor([[torch.nan, 0.0]]))
    mean = share * 1.0 + (1 - share) * 5.0
    assert_close(found, torch.tensor([[mean, 0.0]], dtype=torch.float64))


@given(SEEDS)
@settings(max_examples=of_fifty(20))
def test_means_of_densities_are_integrals(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    columns = [pf.Gaussian(), pf.Categorical(3), pf.Gaussian(), pf.Gaussian()]
    regions = pf.structure.random_binary_tree(4, replicas=2, seed=seed)
    circuit = pf.build_circuit(regions, columns, units=2, generator=generator)
    model = compiled(circuit)
    grid = torch.linspace(-9, 9, 2_001, dtype=torch.float64)
    rows = torch.tensor([[torch.nan, 1.0, 0.7, 0.1], [torch.nan, torch.nan, 0.7, 0.1]]).double()
    found = model.mean(rows).cpu()
    for row, mean in zip(rows, found, strict=True):
        asked = row.expand(len(grid), 4).clone()
        asked[:, 0] = grid
        share = model.log_prob(asked).softmax(dim=0).detach().cpu()
        torch.testing.assert_close(mean[0], share @ grid, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found[0, 1:], rows[0, 1:])
    codes = rows[1].expand(3, 4).clone()
    codes[:, 1] = torch.arange(3)
    share = model.log_prob(codes).softmax(dim=0).detach().cpu()
    torch.testing.assert_close(found[1, 1], share @ torch.arange(3).double())


@given(circuits())
def test_no_rows_are_no_answers(circuit: pf.Circuit) -> None:
    model, D = compiled(circuit), circuit.num_variables
    nothing = pf.Evidence(missing=torch.ones(0, D, dtype=torch.bool))
    assert model.log_prob(nothing).shape == (0,)
    assert model.sample(3, nothing).shape == (3, 0, D)
    assert model.marginals(nothing).shape[:2] == (0, D)
    assert model.mean(nothing).shape == (0, D)
    assert model.mpe(nothing).values.shape == (0, D)
