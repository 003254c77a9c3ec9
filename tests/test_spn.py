"""LearnSPN: tests of dependence against scipy, laws over nasty tables, numbers by hand."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import of_fifty
from scipy.stats import chi2_contingency

import pcflow as pf
from pcflow.data import Columns, dependent_groups, kmeans
from pcflow.data.dependence import dependent_pairs, g_tests, rank_correlations
from pcflow.testing import enumerate_states

SEEDS = st.integers(0, 2**31 - 1)
CLUSTERINGS = st.sampled_from(["em", "kmeans"])


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def with_gaps(table: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Some values missing, at least one of each column left."""
    gaps = rng.random(table.shape) < share
    gaps[0] = False
    return np.where(gaps, np.nan, table)


def finite_table(rng: np.random.Generator, sizes: list[int], rows: int) -> np.ndarray:
    """Columns that are constant, random, or mostly a copy of the one before."""
    columns: list[np.ndarray] = []
    for size in sizes:
        noise = rng.integers(0, size, rows)
        before = columns[-1] % size if columns else noise
        kinds = [np.full(rows, noise[0]), noise, np.where(rng.random(rows) < 0.9, before, noise)]
        columns.append(kinds[rng.integers(3)])
    table = np.stack(columns, axis=1).astype(float)
    return np.repeat(table, 3, axis=0) if rng.random() < 0.3 else table


@given(SEEDS, st.lists(st.sampled_from([2, 3, 5]), min_size=1, max_size=4), st.integers(1, 60))
@settings(max_examples=of_fifty(40), deadline=None)
def test_any_finite_table_gives_a_distribution_without_zeros(
    seed: int, sizes: list[int], rows: int
) -> None:
    rng = np.random.default_rng(seed)
    data = with_gaps(finite_table(rng, sizes, rows), rng.choice([0.0, 0.3, 0.9]), rng)
    circuit = pf.learn_spn(
        data,
        [pf.Categorical(size) for size in sizes],
        min_rows=2,
        significance=0.3,
        clusters=int(rng.integers(2, 5)),
        clustering=rng.choice(["em", "kmeans"]),
        generator=seeded(seed),
    )
    assert circuit.num_categories == tuple(sizes)
    log_prob = pf.compile(circuit, dtype=torch.float64).log_prob(enumerate_states(circuit))
    assert log_prob.isfinite().all()
    assert abs(float(log_prob.logsumexp(0).detach())) < 1e-9


MIXED = [pf.Gaussian(), pf.Bernoulli(), pf.Poisson(), pf.LogNormal(), pf.Gaussian()]


def mixed_table(rng: np.random.Generator, rows: int) -> np.ndarray:
    kind = rng.integers(0, 2, rows)
    x = rng.normal(5.0 * kind)
    return np.stack([x, kind, rng.poisson(1 + 6 * kind), np.exp(x / 2), np.ones(rows)], axis=1)


@given(SEEDS, CLUSTERINGS, st.sampled_from([1, 2, 30, 200]))
@settings(max_examples=of_fifty(20), deadline=None)
def test_any_mixed_table_gives_finite_densities(seed: int, clustering: str, rows: int) -> None:
    rng = np.random.default_rng(seed)
    data = with_gaps(mixed_table(rng, rows), rng.choice([0.0, 0.3]), rng)
    circuit = pf.learn_spn(data, MIXED, min_rows=2, clustering=clustering, generator=seeded(seed))
    model = pf.compile(circuit, dtype=torch.float64)
    unseen = torch.tensor([[-9.0, 1.0, 40.0, 1e-3, 1.0], [math.nan] * 5], dtype=torch.float64)
    assert model.log_prob(torch.from_numpy(data)).isfinite().all()
    assert model.log_prob(unseen)[0].isfinite()
    assert abs(float(model.log_prob(unseen)[1].detach())) < 1e-9


