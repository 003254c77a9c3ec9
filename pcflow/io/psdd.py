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
from collections.abc import Iterable
from math import exp, expm1, inf, log
from typing import Any

import torch

from pcflow.circuit import Circuit
from pcflow.errors import FileFormatError, StructureError
from pcflow.inputs import Categorical, Indicator
from pcflow.io.vtree import MALFORMED, Vtree, read_lines, read_vtree, root_of, variable_of
from pcflow.layers import InputLayer, Layer, Parameter, ProductLayer, SumLayer

SLACK = 1e-3
"""By how much weights may miss a sum of one: files of six decimals do by about 1e-6."""


def read_psdd(
    path: str | os.PathLike[str], vtree: str | os.PathLike[str] | None = None
) -> Circuit:
    """Read a PSDD.

    Every node becomes a layer of one unit: literals are `Indicator` inputs, other terminal nodes
    `Categorical(2)`, which holds the probabilities of the file to the bit, decisions sums of products
    (prime, sub). Weights are normalised.

    Args:
        path: the .psdd file.
        vtree: a .vtree file that the PSDD must respect.

    Raises:
        FileFormatError: if a file is truncated or of another format, the weights of a node do
            not sum to one, nodes split a vtree node differently, or variables are not 1..D; the
            message names the line.
        OSError: if a file cannot be read.

    Examples:
        >>> import tempfile, pcflow as pf
        >>> with tempfile.NamedTemporaryFile("w", suffix=".psdd") as file:
        ...     _ = file.write("psdd 1\\nT 0 0 1 -0.693147\\n")
        ...     file.flush()
        ...     pf.read_psdd(file.name)
        Circuit(1 variables, 1 layers, 2 parameters)
    """
    given = None if vtree is None else read_vtree(vtree)
    nodes = _Nodes(given)
    count, lines = read_lines(path, "psdd")
    for number, words in lines:
        try:
            nodes.read(words)
        except MALFORMED as error:
            raise FileFormatError(f"{path}: line {number}: {error.args[0]}") from error
    try:
        nodes.check_count(count)
        nodes.check_vtree()
        return Circuit(nodes.last)
    except MALFORMED as error:
        raise FileFormatError(f"{path}: {error.args[0]}") from error


class _Known(dict[int, Any]):
    """What is known by the id of a node."""

    def __missing__(self, node: int) -> Any:
        raise LookupError(f"node {node} is in no line above")


class _Nodes:
    """The nodes read so far.

    Attributes:
        last: the layer of the latest.
        top: its vtree node.
    """

    last: Layer
    top: int

    def __init__(self, given: Vtree | None) -> None:
        self.given = given
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
        node, place = int(words[1]), int(words[2])
        if node in self.layers or node < 0:
            raise ValueError(f"node {node} is there already, or negative")
        match words[0]:
            case "L" if len(words) == 4:
                self.last = self.literal(place, int(words[3]))
            case "T" if len(words) in (5, 6):
                self.last = self.terminal(place, int(words[3]), list(map(float, words[4:])))
            case "D" if len(words) > 4:
                self.last = self.decision(place, words)
            case _:
                raise ValueError("not a line of a PSDD: " + " ".join(words[:4])[:40])
        self.layers[node], self.place[node], self.top = self.last, place, place

    def literal(self, place: int, literal: int) -> InputLayer:
        self.split(place, variable_of(abs(literal)))
        if literal not in self.literals:
            self.literals[literal] = InputLayer(abs(literal) - 1, Indicator(int(literal > 0)))
        return self.literals[literal]

    def terminal(self, place: int, number: int, logs: list[float]) -> InputLayer:
        variable = variable_of(number)
        self.split(place, variable)
        if any(not value <= 0 for value in logs):
            raise ValueError(f"log-probabilities must not be positive: {logs}")
        if len(logs) == 1:
            logs = [log(-expm1(logs[0])) if logs[0] < 0 else -inf, logs[0]]
        _check_sum(logs)
        logits = Parameter(torch.tensor(logs, dtype=torch.float64).unsqueeze(-1))
        return InputLayer(variable, Categorical(2), 1, {"logits": logits})

    def decision(self, place: int, words: list[str]) -> Layer:
        count = int(words[3])
        if count < 1 or len(words) != 4 + 3 * count:
            raise ValueError(f"{words[3][:20]} elements do not fit {len(words) - 4} numbers")
        primes, subs = list(map(int, words[4::3])), list(map(int, words[5::3]))
        logs = list(map(float, words[6::3]))
        if not all(-inf < value <= 1e-9 for value in logs):
            raise ValueError("log-weights must be finite and not positive")
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
            raise ValueError(f"vtree node {place} is something else in other lines, or in the vtree")

    def check_count(self, count: int) -> None:
        """Refuse what was cut off; some tools write a count of more than the nodes of the file."""
        found = len(self.layers)
        loose = 0 if found == count else found - len(self.used)
        if found == 0 or found > count or loose > 1:
            raise ValueError(f"has {found} nodes, not {count}, {loose} unused: is it truncated?")

    def check_vtree(self) -> None:
        """Prove that the last node is at the root of one vtree over the variables 1..D."""
        root = root_of(self.vtree if self.given is None else self.given)
        if self.top != root:
            raise ValueError(f"its root is at vtree node {self.top}, but the vtree's is {root}")
        variables = {entry for entry in self.vtree.values() if isinstance(entry, int)}
        absent = next(v for v in range(len(variables) + 1) if v not in variables)
        if absent < len(variables):
            raise ValueError(f"variables must be 1..D, but {absent + 1} is missing")


def _check_sum(logs: Iterable[float]) -> None:
    total = sum(map(exp, logs))
    if abs(total - 1) > SLACK:
        raise ValueError(f"weights sum to {total:.6g}, not to one")
