"""What a backbone says of masked positions, as a coupling takes it.

Legend: B batch, L positions, V tokens, k listed tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pcflow import Evidence
from pcflow_diffusion.errors import CouplingError


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
    size, device = logits.shape[-1], logits.device
    inside = 0 <= mask_token_id < size
    if top_k is None or top_k >= size:
        never = torch.tensor([mask_token_id], device=device)
        return logits.index_fill(-1, never, -torch.inf) if inside else logits, None
    top = Evidence(log_potentials=logits).top_k(top_k + inside)
    assert top.log_potentials is not None and top.categories is not None
    if not inside:
        return top.log_potentials, top.categories
    masked = top.log_potentials.masked_fill(top.categories == mask_token_id, -torch.inf)
    place = torch.arange(top_k, device=device)
    place = place + (place >= masked.argmin(dim=-1, keepdim=True))  # all but the lowest
    return masked.gather(-1, place), top.categories.gather(-1, place)
