"""Region graphs for images: a grid quartered again and again, or cut everywhere.

Variables are pixels in row-major order.
"""

from collections.abc import Callable, Iterator
from itertools import product

from pcflow.errors import StructureError
from pcflow.structure.region_graph import Partition, Region, RegionGraph

Box = tuple[int, int, int, int]  # top, left, bottom, right; the last two exclusive


def quad_tree(shape: tuple[int, int]) -> RegionGraph:
    """Split every patch into its four quarters (two halves where a side has length one).

    Mari et al. 2023, Loconte et al. 2024.

    Args:
        shape: height and width of the image; any sizes, also odd and 1 x n.

    Returns:
        The region graph.

    Raises:
        StructureError: if a side is below 1.

    Examples:
        >>> rg = quad_tree((4, 4))
        >>> len(rg.partitions), len(rg.partitions[0].parts)
        (5, 4)
    """
    return _graph(shape, lambda box: [_quarters(box)])


def quad_graph(shape: tuple[int, int]) -> RegionGraph:
    """Split every patch both ways, into left and right and into top and bottom, sharing patches.

    Args:
        shape: height and width of the image; any sizes, also odd and 1 x n.

    Returns:
        The region graph.

    Raises:
        StructureError: if a side is below 1.

    Examples:
        >>> rg = quad_graph((2, 2))
        >>> len(rg.splits(rg.root))
        2
    """
    return _graph(shape, _both_halvings)


def poon_domingos(shape: tuple[int, int], delta: int = 1) -> RegionGraph:
    """Split every patch along every line of a grid, both ways, sharing patches.

    Poon and Domingos 2011. The number of patches grows with the fourth power of the number of
    lines, so large images need a large `delta`; patches without a line inside are leaves.

    Args:
        shape: height and width of the image.
        delta: distance between lines.

    Returns:
        The region graph.

    Raises:
        StructureError: if a side or `delta` is below 1.

    Examples:
        >>> rg = poon_domingos((1, 3))
        >>> [[part.variables for part in split.parts] for split in rg.splits(rg.root)]
        [[(0,), (1, 2)], [(0, 1), (2,)]]
    """
    if delta < 1:
        raise StructureError(f"delta must be at least 1, got {delta}")
    return _graph(shape, lambda box: list(_cuts(box, delta)))


def _graph(shape: tuple[int, int], ways: Callable[[Box], list[list[Box]]]) -> RegionGraph:
    height, width = shape
    if height < 1 or width < 1:
        raise StructureError(f"shape must be at least 1 x 1, got {height} x {width}")
    whole = (0, 0, height, width)
    boxes, partitions = [whole], []
    seen = {whole}
    for box in boxes:  # grows while it is read
        for parts in ways(box):
            if len(parts) < 2:
                continue
            regions = tuple(_region(part, width) for part in parts)
            partitions.append(Partition(_region(box, width), regions))
            boxes += [part for part in parts if part not in seen]
            seen.update(parts)
    return RegionGraph(_region(whole, width), partitions)


def _quarters(box: Box) -> list[Box]:
    top, left, bottom, right = box
    rows, columns = list(_halves(top, bottom)), list(_halves(left, right))
    return [(t, x, b, r) for (t, b), (x, r) in product(rows, columns)]


def _both_halvings(box: Box) -> list[list[Box]]:
    top, left, bottom, right = box
    side_by_side = [(top, x, bottom, r) for x, r in _halves(left, right)]
    stacked = [(t, left, b, right) for t, b in _halves(top, bottom)]
    return [side_by_side, stacked]


def _cuts(box: Box, delta: int) -> Iterator[list[Box]]:
    top, left, bottom, right = box
    for x in range(left - left % delta + delta, right, delta):
        yield [(top, left, bottom, x), (top, x, bottom, right)]
    for y in range(top - top % delta + delta, bottom, delta):
        yield [(top, left, y, right), (y, left, bottom, right)]


def _halves(start: int, stop: int) -> Iterator[tuple[int, int]]:
    middle = (start + stop) // 2
    yield from ((a, b) for a, b in ((start, middle), (middle, stop)) if a < b)


def _region(box: Box, width: int) -> Region:
    top, left, bottom, right = box
    return Region(y * width + x for y in range(top, bottom) for x in range(left, right))
