"""`Denoiser`, a small bidirectional transformer to run on a CPU, and its files (no pickle).

Tensor letters: B batch, L positions, V categories (real tokens).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from pcflow_diffusion.checks import check_flags, check_kind
from pcflow_diffusion.models.text import Tokenizer
from pcflow_diffusion.models.transformer import Transformer, TransformerConfig
from pcflow_diffusion.models.weights import load_weights, save_weights

FORMAT = "pcflow_diffusion.denoiser.1"

ROUND = 64
"""What the head reads is filled up to a multiple of it, as a CPU makes a kernel for every size."""


@dataclass(frozen=True)
class DenoiserConfig(TransformerConfig):
    """Shape of a `Denoiser`.

    Arguments and errors are those of `TransformerConfig`; the mask token is V.

    Examples:
        >>> DenoiserConfig(vocabulary_size=26).mask_token_id
        26
    """

    @property
    def mask_token_id(self) -> int:
        """The id after the last real token."""
        return self.vocabulary_size


class Denoiser(Transformer):
    """A small bidirectional transformer with rotary positions and short convolutions.

    Called with tokens [B, L], real ones or the mask, it returns logits [B, L, V] over the real
    ones; a `Backbone`.

    Args:
        config: its shape. The caller's random state gives the initial weights.

    Examples:
        >>> import torch
        >>> model = Denoiser(DenoiserConfig(vocabulary_size=7, width=16, depth=1, heads=2))
        >>> model(torch.tensor([[7, 3, 7]])).shape  # 7 is the mask
        torch.Size([1, 3, 7])
    """

    config: DenoiserConfig

    def __init__(self, config: DenoiserConfig) -> None:
        """Build the layers and draw their weights."""
        super().__init__(config, causal=False)

    def forward(self, tokens: Tensor, asked: Tensor | None = None) -> Tensor:
        """Logits over the V real tokens, at every position, or at some.

        Args:
            tokens: long [B, L], real tokens or the mask; any L.
            asked: which positions, bool [B, L]; all by default. In training most of the time would
                go to logits that nobody reads.

        Returns:
            [B, L, V]; of n positions that are asked for [n, V], in their order.

        Raises:
            ShapeMismatch: if `tokens` is not [B, L], or `asked` not of that shape.
            TypeMismatch: if tokens are no integers, or `asked` says neither yes nor no.
            TokenOutOfRange: if a token has no embedding.
        """
        if asked is None:
            return super().forward(tokens)
        found = self.read(tokens)[check_flags("asked", asked, tokens)]  # [n, W]
        rounded = functional.pad(found, (0, 0, 0, -len(found) % ROUND))
        return torch.as_tensor(self.head(rounded))[: len(found)]

    @property
    def mask_token_id(self) -> int:
        """The id of the mask, V."""
        return self.config.mask_token_id


def save_denoiser(model: Denoiser, path: str | Path, tokenizer: Tokenizer) -> None:
    """Write weights (half precision), configuration and tokenizer to one safetensors file.

    The file is replaced in one step: a reader sees the old one or the new one.

    Args:
        model: the denoiser.
        path: where to; its directory must exist.
        tokenizer: what makes tokens of text, V of them.

    Raises:
        CheckpointError: if the tokenizer does not have V tokens, or half precision cannot hold a
            weight.
        TypeMismatch: if it is no tokenizer, or `model` no denoiser.

    Examples:
        >>> model = Denoiser(DenoiserConfig(vocabulary_size=3, width=8, depth=1, heads=1))
        >>> import tempfile
        >>> from pcflow_diffusion.models import CharacterTokenizer
        >>> path = Path(tempfile.mkdtemp()) / "tiny.safetensors"
        >>> save_denoiser(model, path, CharacterTokenizer("ab\ufffd"))
        >>> _, tokenizer = load_denoiser(path)
        >>> tokenizer.decode(tokenizer.encode("abba"))
        'abba'
    """
    check_kind("model", model, Denoiser)
    save_weights(model, path, tokenizer, FORMAT)


def load_denoiser(path: str | Path) -> tuple[Denoiser, Tokenizer]:
    """Read a file of `save_denoiser`; nothing in it is executed.

    Args:
        path: the file.

    Returns:
        The denoiser in float32 and evaluation mode, and its tokenizer.

    Raises:
        CheckpointError: if the file is truncated, not of this format, or contradicts itself, or a
            weight is NaN or infinite.
        ImportError: if its tokens are subwords and `pcflow[subwords]` is not installed.
        OSError: if there is no such file, or it is no file that can be read.

    Examples:
        >>> import tempfile
        >>> from pcflow_diffusion.models import CharacterTokenizer
        >>> model = Denoiser(DenoiserConfig(vocabulary_size=3, width=8, depth=1, heads=1))
        >>> path = Path(tempfile.mkdtemp()) / "tiny.safetensors"
        >>> save_denoiser(model, path, CharacterTokenizer("ab\ufffd"))
        >>> model, tokenizer = load_denoiser(path)
        >>> model(tokenizer.encode("abba").unsqueeze(0)).shape
        torch.Size([1, 4, 3])
    """
    return load_weights(path, FORMAT, DenoiserConfig, Denoiser)
