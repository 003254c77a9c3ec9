"""Probabilistic sentential decision diagrams (PSDDs) as files of text: .psdd and .vtree.

A file has one line per node, children first and the root last:

    L id vtree literal
    T id vtree variable log(probability of the positive literal)
    D id vtree n {prime sub log(weight)}, n times

"T" lines may give the logarithms of both literals, the negative one first. Files count variables
from 1, we from 0. Logarithms are natural.

Source: Kisa, Van den Broeck, Choi and Darwiche, Probabilistic Sentential Decision Diagrams (2014).
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterable
from math import exp, expm1, inf, log
from typing import Any

import torch

from pcflow.circuit import (
    Circuit,
    InputLayer,
    Layer,
    Parameter,
    ProductLayer,
    SumLayer,
    no_collection,
)
from pcflow.errors import FileFormatError, FileFormatWarning
from pcflow.inputs import Categorical, Indicator
from pcflow.io.decisions import ROUNDING, Decision, Decisions, Node
from pcflow.io.files import real, replace_file, whole
from pcflow.io.vtree import (
    MALFORMED,
    Vtree,
    in_order,
    read_lines,
    read_vtree,
    root_of,
    variable_of,
    vtree_lines,
)
from pcflow.queries import CompiledCircuit, as_circuit

_ZERO = re.compile(r"-?0(\.0*)?")

SLACK = 1e-3
"""By how much weights may miss a sum of one: files of six decimals do by about 1e-6."""


@no_collection()
def read_psdd(path: str | os.PathLike[str], vtree: str | os.PathLike[str] | None = None) -> Circuit:
    r"""Read a PSDD.

    Every node becomes a layer of one unit: literals are `Indicator` inputs, other terminal nodes
    `Categorical(2)`, which holds the numbers of the file to the bit, decisions sums of products
    (prime, sub). Weights are normalised.

    With `vtree` a file that was cut off anywhere is refused, or says all the same. By itself it may
    be a smaller PSDD of fewer nodes than it counts: published files count otherwise, too, or hold
    nodes that nothing uses, so all of these are read with a warning.

    Args:
        path: the .psdd file.
        vtree: a .vtree file that the PSDD must respect.

    Warns:
        FileFormatWarning: if the count is not that of the nodes, or some are not used.

    Returns:
        A deterministic circuit.

    Raises:
        FileFormatError: if a file is truncated or of another format, the weights of a node do
            not sum to one, nodes split a vtree node differently, or variables are not 1..D; the
            message names the line.
        OSError: if a file cannot be read.

    Examples:
        >>> import tempfile, pcflow as pf
        >>> with tempfile.NamedTemporaryFile("w", suffix=".psdd") as file:
        ...     _ = file.write("psdd 1\nT 0 0 1 -0.693147\n")
        ...     file.flush()
        ...     print(pf.read_psdd(file.name))
        Circuit(1 variable, 1 layer, 2 parameters)
    """
    given = None if vtree is None else read_vtree(vtree)
    nodes = _Nodes(given)
    count, lines, end = read_lines(path, "psdd")
    for number, words in lines:
        try:
            nodes.read(words)
        except MALFORMED as error:
            raise FileFormatError(f"{path}: line {number}: {error.args[0]}") from error
    try:
        nodes.check_end(end)
        remarks = nodes.check_count(count)
        nodes.check_vtree()
        circuit = Circuit(nodes.last)
    except MALFORMED as error:
        raise FileFormatError(f"{path}: {error.args[0]}") from error
    for remark in remarks:
        warnings.warn(f"{path}: {remark}", FileFormatWarning, stacklevel=2)
    return circuit


def write_psdd(
    circuit: Circuit | CompiledCircuit,
    path: str | os.PathLike[str],
    vtree: str | os.PathLike[str] | None = None,
) -> None:
    """Write a circuit that is a PSDD; an old file is replaced only when done.

    The first input of every product is its prime; longer products are nested on the right. Other
    circuits are refused: primes (or else subs) of a sum's products must exclude one another, and
    all products over the same variables must split them alike. What was read from a file that
    this wrote is written to the byte.

    Args:
        circuit: over binary variables.
        path: the .psdd file to write.
        vtree: where to write the .vtree file, if it is wanted.

    Raises:
        StructureError: if a variable is not binary, or products split variables unlike.
        PropertyRequired: if two products of a sum are not proved to exclude one another.
        OSError: if a file cannot be written; an existing one is left as it was.

    Examples:
        >>> import tempfile, pcflow as pf
        >>> tree = pf.chow_liu([[0, 0], [0, 1], [1, 1]])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     pf.write_psdd(tree, f"{folder}/tree.psdd", vtree=f"{folder}/tree.vtree")
        ...     pf.read_psdd(f"{folder}/tree.psdd", vtree=f"{folder}/tree.vtree").num_variables
        2
    """
    circuit = as_circuit(circuit)
    decisions = Decisions(circuit)
    numbered, ids = _in_order(decisions)
    _write_lines(path, [*_HEADER, *_lines(decisions, ids)])
    if vtree is not None:
        _write_lines(vtree, vtree_lines(numbered))


_HEADER = (
    "c L id vtree literal",
    "c T id vtree variable log(probability of the positive literal)",
    "c D id vtree n {prime sub log(weight)}, n times",
)


def _write_lines(path: str | os.PathLike[str], lines: Iterable[str]) -> None:
    replace_file(path, (f"{line}\n".encode() for line in lines))


def _in_order(decisions: Decisions) -> tuple[Vtree, list[int]]:
    """The vtree below the root, numbered from left to right; and the number of every place."""
    places = dict(enumerate(decisions.vtrees))
    order = list(in_order(places, decisions.place[decisions.root]))
    ids = [-1] * len(places)
    for number, place in enumerate(order):
        ids[place] = number
    numbered: Vtree = {}
    for place in order:
        entry = places[place]
        numbered[ids[place]] = entry if isinstance(entry, int) else (ids[entry[0]], ids[entry[1]])
    return numbered, ids


def _lines(decisions: Decisions, ids: list[int]) -> list[str]:
    """The nodes below the root, children first."""
    number: dict[int, int] = {}
    lines: list[str] = []
    stack = [decisions.root]
    while stack:
        node = stack[-1]
        waiting = [child for child in decisions.below(node) if child not in number]
        if node in number or not waiting:
            stack.pop()
        if node not in number and not waiting:
            number[node] = len(lines)
            lines.append(
                _line(decisions.nodes[node], ids[decisions.place[node]], number, len(lines))
            )
        stack += reversed(waiting)
    return [f"psdd {len(lines)}", *lines]


def _line(node: Node, place: int, number: dict[int, int], own: int) -> str:
    if isinstance(node, Decision):
        told = (f"{number[p]} {number[s]} {w!r}" for p, s, w in node.elements)
        return f"D {own} {place} {len(node.elements)} {' '.join(told)}"
    neg, pos = node.logs
    variable = node.variable + 1
    if -inf in node.logs:
        return f"L {own} {place} {variable if pos > neg else -variable}"
    # the other number mostly follows from the one; not where that is too close to zero
    both = f"{neg!r} " if abs(_other(pos) - neg) > 1e-13 else ""
    return f"T {own} {place} {variable} {both}{pos!r}"


def _other(log_probability: float) -> float:
    """Logarithm of the probability of the opposite."""
    return log(-expm1(log_probability)) if log_probability < 0 else -inf


class _Known(dict[int, Any]):
    """What is known by the id of a node."""

    def __missing__(self, node: int) -> Any:
        raise LookupError(f"node {node} is in no line above")


class _Nodes:
    """The nodes read so far.

    Attributes:
        last: the layer of the latest.
        top: its vtree node.
        words: its line.
    """

    last: Layer
    top: int
    words: list[str]

    def __init__(self, given: Vtree | None) -> None:
        self.given, self.words = given, ["psdd"]
        self.vtree: Vtree = {}
        self.layers: dict[int, Layer] = _Known()
        self.place: dict[int, int] = _Known()  # the vtree node of every node
        self.used: set[int] = set()
        self.literals: dict[int, InputLayer] = {}
        self.products: dict[tuple[int, int], ProductLayer] = {}

    def read(self, words: list[str]) -> None:
        """One line."""
        if len(words) < 4:
            raise ValueError("a line of a PSDD has at least four words")
        node, place = whole(words[1]), whole(words[2])
        if node in self.layers or node < 0:
            raise ValueError(f"node {node} is there already, or negative")
        match words[0]:
            case "L" if len(words) == 4:
                self.last = self.literal(place, whole(words[3]))
            case "T" if len(words) in (5, 6):
                self.last = self.terminal(place, whole(words[3]), list(map(real, words[4:])))
            case "D" if len(words) > 4:
                self.last = self.decision(place, words)
            case _:
                raise ValueError("not a line of a PSDD: " + " ".join(words[:4])[:40])
        self.layers[node], self.place[node], self.top = self.last, place, place
        self.words = words

    def literal(self, place: int, literal: int) -> InputLayer:
        self.split(place, variable_of(abs(literal)))
        if literal not in self.literals:
            self.literals[literal] = InputLayer(abs(literal) - 1, Indicator(int(literal > 0)))
        return self.literals[literal]

    def terminal(self, place: int, number: int, logs: list[float]) -> InputLayer:
        variable = variable_of(number)
        self.split(place, variable)
        if len(logs) == 1:
            logs = [_other(logs[0]), logs[0]]
        _check_sum(logs)
        logits = Parameter(torch.tensor(logs, dtype=torch.float64).unsqueeze(-1))
        return InputLayer(variable, Categorical(2), 1, {"logits": logits})

    def decision(self, place: int, words: list[str]) -> Layer:
        count = whole(words[3])
        if count < 1 or len(words) != 4 + 3 * count:
            raise ValueError(f"{words[3][:20]} elements do not fit {len(words) - 4} numbers")
        primes, subs = list(map(whole, words[4::3])), list(map(whole, words[5::3]))
        logs = list(map(real, words[6::3]))
        if -inf in logs:
            raise ValueError("log-weights must be finite")
        _check_sum(logs)
        self.used.update(primes, subs)
        sides = {(self.place[p], self.place[s]) for p, s in zip(primes, subs, strict=True)}
        if len(sides) > 1:
            raise ValueError(f"elements are at different vtree nodes: {sorted(sides)[:4]}")
        self.split(place, *sides)
        products = list(map(self.product, primes, subs))
        if count == 1:
            return products[0]
        return SumLayer(products, Parameter(torch.tensor([logs], dtype=torch.float64)))

    def product(self, prime: int, sub: int) -> ProductLayer:
        factors = self.layers[prime], self.layers[sub]
        key = id(factors[0]), id(factors[1])
        if key not in self.products:
            self.products[key] = ProductLayer(factors)
        return self.products[key]

    def split(self, place: int, entry: int | tuple[int, int]) -> None:
        """Hold a vtree node to what it was before."""
        known = self.vtree.setdefault(place, entry)
        if known != entry or (self.given is not None and self.given.get(place) != entry):
            raise ValueError(
                f"vtree node {place} is something else in other lines, or in the vtree"
            )

    def check_end(self, end: str) -> None:
        """Refuse a file whose last number may have lost digits: no line break is behind it."""
        kind, *numbers = self.words
        whole = kind == "D" and (end.isspace() or _ZERO.fullmatch(numbers[-1]))
        if end != "\n" and not whole and kind != "L":
            raise ValueError("no line break is behind the last number: is it truncated?")

    def check_count(self, count: int) -> list[str]:
        """What to say of a count, and of unused nodes; refuses what may have been cut off."""
        found, remarks = len(self.layers), []
        unused = found - len(self.used) - 1  # the root
        if found != count or not found:
            tops = sum(place == self.top for place in self.place.values()) if found else 0
            if tops != 1 or (unused and self.given is None):
                raise ValueError(
                    f"has {found} nodes, not {count}, {unused} unused: is it truncated?"
                )
            hint = "" if self.given else "; give the vtree, to be sure that nothing is missing"
            remarks.append(f"counts {count} nodes, but has {found}{hint}")
        if unused:
            remarks.append(f"nothing uses {unused} of its nodes")
        return remarks

    def check_vtree(self) -> None:
        """Prove that the last node is at the root of one vtree over the variables 1..D."""
        root = root_of(self.vtree if self.given is None else self.given)
        if self.top != root:
            raise ValueError(f"its root is at vtree node {self.top}, but the vtree's is {root}")
        variables = {entry for entry in self.vtree.values() if isinstance(entry, int)}
        absent = next(v for v in range(len(variables) + 1) if v not in variables)
        if absent < len(variables):
            raise ValueError(f"variables must be 1..D, but {absent + 1} is missing")


def _check_sum(logs: list[float]) -> None:
    if not all(value <= ROUNDING for value in logs):
        raise ValueError(f"logarithms must not be positive: {logs[:4]}")
    total = sum(map(exp, logs))
    if abs(total - 1) > SLACK:
        raise ValueError(f"weights sum to {total:.6g}, not to one")
