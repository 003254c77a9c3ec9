"""The figures of the gap table against exact numbers, and training on Eq. 7."""

import re
from math import isnan, log
from pathlib import Path

import pytest
import torch
from torch import Tensor

import pcflow as pf
from pcflow_diffusion import (
    CharacterTokenizer,
    CircuitHead,
    Denoiser,
    DenoiserConfig,
    fingerprint,
    save_denoiser,
)
from pcflow_diffusion.errors import RatioOutOfRange, TokenOutOfRange
from pcflow_diffusion.evaluate import gap_of_text, setting
from pcflow_diffusion.evaluate.__main__ import main as command_line
from pcflow_diffusion.evaluate.gap import (
    CIRCUIT,
    FACTORISED,
    SEQUENTIAL,
    LeftToRight,
    circuit_nats,
    coupled_nats,
    factorised_nats,
    gap_closed,
    gap_table,
    make_examples,
    markdown,
    mean_and_spread,
    sequential_nats,
)

CONTEXT, LENGTH, V = 2, 4, 3
MASK = V


@pytest.fixture
def model() -> pf.CompiledCircuit:
    torch.manual_seed(1)
    return pf.compile(pf.hmm(LENGTH, 3, pf.Categorical(V)), dtype=torch.float64)


def exact_backbone(model: pf.CompiledCircuit):  # type: ignore[no-untyped-def]
    """A denoiser that knows the world: the circuit's true posteriors, whatever the context."""

    def backbone(tokens: Tensor) -> Tensor:
        block = tokens[:, -LENGTH:]
        masked = block == MASK
        log_q = model.marginals(pf.Evidence(block.masked_fill(masked, 0), masked))
        return torch.cat([torch.zeros(len(tokens), tokens.shape[1] - LENGTH, V), log_q], dim=1)

    return backbone


def rows_of(model: pf.CompiledCircuit, count: int = 60) -> Tensor:
    context = torch.zeros(count, CONTEXT, dtype=torch.long)
    return torch.cat([context, model.sample(count)], dim=1)


@pytest.mark.parametrize("ratio", [0.25, 0.5, 1.0])
def test_the_chain_rule_joins_sequential_and_joint(model: pf.CompiledCircuit, ratio: float) -> None:
    backbone = exact_backbone(model)
    examples = make_examples(backbone, rows_of(model), LENGTH, ratio, MASK)
    assert (examples.masked.sum(1) == ratio * LENGTH).all()
    generator = torch.Generator().manual_seed(3)
    sequential = sequential_nats(backbone, examples, generator)
    assert sequential == pytest.approx(circuit_nats(model, examples), rel=1e-9)


@pytest.mark.parametrize("last", [1, 3, LENGTH])
def test_the_chain_rule_from_left_to_right(model: pf.CompiledCircuit, last: int) -> None:
    """Masks stand for all that is not read yet: log p(x_t | x_before) sums to that of the rest."""
    rows = rows_of(model)
    nats = LeftToRight(exact_backbone(model), MASK).nats(rows, last)
    block = rows[:, -LENGTH:]
    hidden = (torch.arange(LENGTH) >= LENGTH - last).expand(len(rows), -1)
    given = model.log_prob(pf.Evidence(block, hidden))
    assert nats.shape == (len(rows), last)
    torch.testing.assert_close(nats.sum(1), given - model.log_prob(block))


def test_sequential_counts_masked_tokens_only_where_rows_have_different_numbers_of_them(
    model: pf.CompiledCircuit,
) -> None:
    backbone, share = exact_backbone(model), torch.tensor([0.25, 0.75, 1.0]).repeat(20)
    examples = make_examples(backbone, rows_of(model), LENGTH, share, MASK)
    sequential = sequential_nats(backbone, examples)
    assert sequential == pytest.approx(circuit_nats(model, examples), rel=1e-9)


def test_factorised_is_the_cross_entropy_of_masked_tokens(model: pf.CompiledCircuit) -> None:
    examples = make_examples(exact_backbone(model), rows_of(model), LENGTH, 0.5, MASK)
    log_m = examples.logits.log_softmax(-1).gather(-1, examples.x0.unsqueeze(-1)).squeeze(-1)
    assert factorised_nats(examples) == pytest.approx(-log_m[examples.masked].mean().item())


