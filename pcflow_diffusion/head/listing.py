"""Which tokens a head considers at a position: all, the k most probable, or as many as it takes.

What a position lists depends on its own logits alone, so that no answer depends on what else is in
the batch.

Legend: B batch, L positions, V tokens, k listed tokens.
"""

from __future__ import annotations

from math import log
from typing import Literal

import torch
from torch import Tensor

from pcflow import Potentials
from pcflow_diffusion.checks import check_count

TopK = int | Literal["auto"] | None
"""So many tokens, "auto": as many as it takes, or None: all."""

LARGE = 16_384
"""A vocabulary of so many tokens is listed by itself.

Below, product and log-linear coupling read a table as quickly as a list (docs/diffusion.md
has the figures), and nothing need be left out.
"""

MOST = 1_024
"""At most so many tokens are listed by themselves."""

LEFT_OUT = 1e-4
"""So much of a position's mass may be left out, if no more than `MOST` tokens hold the rest."""

LOG2_E = 1 / log(2)
"""Powers of two are faster than those of e."""

AT_ONCE = {"cpu": 1 << 18}
"""Logits that are gone over at once: what fits a cache; elsewhere many more, for fewer launches."""


def check_top_k(top_k: object) -> None:
    """Refuse what is no `TopK`.

    Raises:
        SettingError: if it is a number below 1, or another word.
    """
    if top_k is not None and top_k != "auto":
        check_count("top_k", top_k)


def most_listed(top_k: TopK, vocabulary_size: int) -> int | None:
    """How many tokens are listed at most; None: all are taken, and none listed.

    Examples:
        >>> most_listed("auto", 500), most_listed("auto", 126_464), most_listed(256, 500)
        (None, 1024, 256)
    """
    if top_k == "auto":
        top_k = MOST if vocabulary_size >= LARGE else None
    return None if top_k is None or top_k >= vocabulary_size else top_k


def needed(top: Potentials, log_total: Tensor, masked: Tensor) -> Potentials:
    """Of listed tokens the fewest that leave no more than `LEFT_OUT` out, where masked [B, L].

    The list is as wide as the widest; what a position does not need of it is impossible.

    Args:
        top: logits of the listed tokens, [B, L, k].
        log_total: log of what all tokens add up to, [B, L].
        masked: where it matters.
    """
    log, total = top.log.detach(), log_total.detach()
    held = (log - total.unsqueeze(-1)).exp().sum(dim=-1)
    least = torch.full_like(held, -torch.inf)  # of what is needed: all, if all is not enough
    some = masked & (held >= 1 - LEFT_OUT)
    if bool(some.any()):
        least[some] = _least_needed(log[some], total[some])
    surplus = (log < least.unsqueeze(-1)) | ~masked.unsqueeze(-1)
    width = int((~surplus).sum(dim=-1).amax()) if surplus.numel() else 1
    few = top.like(top.log.masked_fill(surplus, -torch.inf))
    return few if width >= log.shape[-1] else few.top_k(max(1, width))


def _least_needed(log: Tensor, log_total: Tensor) -> Tensor:
    """The last of the largest logits [N, k] that together leave out no more than `LEFT_OUT`."""
    falling = log.sort(dim=-1, descending=True).values
    held = (falling - log_total.unsqueeze(-1)).exp().cumsum(dim=-1)
    count = (held < 1 - LEFT_OUT).sum(dim=-1, keepdim=True).clamp_max(log.shape[-1] - 1)
    return falling.gather(-1, count).squeeze(-1)


def log_sum(logits: Tensor, masked: Tensor, never: Tensor, peak: Tensor) -> Tensor:
    """Log of the sum of exp(logits - peak) [B, L] over all tokens but some, where masked.

    Args:
        logits: [B, L, V]; a few positions are gone over at a time.
        masked: bool [B, L]; what others come to means nothing, and they have no gradient.
        never: tokens that do not count.
        peak: about the largest that does, [B, L]; in whose precision it is.
    """
    most = AT_ONCE.get(logits.device.type, 1 << 26) // logits.shape[-1]
    some = max(1, min(most, logits.shape[1]))
    room = None if logits.requires_grad else peak.new_empty(some, logits.shape[-1])
    found = torch.empty_like(peak)
    lines = zip(logits, peak.unsqueeze(-1), masked.unsqueeze(-1), strict=True)
    for row, (line, top, counts) in enumerate(lines):
        parts = zip(line.split(some), top.split(some), counts.split(some), strict=True)
        sums = [_shares(a, b, c, never, room).sum(dim=-1) for a, b, c in parts]
        found[row] = torch.cat(sums)
    return found.log()


def _shares(
    logits: Tensor, peak: Tensor, masked: Tensor, never: Tensor, room: Tensor | None
) -> Tensor:
    """Powers [L, V] of logits less peaks [L, 1], in room that is there if no gradient is asked."""
    out = None if room is None else room[: len(logits)]
    log = torch.sub(logits, peak, out=out).mul_(LOG2_E)
    if room is None:  # a gradient would be NaN where that is visible, be it multiplied by zero
        log = log.masked_fill_(~masked, 0.0)
    log = log.index_fill_(-1, never, -torch.inf) if len(never) else log
    return log.exp2_()
