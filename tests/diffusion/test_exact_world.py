"""The exact world: what holds in it exactly, and its own sums against draws and by hand.

Legend: L positions, V tokens.
"""

import math
from itertools import combinations
from pathlib import Path

import pytest
import torch

import pcflow as pf
from pcflow_diffusion import CircuitHead, Projection
from pcflow_diffusion.errors import ShapeMismatch
from pcflow_diffusion.evaluate.exact_world import (
    Errors,
    ExactWorld,
    couplings,
    errors,
    exact_backbone,
    learn_hmm,
    main,
    markdown,
    second_order_chain,
)

L, V = 4, 3
PATTERNS = [m for k in range(1, L + 1) for m in combinations(range(L), k)]


@pytest.fixture(params=["hmm", "second-order chain", "a token that never occurs"])
def truth(request: pytest.FixtureRequest) -> pf.CompiledCircuit:
    generator = torch.Generator().manual_seed(3)
    circuit = pf.hmm(L, 3, pf.Categorical(V), generator=generator)
    values = {parameter: 3 * parameter.value for parameter in circuit.parameters}
    if request.param == "a token that never occurs":
        values[circuit.parameters[0]][1] = -torch.inf
    circuit = circuit.replace(values)
    if request.param == "second-order chain":
        circuit = second_order_chain(L, V, generator=generator)
    return pf.compile(circuit, dtype=torch.float64)


@pytest.mark.parametrize("coupling", [Projection(sweeps=1), "projection", "ratio"])
def test_with_the_truth_as_circuit_one_step_is_exact_for_every_pattern(
    truth: pf.CompiledCircuit, coupling: str | Projection
) -> None:
    world = ExactWorld(truth, CircuitHead(truth, V, coupling))
    for masked in PATTERNS:
        assert world.one_step(masked).tv < 1e-6
    for found in world.by_steps().values():
        assert found.tv < 1e-6
        assert found.kl == pytest.approx(0.0, abs=1e-6)


def test_product_and_factorised_are_not_exact(truth: pf.CompiledCircuit) -> None:
    product = ExactWorld(truth, CircuitHead(truth, V, "product"))
    factorised = ExactWorld(truth)
    for masked in PATTERNS:
        if len(masked) == 1:  # one token: nothing to couple, yet the product counts it twice
            assert factorised.one_step(masked).tv < 1e-6
        elif any(i + 1 in masked for i in masked):  # neighbours
            assert factorised.one_step(masked).tv > 1e-4
        assert product.one_step(masked).tv > 1e-3


def test_one_token_a_step_is_the_truth_without_a_circuit(truth: pf.CompiledCircuit) -> None:
    found = ExactWorld(truth).by_steps()
    assert list(found) == [1, 2, 4]
    assert found[4].tv < 1e-9
    assert found[1].kl > found[2].kl > 1e-3


def test_the_error_of_one_step_is_the_truth_s_own_dependence(truth: pf.CompiledCircuit) -> None:
    """Factorised, all masked: KL is the total correlation, sum of H(x_i) less H(x)."""
    world = ExactWorld(truth)
    p = world.table
    log_m = exact_backbone(truth)(torch.full((1, L), V))[0]
    entropies = -(log_m.exp() * log_m.clamp_min(-1e9)).sum()
    joint = torch.special.entr(p).sum()
    assert world.one_step(tuple(range(L))).kl == pytest.approx(float(entropies - joint))
    assert world.by_share()[-1] == world.one_step(tuple(range(L)))
    assert float(p.sum()) == pytest.approx(1.0)


