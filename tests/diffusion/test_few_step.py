"""The ladder against worlds that are known exactly: calls and draws counted, tables by hand."""

from itertools import pairwise
from math import log
from pathlib import Path

import pytest
import torch
from torch import Tensor

import pcflow as pf
from pcflow_diffusion import CircuitHead, Decoding
from pcflow_diffusion.errors import DiffusionError, GenerationError, ShapeMismatch
from pcflow_diffusion.evaluate.__main__ import main as command_line
from pcflow_diffusion.evaluate.exact_world import second_order_chain
from pcflow_diffusion.evaluate.few_step import (
    FACTORISED,
    CoupledMarginals,
    Decoder,
    Written,
    draw_few_step,
    half_the_steps,
    judge_rows,
    ladder,
    markdown,
    samples,
    together,
)

L, V, P = 4, 3, 2
MASK = V


@pytest.fixture
def truth() -> pf.CompiledCircuit:
    """Positions that depend on each other strongly."""
    return chain(L)


def chain(length: int) -> pf.CompiledCircuit:
    generator = torch.Generator().manual_seed(1)
    return pf.compile(second_order_chain(length, V, generator=generator), dtype=torch.float64)


class World:
    """A backbone that knows the truth, and notes what it is shown."""

    def __init__(self, truth: pf.CompiledCircuit) -> None:
        self.truth, self.seen = truth, list[Tensor]()

    def __call__(self, tokens: Tensor, /) -> Tensor:
        self.seen.append(tokens.clone())
        block = tokens[:, -L:]
        masked = block == MASK
        log_m = self.truth.marginals(pf.Evidence(block.masked_fill(masked, 0), masked))
        context = torch.zeros(len(tokens), tokens.shape[1] - L, V, dtype=log_m.dtype)
        return torch.cat([context, log_m], dim=1)


class TruthReader:
    """Says -log p of the whole block, spread evenly over it."""

    def __init__(self, truth: pf.CompiledCircuit) -> None:
        self.truth, self.shapes = truth, list[tuple[int, ...]]()

    def nats(self, rows: Tensor, last: int) -> Tensor:
        self.shapes.append((*rows.shape, last))
        with torch.no_grad():
            total = -self.truth.log_prob(rows[:, -L:])
        return (total / L).unsqueeze(-1).expand(-1, last)


class TokenReader:
    """Takes the number of a token for its nats."""

    def nats(self, rows: Tensor, last: int) -> Tensor:
        return rows[:, -last:].float()


def prompts(count: int = 5) -> Tensor:
    return torch.randint(V, (count, P))


def heads(truth: pf.CompiledCircuit) -> dict[str, Decoder]:
    head = CircuitHead(truth, MASK, "ratio")
    return {"factorised": Decoder(), "ours": Decoder(head), "alone": Decoder(head, jointly=False)}


