"""Random balanced binary trees, the structure of RAT-SPNs (Peharz et al. 2019)."""

import random
from collections.abc import Iterator

from pcflow.errors import StructureError
from pcflow.structure.region_graph import Partition, Region, RegionGraph


def random_binary_tree(
    num_variables: int, depth: int | None = None, replicas: int = 1, seed: int = 0
) -> RegionGraph:
    """Recursive random halvings of the variables, `replicas` of them sharing root and leaves.

    Args:
        num_variables: number of variables.
        depth: how often to halve; None halves down to single variables.
        replicas: number of independent trees under the common root.
        seed: seed of the splits; the same seed gives the same graph.

    Returns:
        The region graph.

    Raises:
        StructureError: if an argument is below 1 (`depth`: below 0).

    Examples:
        >>> rg = random_binary_tree(8, depth=2, seed=1)
        >>> [len(region) for region in rg.leaves]
        [2, 2, 2, 2]
    """
    if num_variables < 1 or replicas < 1 or (depth is not None and depth < 0):
        raise StructureError(
            "num_variables and replicas must be at least 1 and depth at least 0, got "
            f"{num_variables}, {replicas} and {depth}"
        )
    generator = random.Random(seed)
    root = Region(range(num_variables))
    levels = num_variables if depth is None else depth
    halvings = (p for _ in range(replicas) for p in _halve(root, levels, generator))
    return RegionGraph(root, halvings)


def _halve(region: Region, levels: int, generator: random.Random) -> Iterator[Partition]:
    if levels == 0 or len(region) == 1:
        return
    shuffled = generator.sample(region.variables, len(region))
    middle = len(region) // 2
    parts = (Region(shuffled[:middle]), Region(shuffled[middle:]))
    yield Partition(region, parts)
    for part in parts:
        yield from _halve(part, levels - 1, generator)
