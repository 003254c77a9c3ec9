"""Byte-pair encoding, by the `tokenizers` package (extra: `pcflow[subwords]`)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor

from pcflow_diffusion.errors import TextError
from pcflow_diffusion.models.text import one_row

PARAGRAPH = re.compile(r"(?<=\S)(?=\n\n)")
"""Where one ends; the empty line begins what follows."""


class SubwordTokenizer:
    """Byte-pair encoding (Sennrich et al. 2016) over bytes, so that every text has tokens.

    Digits are tokens of their own, so that numbers are spelled alike wherever they occur.

    Args:
        tokenizer: of the `tokenizers` package.

    Examples:
        >>> tokenizer = SubwordTokenizer.fit(["banana bandana"], vocabulary_size=260)
        >>> tokenizer.decode(tokenizer.encode("bananas 1"))
        'bananas 1'
        >>> len(tokenizer.encode("banana")) < 6
        True
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Keep it."""
        self._tokenizer = tokenizer

    @classmethod
    def fit(cls, texts: Iterable[str], vocabulary_size: int) -> SubwordTokenizer:
        """Learn merges until the vocabulary has that many tokens, or no pair occurs twice.

        Raises:
            TextError: if the vocabulary cannot hold the 256 bytes.
        """
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        if vocabulary_size < len(alphabet):
            raise TextError(f"vocabulary_size must be at least 256, got {vocabulary_size}")
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
        )
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocabulary_size,
            min_frequency=2,
            initial_alphabet=alphabet,
            show_progress=False,
        )
        tokenizer.train_from_iterator(texts, trainer)
        return cls(tokenizer)

    @classmethod
    def from_definition(cls, text: str) -> SubwordTokenizer:
        """The tokenizer that `definition` tells of.

        Raises:
            TextError: if it is no such text, or ids are not 0, 1, ..., V - 1.
        """
        try:
            found = Tokenizer.from_str(text)
        except Exception as error:  # the package has no errors of its own
            raise TextError(f"not a tokenizer of subwords ({error})") from error
        ids = sorted(found.get_vocab().values())
        if ids != list(range(len(ids))):
            raise TextError(f"ids of subwords are not 0, ..., {len(ids) - 1}")
        return cls(found)

    def definition(self) -> str:
        """All that it is, tokens and merges, as JSON."""
        return str(self._tokenizer.to_str())

    @property
    def vocabulary_size(self) -> int:
        """Number of real tokens V."""
        return int(self._tokenizer.get_vocab_size())

    @property
    def mask_token_id(self) -> int:
        """The id after the last real token."""
        return self.vocabulary_size

    @property
    def vocabulary(self) -> list[str]:
        """The V tokens in the order of their ids, bytes written as printable characters."""
        found = self._tokenizer.get_vocab()
        return sorted(found, key=found.__getitem__)

    def encode(self, text: str) -> Tensor:
        """Token ids, long [number of tokens].

        Paragraphs are encoded one by one, as a long text at once would need much memory. No token
        goes beyond a paragraph's last letter or mark: it comes to the same.
        """
        parts = (self._tokenizer.encode(part).ids for part in PARAGRAPH.split(text))
        return torch.cat([torch.tensor(ids, dtype=torch.long) for ids in parts])

    def decode(self, tokens: Tensor | Sequence[int], mask: str = "_") -> str:
        """The text of one row of tokens; the mask token prints as `mask`.

        Raises:
            ShapeMismatch: if `tokens` has more than one axis.
            TokenOutOfRange: if a token is neither in the vocabulary nor the mask token.
        """
        parts: list[list[int]] = [[]]
        for token in one_row(tokens, self.mask_token_id + 1):
            if token == self.mask_token_id:
                parts.append([])
            else:
                parts[-1].append(token)
        return mask.join(self._tokenizer.decode(part) for part in parts)
