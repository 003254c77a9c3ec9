"""Training a `Denoiser` on windows of text.

Rows are windows of text. In most of them the last tokens (the block) are masked behind visible
context, which is how a block diffusion decoder asks; in the rest any token may be masked.

Tensor letters: B batch, L positions, V categories.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from pcflow_diffusion.backbones import Denoiser, DenoiserConfig
from pcflow_diffusion.errors import DiffusionError, TextError
from pcflow_diffusion.objective import (
    elbo_weights,
    mask_exactly,
    mask_tokens,
    masked_diffusion_loss,
    sample_times,
)
from pcflow_diffusion.text import BLOCK, CONTEXT, blocks, windows


@dataclass(frozen=True)
class TrainingConfig:
    """How a denoiser is trained.

    Args:
        batch_size: rows per step.
        learning_rate: its highest value; it warms up linearly and decays as a cosine.
        warmup: steps of warm-up.
        weight_decay: of AdamW, on matrices only.
        gradient_clip: largest norm of the gradient.
        average: decay of the moving average of the weights, which is what is returned.
        whole_window: share of the rows in which any token may be masked.
        short_window: share of the steps with a window shorter than context and block.
        context: tokens before the block; with none, any token of a window may be masked.
        block: tokens in the block.
        bfloat16: run matrix products in bfloat16; None where the CPU has instructions for it
            (a step then takes two thirds of the time).

    Raises:
        TextError: if `context` is negative, or the block empty.
    """

    batch_size: int = 32
    learning_rate: float = 3e-3
    warmup: int = 100
    weight_decay: float = 0.1
    gradient_clip: float = 1.0
    average: float = 0.998
    whole_window: float = 0.4
    short_window: float = 0.2
    context: int = CONTEXT
    block: int = BLOCK
    bfloat16: bool | None = None

    def __post_init__(self) -> None:
        """Check the window."""
        if self.context < 0 or self.block < 1:
            raise TextError(f"need context >= 0 and block >= 1: {self.context}, {self.block}")


@dataclass(frozen=True)
class _Budget:
    """How long to train: a number of steps, or minutes of wall clock."""

    steps: int | None
    minutes: float | None
    start: float

    def spent(self, step: int) -> float:
        """The share of the budget used when `step` begins."""
        if self.steps is not None:
            return step / self.steps
        return (time.monotonic() - self.start) / (60 * (self.minutes or 0))


def train_denoiser(
    tokens: Tensor,
    config: DenoiserConfig,
    *,
    held_out: Tensor | None = None,
    minutes: float | None = None,
    steps: int | None = None,
    seed: int = 0,
    training: TrainingConfig | None = None,
    checkpoint: Callable[[Denoiser], None] | None = None,
    checkpoint_minutes: float = 3.0,
    progress: bool = True,
) -> Denoiser:
    """Train a denoiser on one row of tokens, for a number of steps or minutes.

    The same seed and `steps` give the same weights on the same machine; with `minutes` the number
    of steps depends on its speed. The caller's random state is left as it was.

    Args:
        tokens: the training text, [N]; or windows of it, [N, context + block], of any integers.
        config: shape of the denoiser.
        held_out: another text, [M], whose loss the progress bar shows.
        minutes: wall-clock budget.
        steps: number of steps instead.
        seed: of weights, windows, masks and dropout.
        training: how to train; `TrainingConfig()` by default.
        checkpoint: called every few minutes, and at the end, with the denoiser as it is.
        checkpoint_minutes: minutes between two calls.
        progress: show a bar with train and held-out loss, in nats per masked token.

    Returns:
        The denoiser with averaged weights, in evaluation mode.

    Raises:
        DiffusionError: unless exactly one of `minutes` and `steps` is given, and positive.
        TextError: if the text is shorter than one window, or windows are of another length.

    Examples:
        >>> text = torch.arange(400) % 5
        >>> config = DenoiserConfig(5, width=16, depth=1, heads=2)
        >>> model = train_denoiser(text, config, steps=2, progress=False)
        >>> model(text[None, :40]).shape
        torch.Size([1, 40, 5])
    """
    amounts = [amount for amount in (minutes, steps) if amount is not None]
    if len(amounts) != 1 or amounts[0] <= 0:
        raise DiffusionError(f"give positive minutes or steps, got {minutes=} and {steps=}")
    budget = _Budget(steps, minutes, time.monotonic())
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        run = _Run(tokens, config, training or TrainingConfig(), held_out)
        run.train(budget, checkpoint, checkpoint_minutes, progress)
    return run.averaged()


class _Run:
    """The state of one training run; it draws from torch's global generator."""

    def __init__(
        self, tokens: Tensor, config: DenoiserConfig, how: TrainingConfig, held_out: Tensor | None
    ) -> None:
        self.how = how
        self.windows = _windows(tokens, how.context + how.block)
        self.model = Denoiser(config)
        self.average = AveragedModel(self.model, avg_fn=_moving_average(how.average))
        matrices = [w for w in self.model.parameters() if w.ndim > 1]
        vectors = [w for w in self.model.parameters() if w.ndim <= 1]
        groups = [
            {"params": matrices, "weight_decay": how.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=how.learning_rate, betas=(0.9, 0.98))
        self.bfloat16 = _has_bfloat16() if how.bfloat16 is None else how.bfloat16
        self.held_out = None if held_out is None else _held_out_blocks(held_out, how)

    def train(
        self,
        budget: _Budget,
        checkpoint: Callable[[Denoiser], None] | None,
        checkpoint_minutes: float,
        progress: bool,
    ) -> None:
        """Steps until the budget is spent, with a bar and checkpoints."""
        step, spent, saved, smoothed = 0, 0.0, time.monotonic(), math.nan
        with tqdm(total=100, disable=not progress, bar_format=_BAR) as bar:
            while spent < 1:
                loss = self.step(step, spent)
                smoothed = loss if math.isnan(smoothed) else 0.98 * smoothed + 0.02 * loss
                step, spent = step + 1, min(1.0, budget.spent(step + 1))
                bar.update(100 * spent - bar.n)
                if progress and (step % 100 == 0 or spent == 1):
                    bar.set_postfix(self.losses(step, smoothed))
                due = time.monotonic() - saved > 60 * checkpoint_minutes
                if checkpoint is not None and (due or spent == 1):
                    checkpoint(self.averaged())
                    saved = time.monotonic()

    def step(self, step: int, spent: float) -> float:
        """One step of the optimiser; returns nats per masked token."""
        x, x0, times = self.batch()
        mask = self.model.mask_token_id
        self.model.train()
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bfloat16):
            logits = self.model(x)
        nats = masked_diffusion_loss(logits, x, x0, mask)  # [B]
        tokens = (x == mask).sum(dim=1)  # [B]
        bound = (nats * elbo_weights(times)).mean() / (tokens * elbo_weights(times)).mean().clamp(1)
        for group in self.optimizer.param_groups:
            group["lr"] = self.how.learning_rate * _schedule(step, spent, self.how.warmup)
        self.optimizer.zero_grad()
        bound.backward()
        clip_grad_norm_(self.model.parameters(), self.how.gradient_clip)
        self.optimizer.step()
        self.average.update_parameters(self.model)
        return float(nats.detach().sum() / tokens.sum().clamp(1))

    def batch(self) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens with masks [B, L], the tokens themselves [B, L] and the times [B]."""
        rows = self.windows[torch.randint(len(self.windows), (self.how.batch_size,))].long()
        length, block = rows.shape[1], self.how.block
        if float(torch.rand(())) < self.how.short_window and length > block:
            length = int(torch.randint(block, length, ()))
        x0 = rows[:, -length:]  # [B, L]
        times = sample_times(len(x0)).clamp(min=1 / block)  # [B]
        times = times[torch.randperm(len(times))]
        whole = torch.rand(len(x0), 1) < self.how.whole_window  # [B, 1]
        maskable = whole | (torch.arange(length) >= length - block)  # [B, L]
        x = torch.where(maskable, mask_tokens(x0, times, self.model.mask_token_id), x0)
        return x, x0, times

    def losses(self, step: int, train: float) -> dict[str, str]:
        """What the bar shows."""
        shown = {"step": str(step), "train": f"{train:.3f}"}
        if self.held_out is not None:
            loss = block_loss(self.averaged(), self.held_out, 0.5, self.how.block)
            shown["held-out"] = f"{loss:.3f}"
        return shown

    def averaged(self) -> Denoiser:
        """The denoiser with averaged weights, in evaluation mode."""
        model = self.average.module
        assert isinstance(model, Denoiser)
        return model.eval()


_BAR = "{l_bar}{bar}| {elapsed}<{remaining}{postfix}"


def _has_bfloat16() -> bool:
    """Whether this CPU multiplies matrices in bfloat16 faster than in float32."""
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(bool(capabilities.get(name)) for name in ("avx512_bf16", "amx_bf16"))


def _windows(tokens: Tensor, length: int) -> Tensor:
    """Every window of a text, or windows as they are given."""
    if tokens.ndim == 1:
        return windows(tokens, length, 1)
    if tokens.ndim != 2 or tokens.shape[1] != length:
        raise TextError(f"windows must be [N, {length}], got shape {tuple(tokens.shape)}")
    return tokens


def _held_out_blocks(tokens: Tensor, how: TrainingConfig) -> Tensor:
    """At most 256 blocks, spread over the text."""
    found = blocks(tokens, None, how.context, how.block)
    return blocks(tokens, min(256, len(found)), how.context, how.block)


def _moving_average(decay: float) -> Callable[[Tensor, Tensor, Tensor | int], Tensor]:
    """The exponential moving average, quicker in its first steps."""

    def update(average: Tensor, weight: Tensor, count: Tensor | int) -> Tensor:
        now = min(decay, (1 + float(count)) / (10 + float(count)))
        return average.lerp(weight, 1 - now)

    return update


def _schedule(step: int, spent: float, warmup: int) -> float:
    """The share of the learning rate: linear warm-up, then a cosine down to nothing."""
    return min(1.0, (step + 1) / warmup) * 0.5 * (1 + math.cos(math.pi * min(1.0, spent)))


def block_loss(
    model: Denoiser, rows: Tensor, ratio: float, block: int = BLOCK, seed: int = 0
) -> float:
    """Factorised loss of the last `block` tokens of each row, with exactly `ratio` of them masked.

    The same seed gives the same masks.

    Args:
        model: the denoiser.
        rows: tokens [B, L], for example from `blocks`.
        ratio: share of the block that is masked, in (0, 1].
        block: tokens in the block.
        seed: of the masks.

    Returns:
        Nats per masked token.

    Examples:
        >>> model = Denoiser(DenoiserConfig(5, width=16, depth=1, heads=2))
        >>> block_loss(model, torch.zeros(2, 40, dtype=torch.long), ratio=1.0) > 0
        True
    """
    generator = torch.Generator().manual_seed(seed)
    masked = mask_exactly(rows[:, -block:], ratio, model.mask_token_id, generator)
    x = torch.cat([rows[:, :-block], masked], dim=1)  # [B, L]
    parts = math.ceil(len(rows) / 64)
    with torch.no_grad():
        losses = [
            masked_diffusion_loss(model(x_part), x_part, part, model.mask_token_id)
            for x_part, part in zip(x.chunk(parts), rows.chunk(parts), strict=True)
        ]
    return float(torch.cat(losses).sum() / (masked == model.mask_token_id).sum())
