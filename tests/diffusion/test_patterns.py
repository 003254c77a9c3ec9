"""Kinds of text, told by Python's `re`: all that is generated obeys, and the mass is the share."""

import re
from importlib.util import find_spec
from math import sqrt

import pytest
import torch
from torch import Tensor

import pcflow as pf
from pcflow_diffusion import CircuitHead, Decoding, generate

LETTERS = '0123456789.-ab(){}":' + " "
V, BLANK, T, BLOCK = len(LETTERS), len(LETTERS) - 1, 12, 4


def spelled(text: str) -> list[int]:
    return [LETTERS.index(letter) for letter in text]


DIGITS = spelled("0123456789")
DIGIT, TWO = set(DIGITS), [f"{n:02}" for n in range(1, 13)]
MONTH = pf.Automaton.options(map(spelled, TWO), V)
NUMBER = pf.Automaton.numbers(0, 99, DIGITS, V)
OPEN, CLOSE, A, B = spelled("()ab")


def brackets(depth: int) -> pf.Automaton:
    """Closed ones around a and b, one in another to some depth; a state is how many are open."""
    step = {A: 0, B: 0, OPEN: 1, CLOSE: -1}
    after = torch.full((depth + 1, V), -1)
    for state in range(depth + 1):
        for letter, more in step.items():
            after[state, letter] = state + more if state + more <= depth else -1
    return pf.Automaton(range(V), after, start=0, accept=torch.arange(depth + 1) == 0)


DOT = spelled(".")[0]
KINDS = {
    r"(0|[1-9]\d?)(\.(0|[1-9]\d?)){2}": pf.Automaton.template(
        [NUMBER, DOT, NUMBER, DOT, NUMBER], V
    ),
    r"\d{4}-(0[1-9]|1[0-2])": pf.Automaton.template([DIGIT] * 4 + spelled("-") + [MONTH], V),
    r'\{"a":(0|[1-9]\d?)\}': pf.Automaton.template([*spelled('{"a":'), NUMBER, *spelled("}")], V),
    r"1[7-9]|[2-9]\d|1\d\d|20[0-3]": pf.Automaton.numbers(17, 203, DIGITS, V),
    r"(ab|ba|b)": pf.Automaton.options(map(spelled, ("ab", "ba", "b")), V),
    r"[^ ]*(bab|aa)[^ ]*": pf.Automaton.phrases([spelled("bab"), spelled("aa")], V)
    & ~pf.Automaton.phrases([[BLANK]], V),
    r"[ab]*(\([ab]*(\([ab]*\)[ab]*)*\)[ab]*)*": brackets(2),
}
PATTERNS = [pytest.param(p, rule.padded(BLANK), id=p) for p, rule in KINDS.items()]


def obeys(pattern: str, texts: Tensor) -> Tensor:
    """Which texts [N, T] match, bool [N]."""
    words = ("".join(LETTERS[n] for n in text) for text in texts.long())
    return torch.tensor([re.fullmatch(f"(?:{pattern}) *", word) is not None for word in words])


def chain(length: int) -> pf.CompiledCircuit:
    seeded = torch.Generator().manual_seed(0)
    return pf.compile(pf.hmm(length, 3, pf.Categorical(V), generator=seeded), dtype=torch.float64)


def backbone(tokens: Tensor) -> Tensor:
    """Says something random that depends on what it sees."""
    seeded = torch.Generator().manual_seed(int(tokens.sum()))
    return torch.randn(*tokens.shape, V, generator=seeded)


HEAD, MODEL = CircuitHead(chain(8), V), chain(T).requires_grad_(False)


@pytest.mark.parametrize(("pattern", "rule"), PATTERNS)
def test_all_texts_match(pattern, rule) -> None:
    for head, steps in ((None, 2), (HEAD, 1), (HEAD, 4)):
        texts = generate(
            backbone,
            torch.empty(5, 0).long(),
            head,
            steps=steps * (T // BLOCK),
            gen_length=T,
            block_length=BLOCK,
            decoding=Decoding(temperature=1.0, constraint=rule),
            mask_token_id=V,
            generator=torch.Generator().manual_seed(steps),
        )
        assert obeys(pattern, texts).all()


@pytest.mark.parametrize(("pattern", "rule"), PATTERNS)
def test_the_mass_of_a_rule_is_the_share_of_free_draws_that_match(pattern, rule) -> None:
    seeded, draws = torch.Generator().manual_seed(0), 2_000
    text = rule.sample(1, T, seeded).double()
    holes = text.masked_fill(torch.rand(1, T, generator=seeded) < 0.2, torch.nan)
    soft = pf.Evidence(holes, log_potentials=torch.randn(1, T, V, generator=seeded).double())
    for evidence in (pf.Evidence(holes), soft):
        mass = float((MODEL.given(rule).log_mass(evidence) - MODEL.log_prob(evidence)).exp())
        share = float(obeys(pattern, MODEL.sample(draws, evidence, seeded)[:, 0]).double().mean())
        assert abs(share - mass) <= 5 * sqrt(mass * (1 - mass) / draws) + 1 / draws


@pytest.mark.skipif(find_spec("outlines_core") is None, reason="needs pcflow[constraints]")
@pytest.mark.parametrize(("pattern", "rule"), PATTERNS)
def test_rules_by_hand_are_those_of_patterns(pattern, rule) -> None:
    assert pf.Automaton.regex(pattern, list(LETTERS)).padded(BLANK) == rule
