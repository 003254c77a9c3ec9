"""Growing and pruning: what must not change, and what must go."""

import pytest
import torch
from device import DEVICE
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import of_fifty

import pcflow as pf
from pcflow.testing import circuits, enumerate_states, mixed_families


def compiled(circuit: pf.Circuit) -> pf.CompiledCircuit:
    return pf.compile(circuit, DEVICE, torch.float64)


def log_probs(circuit: pf.Circuit, rows: torch.Tensor) -> torch.Tensor:
    return compiled(circuit).log_prob(rows).detach().cpu()


def edges(circuit: pf.Circuit) -> int:
    sums = (layer for layer in circuit.layers if isinstance(layer, pf.SumLayer))
    return sum(int((layer.weight.value > -torch.inf).sum()) for layer in sums)


@given(circuits(), st.integers(1, 3))
def test_growing_without_noise_changes_nothing(circuit: pf.Circuit, copies: int) -> None:
    grown = pf.grow(circuit, copies, noise=0.0)
    states = enumerate_states(circuit)
    torch.testing.assert_close(log_probs(grown, states), log_probs(circuit, states))
    mixed = isinstance(circuit.root, pf.SumLayer) and not circuit.root.mixing
    on_top = 0 if mixed else 1
    assert len(grown.layers) == len(circuit.layers) + on_top
    sizes = zip(circuit.layers, grown.layers, strict=False)
    assert all(new.units >= old.units for old, new in sizes)
    assert len(grown.parameters) == len(circuit.parameters) + on_top  # what was tied is tied


def beside_a_kronecker_product() -> pf.Circuit:
    first, second, third = (
        pf.InputLayer.random(v, pf.Bernoulli(), k) for v, k in enumerate((1, 2, 2))
    )
    both = pf.ProductLayer([third, pf.ProductLayer([first, second], "kronecker")])
    weight = pf.Parameter(torch.tensor([[0.0, -torch.inf]]))  # the second unit is not read
    return pf.Circuit(pf.SumLayer([both], weight))


def test_what_is_read_beside_a_kronecker_product_keeps_its_units() -> None:
    circuit = beside_a_kronecker_product()
    states = enumerate_states(circuit)
    smaller = pf.prune(compiled(circuit), states.long())
    for refined in (pf.grow(circuit, 2, noise=0.0), smaller):
        torch.testing.assert_close(log_probs(refined, states), log_probs(circuit, states))
        assert [layer.units for layer in refined.layers] == [la.units for la in circuit.layers]


def test_a_kronecker_product_alone_grows() -> None:
    coins = [pf.InputLayer.random(v, pf.Bernoulli(), 2) for v in range(2)]
    root = pf.SumLayer.random([pf.ProductLayer(coins, "kronecker")])
    grown = pf.grow(pf.Circuit(root), copies=2)
    assert [layer.units for layer in grown.layers] == [4, 4, 16, 1]


def test_a_product_grows_into_a_mixture_of_products() -> None:
    coins = [pf.InputLayer.random(v, pf.Bernoulli()) for v in range(2)]
    grown = pf.grow(pf.Circuit(pf.ProductLayer(coins)), copies=3)
    assert [layer.units for layer in grown.layers] == [3, 3, 3, 1]


def test_copies_differ_by_noise_from_the_generator() -> None:
    circuit = pf.hmm(3, 2, pf.Bernoulli())
    once, again = (
        pf.grow(circuit, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1)
    )
    other = pf.grow(circuit, generator=torch.Generator().manual_seed(2))
    states = enumerate_states(circuit)
    assert torch.equal(log_probs(once, states), log_probs(again, states))
    assert not torch.allclose(log_probs(once, states), log_probs(other, states))


def test_training_on_after_growing_raises_the_likelihood() -> None:
    truth = pf.hmm(6, 4, pf.Categorical(4))
    sharp = truth.replace({p: 3 * p.value for p in truth.parameters})
    x = compiled(sharp).sample(300)
    model = compiled(pf.hmm(6, 2, pf.Categorical(4), homogeneous=False))
    before = pf.fit(model, x, epochs=30, progress=False).train[-1]
    grown = compiled(pf.grow(model.circuit))
    result = pf.fit(grown, x, epochs=30, progress=False)
    assert result.train[-1] > before + 0.01


@given(circuits(families=mixed_families()), st.integers(0, 1000))
@settings(max_examples=of_fifty(30))
def test_pruning_edges_without_flow_changes_nothing(circuit: pf.Circuit, seed: int) -> None:
    """After an EM step the weights of edges without flow are zero; those edges go."""
    model = compiled(circuit)
    x = model.sample(30, generator=torch.Generator(DEVICE).manual_seed(seed))
    pf.fit(model, x, pf.EM(pseudocount=0.0), epochs=1, progress=False)
    smaller = pf.prune(model, x)
    torch.testing.assert_close(log_probs(smaller, x), model.log_prob(x).detach().cpu())


