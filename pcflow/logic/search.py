"""The search for all models of a CNF, written down as it goes.

A component decides on a variable and propagates; what remains falls apart into components, which
are met again and solved once. The trace is a decision-DNNF (Huang and Darwiche 2007), found as
model counters do (Sang et al. 2004). Which variable comes first is read off a tree decomposition
(Korhonen and Jarvisalo 2021).

Sets of literals are integers: bit v stands for variable v being 1, bit D + v for its being 0. Sets
of variables use the lower half. Legend: D variables.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Generator, Iterable, Iterator, Set
from functools import cached_property, reduce
from itertools import combinations
from operator import or_
from typing import TYPE_CHECKING, NamedTuple

from pcflow.logic.cnf import CNF

if TYPE_CHECKING:
    import networkx as nx

WIDEST = 0.45
"""Beyond this share of the variables, the width of a decomposition says that it cuts too little:
measured on random formulas of 40 to 80 variables."""


class Component(NamedTuple):
    """Variables, and what they still have to satisfy.

    Attributes:
        scope: the variables.
        clauses: sets of literals over them, none of which is decided.
    """

    scope: int
    clauses: frozenset[int]


class Branch(NamedTuple):
    """One way to satisfy a component: literals, and components that are independent given them.

    Attributes:
        literals: decided, or implied by what was decided.
        parts: components without common variables.
    """

    literals: int
    parts: tuple[Component, ...]


class Trace(NamedTuple):
    """A CNF's models: a DAG of choices between branches that exclude each other.

    Attributes:
        num_variables: how many variables there are, D.
        branches: of every component, parts before the components that have them.
        root: the whole CNF; None if it has no model.
    """

    num_variables: int
    branches: dict[Component, tuple[Branch, ...]]
    root: Branch | None

    @property
    def scope(self) -> int:
        """All variables."""
        return (1 << self.num_variables) - 1

    def free(self, scope: int, branch: Branch) -> int:
        """The variables of a component that a branch leaves free to have any value."""
        decided = branch.literals | branch.literals >> self.num_variables
        return scope & ~reduce(or_, (part.scope for part in branch.parts), decided)


def search(cnf: CNF, ordered: bool = False) -> Trace:
    """All models of a CNF.

    Args:
        cnf: the formula.
        ordered: decide every variable in turn, 0 first, and split nothing.
    """
    return (_OrderedSearch if ordered else _Search)(cnf).run()


class _Search:
    def __init__(self, cnf: CNF) -> None:
        self.cnf, self.num_variables = cnf, cnf.num_variables
        self.scope = (1 << cnf.num_variables) - 1
        masks = ([1 << self.bit(literal) for literal in clause] for clause in cnf.clauses)
        self.clauses = {reduce(or_, literals, 0) for literals in masks}
        self.solved: dict[Component, tuple[Branch, ...]] = {}
        self.root: Branch | None = None

    @cached_property
    def levels(self) -> list[int]:
        return _levels(self.cnf)

    def bit(self, literal: int) -> int:
        return literal - 1 if literal > 0 else self.num_variables - literal - 1

    def run(self) -> Trace:
        """A visit waits for the components below it: a stack of generators, so none recurses."""
        visits = [self.begin()]
        while visits:
            below = next(visits[-1], None)
            if below is None:
                visits.pop()
            else:
                visits.append(self.visit(below))
        return Trace(self.num_variables, self.needed(), self.root)

    def begin(self) -> Iterator[Component]:
        whole = self.condition(self.scope, self.clauses, 0)
        if whole and (yield from self.has_models(whole)):
            self.root = whole

    def visit(self, component: Component) -> Iterator[Component]:
        """Find the branches of a component; yields what must be visited before it goes on."""
        variable = self.pick(component)
        both = variable | variable << self.num_variables
        matters = any(clause & both for clause in component.clauses)
        found = []
        for literal in (variable << self.num_variables, variable) if matters else (0,):
            branch = self.condition(component.scope & ~variable, component.clauses, literal)
            if branch and (yield from self.has_models(branch)):
                found.append(branch)
        self.solved[component] = tuple(found)

    def has_models(self, branch: Branch) -> Generator[Component, None, bool]:
        for part in branch.parts:
            if part not in self.solved:
                yield part
            if not self.solved[part]:
                return False
        return True

    def condition(self, scope: int, clauses: Set[int], literal: int) -> Branch | None:
        """What a literal leaves of clauses; None if it contradicts them."""
        found = self.propagate(clauses, literal)
        return found and Branch(found[0], tuple(self.split(found[1])))

    def propagate(self, clauses: Set[int], literals: int) -> tuple[int, Set[int]] | None:
        """Decide literals and all that follow by unit clauses: these, and the clauses left."""
        decided, new = 0, literals
        while True:
            decided |= new
            false = self.negated(new)
            if decided & false:
                return None
            clauses = {
                clause & ~false if clause & false else clause
                for clause in clauses
                if not clause & new
            }
            units = [clause for clause in clauses if not clause & (clause - 1)]
            if not units:
                return decided, clauses
            if 0 in units:
                return None
            new = reduce(or_, units)

    def negated(self, literals: int) -> int:
        return literals >> self.num_variables | (literals & self.scope) << self.num_variables

    def variables(self, literals: int) -> int:
        return (literals | literals >> self.num_variables) & self.scope

    def split(self, clauses: Iterable[int]) -> Iterator[Component]:
        """Clauses that share a variable, even by way of others, stay together."""
        naming: dict[int, list[int]] = defaultdict(list)
        named = {clause: self.variables(clause) for clause in clauses}
        for clause, left in named.items():
            while left:
                naming[left & -left].append(clause)
                left &= left - 1
        while naming:
            scope, members, reached = 0, set[int](), next(iter(naming))
            while reached:
                variable = reached & -reached
                scope |= variable
                reached ^= variable
                for clause in naming.pop(variable):
                    if clause not in members:
                        members.add(clause)
                        reached |= named[clause] & ~scope
            yield Component(scope, frozenset(members))

    def pick(self, component: Component) -> int:
        """A variable of the first level, from the shortest clauses (Jeroslow and Wang 1990)."""
        level = next(filter(None, (component.scope & level for level in self.levels)))
        if not level & (level - 1):
            return level
        score: dict[int, float] = defaultdict(float)
        for clause in component.clauses:
            weight = 0.5 ** clause.bit_count()
            for variable in bits(self.variables(clause) & level):
                score[variable] += weight
        return max(bits(level), key=score.__getitem__)

    def needed(self) -> dict[Component, tuple[Branch, ...]]:
        """What the root is made of, without components of branches that came to nothing."""
        live = set(self.root.parts if self.root else ())
        for component, branches in reversed(self.solved.items()):
            if component in live:
                live.update(part for branch in branches for part in branch.parts)
        return {c: branches for c, branches in self.solved.items() if c in live}


class _OrderedSearch(_Search):
    """Every component is a level: all variables from one on, and the clauses left for them."""

    def pick(self, component: Component) -> int:
        return component.scope & -component.scope

    def condition(self, scope: int, clauses: Set[int], literal: int) -> Branch | None:
        """Literals that are implied are handed on as clauses, until it is their turn."""
        found = self.propagate(clauses, literal)
        if found is None:
            return None
        left = Component(scope, frozenset(found[1]).union(bits(found[0] & ~literal)))
        return Branch(literal, (left,) if scope else ())


def bits(mask: int) -> Iterator[int]:
    """Masks of its bits, one by one, from the lowest."""
    while mask:
        yield mask & -mask
        mask &= mask - 1


def positions(mask: int) -> Iterator[int]:
    """Where its bits are, from the lowest."""
    return (bit.bit_length() - 1 for bit in bits(mask))


def _levels(cnf: CNF) -> list[int]:
    """Sets of variables, those first that cut the formula into parts of small common borders.

    Levels are the depths at which a tree decomposition, hung up at its centre, first names a
    variable. One that is wide cuts little, and leaves the choice to what is satisfied by then.
    """
    import networkx as nx
    from networkx.algorithms.approximation import treewidth_min_fill_in

    graph: nx.Graph[int] = nx.Graph()
    for clause in cnf.clauses:
        graph.add_nodes_from(abs(literal) - 1 for literal in clause)
        graph.add_edges_from(combinations((abs(literal) - 1 for literal in clause), 2))
    width, tree = treewidth_min_fill_in(graph)
    if width > WIDEST * len(graph):
        return [(1 << cnf.num_variables) - 1]
    levels: list[int] = []
    seen: set[int] = set()
    for bags in nx.bfs_layers(tree, _centre(tree)):
        new = {v for bag in bags for v in bag} - seen
        levels.append(sum(1 << v for v in new))
        seen |= new
    return levels


def _centre(tree: nx.Graph[frozenset[int]]) -> frozenset[int]:
    """The middle of a longest path: from any bag to a farthest, and from there to a farthest."""
    import networkx as nx

    start = next(iter(tree))
    one = list(nx.bfs_layers(tree, start))[-1][0]
    other = list(nx.bfs_layers(tree, one))[-1][0]
    path: list[frozenset[int]] = nx.shortest_path(tree, one, other)
    return path[len(path) // 2]
