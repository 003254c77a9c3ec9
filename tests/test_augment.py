"""Latents as variables and gates: what they leave as it was, and what they say when they are known.

Legend: B batch, D variables, K units, G gates, S states.
"""

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from laws import of_fifty
from torch import Tensor

import pcflow as pf
from pcflow.testing import (
    circuits,
    enumerate_log_prob,
    enumerate_marginals,
    enumerate_mpe,
    enumerate_states,
    evidence,
)

LENGTH, STATES, TOKENS, GATES = 3, 2, 3, 2
SEEDS = st.integers(0, 10**6)


def chain(seed: int, homogeneous: bool = True) -> pf.Circuit:
    generator = torch.Generator().manual_seed(seed)
    return pf.hmm(LENGTH, STATES, pf.Categorical(TOKENS), homogeneous, generator)


def exposed(circuit: pf.Circuit) -> pf.Circuit:
    """With its latents as variables; circuits that have none of their own for all are left out."""
    try:
        return pf.expose_latents(circuit)
    except pf.NotSmooth:
        assume(False)
        raise


def gated(circuit: pf.Circuit, gates: int, noise: float = 0.1) -> pf.Circuit:
    try:
        return pf.add_gates(circuit, gates, noise)
    except pf.NotSmooth:
        assume(False)
        raise


def compiled(circuit: pf.Circuit) -> pf.CompiledCircuit:
    return pf.compile(circuit, dtype=torch.float64)


def wide(given: pf.Evidence, circuit: pf.Circuit, extra: Tensor | None = None) -> pf.Evidence:
    """Evidence with the circuit's other variables behind, missing or with potentials [B, C, V]."""
    assert given.values is not None
    rows, D = given.values.shape
    width, largest = circuit.num_variables, max(n or 0 for n in circuit.num_categories)
    values = torch.nn.functional.pad(given.values, (0, width - D))
    missing = torch.ones(rows, width, dtype=torch.bool)
    missing[:, :D] = given.values.isnan() if given.missing is None else given.missing
    if width == D:  # no sum, and so no other variables
        return given
    if extra is None and given.log_potentials is None:
        return pf.Evidence(values, missing)
    first = torch.zeros(rows, D, 1) if given.log_potentials is None else given.log_potentials
    extra = torch.zeros(rows, width - D, 1) if extra is None else extra
    potentials = torch.zeros(rows, width, largest, dtype=torch.float64)
    potentials[:, :D, : first.shape[-1]] = first
    potentials[:, D:, : extra.shape[-1]] = extra
    return pf.Evidence(values, missing, potentials)


def soft(circuit: pf.Circuit, rows: int = 2, *, scale: float = 2.0) -> pf.Evidence:
    """Potentials on every variable, and some of them observed."""
    sizes = [n or 0 for n in circuit.num_categories]
    values = torch.stack([torch.randint(n, (rows,)) for n in sizes], dim=1)
    missing = torch.rand(rows, len(sizes)) < 0.8
    log_potentials = scale * torch.randn(rows, len(sizes), max(sizes), dtype=torch.float64)
    return pf.Evidence(values, missing, log_potentials)


def hmm_by_hand(circuit: pf.Circuit) -> tuple[Tensor, Tensor, Tensor]:
    """Initial [K], transition [K, K] and emission [V, K] probabilities of a homogeneous HMM."""
    root = circuit.root
    assert isinstance(root, pf.SumLayer)
    moves = [layer for layer in circuit.layers if isinstance(layer, pf.SumLayer)]
    (emit,) = {layer.parameters["logits"] for layer in inputs_of(circuit)}
    initial, move = root.weight.value, moves[0].weight.value
    return initial[0].softmax(-1), move.softmax(-1), emit.value.softmax(0)


def inputs_of(circuit: pf.Circuit) -> list[pf.InputLayer]:
    return [layer for layer in circuit.layers if isinstance(layer, pf.InputLayer)]


@given(st.data(), circuits(max_variables=4))
def test_latents_that_are_summed_out_change_nothing(
    data: st.DataObject, circuit: pf.Circuit
) -> None:
    augmented, known = exposed(circuit), data.draw(evidence(circuit))
    sums = sum(isinstance(layer, pf.SumLayer) for layer in circuit.layers)
    assert augmented.num_variables == circuit.num_variables + sums
    assert set(augmented.parameters) == set(circuit.parameters)
    found = compiled(augmented).log_prob(wide(known, augmented))
    torch.testing.assert_close(found, compiled(circuit).log_prob(known), rtol=1e-9, atol=1e-9)


