"""Which positions to commit first.

Legend: B batch, L positions, V tokens.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from pcflow_diffusion.checks import check_choice, check_generator

Ranking = Literal["random", "low_confidence", "margin", "entropy"]


def check_ranking(ranking: str) -> None:
    """Refuse an unknown ranking.

    Args:
        ranking: a name.

    Raises:
        SettingError: naming those that there are.

    Examples:
        >>> check_ranking("entropy")
    """
    check_choice("ranking", ranking, get_args(Ranking))


def rank(
    ranking: Ranking,
    log_q: Tensor,
    chosen: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """How much each position [B, L] is preferred.

    Args:
        ranking: "low_confidence" prefers the most probable token, "margin" the largest distance
            between the two best tokens, "entropy" the lowest entropy, "random" any position.
        log_q: log-marginals [B, L, V], or [B, L, k] of the only tokens that are possible.
        chosen: log-probabilities [B, L] that count as confidence, of tokens that were drawn; those
            of the best tokens by default.
        generator: source of randomness; torch's global one by default.

    Returns:
        Numbers [B, L], the larger the sooner.

    Examples:
        >>> log_q = torch.tensor([[[0.9, 0.1], [0.6, 0.4]]]).log()
        >>> rank("margin", log_q)
        tensor([[0.8000, 0.2000]])
    """
    match ranking:
        case "random":
            check_generator(generator, log_q.device)
            return torch.rand(log_q.shape[:-1], generator=generator, device=log_q.device)
        case "low_confidence":
            return log_q.amax(dim=-1) if chosen is None else chosen
        case "margin":
            best = log_q.exp().topk(min(2, log_q.shape[-1]), dim=-1).values  # [B, L, 2]
            return best[..., 0] - best[..., 1:].sum(dim=-1)
        case "entropy":
            entropy: Tensor = torch.special.entr(log_q.exp()).sum(dim=-1)
            return -entropy


def best(score: Tensor, masked: Tensor, count: Tensor) -> Tensor:
    """The `count` [B] masked positions of highest score, bool [B, L].

    Args:
        score: how much each position is preferred, [B, L].
        masked: those that may be taken, bool [B, L].
        count: how many of each row, [B].

    Returns:
        The positions, bool [B, L].

    Examples:
        >>> score, masked = torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([[False, True, True]])
        >>> best(score, masked, torch.tensor([1]))
        tensor([[False, False,  True]])
    """
    order = score.masked_fill(~masked, -torch.inf).argsort(dim=-1, descending=True, stable=True)
    return (order.argsort(dim=-1) < count.unsqueeze(-1)) & masked
