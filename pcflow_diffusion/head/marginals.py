"""What a backbone says of single positions, as decoders and couplings take it.

Legend: B batch, L positions, V tokens, k listed tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pcflow import Evidence
from pcflow_diffusion.errors import CouplingError


def without(logits: Tensor, tokens: Sequence[int]) -> Tensor:
    """Logits [..., V] with no mass on some tokens; ids outside of the vocabulary are no tokens.

    Examples:
        >>> without(torch.zeros(3), [1, 3, -1])
        tensor([0., -inf, 0.])
    """
    never = [token for token in tokens if 0 <= token < logits.shape[-1]]
    if not never:
        return logits
    return logits.index_fill(-1, torch.tensor(never, device=logits.device), -torch.inf)


def truncate(log_m: Tensor, top_k: int | None, top_p: float | None) -> Tensor:
    """Log-marginals [..., V] of the most probable tokens alone, normalised again.

    Args:
        log_m: normalised log-probabilities.
        top_k: keep so many.
        top_p: keep the fewest whose mass is at least this.

    Examples:
        >>> log_m = torch.tensor([0.5, 0.3, 0.2]).log()
        >>> truncate(log_m, top_k=2, top_p=None).exp()
        tensor([0.6250, 0.3750, 0.0000])
    """
    if top_k is None and top_p is None:
        return log_m
    ordered, place = log_m.sort(dim=-1, descending=True, stable=True)
    gone = torch.zeros_like(ordered, dtype=torch.bool)
    if top_k is not None:
        gone[..., top_k:] = True
    if top_p is not None:
        before = ordered.exp().cumsum(dim=-1) - ordered.exp()
        gone |= before >= top_p
    gone[..., 0] = False
    kept = ordered.masked_fill(gone, -torch.inf)
    return torch.empty_like(kept).scatter(-1, place, kept).log_softmax(dim=-1)


def log_marginals(
    logits: Tensor, visible: Tensor, mask_token_id: int, top_k: int | None, dtype: torch.dtype
) -> tuple[Tensor, Tensor | None]:
    """Normalised log-marginals without the mask, [B, L, V], even ones where visible.

    Args:
        logits: the backbone's, [B, L, V].
        visible: which positions are, bool [B, L].
        mask_token_id: the mask, which may be one of the V tokens.
        top_k: how many tokens to list at every position; None for all.
        dtype: of the result.

    Returns:
        [B, L, V] and None; or [B, L, k] and which tokens these are about, from the lowest up.

    Raises:
        CouplingError: if a masked position has no possible token.

    Examples:
        >>> logits, visible = torch.zeros(1, 1, 3), torch.tensor([[False]])
        >>> log_marginals(logits, visible, 0, None, torch.float32)[0].exp()
        tensor([[[0.0000, 0.5000, 0.5000]]])
    """
    logits, listed = _possible(logits, mask_token_id, top_k)
    logits = logits.to(dtype)
    if bool(visible.any()):  # going over all logits takes its time
        logits = logits.masked_fill(visible.unsqueeze(-1), 0.0)
    empty = logits.amax(dim=-1) == -torch.inf
    if bool(empty.any()):
        row, position = (int(i) for i in empty.nonzero()[0])
        raise CouplingError(f"logits: row {row}, position {position} leave no token possible")
    return logits.log_softmax(dim=-1), listed


def _possible(
    logits: Tensor, mask_token_id: int, top_k: int | None
) -> tuple[Tensor, Tensor | None]:
    """Logits with no mass on the mask [B, L, V]; or the k largest, and of which tokens."""
    if top_k is None or top_k >= logits.shape[-1]:
        return without(logits, [mask_token_id]), None
    inside = 0 <= mask_token_id < logits.shape[-1]
    top = Evidence(log_potentials=logits).top_k(top_k + inside)
    assert top.log_potentials is not None and top.categories is not None
    if not inside:
        return top.log_potentials, top.categories
    masked = top.log_potentials.masked_fill(top.categories == mask_token_id, -torch.inf)
    place = torch.arange(top_k, device=logits.device)
    place = place + (place >= masked.argmin(dim=-1, keepdim=True))  # all but the lowest
    return masked.gather(-1, place), top.categories.gather(-1, place)