def test_coupled_is_the_joint_per_masked_token(model: pf.CompiledCircuit) -> None:
    examples = make_examples(exact_backbone(model), rows_of(model), LENGTH, 0.75, MASK)
    for coupling in ("ratio", "projection"):  # exact, because the marginals are
        head = CircuitHead(model, MASK, coupling)
        assert coupled_nats(head, examples) == pytest.approx(circuit_nats(model, examples))


def test_the_table_closes_the_whole_gap_where_the_circuit_is_the_truth(
    model: pf.CompiledCircuit,
) -> None:
    heads = {name: CircuitHead(model, MASK, name) for name in ("product", "ratio")}
    ratios = [0.5, 1.0]
    table = gap_table(
        exact_backbone(model),
        model,
        heads,
        rows_of(model, 200),
        ratios,
        generator=torch.Generator().manual_seed(0),
        progress=False,
    )
    assert list(table) == [FACTORISED, SEQUENTIAL, CIRCUIT, "product", "ratio"]
    for place in range(2):
        factorised, sequential = table[FACTORISED][place], table[SEQUENTIAL][place]
        assert sequential < factorised
        closed = gap_closed(factorised, sequential, table["ratio"][place])
        assert closed == pytest.approx(1.0, abs=1e-6)
        assert gap_closed(factorised, sequential, table["product"][place]) < 0.9
    lines = markdown(table, ratios).splitlines()
    assert lines[0].endswith("| 50 % | 100 % |")
    assert lines[-1].count("(100 %)") == 2
    assert len(lines) == 7


def test_the_spread_over_seeds_stands_behind_the_mean() -> None:
    runs = [{FACTORISED: [3.0], SEQUENTIAL: [2.0], "ours": [nats]} for nats in (2.2, 2.4)]
    means, spread = mean_and_spread(runs)
    assert means["ours"] == pytest.approx([2.3])
    assert spread is not None and spread["ours"] == pytest.approx([0.02**0.5])
    assert "| ours | 2.300 ± 0.141 (70 %) |" in markdown(means, [0.5], spread)
    assert mean_and_spread(runs[:1])[1] is None


def test_where_there_is_no_gap_no_share_of_it_is_shown() -> None:
    """One masked token has no joint: both ends are the same but for rounding."""
    table = {FACTORISED: [3.0, 2.5, 3.0], SEQUENTIAL: [3.0, 2.5 - 1e-8, 2.0], "ours": [2.8] * 3}
    lines = markdown(table, [0.1, 0.2, 0.5]).splitlines()
    assert lines[-1] == "| ours | 2.800 (\N{EN DASH}) | 2.800 (\N{EN DASH}) | 2.800 (20 %) |"
    assert isnan(gap_closed(2.0, 2.0 + 1e-7, 1.0))
    assert gap_closed(2.0, 2.1, 2.3) == pytest.approx(3.0)  # the wrong way round is a gap, too


@pytest.mark.parametrize("ratio", [0.0, 0.1, 1.01, -0.5, float("nan")])
def test_ratios_that_mask_no_token_are_refused_before_any_work(
    model: pf.CompiledCircuit, ratio: float
) -> None:
    def never(tokens: Tensor) -> Tensor:
        raise AssertionError("asked")

    with pytest.raises(RatioOutOfRange, match="of 4 tokens"):
        gap_table(
            never, model, {"ours": CircuitHead(model, MASK)}, rows_of(model), [1.0, ratio],
            generator=torch.Generator(), progress=False,
        )  # fmt: skip


def test_a_backbone_in_half_precision_is_read_in_single() -> None:
    logits = torch.tensor([3.0, 1.0, -2.0], dtype=torch.bfloat16)
    rows = torch.tensor([[0, 0, 1, 2, 0, 1]])

    def backbone(tokens: Tensor) -> Tensor:
        return logits.expand(*tokens.shape, -1)

    nats = -logits.double().log_softmax(-1)[rows[0, -LENGTH:]]
    read = LeftToRight(backbone, MASK).nats(rows, LENGTH)
    torch.testing.assert_close(read[0].double(), nats, rtol=1e-6, atol=1e-6)
    examples = make_examples(backbone, rows, LENGTH, 1.0, MASK)
    for found in (factorised_nats(examples), sequential_nats(backbone, examples)):
        assert found == pytest.approx(float(nats.mean()), rel=1e-6)