@given(SEEDS)
@settings(max_examples=of_fifty(10), deadline=None)
def test_independent_columns_are_factorised(seed: int) -> None:
    rng = np.random.default_rng(seed)
    data = np.stack(
        [rng.integers(0, 2, 400), rng.integers(0, 5, 400), rng.normal(size=400), np.ones(400)],
        axis=1,
    )
    families = [pf.Bernoulli(), pf.Categorical(5), pf.Gaussian(), pf.Gaussian()]
    circuit = pf.learn_spn(data, families, significance=1e-6, generator=seeded(seed))
    assert all(isinstance(layer, pf.InputLayer) for layer in circuit.root.inputs)
    assert len(circuit.root.inputs) == 4


@given(SEEDS, CLUSTERINGS)
@settings(max_examples=of_fifty(10), deadline=None)
def test_copies_are_not(seed: int, clustering: str) -> None:
    rng = np.random.default_rng(seed)
    coin, x = rng.integers(0, 2, 300), rng.normal(size=300)
    data = np.stack([coin, coin, x, x], axis=1)
    families = [pf.Bernoulli(), pf.Bernoulli(), pf.Gaussian(), pf.Gaussian()]
    circuit = pf.learn_spn(
        data, families, significance=1e-6, clustering=clustering, generator=seeded(seed)
    )
    assert sorted(circuit.scope(part) for part in circuit.root.inputs) == [(0, 1), (2, 3)]
    model = pf.compile(circuit, dtype=torch.float64)
    pair = torch.tensor([[0, 0, math.nan, math.nan], [0, 1, math.nan, math.nan]])
    same, other = model.log_prob(pair).exp().tolist()
    assert same > 0.35
    assert other < 0.02


@given(SEEDS, st.sampled_from([0.0, 0.4]), st.lists(st.integers(2, 5), min_size=2, max_size=4))
@settings(max_examples=of_fifty(30), deadline=None)
def test_g_is_scipys(seed: int, gaps: float, sizes: list[int]) -> None:
    rng = np.random.default_rng(seed)
    data = with_gaps(finite_table(rng, sizes, 50), gaps, rng)
    statistic, freedom = g_tests(data, sizes)
    for i, j in pairwise(range(len(sizes))):
        both = data[:, [i, j]]
        both = both[~np.isnan(both).any(axis=1)].astype(int)
        table = np.zeros((sizes[i], sizes[j]))
        np.add.at(table, tuple(both.T), 1)
        table = table[table.any(axis=1)][:, table.any(axis=0)]
        wanted = chi2_contingency(table, correction=False, lambda_="log-likelihood")
        assert statistic[i, j] == pytest.approx(wanted.statistic, abs=1e-6)
        assert freedom[i, j] == wanted.dof
    np.testing.assert_allclose(statistic, statistic.T, atol=1e-6)


@given(SEEDS, st.integers(1, 300))
def test_constant_columns_are_independent_of_all(seed: int, rows: int) -> None:
    rng = np.random.default_rng(seed)
    data = np.stack([np.full(rows, 2), rng.integers(0, 5, rows), rng.normal(size=rows)], axis=1)
    for sizes in ((3, 5, None), (None, 5, None)):
        assert not dependent_pairs(data, sizes, 0.9, rng)[0].any()


def test_a_function_is_seen_through_and_noise_is_not() -> None:
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, 1000)
    data = np.stack([x, x**2, rng.normal(size=1000), np.ones(1000)], axis=1)
    data[::7, 1] = np.nan
    correlation, used, rows = rank_correlations(data, np.random.default_rng(1))
    assert correlation[0, 1, 0] > 0.99
    assert correlation[0, 2, 0] < 0.25
    assert correlation[3].max() == 0
    assert (used[3] == 0).all()
    assert rows[0, 1] == 857
    assert rows[0, 2] == 1000
    warped = np.stack([np.exp(x), *data.T[1:]], axis=1)
    again, _, _ = rank_correlations(warped, np.random.default_rng(1))
    np.testing.assert_allclose(again, correlation, atol=1e-9)
    assert dependent_groups(data, (None,) * 4, 0.01, rng) == [[0, 1], [2], [3]]


