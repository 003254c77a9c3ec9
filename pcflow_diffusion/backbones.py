"""Backbones: anything that maps tokens with masks [B, L] to logits [B, L, V].

Three parts: the protocol with adapters for the conventions of known models; `Denoiser`, a small
bidirectional transformer to run on a CPU; and its checkpoints (safetensors, no pickle).

Tensor letters: B batch, L positions, V categories (real tokens), W width, H heads.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional

from pcflow_diffusion.errors import BackboneError, CheckpointError, ShapeMismatch, TokenOutOfRange
from pcflow_diffusion.files import replace_file

FORMAT = "pcflow_diffusion.denoiser.1"


class Backbone(Protocol):
    """A masked diffusion language model, seen from outside."""

    def __call__(self, tokens: Tensor, /) -> Tensor:
        """Logits [B, L, V] of tokens with masks [B, L]; row i is about token i."""
        ...


def _logits(model: Callable[[Tensor], Any], tokens: Tensor) -> Tensor:
    """What the model returns, or its `.logits`, checked to be [B, L, V]."""
    output = model(tokens)
    logits = getattr(output, "logits", output)
    if not isinstance(logits, Tensor) or logits.shape[:-1] != tokens.shape:
        found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise BackboneError(f"expected logits {(*tokens.shape, 'V')}, the backbone gave {found}")
    return logits


def llada(model: Callable[[Tensor], Any]) -> Backbone:
    """LLaDA's convention: logits at position i are about token i (Nie et al. 2025).

    Args:
        model: maps tokens to logits [B, L, V], or to an object with `.logits`.

    Examples:
        >>> backbone = llada(lambda tokens: torch.zeros(*tokens.shape, 5))
        >>> backbone(torch.tensor([[1, 2, 3]])).shape
        torch.Size([1, 3, 5])
    """
    return lambda tokens: _logits(model, tokens)


def dream(model: Callable[[Tensor], Any]) -> Backbone:
    """Dream's convention: logits at position i - 1 are about token i (Ye et al. 2025).

    Nothing is about token 0, which is visible in practice; it gets the logits at position 0.

    Args:
        model: maps tokens to logits [B, L, V], or to an object with `.logits`.

    Examples:
        >>> backbone = dream(lambda tokens: tokens[..., None].float())
        >>> backbone(torch.tensor([[5, 6, 7]]))[0, :, 0]
        tensor([5., 5., 6.])
    """

    def shifted(tokens: Tensor) -> Tensor:
        logits = _logits(model, tokens)
        return torch.cat([logits[:, :1], logits[:, :-1]], dim=1)

    return shifted


def mdlm(model: Callable[[Tensor], Any], mask_token_id: int) -> Backbone:
    """MDLM's SUBS parameterisation (Sahoo et al. 2024, Sec. 3.2.3), normalised.

    The mask token has probability zero, and a visible token is carried over with probability one.

    Args:
        model: maps tokens to logits [B, L, V] whose V counts the mask, or an object with `.logits`.
        mask_token_id: the id of the mask.

    Examples:
        >>> backbone = mdlm(lambda tokens: torch.zeros(*tokens.shape, 3), mask_token_id=2)
        >>> backbone(torch.tensor([[2, 0]])).exp()
        tensor([[[0.5000, 0.5000, 0.0000],
                 [1.0000, 0.0000, 0.0000]]])
    """

    def substituted(tokens: Tensor) -> Tensor:
        logits = _logits(model, tokens)
        ids = torch.arange(logits.shape[-1], device=logits.device)
        never = torch.full((), -torch.inf, dtype=logits.dtype, device=logits.device)
        proposed = torch.where(ids == mask_token_id, never, logits).log_softmax(dim=-1)
        carried = torch.where(ids == tokens[..., None], torch.zeros_like(never), never)
        return torch.where((tokens == mask_token_id)[..., None], proposed, carried)

    return substituted


@dataclass(frozen=True)
class DenoiserConfig:
    """Shape of a `Denoiser`.

    Args:
        vocabulary_size: number of real tokens V; the mask token is V.
        width: channels of a token, divisible by 2 * heads.
        depth: number of blocks.
        heads: attention heads.
        kernel: odd length of the depthwise convolution.
        dropout: share of each block's update that is dropped in training.

    Raises:
        ShapeMismatch: if the numbers do not fit together.

    Examples:
        >>> DenoiserConfig(vocabulary_size=26).mask_token_id
        26
    """

    vocabulary_size: int
    width: int = 192
    depth: int = 4
    heads: int = 4
    kernel: int = 5
    dropout: float = 0.1

    def __post_init__(self) -> None:
        """Check that the numbers fit together."""
        if min(self.vocabulary_size, self.width, self.depth, self.heads, self.kernel) < 1:
            raise ShapeMismatch(f"sizes must be positive: {self}")
        if self.width % (2 * self.heads) or not self.kernel % 2 or not 0 <= self.dropout < 1:
            raise ShapeMismatch(f"need width divisible by 2 * heads, odd kernel, dropout: {self}")

    @property
    def mask_token_id(self) -> int:
        """The id after the last real token."""
        return self.vocabulary_size


class Denoiser(nn.Module):
    """A small bidirectional transformer with rotary positions and short convolutions.

    Each block updates the tokens three times: a depthwise convolution over neighbours, attention,
    a GELU MLP; all read normalised tokens and add to them. On characters the convolution matters:
    without it a model of this size stays near the unigram distribution for thousands of steps.

    Args:
        config: its shape. The caller's random state gives the initial weights.

    Examples:
        >>> model = Denoiser(DenoiserConfig(vocabulary_size=7, width=16, depth=1, heads=2))
        >>> model(torch.tensor([[7, 3, 7]])).shape  # 7 is the mask
        torch.Size([1, 3, 7])
    """

    def __init__(self, config: DenoiserConfig) -> None:
        """Build the layers and draw their weights."""
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocabulary_size + 1, config.width)
        self.blocks = nn.ModuleList(_Block(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, config.vocabulary_size)
        nn.init.normal_(self.embedding.weight, std=0.5)
        nn.init.zeros_(self.head.bias)
        nn.init.normal_(self.head.weight, std=config.width**-0.5 / 4)

    @property
    def mask_token_id(self) -> int:
        """The id of the mask, V."""
        return self.config.mask_token_id

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits over the V real tokens, at every position.

        Args:
            tokens: long [B, L], real tokens or the mask; any L.

        Returns:
            [B, L, V].

        Raises:
            ShapeMismatch: if `tokens` is not [B, L].
            TokenOutOfRange: if a token is neither real nor the mask.
        """
        self._check(tokens)
        x = self.embedding(tokens)  # [B, L, W]
        rotation = _rotation(tokens.shape[1], self.config, x)
        for block in self.blocks:
            x = block(x, rotation)
        logits: Tensor = self.head(self.norm(x))  # [B, L, V]
        return logits

    def _check(self, tokens: Tensor) -> None:
        """Refuse tokens that have no embedding."""
        if tokens.ndim != 2:
            raise ShapeMismatch(f"tokens must be [B, L], got shape {tuple(tokens.shape)}")
        outside = (tokens < 0) | (tokens > self.mask_token_id)
        if bool(outside.any()):
            raise TokenOutOfRange("tokens", int(tokens[outside][0]), self.mask_token_id + 1)


