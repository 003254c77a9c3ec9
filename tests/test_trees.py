"""Chow-Liu trees, mixtures of them: hand-computed numbers, laws of counts and EM, known anchors."""

import math
import os
from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import of_fifty

import pcflow as pf
from pcflow.data import as_categories, fit_mixture, mutual_information, pair_tables
from pcflow.structure import dependence_tree
from pcflow.testing import enumerate_states

ANCHORS = {  # mean test log-likelihood with alpha = 1, in nats
    "nltcs": -6.759,
    "plants": -16.524,
    "baudio": -44.375,
    "bnetflix": -60.250,
    "pumsb_star": -30.807,
    "dna": -87.735,
}


def rows(seed: int, sizes: list[int], count: int = 40) -> torch.Tensor:
    """Columns that depend on the one before."""
    generator = torch.Generator().manual_seed(seed)
    columns: list[torch.Tensor] = []
    for size in sizes:
        noise = torch.randint(size, (count,), generator=generator)
        copy = torch.rand(count, generator=generator) < 0.7
        columns.append(torch.where(copy & bool(columns), (columns or [noise])[-1] % size, noise))
    return torch.stack(columns, dim=1)


def test_two_coins_by_hand() -> None:
    data = torch.tensor([[0, 0], [0, 0], [0, 1], [1, 1]])
    model = pf.compile(pf.chow_liu(data), dtype=torch.float64)
    states = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]])
    # (n + 1) / (N + 4), whichever of the two is the root
    wanted = torch.tensor([3.0, 2.0, 1.0, 2.0], dtype=torch.float64) / 8
    torch.testing.assert_close(model.log_prob(states).exp().detach(), wanted)


def test_one_coin_by_hand() -> None:
    model = pf.compile(pf.chow_liu([[0], [0], [1]]), dtype=torch.float64)
    wanted = torch.tensor([3.0, 2.0], dtype=torch.float64) / 5
    torch.testing.assert_close(model.log_prob(torch.tensor([[0], [1]])).exp().detach(), wanted)


@given(st.integers(0, 2**31 - 1), st.lists(st.integers(2, 4), min_size=1, max_size=5))
def test_the_circuit_is_the_tree_distribution(seed: int, sizes: list[int]) -> None:
    data = rows(seed, sizes)
    circuit = pf.chow_liu(data, alpha=0.5)
    assert pf.is_deterministic(circuit)
    model = pf.compile(circuit, dtype=torch.float64)
    states = enumerate_states(circuit)
    assert abs(float(model.log_prob(states).logsumexp(0).detach())) < 1e-9
    columns, found_sizes = as_categories(data)
    joint = list(pair_tables(columns, found_sizes, 0.5))
    tree = dependence_tree(data, 0.5)
    wanted = torch.zeros(len(states), dtype=torch.float64)
    for v in tree.order:
        above, below = tree.parent[v], tree.children(v)
        if above >= 0:
            pair = joint[above][v]
            conditional = torch.from_numpy(pair / pair.sum(axis=1, keepdims=True))
            wanted += conditional[states[:, above].long(), states[:, v].long()].log()
        elif below:
            wanted += torch.from_numpy(joint[v][below[0]].sum(axis=1))[states[:, v].long()].log()
        else:
            own = torch.from_numpy(joint[v][v]).diagonal()
            wanted += (own / own.sum()).log()[states[:, v].long()]
    torch.testing.assert_close(model.log_prob(states).detach(), wanted)


@given(st.integers(0, 2**31 - 1))
@settings(max_examples=of_fifty(20))
def test_no_tree_keeps_more_information(seed: int) -> None:
    data = rows(seed, [2, 3, 2, 2])
    columns, sizes = as_categories(data)
    information = mutual_information(columns, sizes, 1.0)
    parent = dependence_tree(data).parent
    kept = sum(information[v, p] for v, p in enumerate(parent) if p >= 0)
    for order in permutations(range(4)):  # every tree: each but the first hangs on an earlier one
        for a in range(2):
            for b in range(3):
                edges = [(order[1], order[0]), (order[2], order[a]), (order[3], order[b])]
                assert sum(information[e] for e in edges) <= kept + 1e-12


def test_missing_values_leave_their_pairs_out() -> None:
    full = rows(0, [2, 2, 2], 60).double()
    some = full.clone()
    some[30:, 1] = torch.nan
    found = mutual_information(*as_categories(some), 1.0)
    first = mutual_information(*as_categories(full[:30]), 1.0)
    every = mutual_information(*as_categories(full), 1.0)
    assert found[0, 1] == pytest.approx(first[0, 1])
    assert found[1, 2] == pytest.approx(first[1, 2])
    assert found[0, 2] == pytest.approx(every[0, 2])


def test_real_columns_are_counted_by_quantiles() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(500, generator=generator)
    noise = torch.randn(500, generator=generator)
    data = torch.stack([x, noise, x + 0.1 * noise.roll(1), (x > 0).float()], dim=1)
    parent = dependence_tree(data).parent
    edges = {frozenset((v, p)) for v, p in enumerate(parent) if p >= 0}
    assert frozenset((0, 2)) in edges
    assert frozenset((0, 3)) in edges or frozenset((2, 3)) in edges