@given(circuits(max_variables=4))
def test_latents_decide_every_sum(circuit: pf.Circuit) -> None:
    assert pf.is_deterministic(exposed(circuit))


@given(SEEDS)
def test_tokens_and_states_have_the_joint_probability_of_a_chain(seed: int) -> None:
    circuit = chain(seed)
    initial, move, emit = hmm_by_hand(circuit)
    states = enumerate_states(pf.expose_latents(circuit))
    x, z = states[:, :LENGTH], states[:, LENGTH:]
    wanted = initial[z[:, 0]].log() + emit[x, z].log().sum(-1)
    wanted = wanted + move[z[:, :-1], z[:, 1:]].log().sum(-1)
    found = compiled(pf.expose_latents(circuit)).log_prob(states)
    torch.testing.assert_close(found, wanted.double(), rtol=1e-5, atol=1e-5)


@settings(max_examples=of_fifty(25))
@given(SEEDS, st.sampled_from(["latents", "gates"]), st.booleans())
def test_soft_evidence_on_controls_is_that_of_enumeration(
    seed: int, kind: str, homogeneous: bool
) -> None:
    plain = chain(seed, homogeneous)
    circuit = pf.expose_latents(plain) if kind == "latents" else pf.add_gates(plain, GATES, 1.0)
    model, known = compiled(circuit), soft(circuit)
    torch.testing.assert_close(
        model.log_prob(known), enumerate_log_prob(circuit, known), rtol=1e-9, atol=1e-9
    )
    torch.testing.assert_close(
        model.marginals(known), enumerate_marginals(circuit, known), rtol=1e-7, atol=1e-7
    )
    if kind == "latents":
        values, log_value, exact = model.mpe(known)
        assert exact
        torch.testing.assert_close(log_value, enumerate_mpe(circuit, known)[1])
        assert torch.equal(values, enumerate_mpe(circuit, known)[0])


@pytest.mark.parametrize("kind", ["latents", "gates"])
def test_log_prob_is_differentiable_in_potentials_of_controls(kind: str) -> None:
    plain = chain(0)
    circuit = pf.expose_latents(plain) if kind == "latents" else pf.add_gates(plain, GATES, 1.0)
    model, known = compiled(circuit), soft(circuit, rows=3)
    assert known.log_potentials is not None
    log_potentials = known.log_potentials.requires_grad_()

    def log_prob(given: Tensor) -> Tensor:
        return model.log_prob(pf.Evidence(known.values, known.missing, given))

    assert torch.autograd.gradcheck(log_prob, (log_potentials,))


def test_potentials_of_bfloat16_tables_leave_states_exact() -> None:
    """Only products with a table are rounded, and an indicator has no product."""
    circuit = pf.expose_latents(chain(1))
    known = soft(circuit)
    assert known.log_potentials is not None and known.missing is not None
    observed = torch.arange(circuit.num_variables) < LENGTH
    hard = pf.Evidence(known.values, ~observed.expand(2, -1), known.log_potentials)
    coarse = pf.compile(circuit, dtype=torch.float64, soft_dtype=torch.bfloat16)
    torch.testing.assert_close(coarse.log_prob(hard), compiled(circuit).log_prob(hard))


@given(st.data(), circuits(max_variables=4), st.integers(1, 3))
def test_equal_gates_change_nothing_whatever_is_said_of_them(
    data: st.DataObject, circuit: pf.Circuit, gates: int
) -> None:
    augmented, known = gated(circuit, gates, noise=0.0), data.draw(evidence(circuit))
    width, model = augmented.num_variables, compiled(augmented)
    alone = compiled(circuit).log_prob(known)
    found = model.log_prob(wide(known, augmented))
    torch.testing.assert_close(found, alone, rtol=1e-9, atol=1e-9)
    extra = torch.randn(len(alone), width - circuit.num_variables, gates, dtype=torch.float64)
    mass = (extra.logsumexp(-1) - torch.tensor(gates).log()).sum(-1)
    found = model.log_prob(wide(known, augmented, extra))
    torch.testing.assert_close(found, alone + mass, rtol=1e-6, atol=1e-6)