@pytest.mark.parametrize("blocks", [1, 3])
def test_the_backbone_is_asked_once_per_step_and_block_and_shown_no_more_than_a_prompt(
    truth: pf.CompiledCircuit, blocks: int
) -> None:
    for name, decoder in heads(truth).items():
        for steps in (1, 2, 3, 4):
            world, reader = World(truth), TruthReader(truth)
            found = ladder(
                world, {name: decoder}, prompts(), reader, [steps], block_length=L,
                gen_length=blocks * L, mask_token_id=MASK, progress=False,
            )  # fmt: skip
            assert len(world.seen) == steps * blocks
            assert {tuple(x.shape) for x in world.seen} == {(5, P + L)}
            left = [int((x == MASK).sum()) // 5 for x in world.seen[:steps]]
            assert left[0] == L and all(a > b for a, b in pairwise(left))
            assert reader.shapes == [(5 * blocks, P + L, L)]
            written = found[name][steps]
            assert written.tokens.shape == (5, blocks * L)
            assert int(written.tokens.max()) < V


def test_one_step_of_the_truth_writes_like_as_many_steps_as_tokens(
    truth: pf.CompiledCircuit,
) -> None:
    found = ladder(
        World(truth), heads(truth), prompts(3000), TruthReader(truth), [1, L], block_length=L,
        mask_token_id=MASK, progress=False,
    )  # fmt: skip
    every = torch.cartesian_prod(*[torch.arange(V)] * L)
    with torch.no_grad():
        log_p = truth.log_prob(every)
    entropy = -float((log_p.exp() * log_p).sum()) / L
    for name, steps in (("ours", 1), ("ours", L), ("factorised", L), ("alone", L)):
        row = found[name][steps]
        assert row.nats == pytest.approx(entropy, abs=4 * float(row.row_nats.std()) / 3000**0.5)
    for name in ("factorised", "alone"):  # the same marginals, hence the same independent draws
        assert found[name][1].nats > entropy + 0.15
    assert torch.equal(found["factorised"][1].tokens, found["alone"][1].tokens)


def test_the_ablation_draws_every_token_for_itself_from_the_coupled_marginals() -> None:
    circuit = chain(2)
    m = torch.randn(2, V, dtype=torch.float64).log_softmax(dim=-1)
    head = CircuitHead(circuit, MASK, "product")

    def backbone(tokens: Tensor) -> Tensor:
        return torch.cat([torch.zeros(len(tokens), P, V), m.expand(len(tokens), -1, -1)], dim=1)

    pairs = torch.cartesian_prod(torch.arange(V), torch.arange(V))
    with torch.no_grad():
        joint = (circuit.log_prob(pairs) + m[0, pairs[:, 0]] + m[1, pairs[:, 1]]).softmax(dim=0)
    joint = joint.view(V, V)
    product = joint.sum(dim=1, keepdim=True) * joint.sum(dim=0)  # of the coupled marginals
    assert float((joint - product).abs().sum()) > 0.3

    masked = torch.full((1, P + 2), MASK)
    q = CoupledMarginals(backbone, head, 2)(masked)[0, P:].exp()
    torch.testing.assert_close(q, torch.stack([joint.sum(dim=1), joint.sum(dim=0)]))
    rows = 20_000
    found = ladder(
        backbone, {"ours": Decoder(head), "alone": Decoder(head, jointly=False)}, prompts(rows),
        TokenReader(), [1], block_length=2, progress=False, mask_token_id=MASK,
    )  # fmt: skip
    for name, expected in (("ours", joint), ("alone", product)):
        tokens = found[name][1].tokens
        seen = torch.bincount(tokens[:, 0] * V + tokens[:, 1], minlength=V * V).view(V, V)
        chi_square = float(((seen - rows * expected) ** 2 / (rows * expected)).sum())
        assert chi_square < 26.1, name  # 99.9 % of 8 degrees of freedom


def test_the_ablation_ranks_by_the_coupled_marginals() -> None:
    sure = torch.zeros(2, V, 1)
    sure[1, 2] = 9.0  # the circuit knows the second token, the backbone thinks it knows the first
    inputs = [
        pf.InputLayer(i, pf.Categorical(V), 1, {"logits": pf.Parameter(sure[i])}) for i in range(2)
    ]
    top = pf.SumLayer([pf.ProductLayer(inputs)], pf.Parameter(torch.zeros(1, 1)))
    circuit = pf.compile(pf.Circuit(top))
    seen: list[Tensor] = []

    def backbone(tokens: Tensor) -> Tensor:
        seen.append(tokens.clone())
        logits = torch.zeros(len(tokens), tokens.shape[1], V)
        logits[:, -2, 0] = 1.0
        return logits

    decoders = {"alone": Decoder(CircuitHead(circuit, MASK, "product"), jointly=False)}
    how = {"block_length": 2, "decoding": Decoding(), "progress": False}
    found = ladder(backbone, decoders, prompts(1), TokenReader(), [2], **how)  # type: ignore[arg-type]
    assert seen[1][0, P:].tolist() == [MASK, 2]
    assert found["alone"][2].tokens.tolist() == [[0, 2]]


def test_the_last_block_alone_is_coupled(truth: pf.CompiledCircuit) -> None:
    head = CircuitHead(truth, MASK, "product")
    tokens = torch.tensor([[1, MASK, 0, 2, MASK, MASK, 1]])
    logits = torch.randn(1, 7, V, dtype=torch.float64)
    found = CoupledMarginals(lambda _: logits, head, L)(tokens)
    assert torch.equal(found[:, :3], logits[:, :3])
    torch.testing.assert_close(found[:, 3:], head(logits[:, 3:], tokens[:, 3:]))
    shorter = CoupledMarginals(lambda _: logits, head, 3)(tokens)
    assert torch.equal(shorter[:, :4], logits[:, :4])
    assert not torch.allclose(shorter[:, 4:], found[:, 4:])
    with pytest.raises(ShapeMismatch, match="4 positions"):
        CoupledMarginals(lambda _: logits, head, L + 1)


def test_the_same_seed_writes_the_same_and_is_the_same_for_all(truth: pf.CompiledCircuit) -> None:
    start = prompts(20)

    def tokens(seed: int) -> list[Tensor]:
        found = ladder(
            World(truth), {"one": Decoder(), "two": Decoder(), **heads(truth)}, start,
            TokenReader(), (1, 2), block_length=L, mask_token_id=MASK, progress=False,
            generator=torch.Generator().manual_seed(seed),
        )  # fmt: skip
        return [row[steps].tokens for row in found.values() for steps in row]

    first, again, other = tokens(0), tokens(0), tokens(1)
    assert all(map(torch.equal, first, again))
    assert not any(map(torch.equal, first, other))
    assert torch.equal(first[0], first[2]) and torch.equal(first[1], first[3])


def test_every_block_is_read_after_as_many_tokens_as_a_prompt_has() -> None:
    rows = torch.tensor([[9, 9, 0, 1, 2, 3], [9, 9, 4, 4, 4, 6]])
    found = judge_rows(TokenReader(), rows, 2, block_length=2)
    assert found.tokens.tolist() == [[0, 1, 2, 3], [4, 4, 4, 6]]
    assert found.row_nats.tolist() == [1.5, 4.5]
    assert found.nats == 3.0
    read: list[Tensor] = []

    class Noting:
        def nats(self, rows: Tensor, last: int) -> Tensor:
            read.append(rows)
            return torch.zeros(len(rows), last)

    judge_rows(Noting(), rows, 2, block_length=2)
    assert read[0].tolist() == [[9, 9, 0, 1], [0, 1, 2, 3], [9, 9, 4, 4], [4, 4, 4, 6]]


def test_entropy_by_hand() -> None:
    text = Written(torch.tensor([[0, 0], [1, 7]]), torch.zeros(2))
    assert text.entropy == pytest.approx(0.5 * log(2) + 0.5 * log(4))
    assert Written(torch.tensor([[5, 5]]), torch.zeros(1)).entropy == 0.0


def written(nats: list[float], tokens: list[int]) -> Written:
    return Written(torch.tensor(tokens).view(len(nats), -1), torch.tensor(nats))


def test_tables_by_hand(tmp_path: Path) -> None:
    found = {
        FACTORISED: {n: written([2.0 / n, 4.0 / n], [0, 1, 0, 1]) for n in (1, 2, 4)},
        "ours": {n: written([1.0, 2.0], [0, 1, 2, 3]) for n in (1, 2, 4)},
    }
    reference = written([0.5], [0, 0])
    assert markdown(found, reference).splitlines() == [
        "| nats per token under the judge (entropy) by steps per block | 1 | 2 | 4 |",
        "|---|---|---|---|",
        "| real text | 0.500 (0.000) | 0.500 (0.000) | 0.500 (0.000) |",
        "| factorised | 3.000 (0.693) | 1.500 (0.693) | 0.750 (0.693) |",
        "| ours | 1.500 (1.386) | 1.500 (1.386) | 1.500 (1.386) |",
    ]
    # differences 0 and 0 from two steps; from four 0.5 and 1, of standard deviation 0.354
    assert half_the_steps(found).splitlines() == [
        "| nats over factorised (entropy) by steps for steps | 1 for 2 | 2 for 4 |",
        "|---|---|---|",
        "| ours | +0.000 ± 0.000 (+100.0 %) | +0.750 ± 0.250 (+100.0 %) |",
    ]
    assert "| factorised | +1.500 ± 0.500 (-50.0 %)" in half_the_steps(found, against="ours")
    lines = samples(found, lambda tokens: " ".join(map(str, tokens.tolist()))).splitlines()
    assert lines[:2] == ["- 1, factorised: `0 1`", "- 1, ours: `2 3`"] and len(lines) == 6
    picture = tmp_path / "ladder.png"
    draw_few_step(picture, found, reference)
    assert picture.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_runs_stand_behind_their_mean() -> None:
    runs = [
        {
            FACTORISED: {n: written([2.0 / n, 4.0 / n], [0, 1, 0, 1]) for n in (1, 2)},
            "ours": {n: written([better, better + 1], [0, 1, kind, 3]) for n in (1, 2)},
        }
        for better, kind in ((1.0, 2), (2.0, 3))
    ]
    found = together(runs)
    entropies = (runs[0]["ours"][1].entropy, runs[1]["ours"][1].entropy)
    assert entropies[0] != entropies[1]
    assert f"| ours | 2.000 ± 0.707 ({sum(entropies) / 2:.3f}) |" in markdown(found)
    assert "| factorised | 3.000 ± 0.000 (0.693) |" in markdown(found)
    # of the first prompt 1 and 2 less 1, of the second 2 and 3 less 2: .5 each, prompt by prompt
    assert "+0.500 ± 0.000" in half_the_steps(found)
    assert str(together(runs[:1])["ours"][1]) == str(runs[0]["ours"][1])


def test_a_single_row_has_no_standard_error() -> None:
    found = {name: {n: written([2.0], [0, 1]) for n in (1, 2)} for name in (FACTORISED, "ours")}
    assert "+0.000 ± 0.000 (+0.0 %)" in half_the_steps(found)


def test_unequal_rungs_are_refused() -> None:
    text = written([1.0], [0])
    for found in ({FACTORISED: {1: text, 3: text}}, {"ours": {1: text, 2: text}}):
        with pytest.raises(GenerationError, match="none is twice"):
            half_the_steps(found)


LISTS = Decoder(CircuitHead(chain(L), MASK, top_k=2))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"decoders": {}}, "0 decoders"),
        ({"decoders": {"alone": Decoder(jointly=False)}}, "'alone' has no head"),
        ({"steps": ()}, r"steps=\(\)"),
        ({"steps": (1, 0)}, r"1 to block_length=4: \(1, 0\)"),
        ({"steps": (5,)}, "1 to block_length=4"),
        ({"block_length": 0}, "block_length=0"),
        ({"gen_length": 6}, "gen_length=6"),
        ({"gen_length": 0}, "gen_length=0"),
        ({"prompts": torch.zeros(0, 2, dtype=torch.long)}, "N at least 1"),
        ({"prompts": torch.zeros(2, dtype=torch.long)}, r"\[N, P\]"),
        ({"decoding": Decoding(top_k=2), "decoders": {"ours": LISTS}}, "set the head's top_k"),
        ({"mask_token_id": None}, "mask_token_id"),
    ],
)
def test_settings_that_do_not_fit_are_refused(change: dict[str, object], match: str) -> None:
    given = {
        "backbone": lambda x: torch.zeros(*x.shape, V), "decoders": {"factorised": Decoder()},
        "prompts": prompts(), "judge": TokenReader(), "steps": (1, 2), "block_length": L,
        "mask_token_id": MASK, "progress": False,
    }  # fmt: skip
    with pytest.raises(DiffusionError, match=match):
        ladder(**{**given, **change})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("shape", "prompt_length", "block_length"),
    [((2, 4), 4, 2), ((2, 5), 2, 2), ((0, 4), 2, 2), ((4,), 2, 2), ((2, 4), 2, 0)],
)
def test_rows_that_cannot_be_cut_into_blocks_are_refused(
    shape: tuple[int, ...], prompt_length: int, block_length: int
) -> None:
    rows = torch.zeros(shape, dtype=torch.long)
    with pytest.raises(ShapeMismatch):
        judge_rows(TokenReader(), rows, prompt_length, block_length)