@pytest.mark.parametrize("kind", ["counted", "ranked", "ranked with gaps", "either"])
def test_false_alarms_are_as_rare_as_asked_for(kind: str) -> None:
    rng = np.random.default_rng(0)
    data, sizes = rng.integers(0, 3, (300, 40)).astype(float), [3] * 40
    if kind != "counted":
        ranked = slice(0, 20 if kind == "either" else 40)
        data[:, ranked], sizes[ranked] = rng.normal(size=(300, 40))[:, ranked], [None] * 40
        sizes = sizes[:20] + [3] * 20 if kind == "either" else sizes
    data = with_gaps(data, 0.3, rng) if "gaps" in kind else data
    pairs = 40 * 39 / 2
    alarms = dependent_pairs(data, sizes, 0.05 * pairs, rng)  # 0.05 each: all pairs share it
    assert 0.02 < alarms[np.triu_indices(40, 1)].mean() < 0.09


def test_a_significance_is_shared_by_all_pairs() -> None:
    rng = np.random.default_rng(3)
    alarms = [
        len(dependent_groups(rng.integers(0, 2, (200, 12)).astype(float), (2,) * 12, 0.05, rng))
        for _ in range(60)
    ]
    assert sum(groups < 12 for groups in alarms) <= 8


@given(SEEDS, CLUSTERINGS)
@settings(max_examples=of_fifty(5), deadline=None)
def test_the_same_seed_gives_the_same_circuit(seed: int, clustering: str) -> None:
    data = with_gaps(mixed_table(np.random.default_rng(seed), 150), 0.1, np.random.default_rng(1))
    first, second = (
        pf.learn_spn(data, MIXED, clustering=clustering, generator=seeded(seed)) for _ in range(2)
    )
    assert len(first.parameters) == len(second.parameters)
    for a, b in zip(first.parameters, second.parameters, strict=True):
        torch.testing.assert_close(a.value, b.value, rtol=0, atol=0)


def test_one_column_by_hand() -> None:
    circuit = pf.learn_spn([[0], [0], [1], [math.nan]], pf.Categorical(2), pseudocount=2.0)
    # the whole column says (1 + 1) / (3 + 2); two such observations are added to the three
    wanted = torch.tensor([(1 + 2 * 0.4) / 5], dtype=torch.float64)
    found = pf.compile(circuit, dtype=torch.float64).log_prob(torch.tensor([[1]])).exp().detach()
    torch.testing.assert_close(found, wanted)


def test_weights_by_hand() -> None:
    coin = torch.arange(100) < 30
    data = torch.stack([coin, coin], dim=1).int()
    circuit = pf.learn_spn(data, pf.Bernoulli(), pseudocount=1.0)
    assert isinstance(circuit.root, pf.SumLayer)
    weight = circuit.root.weight.value.softmax(-1).sort().values
    torch.testing.assert_close(weight, torch.tensor([[31.0, 71.0]]).double() / 102)


def test_rows_then_columns() -> None:
    rng = np.random.default_rng(0)
    data = rng.normal(size=(400, 4))
    data[:, :3] += 20 * (np.arange(400) % 2)[:, None]
    circuit = pf.learn_spn(
        data, pf.Gaussian(), significance=1e-6, clustering="kmeans", generator=seeded(0)
    )
    # the last column apart, the others in two clusters, in which nothing is left to split
    assert len(circuit.layers) == 2 + 1 + 2 * (1 + 3)


def test_em_sees_what_distances_do_not() -> None:
    rng = np.random.default_rng(0)
    wide = np.where(np.arange(400) % 2, 5.0, 0.1)[:, None]
    data = torch.from_numpy(wide * rng.normal(size=(400, 3)))
    by_em, by_kmeans = (
        pf.learn_spn(data, pf.Gaussian(), min_rows=400, clustering=way, generator=seeded(0))
        for way in ("em", "kmeans")
    )
    gain = pf.reference_log_prob(by_em, data) - pf.reference_log_prob(by_kmeans, data)
    assert gain.mean() > 0.5