def test_a_hidden_tree_learns_what_a_visible_one_knows() -> None:
    data = rows(3, [2, 2, 2, 2, 2], 400)
    visible = pf.compile(pf.chow_liu(data)).log_prob(data).mean().item()
    torch.manual_seed(0)
    hidden = pf.compile(pf.hclt(data, units=4, inputs=pf.Categorical(2)))
    result = pf.fit(hidden, data, epochs=60, progress=False)
    assert result.train[-1] > visible - 0.01
    mixed = [pf.Categorical(2), pf.Gaussian(), pf.Categorical(2), pf.Bernoulli(), pf.Gaussian()]
    assert pf.hclt(data.float(), 3, mixed).num_categories == (2, None, 2, 2, None)


@given(st.integers(0, 2**31 - 1))
@settings(max_examples=of_fifty(20))
def test_a_weight_is_a_number_of_copies(seed: int) -> None:
    columns, sizes = as_categories(rows(seed, [2, 3, 2], 30))
    copies = np.random.default_rng(seed).integers(0, 4, 30)
    copied = np.repeat(columns, copies, axis=0)
    for weighted, plain in zip(
        pair_tables(columns, sizes, 0.5, copies.astype(float)),
        pair_tables(copied, sizes, 0.5),
        strict=True,
    ):
        for a, b in zip(weighted, plain, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-12)


@given(st.integers(0, 2**31 - 1), st.integers(1, 4), st.sampled_from([0.0, 0.3]))
@settings(max_examples=of_fifty(15), deadline=None)
def test_a_mixture_of_trees_is_a_distribution(seed: int, components: int, gaps: float) -> None:
    data = rows(seed, [2, 3, 2, 2]).double()
    generator = torch.Generator().manual_seed(seed)
    missing = torch.rand(data.shape, generator=generator) < gaps
    missing[0] = False
    data_with_gaps = data.masked_fill(missing, torch.nan)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pcflow.data.mixture_em.STEPS", 5)  # settled or not
        circuit = pf.mixture_of_trees(data_with_gaps, components, generator=generator)
    assert len(circuit.root.inputs) == components
    states = enumerate_states(circuit)
    log_prob = pf.compile(circuit, dtype=torch.float64).log_prob(states)
    assert abs(float(log_prob.logsumexp(0).detach())) < 1e-9
    if components == 1 and not gaps:
        alone = pf.compile(pf.chow_liu(data), dtype=torch.float64).log_prob(states)
        torch.testing.assert_close(log_prob, alone)


@given(st.integers(0, 2**31 - 1))
@settings(max_examples=of_fifty(3), deadline=None)
def test_rounds_of_em_raise_the_likelihood(seed: int) -> None:
    first, second = rows(seed, [2] * 5, 100), rows(seed + 1, [2] * 5, 100)
    data = torch.cat([first, 1 - second[:, [3, 0, 4, 1, 2]]])
    found = []
    for steps in (0, 1, 3, 100):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("pcflow.data.mixture_em.STEPS", steps)
            circuit = pf.mixture_of_trees(data, 3, 1e-9, torch.Generator().manual_seed(seed))
        found.append(float(pf.reference_log_prob(circuit, data).mean()))
    assert found == sorted(found)
    assert found[-1] > found[0] + 0.01
    single = pf.reference_log_prob(pf.chow_liu(data, alpha=1e-9), data).mean()
    assert found[-1] > float(single) + 0.05


def test_every_tree_has_edges_and_a_weight_of_its_own() -> None:
    generator = torch.Generator().manual_seed(0)
    kind = (torch.arange(1000) % 5 == 0).long()  # one in five
    a, b = torch.randint(2, (2, 1000), generator=generator)
    common, rare = torch.stack([a, a, b, b], dim=1), torch.stack([a, b, a, b], dim=1)
    data = torch.cat(
        [torch.where(kind[:, None] == 1, rare, common), kind[:, None].expand(-1, 4)], 1
    )
    circuit = pf.mixture_of_trees(data, 2, alpha=1e-3, generator=generator)
    entropy = -0.8 * math.log(0.8) - 0.2 * math.log(0.2) + 2 * math.log(2)
    # no single tree holds both pairs of both kinds: they close a circle
    assert pf.reference_log_prob(circuit, data).mean() > -entropy - 0.02


def test_a_mixture_keeps_the_best_that_it_met() -> None:
    levels = iter([-3.0, -1.0, -2.0, 0.0])

    def step(share: torch.Tensor) -> tuple[float, torch.Tensor]:
        level = next(levels)
        return level, torch.full_like(share, level)

    model, share = fit_mixture(torch.tensor([0, 1]), 2, step)
    assert model == -1.0
    torch.testing.assert_close(share, torch.full((2, 2), 0.5, dtype=torch.float64))


