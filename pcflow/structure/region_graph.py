"""Region graphs: how the variables of a circuit are split, before any unit exists.

A region is a set of variables; a partition splits one region into disjoint smaller ones. A region
graph is a rooted directed acyclic graph of both (Peharz et al. 2020, RAT-SPN).
Nothing here knows about torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pcflow.checks import as_iterable, as_wholes, check_kind, check_kinds, check_whole
from pcflow.errors import NotDecomposable, StructureError
from pcflow.plot import Diagram, counted, names_of, svg
from pcflow.structure import picture
from pcflow.structure.spans import Span, joined

if TYPE_CHECKING:
    import networkx as nx


@dataclass(frozen=True, repr=False)
class Region:
    """A set of variables; two regions with the same variables are the same region.

    Args:
        variables: variable indices, in any order. A `range` is never written out, so that the
            regions of a long chain take no more room than those of a short one.

    Raises:
        StructureError: if it is empty, repeats a variable or names a negative one.

    Attributes:
        spans: runs [start, stop) of variables that follow one another, rising, as long as can be.

    Examples:
        >>> Region([2, 0])
        Region(variables=(0, 2))
    """

    spans: tuple[Span, ...]

    def __init__(self, variables: Iterable[int]) -> None:
        """Sort and check the variables."""
        given: Sequence[int]
        if isinstance(variables, range) and variables.step == 1:
            given, spans = variables, [(variables.start, variables.stop)]
        else:
            given = sorted(as_wholes("variables", variables))
            spans = [(v, v + 1) for v in given]
        found = joined(spans) if given and given[0] >= 0 else None
        if found is None:
            raise StructureError(f"a region needs distinct variables >= 0, got {list(given[:8])}")
        object.__setattr__(self, "spans", found)

    @property
    def variables(self) -> tuple[int, ...]:
        """All of them, rising; written out anew every time."""
        return tuple(v for start, stop in self.spans for v in range(start, stop))

    def __len__(self) -> int:
        """Number of variables."""
        return sum(stop - start for start, stop in self.spans)

    def __repr__(self) -> str:
        """The variables."""
        return f"Region(variables={self.variables})"


@dataclass(frozen=True)
class Partition:
    """A split of `region` into `parts`, whose order is the order of a product's inputs.

    Raises:
        NotDecomposable: if two parts share a variable.
        StructureError: if the parts do not cover the region, or there are fewer than two.

    Examples:
        >>> Partition(Region([0, 1]), (Region([0]), Region([1]))).parts[1]
        Region(variables=(1,))
    """

    region: Region
    parts: tuple[Region, ...]

    def __post_init__(self) -> None:
        """Check that the parts are disjoint and cover the region."""
        check_kind("region", self.region, Region, "a Region")
        check_kinds("parts", self.parts, Region, "a Region")
        if len(self.parts) < 2:
            raise StructureError(f"a partition needs at least two parts, got {len(self.parts)}")
        together = joined(span for part in self.parts for span in part.spans)
        if together is None:
            raise NotDecomposable("a partition", [p.variables for p in self.parts])
        if together != self.region.spans:
            raise StructureError(f"the parts of {self.region} do not cover it")


@dataclass(frozen=True, repr=False)
class RegionGraph:
    """A root region and the partitions below it.

    Args:
        root: the region of all variables.
        partitions: every partition of the graph; a region may be split in several ways.
            A region without a partition is a leaf.

    Raises:
        StructureError: if a partition cannot be reached from the root.

    Examples:
        >>> a, b = Region([0]), Region([1])
        >>> rg = RegionGraph(Region([0, 1]), [Partition(Region([0, 1]), (a, b))])
        >>> [len(region) for region in rg.regions]
        [1, 1, 2]
    """

    root: Region
    partitions: tuple[Partition, ...]
    _splits: dict[Region, tuple[Partition, ...]] = field(repr=False, compare=False)
    _order: tuple[Region, ...] = field(repr=False, compare=False)

    def __init__(self, root: Region, partitions: Iterable[Partition] = ()) -> None:
        """Index the partitions by region and sort the regions topologically."""
        check_kind("root", root, Region, "a Region")
        partitions = tuple(as_iterable("partitions", partitions))
        check_kinds("partitions", partitions, Partition, "a Partition")
        splits: dict[Region, tuple[Partition, ...]] = {}
        unique = tuple(dict.fromkeys(partitions))
        for partition in unique:
            splits[partition.region] = (*splits.get(partition.region, ()), partition)
        object.__setattr__(self, "root", root)
        object.__setattr__(self, "partitions", unique)
        object.__setattr__(self, "_splits", splits)
        object.__setattr__(self, "_order", tuple(self._bottom_up()))
        lost = splits.keys() - set(self._order)
        if lost:
            raise StructureError(f"{next(iter(lost))} cannot be reached from the root")

    @property
    def regions(self) -> tuple[Region, ...]:
        """All regions, parts before wholes; the root is last."""
        return self._order

    @property
    def leaves(self) -> tuple[Region, ...]:
        """Regions that are not split further."""
        return tuple(region for region in self._order if not self.splits(region))

    @property
    def num_variables(self) -> int:
        """Number of variables of the root region."""
        return len(self.root)

    def splits(self, region: Region) -> tuple[Partition, ...]:
        """The partitions of a region; empty for a leaf.

        Args:
            region: one of the graph.

        Examples:
            >>> a, b = Region([0]), Region([1])
            >>> both = Region([0, 1])
            >>> split = Partition(both, (a, b))
            >>> RegionGraph(both, [split]).splits(both) == (split,)
            True
        """
        return self._splits.get(region, ())

    def to_networkx(self) -> nx.DiGraph[Region | Partition]:
        """The graph for networkx: nodes are Region and Partition, edges point to the parts.

        Returns:
            Nodes have a `kind`, "region" or "partition", and a `scope`, sorted variables.

        Examples:
            >>> graph = RegionGraph(Region([0])).to_networkx()
            >>> graph.nodes(data=True)
            NodeDataView({Region(variables=(0,)): {'kind': 'region', 'scope': (0,)}})
        """
        import networkx as nx

        graph: nx.DiGraph[Region | Partition] = nx.DiGraph()
        for region in self.regions:
            graph.add_node(region, kind="region", scope=region.variables)
        for partition in self.partitions:
            graph.add_node(partition, kind="partition", scope=partition.region.variables)
            graph.add_edge(partition.region, partition)
            graph.add_edges_from((partition, part) for part in partition.parts)
        return graph

    def diagram(self, names: Sequence[str] | None = None, most: int = 40) -> Diagram:
        """Boxes and lines of a picture; `pf.plot.graph` draws it, and notebooks do.

        Args:
            names: of the variables; their numbers by default.
            most: of more regions and partitions, those of a level are one box.

        Returns:
            A plain value: nodes in rows, and edges.

        Raises:
            SettingError: if there are not as many names as variables, or `most` is no whole number.

        Examples:
            >>> RegionGraph(Region([0])).diagram().nodes[0].lines
            ('x0',)
        """
        check_whole("most", most, least=0)
        told = None if names is None else names_of("names", names, 1 + max(self.root.variables))
        splits = {
            region.variables: [
                [part.variables for part in split.parts] for split in self.splits(region)
            ]
            for region in self.regions
        }
        return picture.diagram(splits, told, most)

    def _repr_svg_(self) -> str:
        """What notebooks show."""
        return svg(self)

    def __repr__(self) -> str:
        """Sizes, in one line however large it is."""
        counts = counted(self.num_variables, "variable"), counted(len(self.partitions), "partition")
        return f"RegionGraph({', '.join(counts)})"

    def _bottom_up(self) -> Iterator[Region]:
        """Depth-first postorder without recursion: chains are as deep as they are long."""
        seen = {self.root}
        stack = [(self.root, self._parts(self.root))]
        while stack:
            region, parts = stack[-1]
            part = next(parts, None)
            if part is None:
                stack.pop()
                yield region
            elif part not in seen:
                seen.add(part)
                stack.append((part, self._parts(part)))

    def _parts(self, region: Region) -> Iterator[Region]:
        return (part for split in self.splits(region) for part in split.parts)
