"""Training backbone and circuit together: the layer is differentiable in both.

Legend: N rows, B batch, C context length, L positions of a block, V tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from pcflow import Team
from pcflow_diffusion.checks import check_count, check_kind, check_rate, check_rows
from pcflow_diffusion.errors import CouplingError, ShapeMismatch
from pcflow_diffusion.head import CircuitHead, Projection
from pcflow_diffusion.models import Schedule, elbo_weights, mask_tokens, sample_times, schedule_of
from pcflow_diffusion.models.progress import bar
from pcflow_diffusion.train.blocks import block_logits
from pcflow_diffusion.train.conditional import frozen


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
    distributed: bool = False,
    progress: bool | None = None,
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
        rows: context and block, [N, C + L], on any device; only the block is masked.
        steps: number of steps.
        batch_size: rows per step.
        learning_rate: the backbone's; zero leaves it as it is.
        circuit_learning_rate: the circuit's.
        schedule: of masks and weights, a `Schedule` or the name of one.
        distributed: share every batch among the processes of `torch.distributed`; all begin with
            what the first one has, and make the same steps.
        progress: whether to show a progress bar; by default if standard error is a terminal.
        generator: source of rows, times and masks; torch's global one by default. Dropout always
            draws from that one. A seed is drawn once.

    Returns:
        The objective per step: weighted nats per masked token (see `coupled_nats_over_time`).

    Raises:
        ShapeMismatch: if shapes do not fit.
        TokenOutOfRange: if a token does not.
        CouplingError: if the coupling has no gradient for the backbone.
        SettingError: if a number of steps is below 1, a batch has no row for some process, or a
            learning rate is negative.
        RuntimeError: if it is to be distributed and `torch.distributed` is not initialised.

    Examples:
        >>> import pcflow as pf
        >>> from pcflow_diffusion import Denoiser, DenoiserConfig
        >>> head = CircuitHead(pf.compile(pf.hmm(4, 2, pf.Categorical(5))), 5, "product")
        >>> denoiser = Denoiser(DenoiserConfig(5, width=16, depth=1, heads=2))
        >>> len(fit_jointly(head, denoiser, torch.randint(5, (20, 8)), steps=3, progress=False))
        3
    """
    _check(head, backbone, rows)
    _check_learns(head)
    team, device = Team(distributed), head.model.device
    check_count("steps", steps)
    check_count("batch_size", batch_size, team.size)
    check_rate("learning_rate", learning_rate)
    check_rate("circuit_learning_rate", circuit_learning_rate)
    backbone.train(learning_rate > 0)
    optimizers = [
        torch.optim.AdamW(backbone.parameters(), lr=learning_rate, betas=(0.9, 0.98)),
        torch.optim.Adam(head.model.parameters(), lr=circuit_learning_rate),
    ][learning_rate == 0 :]
    decays = [torch.optim.lr_scheduler.LinearLR(o, 1.0, 0.0, steps) for o in optimizers]
    learned = [w for o in optimizers for group in o.param_groups for w in group["params"]]
    generator = _begin(team, learned, generator, device)
    losses: list[float] = []
    told = bar(range(steps), progress, unit="step", desc="joint training")
    with told, frozen(head.modulation):
        for _ in told:
            chosen = torch.randint(len(rows), (batch_size,), generator=generator, device=device)
            some = rows[chosen.to(rows.device)].to(device)
            x, weights = _masked(head, some, schedule, generator)
            loss = _objective(head, backbone, some, x, weights, team, learning_rate > 0)
            for optimizer in optimizers:
                optimizer.zero_grad(set_to_none=True)
            loss.backward()
            team.add_up([w.grad for w in learned if w.grad is not None])
            clip_grad_norm_(backbone.parameters(), 1.0)
            for optimizer, decay in zip(optimizers, decays, strict=True):
                optimizer.step()
                decay.step()
            total = loss.detach().clone()
            team.add_up([total])
            losses.append(float(total))
            told.set_postfix(refresh=False, nats=f"{sum(losses[-20:]) / len(losses[-20:]):.3f}")
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

    Returns:
        Nats, as `fit_jointly` counts them.

    Examples:
        >>> import pcflow as pf
        >>> from pcflow_diffusion import Denoiser, DenoiserConfig
        >>> head = CircuitHead(pf.compile(pf.hmm(4, 2, pf.Categorical(5))), 5, "product")
        >>> denoiser = Denoiser(DenoiserConfig(5, width=16, depth=1, heads=2))
        >>> coupled_nats_over_time(head, denoiser, torch.randint(5, (20, 8))) > 0
        True
    """
    _check(head, backbone, rows)
    check_count("batch_size", batch_size)
    backbone.eval()
    rows = rows.to(head.model.device)
    generator = _begin(Team(), [], generator, rows.device)
    x, weights = _masked(head, rows, schedule, generator)
    batches = zip(rows.split(batch_size), x.split(batch_size), strict=True)
    nats = torch.cat([_nats(head, backbone, *batch, learns=False) for batch in batches])
    return float(weights.double() @ nats.double().to(weights.device) / _tokens(head, x, weights))


def _begin(
    team: Team, learned: list[Tensor], generator: torch.Generator | None, device: torch.device
) -> torch.Generator:
    """Give all processes the parameters of the first, and a source of the same draws."""
    where = None if generator is None else generator.device
    seed = torch.randint(2**62, (), generator=generator, device=where)
    team.follow_first([seed, *(w.detach() for w in learned)])
    return torch.Generator(device).manual_seed(int(seed))


def _masked(
    head: CircuitHead, rows: Tensor, schedule: str | Schedule, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Blocks [B, L] masked at times that are spread evenly, and the weights [B] of these times."""
    found = schedule_of(schedule)
    # not so early that hardly a token is masked
    times = sample_times(len(rows), generator).clamp(min=1 / head.length)
    ratio, x0 = found.mask_probability(times), rows[:, -head.length :]
    x = mask_tokens(x0, ratio.to(rows.device), head.mask_token_id, generator)
    return x, elbo_weights(times, schedule)


