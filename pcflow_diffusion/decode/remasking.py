"""Second thoughts: which committed tokens to mask again.

Legend: B batch, N positions of a text, L positions of a block, R tokens that are judged, W width of
a window, V tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from pcflow import Evidence
from pcflow_diffusion.decode.windows import window_starts
from pcflow_diffusion.head import CircuitHead, best


def least_probable(log_prob: Tensor, committed: Tensor, share: float) -> Tensor:
    """The share of committed tokens [B, L] that are least probable, rounded down, bool [B, L].

    Examples:
        >>> log_prob = torch.tensor([[0.0, -3.0, -1.0, -2.0]])
        >>> least_probable(log_prob, log_prob < 0, share=0.7)
        tensor([[False,  True, False,  True]])
    """
    count = (committed.sum(dim=-1) * share).floor().long()
    return best(-log_prob, committed, count)


def log_prob_under_backbone(logits: Tensor, tokens: Tensor) -> Tensor:
    """Log-probability (nats) [B, L] of tokens [B, L] that a backbone sees, 0 if it says nothing.

    Of masks, and others that are outside of the vocabulary, it says nothing that means anything.
    """
    log_m = logits.float().log_softmax(dim=-1)  # [B, L, V]
    places = tokens.long().clamp(0, logits.shape[-1] - 1).unsqueeze(-1)
    return log_m.gather(-1, places).squeeze(-1).nan_to_num(0.0)


def log_prob_under_circuit(
    head: CircuitHead, tokens: Tensor, masked: Tensor, wanted: Tensor
) -> Tensor:
    """Log-probability (nats) [B, N] of wanted tokens given all that a circuit sees around each.

    In a window around it, masks and tokens that the circuit does not know summed out: what the
    window holds over what it holds without the token.

    Args:
        head: whose circuit.
        tokens: [B, N].
        masked: which of them are masked, bool [B, N].
        wanted: which to judge, bool [B, N]; others get 0, as does what is impossible either way.
    """
    rows, places = wanted.nonzero(as_tuple=True)  # [R]
    found = torch.zeros(wanted.shape, dtype=head.model.dtype, device=tokens.device)
    if len(rows) == 0:
        return found
    head = head.over(min(head.length, tokens.shape[1]))
    every = torch.arange(tokens.shape[1], device=tokens.device)
    unknown = masked | (tokens < 0) | (tokens >= head.vocabulary_size)
    start = window_starts(every == places.unsqueeze(-1), ~unknown[rows], head.length)
    window = start.unsqueeze(-1) + every[: head.length]  # [R, W]
    missing = unknown[rows.unsqueeze(-1), window]
    values = tokens[rows.unsqueeze(-1), window].masked_fill(missing, 0)
    own = window == places.unsqueeze(-1)
    with_it, without = (_log_prob(head, values, gone) for gone in (missing, missing | own))
    found[rows, places] = (with_it - without).nan_to_num(0.0)
    return found


def _log_prob(head: CircuitHead, values: Tensor, missing: Tensor) -> Tensor:
    """Log-probability (nats) [R] of tokens [R, W], with controls summed out."""
    behind = head.model.num_variables - head.length
    return head.model.log_prob(
        Evidence(pad(values, (0, behind)), pad(missing, (0, behind), value=True))
    )
