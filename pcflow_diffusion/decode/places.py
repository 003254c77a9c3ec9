"""Where a circuit looks at a text, one window after another: the walk behind every draw.

Legend: B batch, N positions of a text, P texts between cuts, W width of a window, R windows that
are looked at together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pcflow_diffusion.decode.windows import ends, next_window, window_starts


@dataclass(frozen=True, eq=False)
class Look:
    """Windows of one width, no two of them of one text, and what is decided in them.

    Attributes:
        rows: [R, 1].
        places: [R, W].
        decided: bool [R, W]; what else is masked there is looked at, and decided later or never.

    Examples:
        >>> here = torch.tensor([[1, 2, 3]])
        >>> look = Look(torch.tensor([[0]]), here, decided=here > 1)
        >>> look.spread(torch.zeros(1, 5, dtype=torch.bool)).int()
        tensor([[0, 0, 1, 1, 0]], dtype=torch.int32)
    """

    rows: Tensor
    places: Tensor
    decided: Tensor

    def of(self, some: Tensor | Sequence[int] | slice) -> Look:
        """Some of the R windows.

        Args:
            some: which, by their places in 0..R - 1.
        """
        return Look(self.rows[some], self.places[some], self.decided[some])

    def spread(self, like: Tensor) -> Tensor:
        """What is decided, as flags of a text [B, N].

        Args:
            like: flags or tokens of such a text, for shape and device.
        """
        return torch.zeros_like(like).index_put((self.rows, self.places), self.decided)

    @property
    def before(self) -> Tensor:
        """The place before the first that is decided, or the first of the text, [R, 1]."""
        first = self.places.gather(-1, self.decided.byte().argmax(dim=-1, keepdim=True))
        return (first - 1).clamp_min(0)


def looks(
    wanted: Tensor,
    visible: Tensor,
    text: Tensor,
    width: int,
    context: int | None = None,
    shown: float = 0.0,
) -> Iterator[Look]:
    """Windows from left to right, until everything wanted is decided.

    Args:
        wanted: which masked tokens are to be decided, bool [B, N].
        visible: which tokens are known, bool [B, N].
        text: where windows may lie, bool [B, N]. A gap cuts a row into texts of their own, which
            see nothing of one another.
        width: W, of the circuit; in a text that is shorter, windows are as wide as the text.
        context: how many tokens a window shows at most to the left of what it decides; None for as
            many as there is room for. With zero, windows are the fewest.
        shown: which share of a window is kept for what is known to the left, one token at least,
            if there is any.

    Returns:
        The windows, one after another.

    Examples:
        >>> wanted = torch.tensor([[False, True, True, True, True, True, True]])
        >>> seen = looks(wanted, ~wanted, torch.ones_like(wanted), width=4)
        >>> [look.places[look.decided].tolist() for look in seen]
        [[1, 2, 3], [4, 5, 6]]
    """
    if not wanted.shape[1]:
        return
    device = wanted.device
    rows, wanted, visible, text = _texts(wanted.cpu(), visible.cpu(), text.cpu())  # waits once
    first, last = ends(text)
    widths = (last - first + 1).clamp_max(width)
    for own in widths.unique().tolist():
        those = (widths == own).nonzero().squeeze(-1)
        room = own + 1 - max(int(own * shown), 1)  # of a token that is known, and new ones
        rounds = _rounds(wanted[those], visible[those], own, room, context)
        for some, starts, decided in rounds:
            here = those[some]
            start = starts.minimum(last[here] + 1 - own).unsqueeze(-1)
            places = start + torch.arange(own)
            inside = decided.gather(-1, places)
            yield Look(*(t.to(device) for t in (rows[here].unsqueeze(-1), places, inside)))


def _texts(wanted: Tensor, visible: Tensor, text: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The rows [P] of texts in which anything is wanted, and of these the same flags [P, N]."""
    cuts, row = (~text).cumsum(dim=-1), torch.arange(len(text)).unsqueeze(-1)
    number = row * (text.shape[1] + 1) + cuts  # of a text, [B, N]
    own = number[wanted].unique()
    rows = own // (text.shape[1] + 1)
    inside = text[rows] & (number[rows] == own.unsqueeze(-1))
    return rows, wanted[rows] & inside, visible[rows] & inside, inside


def _rounds(
    wanted: Tensor, visible: Tensor, width: int, room: int, context: int | None
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Texts [R], where their windows begin at the latest [R], and what is decided there [R, N]."""
    wanted, visible = wanted.clone(), visible.clone()
    near = room - 1 if context is None else min(context, room - 1)
    while wanted.any():
        rows = wanted.any(dim=-1).nonzero().squeeze(-1)
        known = visible[rows]
        decided = next_window(wanted[rows], known, room, near)
        yield rows, window_starts(decided, known, width, context), decided
        wanted[rows] &= ~decided
        visible[rows] |= decided
