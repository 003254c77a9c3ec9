"""Which spans of a sequence the circuit covers: the fewest windows that hold chosen positions.

Legend: L positions, W width of a window.
"""

from __future__ import annotations

from collections.abc import Iterable

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
        SettingError: if `width` is below 1; TypeMismatch: if a number is not whole.

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
