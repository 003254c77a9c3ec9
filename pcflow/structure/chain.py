"""The two simplest region graphs: everything at once, and one variable after the other."""

from pcflow.errors import StructureError
from pcflow.structure.region_graph import Partition, Region, RegionGraph


def fully_factorized(num_variables: int) -> RegionGraph:
    """One partition into single variables.

    Args:
        num_variables: how many, from one on.

    Returns:
        The region graph.

    Raises:
        StructureError: if `num_variables` is below 1.

    Examples:
        >>> len(fully_factorized(3).leaves)
        3
    """
    singles = _singles(num_variables)
    root = Region(range(num_variables))
    return RegionGraph(root, [Partition(root, singles)] if num_variables > 1 else [])


def chain(num_variables: int) -> RegionGraph:
    """A right-linear tree: each region splits off its first variable, as an HMM does.

    Args:
        num_variables: how many, from one on.

    Returns:
        The region graph.

    Raises:
        StructureError: if `num_variables` is below 1.

    Examples:
        >>> [len(region) for region in chain(3).regions]
        [1, 1, 1, 2, 3]
    """
    singles = _singles(num_variables)
    tails = [Region(range(start, num_variables)) for start in range(num_variables)]
    splits = (Partition(tails[i], (singles[i], tails[i + 1])) for i in range(num_variables - 1))
    return RegionGraph(tails[0], splits)


def _singles(num_variables: int) -> tuple[Region, ...]:
    if num_variables < 1:
        raise StructureError(f"num_variables must be at least 1, got {num_variables}")
    return tuple(Region([v]) for v in range(num_variables))
