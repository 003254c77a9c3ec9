"""Hypothesis strategies for what circuits are made of: seeds, input families, ways to split scopes.

Hypothesis chooses shapes and seeds; torch generators fill in the numbers, so examples shrink to
small circuits and replay exactly.
"""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import strategies as st

from pcflow.inputs import (
    Bernoulli,
    Binomial,
    Categorical,
    DiscretizedLogistic,
    Exponential,
    Gaussian,
    Histogram,
    Inflated,
    InputFamily,
    LogNormal,
    Poisson,
)
from pcflow.structure import Partition, Region, RegionGraph

SEEDS = st.integers(0, 2**31 - 1)

Scope = tuple[int, ...]
Split = Callable[[Scope], list[Scope]]
"""The parts into which a product splits a scope of two variables or more."""


def sizes(most: int) -> st.SearchStrategy[int]:
    """Numbers from 1 on; the smallest ones, where little can happen, less often than the others."""
    return st.sampled_from([size for size in range(1, most + 1) for _ in range(min(size, 4))])


def finite_families() -> st.SearchStrategy[InputFamily]:
    """Families over 2 or 3 values.

    Returns:
        A strategy.

    Examples:
        >>> from hypothesis import find
        >>> find(finite_families(), lambda family: family.num_categories == 3)
        Categorical(num_categories=3)
    """
    return st.sampled_from([Bernoulli(), Categorical(2), Categorical(3)])


def mixed_families() -> st.SearchStrategy[InputFamily]:
    """Families with and without a finite range, for circuits that mix them.

    Whole numbers from 1 to 1,000 are possible under all that have no finite range.

    Returns:
        A strategy.

    Examples:
        >>> from hypothesis import find
        >>> find(mixed_families(), lambda family: family.num_categories is None)
        Gaussian(min_std=0.001)
    """
    return st.sampled_from(
        [
            Gaussian(),
            Bernoulli(),
            Categorical(3),
            Binomial(2),
            Poisson(),
            Exponential(),
            LogNormal(),
            DiscretizedLogistic(3),
            Histogram([0.0, 1.5, 4.0, 1000.0]),
            Inflated(LogNormal()),
        ]
    )


@st.composite
def vtrees(draw: st.DrawFn, variables: int) -> RegionGraph:
    """Binary trees over the variables 0, 1, ..., in any order.

    Args:
        draw: given by Hypothesis.
        variables: how many there are.

    Examples:
        >>> from hypothesis import find
        >>> len(find(vtrees(3), lambda tree: True).partitions)
        2
    """
    order = draw(st.permutations(range(variables)))
    partitions: list[Partition] = []

    def node(start: int, stop: int) -> Region:
        region = Region(order[start:stop])
        if stop - start > 1:
            middle = draw(st.integers(start + 1, stop - 1))
            partitions.append(Partition(region, (node(start, middle), node(middle, stop))))
        return region

    return RegionGraph(node(0, variables), partitions)


def along(draw: st.DrawFn, vtree: RegionGraph) -> Split:
    """Splits along a vtree, in any order: some parts are split at once into their own parts."""

    def cut(region: Region) -> list[Scope]:
        found: list[Scope] = []
        for part in vtree.splits(region)[0].parts:
            opened = len(part) > 1 and draw(st.booleans())
            found += cut(part) if opened else [part.variables]
        return found

    return lambda scope: draw(st.permutations(cut(Region(scope))))


def anyhow(draw: st.DrawFn) -> Split:
    """Splits in two, each time another way."""

    def split(scope: Scope) -> list[Scope]:
        order = draw(st.permutations(scope))
        middle = draw(st.integers(1, len(scope) - 1))
        return [tuple(sorted(order[:middle])), tuple(sorted(order[middle:]))]

    return split


def one_by_one(draw: st.DrawFn) -> Split:
    """Splits into single variables."""
    return lambda scope: [(v,) for v in draw(st.permutations(scope))]