@pytest.mark.parametrize("coupling", ["product", "projection", None])
@pytest.mark.parametrize("steps", [1, 2, 4])
def test_sequences_are_drawn_as_the_table_says(coupling: str | None, steps: int) -> None:
    """The real sampler, step by step, against the sums."""
    generator = torch.Generator().manual_seed(0)
    circuit = pf.hmm(L, 3, pf.Categorical(V), generator=generator)
    truth = pf.compile(circuit, dtype=torch.float64)
    other = pf.compile(pf.hmm(L, 2, pf.Categorical(V), generator=generator), dtype=torch.float64)
    head = None if coupling is None else CircuitHead(other, V, coupling)
    count = 4_000
    x = torch.full((count, L), V)
    for _ in range(steps):
        logits = exact_backbone(truth)(x)
        if head is None:
            drawn = torch.multinomial(logits.exp().flatten(0, 1), 1, generator=generator)
            tokens = drawn.view(count, L)
        else:
            tokens = head.sample(logits, x, generator=generator)[0]
        turn = torch.rand(count, L, generator=generator).masked_fill(x != V, 2.0)
        chosen = turn.argsort(dim=1)[:, : L // steps]
        x = x.scatter(1, chosen, tokens.gather(1, chosen))
    index = (x * V ** torch.arange(L - 1, -1, -1)).sum(-1)
    share = torch.bincount(index, minlength=V**L).double() / count
    table = ExactWorld(truth, head).sampled(steps)
    assert float(table.sum()) == pytest.approx(1.0)
    wanted = table.flatten()
    spread = (wanted * (1 - wanted) / count).sqrt()
    assert ((share - wanted).abs() < 5 * spread + 2 / count).all()


def test_what_a_step_draws_is_a_distribution_wherever_the_truth_can_go(
    truth: pf.CompiledCircuit,
) -> None:
    learned = learn_hmm(truth, 2, torch.Generator().manual_seed(1))
    for top_k in (None, 2):
        world = ExactWorld(truth, CircuitHead(learned, V, "projection", top_k))
        for masked in ((0,), (1, 2), (0, 2, 3), (0, 1, 2, 3)):
            found = world.drawn(masked)
            assert list(found.shape) == [V] * L
            total = found.sum(dim=masked, keepdim=True)
            possible = world.table.sum(dim=masked, keepdim=True) > 0
            torch.testing.assert_close(total, possible.double())


def test_top_k_leaves_the_likeliest_tokens_alone(truth: pf.CompiledCircuit) -> None:
    world = ExactWorld(truth, CircuitHead(truth, V, "projection", top_k=1))
    found = world.drawn(tuple(range(L)))
    best = exact_backbone(truth)(torch.full((1, L), V)).argmax(-1)[0]
    assert float(found[tuple(best.tolist())]) == pytest.approx(1.0)


def test_a_second_order_chain_by_hand() -> None:
    """p(x) = p(x1) p(x2 | x1) p(x3 | x1, x2) p(x4 | x2, x3), and x4 needs both."""
    circuit = second_order_chain(4, 3, generator=torch.Generator().manual_seed(5))
    p = ExactWorld(pf.compile(circuit, dtype=torch.float64)).table  # [V, V, V, V]
    pair, three = p.sum((0, 3), keepdim=True), p.sum(0, keepdim=True)
    torch.testing.assert_close(p, p.sum(3, keepdim=True) * three / pair)
    of_x4 = (three / pair).squeeze(0)  # [V, V, V], rows x2, x3
    of_x3 = p.sum(3) / p.sum((2, 3)).unsqueeze(-1)  # rows x1, x2
    torch.testing.assert_close(of_x4, of_x3)  # the same transitions everywhere
    assert (of_x4 - of_x4.mean(0, keepdim=True)).abs().max() > 0.01
    assert (of_x4 - of_x4.mean(1, keepdim=True)).abs().max() > 0.01


def test_errors_by_hand() -> None:
    found = errors(torch.tensor([0.5, 0.5, 0.0]), torch.tensor([0.25, 0.5, 0.25]))
    assert found == Errors(pytest.approx(0.5 * math.log(2)), pytest.approx(0.25))
    assert errors(torch.tensor([0.5, 0.5]), torch.tensor([1.0, 0.0])).kl == math.inf


def test_projection_beats_the_product_where_the_circuit_is_only_learned() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = pf.compile(second_order_chain(4, 4, generator=generator), dtype=torch.float64)
    learned = learn_hmm(truth, 4, generator)
    found = {
        name: ExactWorld(truth, head).one_step((0, 1, 2, 3)).kl
        for name, head in couplings(truth, learned, generator).items()
    }
    found["factorised"] = ExactWorld(truth).one_step((0, 1, 2, 3)).kl
    assert found["projection, converged"] < found["ratio"] < found["product"]
    assert found["projection, converged"] < found["factorised"]
    assert found["log-linear, fitted by share"] < found["product"]


def test_worlds_that_cannot_be_listed_are_refused() -> None:
    with pytest.raises(ShapeMismatch, match="10,000,000"):
        ExactWorld(pf.compile(pf.hmm(30, 2, pf.Categorical(4))))
    regions = pf.structure.chain(2)
    mixed = pf.build_circuit(regions, [pf.Categorical(2), pf.Categorical(3)])
    with pytest.raises(ShapeMismatch, match="one vocabulary"):
        ExactWorld(pf.compile(mixed))
    world = ExactWorld(pf.compile(pf.hmm(4, 2, pf.Categorical(2))))
    for steps in (0, 3):
        with pytest.raises(ShapeMismatch, match="steps"):
            world.sampled(steps)


def test_main_prints_both_tables_and_draws_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "world.png"
    main(["--length", "3", "--tokens", "3", "--states", "2", "--out", str(out)])
    printed = capsys.readouterr().out
    assert "| 33% | 67% | 100% |" in printed
    assert "| 1 | 3 |" in printed
    assert printed.count("| factorised |") == 2
    exact = [line for line in printed.splitlines() if "projection, converged; truth" in line]
    assert all(line.count("0.000 (0.000)") == line.count("(") for line in exact)
    assert out.read_bytes()[:4] == b"\x89PNG"


def test_markdown_keeps_minus_zero_out() -> None:
    assert "| 0.000 (0.000) |" in markdown({"a": [Errors(-1e-17, 0.0)]}, ["100%"])
