"""Formulas in conjunctive normal form, as values."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import index

from pcflow.checks import as_iterable, check_whole
from pcflow.errors import StructureError
from pcflow.logic.formula import formula_clauses

Clause = tuple[int, ...]

MOST_VARIABLES = 1 << 24
"""Formulas over more are refused: sets of variables are integers of so many bits."""


@dataclass(frozen=True, repr=False)
class CNF:
    """A conjunction of clauses, each a disjunction of literals.

    Literals follow DIMACS: v > 0 says that variable v - 1 is 1, and -v that it is 0. Literals are
    sorted by variable; what is said twice is kept once, and clauses that always hold are left out.

    Args:
        clauses: the clauses, each an iterable of literals; an empty clause can never hold.
        num_variables: D; by default, as many as the literals name.

    Raises:
        StructureError: if a literal is zero, not an integer, or names a variable out of range, or
            there are more than 2^24 variables.

    Attributes:
        clauses: sorted tuples of literals.
        num_variables: how many variables there are, D.

    Examples:
        >>> CNF([(3, -1), (2, 2), (1, -1)])
        CNF(3 variables, 2 clauses)
        >>> CNF([(3, -1), (2, 2), (1, -1)]).clauses
        ((-1, 3), (2,))
    """

    clauses: tuple[Clause, ...]
    num_variables: int

    def __init__(self, clauses: Iterable[Iterable[int]], num_variables: int | None = None) -> None:
        """Check every literal, then simplify."""
        clauses = [as_iterable("clauses", some) for some in as_iterable("clauses", clauses)]
        if num_variables is not None:
            check_whole("num_variables", num_variables, least=0)
        given = [[_literal(literal) for literal in clause] for clause in clauses]
        named = max((abs(literal) for clause in given for literal in clause), default=0)
        count = named if num_variables is None else num_variables
        if count < named:
            raise StructureError(f"{count} variables are too few: a literal names number {named}")
        if count > MOST_VARIABLES:
            raise StructureError(f"{count} variables are more than {MOST_VARIABLES}")
        found = map(set, given)
        kept = (sorted(clause, key=abs) for clause in found if not _always_holds(clause))
        object.__setattr__(self, "clauses", tuple(dict.fromkeys(map(tuple, kept))))
        object.__setattr__(self, "num_variables", count)

    @classmethod
    def from_formula(cls, formula: str, variables: Sequence[str]) -> CNF:
        """The clauses of a formula, without auxiliary variables: the models stay the same.

        From the tightest: `~` (not), `&` (and), `^` (exclusive or), `|` (or), `->` (implies, from
        the right), `<->` (if and only if), and parentheses.

        Args:
            formula: the text.
            variables: names of the variables 0, 1, ..., D - 1; not all need to occur.

        Raises:
            StructureError: if the text is not a formula, names an unknown variable, or needs more
                than 10,000 clauses when disjunctions are distributed over conjunctions.

        Examples:
            >>> CNF.from_formula("(rain | ~wet) & (rain -> cold)", ["rain", "wet", "cold"]).clauses
            ((-1, 3), (1, -2))
        """
        clauses = (sorted(clause, key=abs) for clause in formula_clauses(formula, variables))
        return cls(sorted(clauses), len(variables))

    def __repr__(self) -> str:
        """Sizes."""
        return f"CNF({self.num_variables} variables, {len(self.clauses)} clauses)"


def _literal(given: int) -> int:
    try:
        literal = index(given)
    except TypeError as error:
        raise StructureError(f"literals are integers, got {given!r}") from error
    if literal == 0:
        raise StructureError("literal 0 names no variable: DIMACS counts them from 1")
    return literal


def _always_holds(clause: set[int]) -> bool:
    return not clause.isdisjoint([-literal for literal in clause])
