"""Region graphs: every partition is a partition, and what each builder promises."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pcflow as pf
from pcflow.testing import region_graphs

HEIGHTS = st.integers(1, 7)


@given(region_graphs(max_variables=12))
def test_parts_come_first_and_cover_their_regions(graph: pf.RegionGraph) -> None:
    seen: set[pf.Region] = set()
    for region in graph.regions:
        for split in graph.splits(region):
            assert split.region == region
            assert set(split.parts) <= seen
            assert sorted(v for part in split.parts for v in part.variables) == list(
                region.variables
            )
        seen.add(region)
    assert graph.regions[-1] == graph.root
    assert graph.root.variables == tuple(range(graph.num_variables))
    assert {v for leaf in graph.leaves for v in leaf.variables} == set(graph.root.variables)


@given(st.sets(st.integers(0, 12), min_size=1), st.randoms(use_true_random=False))
def test_a_region_is_its_variables(chosen: set[int], order: Random) -> None:
    given = order.sample(sorted(chosen), len(chosen))
    region = pf.Region(given)
    assert region.variables == tuple(sorted(chosen)) and len(region) == len(chosen)
    assert region == pf.Region(sorted(given)) and hash(region) == hash(pf.Region(sorted(given)))
    run = range(min(given), max(given) + 1)
    assert (region == pf.Region(run)) == (set(run) == chosen)


def test_regions_of_a_chain_are_as_small_as_any() -> None:
    graph = pf.structure.chain(3000)
    assert all(len(region.spans) == 1 for region in graph.regions)
    assert len(graph.root) == 3000


@given(region_graphs())
def test_the_networkx_view_has_the_same_parts(graph: pf.RegionGraph) -> None:
    view = graph.to_networkx()
    assert view.number_of_nodes() == len(graph.regions) + len(graph.partitions)
    for partition in graph.partitions:
        assert list(view.predecessors(partition)) == [partition.region]
        assert list(view.successors(partition)) == list(partition.parts)


@given(HEIGHTS, HEIGHTS)
def test_quad_trees_end_in_pixels_and_split_once(height: int, width: int) -> None:
    graph = pf.structure.quad_tree((height, width))
    assert len(graph.leaves) == height * width
    assert all(len(graph.splits(region)) <= 1 for region in graph.regions)
    assert all(2 <= len(split.parts) <= 4 for split in graph.partitions)


@given(HEIGHTS, HEIGHTS)
def test_quad_graphs_split_both_ways_and_share_patches(height: int, width: int) -> None:
    graph = pf.structure.quad_graph((height, width))
    assert len(graph.leaves) == height * width
    for region in graph.regions:
        rows = {v // width for v in region.variables}
        columns = {v % width for v in region.variables}
        assert len(region) == len(rows) * len(columns)  # patches are rectangles
        ways = (len(rows) > 1) + (len(columns) > 1)
        assert len(graph.splits(region)) == ways


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3))
def test_poon_domingos_has_every_patch_and_every_cut(height: int, width: int, delta: int) -> None:
    graph = pf.structure.poon_domingos((height, width), delta)
    lines = [len(range(delta, side, delta)) for side in (height, width)]
    patches = [(n + 1) * (n + 2) // 2 for n in lines]  # stretches between two of n + 2 lines
    assert len(graph.regions) == patches[0] * patches[1]
    assert len(graph.leaves) == (lines[0] + 1) * (lines[1] + 1)
    for split in graph.partitions:
        assert len(split.parts) == 2
    inner = [sum(k * (n + 1 - k) for k in range(1, n + 1)) for n in lines]  # cuts of all stretches
    assert len(graph.partitions) == inner[0] * patches[1] + inner[1] * patches[0]


def test_a_two_by_two_quad_tree_by_hand() -> None:
    graph = pf.structure.quad_tree((2, 2))
    (split,) = graph.partitions
    assert [part.variables for part in split.parts] == [(0,), (1,), (2,), (3,)]


def test_a_three_by_one_quad_graph_by_hand() -> None:
    graph = pf.structure.quad_graph((3, 1))
    splits = [[part.variables for part in split.parts] for split in graph.partitions]
    assert sorted(splits) == [[(0,), (1, 2)], [(1,), (2,)]]


@given(st.integers(1, 20), st.none() | st.integers(0, 4), st.integers(1, 3), st.integers(0, 99))
def test_random_binary_trees_halve_to_the_given_depth(
    count: int, depth: int | None, replicas: int, seed: int
) -> None:
    graph = pf.structure.random_binary_tree(count, depth, replicas, seed)
    assert graph == pf.structure.random_binary_tree(count, depth, replicas, seed)
    for split in graph.partitions:
        small, large = sorted(len(part) for part in split.parts)
        assert large - small <= 1
    if depth is None:
        assert all(len(leaf) == 1 for leaf in graph.leaves)
    else:
        assert all(len(leaf) >= max(1, count // 2**depth) for leaf in graph.leaves)
    assert len(graph.splits(graph.root)) <= replicas


def test_seeds_give_other_trees() -> None:
    trees = [pf.structure.random_binary_tree(16, seed=seed) for seed in (0, 1)]
    assert trees[0] != trees[1]


def test_long_chains_are_no_problem() -> None:
    graph = pf.structure.chain(1_500)
    assert len(graph.regions) == 2 * 1_500 - 1


def test_regions_and_partitions_refuse_nonsense() -> None:
    region = pf.Region
    with pytest.raises(pf.StructureError, match="distinct"):
        region([0, 0])
    with pytest.raises(pf.StructureError, match="distinct"):
        region([])
    with pytest.raises(pf.StructureError, match=">= 0"):
        region([-1])
    whole = region([0, 1, 2])
    with pytest.raises(pf.NotDecomposable, match="share variable 1"):
        pf.Partition(whole, (region([0, 1]), region([1, 2])))
    with pytest.raises(pf.StructureError, match="cover"):
        pf.Partition(whole, (region([0]), region([1])))
    with pytest.raises(pf.StructureError, match="at least two"):
        pf.Partition(whole, (whole,))
    stray = pf.Partition(region([3, 4]), (region([3]), region([4])))
    with pytest.raises(pf.StructureError, match="reached"):
        pf.RegionGraph(whole, [stray])


@pytest.mark.parametrize(
    "build",
    [
        lambda: pf.structure.chain(0),
        lambda: pf.structure.fully_factorized(0),
        lambda: pf.structure.quad_tree((0, 3)),
        lambda: pf.structure.quad_graph((3, 0)),
        lambda: pf.structure.poon_domingos((0, 2)),
        lambda: pf.structure.poon_domingos((2, 2), delta=0),
        lambda: pf.structure.random_binary_tree(0),
        lambda: pf.structure.random_binary_tree(3, depth=-1),
        lambda: pf.structure.random_binary_tree(3, replicas=0),
    ],
)
def test_builders_refuse_sizes_below_one(build: object) -> None:
    assert callable(build)
    with pytest.raises(pf.StructureError, match="at least"):
        build()