def test_a_unit_without_flow_keeps_an_edge_that_is_not_a_hard_zero() -> None:
    """Rows are all zero, so the second sum unit is not used; its first weight is zero already."""
    literals = pf.InputLayer(0, pf.Indicator([0, 1]), units=2)
    units = pf.SumLayer([literals], pf.Parameter.from_probs([[1.0, 0.0], [0.0, 1.0]]))
    circuit = pf.Circuit(pf.SumLayer([units], pf.Parameter.from_probs([[0.5, 0.5]])))
    smaller = pf.prune(compiled(circuit), torch.zeros(5, 1))
    assert log_probs(smaller, torch.tensor([[0], [1]])).exp().tolist() == [1.0, 0.0]


@given(circuits(), st.integers(0, 1000))
@settings(max_examples=of_fifty(30))
def test_zero_weights_go_and_the_distribution_stays(circuit: pf.Circuit, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = {}
    for layer in circuit.layers:
        if isinstance(layer, pf.SumLayer):
            gone = torch.rand(layer.weight.shape, generator=generator) < 0.5
            first = (layer.weight.value > -torch.inf).int().argmax(dim=-1, keepdim=True)
            gone.scatter_(1, first, False)
            values[layer.weight] = layer.weight.value.masked_fill(gone, -torch.inf)
    thinned = circuit.replace(values)
    states = enumerate_states(thinned)
    possible = states[log_probs(thinned, states) > -torch.inf]
    smaller = pf.prune(compiled(thinned), possible)
    assert edges(smaller) <= edges(thinned)
    torch.testing.assert_close(log_probs(smaller, states), log_probs(thinned, states))


@given(circuits(max_variables=4), st.integers(0, 1000), st.floats(0.05, 1.0))
@settings(max_examples=of_fifty(30))
def test_what_is_left_is_a_distribution_with_fewer_edges(
    circuit: pf.Circuit, seed: int, keep: float
) -> None:
    model = compiled(circuit)
    x = model.sample(20, generator=torch.Generator(DEVICE).manual_seed(seed))
    smaller = pf.prune(model, x, keep)
    total = log_probs(smaller, enumerate_states(smaller)).logsumexp(0)
    assert abs(float(total)) < 1e-9
    assert edges(smaller) <= edges(circuit)


def test_the_least_used_edges_and_idle_units_go() -> None:
    """.7 a + .2 b + .1 c over one coin each, c never seen: half of the edges is the first."""
    units = pf.InputLayer(0, pf.Indicator([0, 1, 2], 3), 3)
    circuit = pf.Circuit(pf.SumLayer([units], pf.Parameter.from_probs([[0.7, 0.2, 0.1]])))
    x = torch.tensor([[0], [0], [1]])
    fewer = pf.prune(compiled(circuit), x)
    assert [layer.units for layer in fewer.layers] == [2, 1]
    wanted = torch.tensor([7 / 9, 2 / 9, 0.0], dtype=torch.float64).log()
    torch.testing.assert_close(log_probs(fewer, torch.arange(3).unsqueeze(1)), wanted)
    fewest = pf.prune(compiled(circuit), x, keep=0.3)  # one of three
    assert [layer.units for layer in fewest.layers] == [1, 1]
    assert fewest.layers[0].family == pf.Indicator([0], 3)  # type: ignore[union-attr]


def test_a_circuit_without_sums_has_nothing_to_prune() -> None:
    model = compiled(
        pf.Circuit(pf.ProductLayer([pf.InputLayer.random(v, pf.Bernoulli()) for v in (0, 1)]))
    )
    states = enumerate_states(model.circuit)
    same = pf.prune(model, states.numpy(), keep=0.5)
    assert torch.equal(log_probs(same, states), model.log_prob(states).detach().cpu())


def test_a_homogeneous_chain_stays_homogeneous() -> None:
    model = compiled(pf.hmm(8, 6, pf.Categorical(3)))
    x = torch.zeros(20, 8, dtype=torch.long)
    for _ in range(3):
        pf.fit(model, x, epochs=30, progress=False)
    smaller = pf.prune(model, x, keep=0.2)
    moves = {layer.weight for layer in smaller.layers if isinstance(layer, pf.SumLayer)}
    assert len(moves) == 2  # the initial distribution and one transition
    assert edges(smaller) < edges(model.circuit)


def test_numbers_out_of_range_are_refused() -> None:
    circuit = pf.hmm(2, 2, pf.Bernoulli())
    with pytest.raises(pf.SettingError, match="copies must be a whole number, at least 1"):
        pf.grow(circuit, 0)
    with pytest.raises(pf.EvidenceError, match=r"data must be \[N, 2\]"):
        pf.prune(compiled(circuit), torch.zeros(1, 3))
    with pytest.raises(pf.SettingError, match="noise must be at least 0"):
        pf.grow(circuit, noise=float("nan"))
    for keep in (0.0, 1.1):
        with pytest.raises(pf.SettingError, match="keep must be"):
            pf.prune(compiled(circuit), torch.zeros(1, 2), keep)
