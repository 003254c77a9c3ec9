"""The masked-diffusion objective: masks, times, weights and the loss.

At time t in (0, 1] every token is masked with probability 1 - alpha_t, t itself by the linear
schedule. The negative evidence lower bound is E_t[w_t * sum over masked i of -log p(x0_i | x)] with
w_t = -alpha'_t / (1 - alpha_t), or 1 / t (Sahoo et al. 2024, "Simple and Effective Masked Diffusion
Language Models", Eq. 10; Shi et al. 2024, "Simplified and Generalized Masked Diffusion", Eq. 5).

Tensor letters: B batch, L positions, V categories.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import log, pi

import torch
from torch import Tensor
from torch.nn import functional

from pcflow_diffusion.checks import (
    check_alike,
    check_count,
    check_generator,
    check_id,
    check_kind,
    check_logits,
    check_rows,
    check_tokens,
    check_weights,
)
from pcflow_diffusion.errors import DiffusionError, RatioOutOfRange, ShapeMismatch, TypeMismatch

SIGMA_MIN, SIGMA_MAX = 1e-5, 20.0  # of the geometric schedule, as in Shi et al. 2024


@dataclass(frozen=True)
class Schedule:
    """How likely a token is to be masked at time t in (0, 1], elementwise in t.

    Args:
        mask_probability: 1 - alpha_t, rising from 0 to 1.
        rate: its derivative -alpha'_t.

    Examples:
        >>> square = Schedule(lambda t: t**2, lambda t: 2 * t)
        >>> square.alpha(torch.tensor([0.5])), square.weights(torch.tensor([0.5]))
        (tensor([0.7500]), tensor([4.]))
    """

    mask_probability: Callable[[Tensor], Tensor]
    rate: Callable[[Tensor], Tensor]

    def alpha(self, times: Tensor) -> Tensor:
        """The probability [...] that a token is still visible.

        Args:
            times: in 0..1, [...].
        """
        return 1 - self.mask_probability(times)

    def weights(self, times: Tensor) -> Tensor:
        """The weight of the bound [...], -alpha'_t / (1 - alpha_t).

        Args:
            times: in 0..1, [...].
        """
        return self.rate(times) / self.mask_probability(times)


def _sigma(t: Tensor) -> Tensor:
    return SIGMA_MIN * (SIGMA_MAX / SIGMA_MIN) ** t


_SCHEDULES = {
    "linear": Schedule(lambda t: t, torch.ones_like),
    "cosine": Schedule(lambda t: torch.sin(pi / 2 * t), lambda t: pi / 2 * torch.cos(pi / 2 * t)),
    "geometric": Schedule(
        lambda t: -torch.expm1(-_sigma(t)),
        lambda t: log(SIGMA_MAX / SIGMA_MIN) * _sigma(t) * torch.exp(-_sigma(t)),
    ),
}


def schedule_by_name(name: str) -> Schedule:
    """Look up a schedule, as Shi et al. 2024 define them.

    The bound of a given model is the same under all of them; its estimate varies more or less.

    Args:
        name: "linear", 1 - alpha = t, which Sahoo et al. call log-linear; "cosine",
            sin(pi t / 2); or "geometric", 1 - exp(-sigma) where sigma goes from 1e-5 to 20 in equal
            ratios.

    Returns:
        The schedule.

    Raises:
        DiffusionError: if there is no such schedule.

    Examples:
        >>> schedule_by_name("cosine").mask_probability(torch.tensor([1 / 3, 1.0]))
        tensor([0.5000, 1.0000])
    """
    if not isinstance(name, str) or name not in _SCHEDULES:
        raise DiffusionError(f"no schedule is called {name!r}; there are {', '.join(_SCHEDULES)}")
    return _SCHEDULES[name]


def schedule_of(given: str | Schedule) -> Schedule:
    """A schedule, or that of a name.

    Args:
        given: a schedule or a name.

    Returns:
        The schedule.

    Raises:
        DiffusionError: if no schedule has that name.
        TypeMismatch: if it is neither.

    Examples:
        >>> schedule_of("linear") == schedule_of(schedule_of("linear"))
        True
    """
    if isinstance(given, str):
        return schedule_by_name(given)
    check_kind("schedule", given, Schedule)
    return given


def mask_tokens(
    x0: Tensor, ratio: float | Tensor, mask_token_id: int, generator: torch.Generator | None = None
) -> Tensor:
    """Mask each token independently with the probability of its row.

    Args:
        x0: tokens, long [B, L].
        ratio: mask probability in [0, 1], one number or one per row [B].
        mask_token_id: the id written over masked tokens.
        generator: source of the draws, on the device of `x0`.

    Returns:
        Tokens with masks, [B, L].

    Raises:
        ShapeMismatch: if `x0` is not [B, L] or `ratio` not [B].
        RatioOutOfRange: if a ratio is outside [0, 1].
        TypeMismatch: if tokens are no integers, a ratio no number, or an id no whole number.

    Examples:
        >>> mask_tokens(torch.tensor([[5, 6], [7, 8]]), torch.tensor([0.0, 1.0]), 9).tolist()
        [[5, 6], [9, 9]]
    """
    per_row, mask_token_id = _per_row(ratio, x0), check_id("mask_token_id", mask_token_id)
    check_generator(generator, x0.device)
    draws = torch.rand(x0.shape, generator=generator, device=x0.device)  # [B, L]
    return torch.where(draws < per_row, mask_token_id, x0)


def mask_exactly(
    x0: Tensor, ratio: float | Tensor, mask_token_id: int, generator: torch.Generator | None = None
) -> Tensor:
    """Mask exactly round(ratio * L) positions of each row, drawn uniformly.

    Args:
        x0: tokens, long [B, L].
        ratio: share of the positions to mask, in [0, 1], one number or one per row [B].
        mask_token_id: the id written over masked tokens.
        generator: source of the draws, on the device of `x0`.

    Returns:
        Tokens with masks, [B, L].

    Raises:
        ShapeMismatch: if `x0` is not [B, L] or `ratio` not [B].
        RatioOutOfRange: if a ratio is outside [0, 1].
        TypeMismatch: if tokens are no integers, a ratio no number, or an id no whole number.

    Examples:
        >>> x0 = torch.zeros(3, 8, dtype=torch.long)
        >>> (mask_exactly(x0, 0.5, mask_token_id=1) == 1).sum(dim=1).tolist()
        [4, 4, 4]
    """
    mask_token_id = check_id("mask_token_id", mask_token_id)
    count = (_per_row(ratio, x0) * x0.shape[1]).round()  # [B, 1]
    check_generator(generator, x0.device)
    draws = torch.rand(x0.shape, generator=generator, device=x0.device)  # [B, L]
    rank = draws.argsort(dim=1).argsort(dim=1)
    return torch.where(rank < count, mask_token_id, x0)


def _per_row(ratio: float | Tensor, x0: Tensor) -> Tensor:
    """One ratio per row [B, 1] (or one for all [1, 1]), checked to lie in [0, 1]."""
    check_rows("x0", x0)
    column = _real("ratio", ratio).to(x0.device).reshape(-1, 1)
    if column.shape[0] not in (1, x0.shape[0]):
        raise ShapeMismatch(f"{column.shape[0]} mask ratios for {x0.shape[0]} rows of x0")
    outside = ~((column >= 0) & (column <= 1))
    if bool(outside.any()):
        raise RatioOutOfRange(f"mask ratio {column[outside][0]} outside [0, 1]")
    return column


def _real(name: str, given: float | Tensor) -> Tensor:
    """A real number, or several."""
    try:
        found = torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeMismatch(f"{name} must be a number or a tensor, got {given!r}") from error
    if found.is_complex() or found.is_meta:
        raise TypeMismatch(f"{name} must be real numbers, got {found.dtype} on {found.device}")
    return found


def sample_times(
    batch: int,
    generator: torch.Generator | None = None,
    antithetic: bool = True,
) -> Tensor:
    """Times t in (0, 1], each uniform.

    Args:
        batch: how many, B.
        generator: source of the draws; the times live where it does.
        antithetic: spread them evenly: one uniform draw u and t_b = (u + b / B) mod 1, so that the
            batch mean of anything smooth in t varies less.

    Returns:
        [B], float.

    Raises:
        SettingError: if `batch` is not positive.

    Examples:
        >>> t = sample_times(4, torch.Generator().manual_seed(0)).sort().values
        >>> t.diff()
        tensor([0.2500, 0.2500, 0.2500])
    """
    check_count("batch", batch)
    where = None if generator is None else generator.device
    if not antithetic:
        return 1 - torch.rand(batch, generator=generator, device=where)
    draw = torch.rand(1, generator=generator, device=where)
    offsets = torch.arange(batch, device=where) / batch
    return 1 - (draw + offsets) % 1


def elbo_weights(times: Tensor, schedule: str | Schedule = "linear") -> Tensor:
    """The weight of the bound at every time: 1 / t by the linear schedule.

    Args:
        times: t in (0, 1], [B].
        schedule: a `Schedule`, or the name of one.

    Returns:
        [B].

    Raises:
        RatioOutOfRange: if a time is outside (0, 1].
        TypeMismatch: if it is none.
        DiffusionError: if no schedule has that name.

    Examples:
        >>> elbo_weights(torch.tensor([0.25, 1.0]))
        tensor([4., 1.])
    """
    times = _real("times", times)
    outside = ~((times > 0) & (times <= 1))
    if bool(outside.any()):
        raise RatioOutOfRange(f"time {times[outside][0]} outside (0, 1]")
    return schedule_of(schedule).weights(times)


def masked_diffusion_loss(
    logits: Tensor, x: Tensor, x0: Tensor, mask_token_id: int, weights: Tensor | None = None
) -> Tensor:
    """Negative log-likelihood of the masked tokens, factorised over positions.

    With `weights = elbo_weights(t)` its expectation over t and masks is an upper bound of
    -log p(x0); without weights it is -sum over masked i of log p(x0_i | x).

    Args:
        logits: [B, L, V], not necessarily normalised; row i is about token i.
        x: tokens with masks, long [B, L].
        x0: the tokens themselves, long [B, L]; only the masked ones are read.
        mask_token_id: the id of the mask in `x`.
        weights: one per row [B], or None for ones.

    Returns:
        Nats per row, [B]; zero for a row without masks.

    Raises:
        ShapeMismatch: if the shapes do not agree.
        TypeMismatch: if these are no logits, tokens or weights.
        TokenOutOfRange: if a masked token of `x0` is outside the V categories of the logits.

    Examples:
        >>> x0, x = torch.tensor([[0, 1, 1]]), torch.tensor([[0, 4, 4]])
        >>> masked_diffusion_loss(torch.zeros(1, 3, 4), x, x0, mask_token_id=4)  # 2 log 4
        tensor([2.7726])
    """
    check_rows("x", x)
    check_alike("x0", x0, x)
    check_logits("logits", logits, x)
    if weights is not None:
        check_weights("weights", weights, len(x))
    masked = x == check_id("mask_token_id", mask_token_id)  # [B, L]
    check_tokens("x0", x0.masked_fill(~masked, 0), logits.shape[-1])
    per_row = row_nats(logits[masked], x0, masked)  # [B]
    return per_row if weights is None else per_row * weights


def row_nats(logits: Tensor, x0: Tensor, masked: Tensor) -> Tensor:
    """Negative log-likelihood of the masked tokens of every row, [B].

    Args:
        logits: of the masked positions alone, [masked, V].
        x0: tokens, [B, L].
        masked: bool, [B, L].
    """
    nll = functional.cross_entropy(logits.float(), x0[masked].long(), reduction="none")
    loss = torch.zeros(masked.shape, dtype=nll.dtype, device=nll.device)  # [B, L]
    return loss.masked_scatter(masked, nll).sum(dim=1)
