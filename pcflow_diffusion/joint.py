"""Training backbone and circuit together: the layer is differentiable in both.

Legend: N rows, B batch, C context length, L positions of a block, V tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from tqdm import tqdm

from pcflow_diffusion.conditional import frozen
from pcflow_diffusion.coupling import Projection
from pcflow_diffusion.errors import CouplingError, RatioOutOfRange, ShapeMismatch
from pcflow_diffusion.head import CircuitHead
from pcflow_diffusion.objective import (
    Schedule,
    elbo_weights,
    mask_tokens,
    sample_times,
    schedule_by_name,
)


def fit_jointly(
    head: CircuitHead,
    backbone: nn.Module,
    rows: Tensor,
    *,
    steps: int,
    batch_size: int = 32,
    learning_rate: float = 3e-4,
    circuit_learning_rate: float = 0.02,
    schedule: str | Schedule = "linear",
    progress: bool = True,
    generator: torch.Generator | None = None,
) -> list[float]:
    """Minimise E_t[w_t * -log q(x0 | x)] in backbone and circuit together, in place.

    Every step draws rows, times and masks, asks the backbone and couples what it says. Both
    optimisers (AdamW for the backbone, Adam for the circuit) have steps that fall linearly to zero.

    Args:
        head: whose circuit is trained; its coupling must hand gradients to the backbone, which
            the projection, whose potentials are held fixed, does not. Its modulation, if it has
            one, stays as it is.
        backbone: maps tokens with masks to logits of the same positions.
        rows: context and block, [N, C + L]; only the block is masked.
        steps: number of steps.
        batch_size: rows per step.
        learning_rate: the backbone's; zero leaves it as it is.
        circuit_learning_rate: the circuit's.
        schedule: of masks and weights, a `Schedule` or the name of one.
        progress: whether to show a progress bar.
        generator: source of rows, times and masks; torch's global one by default. Dropout always
            draws from that one.

    Returns:
        The objective per step: weighted nats per masked token (see `coupled_nats_over_time`).

    Raises:
        ShapeMismatch: if shapes do not fit; TokenOutOfRange: if a token does not.
        CouplingError: if the coupling has no gradient for the backbone.
        RatioOutOfRange: if a number of steps or rows is below 1, or a learning rate is negative.

    Examples:
        >>> import pcflow as pf
        >>> from pcflow_diffusion import Denoiser, DenoiserConfig
        >>> head = CircuitHead(pf.compile(pf.hmm(4, 2, pf.Categorical(5))), 5, "product")
        >>> denoiser = Denoiser(DenoiserConfig(5, width=16, depth=1, heads=2))
        >>> len(fit_jointly(head, denoiser, torch.randint(5, (20, 8)), steps=3, progress=False))
        3
    """
    _check(head, rows, steps, batch_size, learning_rate, circuit_learning_rate)
    backbone.train(learning_rate > 0)
    optimizers = [
        torch.optim.AdamW(backbone.parameters(), lr=learning_rate, betas=(0.9, 0.98)),
        torch.optim.Adam(head.model.parameters(), lr=circuit_learning_rate),
    ][learning_rate == 0 :]
    decays = [torch.optim.lr_scheduler.LinearLR(o, 1.0, 0.0, steps) for o in optimizers]
    losses: list[float] = []
    bar = tqdm(range(steps), disable=not progress, unit="step", desc="joint training")
    with bar, frozen(head.modulation):
        for _ in bar:
            some = rows[torch.randint(len(rows), (batch_size,), generator=generator)]
            loss = _objective(head, backbone, some, schedule, generator, learning_rate > 0)
            for optimizer in optimizers:
                optimizer.zero_grad(set_to_none=True)
            loss.backward()
            clip_grad_norm_(backbone.parameters(), 1.0)
            for optimizer, decay in zip(optimizers, decays, strict=True):
                optimizer.step()
                decay.step()
            losses.append(float(loss.detach()))
            bar.set_postfix(refresh=False, nats=f"{sum(losses[-20:]) / len(losses[-20:]):.3f}")
    backbone.eval()
    return losses


@torch.no_grad()
def coupled_nats_over_time(
    head: CircuitHead,
    backbone: nn.Module,
    rows: Tensor,
    *,
    schedule: str | Schedule = "linear",
    batch_size: int = 64,
    generator: torch.Generator | None = None,
) -> float:
    """The objective of `fit_jointly` on other rows, without dropout.

    It is E_t[w_t * -log q(x0 | x)] / E_t[w_t * masked tokens], in nats per masked token.

    Args:
        head: the circuit and its coupling.
        backbone: maps tokens with masks to logits; put into evaluation mode.
        rows: context and block, [N, C + L].
        schedule: of masks and weights.
        batch_size: rows at a time.
        generator: source of times and masks; the same one gives the same number.

    Examples:
        >>> import pcflow as pf
        >>> from pcflow_diffusion import Denoiser, DenoiserConfig
        >>> head = CircuitHead(pf.compile(pf.hmm(4, 2, pf.Categorical(5))), 5, "product")
        >>> denoiser = Denoiser(DenoiserConfig(5, width=16, depth=1, heads=2))
        >>> coupled_nats_over_time(head, denoiser, torch.randint(5, (20, 8))) > 0
        True
    """
    backbone.eval()
    times = _times(len(rows), head.length, generator)
    total = torch.zeros(2, dtype=torch.float64)
    for some, t in zip(rows.split(batch_size), times.split(batch_size), strict=True):
        nats, masked = _nats(head, backbone, some, t, schedule, generator)
        weights = elbo_weights(t, schedule).double()
        total += torch.stack([weights @ nats.double().cpu(), weights @ masked.double().cpu()])
    return float(total[0] / total[1])


def _objective(
    head: CircuitHead,
    backbone: nn.Module,
    rows: Tensor,
    schedule: str | Schedule,
    generator: torch.Generator | None,
    learns: bool,
) -> Tensor:
    """Weighted nats per masked token, differentiable."""
    times = _times(len(rows), head.length, generator)
    nats, masked = _nats(head, backbone, rows, times, schedule, generator, learns)
    weights = elbo_weights(times, schedule).to(nats)
    return weights @ nats / (weights @ masked.to(nats)).clamp_min(1.0)


def _nats(
    head: CircuitHead,
    backbone: nn.Module,
    rows: Tensor,
    times: Tensor,
    schedule: str | Schedule,
    generator: torch.Generator | None,
    learns: bool = False,
) -> tuple[Tensor, Tensor]:
    """Of every row -log q(x0 | x), and how many of its tokens are masked; both [B]."""
    length = head.length
    found = schedule_by_name(schedule) if isinstance(schedule, str) else schedule
    x0 = rows[:, -length:]
    x = mask_tokens(x0, found.mask_probability(times), head.mask_token_id, generator)
    with torch.set_grad_enabled(learns):
        shown = torch.cat([rows[:, :-length], x], dim=1)
        logits = backbone(shown)[:, -length:]
    masked = (x == head.mask_token_id).sum(dim=1)
    return -head.log_prob(logits, x, x0), masked


def _times(rows: int, length: int, generator: torch.Generator | None) -> Tensor:
    """Times that are spread evenly, and not so early that hardly a token is masked."""
    return sample_times(rows, generator).clamp(min=1 / length)


def _check(
    head: CircuitHead, rows: Tensor, steps: int, batch_size: int, *learning_rates: float
) -> None:
    if rows.dim() != 2 or rows.shape[1] < head.length or len(rows) == 0:
        wanted = f"[N, C + {head.length}] with at least one row"
        raise ShapeMismatch(f"rows must be {wanted}, got {tuple(rows.shape)}")
    if isinstance(head.coupling, Projection):
        raise CouplingError(
            "the projection holds its potentials fixed: no gradient reaches the "
            "backbone; train with a log-linear coupling"
        )
    if steps < 1 or batch_size < 1 or not min(learning_rates) >= 0:
        raise RatioOutOfRange(f"out of range: {steps=}, {batch_size=}, {learning_rates=}")