def test_splits_may_be_as_deep_as_there_are_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    def peel(values: np.ndarray, *_: object) -> np.ndarray:
        return (np.arange(len(values)) == 0).astype(np.int64)

    monkeypatch.setattr("pcflow.construct.spn.kmeans", peel)
    coin = np.arange(1200) % 2
    data = np.stack([coin, coin], axis=1)
    circuit = pf.learn_spn(data, pf.Bernoulli(), clustering="kmeans", min_rows=100)
    assert sum(isinstance(layer, pf.SumLayer) for layer in circuit.layers) == 1101


def test_rows_that_stay_together_are_factorised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "pcflow.construct.spn.kmeans", lambda values, *_: np.zeros(len(values), np.int64)
    )
    coin = np.arange(100) % 2
    circuit = pf.learn_spn(np.stack([coin, coin], 1), pf.Bernoulli(), clustering="kmeans")
    assert isinstance(circuit.root, pf.ProductLayer)


def test_a_column_may_be_missing_from_a_slice() -> None:
    rng = np.random.default_rng(0)
    coin = rng.integers(0, 2, 400)
    third = np.where(coin == 0, np.nan, rng.integers(0, 2, 400))
    data = np.stack([coin, coin, coin, third, np.where(coin == 0, np.nan, coin + third)], axis=1)
    families = [pf.Bernoulli(), pf.Bernoulli(), pf.Bernoulli(), pf.Bernoulli(), pf.Categorical(3)]
    for clustering in ("em", "kmeans"):
        circuit = pf.learn_spn(data, families, clustering=clustering, pseudocount=0.0)
        model = pf.compile(circuit, dtype=torch.float64)
        assert model.log_prob(torch.from_numpy(data)).isfinite().all()


@given(SEEDS, st.integers(2, 4))
@settings(max_examples=of_fifty(20), deadline=None)
def test_kmeans_ends_where_every_row_has_its_nearest_mean(seed: int, clusters: int) -> None:
    rng = np.random.default_rng(seed)
    centres = rng.normal(scale=4, size=(5, 3))[rng.choice(5, 80, p=[0.5, 0.2, 0.1, 0.1, 0.1])]
    data = with_gaps(centres + rng.normal(size=(80, 3)), 0.4, rng)
    data /= np.nanstd(data, axis=0)
    label = kmeans(data, (None,) * 3, clusters, rng)
    met = [k for k in range(clusters) if not np.isnan(data[label == k]).all(axis=0).any()]
    means = np.stack([np.nanmean(data[label == k], axis=0) for k in met])
    distance = np.nansum((data[:, None] - means) ** 2, axis=2)  # over what is known of the row
    own = np.array([distance[n, met.index(k)] if k in met else 0 for n, k in enumerate(label)])
    assert (own <= distance.min(axis=1) + 1e-9).all()


def test_kmeans_compares_categories_for_equality() -> None:
    data = np.repeat([[0.0, 4.0], [1.0, 3.0], [4.0, 0.0]], 20, axis=0)
    label = kmeans(data, (5, 5), 3, np.random.default_rng(0)).reshape(3, 20)
    assert (label == label[:, :1]).all()
    assert len(set(label[:, 0])) == 3


def test_columns_fit_as_families_do() -> None:
    rng = np.random.default_rng(0)
    data = with_gaps(mixed_table(rng, 50), 0.2, rng)
    columns = Columns(data, MIXED)
    weight = torch.rand(50, 2, generator=seeded(0), dtype=torch.float64)
    found = columns.fit(torch.arange(50), range(5), weight, 0.0)
    score = torch.zeros(50, 2, dtype=torch.float64)
    for family, (members, params) in found.items():
        for place, v in enumerate(members):
            wanted = family.fitted(columns.values[:, v], weight)
            units = {}
            for name, value in wanted.items():
                torch.testing.assert_close(params[name][place], value)
                units[name] = pf.Parameter(value)
            layer = pf.InputLayer(0, family, 2, units)
            for k in range(2):  # unit k alone, by a hard zero on the other
                pick = pf.Parameter(torch.tensor([[0.0, -torch.inf]]).roll(k))
                only = pf.Circuit(pf.SumLayer([layer], pick))
                score[:, k] += pf.reference_log_prob(only, columns.values[:, [v]])
    torch.testing.assert_close(columns.score(torch.arange(50), found), score)


