"""Laws of the tokenizer, the split and the windows."""

import re
from pathlib import Path

import pytest
import torch

from pcflow import SettingError
from pcflow_diffusion.errors import ShapeMismatch, TextError, TokenOutOfRange
from pcflow_diffusion.models import BLOCK, CONTEXT, CharacterTokenizer, blocks, load_text, windows
from pcflow_diffusion.models.text import REPLACEMENT, is_held_out, split_chapters


def paragraphs(text: str) -> set[str]:
    """The paragraphs of a text, with white space made even."""
    return {" ".join(p.split()) for p in re.split(r"\n\s*\n", text) if p.strip()}


def test_known_characters_make_the_round_trip() -> None:
    text = load_text().train
    tokenizer = CharacterTokenizer.fit(text, minimum_count=1)
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert int(tokenizer.encode(text).max()) < tokenizer.vocabulary_size


def test_vocabulary_is_sorted_and_holds_what_is_frequent() -> None:
    tokenizer = CharacterTokenizer.fit("zzzzyyyxx", minimum_count=3)
    assert tokenizer.characters == "yz" + REPLACEMENT
    assert tokenizer.vocabulary_size == tokenizer.mask_token_id == 3


def test_unknown_characters_become_the_replacement() -> None:
    tokenizer = CharacterTokenizer.fit("aabb", minimum_count=2)
    assert tokenizer.encode("aξb").tolist() == [0, 2, 1]
    assert tokenizer.decode(tokenizer.encode("aξb")) == f"a{REPLACEMENT}b"
    assert tokenizer.encode("").tolist() == []


def test_decode_prints_the_mask_and_refuses_the_rest() -> None:
    tokenizer = CharacterTokenizer.fit("aabb", minimum_count=2)
    assert tokenizer.decode([0, 3, 1]) == "a_b"
    assert tokenizer.decode(torch.tensor([3]), mask="#") == "#"
    for bad in (-1, 4):
        with pytest.raises(TokenOutOfRange):
            tokenizer.decode([bad])
    with pytest.raises(ShapeMismatch):
        tokenizer.decode(torch.zeros(1, 2, dtype=torch.long))


@pytest.mark.parametrize("characters", ["ab", "aab" + REPLACEMENT])
def test_vocabularies_with_repeats_or_no_replacement_are_refused(characters: str) -> None:
    with pytest.raises(TextError):
        CharacterTokenizer(characters)


def test_which_chapters_are_held_out_never_changes() -> None:
    names = ["power", "floating", "formatstrings", "1Chr.1", "Dan.1", "2Sam.22"]
    assert all(map(is_held_out, names))
    assert not any(map(is_held_out, ["lambda", "strings", "types", "Gen.1", "Ps.23"]))


def test_no_paragraph_of_the_default_text_is_in_both_parts_or_twice_in_one() -> None:
    text = load_text()
    assert not paragraphs(text.train) & paragraphs(text.held_out)
    for part in (text.train, text.held_out):
        found = [" ".join(p.split()) for p in re.split(r"\n\s*\n", part)]
        assert len(found) == len(set(found)) > 50


def test_the_default_text_is_mostly_for_training_and_every_call_gives_it_again() -> None:
    text = load_text()
    share = len(text.held_out) / len(text.train + text.held_out)
    assert 0.02 < share < 0.3
    assert load_text() == text


def test_a_new_chapter_moves_no_other_and_order_does_not_matter() -> None:
    chapters = {"power": "p", "lambda": "l", "calls": "c"}
    assert split_chapters(chapters) == split_chapters(dict(reversed(chapters.items())))
    assert split_chapters(chapters).held_out == "p"
    more = split_chapters({**chapters, "del": "d"})
    assert (more.train, more.held_out) == ("c\n\nd\n\nl", "p")


def test_shared_paragraphs_go_to_the_held_out_part_whatever_their_indentation() -> None:
    chapters = {"power": "one\n  two\n\nthree", "calls": "  one two\n \nfour\n\nfour"}
    text = split_chapters(chapters)
    assert (text.train, text.held_out) == ("four", "one\n  two\n\nthree")


def test_a_file_is_split_by_position(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("0123456789" * 3, encoding="utf-8")
    text = load_text(path)
    assert text.train + text.held_out == "0123456789" * 3
    assert text.held_out == "789"


def test_files_that_cannot_be_split_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes(b"\xff" * 50)
    with pytest.raises(TextError, match="UTF-8"):
        load_text(path)
    path.write_text("too short")
    with pytest.raises(TextError, match="at least 10"):
        load_text(path)
    with pytest.raises(FileNotFoundError):
        load_text(tmp_path / "absent")


@pytest.mark.parametrize(("length", "stride"), [(1, 1), (4, 2), (5, 5), (3, 7), (20, 1)])
def test_windows_are_the_slices_they_should_be(length: int, stride: int) -> None:
    tokens = torch.arange(100, 120)
    starts = range(0, 20 - length + 1, stride)
    expected = [tokens[s : s + length].tolist() for s in starts]
    assert windows(tokens, length, stride).tolist() == expected


def test_blocks_tile_the_text_behind_their_context() -> None:
    tokens = torch.arange(1000)
    rows = blocks(tokens)
    assert rows.shape == (1 + (1000 - CONTEXT - BLOCK) // BLOCK, CONTEXT + BLOCK)
    assert torch.equal(rows[:, -BLOCK:].flatten(), tokens[CONTEXT : CONTEXT + len(rows) * BLOCK])
    assert bool((rows.diff(dim=1) == 1).all())


@pytest.mark.parametrize("count", [1, 7, 28])
def test_a_few_blocks_are_distinct_and_spread(count: int) -> None:
    rows = blocks(torch.arange(1000), count)
    assert len(rows) == len(set(rows[:, 0].tolist())) == count
    starts = rows[:, 0] / BLOCK  # of 28 blocks
    assert float((starts - torch.arange(count) * 28 / count).abs().max()) < 1


def test_windows_and_blocks_that_do_not_fit_are_refused() -> None:
    tokens = torch.arange(200)
    with pytest.raises(TextError, match="201 tokens does not fit"):
        windows(tokens, 201, 1)
    with pytest.raises(SettingError, match="stride"):
        windows(tokens, 3, 0)
    with pytest.raises(ShapeMismatch):
        windows(tokens[None], 3, 1)
    for count in (0, 4):
        with pytest.raises(TextError, match="the text holds 3"):
            blocks(tokens, count)
