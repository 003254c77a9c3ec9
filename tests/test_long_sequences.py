"""Few long sequences: by halves the answers are those of position after position."""

from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import pcflow as pf
from pcflow.engine import up
from pcflow.engine.chain import Halved
from pcflow.engine.halves import sum_product

V, ROWS = 3, 3
NEVER, ALWAYS = (pf.Machine(long=n) for n in (1 << 40, 1))


@st.composite
def long_chains(draw: st.DrawFn) -> pf.Circuit:
    """Of any length, tied or not, of one emission or two, with weights of any size, or zero."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    length, states = draw(st.integers(1, 40)), draw(st.integers(1, 4))
    inputs = draw(st.sampled_from([[[pf.Categorical(V)]], [[pf.Categorical(V), pf.Gaussian()]]]))
    circuit = pf.hmm(length, states, inputs, draw(st.booleans()), generator)
    zeros = draw(st.sampled_from(["none", "onwards", "some", "far"]))
    weights = {la.weight for la in circuit.layers if isinstance(la, pf.SumLayer)}
    return circuit.replace({w: without(w.value, zeros, generator) for w in weights})


def without(weight: Tensor, zeros: str, generator: torch.Generator) -> Tensor:
    """With hard zeros: no way back to an earlier state, or some; or too small to hold."""
    if zeros == "far":
        return 400 * weight
    if zeros == "onwards":
        return weight.masked_fill(torch.ones_like(weight).tril(-1).bool(), -torch.inf)
    out = torch.rand(weight.shape, generator=generator) < (0.4 if zeros == "some" else 0.0)
    return weight.masked_fill(out & (weight < weight.amax(dim=-1, keepdim=True)), -torch.inf)


def given_of(circuit: pf.Circuit, seed: int, soft: bool) -> pf.Evidence:
    """Rows of the circuit, with gaps that differ; and with potentials."""
    generator = torch.Generator().manual_seed(seed)
    x = pf.compile(circuit, dtype=torch.float64).sample(ROWS, generator=generator).double()
    missing = torch.rand(x.shape, generator=generator) < 0.4
    potentials = None
    if soft and None not in circuit.num_categories:
        potentials = 3 * torch.randn(*x.shape, V, generator=generator, dtype=torch.float64)
    return pf.Evidence(x, missing, potentials)


def both(circuit: pf.Circuit) -> tuple[pf.CompiledCircuit, pf.CompiledCircuit]:
    """By halves, and position after position."""
    one, other = (pf.compile(circuit, dtype=torch.float64, machine=m) for m in (ALWAYS, NEVER))
    return one, other


CASES = given(long_chains(), st.integers(0, 10_000), st.booleans())


@CASES
def test_the_best_path_is_as_good_and_is_a_path(circuit: pf.Circuit, seed: int, soft: bool) -> None:
    known, (halves, steps) = given_of(circuit, seed, soft), both(circuit)
    most = len(steps.engine.chain.positions)
    lengths = torch.randint(1, most + 1, (ROWS,), generator=torch.Generator().manual_seed(seed))
    for ends in (None, lengths):
        found, wanted = (pf.viterbi(model, known, ends) for model in (halves, steps))
        torch.testing.assert_close(found.log_value, wanted.log_value)
        assert torch.equal(found.states < 0, wanted.states < 0)
    if not soft:  # what was found is worth what is said of it
        found = pf.viterbi(halves, known)
        x = known.values.masked_fill(known.missing, torch.nan)
        joint = torch.cat([x, found.states.double()], dim=1)
        worth = pf.compile(pf.expose_latents(circuit), dtype=torch.float64).log_prob(joint)
        torch.testing.assert_close(worth, found.log_value)


@CASES
def test_every_answer_is_the_same(circuit: pf.Circuit, seed: int, soft: bool) -> None:
    known = given_of(circuit, seed, soft)
    for found, wanted in zip(*map(partial(answers, known), both(circuit)), strict=True):
        torch.testing.assert_close(found, wanted)


def answers(known: pf.Evidence, model: pf.CompiledCircuit) -> list[Tensor]:
    """Of passes up, up and down, and of a draw, which follows."""
    variables = [v for v, n in enumerate(model.circuit.num_categories) if n is not None]
    return [
        model.log_prob(known).detach(),
        pf.state_posteriors(model, known).exp(),
        torch.cat([one.exp() for one in model.marginals(known, variables=variables)]),
        model.sample(2, known, generator=torch.Generator().manual_seed(0)),
    ]


@CASES
def test_what_is_learned_is_the_same(circuit: pf.Circuit, seed: int, soft: bool) -> None:
    known, models = given_of(circuit, seed, soft), both(circuit)
    slopes = []
    for model in models:
        model.log_prob(known).sum().backward()
        slopes.append([p.grad for p in model.parameters()])
    for found, wanted in zip(*slopes, strict=True):
        torch.testing.assert_close(found, wanted)
    if not soft:
        x = known.values.masked_fill(known.missing, torch.nan)
        x[0, 0] = 0.0  # something is known
        weights = torch.rand(ROWS, generator=torch.Generator().manual_seed(seed))
        if is_far(circuit):  # units of which less is counted than a number holds: one side keeps
            for model in models:  # what they were, and the other smooths what it has
                pf.fit(model, x, pf.EM(pseudocount=0.0), weights=weights, epochs=1, progress=False)
            torch.testing.assert_close(*(model.log_prob(x).detach() for model in models))
            return
        for model in models:
            pf.fit(model, x, pf.EM(), weights=weights, epochs=2, progress=False)
        for found, wanted in zip(*(model.parameters() for model in models), strict=True):
            torch.testing.assert_close(found.exp(), wanted.exp(), rtol=1e-5, atol=1e-8)


def is_far(circuit: pf.Circuit) -> bool:
    """Whether some weights are too small to hold, but not zero."""
    weights = [layer.weight.value for layer in circuit.layers if isinstance(layer, pf.SumLayer)]
    return any(bool((w.isfinite() & (w < -100)).any()) for w in weights)


def test_modes_and_single_precision_do_not_matter() -> None:
    circuit = pf.hmm(1_000, 4, pf.Categorical(V), generator=torch.Generator().manual_seed(0))
    model = pf.compile(circuit)
    x = model.sample(2, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        found = model.log_prob(x), pf.viterbi(model, x).log_value, pf.state_posteriors(model, x)
    exact = pf.compile(circuit, dtype=torch.float64, machine=NEVER)
    wanted = exact.log_prob(x), pf.viterbi(exact, x).log_value, pf.state_posteriors(exact, x)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other.detach().float(), rtol=1e-6, atol=1e-5)


def test_rows_without_mass_are_named() -> None:
    circuit = pf.hmm(3, 2, [[pf.Categorical(2)]], emission=[[1.0, 0.0], [1.0, 0.0]])
    model = pf.compile(circuit, machine=ALWAYS)
    x = torch.tensor([[0, 0, 0], [0, 1, 0]])
    assert model.log_prob(x).isneginf().tolist() == [False, True]
    for ask in (pf.viterbi, pf.state_posteriors):
        with pytest.raises(pf.NoMassError, match="row 1"):
            ask(model, x)


@pytest.mark.parametrize(("length", "rows", "halved"), [(128, 1, 1), (127, 1, 0), (128, 200, 0)])
def test_only_few_rows_of_long_chains_go_by_halves(length: int, rows: int, halved: int) -> None:
    engine = pf.compile(pf.hmm(length, 3, pf.Bernoulli())).engine
    assert (engine.by_halves(engine.nothing(rows)) is not None) == halved


@pytest.mark.parametrize(("length", "states"), [(130, 5), (200, 2), (160, 3)])
@pytest.mark.parametrize("memory", [1 << 16, 1 << 18, 1 << 20, 1 << 30])
def test_rows_go_by_halves_as_long_as_their_products_fit(
    length: int, states: int, memory: int
) -> None:
    """Up they hold twice the steps, on the way down about as much again."""
    machine = pf.Machine()
    circuit = pf.hmm(length, states, pf.Bernoulli())
    one = pf.compile(circuit).engine
    halved = one.by_halves(one.nothing())
    assert halved is not None
    row = sum(level.nbytes for level in halved.levels)
    engine = pf.compile(circuit, memory=memory).engine
    chosen = [n for n in range(1, 100) if engine.by_halves(engine.nothing(n)) is not None]
    most = max(chosen, default=0)
    assert chosen == list(range(1, most + 1))
    assert 2 * most * row <= memory and most <= machine.some
    assert most * states**2 <= machine.halves
    assert (
        5 * (most + 1) * row > memory
        or (most + 1) * states**2 > machine.halves
        or most == machine.some
    )


@given(st.integers(0, 10_000), st.floats(0.1, 2000), st.floats(0, 1))
def test_no_sum_is_lost_however_small_its_terms(seed: int, size: float, zeros: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    a, b = (size * torch.randn(2, 3, 4, 4, generator=generator).double() for _ in range(2))
    for one in (a, b):
        one.masked_fill_(torch.rand(one.shape, generator=generator) < zeros, -torch.inf)
    wanted = (a.unsqueeze(-1) + b.unsqueeze(-3)).logsumexp(dim=-2)
    torch.testing.assert_close(sum_product(a, b), wanted)


def test_every_row_is_counted_once() -> None:
    models = both(pf.hmm(5, 2, pf.Categorical(V)))
    x = torch.zeros(ROWS, 5)
    for model in models:
        for ask in (model.log_prob, model.marginals, partial(model.sample, 1)):
            seen = model.rows.seen
            ask(x)
            assert model.rows.seen == seen + ROWS


def test_a_draw_goes_up_once_and_step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    model = pf.compile(pf.hmm(130, 2, pf.Categorical(V)), machine=pf.Machine(weights=8))
    ups: list[object] = []

    def counted(*given: Any, **how: Any) -> Any:
        ups.append(given)
        return up(*given, **how)

    monkeypatch.setattr("pcflow.engine.evaluate.up", counted)
    monkeypatch.setattr(Halved, "up", None)  # nobody may call it
    assert model.plan.samples_at_a_time < 9  # which takes several ways down
    assert model.sample(9, torch.full((1, 130), torch.nan)).shape == (9, 1, 130)
    assert len(ups) == 1
