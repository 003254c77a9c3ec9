"""Training a `Denoiser` on windows of text.

Rows are windows of text. In most of them the last tokens (the block) are masked behind visible
context, which is how a block diffusion decoder asks; in the rest any token may be masked.

Tensor letters: B batch, L positions, V categories.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from pcflow import SettingError
from pcflow_diffusion.checks import check_count
from pcflow_diffusion.errors import TextError
from pcflow_diffusion.models.denoiser import Denoiser, DenoiserConfig
from pcflow_diffusion.models.loop import Budget, Loop, Optimisation
from pcflow_diffusion.models.objective import (
    elbo_weights,
    mask_exactly,
    mask_tokens,
    masked_diffusion_loss,
    row_nats,
    sample_times,
)
from pcflow_diffusion.models.text import BLOCK, CONTEXT, blocks, windows


@dataclass(frozen=True)
class TrainingConfig(Optimisation):
    """How a denoiser is trained: the settings of `Optimisation`, and which tokens are masked.

    Args:
        whole_window: share of the rows in which any token may be masked.
        short_window: share of the steps with a window shorter than context and block.
        context: tokens before the block; with none, any token of a window may be masked.
        block: tokens in the block.

    Raises:
        SettingError: if one is out of range.

    Examples:
        >>> TrainingConfig(batch_size=8, context=0, block=16).learning_rate
        0.003
    """

    whole_window: float = 0.4
    short_window: float = 0.2
    context: int = CONTEXT
    block: int = BLOCK

    def __post_init__(self) -> None:
        """Check the numbers and the window."""
        super().__post_init__()
        for name in ("whole_window", "short_window"):
            SettingError.check(
                name, getattr(self, name), "in [0, 1]", lambda share: 0 <= share <= 1
            )
        check_count("context", self.context, least=0)
        check_count("block", self.block)


def train_denoiser(
    tokens: Tensor,
    config: DenoiserConfig,
    *,
    held_out: Tensor | None = None,
    minutes: float | None = None,
    steps: int | None = None,
    seed: int = 0,
    training: TrainingConfig | None = None,
    start: Denoiser | None = None,
    checkpoint: Callable[[Denoiser], None] | None = None,
    checkpoint_minutes: float = 3.0,
    unfinished: Path | None = None,
    progress: bool | None = None,
) -> Denoiser:
    """Train a denoiser on one row of tokens, for a number of steps or minutes.

    The same seed and `steps` give the same weights on the same machine, stopped and taken up again
    or not; with `minutes` the number of steps depends on its speed. The caller's random state is
    left as it was.

    Args:
        tokens: the training text, [N]; or windows of it, [N, context + block], of any integers.
        config: shape of the denoiser.
        held_out: another text, [M], or such windows of it: the weights that are best on it are
            kept.
        minutes: wall-clock budget.
        steps: number of steps instead.
        seed: of weights, windows, masks and dropout.
        training: how to train; `TrainingConfig()` by default.
        start: weights to begin with, of that shape; they are copied. By default new ones.
        checkpoint: called every few minutes, and at the end, with the denoiser as it is.
        checkpoint_minutes: minutes between two calls.
        unfinished: a file that is replaced at those times, from which a run that was stopped goes
            on; with a larger budget, one that was finished.
        progress: whether to show a bar with train and held-out loss, in nats per masked token; by
            default if standard error is a terminal.

    Returns:
        The denoiser with averaged weights, in evaluation mode.

    Raises:
        DiffusionError: unless exactly one of `minutes` and `steps` is given, and positive.
        TextError: if the text is shorter than one window, or windows are of another length.
        CheckpointError: if the unfinished run is of another shape or another `training`.

    Examples:
        >>> text = torch.arange(400) % 5
        >>> config = DenoiserConfig(5, width=16, depth=1, heads=2)
        >>> model = train_denoiser(text, config, steps=2, progress=False)
        >>> model(text[None, :40]).shape
        torch.Size([1, 40, 5])
    """
    budget, how = Budget(minutes, steps), training or TrainingConfig()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        score = None
        if held_out is not None:
            judged = held_out_rows(held_out, how.context, how.block)
            score = partial(block_loss, rows=judged, ratio=0.5, block=how.block)
        rows = training_rows(tokens, how.context + how.block)
        objective = _MaskedWindows(rows, config.mask_token_id, how)
        model = Denoiser(config)
        if start is not None:
            model.load_state_dict(start.state_dict())
        loop = Loop(model, objective, how, score)
        return loop.train(budget, progress, checkpoint, checkpoint_minutes, unfinished)


@dataclass(frozen=True, eq=False)
class _MaskedWindows:
    """The evidence lower bound on windows whose masks are drawn anew every time."""

    rows: Tensor
    mask: int
    how: TrainingConfig

    def __call__(self, ask: Callable[..., Tensor]) -> tuple[Tensor, Tensor]:
        """The bound and the loss, both in nats per masked token."""
        x, x0, times = self.batch()
        masked = x == self.mask  # [B, L]
        nats = row_nats(ask(x, masked), x0, masked)  # [B]
        tokens, weights = masked.sum(dim=1), elbo_weights(times)  # [B]
        bound = (nats * weights).mean() / (tokens * weights).mean().clamp(1)
        return bound, nats.sum() / tokens.sum().clamp(1)

    def batch(self) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens with masks [B, L], the tokens themselves [B, L] and the times [B]."""
        rows = self.rows[torch.randint(len(self.rows), (self.how.batch_size,))].long()
        length, block = rows.shape[1], self.how.block
        if float(torch.rand(())) < self.how.short_window and length > block:
            length = int(torch.randint(block, length, ()))
        x0 = rows[:, -length:]  # [B, L]
        times = sample_times(len(x0)).clamp(min=1 / block)  # [B]
        times = times[torch.randperm(len(times))]
        whole = torch.rand(len(x0), 1) < self.how.whole_window  # [B, 1]
        maskable = whole | (torch.arange(length) >= length - block)  # [B, L]
        x = torch.where(maskable, mask_tokens(x0, times, self.mask), x0)
        return x, x0, times


