"""Mini-batch learners: where they must equal EM, and what Anemone's prior flows are."""

import pytest
import torch
from device import DEVICE
from hypothesis import example, given, settings
from hypothesis import strategies as st
from laws import of_fifty

import pcflow as pf
from pcflow.inputs import DensityFamily, FiniteFamily
from pcflow.learn.categories import ALL
from pcflow.learn.counts import Counts, Layout, expected_units, first_of
from pcflow.testing import circuits, enumerate_states, mixed_families


def compiled(circuit: pf.Circuit) -> pf.CompiledCircuit:
    return pf.compile(circuit, DEVICE, torch.float64)


def table() -> tuple[pf.Circuit, torch.Tensor]:
    """A circuit with finite and real columns, and rows of which it gives none probability zero."""
    columns = [pf.Categorical(3), pf.Gaussian(), pf.Bernoulli(), pf.Gaussian()]
    regions = pf.structure.random_binary_tree(4, replicas=2)
    circuit = pf.build_circuit(
        regions, columns, units=2, generator=torch.Generator().manual_seed(0)
    )
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(30, 4, generator=generator).double()
    x[:, 0] = torch.randint(3, (30,), generator=generator).double()
    x[:, 2] = torch.randint(2, (30,), generator=generator).double()
    return circuit, x.masked_fill(torch.rand(30, 4, generator=generator) < 0.1, torch.nan)


def all_of(counts: Counts) -> list[dict[int, torch.Tensor]]:
    """By bank, all that was counted."""
    finite = [first_of(named) for family, named in counts.kinds if isinstance(family, FiniteFamily)]
    categories = {bank: counts.counted(bank, ALL) for bank in finite}
    return [*(sums.found for sums in counts.sums), categories]


def counts_of(model: pf.CompiledCircuit) -> Counts:
    return Counts(Layout(model.engine.counting))


@torch.no_grad()
def all_expected(model: pf.CompiledCircuit) -> list[dict[int, torch.Tensor]]:
    """The same of a row of which nothing is known."""
    counts = counts_of(model)
    layout, tables = counts.layout, counts.engine.tables
    tables.cache.refresh()
    ones = {w: torch.ones(rows, 1).to(tables.like) for w, rows in layout.plan.arenas.items()}
    units = expected_units(layout, ones)
    weights = {s.weight.bank for s in layout.sums}
    flows: dict[int, torch.Tensor] = {}
    statistics, categories = dict(flows), dict(flows)
    for family, named in layout.kinds:
        bank, params = first_of(named), counts.params(named)
        each = units[bank].unsqueeze(-2)
        if isinstance(family, FiniteFamily):
            categories[bank] = each * family.table(params)
        elif isinstance(family, DensityFamily):
            flows[bank], statistics[bank] = units[bank], each * family.moments(params)
    edges = {bank: units[bank].unsqueeze(-1) * tables.linear(bank) for bank in weights}
    return [edges, flows, statistics, categories]


@example(pf.Circuit(pf.InputLayer.random(0, pf.Bernoulli())))  # runs in log space
@given(circuits(max_variables=4))
@settings(max_examples=of_fifty(30))
def test_prior_counts_are_what_the_models_own_rows_count(circuit: pf.Circuit) -> None:
    model = compiled(circuit)
    own = counts_of(model)
    states = model.engine.check(enumerate_states(circuit))
    evaluation = model.engine.evaluate(states)
    evaluation.down(evaluation.log_value.exp(), own.at_leaf, own.at_weights)
    for wanted, found in zip(all_of(own), all_expected(model), strict=True):
        assert wanted.keys() == found.keys()
        for bank, flow in wanted.items():
            torch.testing.assert_close(found[bank], flow, rtol=1e-9, atol=1e-9)


def test_prior_counts_of_densities_are_the_mean_of_many_draws() -> None:
    circuit, _ = table()
    model = compiled(circuit)
    own = counts_of(model)
    own.add(pf.Batch(model.sample(40_000, generator=torch.Generator(DEVICE).manual_seed(0))))
    for wanted, found in zip(all_of(own), all_expected(model), strict=True):
        for bank, flow in wanted.items():
            torch.testing.assert_close(found[bank], flow / 40_000, rtol=0.0, atol=0.05)


