"""Automata against enumeration: languages, normal form, ways to make them, and what is refused."""

import math
import re
import tracemalloc
from functools import cache
from itertools import product

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given
from rules import automata, tables

import pcflow as pf
from pcflow.logic.automata import read

LONGEST = 5


def strings(num_categories: int, longest: int = LONGEST) -> list[tuple[int, ...]]:
    return [s for n in range(longest + 1) for s in product(range(num_categories), repeat=n)]


def language(rule: pf.Automaton, longest: int = LONGEST) -> set[tuple[int, ...]]:
    """All that is accepted, asked length by length."""
    found = set()
    for length in range(longest + 1):
        every, x = strings_of(rule.num_categories, length)
        found |= {s for s, fits in zip(every, rule.accepts(x).tolist(), strict=True) if fits}
    return found


@cache
def strings_of(num_categories: int, length: int) -> tuple[list[tuple[int, ...]], torch.Tensor]:
    """All of one length, also as rows."""
    every = list(product(range(num_categories), repeat=length))
    return every, torch.tensor(every).reshape(len(every), length).long()


def by_table(classes, after, start, accept, text) -> bool:
    state = start
    for category in text:
        state = after[state][classes[category]] if state >= 0 else -1
    return state >= 0 and accept[state]


@given(tables())
def test_the_normal_form_accepts_what_the_table_does(table) -> None:
    wanted = {text for text in strings(len(table[0])) if by_table(*table, text)}
    try:
        rule = pf.Automaton(*table)
    except pf.EmptyLanguage:
        assert not wanted
        return
    assert language(rule) == wanted
    classes = rule.next.shape[1]
    assert classes == len(set(rule.classes.tolist()))
    again = pf.Automaton(rule.classes, rule.next, rule.start, rule.accept)
    assert torch.equal(again.next, rule.next) and torch.equal(again.classes, rule.classes)


@given(automata(st.just(2)), automata(st.just(2)))
def test_equal_automata_accept_the_same_strings(a, b) -> None:
    same = language(a, 8) == language(b, 8)  # two of 4 states and a sink differ on 8 at the latest
    assert (a == b) == same
    assert not same or hash(a) == hash(b)


@given(automata(), automata())
def test_operations_are_those_of_sets(a, b) -> None:
    V = max(a.num_categories, b.num_categories)
    here, there = language(a), language(b)
    together = {x + y for x in here for y in there if len(x + y) <= LONGEST}
    for made, wanted in (
        (lambda: a & b, here & there),
        (lambda: a | b, here | there),
        (lambda: ~a, set(strings(a.num_categories)) - here),
        (lambda: a + b, together),
        (lambda: a.widened(a.num_categories + 1), here),
        (lambda: a.padded(V), {x + (V,) * n for x in here for n in range(LONGEST + 1 - len(x))}),
    ):
        try:
            assert language(made()) == wanted
        except pf.EmptyLanguage:
            assert not wanted


texts = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=4), min_size=1, max_size=4)


@given(texts)
def test_options_are_what_is_listed(options) -> None:
    rule = pf.Automaton.options(options, num_categories=3)
    assert language(rule) == set(map(tuple, options))


@given(texts)
def test_phrases_occur(phrases) -> None:
    def occurs(text: tuple[int, ...]) -> bool:
        return any(text[n : n + len(p)] == tuple(p) for p in phrases for n in range(len(text) + 1))

    rule = pf.Automaton.phrases(phrases, num_categories=3)
    assert language(rule) == {text for text in strings(3) if occurs(text)}
    assert language(~rule) == {text for text in strings(3) if not occurs(text)}


@given(st.integers(0, 4), st.one_of(st.none(), st.integers(0, 2)))
def test_lengths_are_lengths(least, more) -> None:
    most = None if more is None else least + more
    rule = pf.Automaton.lengths(least, most, num_categories=2)
    last = LONGEST if most is None else most
    assert language(rule) == {text for text in strings(2) if least <= len(text) <= last}


def test_a_template_goes_part_by_part() -> None:
    inner = pf.Automaton.options([[0], [0, 0], []], num_categories=3)
    rule = pf.Automaton.template([2, None, inner, {0, 1}, 1])
    wanted = {
        (2, any_one, *middle, either, 1)
        for any_one in range(3)
        for middle in ((), (0,), (0, 0))
        for either in (0, 1)
    }
    assert language(rule, 6) == wanted
    assert pf.Automaton.template([], num_categories=4).accepts(torch.empty(1, 0).long()).all()


