"""Which spans of a text the circuit covers, and how much of what is known around them.

Legend: B batch, N positions of a text, W width of a window.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn.functional import pad

from pcflow_diffusion.checks import check_count, check_id, check_ids
from pcflow_diffusion.errors import WindowError


def minimum_cover(positions: Iterable[int], width: int, start: int, stop: int) -> list[range]:
    """The fewest windows of `width` positions that hold all the given ones (CoDD, Algorithm 2).

    From left to right, a window begins at the first position that none holds yet: no cover has
    fewer (every window holds at most one of these firsts). One that would reach past `stop` is
    moved to the left, and one that would then reach past `start` is cut: windows never leave
    [start, stop), so never touch a prompt that ends at `start`. They may overlap.

    Args:
        positions: what to hold, in any order, each in [start, stop).
        width: W, at least 1.
        start: where windows may begin.
        stop: where they must have ended.

    Returns:
        The windows, from left to right.

    Raises:
        WindowError: if a position lies outside.
        SettingError: if `width` is below 1.
        TypeMismatch: if a number is not whole.

    Examples:
        >>> minimum_cover([3, 5, 9], width=4, start=2, stop=11)
        [range(3, 7), range(7, 11)]
    """
    wanted = sorted(set(check_ids("positions", positions)))
    start, stop = check_id("start", start), check_id("stop", stop)
    check_count("width", width)
    if wanted and not start <= wanted[0] <= wanted[-1] < stop:
        raise WindowError(f"positions must lie in [{start}, {stop}), got {wanted}")
    windows: list[range] = []
    for position in wanted:
        if not windows or position >= windows[-1].stop:
            first = max(start, min(position, stop - width))
            windows.append(range(first, min(first + width, stop)))
    return windows


def window_starts(
    wanted: Tensor, visible: Tensor, width: int, context: int | None = None
) -> Tensor:
    """Where in every row a window begins that holds what is wanted and what is known around it.

    What is left of its width shows visible text: the nearest tokens on both sides if they fit, else
    half of it on either side; what a side has no use for is the other's. Windows stay inside of the
    text.

    Args:
        wanted: which positions it holds, bool [B, N]: at least one in every row, and none further
            apart than the window is wide.
        visible: which tokens are known, bool [B, N].
        width: W, at most N.
        context: how many tokens it shows on the left of what is wanted, at most, if the text does
            not end before; None for as many as there is room for.

    Returns:
        The first position of every row's window, [B].

    Raises:
        WindowError: if a row wants nothing, or more than a window holds.

    Examples:
        >>> text = torch.tensor([[5, 5, 5, 9, 9, 5, 5, 5]])
        >>> window_starts(text == 9, text != 9, width=4)
        tensor([2])
    """
    first, last = ends(wanted)
    spare = width - 1 - (last - first)  # [B]
    if not bool((wanted.any(dim=-1) & (spare >= 0)).all()):
        raise WindowError(f"every row must want positions that a window of {width} holds")
    places = torch.arange(wanted.shape[1], device=wanted.device)
    before, after = first.unsqueeze(-1) - places, places - last.unsqueeze(-1)  # [B, N]
    near_left, near_right = (_nearest(side, visible) for side in (before, after))
    most = torch.maximum(spare // 2, torch.minimum(near_right, spare - near_left))
    right = _farthest(after, visible, most)
    room = (spare - right).clamp_max(width if context is None else context)
    left = _farthest(before, visible, room)
    return (first - left).clamp_max(len(places) - width)


def ends(wanted: Tensor) -> tuple[Tensor, Tensor]:
    """The first and the last place [B] of those that are wanted [B, N]."""
    last = wanted.shape[1] - 1 - wanted.flip(-1).byte().argmax(dim=-1)
    return wanted.byte().argmax(dim=-1), last


def next_window(needed: Tensor, visible: Tensor, width: int, context: int) -> Tensor:
    """Which of the positions that are still to be drawn the next window decides, from the left.

    As many as there is room for beside the visible token before them. A stretch of masks that ends
    in a visible token belongs in one window with it. One too long for that is drawn a quarter of
    the room at a time, so that most of it sees its end.

    Args:
        needed: what is to be drawn, bool [B, N].
        visible: which tokens are known or drawn, bool [B, N].
        width: how many positions a window has, W.
        context: how many tokens a window shows at most of what is before; with zero it decides as
            many positions as it holds.

    Returns:
        Some of what is needed, in every row that needs any; bool [B, N].
    """
    first, _ = ends(needed)
    places = torch.arange(needed.shape[1], device=needed.device)
    before, after = neighbours(visible)
    begin = before.gather(-1, first.unsqueeze(-1)).squeeze(-1)  # [B]
    begin = begin.where((begin >= 0) & (first - begin <= context), first)
    stop = (begin + width).unsqueeze(-1)
    held = needed & (places < stop)
    sees = held & ((after < stop) | (after == len(places)))
    share = ((begin + width - first) // 4).clamp_min(1)
    few = held & (places < (first + share).unsqueeze(-1))
    return sees.where(sees.any(dim=-1, keepdim=True), few) if context else held


def bridges(commit: Tensor, visible: Tensor, text: Tensor, width: int) -> Tensor:
    """Positions [B, N] that are drawn besides, so that what is committed hangs together.

    These are masked and lie in one text between two tokens which are visible or committed, at least
    one of them committed, if no window holds both, or not both of the visible tokens around them.
    """
    held, cut = commit | visible, ~text
    (before, after), (left, right) = neighbours(held | cut), neighbours(visible | cut)
    between = _at(before, held) & _at(after, held)
    new = _at(before, commit) | _at(after, commit)
    known = _at(left, visible) & _at(right, visible)
    far = (after - before >= width) | (known & (right - left >= width))
    return text & ~held & between & new & far


def neighbours(held: Tensor) -> tuple[Tensor, Tensor]:
    """The last place that is held [B, N] up to every one, or -1, and the first from it on, or N."""
    places = torch.arange(held.shape[1], device=held.device).expand(held.shape)
    after = places.where(held, held.shape[1]).flip(-1).cummin(dim=-1).values.flip(-1)
    return places.where(held, -1).cummax(dim=-1).values, after


def _at(place: Tensor, held: Tensor) -> Tensor:
    """What is held [B, N], asked of places [B, N]; those before and after the text are not."""
    return pad(held, (1, 1)).gather(-1, place + 1)


def _nearest(distance: Tensor, visible: Tensor) -> Tensor:
    """The least distance above zero [B] of what is visible; of nothing, the length of the text."""
    return distance.where(visible & (distance > 0), distance.shape[1]).amin(dim=-1)


def _farthest(distance: Tensor, visible: Tensor, most: Tensor) -> Tensor:
    """The largest distance [B] up to `most` [B] of what is visible; zero if there is nothing."""
    return distance.where(visible & (distance <= most.unsqueeze(-1)), 0).amax(dim=-1).clamp_min(0)
