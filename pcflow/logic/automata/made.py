"""Ways to make automata: of what people say, and of what others made.

Legend: V categories.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache, reduce
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from pcflow.checks import as_iterable, as_wholes, check_kind, check_whole
from pcflow.errors import EmptyLanguage, SettingError
from pcflow.logic.automata import build, combine, read
from pcflow.logic.automata.language import Language
from pcflow.logic.automata.table import Table

KEPT = 32
"""How many automata of patterns are kept: of a large vocabulary each takes about a second."""


class Made(Language):
    """How people make an `Automaton`."""

    @classmethod
    def options(cls, options: Iterable[Iterable[int]], num_categories: int | None = None) -> Self:
        """The strings that are listed, and no others.

        Args:
            options: sequences of categories.
            num_categories: V; one more than the largest of them by default.

        Raises:
            EmptyLanguage: if there is none.
            SettingError: if a category is out of range.

        Examples:
            >>> import pcflow as pf
            >>> pf.Automaton.options([[0, 1], [2]]).accepts([[2], [1]])
            tensor([ True, False])
        """
        texts = _texts("options", options)
        return cls._of(build.trie(texts, _range(texts, num_categories)))

    @classmethod
    def phrases(cls, phrases: Iterable[Iterable[int]], num_categories: int | None = None) -> Self:
        """The strings in which at least one of the phrases occurs; `~` of it those with none.

        Args:
            phrases: sequences of categories, none empty.
            num_categories: V; one more than the largest of them by default.

        Raises:
            EmptyLanguage: if there is none.
            SettingError: if a category is out of range, or a phrase empty.

        Examples:
            >>> import pcflow as pf
            >>> x = [[0, 1, 2], [0, 2, 1]]
            >>> (~pf.Automaton.phrases([[1, 2]])).accepts(x)
            tensor([False,  True])
        """
        texts = _texts("phrases", phrases)
        SettingError.check("phrases", texts, "sequences of at least one category", all)
        return cls._of(build.occurrence(texts, _range(texts, num_categories)))

    @classmethod
    def lengths(cls, least: int, most: int | None, num_categories: int) -> Self:
        """All strings of `least` to `most` categories; of any number from `least` on, if None.

        Examples:
            >>> import pcflow as pf
            >>> pf.Automaton.lengths(2, None, num_categories=5).accepts([[0, 0, 0]])
            tensor([True])
        """
        check_whole("least", least, least=0)
        check_whole("num_categories", num_categories)
        if most is not None:
            check_whole("most", most, least=least)
        return cls._of(build.lengths(least, most, num_categories))

    @classmethod
    def template(
        cls,
        parts: Iterable[int | Collection[int] | Language | None],
        num_categories: int | None = None,
    ) -> Self:
        """A text with holes, part by part.

        Args:
            parts: a category; None, which is any one category; some categories, of which it is one;
                or an automaton, for what it accepts.
            num_categories: V; by default as many as the parts name.

        Raises:
            SettingError: if a category is out of range.

        Examples:
            >>> import pcflow as pf
            >>> rule = pf.Automaton.template([4, None, pf.Automaton.options([[1], [1, 1]]), {2, 3}])
            >>> rule.accepts([[4, 0, 1, 3], [4, 0, 0, 3]])
            tensor([ True, False])
        """
        parts = list(as_iterable("parts", parts))
        fixed = [as_wholes("parts", p) for p in parts if p is not None and not _is_rule(p)]
        rules = [part for part in parts if isinstance(part, Language)]
        widest = max((len(rule.classes) for rule in rules), default=1)
        size = max(widest, _range(fixed, None)) if num_categories is None else num_categories
        check_whole("num_categories", size, least=widest)
        _range(fixed, size)
        found: list[Table] = []
        run: list[npt.NDArray[np.int64]] = []  # single steps, which are one table
        for part in parts:
            if isinstance(part, Language):
                found += [build.steps(run, size), part._table]
                run = []
            else:
                some = range(size) if part is None else as_wholes("parts", part)
                run.append(np.array(list(some), dtype=np.int64))
        return cls._of(reduce(combine.concatenation, [*found, build.steps(run, size)]))

    @classmethod
    def numbers(
        cls, lower: int, upper: int, digits: Sequence[int], num_categories: int | None = None
    ) -> Self:
        """Whole numbers in decimals from `lower` to `upper`, without zeros in front.

        Args:
            lower: at least 0.
            upper: at least `lower`.
            digits: the categories of 0, 1, ..., 9.
            num_categories: V; one more than the largest of them by default.

        Examples:
            >>> import pcflow as pf
            >>> rule = pf.Automaton.numbers(7, 12, digits=range(10))
            >>> rule.accepts([[1, 2], [1, 3], [0, 7]])
            tensor([ True, False, False])
        """
        check_whole("lower", lower, least=0)
        check_whole("upper", upper, least=lower)
        ten = as_wholes("digits", digits)
        SettingError.check("digits", ten, "ten categories", lambda d: len(set(d)) == len(d) == 10)
        return cls._of(build.numbers(lower, upper, ten, _range([ten], num_categories)))

    @classmethod
    def of(
        cls,
        given: read.Index | Mapping[str, Any],
        num_categories: int | None = None,
        end: int | None = None,
    ) -> Self:
        """What somebody else made.

        Args:
            given: an `outlines_core.Index`; or a dictionary as Ctrl-G (Zhang et al. 2024) writes
                it: `edges` [(state, state after, flags [V]), ...], `initial_state`,
                `accept_states`.
            num_categories: V, of an index; the flags of a dictionary say it.
            end: an index's end of text: nothing but itself follows it, so that a text may be
                shorter than the sequence that it stands in. Of a dictionary take `padded(end)`.

        Raises:
            CannotEnd: if strings come to states of an index from which none ends.
            EmptyLanguage: if no string is accepted.
            StructureError: if a dictionary is of another form.
            SettingError: if the index names categories out of range, a dictionary is about another
                number of them, or an end is given with one.

        Examples:
            >>> import pcflow as pf
            >>> edge = (0, 1, [True, False, True])
            >>> pf.Automaton.of({"edges": [edge], "initial_state": 0, "accept_states": [1]})
            Automaton(2 states, 2 classes of 3 categories)
        """
        if isinstance(given, Mapping):
            if num_categories is not None:
                check_whole("num_categories", num_categories)
            return cls._of(_as_said(read.from_ctrl_g(given), num_categories, end))
        if not hasattr(given, "get_transitions"):
            check_kind("given", given, Mapping, "an index of outlines-core or a dictionary")
        check_whole("num_categories", num_categories)
        assert num_categories is not None
        if end is not None:
            check_whole("end", end, least=0)
            _range([[end]], num_categories)
        return cls._of(read.from_index(given, num_categories, end))

    @classmethod
    def regex(
        cls, pattern: str, vocabulary: Sequence[str | bytes | None], end: int | None = None
    ) -> Self:
        """The sequences of tokens whose texts together match a regular expression.

        Who asks again for one of the last 32 is given what is there.

        Args:
            pattern: a regular expression, as outlines-core understands it.
            vocabulary: the text of every token; None or empty for those that are no text.
            end: the token for the end of text; nothing but itself follows it. None if a text must
                fill its sequence.

        Raises:
            PatternError: if the pattern is not understood, or the vocabulary cannot say it.
            ImportError: if outlines-core is not there (`pip install 'pcflow[constraints]'`).

        Examples:
            >>> import pcflow as pf
            >>> texts = ["a", "b", "ab", "c", None]
            >>> rule = pf.Automaton.regex("[ab]+", texts, end=4)  # doctest: +SKIP
            >>> rule.accepts([[2, 4, 4], [4, 2, 2]])  # doctest: +SKIP
            tensor([ True, False])
        """
        check_kind("pattern", pattern, str, "a regular expression")
        if end is not None:
            check_whole("end", end, least=0)
        texts = _vocabulary(vocabulary)
        texts = [None if number == end else text for number, text in enumerate(texts)]
        return cls._regex(pattern, tuple(texts), end)

    @classmethod
    @lru_cache(maxsize=KEPT)
    def _regex(cls, pattern: str, texts: tuple[str | bytes | None, ...], end: int | None) -> Self:
        return cls.of(read.Marked(pattern, texts), len(texts), end)

    @classmethod
    def json_schema(
        cls,
        schema: str | Mapping[str, Any],
        vocabulary: Sequence[str | bytes | None],
        end: int | None = None,
    ) -> Self:
        """The sequences of tokens that are JSON of a schema; see `regex`.

        Raises:
            TypeMismatch: if the schema is neither a text nor a dict.
            PatternError: if the schema is not understood, or the vocabulary cannot say it.
            ImportError: if outlines-core is not there (`pip install 'pcflow[constraints]'`).
        """
        check_kind("schema", schema, str | Mapping, "a JSON schema: its text, or a dict")
        return cls.regex(read.pattern_of(schema), vocabulary, end)


def _is_rule(part: object) -> bool:
    return isinstance(part, Language)


def _as_said(table: Table, num_categories: int | None, end: int | None) -> Table:
    """The table of a dictionary, which says itself what an index has to be told.

    Raises:
        SettingError: if something else was said.
    """
    size = len(table.classes)
    wanted = f"{size}, of which the flags of the edges are (`widened` takes more)"
    SettingError.check("num_categories", num_categories, wanted, lambda n: n in (None, size))
    wanted = "None, of a dictionary: take `padded(end)` of the automaton"
    SettingError.check("end", end, wanted, lambda n: n is None)
    return table


def _texts(name: str, given: Iterable[Iterable[int]]) -> list[list[int]]:
    texts = [as_wholes(name, text) for text in as_iterable(name, given)]
    if not texts:
        raise EmptyLanguage(f"{name}: there is none")
    return texts


def _vocabulary(given: Sequence[str | bytes | None]) -> list[str | bytes | None]:
    texts = list(as_iterable("vocabulary", given))
    for number, text in enumerate(texts):
        check_kind(f"vocabulary[{number}]", text, str | bytes | None, "a text or None")
    return texts


def _range(texts: Iterable[Iterable[int]], num_categories: int | None) -> int:
    """V, in which all categories must be."""
    named = [category for text in texts for category in text]
    size = max([0, *named]) + 1 if num_categories is None else num_categories
    check_whole("num_categories", size)
    wrong = [category for category in named if not 0 <= category < size]
    if wrong:
        raise SettingError("category", wrong[0], f"in 0..{size - 1}")
    return size
