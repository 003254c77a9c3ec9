"""What a backbone is shown of texts, and what it says of them.

Legend: B batch, N positions of a text, b some rows, n some positions, V tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pcflow_diffusion.decode.prefix import Prefix
from pcflow_diffusion.models import Backbone, logits_of


@dataclass(frozen=True, eq=False)
class View:
    """How a backbone is asked.

    Attributes:
        backbone: who is asked.
        mask: the id of the mask.
        given: which tokens were there before anything was written, bool [B, N].
        attention_mask: which are no padding, [B, N], if the backbone is told.
        guidance: how far to go away from what it says without what was given.
        prefix: what it has computed of text that is final, if that is kept.
    """

    backbone: Backbone
    mask: int
    given: Tensor
    attention_mask: Tensor | None
    guidance: float
    prefix: Prefix | None = None

    def logits(self, tokens: Tensor, rows: Tensor, seen: slice, final: int) -> Tensor:
        """Logits [b, n, V] of tokens [b, n], which are some positions of some rows.

        Those before `final` will not change; a prefix that is kept has no logits for them.
        """
        attention = None if self.attention_mask is None else self.attention_mask[rows, seen]
        if self.guidance:
            blank = tokens.masked_fill(self.given[rows, seen], self.mask)
            tokens = torch.cat([tokens, blank])
            attention = None if attention is None else attention.repeat(2, 1)
        logits = self.ask(
            tokens, attention, (seen.start, rows.tolist()), max(0, final - seen.start)
        )
        if not self.guidance:
            return logits
        said, unsaid = logits.chunk(2)
        return guided(said, unsaid, self.guidance)

    def ask(self, tokens: Tensor, attention: Tensor | None, owner: object, final: int) -> Tensor:
        """Logits of tokens, of which the first few are final."""
        if self.prefix is None:
            return logits_of(self.backbone, tokens, attention)
        return self.prefix.logits(tokens, attention, owner, final)


def guided(said: Tensor, unsaid: Tensor, scale: float) -> Tensor:
    """Logits [..., V] that lie `scale` times as far from those without a condition as is said more.

    Tokens that are impossible without the condition are as probable as with it.

    Args:
        said: logits [..., V] given the condition.
        unsaid: logits [..., V] without it.
        scale: how much further; 0 changes nothing.

    Returns:
        Logits [..., V].

    Examples:
        >>> guided(torch.tensor([2.0, 0.0]), torch.tensor([1.0, -torch.inf]), scale=1.0)
        tensor([3., 0.])
    """
    return torch.where(unsaid == -torch.inf, said, unsaid + (scale + 1) * (said - unsaid))