@pytest.mark.parametrize(
    "learner",
    [pf.Anemone(step=1.0, momentum=0.0, pseudocount=0.0), pf.MiniBatchEM(1.0, 0.0)],
    ids=["anemone", "mini-batch"],
)
def test_a_full_step_over_all_rows_is_em(learner: pf.Anemone | pf.MiniBatchEM) -> None:
    circuit, x = table()
    one, other = compiled(circuit), compiled(circuit)
    pf.fit(one, x, learner, epochs=3, batch_size=100, progress=False)
    pf.fit(other, x, pf.EM(pseudocount=0.0), epochs=3, batch_size=100, progress=False)
    torch.testing.assert_close(one.log_prob(x), other.log_prob(x), rtol=1e-8, atol=1e-8)
    for mine, its in zip(one.banks, other.banks, strict=True):
        torch.testing.assert_close(mine.softmax(-1), its.softmax(-1), rtol=1e-6, atol=1e-6)


def test_anemone_by_hand() -> None:
    """.6 [x = 0] + .4 [x = 1], one batch of three ones and a zero: .6 (.6, .4) + .4 (.25, .75)."""
    either = [pf.InputLayer(0, pf.Indicator(v)) for v in (0, 1)]
    circuit = pf.Circuit(pf.SumLayer(either, pf.Parameter.from_probs([[0.6, 0.4]])))
    model = compiled(circuit)
    x = torch.tensor([[1.0], [1.0], [0.0], [1.0]])
    pf.fit(model, x, pf.Anemone(pseudocount=0.0), epochs=1, progress=False)
    found = model.log_prob(torch.tensor([[0.0], [1.0]])).exp().detach().cpu()
    torch.testing.assert_close(found, torch.tensor([0.46, 0.54], dtype=torch.float64))
    # second step: the mean flow is (.9 x .1 x (.25, .75) + .1 x (1, 0)) / (1 - .81)
    model = compiled(circuit)
    run = pf.Anemone(pseudocount=0.0).start(model)
    run.step([pf.Batch(x)])
    run.step([pf.Batch(torch.zeros(4, 1))])
    mean = (0.9 * 0.1 * 0.25 + 0.1) / 0.19
    wanted = 0.6 * 0.46 + 0.4 * mean
    assert model.log_prob(torch.zeros(1, 1)).exp().item() == pytest.approx(wanted)


