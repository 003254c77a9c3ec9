"""Automata that others made: by outlines-core from a regular expression, or by Ctrl-G.

Legend: V categories, S states.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import numpy as np

from pcflow.errors import CannotEnd, PatternError, SettingError, StructureError
from pcflow.logic.automata.table import Table, Way, Wholes, of_edges, of_ways, reached, useful


class Index(Protocol):
    """What is read of an `outlines_core.Index`."""

    def get_initial_state(self) -> int:
        """Where strings begin."""
        ...

    def get_final_states(self) -> Iterable[int]:
        """Where they may end."""
        ...

    def get_transitions(self) -> Mapping[int, Mapping[int, int]]:
        """The state after a state and a token."""
        ...


def from_index(index: Index, num_categories: int, end: int | None) -> Table:
    """The table of an index; after `end` nothing but `end` follows.

    Raises:
        CannotEnd: if strings come to a state from which none ends.
        SettingError: if it names tokens from `num_categories` on.
    """
    transitions, first = index.get_transitions(), index.get_initial_state()
    finals = set(index.get_final_states())
    states = {first, *finals, *transitions, *(t for w in transitions.values() for t in w.values())}
    number = {state: n for n, state in enumerate(sorted(states))}
    ended = len(number)  # a state of its own, for what follows an end
    told = [transitions.get(state, {}) for state in number]
    ways: list[Way] = [partial(_ways, way, number, num_categories) for way in told]
    accept = [number[state] for state in finals]
    if end is not None:
        ways = [partial(_ended, way, end, ended, n in accept) for n, way in enumerate(ways)]
        nothing = partial(_ways, {}, number, num_categories)
        ways.append(partial(_ended, nothing, end, ended, True))
        accept.append(ended)
    table = of_ways(num_categories, ways, number[first], accept)
    lost = reached(table) & ~useful(table)
    if lost.any():
        raise CannotEnd([sorted(states)[n] for n in lost.nonzero()[0]])
    return table


def _ways(
    ways: Mapping[int, int], number: Mapping[int, int], num_categories: int
) -> tuple[Wholes, Wholes]:
    """Tokens that lead on from a state, and where to."""
    tokens = np.fromiter(ways.keys(), dtype=np.int64, count=len(ways))
    if len(tokens) and tokens.max() >= num_categories:
        wanted = f"above {tokens.max()}, which a state reads"
        raise SettingError("num_categories", num_categories, wanted)
    there = map(number.__getitem__, ways.values())
    return tokens, np.fromiter(there, dtype=np.int64, count=len(ways))


def _ended(way: Way, end: int, ended: int, final: bool) -> tuple[Wholes, Wholes]:
    """The same with `end`, which leads to a state of its own from where strings may end."""
    tokens, there = way()
    others = tokens != end
    tokens, there = tokens[others], there[others]
    return (np.append(tokens, end), np.append(there, ended)) if final else (tokens, there)


def from_ctrl_g(given: Mapping[str, Any]) -> Table:
    """The table of a dictionary of edges (state, state after, flags [V]), as Ctrl-G writes it.

    Raises:
        StructureError: if it is of another form, or leads to several states at once.
    """
    try:
        edges = [
            (u, np.asarray(some, dtype=np.bool_), v) for u, v, some in map(_ends, given["edges"])
        ]
        first, finals = given["initial_state"], list(given["accept_states"])
        sizes = {len(some) for _, some, _ in edges}
        states = sorted({first, *finals, *(u for u, _, _ in edges), *(v for _, _, v in edges)})
    except (KeyError, TypeError, ValueError) as error:
        raise StructureError(
            "an automaton in Ctrl-G's form has edges [(state, state after, flags [V]), ...], "
            "initial_state and accept_states"
        ) from error
    if len(sizes) != 1:
        raise StructureError(f"the flags of all edges must be of one length, got {sorted(sizes)}")
    number = {state: n for n, state in enumerate(states)}
    seen = np.zeros((len(states), sizes.pop()), dtype=np.int64)
    for u, some, _ in edges:
        seen[number[u]] += some
    if (seen > 1).any():
        state, category = (int(i) for i in np.argwhere(seen > 1)[0])
        raise StructureError(f"category {category} leads from state {states[state]} to several")
    ways = [(number[u], np.flatnonzero(some), number[v]) for u, some, v in edges]
    return of_edges(
        seen.shape[1], ways, number[first], map(number.__getitem__, finals), len(states)
    )


def _ends(edge: Sequence[Any]) -> tuple[Any, Any, Any]:
    here, there, flags = edge
    return here, there, flags


MARK = "\x00\x01\x02"
"""Stands behind a text while its index is made: `outlines_core` (0.2.14) leaves out ways on from
where a text might end already, so nothing may end before it."""


class Marked:
    """The index of a pattern, of texts with a mark behind them: they may end where it may stand.

    Raises:
        PatternError: if outlines-core does not understand the pattern, or the vocabulary cannot say
            it.
        ImportError: if outlines-core is not there.
    """

    def __init__(self, pattern: str, vocabulary: Sequence[str | bytes | None]) -> None:
        """Make it."""
        core, mark = _outlines_core(), len(vocabulary)
        tokens: dict[str | bytes, list[int]] = {MARK: [mark]}
        for number, text in enumerate(vocabulary):
            if text:
                tokens.setdefault(text, []).append(number)
        try:
            _refuse_malformed(core, pattern)
            marked = "(?:" + pattern + ")" + "".join(f"\\x{ord(c):02x}" for c in MARK)
            found = core.Index(marked, core.Vocabulary(mark + 1, tokens))
        except (ValueError, TypeError) as error:
            raise PatternError(pattern, str(error)) from error
        self._start, self._ways = found.get_initial_state(), found.get_transitions()
        after = [ways.pop(mark, None) for ways in self._ways.values()]
        ends = set(found.get_final_states())  # the mark may also be what a pattern such as .* reads
        self._finals = [s for s, end in zip(self._ways, after, strict=True) if end in ends]
        for end in ends:
            self._ways.pop(end)
        self._leave_out(ends)

    def _leave_out(self, ends: set[int]) -> None:
        """Without ways into the mark: tokens may spell it, and no text ends there."""
        after = {state: set(ways.values()) for state, ways in self._ways.items()}
        inside = _leading(ends, after) - _leading(self._finals, after)
        for state in [state for state, there in after.items() if there & inside]:
            ways = self._ways[state].items()
            self._ways[state] = {token: there for token, there in ways if there not in inside}
        for state in inside:
            self._ways.pop(state, None)

    def get_initial_state(self) -> int:
        """Where texts begin."""
        state: int = self._start
        return state

    def get_final_states(self) -> Iterable[int]:
        """Where they may end."""
        return self._finals

    def get_transitions(self) -> Mapping[int, Mapping[int, int]]:
        """The state after a state and a token."""
        ways: Mapping[int, Mapping[int, int]] = self._ways
        return ways


def _leading(to: Iterable[int], after: Mapping[int, set[int]]) -> set[int]:
    """The states from which some way leads to others, and these, by the states after each."""
    before: dict[int, set[int]] = defaultdict(set)
    for here, states in after.items():
        for there in states:
            before[there].add(here)
    found, waiting = set(to), list(to)
    while waiting:
        new = before[waiting.pop()] - found
        found |= new
        waiting += new
    return found


def _refuse_malformed(core: Any, pattern: str) -> None:
    """Two wrongs in brackets might be right: `a)(b` is looked at without them."""
    try:
        core.Index(pattern, core.Vocabulary(1, {"a": [0]}))
    except ValueError as error:
        if "DFA" in str(error):
            raise


def pattern_of(schema: str | Mapping[str, Any]) -> str:
    """The regular expression of a JSON schema.

    Raises:
        PatternError: if outlines-core does not understand it.
        ImportError: if outlines-core is not there.
    """
    try:
        text = schema if isinstance(schema, str) else json.dumps(schema)
    except (ValueError, TypeError) as error:
        raise PatternError(repr(schema), str(error)) from error
    try:
        pattern: str = _outlines_core().json_schema.build_regex_from_schema(text)
    except (ValueError, TypeError) as error:
        raise PatternError(text, str(error)) from error
    return pattern


def _outlines_core() -> Any:
    try:
        import outlines_core
        import outlines_core.json_schema
    except ImportError as error:
        raise ImportError(
            "regular expressions and JSON schemas need outlines-core: "
            "pip install 'pcflow[constraints]'"
        ) from error
    return outlines_core
