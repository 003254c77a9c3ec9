"""Where the circuit looks at a text that is longer than it, one window after another.

Legend: B batch, N positions of a text, W width of a window, R rows that are looked at together.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from pcflow_diffusion.decode import next_window, window_starts


@dataclass(frozen=True, eq=False)
class Look:
    """Windows of one width, one in each of some rows, and what is decided in them.

    Attributes:
        rows: [R, 1].
        places: [R, W].
        decided: bool [R, W]; what else is masked there is looked at, and decided later or never.
    """

    rows: Tensor
    places: Tensor
    decided: Tensor

    @property
    def before(self) -> Tensor:
        """The place before the first that is decided, or the first of the text, [R, 1]."""
        first = self.places.gather(-1, self.decided.byte().argmax(dim=-1, keepdim=True))
        return (first - 1).clamp_min(0)


def looks(wanted: Tensor, visible: Tensor, strange: Tensor, width: int) -> Iterator[Look]:
    """Windows from left to right, until everything wanted is decided.

    A quarter of each is kept for what is known before, if there is anything, and more if there is
    room for it. A row is cut at strange tokens into texts of their own.

    Args:
        wanted: which masked tokens are to be decided, bool [B, N].
        visible: which tokens are known, bool [B, N]. What lies left and right of everything wanted
            or visible is padding: no window touches it.
        strange: which tokens the circuit does not know, bool [B, N]: no window touches them.
        width: W, of the circuit; in a text that is shorter, windows are as wide as the text.

    Examples:
        >>> wanted = torch.tensor([[False, True, True, True, True, True]])
        >>> seen = looks(wanted, ~wanted, torch.zeros_like(wanted), width=4)
        >>> [look.places[look.decided].tolist() for look in seen]
        [[1, 2, 3], [4, 5]]
    """
    if not wanted.shape[1]:
        return
    device, (wanted, visible, strange) = (
        wanted.device,
        (t.cpu() for t in (wanted, visible, strange)),
    )
    cut = strange.cumsum(dim=-1)  # one wait for all rounds
    rows, which = torch.stack([wanted.nonzero()[:, 0], cut[wanted]]).unique(dim=1)
    inside = (cut[rows] == which.unsqueeze(-1)) & ~strange[rows]
    wanted, visible = wanted[rows] & inside, visible[rows] & inside
    text = wanted | visible
    last = text.shape[1] - 1 - text.flip(-1).byte().argmax(dim=-1)
    widths = (last - text.byte().argmax(dim=-1) + 1).clamp_max(width)
    for own in widths.unique().tolist():
        those = (widths == own).nonzero().squeeze(-1)
        group = wanted[those], visible[those], last[those] + 1 - own
        for some, starts, decided in _rounds(*group, own):
            places = starts.unsqueeze(-1) + torch.arange(own)
            here, own_rows = decided.gather(-1, places), rows[those[some]].unsqueeze(-1)
            yield Look(own_rows.to(device), places.to(device), here.to(device))


def _rounds(
    wanted: Tensor, visible: Tensor, latest: Tensor, width: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Rows [R], where their windows begin [R], and what is decided there [R, N]."""
    wanted, visible = wanted.clone(), visible.clone()
    share = width + 1 - max(width // 4, 1)  # of a window: a token that is known, and new ones
    while wanted.any():
        rows = wanted.any(dim=-1).nonzero().squeeze(-1)
        known = visible[rows]
        decided = next_window(wanted[rows], known, share, share - 1)
        yield rows, window_starts(decided, known, width).minimum(latest[rows]), decided
        wanted[rows] &= ~decided
        visible[rows] |= decided