@given(SEEDS)
def test_known_gates_choose_the_weights(seed: int) -> None:
    circuit = pf.add_gates(chain(seed), GATES, 1.0, torch.Generator().manual_seed(seed))
    emit = next(iter(inputs_of(circuit)[0].parameters.values())).value.softmax(0)
    sums = [
        layer for layer in circuit.layers if isinstance(layer, pf.SumLayer) and not layer.mixing
    ]
    moves = [layer.weight.value.softmax(-1) for layer in sums]
    by_gate = [moves[g] for g in range(GATES)], [moves[g - GATES] for g in range(GATES)]
    model, states = compiled(circuit), enumerate_states(circuit)
    for row in states[torch.randperm(len(states))[:8]]:
        x, gate = row[:LENGTH].tolist(), row[LENGTH:].tolist()
        alpha = by_gate[1][gate[0]][0] * emit[x[0]]  # [K]
        for t in range(1, LENGTH):
            alpha = (alpha @ by_gate[0][gate[t]]) * emit[x[t]]
        wanted = alpha.sum().log() - LENGTH * torch.tensor(float(GATES)).log()
        found = model.log_prob(row.unsqueeze(0))[0]
        assert found.item() == pytest.approx(wanted.item(), abs=1e-5)


def test_ties_stay_and_hard_zeros_too() -> None:
    circuit = chain(0)
    assert len(circuit.parameters) == 3
    found = pf.add_gates(circuit, 4)
    assert len(found.parameters) == 1 + 2 * (4 + 1)  # emission; gates and their shares
    weight = torch.tensor([[0.0, -torch.inf], [0.0, 0.0]])
    leaf = pf.InputLayer.random(0, pf.Bernoulli(), 2)
    top = pf.SumLayer([pf.SumLayer([leaf], pf.Parameter(weight))], pf.Parameter(torch.zeros(1, 2)))
    layers = pf.add_gates(pf.Circuit(top), 3).layers
    drawn = [x for x in layers if isinstance(x, pf.SumLayer) and x.weight.shape == (2, 2)]
    assert len(drawn) == 3
    assert all((x.weight.value == -torch.inf).equal(weight == -torch.inf) for x in drawn)


def test_noise_is_what_it_says_and_comes_from_the_generator() -> None:
    circuit = pf.hmm(2, 40, pf.Categorical(2))
    one, two = (
        pf.add_gates(circuit, 2, 0.3, torch.Generator().manual_seed(7)).parameters for _ in range(2)
    )
    assert all(torch.equal(a.value, b.value) for a, b in zip(one, two, strict=True))
    moves = [p.value for p in one if p.shape == (40, 40) and p not in circuit.parameters]
    (plain,) = (p.value for p in circuit.parameters if p.shape == (40, 40))
    assert not torch.equal(moves[0], moves[1])
    for move in moves:
        assert (move - plain).std().item() == pytest.approx(0.3, rel=0.1)


def test_a_sum_of_several_inputs_numbers_its_units_one_after_another() -> None:
    leaves = [pf.InputLayer.random(0, pf.Categorical(3), units) for units in (2, 3)]
    dense = pf.expose_latents(pf.Circuit(pf.SumLayer.random(leaves)))
    assert dense.num_categories == (3, 5)
    model, weight = compiled(dense), dense.layers[-1]
    assert isinstance(weight, pf.SumLayer)
    found = model.marginals(torch.tensor([[torch.nan, torch.nan]]))[0, 1]
    torch.testing.assert_close(found.exp(), weight.weight.value[0].softmax(0).double())
    mixing = pf.SumLayer.random([leaves[0], leaves[0]], 2, mixing=True)
    twice = pf.expose_latents(pf.Circuit(pf.SumLayer.random([mixing])))
    assert twice.num_categories == (3, 2, 2)


def test_what_has_no_latents_of_its_own_is_refused() -> None:
    several = pf.structure.quad_graph((2, 2))
    circuit = pf.build_circuit(several, pf.Bernoulli(), units=2)
    for augment in (pf.expose_latents, lambda c: pf.add_gates(c, 2)):
        with pytest.raises(pf.NotSmooth):
            augment(circuit)
    for wrong in ({"gates": 0}, {"gates": 2, "noise": -1.0}, {"gates": 2, "noise": float("nan")}):
        with pytest.raises(pf.SettingError, match=r"gates|noise"):
            pf.add_gates(chain(0), **wrong)