@given(st.integers(0, 1200), st.integers(0, 500))
def test_numbers_are_those_of_the_range(lower, width) -> None:
    upper = lower + width
    rule = pf.Automaton.numbers(lower, upper, digits=[9, 8, 7, 6, 5, 4, 3, 2, 1, 0])
    for value in {0, 1, lower - 1, lower, lower + 1, (lower + upper) // 2, upper, upper + 1, 2000}:
        if value >= 0:
            x = torch.tensor([[9 - int(digit) for digit in str(value)]])
            assert bool(rule.accepts(x)) == (lower <= value <= upper)
    count = sum(math.exp(rule.log_count(length)) for length in range(1, 5))
    assert round(count) == width + 1  # and so no zeros in front


@given(automata())
def test_counts_and_live_states_are_those_of_all_strings(rule) -> None:
    accepted = [text for text in language(rule) if len(text) == LONGEST]
    log_count = rule.log_count(LONGEST)
    assert math.isclose(log_count, math.log(len(accepted)) if accepted else -math.inf)
    if not accepted:
        with pytest.raises(pf.EmptyLanguage, match="no string of length 5"):
            rule.live(LONGEST)
        return
    live = torch.zeros(LONGEST + 1, len(rule.next), dtype=torch.bool)
    for text in accepted:
        for place in range(LONGEST + 1):
            live[place, rule.run([text[:place]]) if place else 0] = True
    assert torch.equal(rule.live(LONGEST), live)


def test_draws_are_uniform() -> None:
    rule = pf.Automaton([0, 1, 1, 2], [[0, 1, -1], [1, 0, 0]], 0, [True, False])
    accepted = sorted(text for text in language(rule, 4) if len(text) == 4)
    drawn = rule.sample(20_000, 4, generator=torch.Generator().manual_seed(0))
    index = {text: n for n, text in enumerate(accepted)}
    counts = np.bincount([index[tuple(x)] for x in drawn.tolist()], minlength=len(accepted))
    mean = 20_000 / len(accepted)
    statistic = ((counts - mean) ** 2 / mean).sum()
    freedom = len(accepted) - 1
    assert statistic < freedom + 6 * math.sqrt(2 * freedom)
    assert torch.equal(drawn, rule.sample(20_000, 4, generator=torch.Generator().manual_seed(0)))


@given(automata())
def test_ctrl_g_is_read(rule) -> None:
    edges = [
        (f"s{s}", f"s{rule.next[s, c]}", (rule.classes == c).numpy())
        for s, c in np.ndindex(*rule.next.shape)
        if rule.next[s, c] >= 0
    ]
    ends = [f"s{s}" for s in rule.accept.nonzero().flatten().tolist()]
    given = {"edges": edges, "initial_state": "s0", "accept_states": ends}
    assert pf.Automaton.of(given) == rule if edges else language(rule) == {()}


class Index:
    """As outlines-core has it."""

    def __init__(self, transitions, finals) -> None:
        self.transitions, self.finals = transitions, finals

    def get_initial_state(self):
        return 7

    def get_final_states(self):
        return self.finals

    def get_transitions(self):
        return self.transitions


def test_an_index_is_read() -> None:
    index = Index({7: {0: 9}, 9: {1: 7, 3: 9, 2: 9}}, {9})
    rule = pf.Automaton.of(index, num_categories=4, end=3)
    assert (0, 2, 3, 3) in language(rule) and (0, 2) in language(rule)
    assert (0, 3, 2) not in language(rule)  # nothing follows the end
    assert (0, 3, 2) in language(pf.Automaton.of(index, num_categories=4))


@given(automata())
def test_an_index_means_what_its_table_does(rule) -> None:
    after = rule.next[:, rule.classes].tolist()  # [S, V]
    ways = {s + 7: {v: t + 7 for v, t in enumerate(row) if t >= 0} for s, row in enumerate(after)}
    finals = [s + 7 for s, ends in enumerate(rule.accept.tolist()) if ends]
    assert pf.Automaton.of(Index(ways, finals), rule.num_categories) == rule


def test_states_that_cannot_end_are_named() -> None:
    with pytest.raises(pf.CannotEnd, match="from state 5") as refused:
        pf.Automaton.of(Index({7: {0: 9, 1: 5}}, {9}), num_categories=2)
    assert refused.value.states == (5,)


VOCABULARY = ["a", "b", "ab", "ba", "0", "1", "10", "-", "", None]
END = 9


@pytest.mark.parametrize(
    "pattern",
    [
        "(ab)*",
        "[ab]{2,3}-?[01]+",
        "a|b0*",
        "(a|ba)+1?",
        "a(b0?1)*",
        "[ab]+(-[01]+)?",
        ".*b1.*",
        "(?s:.)*a",
        "[^b]*(b[^b]*b[^b]*)*",
    ],
)
def test_regular_expressions_mean_what_python_says(pattern) -> None:
    pytest.importorskip("outlines_core", reason="an extra")
    rule = pf.Automaton.regex(pattern, VOCABULARY, end=END)
    every = list(product(range(8), repeat=3))
    fits = [bool(re.fullmatch(pattern, "".join(VOCABULARY[c] for c in text))) for text in every]
    assert rule.accepts(every).tolist() == fits
    ended = [(*text, END, END) for text in every]
    assert rule.accepts(ended).tolist() == fits
    assert not rule.accepts([(*text, END, 0) for text in every]).any()


@pytest.mark.parametrize("pattern", ["[ab]*", "a|ba", ".*b", "a(?s:.)b?"])
def test_tokens_may_be_any_characters(pattern) -> None:
    """Also those that spell what stands behind a text while its index is made."""
    pytest.importorskip("outlines_core", reason="an extra")
    tokens = ["a", "b", *read.MARK, read.MARK[:2], "a" + read.MARK]
    rule = pf.Automaton.regex(pattern, tokens)
    every = list(product(range(len(tokens)), repeat=3))
    fits = [bool(re.fullmatch(pattern, "".join(tokens[c] for c in text))) for text in every]
    assert rule.widened(len(tokens)).accepts(every).tolist() == fits


def test_patterns_are_read_once(monkeypatch) -> None:
    asked = []

    def marked(pattern: str, texts: tuple[str | None, ...]) -> Index:
        asked.append((pattern, texts))
        if pattern == "(":
            raise pf.PatternError(pattern, "it is open")
        return Index({7: {0: len(pattern)}}, {len(pattern)})

    monkeypatch.setattr(read, "Marked", marked)
    rule = pf.Automaton.regex("read once", ["x", "y"])
    assert pf.Automaton.regex("read once", ("x", "y")) is rule and len(asked) == 1
    pf.Automaton.regex("read twice", ["x", "y"])
    pf.Automaton.regex("read once", ["y", "x"])
    pf.Automaton.regex("read once", ["x", "y"], end=1)
    pf.Automaton.regex("read once", ["x", None])
    assert len(asked) == 5
    for _ in range(2):  # what is refused is not kept
        with pytest.raises(pf.PatternError):
            pf.Automaton.regex("(", ["x"])
    assert len(asked) == 7


def test_json_of_a_schema() -> None:
    pytest.importorskip("outlines_core", reason="an extra")
    characters = ["", *sorted(set('{}": truefalsok'))]
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    rule = pf.Automaton.json_schema(schema, characters, end=0)
    for text, fits in (('{"ok":true}', True), ('{"ok": false}', True), ('{"ok":"true"}', False)):
        assert bool(rule.accepts([[characters.index(c) for c in text]])) == fits


@pytest.mark.parametrize("pattern", ["(ab", "a{2", "z+", "a)(b"])
def test_bad_patterns_are_refused(pattern) -> None:
    pytest.importorskip("outlines_core", reason="an extra")
    with pytest.raises(pf.PatternError, match=re.escape(repr(pattern))):
        pf.Automaton.regex(pattern, VOCABULARY, end=END)


def edge(here, there) -> dict:
    return {"edges": [(here, there, [True])], "initial_state": here, "accept_states": [there]}


@pytest.mark.parametrize(
    ("error", "make"),
    [
        (pf.EmptyLanguage, lambda: pf.Automaton.options([])),
        (pf.EmptyLanguage, lambda: pf.Automaton.options([[0]]) & pf.Automaton.options([[1]])),
        (pf.EmptyLanguage, lambda: ~pf.Automaton.lengths(0, None, num_categories=2)),
        (pf.EmptyLanguage, lambda: pf.Automaton.options([[0]]).sample(1, length=2)),
        (pf.SettingError, lambda: pf.Automaton.options([[3]], num_categories=3)),
        (pf.SettingError, lambda: pf.Automaton.phrases([[]])),
        (pf.SettingError, lambda: pf.Automaton.numbers(0, 5, digits=range(9))),
        (pf.SettingError, lambda: pf.Automaton.numbers(5, 4, digits=range(10))),
        (pf.SettingError, lambda: pf.Automaton.options([[3]]).widened(2)),
        (pf.SettingError, lambda: pf.Automaton.template([pf.Automaton.options([[3]])], 2)),
        (pf.SettingError, lambda: pf.Automaton.of(Index({7: {4: 9}}, {9}), num_categories=3)),
        (pf.TypeMismatch, lambda: pf.Automaton.of([0], num_categories=3)),
        (pf.SettingError, lambda: pf.Automaton.of(edge(0, 1), num_categories=2)),
        (pf.SettingError, lambda: pf.Automaton.of(edge(0, 1), end=0)),
        (pf.StructureError, lambda: pf.Automaton([0, 2], [[0, 0]], 0, [True])),
        (pf.StructureError, lambda: pf.Automaton([0, 1], [[0, 1]], 0, [True])),
        (pf.StructureError, lambda: pf.Automaton([0, 1], [[0, 0]], 0, [True, False])),
        (pf.StructureError, lambda: pf.Automaton.of({"edges": [(0, 1)]})),
        (pf.StructureError, lambda: pf.Automaton.of(edge(0, "a"))),  # in no order
        (pf.StructureError, lambda: pf.Automaton.of(edge([0], [1]))),
        (pf.SettingError, lambda: pf.Automaton.options([[1]]).draw(names=["a"])),
        (
            pf.StructureError,
            lambda: pf.Automaton.of(
                {
                    "edges": [(0, 1, [True]), (0, 0, [True])],
                    "initial_state": 0,
                    "accept_states": [1],
                }
            ),
        ),
        (pf.EvidenceError, lambda: pf.Automaton.options([[1]]).accepts([[2]])),
        (pf.EvidenceError, lambda: pf.Automaton.options([[1]]).accepts([0.5])),
        (TypeError, lambda: pf.Automaton.options([[1]]) & 3),
    ],
)
def test_what_is_no_rule_is_refused(error, make) -> None:
    with pytest.raises(error):
        make()


def test_a_rule_is_drawn() -> None:
    rule = pf.Automaton.options([[0, 1, 2], [0, 2]]).padded(3)
    graph = rule.to_networkx()
    assert graph.number_of_nodes() == len(rule.next)
    taken = sum(len(classes) for _, _, classes in graph.edges(data="classes"))
    assert taken == int((rule.next >= 0).sum())
    ax = rule.draw(names="abcd")
    shown = {text.get_text() for text in ax.texts}
    assert {"a", "d"} <= shown


def one_after_the_other(text) -> Index:
    ways = {7 + n: {category: 8 + n} for n, category in enumerate(text)}
    return Index(ways, [7 + len(text)])


@pytest.mark.parametrize(
    "make",
    [
        lambda texts, V: pf.Automaton.options(texts, V),
        lambda texts, V: ~pf.Automaton.phrases(texts, V),
        lambda texts, V: pf.Automaton.lengths(1, len(texts), V),
        lambda texts, V: pf.Automaton.numbers(0, 10**20, range(10), V),
        lambda texts, V: pf.Automaton.options(texts, V) + pf.Automaton.options(texts[:9], V),
        lambda texts, V: pf.Automaton.of(
            one_after_the_other(torch.tensor(texts).flatten().tolist()), V, end=0
        ),
    ],
)
def test_rules_take_no_memory_for_categories_that_they_do_not_name(make) -> None:
    texts = torch.randint(100_000, (100, 3), generator=torch.Generator().manual_seed(0)).tolist()
    tracemalloc.start()
    rule = make(texts, 100_000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    states, classes = rule.next.shape
    assert peak < 30e6 + 200 * states * classes  # of all categories: 8e5 for every state


def test_large_vocabularies_have_few_classes() -> None:
    V = 126_464
    rule = pf.Automaton.phrases([range(20)], num_categories=V)
    assert repr(rule) == "Automaton(21 states, 21 classes of 126464 categories)"
    assert (rule & ~pf.Automaton.phrases([[5, 5]], num_categories=V)).num_categories == V