def test_no_mass_is_left_on_a_mask_that_is_a_category() -> None:
    """As in the heads, or the comparison would favour them."""
    rows, mask = torch.tensor([[0, 0, 1, 0, 0, 1]]), 2

    def backbone(tokens: Tensor) -> Tensor:
        return torch.tensor([0.0, 0.0, 5.0]).expand(*tokens.shape, -1)

    examples = make_examples(backbone, rows, LENGTH, 1.0, mask)
    even = pf.compile(pf.hmm(LENGTH, 1, pf.Categorical(3)))
    joint = coupled_nats(CircuitHead(even, mask, "ratio"), examples)
    read = LeftToRight(backbone, mask).nats(rows, LENGTH)
    for nats in (factorised_nats(examples), sequential_nats(backbone, examples), joint):
        assert nats == pytest.approx(log(2))
    torch.testing.assert_close(read, torch.full((1, LENGTH), log(2)))


def test_tokens_that_a_backbone_has_no_logit_for_are_refused() -> None:
    rows = torch.tensor([[0, 0, 1, 0, 5, 1]])

    def backbone(tokens: Tensor) -> Tensor:
        return torch.zeros(*tokens.shape, V)

    examples = make_examples(backbone, rows, LENGTH, 1.0, MASK)
    for call in (
        lambda: factorised_nats(examples),
        lambda: sequential_nats(backbone, examples),
        lambda: LeftToRight(backbone, MASK).nats(rows, LENGTH),
    ):
        with pytest.raises(TokenOutOfRange, match="5"):
            call()


TEXT = "the cat sat. " * 900


@pytest.fixture
def uniform(tmp_path: Path) -> Path:
    """A file of a denoiser that knows nothing of the text, which is beside it, as is a head."""
    tokenizer = CharacterTokenizer.fit(TEXT)
    count = tokenizer.vocabulary_size
    model = Denoiser(DenoiserConfig(count, width=16, depth=1, heads=2))
    torch.nn.init.zeros_(model.head.weight)
    save_denoiser(model, tmp_path / "denoiser", tokenizer)
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    circuit = pf.compile(pf.hmm(32, 4, pf.Categorical(count)))
    CircuitHead(circuit, count, tokenizer=fingerprint(tokenizer)).save(tmp_path / "head")
    return tmp_path


@pytest.mark.usefixtures("in_small")
def test_a_denoiser_and_a_head_of_files_are_evaluated(
    uniform: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gap_of_text, "RATIOS", [0.5])
    options = ["--text", uniform / "text.txt", "--denoiser", uniform / "denoiser"]
    options += ["--head", uniform / "head", "--out", uniform / "out.png"]
    command_line(["gap", *map(str, options)])
    printed = capsys.readouterr().out
    uniform_nats = log(CharacterTokenizer.fit(TEXT).vocabulary_size)
    assert f"| factorised, one step | {uniform_nats:.3f} |" in printed
    assert setting.SAVED not in printed  # it projects, as one of the others does
    options += ["--steps", 1, "--repeats", 1, "--seeds", 2]
    command_line(["few-step", *map(str, options)])
    printed = capsys.readouterr().out
    assert "context in the window" in printed and "Seed 1:" in printed
    assert re.search(r"\| projection, 2 sweeps \| \d+\.\d+ ± 0\.\d+ \(", printed)


def test_a_denoiser_that_cannot_be_read_or_is_not_the_only_one_is_refused(
    uniform: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, more, why in (("head", [], "format"), ("denoiser", ["--train"], "not allowed with")):
        with pytest.raises(SystemExit):
            command_line(["gap", "--denoiser", str(uniform / name), *more])
        assert why in capsys.readouterr().err


@pytest.mark.usefixtures("in_small")
def test_evaluations_are_run_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="exact-world"):
        command_line(["unknown"])
    monkeypatch.setattr(gap_of_text, "RATIOS", [0.5, 1.0])
    text, picture = tmp_path / "text.txt", tmp_path / "gap.png"
    text.write_text(TEXT, encoding="utf-8")
    options = ["--text", text, "--out", picture, "--states", 16, "--minutes", 0.02, "--seeds", 2]
    command_line(["gap", *map(str, options)])
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert any(line.startswith("| log-linear, fitted | ") and "±" in line for line in table)
    assert picture.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
