"""Subwords: every text comes back, and tokens outside are refused."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

import pcflow as pf
from pcflow_diffusion import Denoiser, DenoiserConfig, load_denoiser, save_denoiser
from pcflow_diffusion.errors import CheckpointError, ShapeMismatch, TextError, TokenOutOfRange
from pcflow_diffusion.models.subwords import SubwordTokenizer

TEXTS = ["the cat sat on the mat, 12 cats", "the hat of the cat 2024"] * 3
TOKENIZER = SubwordTokenizer.fit(TEXTS, vocabulary_size=280)
SPACED = SubwordTokenizer.fit(["ab.\n\na b\n\n\n b \n\n", "\n\n\t  a,"] * 3, vocabulary_size=280)


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_every_text_comes_back(text: str) -> None:
    tokens = TOKENIZER.encode(text)
    assert TOKENIZER.decode(tokens) == text
    assert ((tokens >= 0) & (tokens < TOKENIZER.vocabulary_size)).all()


@settings(deadline=None)
@given(st.lists(st.sampled_from(["ab", ".", " ", "\n", "\n\n", "\u2028"]), min_size=5))
def test_paragraph_by_paragraph_comes_to_the_same_as_all_at_once(parts: list[str]) -> None:
    text = "".join(parts)
    whole = Tokenizer.from_str(SPACED.definition())
    assert SPACED.encode(text).tolist() == whole.encode(text).ids


def test_what_is_frequent_is_one_token_and_digits_are_never_joined() -> None:
    assert len(TOKENIZER.encode(" the")) == 1
    assert len(TOKENIZER.encode("2024")) == 4
    assert TOKENIZER.vocabulary_size == len(set(TOKENIZER.vocabulary)) <= 280


def test_masks_are_shown_where_they_stand() -> None:
    mask, the = TOKENIZER.mask_token_id, int(TOKENIZER.encode(" the"))
    assert TOKENIZER.decode([the, mask, the, mask]) == " the_ the_"


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(TextError, match="at least 256"):
        SubwordTokenizer.fit(TEXTS, vocabulary_size=100)
    with pytest.raises(TokenOutOfRange):
        TOKENIZER.decode([TOKENIZER.mask_token_id + 1])
    with pytest.raises(ShapeMismatch):
        TOKENIZER.decode(TOKENIZER.encode("cat")[None])


def test_a_denoiser_of_subwords_comes_back_with_its_tokenizer(tmp_path: Path) -> None:
    model = Denoiser(DenoiserConfig(TOKENIZER.vocabulary_size, width=8, depth=1, heads=1)).eval()
    save_denoiser(model, tmp_path / "file", TOKENIZER)
    loaded, tokenizer = load_denoiser(tmp_path / "file")
    text = "the cats of 2025: \u00e9"
    assert tokenizer.vocabulary == TOKENIZER.vocabulary
    assert torch.equal(tokenizer.encode(text), TOKENIZER.encode(text))
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert loaded(tokenizer.encode(text)[None]).shape[-1] == TOKENIZER.vocabulary_size
    found = pf.Container(tmp_path / "file")
    texts = {name: text for name, text in found.texts.items() if name != "subwords"}
    pf.Container.write(tmp_path / "file", found.tensors(), texts)
    with pytest.raises(CheckpointError, match="include U\\+FFFD"):
        load_denoiser(tmp_path / "file")
