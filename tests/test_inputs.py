"""Numbers of single input families; their common laws are in `test_kit_families.py`."""

import math

import pytest
import torch
from scipy import stats
from torch import Tensor

import pcflow as pf
from pcflow.inputs import DensityFamily, FiniteFamily
from pcflow.inputs.categorical import by_columns

FREE: list[FiniteFamily] = [pf.Categorical(4), pf.Bernoulli()]  # any table is one of theirs
SHAPED: list[FiniteFamily] = [pf.Binomial(1), pf.Binomial(5), pf.DiscretizedLogistic(5)]
FINITE: list[FiniteFamily] = [*FREE, *SHAPED, pf.Indicator([1, 0, 1], 3)]
CONTINUOUS: list[DensityFamily] = [pf.Gaussian(), pf.Exponential(), pf.LogNormal()]
DENSITIES: list[DensityFamily] = [*CONTINUOUS, pf.Poisson(), pf.Histogram([0.5, 1.5, 3.0, 6.0])]
UNITS = 3


def random_params(family: pf.inputs.InputFamily) -> dict[str, Tensor]:
    """Two parameter sets [2, ..., 3] in float64."""
    draws = [family.initial(UNITS) for _ in range(2)]
    return {name: torch.stack([d[name] for d in draws]).double() for name in draws[0]}


@pytest.mark.parametrize("family", FREE, ids=repr)
def test_the_finite_update_is_the_maximum(family: FiniteFamily) -> None:
    params = random_params(family)
    flow = torch.rand(2, family.num_categories, UNITS, dtype=torch.float64)
    best = family.maximize(params, flow, pseudocount=0.0)
    wanted = flow / flow.sum(dim=1, keepdim=True)
    torch.testing.assert_close(family.table(best), wanted, rtol=1e-9, atol=1e-12)
    smooth = family.maximize(params, flow, pseudocount=2.0)
    wanted = (flow + 2.0) / (flow + 2.0).sum(dim=1, keepdim=True)
    torch.testing.assert_close(family.table(smooth), wanted, rtol=1e-9, atol=1e-12)
    kept = family.maximize(params, torch.zeros_like(flow), pseudocount=0.0)
    assert all(torch.equal(kept[name], params[name]) for name in params)


def test_infinite_log_odds_are_point_masses_with_gradient_zero() -> None:
    params = {"logits": torch.tensor([[torch.inf, -torch.inf]])}
    table = pf.Bernoulli().table(params)
    assert table.tolist() == [[[0.0, 1.0], [1.0, 0.0]]]
    gradient = pf.Bernoulli().table_gradient(params, table, table)
    assert gradient["logits"].tolist() == [[0.0, 0.0]]
    kept = pf.Bernoulli().maximize(params, table, pseudocount=1.0)
    assert torch.equal(kept["logits"], params["logits"])


@pytest.mark.parametrize("family", CONTINUOUS, ids=repr)
def test_densities_integrate_to_one_and_peak_at_the_mode(family: DensityFamily) -> None:
    params = random_params(family)
    if "log_std" in params:
        params["log_std"] = params["log_std"] - 0.5
    negative = -torch.logspace(1.1, -8, 100_001, dtype=torch.float64)
    positive = torch.logspace(-8, 3, 200_001, dtype=torch.float64)
    grid = torch.cat([negative, torch.zeros(1), positive]).expand(2, -1)
    density = family.log_prob(params, grid).exp()  # [2, N, K]
    total = torch.trapezoid(density, grid.unsqueeze(-1), dim=1)
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0.0, atol=1e-5)
    at_mode = family.log_prob(params, family.mode(params)).diagonal(dim1=-2, dim2=-1)
    assert (at_mode.exp() >= density.amax(dim=1) - 1e-6).all()


def test_poisson_sums_to_one_over_whole_numbers_and_is_zero_elsewhere() -> None:
    family = pf.Poisson()
    params = random_params(family)
    counts = torch.arange(200, dtype=torch.float64).expand(2, -1)
    probability = family.log_prob(params, counts).exp()
    torch.testing.assert_close(probability.sum(1), torch.ones(2, UNITS, dtype=torch.float64))
    at_mode = family.log_prob(params, family.mode(params)).diagonal(dim1=-2, dim2=-1)
    assert (at_mode.exp() >= probability.amax(dim=1) - 1e-12).all()
    wrong = torch.tensor([[-1.0, 0.5]] * 2, dtype=torch.float64)
    assert (family.log_prob(params, wrong) == -torch.inf).all()


