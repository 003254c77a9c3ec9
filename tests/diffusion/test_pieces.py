"""Laws of pieces of words, and of the text that is cut into them."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pcflow_diffusion.errors import ShapeMismatch, TextError, TokenOutOfRange
from pcflow_diffusion.models import (
    Denoiser,
    DenoiserConfig,
    PieceTokenizer,
    load_denoiser,
    save_denoiser,
)
from pcflow_diffusion.models.english import english, joined
from pcflow_diffusion.models.pieces import WORD
from pcflow_diffusion.models.text import REPLACEMENT

TEXT = "In the beginning was the word, and the word was with them: 144,000 of them.\n\nAnd then?"
TOKENIZER = PieceTokenizer.fit(TEXT * 5, 48)


@given(st.text(alphabet=sorted(set(TEXT))))
def test_a_text_of_known_characters_makes_the_round_trip(text: str) -> None:
    tokens = TOKENIZER.encode(text)
    assert TOKENIZER.decode(tokens) == text
    assert len(tokens) <= len(text)


@given(st.text())
def test_what_is_unknown_becomes_the_replacement_and_nothing_is_lost(text: str) -> None:
    known = set(TOKENIZER.vocabulary)
    wanted = "".join(c if c in known else REPLACEMENT for c in text)
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == wanted


@given(st.text())
def test_the_words_that_bound_pieces_are_the_whole_text(text: str) -> None:
    assert "".join(WORD.findall(text)) == text


def test_pieces_are_the_frequent_ones_and_lie_within_words() -> None:
    assert TOKENIZER.vocabulary_size == TOKENIZER.mask_token_id == 48
    assert " the" in TOKENIZER.vocabulary
    assert all(WORD.fullmatch(piece) for piece in TOKENIZER.vocabulary)
    assert len(TOKENIZER.encode(TEXT)) < 0.8 * len(TEXT)


def test_a_word_is_cut_into_its_longest_pieces_from_the_left() -> None:
    tokenizer = PieceTokenizer([REPLACEMENT, "a", "b", "ab", "aba", "bab"])
    assert tokenizer.encode("abab").tolist() == [4, 2]
    assert tokenizer.encode("babab").tolist() == [5, 3]


def test_merging_ends_where_no_pair_occurs_twice() -> None:
    tokenizer = PieceTokenizer.fit("abcdef ab", 100, minimum_count=1)
    assert set(tokenizer.vocabulary) == {*"abcdef ", REPLACEMENT, "ab"}
    with pytest.raises(TextError, match="at least 8"):
        PieceTokenizer.fit("abcdef ab", 7, minimum_count=1)


def test_decode_prints_the_mask_and_refuses_the_rest() -> None:
    tokenizer = PieceTokenizer([REPLACEMENT, "a", "ab"])
    assert tokenizer.decode([2, 3, 1], mask="#") == "ab#a"
    with pytest.raises(TokenOutOfRange):
        tokenizer.decode([4])
    with pytest.raises(ShapeMismatch):
        tokenizer.decode(torch.zeros(1, 2, dtype=torch.long))


@pytest.mark.parametrize("pieces", [["a"], [REPLACEMENT, "a", "a"], [REPLACEMENT, ""]])
def test_vocabularies_with_repeats_gaps_or_no_replacement_are_refused(pieces: list[str]) -> None:
    with pytest.raises(TextError):
        PieceTokenizer(pieces)


def test_a_denoiser_of_pieces_comes_back_with_its_tokenizer(tmp_path: Path) -> None:
    model = Denoiser(DenoiserConfig(TOKENIZER.vocabulary_size, width=8, depth=1, heads=1))
    save_denoiser(model, tmp_path / "file", TOKENIZER)
    assert load_denoiser(tmp_path / "file")[1] == TOKENIZER


def test_the_text_that_is_shipped_has_chapters_in_plain_paragraphs() -> None:
    chapters = english()
    assert len(chapters) == 1_394
    assert chapters["Gen.1"].startswith("In the beginning, God created the heavens and the earth.")
    text = joined(chapters)
    assert not set("<>_&\t") & set(text)
    assert "  " not in text