@pytest.mark.parametrize(
    "data, inputs, match",
    [
        (np.zeros((0, 2)), pf.Bernoulli(), "rows and columns"),
        (np.zeros(3), pf.Bernoulli(), "rows and columns"),
        ([[0.0, math.nan], [1.0, math.nan]], pf.Bernoulli(), "column 1 holds no value"),
        ([[0, 1], [1, 2]], pf.Bernoulli(), "column 1 holds 2"),
        ([[0, -1]], pf.Categorical(2), "column 1 holds -1"),
        ([[0.5]], pf.Categorical(2), "column 0 holds 0.5"),
        ([[math.inf]], pf.Gaussian(), "column 0 holds inf"),
        ([[math.inf]], pf.Poisson(), "column 0 holds inf"),
        ([[0.0, 1.5]], pf.Poisson(), "column 1 holds 1.5"),
        ([[1.0], [0.0]], pf.LogNormal(), "column 0 holds 0"),
    ],
)
def test_bad_data_are_refused(data: object, inputs: object, match: str) -> None:
    with pytest.raises(pf.EvidenceError, match=match):
        pf.learn_spn(data, inputs)


@pytest.mark.parametrize(
    "data, inputs, match",
    [
        ([[0]], pf.Indicator(0), "no parameters to fit"),
        ([[0, 1]], [pf.Bernoulli()], "inputs"),
    ],
)
def test_families_that_do_not_fit_are_refused(data: object, inputs: object, match: str) -> None:
    with pytest.raises(pf.StructureError, match=match):
        pf.learn_spn(data, inputs)


@pytest.mark.parametrize(
    "option",
    [
        {"min_rows": 1},
        {"clusters": 1},
        {"significance": 0.0},
        {"pseudocount": -1.0},
        {"clustering": "best"},
    ],
)
def test_bad_options_are_refused(option: dict[str, object]) -> None:
    with pytest.raises(pf.SettingError, match=next(iter(option))):
        pf.learn_spn([[0]], pf.Bernoulli(), **option)


def test_naive_bayes_is_a_mixture_of_products() -> None:
    circuit = pf.naive_bayes([pf.Bernoulli(), pf.Categorical(3)], units=2, generator=seeded(0))
    coin, die, root = (p.value.double() for p in circuit.parameters)
    product = torch.einsum(
        "k,xk,yk->xy",
        root[0].softmax(0),
        torch.stack([1 - coin.sigmoid(), coin.sigmoid()]),
        die.softmax(0),
    )
    found = pf.reference_log_prob(circuit, enumerate_states(circuit)).exp()
    torch.testing.assert_close(found, product.flatten())


def test_naive_bayes_learns_and_refuses() -> None:
    coin = torch.arange(100).unsqueeze(1) % 2
    first, second = (pf.naive_bayes([pf.Bernoulli()] * 3, 2, seeded(0)) for _ in range(2))
    for a, b in zip(first.parameters, second.parameters, strict=True):
        assert torch.equal(a.value, b.value)
    model = pf.compile(first)
    result = pf.fit(model, coin.expand(-1, 3), epochs=30, progress=False)
    assert result.train[-1] > math.log(0.5) - 0.01
    assert pf.naive_bayes([pf.Gaussian()], 3).num_variables == 1
    for families, units in (([], 2), ([pf.Bernoulli()], 0)):
        with pytest.raises(pf.SettingError, match=r"units|inputs"):
            pf.naive_bayes(families, units)
