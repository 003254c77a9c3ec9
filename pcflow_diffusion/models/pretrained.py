"""Masked language models of the library `transformers` as backbones, by name or folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pcflow_diffusion.errors import CheckpointError
from pcflow_diffusion.models.backbones import Backbone, dream, llada, logits_of
from pcflow_diffusion.models.progress import looked_at
from pcflow_diffusion.models.text import one_row

KINDS = ("AutoModelForMaskedLM", "AutoModelForCausalLM", "AutoModel")
"""What code of others may call a masked language model, first those that are one."""


class PretrainedTokenizer:
    """A tokenizer of `transformers`, by the vocabulary of the model that it belongs to.

    Nothing is put around a text: its tokens are cut into windows.

    Args:
        tokenizer: the tokenizer.
        vocabulary_size: V, how many tokens the model has logits for, which may be more.
        mask_token_id: the mask, which may be one of them.

    Examples:
        >>> from transformers import AutoTokenizer  # doctest: +SKIP
        >>> theirs = AutoTokenizer.from_pretrained("GSAI-ML/LLaDA-8B-Base")  # doctest: +SKIP
        >>> tokenizer = PretrainedTokenizer(theirs, 126_464, 126_336)  # doctest: +SKIP
    """

    def __init__(self, tokenizer: Any, vocabulary_size: int, mask_token_id: int) -> None:
        """Keep all three."""
        self.tokenizer = tokenizer
        self.vocabulary_size, self.mask_token_id = vocabulary_size, mask_token_id

    @property
    def vocabulary(self) -> list[str]:
        """The V tokens in the order of their ids; what the tokenizer does not know is empty."""
        by_id = {number: token for token, number in self.get_vocab().items()}
        return [by_id.get(number, "") for number in range(self.vocabulary_size)]

    def get_vocab(self) -> dict[str, int]:
        """Ids of the tokens that the tokenizer knows."""
        return dict(self.tokenizer.get_vocab())

    def encode(self, text: str) -> Tensor:
        """Token ids, long [number of tokens].

        Args:
            text: as it is; no special tokens are added.
        """
        ids = self.tokenizer(text, add_special_tokens=False, verbose=False).input_ids
        return torch.tensor(ids, dtype=torch.long)

    def decode(self, tokens: Tensor | Sequence[int], mask: str = "_") -> str:
        """The text of one row of tokens.

        Args:
            tokens: [L].
            mask: what the mask token prints as.

        Raises:
            ShapeMismatch: if `tokens` has more than one axis.
            TokenOutOfRange: if a token is outside of the vocabulary.
        """
        most = max(self.vocabulary_size, self.mask_token_id + 1)
        parts: list[list[int]] = [[]]
        for token in one_row(tokens, most):
            if token == self.mask_token_id:
                parts.append([])
            else:
                parts[-1].append(token)
        return mask.join(self.tokenizer.decode(part) for part in parts)


class Pretrained(NamedTuple):
    """A backbone, its tokenizer, and how many tokens it sees at most, if it says so.

    Examples:
        >>> name = "GSAI-ML/LLaDA-8B-Base"
        >>> model, tokenizer, most = load_pretrained(name, trust_remote_code=True)  # doctest: +SKIP
    """

    backbone: Backbone
    tokenizer: PretrainedTokenizer
    most_tokens: int | None


def load_pretrained(
    name: str,
    *,
    mask_token_id: int | None = None,
    right_shift: bool = False,
    revision: str | None = None,
    trust_remote_code: bool = False,
    device: torch.device | str | None = None,
) -> Pretrained:
    """A masked language model of `transformers`, and its tokenizer.

    Args:
        name: a folder, or a name of the hub.
        mask_token_id: by default the one of the model's configuration or of the tokenizer.
        right_shift: logits at position i are about token i + 1, as those of Dream.
        revision: a branch, tag or commit of the hub.
        trust_remote_code: run the code that comes with the model. Without it only models that
            `transformers` knows itself are loaded.
        device: where the model lives.

    Returns:
        The model as a backbone, and its tokenizer.

    Raises:
        CheckpointError: if nobody says which token is the mask.
        ImportError: if `transformers` is not installed. Its own errors are passed on.

    Examples:
        >>> name = "GSAI-ML/LLaDA-8B-Base"  # 16 GB, with code of its own
        >>> model, tokenizer, _ = load_pretrained(name, trust_remote_code=True)  # doctest: +SKIP
    """
    import transformers

    how = {"revision": revision, "trust_remote_code": trust_remote_code}
    config = transformers.AutoConfig.from_pretrained(name, **how)
    kind = _kind(config) if trust_remote_code else KINDS[0]
    with _bars_for_who_looks(transformers.utils.logging):
        model = getattr(transformers, kind).from_pretrained(name, **how).eval().to(device)
    tokenizer = transformers.AutoTokenizer.from_pretrained(name, **how)
    known = (mask_token_id, getattr(config, "mask_token_id", None), tokenizer.mask_token_id)
    mask = next((token for token in known if token is not None), None)
    if mask is None:
        raise CheckpointError(f"{name} does not say which token is the mask: mask_token_id=")
    model.requires_grad_(False)
    backbone = dream(model) if right_shift else llada(model)
    read = PretrainedTokenizer(tokenizer, _width(model, mask), mask)
    return Pretrained(backbone, read, _most_tokens(config, tokenizer))


@contextmanager
def _bars_for_who_looks(bars: Any) -> Iterator[None]:
    """Without the bars of `transformers` where ours would not be shown."""
    hidden = bars.is_progress_bar_enabled() and not looked_at()
    if hidden:
        bars.disable_progress_bar()
    try:
        yield
    finally:
        if hidden:
            bars.enable_progress_bar()


def _kind(config: Any) -> str:
    """As which kind the model comes with code of its own, if it does."""
    own = getattr(config, "auto_map", None) or {}
    return next((kind for kind in KINDS if kind in own), KINDS[0])


def _most_tokens(config: Any, tokenizer: Any) -> int | None:
    """How many it sees: positions may be more than are used, and a tokenizer may not say."""
    positions = getattr(config, "max_position_embeddings", None)
    return None if positions is None else min(positions, tokenizer.model_max_length)


@torch.no_grad()
def _width(model: Any, mask: int) -> int:
    """How many tokens it has logits for."""
    return logits_of(model, torch.tensor([[mask]], device=model.device)).shape[-1]
