"""Pieces of words as tokens, in plain Python.

Merges choose the pieces (Sennrich et al. 2016); a word is then cut greedily, longest piece first,
so that the list of pieces is all that a tokenizer is.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from pcflow_diffusion.errors import TextError
from pcflow_diffusion.models.text import REPLACEMENT, CharacterTokenizer, one_row

WORD = re.compile(r" ?[^\W\d_]+| ?\d| ?[^\w\s]|\s+|_")
"""What no piece goes beyond: letters, a digit or a mark with the space before it; white space."""


@dataclass(frozen=True)
class PieceTokenizer:
    r"""Pieces of words to token ids; a character that is no piece becomes U+FFFD.

    Args:
        vocabulary: token `i` is `vocabulary[i]`. Holds U+FFFD, no repeats, nothing empty.

    Raises:
        TextError: if a piece repeats or is empty, or U+FFFD is missing.

    Examples:
        >>> tokenizer = PieceTokenizer.fit("bananas, bandanas", 10, minimum_count=1)
        >>> tokenizer.vocabulary[-2:]
        ['an', 'ban']
        >>> tokenizer.decode(tokenizer.encode("banana!"))
        'banana\ufffd'
    """

    vocabulary: list[str]

    def __post_init__(self) -> None:
        """Check the vocabulary."""
        distinct = set(self.vocabulary)
        if len(distinct) != len(self.vocabulary) or "" in distinct or REPLACEMENT not in distinct:
            raise TextError("pieces must be distinct, not empty, and include U+FFFD")

    @classmethod
    def fit(cls, text: str, vocabulary_size: int, minimum_count: int = 5) -> PieceTokenizer:
        """The frequent characters, and merges of neighbours.

        Args:
            text: what to learn from.
            vocabulary_size: how many pieces at most; fewer if no merge is left.
            minimum_count: how often a character must occur to be one of them.

        Raises:
            TextError: if the vocabulary cannot hold the characters.
        """
        pieces = dict.fromkeys(CharacterTokenizer.fit(text, minimum_count).characters)
        if vocabulary_size < len(pieces):
            raise TextError(f"vocabulary_size must be at least {len(pieces)}")
        for piece in _merges(Counter(WORD.findall(text))):
            if len(pieces) == vocabulary_size:
                break
            pieces[piece] = None
        return cls(list(pieces))

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {piece: i for i, piece in enumerate(self.vocabulary)}

    @cached_property
    def _longest(self) -> int:
        return max(map(len, self.vocabulary))

    @property
    def vocabulary_size(self) -> int:
        """Number of real tokens V; the mask token of a `Denoiser` is V."""
        return len(self.vocabulary)

    @property
    def mask_token_id(self) -> int:
        """The id after the last real token."""
        return len(self.vocabulary)

    def encode(self, text: str) -> Tensor:
        """Token ids, long [number of pieces].

        Args:
            text: characters that are not known become the replacement, U+FFFD.
        """
        words = WORD.findall(text)
        cut = {word: list(self._cut(word)) for word in set(words)}
        return torch.tensor([i for word in words for i in cut[word]], dtype=torch.long)

    def _cut(self, word: str) -> Iterator[int]:
        """The ids of the longest piece at the start, of the longest after it, and so on."""
        start = 0
        while start < len(word):
            ends = range(min(len(word), start + self._longest), start, -1)
            end = next((end for end in ends if word[start:end] in self._ids), start + 1)
            yield self._ids.get(word[start:end], self._ids[REPLACEMENT])
            start = end

    def decode(self, tokens: Tensor | Sequence[int], mask: str = "_") -> str:
        """The text of one row of tokens.

        Args:
            tokens: [L].
            mask: what the mask token prints as.

        Raises:
            ShapeMismatch: if `tokens` has more than one axis.
            TokenOutOfRange: if a token is neither in the vocabulary nor the mask token.
        """
        pieces = [*self.vocabulary, mask]
        return "".join(pieces[token] for token in one_row(tokens, len(pieces)))


def _merges(words: Mapping[str, int]) -> Iterator[str]:
    """The most frequent pair of neighbours, joined in all words; then the next one."""
    cut, counts = [list(word) for word in words], list(words.values())
    pairs, places = Counter[tuple[str, str]](), defaultdict[tuple[str, str], set[int]](set)

    def count(place: int, sign: int) -> None:
        for pair in zip(cut[place], cut[place][1:], strict=False):
            pairs[pair] += sign * counts[place]
            places[pair].add(place)

    for place in range(len(cut)):
        count(place, 1)
    while pairs:
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        if pairs[best] < 2:
            return
        for place in tuple(places[best]):
            count(place, -1)
            cut[place] = _joined(cut[place], best)
            count(place, 1)
        yield "".join(best)


def _joined(pieces: Sequence[str], pair: tuple[str, str]) -> list[str]:
    """The pieces with every occurrence of the pair made one."""
    found: list[str] = []
    for piece in pieces:
        if found and (found[-1], piece) == pair:
            found[-1] += piece
        else:
            found.append(piece)
    return found