@given(
    st.lists(st.lists(st.booleans(), min_size=1, max_size=9), min_size=1, max_size=6),
    st.floats(0.0, 0.95),
)
@example([[True] * 9, [False]], 0.9)
@settings(max_examples=of_fifty(30))
def test_momentum_goes_by_rows(batches: list[list[bool]], momentum: float) -> None:
    """Every row weighs as much as the others of its age, however many came with it."""
    even = {"logits": pf.Parameter(torch.zeros(1))}
    model = compiled(pf.Circuit(pf.InputLayer(0, pf.Bernoulli(), 1, even)))
    run = pf.Anemone(momentum=momentum, pseudocount=0.0).start(model)
    wanted, ones, rows = 0.5, 0.0, 0.0
    for batch in batches:
        run.step([pf.Batch(torch.tensor(batch).double().unsqueeze(-1))])
        ones, rows = sum(batch) + momentum * ones, len(batch) + momentum * rows
        wanted = 0.6 * wanted + 0.4 * ones / rows
        found = model.log_prob(torch.ones(1, 1)).exp().item()
        assert found == pytest.approx(wanted, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("learner", [pf.Anemone(pseudocount=0.0), pf.MiniBatchEM(pseudocount=0.0)])
def test_units_that_a_batch_does_not_use_stay(learner: pf.Anemone | pf.MiniBatchEM) -> None:
    branches = [
        pf.ProductLayer([pf.InputLayer(0, pf.Indicator(v)), pf.InputLayer.random(1, family)])
        for v in (0, 1)
        for family in [pf.Categorical(3)]
    ]
    model = compiled(pf.Circuit(pf.SumLayer.random(branches)))
    before = model.log_prob(torch.tensor([[1.0, 0.0], [1.0, 1.0], [1.0, 2.0]])).detach()
    pf.fit(model, torch.tensor([[0.0, 2.0], [0.0, 1.0]]), learner, epochs=2, progress=False)
    after = model.log_prob(torch.tensor([[1.0, 0.0], [1.0, 1.0], [1.0, 2.0]])).detach()
    torch.testing.assert_close(after.softmax(0), before.softmax(0))
    assert (after < before).all()


@given(st.integers(0, 1000), circuits(families=mixed_families()))
@settings(max_examples=of_fifty(20))
def test_any_circuit_stays_a_distribution(seed: int, circuit: pf.Circuit) -> None:
    model = compiled(circuit)
    drawn = model.sample(20, generator=torch.Generator(DEVICE).manual_seed(seed))
    for learner in (pf.Anemone(), pf.MiniBatchEM()):
        result = pf.fit(model, drawn, learner, epochs=2, batch_size=7, progress=False)
        assert all(torch.tensor(result.train).isfinite())
        nothing = torch.full((1, circuit.num_variables), torch.nan)
        assert abs(model.log_prob(nothing).item()) < 1e-9


def test_numbers_out_of_range_are_refused() -> None:
    for make in (
        lambda: pf.Anemone(step=0.0),
        lambda: pf.Anemone(step=1.5),
        lambda: pf.Anemone(momentum=1.0),
        lambda: pf.Anemone(pseudocount=-1.0),
        lambda: pf.MiniBatchEM(step=-0.1),
        lambda: pf.MiniBatchEM(pseudocount=float("nan")),
    ):
        with pytest.raises(pf.SettingError, match=r"must be (in|at least) .*, got"):
            make()


@pytest.mark.parametrize("learner", [pf.Anemone, pf.MiniBatchEM])
@pytest.mark.parametrize("step", [1.0, 0.3, 0.05])
def test_a_pseudocount_weighs_alike_at_every_step(
    learner: type[pf.Anemone | pf.MiniBatchEM], step: float
) -> None:
    """Three ones and a zero over and over, smoothed by .1 of a row, end at (.35, .85) / 1.2."""
    even = {"logits": pf.Parameter(torch.zeros(2, 1))}
    model = compiled(pf.Circuit(pf.InputLayer(0, pf.Categorical(2), 1, even)))
    run = learner(step=step, pseudocount=0.1).start(model)
    for _ in range(round(30 / step)):  # what was there at first is then e^-30 of what is there
        run.step([pf.Batch(torch.tensor([[1.0], [1.0], [0.0], [1.0]]))])
    assert model.log_prob(torch.zeros(1, 1)).exp().item() == pytest.approx(0.35 / 1.2, abs=1e-9)


@given(st.integers(2, 9_000), st.floats(0.05, 1.0))
@settings(max_examples=of_fifty(30))
def test_by_default_many_values_share_what_few_get(values: int, step: float) -> None:
    """One in a million of a row for each; a thousand in a million for all of a larger one."""
    each = min(1e-6, 1e-3 / values)
    start = pf.Parameter(torch.zeros(values, 1))  # all alike
    inputs = pf.InputLayer(0, pf.Categorical(values), 1, {"logits": start})
    for learner in (pf.Anemone(step, momentum=0.0), pf.MiniBatchEM(step)):
        model = compiled(pf.Circuit(inputs))
        learner.start(model).step([pf.Batch(torch.zeros(5, 1).long())])
        unseen = model.log_prob(torch.ones(1, 1).long()).exp().item()
        kept = (1 - step) / values  # of the start
        wanted = (kept + step * each) / (1 + step * each * values)
        assert unseen == pytest.approx(wanted, rel=1e-9)