@pytest.mark.parametrize("family", [pf.Exponential(), pf.LogNormal()], ids=repr)
def test_values_outside_the_support_have_probability_zero(family: DensityFamily) -> None:
    circuit = pf.Circuit(pf.InputLayer.random(0, family))
    model = pf.compile(circuit, dtype=torch.float64)
    x = torch.tensor([[-0.5], [1.0], [torch.nan]], dtype=torch.float64)
    found = model.log_prob(x)
    assert found[0] == -torch.inf
    assert found[1].isfinite()
    assert found[2] == 0.0
    found[1].backward()
    assert all(bank.grad is not None and bank.grad.isfinite().all() for bank in model.banks)


@pytest.mark.parametrize("family", [*DENSITIES, *FREE, *SHAPED], ids=repr)
def test_updates_are_where_the_likelihood_is_level(family: pf.inputs.InputFamily) -> None:
    """At the weighted maximum the expected log-likelihood has no slope, in any parameter."""
    params = random_params(family)
    if isinstance(family, FiniteFamily):
        flow = torch.rand(2, family.num_categories, UNITS, dtype=torch.float64)
        best = family.maximize(params, flow, pseudocount=0.0)
        leaves = {name: value.requires_grad_() for name, value in best.items()}
        likelihood = (flow * family.log_table(leaves)).sum()
    else:
        assert isinstance(family, DensityFamily)
        x = torch.randint(1, 6, (2, 40)).double()
        flow = torch.rand(2, 40, UNITS, dtype=torch.float64)
        statistics = family.tally(params, x, flow)
        best = family.maximize(params, flow.sum(1), statistics, pseudocount=0.0)
        leaves = {name: value.requires_grad_() for name, value in best.items()}
        likelihood = (flow * family.log_prob(leaves, x)).sum()
        kept = family.maximize(params, 0 * flow.sum(1), 0 * statistics, pseudocount=0.0)
        assert all(torch.equal(kept[name], params[name]) for name in params)
        same = family.maximize(params, 0 * flow.sum(1), 0 * statistics, pseudocount=3.0)
        torch.testing.assert_close(family.log_prob(same, x), family.log_prob(params, x))
    for slope in torch.autograd.grad(likelihood, list(leaves.values())):
        torch.testing.assert_close(slope, torch.zeros_like(slope), rtol=0.0, atol=1e-9)


