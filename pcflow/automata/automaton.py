"""A deterministic finite automaton over categories: which sequences of values are allowed.

Categories that no state tells apart form a class, so that 126,464 tokens are a dozen classes for
most rules. Legend: B batch, L length, V categories, C classes, S states, N draws.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cached_property, reduce
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pcflow.automata import build, combine, picture, read
from pcflow.automata.table import NOWHERE, Flags, Table, normal
from pcflow.automata.uniform import uniform
from pcflow.checks import as_iterable, as_wholes, check_generator, check_kind, check_whole
from pcflow.circuit import Circuit
from pcflow.errors import EmptyLanguage, EvidenceError, SettingError, StructureError
from pcflow.evidence import Numbers, as_tensor

if TYPE_CHECKING:
    import networkx as nx
    from matplotlib.axes import Axes


class Automaton:
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
        classes: [V].
        next: [S, C].
        start: 0.
        accept: bool [S].

    Raises:
        StructureError: if the numbers do not fit together.
        EmptyLanguage: if no string is accepted.

    Examples:
        >>> even = Automaton([0, 1], [[0, 1], [1, 0]], start=0, accept=[True, False])
        >>> even
        Automaton(2 states, 2 classes of 2 categories)
        >>> even.accepts(torch.tensor([[1, 0, 1], [1, 0, 0]]))
        tensor([ True, False])
    """

    def __init__(self, classes: Numbers, next: Numbers, start: int, accept: Numbers) -> None:
        """Check that it is an automaton, and bring it to its normal form."""
        given = [as_tensor(n, t).cpu() for n, t in (("classes", classes), ("next", next))]
        label, after = (_whole(n, t) for n, t in zip(("classes", "next"), given, strict=True))
        ends = as_tensor("accept", accept).cpu()
        _check(label, after, start, ends)
        self._set(Table(label.numpy(), after.numpy(), int(start), ends.bool().numpy()))

    @classmethod
    def _of(cls, table: Table) -> Automaton:
        found = cls.__new__(cls)
        found._set(table)
        return found

    def _set(self, table: Table) -> None:
        self._table = normal(table)
        self.classes, self.next = (torch.from_numpy(part.copy()) for part in self._table[:2])
        self.start, self.accept = 0, torch.from_numpy(self._table.accept.copy())

    # -- ways to make one ------------------------------------------------------------------------

    @classmethod
    def options(
        cls, options: Iterable[Iterable[int]], num_categories: int | None = None
    ) -> Automaton:
        """The strings that are listed, and no others.

        Args:
            options: sequences of categories.
            num_categories: V; one more than the largest of them by default.

        Raises:
            EmptyLanguage: if there is none.
            SettingError: if a category is out of range.

        Examples:
            >>> Automaton.options([[0, 1], [2]]).accepts(torch.tensor([[2], [1]]))
            tensor([ True, False])
        """
        texts = _texts("options", options)
        return cls._of(build.trie(texts, _range(texts, num_categories)))

    @classmethod
    def phrases(
        cls, phrases: Iterable[Iterable[int]], num_categories: int | None = None
    ) -> Automaton:
        """The strings in which at least one of the phrases occurs; `~` of it those with none.

        Args:
            phrases: sequences of categories, none empty.
            num_categories: V; one more than the largest of them by default.

        Raises:
            EmptyLanguage: if there is none.
            SettingError: if a category is out of range, or a phrase empty.

        Examples:
            >>> x = torch.tensor([[0, 1, 2], [0, 2, 1]])
            >>> (~Automaton.phrases([[1, 2]])).accepts(x)
            tensor([False,  True])
        """
        texts = _texts("phrases", phrases)
        SettingError.check("phrases", texts, "sequences of at least one category", all)
        return cls._of(build.occurrence(texts, _range(texts, num_categories)))

    @classmethod
    def lengths(cls, least: int, most: int | None, num_categories: int) -> Automaton:
        """All strings of `least` to `most` categories; of any number from `least` on, if None.

        Examples:
            >>> Automaton.lengths(2, None, num_categories=5).accepts(torch.zeros(1, 3).long())
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
        parts: Iterable[int | Collection[int] | Automaton | None],
        num_categories: int | None = None,
    ) -> Automaton:
        """A text with holes, part by part.

        Args:
            parts: a category; None, which is any one category; some categories, of which it is one;
                or an automaton, for what it accepts.
            num_categories: V; by default as many as the parts name.

        Raises:
            SettingError: if a category is out of range.

        Examples:
            >>> rule = Automaton.template([4, None, Automaton.options([[1], [1, 1]]), {2, 3}])
            >>> rule.accepts(torch.tensor([[4, 0, 1, 3], [4, 0, 0, 3]]))
            tensor([ True, False])
        """
        parts = list(as_iterable("parts", parts))
        fixed = [as_wholes("parts", p) for p in parts if p is not None and not _is_rule(p)]
        rules = [part for part in parts if isinstance(part, Automaton)]
        size = max((len(rule.classes) for rule in rules), default=1)
        size = max(size, _range(fixed, None)) if num_categories is None else num_categories
        _range(fixed, size)
        found: list[Table] = []
        run: list[npt.NDArray[np.int64]] = []  # single steps, which are one table
        for part in parts:
            if isinstance(part, Automaton):
                found += [build.steps(run, size), part._table]
                run = []
            else:
                some = range(size) if part is None else as_wholes("parts", part)
                run.append(np.array(list(some), dtype=np.int64))
        return cls._of(reduce(combine.concatenation, [*found, build.steps(run, size)]))

    @classmethod
    def numbers(
        cls, lower: int, upper: int, digits: Sequence[int], num_categories: int | None = None
    ) -> Automaton:
        """Whole numbers in decimals from `lower` to `upper`, without zeros in front.

        Args:
            lower: at least 0.
            upper: at least `lower`.
            digits: the categories of 0, 1, ..., 9.
            num_categories: V; one more than the largest of them by default.

        Examples:
            >>> rule = Automaton.numbers(7, 12, digits=range(10))
            >>> rule.accepts(torch.tensor([[1, 2], [1, 3], [0, 7]]))
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
    ) -> Automaton:
        """What somebody else made.

        Args:
            given: an `outlines_core.Index`; or a dictionary as Ctrl-G (Zhang et al. 2024) writes
                it: `edges` [(state, state after, flags [V]), ...], `initial_state`,
                `accept_states`.
            num_categories: V, of an index.
            end: the index's end of text: nothing but itself follows it, so that a text may be
                shorter than the sequence that it stands in.

        Raises:
            CannotEnd: if strings come to states of an index from which none ends.
            EmptyLanguage: if no string is accepted.
            StructureError: if a dictionary is of another form.
            SettingError: if the index names categories out of range.

        Examples:
            >>> edge = (0, 1, [True, False, True])
            >>> Automaton.of({"edges": [edge], "initial_state": 0, "accept_states": [1]})
            Automaton(2 states, 2 classes of 3 categories)
        """
        if isinstance(given, Mapping):
            return cls._of(read.from_ctrl_g(given))
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
    ) -> Automaton:
        """The sequences of tokens whose texts together match a regular expression.

        Args:
            pattern: a regular expression, as outlines-core understands it.
            vocabulary: the text of every token; None or empty for those that are no text.
            end: the token for the end of text; nothing but itself follows it. None if a text must
                fill its sequence.

        Raises:
            PatternError: if the pattern is not understood, or the vocabulary cannot say it.
            ImportError: if outlines-core is not there (`pip install 'pcflow[constraints]'`).

        Examples:
            >>> texts = ["a", "b", "ab", "c", None]
            >>> rule = Automaton.regex("[ab]+", texts, end=4)  # doctest: +SKIP
            >>> rule.accepts([[2, 4, 4], [4, 2, 2]])  # doctest: +SKIP
            tensor([ True, False])
        """
        check_kind("pattern", pattern, str, "a regular expression")
        if end is not None:
            check_whole("end", end, least=0)
        texts = _vocabulary(vocabulary)
        texts = [None if number == end else text for number, text in enumerate(texts)]
        return cls.of(read.Marked(pattern, texts), len(texts), end)

    @classmethod
    def json_schema(
        cls,
        schema: str | Mapping[str, Any],
        vocabulary: Sequence[str | bytes | None],
        end: int | None = None,
    ) -> Automaton:
        """The sequences of tokens that are JSON of a schema; see `regex`.

        Raises:
            PatternError: if the schema is not understood, or the vocabulary cannot say it.
            ImportError: if outlines-core is not there (`pip install 'pcflow[constraints]'`).
        """
        return cls.regex(read.pattern_of(schema), vocabulary, end)

    # -- automata from automata ------------------------------------------------------------------

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
        """Its strings, followed by `end` as often as one likes, or not at all.

        Examples:
            >>> Automaton.options([[1, 2]]).padded(0).accepts(torch.tensor([[1, 2, 0, 0]]))
            tensor([True])
        """
        check_whole("end", end, least=0)
        size = max(len(self.classes), end + 1)
        return self._of(combine.concatenation(self._table, build.repeated(end, size)))

    def widened(self, num_categories: int) -> Automaton:
        """The same strings among more categories, which occur in none of them.

        Raises:
            SettingError: if there are more already.
        """
        check_whole("num_categories", num_categories, least=len(self.classes))
        return self._of(self._table.widened(num_categories))

    # -- questions -------------------------------------------------------------------------------

    @property
    def num_categories(self) -> int:
        """V."""
        return len(self.classes)

    def run(self, x: Numbers, start: Numbers | None = None) -> Tensor:
        """The states [B] to which strings lead, -1 for those that no accepted string begins with.

        Args:
            x: categories [B, L].
            start: the states [B] from which they lead; the first by default.

        Raises:
            EvidenceError: if `x` are no categories in rows, or `start` are no states of these.

        Examples:
            >>> rule = Automaton.options([[0, 1], [0, 2]])
            >>> rule.run([[0, 1], [1, 1]])
            tensor([ 2, -1])
            >>> rule.run([[1], [2]], start=rule.run([[0], [1]]))
            tensor([ 2, -1])
        """
        strings = _whole("x", as_tensor("x", x))
        if strings.dim() != 2:
            raise EvidenceError(f"x must be [B, L], got {tuple(strings.shape)}")
        wrong = (strings < 0) | (strings >= self.num_categories)
        if bool(wrong.any()):
            row, place = (int(i) for i in wrong.nonzero()[0])
            wanted = f"must be in 0..{self.num_categories - 1}"
            raise EvidenceError(f"x: row {row}, place {place} is {strings[row, place]}, {wanted}")
        classes, ways = self.classes.to(strings.device), self._ways.to(strings.device)
        here = strings.new_zeros(len(strings))
        if start is not None:
            here = self.states("start", start).to(strings.device)
            if here.shape != strings.shape[:1]:
                raise EvidenceError(f"start must be [{len(strings)}], got {tuple(here.shape)}")
        for label in classes[strings].t():
            here = ways[here, label]
        return here

    def accepts(self, x: Numbers) -> Tensor:
        """Which strings [B, L] obey the rule, bool [B].

        Raises:
            EvidenceError: if they are no categories in rows.

        Examples:
            >>> Automaton.options([[0, 1], [2, 2]]).accepts([[2, 2], [0, 2]])
            tensor([ True, False])
        """
        state = self.run(x)
        return (state >= 0) & self.accept.to(state.device)[state]

    def states(self, name: str, given: Numbers) -> Tensor:
        """Numbers of states as a tensor, -1 for none.

        Raises:
            EvidenceError: if one is of no state; it has the `name`.
        """
        states = _whole(name, as_tensor(name, given))
        if bool(((states < -1) | (states >= len(self.next))).any()):
            raise EvidenceError(f"{name} must be states, -1..{len(self.next) - 1}, got {states}")
        return states

    def live(self, length: int, anywhere: bool = False) -> Tensor:
        """Through which states the accepted strings of a length pass, bool [L + 1, S].

        Args:
            length: L.
            anywhere: ask for stretches of that length of accepted strings of any length.

        Raises:
            EmptyLanguage: if none is of that length.

        Examples:
            >>> Automaton.options([[0, 1], [2]]).live(2).sum(-1)
            tensor([1, 1, 1])
            >>> Automaton.options([[0, 1], [2]]).live(1, anywhere=True).sum(-1)
            tensor([2, 2])
        """
        return torch.from_numpy(self._live(length, anywhere))

    def log_counts(self, most: int) -> Tensor:
        """The logarithms of how many ways lead from every state to an end, [most + 1, S].

        In row n those of n categories, -inf where there is none: so it says what is still possible
        in the n places that are left.

        Examples:
            >>> Automaton.options([[0, 1], [2, 1], [1]]).log_counts(2).exp()
            tensor([[0., 0., 1.],
                    [1., 1., 0.],
                    [2., 0., 0.]], dtype=torch.float64)
        """
        check_whole("most", most, least=0)
        return torch.from_numpy(self._log_counts(most)[::-1].copy())

    def log_count(self, length: int) -> float:
        """The logarithm of how many strings of a length are accepted; -inf if none is.

        Examples:
            >>> round(Automaton.lengths(0, None, num_categories=7).log_count(3), 3)
            5.838
        """
        check_whole("length", length, least=0)
        return float(self._log_counts(length)[0, 0])

    def sample(self, n: int, length: int, generator: torch.Generator | None = None) -> Tensor:
        """Draws [n, L] of the accepted strings of a length, all of them equally probable.

        Raises:
            EmptyLanguage: if none is of that length.

        Examples:
            >>> rule = Automaton.phrases([[1, 1]])
            >>> bool(rule.accepts(rule.sample(5, length=4)).all())
            True
        """
        check_whole("n", n, least=0)
        check_generator(generator)
        self._live(length)
        log_counts, state = self._log_counts(length), torch.zeros(n, dtype=torch.long)
        drawn = torch.empty(n, length, dtype=torch.long)
        for place in range(length):
            log_count = self._onward(log_counts[place + 1])  # [S, C]
            share = torch.from_numpy(log_count)[state].softmax(dim=-1)  # [N, C]
            label = share.multinomial(1, generator=generator).squeeze(-1) if n else state
            drawn[:, place] = self._some_of(label, generator)
            state = self._ways[state, label]
        return drawn

    def circuit(self, length: int) -> Circuit:
        """All accepted strings of a length with equal probability, as a deterministic circuit.

        To multiply other circuits with than `CompiledCircuit.given` takes, and to ask what circuits
        are asked: its entropy is `log_count`.

        Args:
            length: at least 1.

        Raises:
            EmptyLanguage: if none is of that length.

        Examples:
            >>> import pcflow as pf
            >>> rule = Automaton.options([[0, 1], [1, 1]])
            >>> pf.compile(rule.circuit(2)).log_prob([[0, 1], [0, 0]]).exp().tolist()
            [0.5, 0.0]
        """
        check_whole("length", length)
        self._live(length)
        return uniform(self._table, self._log_counts(length))

    def to_networkx(self) -> nx.DiGraph[int]:
        """The graph for networkx: states with `accept`, edges with the `classes` that take them.

        Examples:
            >>> Automaton.options([[0, 1]]).to_networkx().edges(data="classes")
            OutEdgeDataView([(0, 1, (0,)), (1, 2, (1,))])
        """
        return picture.to_networkx(self._table)

    def draw(self, names: Sequence[object] | None = None, ax: Axes | None = None) -> Axes:
        """Draw states, ringed where strings may end, and the first categories of every edge.

        Args:
            names: of the categories; their numbers by default.
            ax: matplotlib axes to draw on; new ones by default.

        Raises:
            SettingError: if there are not as many names as categories.
        """
        if names is not None:
            wanted = f"names of {self.num_categories} categories"
            SettingError.check("names", names, wanted, lambda n: len(n) == self.num_categories)
        return picture.draw(self._table, names, ax)

    def __eq__(self, other: object) -> bool:
        """Whether both accept the same strings, over the same categories."""
        return isinstance(other, Automaton) and self._key == other._key

    def __hash__(self) -> int:
        """Of the normal form."""
        return hash(self._key)

    def __repr__(self) -> str:
        """Sizes."""
        states, classes = self.next.shape
        return f"Automaton({states} states, {classes} classes of {self.num_categories} categories)"

    @cached_property
    def _key(self) -> tuple[bytes, ...]:
        return tuple(part.tobytes() for part in (*self._table[:2], self._table.accept))

    @cached_property
    def _ways(self) -> Tensor:
        """The state after every state and class, of which the last is NOWHERE: [S + 1, C]."""
        return torch.cat([self.next, torch.full((1, self.next.shape[1]), NOWHERE)])

    @cached_property
    def _sizes(self) -> Tensor:
        """How many categories every class has, [C]."""
        return torch.bincount(self.classes, minlength=self.next.shape[1])

    def _some_of(self, label: Tensor, generator: torch.Generator | None) -> Tensor:
        """A category [N] of every class."""
        sizes = self._sizes
        first = sizes.cumsum(0) - sizes
        share = torch.rand(len(label), generator=generator, dtype=torch.float64)
        return self.classes.argsort(stable=True)[first[label] + (share * sizes[label]).long()]

    def _live(self, length: int, anywhere: bool = False) -> Flags:
        check_whole("length", length, least=0)
        last = np.ones(len(self.next), dtype=np.bool_) if anywhere else self._table.accept
        ends = self._log_counts(length, last) > -np.inf  # [L + 1, S]
        live = np.zeros_like(ends)
        live[0] = ends[0] if anywhere else ends[0] & (np.arange(len(last)) == 0)
        if not live[0].any():
            raise EmptyLanguage(f"no string of length {length} is accepted by {self}")
        for place, here in enumerate(live[:-1]):
            after = self._table.next[here]
            live[place + 1, after[after >= 0]] = True
            live[place + 1] &= ends[place + 1]
        return live

    def _log_counts(self, length: int, ends: Flags | None = None) -> npt.NDArray[np.float64]:
        """In how many ways the rest can follow from every state, by its length from the end."""
        ends = self._table.accept if ends is None else ends
        with np.errstate(divide="ignore"):
            found = [np.log(ends.astype(np.float64))]
        for _ in range(length):
            found.append(np.logaddexp.reduce(self._onward(found[-1]), axis=1))
        return np.stack(found[::-1])

    def _onward(self, log_count: Any) -> Any:
        """The same of every class that leads there, [S, C]."""
        return np.append(log_count, -np.inf)[self._table.next] + np.log(self._sizes.numpy())


def _is_rule(part: object) -> bool:
    return isinstance(part, Automaton)


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


def _whole(name: str, given: Tensor) -> Tensor:
    whole = given.long()
    if given.is_floating_point() and not torch.equal(whole.to(given.dtype), given):
        raise EvidenceError(f"{name} must be whole numbers")
    return whole


def _check(classes: Tensor, after: Tensor, start: int, accept: Tensor) -> None:
    """See that numbers are an automaton.

    Raises:
        StructureError: naming what does not fit.
    """
    check_whole("start", start, least=0)
    if classes.dim() != 1 or after.dim() != 2 or accept.shape != after.shape[:1]:
        shapes = [tuple(t.shape) for t in (classes, after, accept)]
        raise StructureError(f"an automaton has classes [V], next [S, C], accept [S]; got {shapes}")
    states, count = after.shape
    if not len(classes) or not 0 <= int(classes.min()) <= int(classes.max()) < count:
        raise StructureError(f"classes must be in 0..{count - 1}, of at least one category")
    if start >= states or not -1 <= int(after.min()) <= int(after.max()) < states:
        raise StructureError(f"states must be in 0..{states - 1}, or -1 in `next`")
