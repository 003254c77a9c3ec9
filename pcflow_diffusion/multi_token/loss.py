"""What a head learns from: the tokens that follow, and what the model says of each of them.

Legend: B batch, n tokens, V tokens of the vocabulary, W width of the hidden state.
"""

from __future__ import annotations

import torch
from torch import Tensor

import pcflow as pf
from pcflow import SettingError
from pcflow_diffusion.checks import check_generator
from pcflow_diffusion.errors import ShapeMismatch
from pcflow_diffusion.multi_token.head import MultiTokenHead, before, next_log_probs

SMALLEST = -80.0
"""Logarithms that float32 can hold the inverse of."""


def multi_token_loss(
    head: MultiTokenHead,
    hidden: Tensor,
    tokens: Tensor,
    teacher_log_p: Tensor | None = None,
    *,
    discount: float = 0.9,
    distillation: float = 0.5,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Nats per token of what follows, and how far the head is from the model, discounted.

    Token j counts by discount^(j - 1). The first part is the cross-entropy of the head's
    conditionals. The second is KL(p || q) of the model's next token from the head's, both given the
    same text, at one place of every row that is drawn by these weights: its mean is that of all
    places. Differentiable in the head and in the hidden states, so that the model may learn, too.

    Args:
        head: says q.
        hidden: of the text before the first of the tokens, [B, W].
        tokens: those that follow, [B, n].
        teacher_log_p: the model's log-probabilities (nats) of each, given all before, [B, n, V].
            Without them there is no second part.
        discount: in (0, 1].
        distillation: the share of the second part.
        generator: source of the places; torch's global one by default.

    Raises:
        ShapeMismatch: if shapes do not fit together.
        SettingError: if a number is out of range.

    Examples:
        >>> head = MultiTokenHead(torch.nn.Linear(8, 5), length=3, states=2, rank=4)
        >>> loss = multi_token_loss(head, torch.zeros(2, 8), torch.tensor([[0, 4, 1], [3, 3, 2]]))
        >>> loss.backward()
    """
    SettingError.check("discount", discount, "in (0, 1]", lambda share: 0 < share <= 1)
    SettingError.check("distillation", distillation, "in [0, 1]", lambda share: 0 <= share <= 1)
    check_generator(generator, tokens.device)
    parameters = head.circuit_parameters(hidden)
    log_q = head.model.conditionals(tokens, parameters=parameters)  # [B, n]
    weight = discount ** torch.arange(head.length, device=log_q.device, dtype=log_q.dtype)
    weight = weight / weight.sum()
    nats = -(log_q @ weight).mean()
    if teacher_log_p is None:
        return nats
    if teacher_log_p.shape[:2] != tokens.shape or teacher_log_p.dim() != 3:
        wanted = f"[{len(tokens)}, {head.length}, V]"
        raise ShapeMismatch(f"teacher_log_p must be {wanted}, got {tuple(teacher_log_p.shape)}")
    place = torch.multinomial(weight, len(tokens), replacement=True, generator=generator)  # [B]
    rows = torch.arange(len(tokens), device=place.device)
    away = divergence(head.model, parameters, tokens, place, teacher_log_p[rows, place])
    return torch.lerp(nats, away.mean(), distillation)


def divergence(
    model: pf.CompiledCircuit,
    parameters: dict[str, Tensor],
    tokens: Tensor,
    place: Tensor,
    log_p: Tensor,
) -> Tensor:
    """KL(p || q) (nats) of every row [B], for p [B, V] and the circuit's conditional q there.

    Its gradient is that of -sum_v p(v) log q(v). As soft evidence p / q, held fixed, has the mass
    sum_v q(v) p(v) / q(v) = 1, the logarithm of that mass has this gradient, whatever V is.
    """
    log_p = log_p.detach().to(model.dtype)
    log_q = next_log_probs(model, parameters, tokens, place).clamp(min=SMALLEST)  # [B, V]
    known = before(tokens, place)
    soft = log_p.new_zeros(*tokens.shape, log_p.shape[-1])  # [B, n, V]; elsewhere ones
    soft[torch.arange(len(place), device=place.device), place] = log_p - log_q
    weighed = pf.Evidence(known.values, known.missing, soft)
    mass = model.log_prob(weighed, parameters=parameters) - model.log_prob(
        known, parameters=parameters
    )
    value = torch.where(log_p > -torch.inf, log_p.exp() * (log_p - log_q), 0.0).sum(dim=-1)  # [B]
    return value - (mass - mass.detach())
