"""Characters as tokens, a text in two parts, and the windows cut from it.

The default text is that of `english`. Many of its chapters repeat whole paragraphs of others, so a
split by chapter alone would put some of the held-out text into the training text as well; every
paragraph is therefore kept once, and the held-out side keeps it.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

import pcflow as pf
from pcflow_diffusion.checks import check_count, check_kind, check_tokens
from pcflow_diffusion.errors import ShapeMismatch, TextError
from pcflow_diffusion.models.english import english

REPLACEMENT = "\ufffd"
CONTEXT = 96
"""How many tokens the experiments show before a block."""

BLOCK = 32
"""How many tokens a block of the experiments has."""


@dataclass(frozen=True)
class Text:
    """A text in two disjoint parts.

    Attributes:
        train: the part to learn from.
        held_out: the part to judge on.

    Examples:
        >>> Text(train="It was the best of times.", held_out="It was the worst.").held_out
        'It was the worst.'
    """

    train: str
    held_out: str


@runtime_checkable
class Tokenizer(Protocol):
    """What makes tokens of text: a `CharacterTokenizer`, `PieceTokenizer` or `SubwordTokenizer`."""

    @property
    def vocabulary(self) -> list[str]:
        """The V tokens in the order of their ids."""
        ...

    @property
    def vocabulary_size(self) -> int:
        """Number of real tokens V."""
        ...

    @property
    def mask_token_id(self) -> int:
        """The id after the last real token."""
        ...

    def encode(self, text: str) -> Tensor:
        """Token ids, long [number of tokens].

        Args:
            text: any.
        """
        ...

    def decode(self, tokens: Tensor | Sequence[int], mask: str = "_") -> str:
        """The text of one row of tokens.

        Args:
            tokens: [L].
            mask: what the mask token prints as.
        """
        ...


@dataclass(frozen=True)
class CharacterTokenizer:
    r"""Characters to token ids; a character outside the vocabulary becomes U+FFFD.

    Args:
        characters: the vocabulary; token `i` is `characters[i]`. Holds U+FFFD once, no repeats.

    Raises:
        TextError: if a character repeats or U+FFFD is missing.
        TypeMismatch: if it is no string.

    Examples:
        >>> tokenizer = CharacterTokenizer.fit("banana!", minimum_count=2)
        >>> tokenizer.characters
        'an\ufffd'
        >>> tokenizer.decode(tokenizer.encode("nab"))
        'na\ufffd'
    """

    characters: str

    def __post_init__(self) -> None:
        """Check the vocabulary."""
        check_kind("characters", self.characters, str)
        if len(set(self.characters)) != len(self.characters) or REPLACEMENT not in self.characters:
            raise TextError("characters must be distinct and include U+FFFD")

    @classmethod
    def fit(cls, text: str, minimum_count: int = 5) -> CharacterTokenizer:
        """The sorted characters that occur often enough, and U+FFFD.

        Args:
            text: what to learn from.
            minimum_count: how often.
        """
        frequent = {c for c, n in Counter(text).items() if n >= minimum_count}
        return cls("".join(sorted(frequent | {REPLACEMENT})))

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {c: i for i, c in enumerate(self.characters)}

    @property
    def vocabulary(self) -> list[str]:
        """The V tokens in the order of their ids."""
        return list(self.characters)

    @property
    def vocabulary_size(self) -> int:
        """Number of real tokens V; the mask token of a `Denoiser` is V."""
        return len(self.characters)

    @property
    def mask_token_id(self) -> int:
        """The id after the last real token."""
        return len(self.characters)

    def encode(self, text: str) -> Tensor:
        """Token ids, long [len(text)].

        Args:
            text: characters that are not known become the replacement, U+FFFD.
        """
        unknown = self._ids[REPLACEMENT]
        return torch.tensor([self._ids.get(c, unknown) for c in text], dtype=torch.long)

    def decode(self, tokens: Tensor | Sequence[int], mask: str = "_") -> str:
        """The text of one row of tokens.

        Args:
            tokens: [L].
            mask: what the mask token prints as.

        Raises:
            ShapeMismatch: if `tokens` has more than one axis.
            TokenOutOfRange: if a token is neither in the vocabulary nor the mask token.
        """
        symbols = [*self.characters, mask]
        return "".join(symbols[token] for token in one_row(tokens, len(symbols)))


def one_row(tokens: Tensor | Sequence[int], size: int) -> list[int]:
    """The tokens of one row, each below `size`.

    Raises:
        ShapeMismatch: if they have more than one axis.
        TypeMismatch: if they are no integers.
        TokenOutOfRange: if one is outside.
    """
    row = tokens if isinstance(tokens, Tensor) else torch.tensor(tokens, dtype=torch.long)
    if row.ndim != 1:
        raise ShapeMismatch(f"decode takes one row of tokens, got shape {tuple(row.shape)}")
    check_tokens("tokens", row, size)
    found: list[int] = row.tolist()
    return found


def is_held_out(chapter: str) -> bool:
    """Whether a chapter belongs to the held-out tenth: by its name only, alike on every machine.

    Examples:
        >>> is_held_out("Gen.1"), is_held_out("1Chr.1")
        (False, True)
    """
    return zlib.crc32(chapter.encode()) % 10 == 0


def split_chapters(chapters: Mapping[str, str]) -> Text:
    r"""Split chapters by the hash of their names and keep every paragraph once.

    Paragraphs that differ in white space only count as equal. The held-out part is collected first,
    so no paragraph of it is in the training part. Chapters are joined in the order of their names.

    Examples:
        >>> split_chapters({"power": "a\n\nb", "lambda": "b\n\nc\n\nc"})
        Text(train='c', held_out='a\n\nb')
    """
    seen: set[str] = set()
    names = sorted(chapters)
    held_out = _join((chapters[name] for name in names if is_held_out(name)), seen)
    train = _join((chapters[name] for name in names if not is_held_out(name)), seen)
    return Text(train, held_out)


def _join(texts: Iterable[str], seen: set[str]) -> str:
    """The paragraphs not in `seen`, which they join."""
    kept = []
    for paragraph in (p for text in texts for p in re.split(r"\n\s*\n", text.strip())):
        key = " ".join(paragraph.split())
        if key and key not in seen:
            seen.add(key)
            kept.append(paragraph.strip("\n"))
    return "\n\n".join(kept)


def load_text(path: str | Path | None = None) -> Text:
    """The text of a UTF-8 file, or by default the one that the package carries.

    Args:
        path: a file, whose last tenth is held out; None for `english`, split by chapter.

    Returns:
        The text.

    Raises:
        TextError: if the file is not UTF-8, or holds fewer than ten characters.
        OSError: if there is no such file, or it is a folder, a pipe or a device.

    Examples:
        >>> len(load_text().train) > 5 * len(load_text().held_out) > 0
        True
    """
    if path is None:
        return split_chapters(english())
    return _split_by_position(_read(Path(path)))


def _read(path: Path) -> str:
    """The text of a file, with universal newlines."""
    try:
        with TextIOWrapper(BytesIO(pf.read_bytes(path)), encoding="utf-8") as text:
            return text.read()
    except UnicodeDecodeError as error:
        raise TextError(f"{path} is not UTF-8 text: byte {error.start}") from error


def _split_by_position(text: str) -> Text:
    """The last tenth is held out."""
    if len(text) < 10:
        raise TextError(f"a text needs at least 10 characters to be split, got {len(text)}")
    cut = len(text) - len(text) // 10
    return Text(text[:cut], text[cut:])


def windows(tokens: Tensor, length: int, stride: int) -> Tensor:
    """All windows of `length` tokens that start at a multiple of `stride`.

    Args:
        tokens: [N].
        length: tokens per window, L.
        stride: distance between the starts of two windows.

    Returns:
        [1 + (N - L) // stride, L]; a view, so do not write to it.

    Raises:
        ShapeMismatch: if `tokens` is not one row.
        TextError: if the text is shorter than one window.
        SettingError: if length or stride is not positive.

    Examples:
        >>> windows(torch.arange(5), length=3, stride=2).tolist()
        [[0, 1, 2], [2, 3, 4]]
    """
    if tokens.ndim != 1:
        raise ShapeMismatch(f"windows takes one row of tokens, got shape {tuple(tokens.shape)}")
    check_count("length", length)
    check_count("stride", stride)
    if len(tokens) < length:
        raise TextError(f"a window of {length} tokens does not fit in a text of {len(tokens)}")
    return tokens.unfold(0, length, stride)  # [windows, L]


def blocks(
    tokens: Tensor, count: int | None = None, context: int = CONTEXT, block: int = BLOCK
) -> Tensor:
    """Windows of `context` tokens followed by a block; no two blocks overlap.

    Args:
        tokens: [N].
        count: how many, spread evenly over the text; None for all.
        context: visible tokens before the block.
        block: tokens in the block.

    Returns:
        [count, context + block]; the block is the last `block` columns.

    Raises:
        TextError: if the text holds fewer blocks than asked for.

    Examples:
        >>> blocks(torch.arange(9), context=2, block=3).tolist()
        [[0, 1, 2, 3, 4], [3, 4, 5, 6, 7]]
    """
    found = windows(tokens, context + block, block)
    if count is None:
        return found
    if not 1 <= count <= len(found):
        raise TextError(f"asked for {count} blocks, the text holds {len(found)}")
    return found[torch.arange(count) * len(found) // count]
