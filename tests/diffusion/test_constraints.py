"""Texts under a rule: all of them obey, and otherwise they are as the joint has them."""

from itertools import product
from math import inf

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from scipy.stats import chisquare
from torch import Tensor

import pcflow as pf
from pcflow_diffusion import CircuitHead, Decoding, LogLinear, Projection, generate, infill
from pcflow_diffusion.errors import CouplingError, GenerationError, TypeMismatch

V, MASK, END = 4, 4, 3
RANKINGS = ("random", "low_confidence", "margin", "entropy")
COUPLINGS = ("product", "ratio", LogLinear(0.7, 0.4), Projection(), Projection(pool=(0.8, 0.3)))
ORDERS = (("joint", 1.0), ("joint", 0.0), ("any_order", 0.0), ("any_order", 1.0), ("mpe", 0.0))
few = settings(max_examples=20, suppress_health_check=[HealthCheck.filter_too_much])


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def chain(length: int = 5, seed: int = 0) -> pf.CompiledCircuit:
    circuit = pf.hmm(length, states=2, inputs=pf.Categorical(V), generator=seeded(seed))
    return pf.compile(circuit, dtype=torch.float64)


CHAINS = {length: chain(length) for length in (2, 3, 5, 8)}


class Backbone:
    """Says something random of every position, which depends on all that it sees."""

    mask_token_id = MASK
    vocabulary_size = V

    def __init__(self, seed: int, sharpness: float = 2.0) -> None:
        self.table = torch.randn(97, V, generator=seeded(seed)) * sharpness

    def __call__(self, tokens: Tensor) -> Tensor:
        places = torch.arange(tokens.shape[1])
        return self.table[(places * 7 + tokens.sum(dim=-1, keepdim=True)) % len(self.table)]


RULES = (
    pf.Automaton.template([{0, 1}, pf.Automaton.lengths(0, None, 3), {3}]),
    ~pf.Automaton.phrases([[0], [2, 2]], num_categories=V),
    pf.Automaton([0, 1, 2, 3], [[1, 2, 0, 0], [0, -1, 1, -1], [2, 2, 0, 1]], 0, [1, 0, 0]),
    pf.Automaton.template([None, 2]) | pf.Automaton.lengths(3, None, V),
    pf.Automaton([0, 1, 2, 2], [[1, 1, 0], [0, 0, 1]], 0, [True, False]),  # even
)


@st.composite
def heads(draw: st.DrawFn) -> CircuitHead | None:
    if draw(st.integers(0, 3)) == 0:
        return None
    model = CHAINS[draw(st.sampled_from(sorted(CHAINS)))]
    coupling = draw(st.sampled_from(COUPLINGS))
    return CircuitHead(model, MASK, coupling, top_k=draw(st.sampled_from([None, 1, 2])))


@st.composite
def decodings(draw: st.DrawFn, head: CircuitHead | None) -> dict[str, object]:
    order, temperature = draw(st.sampled_from(ORDERS))
    how = {"order": order, "temperature": temperature, "ranking": draw(st.sampled_from(RANKINGS))}
    more = {
        "gamma": st.sampled_from([0.0, 0.6]),
        "threshold": st.just(0.4),
        "top_p": st.just(0.5),
        "defer": st.just((1,)),
        "guidance": st.just(0.5),
        "remask": st.just(0.5),
    } | ({"top_k": st.just(1)} if head is None else {})
    name = draw(st.sampled_from(sorted(more)))
    return how | {name: draw(more[name])}


@few
@given(st.data(), st.integers(0, 99))
def test_all_that_is_generated_obeys(data: st.DataObject, seed: int) -> None:
    head = data.draw(heads())
    length, block = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 9))
    rules = data.draw(st.lists(st.sampled_from(RULES), min_size=3, max_size=3))
    end = data.draw(st.sampled_from([None, END]))
    assume(all((r if end is None else r.padded(END)).log_count(length) > -inf for r in rules))
    blocks = -(-length // block)
    found = generate(
        Backbone(seed),
        torch.randint(V, (3, data.draw(st.integers(0, 4))), generator=seeded(seed)),
        head,
        steps=blocks * data.draw(st.integers(1, block)),
        gen_length=length,
        block_length=block,
        circuit_context=data.draw(st.sampled_from([None, 0, 1])),
        decoding=Decoding(constraint=rules, end_token_id=end, **data.draw(decodings(head))),
        generator=seeded(seed),
    )
    for rule, text in zip(rules, found[:, -length:], strict=True):
        rule = rule if end is None else rule.padded(END)
        assert rule.accepts(text.unsqueeze(0)).all(), text


@few
@given(st.data(), st.integers(0, 99))
def test_all_that_is_filled_in_obeys(data: st.DataObject, seed: int) -> None:
    head = data.draw(heads())
    length = data.draw(st.integers(1, 12))
    rules = data.draw(st.lists(st.sampled_from(RULES), min_size=2, max_size=2))
    assume(all(rule.log_count(length) > -inf for rule in rules))
    texts = torch.cat([rule.sample(1, length, seeded(seed)) for rule in rules])
    masked = torch.rand(texts.shape, generator=seeded(seed)) < 0.6
    found = infill(
        Backbone(seed),
        texts.masked_fill(masked, MASK),
        head,
        steps=data.draw(st.integers(1, 5)),
        decoding=Decoding(constraint=rules, **data.draw(decodings(head))),
        generator=seeded(seed),
    )
    assert torch.equal(found[~masked], texts[~masked])
    for rule, text in zip(rules, found, strict=True):
        assert rule.accepts(text.unsqueeze(0)).all(), text
