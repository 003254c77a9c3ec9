"""Words as tokens: where they stand in a text, and which others might stand there.

Legend: C tokens of the context, L positions of a block, W tokens of a word, n words to choose
from.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pcflow_diffusion.head import Marginals

Word = tuple[int, ...]
Kind = Literal["any words", "words that begin or end alike"]
"""Which others a word is to be told from: any, or those with its first or its last token."""


@dataclass(frozen=True, eq=False)
class Hole:
    """A block of which one word is missing, and the words to choose from, the right one first.

    Attributes:
        row: context and block, [C + L].
        block: L.
        span: where in the block the word is.
        words: [n, W].
    """

    row: Tensor
    block: int
    span: range
    words: Tensor

    def masked(self, mask_token_id: int) -> Tensor:
        """The block [L] without the word."""
        x = self.row[-self.block :].clone()
        x[self.span.start : self.span.stop] = mask_token_id
        return x

    def product(self, said: Marginals) -> Tensor:
        """Log-probabilities [n] (nats) of the words, every token by itself."""
        log_m = said.log_m[0, self.span.start : self.span.stop]  # [W, V]
        return log_m.gather(1, self.words.t()).sum(dim=0)


class Lexicon:
    """How often every word of a text occurs, of two tokens or more.

    Args:
        tokens: the text, [N].
        vocabulary: the tokens in the order of their ids.

    Examples:
        >>> vocabulary = [" ban", "ana", "da", ".", " an"]
        >>> lexicon = Lexicon(torch.tensor([0, 1, 3, 0, 2, 1, 4, 3, 0, 1, 3]), vocabulary)
        >>> lexicon.counts[2]
        Counter({(0, 1): 1})
        >>> list(lexicon.spans([2, 4, 1, 1, 3, 0, 1]))  # what an end cuts off is no word
        [range(1, 4)]
    """

    def __init__(self, tokens: Tensor, vocabulary: Sequence[str]) -> None:
        """Count."""
        self._spelled = spelled(vocabulary)
        self.counts: dict[int, Counter[Word]] = defaultdict(Counter)
        text: list[int] = tokens.tolist()
        for span in self.spans(text):
            self.counts[len(span)][tuple(text[span.start : span.stop])] += 1

    def spans(self, text: Sequence[int]) -> Iterator[range]:
        """Where words of several tokens stand in a text; what its ends may cut off is none."""
        start: int | None = 0
        for place, token in enumerate(text):
            letters = self._spelled[token]
            if letters.isalpha() and start is not None:
                continue
            if start and place - start > 1:
                yield range(start, place)
            begins = letters.removeprefix(" ").isalpha()
            start = place if begins else None

    def others(
        self, word: Word, kind: Kind, count: int, generator: torch.Generator
    ) -> list[Word] | None:
        """So many other words of as many tokens, drawn as often as they occur, each once.

        They begin with a space if the word does, and without if not. None if there are not so many.
        """
        known = [other for other in self.counts[len(word)] if self._fits(word, other, kind)]
        if len(known) < count:
            return None
        weights = torch.tensor([float(self.counts[len(word)][other]) for other in known])
        drawn = weights.multinomial(count, generator=generator)
        return [known[i] for i in drawn.tolist()]

    def _fits(self, word: Word, other: Word, kind: Kind) -> bool:
        """Whether another word is one to be told from."""
        alike = kind == "any words" or word[0] == other[0] or word[-1] == other[-1]
        spaces = [self._spelled[first[0]].startswith(" ") for first in (word, other)]
        return other != word and alike and spaces[0] == spaces[1]

    def holes(
        self, rows: Tensor, block: int, kind: Kind, count: int, generator: torch.Generator
    ) -> Iterator[Hole]:
        """Every word in the blocks of rows [N, C + L] that `count` - 1 others can be found for."""
        for row in rows.long():
            before = len(row) - block
            text = row.tolist()
            for span in self.spans(text):
                word = tuple(text[span.start : span.stop])
                if span.start < before:
                    continue
                others = self.others(word, kind, count - 1, generator)
                if others is not None:
                    inside = range(span.start - before, span.stop - before)
                    yield Hole(row, block, inside, torch.tensor([word, *others]))


def spelled(vocabulary: Sequence[str]) -> list[str]:
    r"""Tokens with the space that they stand for, as byte pairs, SentencePiece and WordPiece do.

    Examples:
        >>> spelled(["\u0120the", "\u2581the", "the"])
        [' the', ' the', 'the']
        >>> spelled(["the", "##se"])
        [' the', 'se']
    """
    if any(token.startswith("##") for token in vocabulary):
        return [t.removeprefix("##") if t.startswith("##") else f" {t}" for t in vocabulary]
    return [token.replace("\u0120", " ").replace("\u2581", " ") for token in vocabulary]
