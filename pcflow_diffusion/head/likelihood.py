"""How probable tokens are under a coupled joint.

Legend: B batch, L positions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pcflow import Batch, CompiledCircuit, Evidence, Given
from pcflow_diffusion.head.controls import with_tokens
from pcflow_diffusion.head.coupling import log_potentials_of


def log_prob_of(
    model: CompiledCircuit | Given,
    coupled: Evidence,
    tokens: Tensor,
    asked: Tensor,
    alone: Tensor,
) -> Tensor:
    """Log q [B] (nats) of tokens [B, L], where asked.

    Args:
        model: the circuit, or the circuit given a rule.
        coupled: the evidence that couples it.
        tokens: the visible ones, and those to judge.
        asked: which count, the others being summed out, bool [B, L].
        alone: log-probability of those that are not possible there, each by itself, [B, L].
    """
    rows, known = told_of(coupled, tokens, asked)
    return rows.log_prob(model) + alone.masked_fill(known | ~asked, 0.0).sum(dim=-1)


def told_of(coupled: Evidence, tokens: Tensor, asked: Tensor | bool = True) -> tuple[Batch, Tensor]:
    """Rows about the tokens that are asked for and possible, and at which positions [B, L]."""
    potentials = log_potentials_of(coupled, tokens)  # [B, L]
    known = (potentials > -torch.inf) & asked
    total = potentials.masked_fill(~known, 0.0).sum(dim=-1)
    return Batch(with_tokens(coupled, tokens, known), coupled, total), known
