"""Compiled formulas as files of text: .nnf as c2d and d4 write them, and .sdd with its vtree.

c2d counts nodes by lines from 0, the root last:

    nnf nodes edges variables
    L literal
    A n {node}, n times
    O variable n {node}, n times; the variable is that of a decision, or 0

d4 has a line for every node, and one for every arc with the literals that it implies:

    o node 0        (or a, t, f: conjunction, true, false)
    node node {literal} 0

SDDs name the vtree node of what they hold, the root last:

    sdd nodes
    F id
    T id
    L id vtree literal
    D id vtree n {prime sub}, n times

Sources: Darwiche, New advances in compiling CNF into DNNF (2004); Lagniez and Marquis, An improved
decision-DNNF compiler (2017); Darwiche, SDD: a new canonical representation (2011).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from pcflow.checks import check_whole
from pcflow.circuit import Circuit
from pcflow.errors import FileFormatError, PropertyRequired, Unsatisfiable
from pcflow.io.files import read_bytes
from pcflow.io.vtree import MALFORMED, Line, Vtree, read_lines, read_vtree, root_of
from pcflow.logic import MOST_BITS, TRUE, Formula, Node, NormalForm

StrPath = str | os.PathLike[str]

_NUMBER = re.compile(r"-?[0-9]{1,9}").fullmatch


def read_nnf(path: StrPath, num_variables: int | None = None) -> Circuit:
    r"""Read a compiled formula (a d-DNNF), as c2d and d4 write it: uniform over its models.

    It is smoothed, and proved decomposable and deterministic. The number of models is that of
    `entropy`, which is its logarithm.

    Args:
        path: the .nnf file.
        num_variables: D; by default as many as a file of c2d says, or d4 names. Variables that the
            file does not name are free.

    Returns:
        A circuit, uniform over the models of the formula.

    Raises:
        FileFormatError: if the file is truncated, of another format, not decomposable, or not
            proved deterministic. Files of d4 do not say how many lines they have: a cut between
            two lines shows if some node is then without an arc, or nothing leads to it.
        Unsatisfiable: if the formula has no model.
        OSError: if the file cannot be read.

    Examples:
        >>> import tempfile, pcflow as pf
        >>> with tempfile.NamedTemporaryFile("w", suffix=".nnf") as file:
        ...     print("nnf 3 2 1\nL 1\nL -1\nO 1 2 0 1", file=file, flush=True)
        ...     round(pf.entropy(pf.read_nnf(file.name)), 6)  # log 2
        0.693147
    """
    if num_variables is not None:
        check_whole("num_variables", num_variables)
    lines, end = _lines(path)
    if not lines:
        raise FileFormatError(f"{path}: holds no formula")
    read = _read_c2d if lines[0][1][0] == "nnf" else _read_d4
    return _proved(path, lambda: read(lines, num_variables, end))


def read_sdd(path: StrPath, vtree: StrPath) -> Circuit:
    r"""Read a sentential decision diagram: the uniform distribution over its models.

    It is smoothed along the vtree, and proved decomposable and deterministic.

    Args:
        path: the .sdd file.
        vtree: its .vtree file, over the variables 1..D.

    Returns:
        A circuit, uniform over the models of the formula.

    Raises:
        FileFormatError: if a file is truncated or of another format, a node does not respect the
            vtree, or primes are not proved to exclude one another.
        Unsatisfiable: if the formula has no model.
        OSError: if a file cannot be read.

    Examples:
        >>> import tempfile, pcflow as pf
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     pf.replace_file(f"{folder}/a.vtree", [b"vtree 3\nL 0 1\nL 2 2\nI 1 0 2\n"])
        ...     nodes = b"sdd 5\nL 0 0 1\nL 1 0 -1\nL 2 2 2\nT 3\nD 4 1 2 0 2 1 3\n"
        ...     pf.replace_file(f"{folder}/a.sdd", [nodes])  # x1 implies x2
        ...     circuit = pf.read_sdd(f"{folder}/a.sdd", f"{folder}/a.vtree")
        >>> round(pf.entropy(circuit), 6)  # log 3
        1.098612
    """
    given, text = read_vtree(vtree), read_lines(path, "sdd")
    return _proved(path, lambda: _Sdd(given).read(text.announced, text.lines, text.end))


Root = tuple[NormalForm, Formula]
"""What makes the circuit, and of what."""


def _proved(path: StrPath, read: Callable[[], Root]) -> Circuit:
    """The circuit of what is read."""
    try:
        form, root = read()
        if root is not None:
            return form.circuit(root)
    except (*MALFORMED, PropertyRequired) as error:
        raise FileFormatError(f"{path}: {error.args[0]}") from error
    raise Unsatisfiable(os.fspath(path))


def _lines(path: StrPath) -> tuple[list[Line], str]:
    """The lines of a file of text that are no comments, and its last character."""
    try:
        text = read_bytes(path).decode("ascii")
    except UnicodeDecodeError as error:
        raise FileFormatError(f"{path}: not text ({error})") from error
    split = ((number, line.split()) for number, line in enumerate(text.split("\n"), start=1))
    return [(number, words) for number, words in split if words and words[0] != "c"], text[-1:]


def _check_end(end: str) -> None:
    """Refuse a file whose last number may have lost digits."""
    if not end.isspace():
        raise ValueError("no line break is behind the last number: is it truncated?")


def _whole(words: Iterable[str]) -> list[int]:
    """Whole numbers."""
    words = list(words)
    wrong = next((word for word in words if not _NUMBER(word)), None)
    if wrong is not None:
        raise ValueError(f"{wrong[:40]!r} is not a whole number")
    return list(map(int, words))


def _each(lines: Iterable[Line], read: Callable[[list[str]], None]) -> None:
    """Read line by line; what is wrong is told with its number."""
    for number, words in lines:
        try:
            read(words)
        except MALFORMED as error:
            raise ValueError(f"line {number}: {error.args[0]}") from error


class _C2d:
    """The nodes of a file of c2d, by line."""

    def __init__(self, header: list[str], num_variables: int | None) -> None:
        if len(header) != 4:
            raise ValueError("needs a line `nnf NODES EDGES VARIABLES` before the nodes")
        self.count, self.edges, named = _whole(header[1:])
        self.form = NormalForm(named if num_variables is None else num_variables)
        self.nodes: list[Formula] = []

    def read(self, words: list[str]) -> None:
        """A line."""
        kind, numbers = words[0], _whole(words[1:])
        match kind:
            case "L" if len(numbers) == 1:
                self.nodes.append(self.form.literal(numbers[0]))
            case "A" if numbers:
                self.nodes.append(self.form.conjunction(self.below(numbers[0], numbers[1:])))
            case "O" if len(numbers) > 1:
                self.nodes.append(self.form.disjunction(self.below(numbers[1], numbers[2:])))
            case _:
                raise ValueError("not a line of an NNF: " + " ".join(words[:4])[:40])

    def below(self, count: int, nodes: list[int]) -> list[Formula]:
        if count != len(nodes):
            raise ValueError(f"{count} nodes were announced, {len(nodes)} are there")
        above = next((node for node in nodes if not 0 <= node < len(self.nodes)), None)
        if above is not None:
            raise ValueError(f"node {above} is in no line above")
        self.edges -= count
        return [self.nodes[node] for node in nodes]


def _read_c2d(lines: list[Line], num_variables: int | None, end: str) -> Root:
    _check_end(end)
    nodes = _C2d(lines[0][1], num_variables)
    _each(lines[1:], nodes.read)
    if len(nodes.nodes) != nodes.count or not nodes.nodes or nodes.edges:
        found = len(nodes.nodes)
        raise ValueError(f"{nodes.count} nodes were announced, {found} are there, or other edges")
    return nodes.form, nodes.nodes[-1]


@dataclass
class _D4:
    """Nodes by number, and their arcs: another node, and literals."""

    kinds: dict[int, str] = field(default_factory=dict)
    arcs: dict[int, list[tuple[int, list[int]]]] = field(default_factory=dict)

    def read(self, words: list[str]) -> None:
        """A line."""
        if words[-1] != "0":
            raise ValueError("does not end with 0")
        if words[0] in ("o", "a", "t", "f"):
            (node,) = _whole(words[1:-1])
            if node in self.kinds:
                raise ValueError(f"node {node} is there already")
            self.kinds[node], self.arcs[node] = words[0], []
            return
        start, target, *literals = _whole(words[:-1])
        if start not in self.kinds or target not in self.kinds or self.kinds[start] in "tf":
            raise ValueError(f"an arc from node {start} to {target}, which cannot be")
        self.arcs[start].append((target, literals))

    @property
    def named(self) -> int:
        """The largest variable."""
        arcs = (literals for some in self.arcs.values() for _, literals in some)
        return max((abs(literal) for literals in arcs for literal in literals), default=0)

    def root(self) -> int:
        """The node to which nothing leads."""
        idle = [n for n, kind in self.kinds.items() if kind in "oa" and not self.arcs[n]]
        targets = {target for some in self.arcs.values() for target, _ in some}
        roots = [node for node in self.kinds if node not in targets]
        if idle or len(roots) != 1:
            told = f"{len(idle)} nodes without arcs, {len(roots)} without a parent"
            raise ValueError(f"{told}: is it truncated?")
        return roots[0]

    def children_first(self, root: int) -> Iterator[int]:
        """Every node below the root, once; no recursion, files may be deep."""
        entered, done, stack = set[int](), set[int](), [root]
        while stack:
            node = stack.pop()
            if node in done:
                continue
            waiting = [target for target, _ in self.arcs[node] if target not in done]
            if not waiting:
                done.add(node)
                yield node
                continue
            if node in entered:
                raise ValueError(f"node {node} is below itself")
            entered.add(node)
            stack += [node, *waiting]


def _read_d4(lines: list[Line], num_variables: int | None, end: str) -> Root:
    graph = _D4()
    _each(lines, graph.read)
    root = graph.root()
    form = NormalForm(graph.named if num_variables is None else num_variables)
    made: dict[int, Formula] = {}
    for node in graph.children_first(root):
        ways = [
            form.conjunction([*map(form.literal, literals), made[target]])
            for target, literals in graph.arcs[node]
        ]
        made[node] = _node(form, graph.kinds[node], ways)
    return form, made[root]


def _node(form: NormalForm, kind: str, ways: list[Formula]) -> Formula:
    match kind:
        case "o":
            return form.disjunction(ways)
        case "a":
            return form.conjunction(ways)
        case _:
            return TRUE if kind == "t" else None


class _Sdd:
    """The nodes of an SDD by number, each with the vtree node that it is at or below."""

    def __init__(self, vtree: Vtree) -> None:
        self.vtree = vtree
        self.scopes = _scopes(vtree)
        self.form = NormalForm(max(scope.bit_length() for scope in self.scopes.values()))
        self.nodes: dict[int, Formula] = {}
        self.last: Formula = None

    def read(self, count: int, lines: Iterator[Line], end: str) -> Root:
        """All lines."""
        _check_end(end)
        _each(lines, self.line)
        if len(self.nodes) != count or not count:
            raise ValueError(f"has {len(self.nodes)} nodes, not {count}: is it truncated?")
        return self.form, self.last

    def line(self, words: list[str]) -> None:
        """One of them."""
        kind, (node, *numbers) = words[0], _whole(words[1:])
        if node in self.nodes or node < 0:
            raise ValueError(f"node {node} is there already, or negative")
        match kind, numbers:
            case "F", []:
                self.last = None
            case "T", []:
                self.last = TRUE
            case "L", [place, literal]:
                self.last = self.within(self.form.literal(literal), self.scope(place))
            case "D", [place, count, *elements] if 2 * count == len(elements) > 0:
                self.last = self.decision(place, elements)
            case _:
                raise ValueError("not a line of an SDD: " + " ".join(words[:4])[:40])
        self.nodes[node] = self.last

    def decision(self, place: int, elements: list[int]) -> Formula:
        """Primes beside their subs, each over one side of the vtree node."""
        self.scope(place)
        entry = self.vtree[place]
        if isinstance(entry, int):
            raise ValueError(f"vtree node {place} is a leaf, a decision is not")
        left, right = map(self.scope, entry)
        primes = [self.side(node, left) for node in elements[::2]]
        subs = [self.side(node, right) for node in elements[1::2]]
        pairs = zip(primes, subs, strict=True)
        return self.form.disjunction([self.form.conjunction(pair) for pair in pairs])

    def scope(self, place: int) -> int:
        """The variables below a node of the vtree."""
        if place not in self.scopes:
            raise ValueError(f"vtree node {place} is nowhere")
        return self.scopes[place]

    def side(self, node: int, scope: int) -> Formula:
        """A node made smooth over one side: so are the primes that must exclude one another."""
        if node not in self.nodes:
            raise ValueError(f"node {node} is in no line above")
        found = self.nodes[node]
        return None if found is None else self.within(found, scope)

    def within(self, found: Node, scope: int) -> Node:
        if found.scope & ~scope:
            raise ValueError("a node names variables that are not below its vtree node")
        return Node(self.form.smooth(found, scope), found.log_share, scope)


def _scopes(vtree: Vtree) -> dict[int, int]:
    """The variables below every node of a vtree."""
    leaves = [entry for entry in vtree.values() if isinstance(entry, int)]
    if max(leaves) >= len(leaves) or len(leaves) ** 2 > MOST_BITS:
        raise ValueError(f"variables must be 1..D, and not too many: {max(leaves) + 1}")
    scopes: dict[int, int] = {}
    stack = [root_of(vtree)]
    while stack:
        node = stack[-1]
        entry = vtree[node]
        if isinstance(entry, int):
            scopes[node] = 1 << entry
        elif entry[0] in scopes and entry[1] in scopes:
            scopes[node] = scopes[entry[0]] | scopes[entry[1]]
        else:
            stack += entry
            continue
        stack.pop()
    return scopes
