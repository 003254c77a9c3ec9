"""Words as tokens: where they stand in a text, and which others might stand there.

Legend: C tokens of the context, L positions of a block, W tokens of a word, n words to choose
from.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from pcflow_diffusion.head import Marginals

Word = tuple[int, ...]
Kind = Literal["any words", "words that begin alike", "words that end alike"]
"""Which others a word is to be told from: any, those with its first token, those with its last."""


@dataclass(frozen=True, eq=False)
class Hole:
    """A block of which one word is missing, and the words to choose from, the right one first.

    Attributes:
        row: context and block, [C + L].
        block: how many tokens a block has, L.
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
    """The words of a text, of two tokens or more.

    Args:
        tokens: the text, [N].
        vocabulary: the tokens in the order of their ids.

    Examples:
        >>> vocabulary = [" ban", "ana", "da", ".", " an"]
        >>> lexicon = Lexicon(torch.tensor([0, 1, 3, 0, 2, 1, 4, 3, 0, 1, 3]), vocabulary)
        >>> sorted(lexicon.words)
        [(0, 1), (0, 2, 1)]
        >>> list(lexicon.spans([2, 4, 1, 1, 3, 0, 1]))  # what an end cuts off is no word
        [range(1, 4)]
    """

    def __init__(self, tokens: Tensor, vocabulary: Sequence[str]) -> None:
        """Find them."""
        self._spelled = spelled(vocabulary)
        text: list[int] = tokens.tolist()
        found = (tuple(text[span.start : span.stop]) for span in self.spans(text))
        self.words = dict.fromkeys(found)
        self._like: dict[Kind, dict[tuple[object, ...], list[Word]]] = {}
        for kind in get_args(Kind):
            self._like[kind] = defaultdict(list)
            for word in self.words:
                self._like[kind][self._family(word, kind)].append(word)

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
        """So many other words, each as likely as any; None if there are not so many.

        They have as many tokens, and begin with a space if the word does. As whatever words are
        drawn could have been drawn for each of them, nothing but the text tells which is right:
        the probability that a model gives it among them is what it should be sure by.
        """
        known = [other for other in self._like[kind][self._family(word, kind)] if other != word]
        drawn = torch.randperm(len(known), generator=generator)[:count].tolist()
        return [known[i] for i in drawn] if len(drawn) == count else None

    def _family(self, word: Word, kind: Kind) -> tuple[object, ...]:
        """What words that may stand for one another have in common."""
        common = {"any words": None, "words that begin alike": word[0]}.get(kind, word[-1])
        return len(word), self._spelled[word[0]].startswith(" "), common

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
