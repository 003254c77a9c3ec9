"""A small transformer with short convolutions, which `Denoiser` and `Judge` share.

Tensor letters: B batch, L positions, V categories (real tokens), W width, H heads.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from pcflow import SettingError
from pcflow_diffusion.checks import check_count, check_rows, check_tokens
from pcflow_diffusion.errors import ShapeMismatch


@dataclass(frozen=True)
class TransformerConfig:
    """Shape of a transformer.

    Args:
        vocabulary_size: number of real tokens V.
        width: channels of a token, divisible by 2 * heads.
        depth: number of blocks.
        heads: attention heads.
        kernel: odd length of the depthwise convolution.
        dropout: share of each block's update that is dropped in training.

    Raises:
        SettingError: if a number is out of range.
        ShapeMismatch: if width and heads do not fit.

    Examples:
        >>> TransformerConfig(vocabulary_size=26).depth
        4
    """

    vocabulary_size: int
    width: int = 192
    depth: int = 4
    heads: int = 4
    kernel: int = 5
    dropout: float = 0.1

    def __post_init__(self) -> None:
        """Check that the numbers fit together."""
        for name in ("vocabulary_size", "width", "depth", "heads", "kernel"):
            check_count(name, getattr(self, name))
        SettingError.check("dropout", self.dropout, "in [0, 1)", lambda share: 0 <= share < 1)
        SettingError.check("kernel", self.kernel, "odd", lambda size: size % 2 == 1)
        if self.width % (2 * self.heads):
            raise ShapeMismatch(f"width={self.width} is not divisible by 2 * heads={self.heads}")


class Transformer(nn.Module):
    """Tokens to logits; one id beyond the V real tokens has an embedding, too.

    Each block updates the tokens three times: a depthwise convolution over neighbours, attention
    with rotary positions, a GELU MLP; all read normalised tokens and add to them. On characters the
    convolution matters: without it a model of this size stays near the unigram distribution for
    thousands of steps.

    Args:
        config: its shape. The caller's random state gives the initial weights.
        causal: whether a position sees only itself and those before it, or all.

    Examples:
        >>> config = TransformerConfig(vocabulary_size=7, width=16, depth=1, heads=2)
        >>> Transformer(config, causal=True)(torch.tensor([[7, 3, 2]])).shape
        torch.Size([1, 3, 7])
    """

    def __init__(self, config: TransformerConfig, causal: bool) -> None:
        """Build the layers and draw their weights."""
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocabulary_size + 1, config.width)
        self.blocks = nn.ModuleList(_Block(config, causal) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, config.vocabulary_size)
        nn.init.normal_(self.embedding.weight, std=0.5)
        nn.init.zeros_(self.head.bias)
        nn.init.normal_(self.head.weight, std=config.width**-0.5 / 4)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits over the V real tokens, at every position.

        Args:
            tokens: long [B, L], real tokens or V; any L.

        Returns:
            [B, L, V].

        Raises:
            ShapeMismatch: if `tokens` is not [B, L].
            TypeMismatch: if it is not of integers.
            TokenOutOfRange: if a token has no embedding.
        """
        return torch.as_tensor(self.head(self.read(tokens)))

    def read(self, tokens: Tensor) -> Tensor:
        """What the head reads of tokens [B, L], normalised: [B, L, W]."""
        self._check(tokens)
        x = self.embedding(tokens)  # [B, L, W]
        rotation = _rotation(tokens.shape[1], self.config, x)
        for block in self.blocks:
            x = block(x, rotation)
        return torch.as_tensor(self.norm(x))

    def _check(self, tokens: Tensor) -> None:
        """Refuse tokens that have no embedding."""
        check_rows("tokens", tokens)
        check_tokens("tokens", tokens, self.config.vocabulary_size + 1)


class _Block(nn.Module):
    """Convolution, attention, MLP; each reads normalised tokens and adds to them."""

    def __init__(self, config: TransformerConfig, causal: bool) -> None:
        super().__init__()
        width, reach = config.width, config.kernel - 1
        padding = reach if causal else reach // 2
        self.heads, self.causal, self.dropout = config.heads, causal, nn.Dropout(config.dropout)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.convolution = nn.Conv1d(width, width, config.kernel, padding=padding, groups=width)
        self.queries_keys_values = nn.Linear(width, 3 * width, bias=False)
        self.attended = nn.Linear(width, width, bias=False)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU("tanh"), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
        """The tokens [B, L, W], updated."""
        convolve, attend, transform = self.norms
        x = x + self._convolution(convolve(x))
        x = x + self.dropout(self._attention(attend(x), rotation))
        return x + torch.as_tensor(self.dropout(self.mlp(transform(x))))

    def _convolution(self, x: Tensor) -> Tensor:
        """Every token sees its neighbours, or those before it, [B, L, W]."""
        found = self.convolution(x.transpose(1, 2))  # [B, W, L], longer if causal
        return torch.as_tensor(found[..., : x.shape[1]].transpose(1, 2))

    def _attention(self, x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
        """Every token attends to every token, or to itself and those before it, [B, L, W]."""
        parts = self.queries_keys_values(x).unflatten(-1, (3, self.heads, -1))
        query, key, value = parts.permute(2, 0, 3, 1, 4)  # each [B, H, L, W / H]
        query, key = _rotate(query, rotation), _rotate(key, rotation)
        found = functional.scaled_dot_product_attention(query, key, value, is_causal=self.causal)
        attended: Tensor = self.attended(found.transpose(1, 2).flatten(2))
        return attended


def _rotation(length: int, config: TransformerConfig, like: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the rotary angles, each [L, W / 2H] (Su et al. 2021)."""
    half = config.width // config.heads // 2
    rates = 1000.0 ** (-torch.arange(half, device=like.device) / half)
    angles = torch.arange(length, device=like.device)[:, None] * rates  # [L, half]
    return angles.cos().to(like.dtype), angles.sin().to(like.dtype)


def _rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Turn the pairs (x_j, x_{j + half}) of every head by their position's angles."""
    first, second = x.chunk(2, dim=-1)
    cosine, sine = (part.to(x.dtype) for part in rotation)
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1)
