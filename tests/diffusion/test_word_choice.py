"""Which word fits the hole: words and holes, figures by hand, and an exact world.

Legend: C tokens of the context, L positions, V tokens, W tokens of a word, n words.
"""

from collections import Counter
from math import log

import pytest
import torch
from scipy.stats import chi2
from torch import Tensor

import pcflow as pf
from pcflow_diffusion import CharacterTokenizer, CircuitHead, Denoiser, DenoiserConfig
from pcflow_diffusion.errors import TextError
from pcflow_diffusion.evaluate import decisions
from pcflow_diffusion.evaluate.__main__ import main as command_line
from pcflow_diffusion.evaluate.decisions import (
    BINS,
    BY_OPTIONS,
    INDEPENDENT,
    ONE_BY_ONE,
    Column,
    Reader,
    figures,
    judge,
    markdown,
)
from pcflow_diffusion.evaluate.setting import Material
from pcflow_diffusion.evaluate.words import Hole, Lexicon, spelled
from pcflow_diffusion.models import windows

VOCABULARY = [" to", "day", "night", " mid", ".", "\n", "and", " so"]
TODAY, TONIGHT, MIDDAY, MIDNIGHT = (0, 1), (0, 2), (3, 1), (3, 2)
WORDS = {TODAY, TONIGHT, MIDDAY, MIDNIGHT}


def lexicon() -> Lexicon:
    text = [TODAY, TONIGHT, TODAY, TODAY, MIDDAY, MIDNIGHT, TODAY, TONIGHT]
    return Lexicon(torch.tensor([7, *[token for word in text for token in word], 4]), VOCABULARY)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_words_of_several_tokens_are_known() -> None:
    assert set(lexicon().words) == WORDS


@pytest.mark.parametrize(
    ("text", "spans"),
    [
        ([4, 0, 1, 4], [range(1, 3)]),
        ([4, 6, 1, 2, 5, 0], [range(1, 4)]),  # one that begins without a space, at a line
        ([0, 1, 0, 2], []),  # both may go on outside
        ([1, 2, 0, 2, 7], [range(2, 4)]),
        ([4, 0, 7, 3, 4], []),  # of one token
    ],
)
def test_where_words_stand(text: list[int], spans: list[range]) -> None:
    assert list(lexicon().spans(text)) == spans


def test_tokens_of_other_libraries_are_spelled_with_their_spaces() -> None:
    assert spelled(["Ġto", "day", "▁to"]) == [" to", "day", " to"]
    assert spelled(["to", "##day", "."]) == [" to", "day", " ."]


def test_others_are_drawn_alike_however_often_they_occur() -> None:
    words, generator, draws = lexicon(), seeded(), 3_000
    drawn = Counter(
        others[0]
        for _ in range(draws)
        if (others := words.others(TODAY, "any words", 1, generator))
    )
    expected = draws / 3
    distance = sum((count - expected) ** 2 / expected for count in drawn.values())
    assert set(drawn) == WORDS - {TODAY}
    assert chi2.sf(distance, 2) > 1e-6


def test_others_are_alike_and_there_may_be_too_few() -> None:
    words = lexicon()
    assert words.others(TODAY, "words that begin alike", 1, seeded()) == [TONIGHT]
    assert words.others(TODAY, "words that end alike", 1, seeded()) == [MIDDAY]
    assert words.others(TODAY, "words that end alike", 2, seeded()) is None
    assert words.others((6, 1), "any words", 1, seeded()) is None  # the others begin with a space
    every = words.others(TODAY, "any words", 3, seeded())
    assert every is not None and set(every) == WORDS - {TODAY}


def test_a_hole_is_a_word_of_the_block_and_comes_first() -> None:
    rows = torch.tensor([[4, 0, 1, 3, 2, 4, 0, 2, 4], [4, 3, 2, 4, 7, 7, 4, 5, 5]])
    holes = list(lexicon().holes(rows, 6, "any words", 4, seeded()))
    assert [hole.span for hole in holes] == [range(0, 2), range(3, 5)]
    for hole in holes:
        word = hole.row[-6:][hole.span.start : hole.span.stop]
        assert torch.equal(hole.words[0], word)
        assert {tuple(other) for other in hole.words.tolist()} == WORDS


def test_figures_by_hand() -> None:
    log_p = torch.tensor([[0.9, 0.1], [0.85, 0.15], [0.35, 0.65], [0.62, 0.38]]).log()
    loss, right, error = figures(log_p)
    assert loss == pytest.approx(-(log(0.9) + log(0.85) + log(0.35) + log(0.62)) / 4, rel=1e-6)
    assert right == 0.75
    bins = [0.9 - 1, 0.85 - 1, (0.65 - 0) + (0.62 - 1)]
    assert error == pytest.approx(sum(map(abs, bins)) / 4, rel=1e-6)
    assert BINS == 10
    assert figures(torch.zeros(3, 1))[2] == 0.0


