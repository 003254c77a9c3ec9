"""Formulas as text to clauses over the same variables.

Operators wait on a stack until a looser one comes (Dijkstra's shunting yard), and nodes are listed
parts first: nothing recurses, so nesting may be deep. Every formula is kept with its negation.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import product
from typing import NamedTuple

from pcflow.errors import StructureError

MOST_CLAUSES = 10_000

_TOKEN = re.compile(r"\s+|(<->|->|[~&^|()]|[A-Za-z_][A-Za-z0-9_]*)")
_TIGHTNESS = {"(": 0, "<->": 1, "->": 2, "|": 3, "^": 4, "&": 5, "~": 6}

Clauses = frozenset[frozenset[int]]


class _Node(NamedTuple):
    """A DIMACS literal or, if there are parts, a conjunction or disjunction of earlier nodes."""

    literal: int
    conjunction: bool
    parts: tuple[int, ...]


class _Formula(NamedTuple):
    """Which nodes are a formula and its negation."""

    holds: int
    fails: int

    def negation(self) -> _Formula:
        return _Formula(self.fails, self.holds)


def formula_clauses(text: str, variables: Sequence[str]) -> Clauses:
    """Clauses of DIMACS literals with the models of a formula; its grammar is told by CNF.

    Raises:
        StructureError: if the text is not a formula, names are unknown or come twice, or more than
            10,000 clauses are needed.
    """
    literals = {name: number for number, name in enumerate(variables, start=1)}
    if len(literals) < len(variables):
        raise StructureError(f"the names of variables must differ, got {list(variables)}")
    parser = _Parser(text, literals)
    return _distribute(parser.nodes, parser.parse().holds)


class _Parser:
    """Reads a text once, from left to right."""

    def __init__(self, text: str, literals: dict[str, int]) -> None:
        self.text, self.literals = text, literals
        self.nodes: list[_Node] = []
        self.operands: list[_Formula] = []
        self.operators: list[str] = []

    def parse(self) -> _Formula:
        complete = False
        for token, start in self.tokens():
            complete = (self.operator if complete else self.operand)(token, start)
        if not complete:
            raise self.error("a name, ~ or ( is missing", len(self.text))
        self.apply(1)
        if self.operators:
            raise self.error("a ) is missing", len(self.text))
        return self.operands.pop()

    def tokens(self) -> Iterator[tuple[str, int]]:
        position = 0
        while position < len(self.text):
            match = _TOKEN.match(self.text, position)
            if match is None:
                raise self.error("no part of a formula", position)
            if match[1]:
                yield match[1], position
            position = match.end()

    def operand(self, token: str, start: int) -> bool:
        """Take what may stand where an operand is due; whether the operand is complete."""
        if token in ("~", "("):
            self.operators.append(token)
            return False
        if token in _TIGHTNESS or token == ")":
            raise self.error("a name, ~ or ( is missing", start)
        if token not in self.literals:
            raise self.error(f"{token} is not among the variables", start)
        literal = self.literals[token]
        self.operands.append(self.both(_Node(literal, False, ()), _Node(-literal, False, ())))
        return True

    def operator(self, token: str, start: int) -> bool:
        """Take what may stand behind an operand; whether the operand is still complete."""
        if token == ")":
            self.apply(1)
            if not self.operators:
                raise self.error("this ) closes nothing", start)
            self.operators.pop()
            return True
        if token not in _TIGHTNESS or token in ("~", "("):
            raise self.error("an operator is missing", start)
        self.apply(_TIGHTNESS[token] + (token == "->"))  # implications wait for the last one
        self.operators.append(token)
        return False

    def apply(self, tightness: int) -> None:
        """Apply the operators that wait and are at least so tight."""
        while self.operators and _TIGHTNESS[self.operators[-1]] >= tightness:
            operator, right = self.operators.pop(), self.operands.pop()
            if operator == "~":
                self.operands.append(right.negation())
            else:
                self.operands.append(self.combine(operator, self.operands.pop(), right))

    def combine(self, operator: str, left: _Formula, right: _Formula) -> _Formula:
        match operator:
            case "&":
                return self.both(
                    _Node(0, True, (left.holds, right.holds)),
                    _Node(0, False, (left.fails, right.fails)),
                )
            case "|":
                return self.combine("&", left.negation(), right.negation()).negation()
            case "->":
                return self.combine("|", left.negation(), right)
            case "<->":
                return self.combine("^", left, right).negation()
            case _:  # both sides of it as conjunctions, which need not be distributed
                one = self.combine("|", left, right), self.combine("->", left, right.negation())
                other = self.combine("->", left, right), self.combine("->", right, left)
                return _Formula(self.combine("&", *one).holds, self.combine("&", *other).holds)

    def both(self, holds: _Node, fails: _Node) -> _Formula:
        self.nodes += [holds, fails]
        return _Formula(len(self.nodes) - 2, len(self.nodes) - 1)

    def error(self, reason: str, start: int) -> StructureError:
        around = f"{self.text[max(0, start - 20) : start]} >>> {self.text[start : start + 20]}"
        return StructureError(f"formula, character {start + 1}: {reason}: {around}")


def _distribute(nodes: Sequence[_Node], root: int) -> Clauses:
    """The clauses of a node, from those of its parts; what it does not need is left alone."""
    needed = {root}
    for number in reversed(range(len(nodes))):
        if number in needed:
            needed.update(nodes[number].parts)
    clauses: dict[int, Clauses] = {}
    for number in sorted(needed):
        node = nodes[number]
        parts = [clauses[part] for part in node.parts]
        if not parts:
            clauses[number] = frozenset([frozenset([node.literal])])
        elif node.conjunction:
            clauses[number] = parts[0] | parts[1]
        else:
            clauses[number] = _either(parts[0], parts[1])
    return clauses[root]


def _either(left: Clauses, right: Clauses) -> Clauses:
    """Every clause of one side or every clause of the other, less what always holds."""
    if len(left) * len(right) > MOST_CLAUSES:
        raise StructureError(
            f"the formula needs more than {MOST_CLAUSES:,} clauses without auxiliary variables; "
            f"give clauses instead"
        )
    joined = (a | b for a, b in product(left, right))
    return frozenset(c for c in joined if not any(-literal in c for literal in c))
