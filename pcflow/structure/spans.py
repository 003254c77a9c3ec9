"""Sets of numbers as spans: what many numbers in a row take no room for."""

from __future__ import annotations

from collections.abc import Iterable

Span = tuple[int, int]
"""Variables from the first number up to the second one, which is not among them."""


def joined(spans: Iterable[Span]) -> tuple[Span, ...] | None:
    """The union of spans, as few as can be.

    Args:
        spans: in any order.

    Returns:
        Spans in rising order, that do not touch; None if two of the given ones overlap.

    Examples:
        >>> joined([(3, 5), (0, 1), (1, 2)])
        ((0, 2), (3, 5))
    """
    found: list[Span] = []
    for start, stop in sorted(spans):
        if found and start < found[-1][1]:
            return None
        if found and start == found[-1][1]:
            found[-1] = found[-1][0], stop
        else:
            found.append((start, stop))
    return tuple(found)
