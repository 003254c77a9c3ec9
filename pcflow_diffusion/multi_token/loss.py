"""What a head learns from: the tokens that follow, and what the model says of each of them.

Legend: B batch, n tokens, V tokens of the vocabulary, W width of the hidden state.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pcflow import SettingError
from pcflow_diffusion.checks import check_kind, check_real, check_rows, check_tokens
from pcflow_diffusion.errors import ShapeMismatch
from pcflow_diffusion.multi_token.head import MultiTokenHead


def multi_token_loss(
    head: MultiTokenHead,
    hidden: Tensor,
    tokens: Tensor,
    teacher_log_p: Tensor,
    *,
    discount: float = 0.9,
    distillation: float = 0.5,
) -> Tensor:
    """Nats per token of what follows, and how far the head is from the model, discounted.

    Token j counts by discount^(j - 1). The first part is the cross-entropy of the head's
    conditionals, -log q(x_j | x_<j), the second KL(p || q) of the model's next token from the
    head's, both given the same text. Differentiable in the head and in the hidden states, so that
    the model may learn, too; what it teaches is held fixed.

    Args:
        head: says q.
        hidden: of the text before the first of the tokens, [B, W].
        tokens: those that follow, [B, n].
        teacher_log_p: the model's log-probabilities (nats) of each, given all before, [B, n, V].
        discount: in (0, 1].
        distillation: the share of the second part; with 0 what the model says is not read.

    Returns:
        The loss, a scalar [] in nats per token.

    Raises:
        ShapeMismatch: if shapes do not fit together, or there is no row.
        SettingError: if a number is out of range.

    Examples:
        >>> head = MultiTokenHead(torch.nn.Linear(8, 5), length=3, states=2, rank=4)
        >>> hidden, tokens = torch.zeros(2, 8), torch.tensor([[0, 4, 1], [3, 3, 2]])
        >>> flat = torch.full((2, 3, 5), 0.2).log()
        >>> bool(multi_token_loss(head, hidden, tokens, flat) > 0)
        True
    """
    SettingError.check("discount", discount, "in (0, 1]", lambda share: 0 < share <= 1)
    SettingError.check("distillation", distillation, "in [0, 1]", lambda share: 0 <= share <= 1)
    check_kind("head", head, MultiTokenHead)
    check_rows("tokens", tokens, head.length)
    if len(tokens) == 0:
        raise ShapeMismatch("tokens must have at least one row: of none there is no mean")
    check_real("hidden", hidden, len(tokens), head.width)
    size = head.unembedding.out_features
    check_tokens("tokens", tokens, size)
    check_real("teacher_log_p", teacher_log_p, *tokens.shape, size)
    log_q = head.next_log_probs(hidden, tokens)  # [B, n, V]
    nats = -log_q.gather(-1, tokens.long().unsqueeze(-1)).squeeze(-1)  # [B, n]
    log_p = teacher_log_p.detach().to(log_q)
    possible = log_p > -torch.inf
    away = (log_p.exp() * (log_p - log_q).where(possible, 0.0)).sum(dim=-1)  # [B, n]
    weight = discount ** torch.arange(head.length, device=log_q.device, dtype=log_q.dtype)
    mean = torch.lerp(nats, away, distillation).mean(dim=0) if distillation else nats.mean(dim=0)
    return mean @ weight / weight.sum()