class _Block(nn.Module):
    """Convolution, attention, MLP; each reads normalised tokens and adds to them."""

    def __init__(self, config: DenoiserConfig) -> None:
        super().__init__()
        width, padding = config.width, config.kernel // 2
        self.heads, self.dropout = config.heads, nn.Dropout(config.dropout)
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
        x = x + self.convolution(convolve(x).transpose(1, 2)).transpose(1, 2)
        x = x + self.dropout(self._attention(attend(x), rotation))
        return x + torch.as_tensor(self.dropout(self.mlp(transform(x))))

    def _attention(self, x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
        """Every token attends to every token, [B, L, W]."""
        parts = self.queries_keys_values(x).unflatten(-1, (3, self.heads, -1))
        query, key, value = parts.permute(2, 0, 3, 1, 4)  # each [B, H, L, W / H]
        query, key = _rotate(query, rotation), _rotate(key, rotation)
        found = functional.scaled_dot_product_attention(query, key, value)
        attended: Tensor = self.attended(found.transpose(1, 2).flatten(2))
        return attended


def _rotation(length: int, config: DenoiserConfig, like: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the rotary angles, each [L, W / 2H] (Su et al. 2021)."""
    half = config.width // config.heads // 2
    rates = 1000.0 ** (-torch.arange(half, device=like.device) / half)
    angles = torch.arange(length, device=like.device)[:, None] * rates  # [L, half]
    return angles.cos().to(like.dtype), angles.sin().to(like.dtype)


def _rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Turn the pairs (x_j, x_{j + half}) of every head by their position's angles."""
    (first, second), (cosine, sine) = x.chunk(2, dim=-1), rotation
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1)


def save_denoiser(model: Denoiser, path: str | Path, vocabulary: Sequence[str]) -> None:
    """Write weights (half precision), configuration and vocabulary to one safetensors file.

    The file is replaced in one step: a reader sees the old one or the new one.

    Args:
        model: the denoiser.
        path: where to; its directory must exist.
        vocabulary: the V tokens in the order of their ids; a string is its characters.

    Raises:
        CheckpointError: if `vocabulary` does not have V entries.

    Examples:
        >>> model = Denoiser(DenoiserConfig(vocabulary_size=2, width=8, depth=1, heads=1))
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "tiny.safetensors"
        >>> save_denoiser(model, path, vocabulary="ab")
        >>> load_denoiser(path)[1]
        ['a', 'b']
    """
    if len(vocabulary) != model.config.vocabulary_size:
        wanted = model.config.vocabulary_size
        raise CheckpointError(f"vocabulary has {len(vocabulary)} entries, the model {wanted}")
    tensors = {name: w.detach().half().contiguous() for name, w in model.state_dict().items()}
    config, tokens = json.dumps(asdict(model.config)), json.dumps(list(vocabulary))
    metadata = {"format": FORMAT, "config": config, "vocabulary": tokens}
    replace_file(Path(path), save(tensors, metadata=metadata))


def load_denoiser(
    path: str | Path, device: torch.device | str = "cpu"
) -> tuple[Denoiser, list[str]]:
    """Read a file of `save_denoiser`; nothing in it is executed.

    Args:
        path: the file.
        device: where the model lives.

    Returns:
        The denoiser in float32 and evaluation mode, and its vocabulary.

    Raises:
        CheckpointError: if the file is truncated, not of this format, or contradicts itself.
        FileNotFoundError: if there is no such file.
    """
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            metadata: dict[str, str] = file.metadata() or {}
            tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise CheckpointError(f"{path} is not a readable safetensors file: {error}") from error
    if metadata.get("format") != FORMAT:
        raise CheckpointError(f"{path} has format {metadata.get('format')!r}, expected {FORMAT!r}")
    return _restore(path, metadata, tensors)


def _restore(
    path: str | Path, metadata: dict[str, str], tensors: dict[str, Tensor]
) -> tuple[Denoiser, list[str]]:
    """The model and vocabulary that a file describes."""
    try:
        vocabulary = [str(token) for token in json.loads(metadata["vocabulary"])]
        config = DenoiserConfig(**json.loads(metadata["config"]))
        if config.depth > len(tensors):
            raise CheckpointError(f"{config.depth} blocks in {len(tensors)} tensors")
        with torch.device("meta"):
            model = Denoiser(config)
        model.load_state_dict(tensors, assign=True)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path} contradicts itself: {error}") from error
    if len(vocabulary) != model.config.vocabulary_size:
        raise CheckpointError(f"{path}: {len(vocabulary)} tokens, not {model.config}")
    return model.eval(), vocabulary
