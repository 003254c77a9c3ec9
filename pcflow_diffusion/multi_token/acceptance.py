"""Speculative sampling: which drafted tokens stand, and what follows the last one that does.

A token that was drawn from q stands with probability min(1, p / q); in place of the first that does
not comes one from what p has more than q. The text then has the law of p, whatever q is (Leviathan
et al. 2023; Chen et al. 2023). Of a joint draft, q are its conditionals, each given the tokens
before.

Legend: B batch, n drafted tokens, V tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from pcflow_diffusion.checks import check_generator, check_real, check_rows, check_tokens
from pcflow_diffusion.errors import ShapeMismatch, TypeMismatch


class Accepted(NamedTuple):
    """What is kept of a draft.

    Attributes:
        kept: how many of its tokens stand, 0 to n, [B].
        token: what follows them: in place of the first that does not, or behind the last, [B].

    Examples:
        >>> kept, token = Accepted(kept=torch.tensor([2]), token=torch.tensor([7]))
    """

    kept: Tensor
    token: Tensor


def accept(
    draft: Tensor,
    log_q: Tensor,
    next_log_q: Callable[[Tensor], Tensor],
    verifier_log_p: Tensor,
    generator: torch.Generator | None = None,
) -> Accepted:
    """Keep as much of every draft as the verifier lets stand, and draw what follows.

    The law of the accepted tokens and the one that follows is exactly the verifier's. All rows go
    side by side; of q, one row of V numbers is asked for in each. Numbers of half precision are
    compared in single precision.

    Args:
        draft: tokens that were drawn, [B, n].
        log_q: of every one, given those before it, its log-probability in the draft (nats), [B, n].
        next_log_q: gives log-probabilities (nats) [B, V] of the draft's next token at positions [B]
            in 0..n-1, given its tokens before.
        verifier_log_p: the verifier's (nats), of every drafted token and of the one behind, each
            given all before, [B, n + 1, V].
        generator: source of randomness; torch's global one by default.

    Returns:
        The tokens that stand and the one behind them, and how many there are, [B].

    Raises:
        ShapeMismatch: if shapes do not fit together.
        TokenOutOfRange: if a token is not in 0..V-1.
        TypeMismatch: if tokens are no whole numbers, log-probabilities no numbers, or a row of the
            verifier's is no distribution.

    Examples:
        >>> p = torch.tensor([[[0.0, 1.0], [0.5, 0.5]]]).log()  # only token 1 may come first
        >>> flat = torch.full((1, 2), 0.5).log()
        >>> kept, token = accept(torch.tensor([[0]]), flat[:, :1], lambda position: flat, p)
        >>> kept.tolist(), token.tolist()
        ([0], [1])
    """
    _check(draft, log_q, next_log_q, verifier_log_p)
    check_generator(generator, draft.device)
    log_q, verifier_log_p = map(at_least_single, (log_q, verifier_log_p))
    chance = standing(draft, log_q, verifier_log_p)  # [B, n]
    luck = torch.rand(chance.shape, dtype=chance.dtype, device=chance.device, generator=generator)
    kept = (luck < chance).long().cumprod(dim=-1).sum(dim=-1)  # [B]
    follows = following(kept, next_log_q, verifier_log_p)  # [B, V]
    return Accepted(kept, torch.multinomial(follows, 1, generator=generator).squeeze(-1))


def standing(draft: Tensor, log_q: Tensor, verifier_log_p: Tensor) -> Tensor:
    """The probability that a token stands if all before it do, min(1, p / q), [B, n].

    Examples:
        >>> p = torch.tensor([[[0.25, 0.75], [0.5, 0.5]]]).log()
        >>> standing(torch.tensor([[0]]), torch.tensor([[0.5]]).log(), p)
        tensor([[0.5000]])
    """
    log_p = verifier_log_p[:, :-1].gather(-1, draft.unsqueeze(-1)).squeeze(-1)  # [B, n]
    never = log_p == -torch.inf  # even where q says the same, which would make NaN
    return (log_p - log_q).clamp(max=0.0).exp().masked_fill(never, 0.0)


def following(
    kept: Tensor, next_log_q: Callable[[Tensor], Tensor], verifier_log_p: Tensor
) -> Tensor:
    """The distribution of what follows so many tokens that stand, [B, V].

    What p has more than q, max(0, p - q), if the draft goes on there; p itself behind its end.

    Examples:
        >>> p = torch.tensor([[[0.2, 0.3, 0.5], [1.0, 0.0, 0.0]]]).log()
        >>> q = torch.tensor([[0.6, 0.3, 0.1]]).log()
        >>> following(torch.tensor([0]), lambda position: q, p)
        tensor([[0., 0., 1.]])
    """
    rows, last = torch.arange(len(kept), device=kept.device), verifier_log_p.shape[1] - 2
    p = verifier_log_p[rows, kept].exp()  # [B, V]
    log_q = check_real("what next_log_q gives", next_log_q(kept.clamp(max=last)), *p.shape)
    if bool(log_q.isnan().any()):
        raise TypeMismatch("what next_log_q gives must be logarithms, and some are no number")
    q = log_q.to(p).exp()  # [B, V]
    more = (p - q).clamp(min=0.0)
    mass = more.sum(dim=-1, keepdim=True)  # [B, 1]
    alike = mass <= 0  # by rounding only: where p is q, every token stands
    whole = alike | (kept > last).unsqueeze(-1)
    return torch.where(whole, p, more / mass.masked_fill(alike, 1.0))


def at_least_single(numbers: Tensor) -> Tensor:
    """In float32, if they are less: draws of half precision have another law.

    Examples:
        >>> at_least_single(torch.zeros(2).half()).dtype
        torch.float32
    """
    return numbers.to(torch.promote_types(numbers.dtype, torch.float32))


def tempered(log_p: Tensor, temperature: float) -> Tensor:
    """Distributions [..., V] to the power 1 / temperature; at zero, the most probable token.

    Examples:
        >>> tempered(torch.tensor([0.2, 0.8]).log(), 0.5).exp()
        tensor([0.0588, 0.9412])
        >>> tempered(torch.tensor([0.2, 0.8]).log(), 0)
        tensor([-inf, 0.])
    """
    if temperature == 1:
        return log_p
    if temperature > 0:
        return (log_p / temperature).log_softmax(dim=-1)
    best = log_p.argmax(dim=-1, keepdim=True)
    return torch.full_like(log_p, -torch.inf).scatter(-1, best, 0.0)


def are_distributions(log_p: Tensor) -> bool:
    """Whether logarithms [..., V] are numbers, and something is possible in each row.

    Examples:
        >>> are_distributions(torch.zeros(2).log())
        False
    """
    return bool(log_p.amax(dim=-1).isfinite().all())  # of what is no number, this is none


def _check(draft: Tensor, log_q: Tensor, next_log_q: object, verifier_log_p: Tensor) -> None:
    """Refuse what does not fit together."""
    check_rows("draft", draft)
    rows, count = draft.shape
    if count == 0:
        raise ShapeMismatch("draft must hold at least one token in a row")
    check_real("log_q", log_q, rows, count)
    check_real("verifier_log_p", verifier_log_p, rows, count + 1, "V")
    check_tokens("draft", draft, verifier_log_p.shape[-1])
    if bool(log_q.isnan().any()):
        raise TypeMismatch("log_q must be logarithms, and some are no number")
    if not are_distributions(verifier_log_p):
        raise TypeMismatch("verifier_log_p must be distributions: some are no number, or all -inf")
    if not callable(next_log_q):
        raise TypeMismatch(f"next_log_q must be a function, got {type(next_log_q).__name__}")
