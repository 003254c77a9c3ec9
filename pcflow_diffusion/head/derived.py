"""What a head makes of its circuit: the same over some positions, and what is given a rule."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import TypeVar

from torch import Tensor

from pcflow import Automaton, CompiledCircuit, Given, compile, marginalize

Key = TypeVar("Key")
Kept = TypeVar("Kept")

SHORTER = 4
"""How many circuits over some of its positions a head keeps: each has tables of its own."""

HELD = 1 << 30
"""Bytes that circuits given rules may hold together, so that a batch of many rules has them all."""


@dataclass(frozen=True, eq=False)
class Stretch:
    """A part of what a rule is about, from a state of its own in every row.

    Args:
        rule: with S states.
        start: the states before the first token, [B]; the rule's own for all by default.
        log_final: what the states after the last are weighed by (nats), [B, S]; by default 0 where
            the rule may end and -inf elsewhere.

    Examples:
        >>> import torch
        >>> rule = Automaton.options([[0, 1, 1], [1, 1, 0]])
        >>> Stretch(rule, start=torch.tensor([rule.start])).log_final is None  # where the rule ends
        True
    """

    rule: Automaton
    start: Tensor | None = None
    log_final: Tensor | None = None


class Derived:
    """The last few that were asked for. Dictionaries are never edited: threads may be reading."""

    def __init__(self) -> None:
        """Nothing was asked for yet."""
        self._shorter: dict[tuple[int, ...], tuple[tuple[object, ...], CompiledCircuit]] = {}
        self._given: dict[tuple[CompiledCircuit, Automaton, bool], Given] = {}

    def __reduce__(self) -> tuple[type[Derived], tuple[()]]:
        """Copies and pickles are made of nothing that was computed."""
        return Derived, ()

    def given(self, model: CompiledCircuit, under: Automaton | Stretch) -> Given:
        """The distribution given that all tokens obey a rule, or a stretch of one.

        Raises:
            NotCompatible: see `CompiledCircuit.given`.
            PropertyRequired: likewise.
            EmptyLanguage: likewise.
        """
        stretch = under if isinstance(under, Stretch) else Stretch(under)
        found = model.given(stretch.rule, stretch.start, stretch.log_final)
        key = model, stretch.rule, stretch.start is None
        kept = self._given if key in self._given else _within(self._given, HELD)
        self._given = _with_last(kept, key, found)
        return found

    def over(self, model: CompiledCircuit, variables: tuple[int, ...]) -> CompiledCircuit:
        """The circuit of some variables, the others summed out; made anew when parameters change.

        Args:
            model: of which it is a copy.
            variables: in their order.
        """
        made_for = (model.circuit, model.device, model.dtype)
        kept = self._shorter.get(variables)
        if kept is None or kept[0] != made_for:
            short = compile(marginalize(made_for[0], variables), model.device, model.dtype)
            kept = made_for, short
        every = _with_last(self._shorter, variables, kept)
        self._shorter = dict([*every.items()][-SHORTER:])
        return kept[1]


def _with_last(kept: dict[Key, Kept], key: Key, last: Kept) -> dict[Key, Kept]:
    """What is kept, and behind it one that was asked for last."""
    return {other: value for other, value in kept.items() if other != key} | {key: last}


def _within(kept: dict[Key, Given], room: int) -> dict[Key, Given]:
    """Those that were asked for last, as many as hold no more than so many bytes."""
    held = accumulate(given.memory.held for given in reversed(kept.values()))
    count = sum(size <= room for size in held)
    return dict([*kept.items()][len(kept) - count :])


@lru_cache(maxsize=64)
def narrowed(rule: Automaton, num_categories: int) -> Automaton:
    """The strings of a rule in which only the first so many categories occur.

    Raises:
        EmptyLanguage: if there is none.
    """
    if rule.num_categories <= num_categories:
        return rule
    return Automaton(rule.classes[:num_categories], rule.next, rule.start, rule.accept)