def training_rows(tokens: Tensor, length: int = CONTEXT + BLOCK) -> Tensor:
    """All windows of a text [N]; windows [N, length] stay as they are."""
    if tokens.ndim == 1:
        return windows(tokens, length, 1)
    if tokens.ndim != 2 or tokens.shape[1] != length:
        raise TextError(f"windows must be [N, {length}], got shape {tuple(tokens.shape)}")
    return tokens


def held_out_rows(tokens: Tensor, context: int = CONTEXT, block: int = BLOCK) -> Tensor:
    """At most 256 windows whose blocks do not overlap, spread over the text or the windows."""
    rows = (tokens if tokens.ndim == 2 else blocks(tokens, None, context, block)).long()
    count = min(256, len(rows))
    return rows[torch.arange(count) * len(rows) // count]


def block_loss(model: Denoiser, rows: Tensor, ratio: float, block: int = BLOCK) -> float:
    """Factorised loss of the last `block` tokens of each row, with exactly `ratio` of them masked.

    The masks are the same every time.

    Args:
        model: the denoiser.
        rows: tokens [B, L], for example from `blocks`.
        ratio: share of the block that is masked, in (0, 1].
        block: tokens in the block.

    Returns:
        Nats per masked token.

    Examples:
        >>> model = Denoiser(DenoiserConfig(5, width=16, depth=1, heads=2))
        >>> block_loss(model, torch.zeros(2, 40, dtype=torch.long), ratio=1.0) > 0
        True
    """
    generator = torch.Generator().manual_seed(0)
    masked = mask_exactly(rows[:, -block:], ratio, model.mask_token_id, generator)
    x = torch.cat([rows[:, :-block], masked], dim=1)  # [B, L]
    parts = math.ceil(len(rows) / 64)
    with torch.no_grad():
        losses = [
            masked_diffusion_loss(model(x_part), x_part, part, model.mask_token_id)
            for x_part, part in zip(x.chunk(parts), rows.chunk(parts), strict=True)
        ]
    return float(torch.cat(losses).sum() / (masked == model.mask_token_id).sum())
