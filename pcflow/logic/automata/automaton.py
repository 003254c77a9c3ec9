"""Deterministic finite automata over categories: rules for which sequences of values are allowed.

Categories that no state tells apart form a class, so that 126,464 tokens are a dozen classes for
most rules. The value is a `language`, the ways to make one are in `made`; here is the algebra.

Legend: V categories, C classes, S states.
"""

from __future__ import annotations

from typing import Any

from pcflow.checks import check_whole
from pcflow.logic.automata import build, combine
from pcflow.logic.automata.made import Made


class Automaton(Made):
    """A rule for sequences of categories 0, ..., V - 1: a deterministic finite automaton.

    It is kept in its normal form: with as few states and classes as can be, numbered in the order
    in which they are met. So two automata are equal if they accept the same strings. `a & b`,
    `a | b`, `~a` and `a + b` are the strings of both, of either, all others, and those of one after
    the other; of different ranges the larger counts.

    Args:
        classes: the class of every category, [V].
        next: the state after every state and class, -1 where no string goes on, [S, C].
        start: the first state.
        accept: in which states a string may end, [S].

    Attributes:
        classes: the class of every category, [V].
        next: the state after every state and class, [S, C].
        start: 0.
        accept: bool [S].

    Raises:
        StructureError: if the numbers do not fit together.
        EmptyLanguage: if no string is accepted.

    Examples:
        >>> even = Automaton([0, 1], [[0, 1], [1, 0]], start=0, accept=[True, False])
        >>> even
        Automaton(2 states, 2 classes of 2 categories)
        >>> even.accepts([[1, 0, 1], [1, 0, 0]])
        tensor([ True, False])
    """

    def __and__(self, other: Automaton) -> Automaton:
        """The strings of both."""
        return self._combined(combine.both, other)

    def __or__(self, other: Automaton) -> Automaton:
        """The strings of one or both."""
        return self._combined(combine.either, other)

    def __add__(self, other: Automaton) -> Automaton:
        """Every string of this one, followed by every string of the other."""
        return self._combined(combine.concatenation, other)

    def __invert__(self) -> Automaton:
        """All other strings over the same categories."""
        return self._of(combine.complement(self._table))

    def _combined(self, how: Any, other: Automaton) -> Automaton:
        if not isinstance(other, Automaton):
            return NotImplemented
        return self._of(how(self._table, other._table))

    def padded(self, end: int) -> Automaton:
        """Its strings, followed by a category as often as one likes, or not at all.

        Args:
            end: the category.

        Examples:
            >>> Automaton.options([[1, 2]]).padded(0).accepts([[1, 2, 0, 0]])
            tensor([True])
        """
        check_whole("end", end, least=0)
        size = max(len(self.classes), end + 1)
        return self._of(combine.concatenation(self._table, build.repeated(end, size)))

    def widened(self, num_categories: int) -> Automaton:
        """The same strings among more categories, which occur in none of them.

        Args:
            num_categories: how many there are then.

        Raises:
            SettingError: if there are more already.

        Examples:
            >>> even = Automaton([0, 1], [[0, 1], [1, 0]], start=0, accept=[True, False])
            >>> even.widened(3).accepts([[1, 1, 0], [1, 1, 2]])
            tensor([ True, False])
        """
        check_whole("num_categories", num_categories, least=len(self.classes))
        return self._of(self._table.widened(num_categories))