@pytest.mark.usefixtures("in_small")
def test_the_command_line_ends_in_tables_and_a_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, picture = tmp_path / "text.txt", tmp_path / "ladder.png"
    text.write_text("the cat sat. " * 900, encoding="utf-8")
    options = ["--text", text, "--out", picture, "--states", 16, "--minutes", 0.02]
    options += ["--judge-minutes", 0.02, "--steps", 1, 2, "--repeats", 1, "--ranking", "entropy"]
    command_line(["few-step", *map(str, options)])
    printed = capsys.readouterr().out
    assert "nats per token left to right: judge " in printed
    rows = [line.split(" | ")[0] for line in printed.splitlines() if line.startswith("| ")]
    for name in ("real text", FACTORISED, "log-linear, fitted, drawn independently"):
        assert f"| {name}" in rows
    assert "by steps for steps | 1 for 2 |" in printed
    assert "- 2, projection, 2 sweeps: `" in printed
    assert picture.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


@pytest.mark.parametrize(
    "option", [["--steps", "1", "33"], ["--repeats", "0"], ["--temperature", "-1"],
               ["--judge-minutes", "-1"], ["--ranking", "best"]],
)  # fmt: skip
def test_options_that_cannot_be_run_are_refused_before_anything_is_trained(
    option: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        command_line(["few-step", *option])
    assert option[0] in capsys.readouterr().err


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_generator_on_another_device_than_the_prompts_is_taken() -> None:
    def flat(tokens: Tensor) -> Tensor:
        return torch.zeros(*tokens.shape, V)

    found = ladder(
        flat, {"factorised": Decoder()}, prompts(), TokenReader(), [1], block_length=L,
        mask_token_id=MASK, generator=torch.Generator("cuda").manual_seed(0), progress=False,
    )  # fmt: skip
    assert found["factorised"][1].tokens.shape == (5, L)