def test_regions_follow_the_tree() -> None:
    data = rows(5, [2, 3, 2, 4, 2, 2], 200)
    graph = pf.structure.chow_liu_tree(data)
    assert graph.root.variables == tuple(range(6))
    assert sorted(len(region) for region in graph.leaves) == [1] * len(graph.leaves)
    circuit = pf.build_circuit(graph, [pf.Categorical(v) for v in (2, 3, 2, 4, 2, 2)], units=2)
    assert circuit.num_variables == 6


@pytest.mark.parametrize(
    "data, match",
    [
        (torch.zeros(0, 3), "rows and columns"),
        (torch.zeros(3), "rows and columns"),
        (torch.tensor([[0.0, torch.nan], [1.0, torch.nan]]), "column 1 holds no value"),
        (torch.tensor([[0.0, torch.inf]]), "column 1 holds no value, or an infinite one"),
        (torch.tensor([[0.5, 1.0]]), "whole numbers"),
    ],
)
def test_bad_data_are_refused(data: torch.Tensor, match: str) -> None:
    with pytest.raises(pf.EvidenceError, match=match):
        pf.chow_liu(data)


def test_bad_options_are_refused() -> None:
    data = torch.zeros(3, 2)
    with pytest.raises(pf.SettingError, match="alpha"):
        pf.chow_liu(data, alpha=-1.0)
    for components, alpha in ((0, 1.0), (2, 0.0)):
        with pytest.raises(pf.SettingError, match=r"components|alpha"):
            pf.mixture_of_trees(data, components, alpha)
    with pytest.raises(pf.EvidenceError, match="whole numbers"):
        pf.mixture_of_trees(data + 0.5, 2)
    with pytest.raises(pf.SettingError, match="units"):
        pf.hclt(data, 0, pf.Bernoulli())
    with pytest.raises(pf.StructureError, match="inputs"):
        pf.hclt(data, 2, [pf.Bernoulli()])


@pytest.mark.parametrize("name", ANCHORS)
def test_published_sets(name: str) -> None:
    if "PCFLOW_DATA" not in os.environ:
        pytest.skip("set PCFLOW_DATA to a folder with debd/ of github.com/arranger1044/DEBD")
    data = pf.datasets.read_density_set(name)
    model = pf.compile(pf.chow_liu(data.train), dtype=torch.float64)
    found = model.log_prob(data.test).mean().item()
    assert found == pytest.approx(ANCHORS[name], abs=1e-3)


def two_kinds(count: int = 400) -> torch.Tensor:
    """Half of the rows near zero, half near one, with other columns that go together."""
    kind = torch.randint(2, (count, 1))
    x = (torch.rand(count, 6) < 0.1 + 0.8 * kind).long()
    return torch.cat(
        [x, torch.where(kind == 0, x[:, :1], x[:, 3:4]) ^ (torch.rand(count, 1) < 0.1)], 1
    )


def test_trees_of_clusters_are_mixed_by_size_and_start_from_their_rows() -> None:
    x = two_kinds()
    circuit = pf.hclt(x, 3, pf.Bernoulli(), trees=2)
    assert isinstance(circuit.root, pf.SumLayer)
    assert len(circuit.root.inputs) == 2
    share = circuit.root.weight.value.exp()[0]
    assert share.sum().item() == pytest.approx(1.0)
    assert (share - 0.5).abs().max() < 0.1
    low, high = (
        pf.compile(pf.Circuit(tree)).marginals(torch.full((1, 7), torch.nan))[0, :6, 1].exp().mean()
        for tree in sorted(
            circuit.root.inputs,
            key=lambda tree: pf.compile(pf.Circuit(tree)).log_prob(torch.ones(1, 7)).item(),
        )
    )
    assert low < 0.4 < 0.6 < high
    states = enumerate_states(circuit)
    total = pf.compile(circuit, dtype=torch.float64).log_prob(states).logsumexp(0)
    assert total.item() == pytest.approx(0.0, abs=1e-6)


def test_clusters_without_any_value_of_a_column_have_units_of_the_whole() -> None:
    x = torch.cat([two_kinds().double(), torch.randn(400, 1).double() + 50.0], dim=1)
    x[x[:, 0] == 0, 7] = torch.nan
    columns = [*[pf.Bernoulli()] * 7, pf.Gaussian()]
    circuit = pf.hclt(x, 2, columns, trees=6, generator=torch.Generator().manual_seed(0))
    again = pf.hclt(x, 2, columns, trees=6, generator=torch.Generator().manual_seed(0))
    model = pf.compile(circuit, dtype=torch.float64)
    assert model.log_prob(x).isfinite().all()
    assert torch.equal(model.log_prob(x), pf.compile(again, dtype=torch.float64).log_prob(x))
    assert model.sample(100)[:, 7].mean().item() == pytest.approx(50.0, abs=2.0)


def test_a_few_small_trees_fit_what_one_cannot() -> None:
    x, held_out = two_kinds(), two_kinds()
    found = []
    for trees in (1, 2):
        model = pf.compile(pf.hclt(x, 2, pf.Bernoulli(), trees=trees))
        pf.fit(model, x, epochs=40, progress=False)
        found.append(model.log_prob(held_out).mean().item())
    assert found[1] > found[0] + 0.02