def _objective(
    head: CircuitHead,
    backbone: nn.Module,
    rows: Tensor,
    x: Tensor,
    weights: Tensor,
    team: Team,
    learns: bool,
) -> Tensor:
    """This process's share of the weighted nats per masked token, differentiable."""
    nats = _nats(head, backbone, team.share(rows), team.share(x), learns)
    return team.share(weights).to(nats) @ nats / _tokens(head, x, weights).clamp_min(1.0)


def _nats(head: CircuitHead, backbone: nn.Module, rows: Tensor, x: Tensor, learns: bool) -> Tensor:
    """Of every row -log q(x0 | x), [B]."""
    with torch.set_grad_enabled(learns):
        logits = block_logits(backbone, rows, x)
    return -head.log_prob(logits, x, rows[:, -head.length :])


def _tokens(head: CircuitHead, x: Tensor, weights: Tensor) -> Tensor:
    """The weighted number of masked tokens."""
    masked = (x == head.mask_token_id).sum(dim=1).to(weights.device)
    return weights.double() @ masked.double()


def _check(head: CircuitHead, backbone: nn.Module, rows: Tensor) -> None:
    check_kind("head", head, CircuitHead)
    check_kind("backbone", backbone, nn.Module)
    check_rows("rows", rows)
    if rows.shape[1] < head.length or len(rows) == 0:
        wanted = f"[N, C + {head.length}] with at least one row"
        raise ShapeMismatch(f"rows must be {wanted}, got {tuple(rows.shape)}")


def _check_learns(head: CircuitHead) -> None:
    """Refuse a head through which a backbone does not learn."""
    if isinstance(head.coupling, Projection):
        raise CouplingError(
            "the projection holds its potentials fixed: no gradient reaches the "
            "backbone; train with a log-linear coupling"
        )