def test_the_gaussian_update_is_the_weighted_mean_and_deviation() -> None:
    family = pf.Gaussian()
    params, x = random_params(family), torch.randn(2, 40, dtype=torch.float64)
    flow = torch.rand(2, 40, UNITS, dtype=torch.float64)
    statistics = family.tally(params, x, flow)
    best = family.maximize(params, flow.sum(1), statistics, pseudocount=0.0)
    weight = flow / flow.sum(dim=1, keepdim=True)
    mean = (weight * x.unsqueeze(-1)).sum(1)
    deviation = (weight * (x.unsqueeze(-1) - mean.unsqueeze(1)).square()).sum(1).sqrt()
    torch.testing.assert_close(best["mean"], mean, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(best["log_std"].exp(), deviation, rtol=1e-7, atol=1e-12)


def test_a_histogram_by_hand() -> None:
    family = pf.Histogram([0, 1, 3])
    params = {"logits": torch.tensor([[[0.25], [0.75]]]).log()}  # [P, S, K]
    x = torch.tensor([[-0.1, 0.0, 0.9, 1.0, 3.0, 3.1]])
    found = family.log_prob(params, x).exp().flatten()
    torch.testing.assert_close(found, torch.tensor([0.0, 0.25, 0.25, 0.375, 0.375, 0.0]))
    assert family.mode(params).item() == 2.0
    drawn = family.sample({"logits": params["logits"][0].t().expand(20_000, -1)})
    counts = torch.histogram(drawn, torch.tensor([0.0, 1.0, 2.0, 3.0])).hist / 20_000
    torch.testing.assert_close(counts, torch.tensor([0.25, 0.375, 0.375]), rtol=0, atol=0.02)


def test_histogram_edges_hold_equally_many_values() -> None:
    column = torch.cat([torch.arange(100.0).square(), torch.full((7,), torch.nan)])
    edges = torch.tensor(pf.Histogram.of(column, bins=4).edges)
    assert torch.histogram(column[:100], edges).hist.tolist() == [25, 25, 25, 25]
    assert pf.Histogram.of([0.0, 0.0, 0.0, 0.0, 1.0], bins=4).edges == (0.0, 1.0)
    with pytest.raises(pf.StructureError, match="two different"):
        pf.Histogram.of([2.0, torch.nan])


def test_a_discretised_logistic_is_the_logistic_between_halves() -> None:
    family = pf.DiscretizedLogistic(6)
    params = random_params(family)
    mean, scale = params["mean"], params["log_scale"].exp()
    cuts = torch.arange(5, dtype=torch.float64).view(1, -1, 1) + 0.5
    rising = torch.sigmoid((cuts - mean.unsqueeze(1)) / scale.unsqueeze(1))
    ends = torch.zeros(2, 1, UNITS, dtype=torch.float64)
    wanted = torch.cat([ends, rising, 1 + ends], dim=1).diff(dim=1)
    torch.testing.assert_close(family.table(params), wanted)


@pytest.mark.parametrize("size", [3, 20])
def test_the_update_of_a_discretised_logistic_does_not_depend_on_where_it_starts(size: int) -> None:
    family = pf.DiscretizedLogistic(size)
    for _ in range(6):
        flow = torch.rand(2, size, UNITS, dtype=torch.float64)
        one, other = (family.maximize(random_params(family), flow, 0.0) for _ in range(2))
        for name, found in one.items():
            torch.testing.assert_close(found, other[name], rtol=0.0, atol=1e-11)


@pytest.mark.parametrize("flow", [[5.0, 0, 0, 0], [0, 0, 5.0, 0], [1.0, 0, 0, 1]], ids=str)
def test_a_discretised_logistic_goes_to_the_edge_and_stays_finite(flow: list[float]) -> None:
    family = pf.DiscretizedLogistic(4)
    params = {"mean": torch.full((1, 1), 1.3), "log_scale": torch.zeros(1, 1)}
    counts = torch.tensor(flow).view(1, 4, 1)
    best = family.maximize(params, counts, pseudocount=0.0)
    before = (counts * family.log_table(params)).sum()
    after = (counts * family.log_table(best)).sum()
    assert all(value.isfinite().all() for value in best.values())
    assert after > before
    if sum(n > 0 for n in flow) == 1:
        assert after > -1e-3  # 5 log s(10)^2 at the smallest scale


def test_families_refuse_settings_that_make_no_sense() -> None:
    with pytest.raises(pf.SettingError, match="at least"):
        pf.Categorical(0)
    with pytest.raises(pf.SettingError, match="min_std"):
        pf.Gaussian(min_std=0.0)
    with pytest.raises(pf.SettingError, match="total_count"):
        pf.Binomial(0)
    for family in (pf.Poisson, pf.Exponential):
        with pytest.raises(pf.SettingError, match="must be positive"):
            family(0.0)
    for edges in ([1.0], [1.0, 1.0], [0.0, torch.inf], [0.0, torch.nan]):
        with pytest.raises(pf.StructureError, match="edges must be"):
            pf.Histogram(edges)
    with pytest.raises(pf.SettingError, match="at least 2"):
        pf.DiscretizedLogistic(1)
    with pytest.raises(pf.StructureError, match=r"\(3,\) must lie in 0..2"):
        pf.Indicator(3, num_categories=3)
    with pytest.raises(pf.StructureError, match="has 2 units, not 1"):
        pf.InputLayer(0, pf.Indicator([0, 1]), 1)


def single(family: DensityFamily) -> tuple[dict[str, Tensor], object]:
    """Parameters [1, ..., 1], and the same distribution from scipy."""
    alone = {name: value[:1, ..., :1] for name, value in random_params(family).items()}
    if "log_std" in alone:
        alone["log_std"] = alone["log_std"] - 1.0
    number = {name: value.flatten().tolist() for name, value in alone.items()}
    match family:
        case pf.Gaussian():
            return alone, stats.norm(number["mean"][0], math.exp(number["log_std"][0]))
        case pf.LogNormal():
            scale = math.exp(number["mean"][0])
            return alone, stats.lognorm(math.exp(number["log_std"][0]), scale=scale)
        case pf.Exponential():
            return alone, stats.expon(scale=math.exp(number["log_mean"][0]))
        case pf.Poisson():
            return alone, stats.poisson(math.exp(number["log_rate"][0]))
        case pf.Histogram():
            probs = alone["logits"].softmax(dim=-2).flatten().numpy()
            return alone, stats.rv_histogram((probs, family.edges), density=False)
    raise AssertionError(family)


MORE_DENSITIES = [*DENSITIES, pf.Histogram([-2.0, -1.5, 0.5, 1.0])]


@pytest.mark.parametrize("family", MORE_DENSITIES, ids=repr)
def test_raw_moments_are_those_of_scipy(family: DensityFamily) -> None:
    params, known = single(family)
    for power in range(1, 6):
        found = family.raw_moment(params, power)
        assert found.shape == (1, 1)
        assert found.item() == pytest.approx(known.moment(power), rel=1e-9)
    torch.testing.assert_close(family.raw_moment(params, 1), family.mean(params))


@pytest.mark.parametrize("family", MORE_DENSITIES, ids=repr)
def test_entropies_are_those_of_scipy(family: DensityFamily) -> None:
    params, known = single(family)
    assert family.entropy(params).item() == pytest.approx(float(known.entropy()), rel=1e-9)


@pytest.mark.parametrize("family", FINITE, ids=repr)
def test_moments_and_entropies_of_tables_are_sums(family: FiniteFamily) -> None:
    params = random_params(family)
    table = family.table(params).double()
    for power in (1, 3):
        wanted = sum(v**power * table[:, v] for v in range(family.num_categories))
        torch.testing.assert_close(family.raw_moment(params, power).double(), wanted)
    wanted = -(table * table.clamp_min(1e-300).log()).sum(dim=1)
    torch.testing.assert_close(family.entropy(params).double(), wanted)


def test_many_units_have_moments_and_entropies_of_their_own() -> None:
    for family in MORE_DENSITIES:
        params = random_params(family)
        for p in range(2):
            for k in range(UNITS):
                alone = {n: v[p : p + 1, ..., k : k + 1] for n, v in params.items()}
                for of in (lambda x, f=family: f.raw_moment(x, 3), family.entropy):
                    torch.testing.assert_close(of(params)[p, k], of(alone)[0, 0])


@pytest.mark.parametrize(
    ("rate", "entropy"),  # added up with 50 digits; up to 256 so are ours, then by the series
    [
        (0.001, 0.0079081018046324831),
        (100.0, 3.7206860722602589),
        (256.0, 4.1912010956559325),
        (257.0, 4.1931516874568806),
        (400.0, 4.4144622121795826),
    ],
)
def test_entropy_of_a_poisson_to_float64_precision(rate: float, entropy: float) -> None:
    params = {"log_rate": torch.tensor([[rate]], dtype=torch.float64).log()}
    assert pf.Poisson().entropy(params).item() == pytest.approx(entropy, rel=5e-14, abs=0)
    narrow = {"log_rate": params["log_rate"].float()}
    assert pf.Poisson().entropy(narrow).dtype == torch.float32


def test_a_histogram_without_mass_in_a_bin_has_an_entropy() -> None:
    params = {"logits": torch.tensor([[[0.0], [-torch.inf]]])}
    assert pf.Histogram([0.0, 2.0, 3.0]).entropy(params).item() == pytest.approx(math.log(2))


def test_a_softmax_by_columns_is_that_of_torch() -> None:
    logits = 30.0 * torch.randn(2, 7, 3, dtype=torch.float64)
    logits[0, 2:5, 1] = -torch.inf  # hard zeros stay
    for in_log_space, right in ((False, torch.softmax), (True, torch.log_softmax)):
        found = by_columns(logits, in_log_space)
        torch.testing.assert_close(found, right(logits, -2), rtol=1e-12, atol=1e-14)