def test_fewer_words_are_the_first_of_more() -> None:
    holes = [Hole(torch.arange(5), 5, range(width), torch.zeros(3, width)) for width in (2, 3, 2)]
    scores = torch.tensor([[0.0, 1.0, 9.0], [2.0, 0.0, 0.0], [1.0, 1.0, 0.0]])
    found = Column("", 2, range(2, 3)).of(holes, scores)
    torch.testing.assert_close(found, scores[[0, 2], :2].log_softmax(dim=-1))


LENGTH, V = 4, 5


class Exact:
    """A backbone that knows the world: the posteriors of a circuit, whatever the context."""

    def __init__(self) -> None:
        torch.manual_seed(2)
        circuit = pf.hmm(LENGTH, 3, pf.Categorical(V))
        self.model = pf.compile(
            circuit.replace({p: 3 * p.value for p in circuit.parameters}), dtype=torch.float64
        )

    def __call__(self, tokens: Tensor) -> Tensor:
        x = tokens[:, -LENGTH:]
        log_q = self.model.marginals(pf.Evidence(x.masked_fill(x == V, 0), x == V))
        return torch.cat([log_q.new_zeros(len(x), tokens.shape[1] - LENGTH, V), log_q], dim=1)

    def holes(self, count: int) -> list[Hole]:
        rows = torch.cat(
            [torch.zeros(count, 2).long(), self.model.sample(count, generator=seeded())], 1
        )
        words = torch.cartesian_prod(torch.arange(V), torch.arange(V))
        found = []
        for row in rows:
            other = (words != row[3:5]).any(dim=1)
            found.append(
                Hole(row, LENGTH, range(1, 3), torch.cat([row[None, 3:5], words[other][:15]]))
            )
        return found


def test_where_the_circuit_is_the_truth_the_joint_is_that_of_one_token_after_another() -> None:
    world = Exact()
    heads = {name: CircuitHead(world.model, V, name) for name in ("ratio", "projection")}
    holes = world.holes(60)
    scores = Reader(world, V).scores(holes, heads)
    assert list(scores) == [INDEPENDENT, "ratio", "projection", ONE_BY_ONE]
    for row, hole in enumerate(holes):
        x = hole.row[-LENGTH:].repeat(len(hole.words), 1)
        x[:, 1:3] = hole.words
        truth = world.model.log_prob(x).log_softmax(dim=0).float()
        for name in ("ratio", "projection", ONE_BY_ONE):
            found = scores[name][row].log_softmax(0).float()
            torch.testing.assert_close(found, truth, rtol=0, atol=1e-5)
    table = judge(holes, scores, BY_OPTIONS)
    assert table["ratio"][11] > 0.01  # of eight words: what pairs of tokens say
    assert [len(row) for row in table.values()] == [4 * len(BY_OPTIONS)] * 4
    lines = markdown(table, table, BY_OPTIONS).splitlines()
    assert len(lines) == 6
    assert "±" not in lines[2] and lines[3].count("±") == len(BY_OPTIONS)


def test_the_command_prints_tables_for_both_kinds_of_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "the tan tar rat ran ram man and. " * 60
    tokenizer = CharacterTokenizer.fit(text)
    rows = windows(tokenizer.encode(text), 40, 8)
    torch.manual_seed(0)
    size = tokenizer.vocabulary_size
    denoiser = Denoiser(DenoiserConfig(size, width=8, depth=1, heads=1))
    material = Material(tokenizer, denoiser, rows, rows, rows, block=24)
    circuit = pf.compile(pf.hmm(24, 2, pf.Categorical(size)))
    monkeypatch.setattr(decisions, "HOLES", 6)
    monkeypatch.setattr(decisions, "BY_OPTIONS", [Column("2 words", 2, range(2, 9))])
    monkeypatch.setattr(decisions, "OPTIONS", (2, 3))
    monkeypatch.setattr(decisions, "asked", lambda given: (material, None))
    monkeypatch.setattr(decisions, "fit_circuit", lambda *given: circuit)
    lexicon = Lexicon(rows[0, :2], tokenizer.vocabulary)
    with pytest.raises(TextError, match="no held-out word 2 others are known"):
        decisions.some_holes(lexicon, rows, 24, "any words", seeded())
    command_line(["decisions", "--seeds", "2"])
    printed = capsys.readouterr().out
    assert printed.count("6 holes") == 6
    tables = [line for line in printed.splitlines() if line.startswith("| product | ")]
    assert len(tables) == 6 and all(" ± " in line for line in tables)
    assert "3 tokens" in printed and "| 2 tokens" not in printed  # of which there are none
