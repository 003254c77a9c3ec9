"""Texts under a rule: all of them obey, and otherwise they are as the joint has them."""

from functools import cache
from itertools import product
from math import inf

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import HealthCheck, assume, example, given, settings
from laws import of_fifty
from scipy.stats import chisquare
from torch import Tensor

import pcflow as pf
from pcflow.queries import compiled
from pcflow_diffusion import (
    CircuitHead,
    Coupling,
    Decoding,
    LogLinear,
    Projection,
    generate,
    infill,
    narrow,
)
from pcflow_diffusion.errors import GenerationError, TypeMismatch
from pcflow_diffusion.head import derived

V, MASK, END = 4, 4, 3
RANKINGS = ("random", "low_confidence", "margin", "entropy")
COUPLINGS = ("product", "ratio", LogLinear(0.7, 0.4), Projection(), Projection(pool=(0.8, 0.3)))
ORDERS = (
    ("joint", 1.0),
    ("joint", 0.0),
    ("any_order", 0.0),
    ("any_order", 1.0),
    ("mpe", 0.0),
    ("sharpened", 0.6),
)
few = settings(max_examples=of_fifty(15), suppress_health_check=[HealthCheck.filter_too_much])


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
    lengths, top_k = st.sampled_from(sorted(CHAINS)), st.sampled_from([None, 1, 2])
    return head_of(draw(lengths), draw(st.sampled_from(COUPLINGS)), draw(top_k))


@cache  # with what they have made of their circuits
def head_of(length: int, coupling: str | Coupling, top_k: int | None) -> CircuitHead:
    return CircuitHead(CHAINS[length], MASK, coupling, top_k)


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


@pytest.mark.parametrize("head", [head_of(5, "product", None), head_of(8, "ratio", 2)])
def test_prompts_may_hold_tokens_that_the_rule_does_not_know(head) -> None:
    """They are shown to the circuit, whatever the rule is about."""
    rule, prompt = pf.Automaton([0, 1], [[1, 0], [0, 1]], 0, [True, False]), [[3, 2, 3]] * 200
    settings = {"steps": 2, "gen_length": 6, "block_length": 3}
    found = [
        generate(
            Backbone(0),
            prompt,
            head,
            decoding=Decoding(constraint=one, temperature=1.0),
            generator=seeded(0),
            **settings,
        )
        for one in (rule, rule.widened(V))
    ]
    assert rule.accepts(found[0][:, 3:]).all() and torch.equal(*found)


@pytest.mark.parametrize("head", [None, head_of(5, "product", None)])
@pytest.mark.parametrize("how", [{"align": True}, {"show": "blocks"}, {"context": 2}])
def test_prompts_of_any_length_are_no_part_of_what_obeys(head, how) -> None:
    prompts = [[1], [2, 2, 2, 3], [3, 0]]
    decoding = Decoding(temperature=1.0, constraint=RULES[:3])
    settings = {"steps": 9, "gen_length": 7, "block_length": 3, "decoding": decoding, **how}
    found = generate(Backbone(0), prompts, head, generator=seeded(0), **settings)
    for rule, text in zip(RULES, found, strict=False):
        assert rule.accepts(text[None, 4:]).all()


@pytest.mark.parametrize("head", [None, head_of(5, "product", None)])
def test_padding_is_no_part_of_what_is_filled_in(head) -> None:
    texts = torch.tensor([[2, 2, MASK, MASK, MASK, MASK], [MASK, 1, MASK, MASK, 2, 2]])
    real = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]])
    how = Decoding(constraint=RULES[0])
    found = infill(Backbone(0), texts, head, steps=2, decoding=how, attention_mask=real)
    assert RULES[0].accepts(found[real.bool()].view(2, 4)).all()
    assert torch.equal(found[real == 0], texts[real == 0])


@few
@given(st.sampled_from(RULES), st.integers(0, 99))
def test_the_best_text_without_a_head_is_the_best_that_obeys(rule, seed: int) -> None:
    """What constrained decoders for independent positions find by dynamic programming."""
    logits, every = torch.randn(1, 4, V, generator=seeded(seed)), strings(4)
    assume(rule.log_count(4) > -inf)
    how = Decoding(order="mpe", constraint=rule)
    settings = {"steps": 1, "gen_length": 4, "block_length": 4, "mask_token_id": MASK}
    found = generate(fixed(logits), [[]], decoding=how, **settings)
    log_p = logits[0].log_softmax(-1)[torch.arange(4), every].sum(dim=-1)
    assert torch.equal(found[0], every[log_p.masked_fill(~rule.accepts(every), -inf).argmax()])


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


def strings(length: int) -> Tensor:
    return torch.tensor(list(product(range(V), repeat=length)))


def fixed(logits: Tensor):
    """A backbone that says the same whatever it sees."""
    return lambda tokens: logits.expand(len(tokens), -1, -1)


@torch.no_grad()
def p_value(found: Tensor, log_p: Tensor) -> float:
    """Of draws [n, L] from what strings of this length have, [V ** L] (nats)."""
    number = (found * V ** torch.arange(found.shape[1] - 1, -1, -1)).sum(dim=-1)
    counts, expected = torch.bincount(number, minlength=len(log_p)), log_p.softmax(0) * len(found)
    assert (counts[expected == 0] == 0).all()
    rare = expected < 5
    pooled = [torch.cat([t[~rare], t[rare].sum().view(1)]).double() for t in (counts, expected)]
    counts, expected = (t[pooled[1] > 0] for t in pooled)
    return float(chisquare(counts, expected * len(found) / expected.sum()).pvalue)


@pytest.mark.parametrize("order", ["joint", "any_order"])
@pytest.mark.parametrize("coupling", [*COUPLINGS[1:4], None])
def test_a_block_in_one_step_is_the_joint_given_the_rule(order, coupling) -> None:
    """Before it stands a prompt that the circuit sees, and behind it a block that is to come."""
    rule = RULES[2]
    logits = torch.randn(1, 8, V, generator=seeded(3))
    head = None if coupling is None else CircuitHead(CHAINS[5], MASK, coupling)
    found: list[Tensor] = []
    generate(
        fixed(logits),
        torch.tensor([[1, 2]]).expand(3000, -1),
        head,
        steps=2,
        gen_length=6,
        block_length=3,
        mask_token_id=MASK,
        decoding=Decoding(temperature=1.0, order=order, constraint=rule),
        callback=lambda step: found.append(step.tokens[:, 2:5]),
        generator=seeded(0),
    )
    every = strings(3)
    if head is None:
        log_p = logits[0, 2:5].log_softmax(-1)[torch.arange(3), every].sum(dim=-1)
    else:
        x = torch.tensor([[1, 2, MASK, MASK, MASK]]).expand(len(every), -1)
        x0 = torch.cat([x[:, :2], every], dim=1)
        log_p = head.log_prob(logits[:, :5].expand(len(every), -1, -1), x, x0)
    state, left = rule.run(every), rule.log_counts(3)[3]
    can = (state >= 0) & (left[state] > -inf)
    assert p_value(found[0], log_p.masked_fill(~can, -inf)) > 1e-6


@few
@given(st.sampled_from(RULES[:3]), st.sampled_from(COUPLINGS), st.integers(0, 99), st.data())
def test_a_head_under_a_rule_is_its_joint_given_the_rule(rule, coupling, seed, data) -> None:
    head = CircuitHead(CHAINS[3], MASK, coupling)
    ruled = CircuitHead(CHAINS[3], MASK, coupling, constraint=rule)
    x = torch.tensor([[MASK, data.draw(st.sampled_from([MASK, 1])), MASK]])
    logits = torch.randn(1, 3, V, generator=seeded(seed)).double()
    every = strings(3)
    every = every[(every == x).where(x != MASK, torch.tensor(True)).all(dim=-1)]
    assume(rule.accepts(every).any())
    wide = logits.expand(len(every), -1, -1), x.expand(len(every), -1)
    log_p = head.log_prob(*wide, every).masked_fill(~rule.accepts(every), -inf)
    log_p = log_p.log_softmax(dim=0)
    torch.testing.assert_close(ruled.log_prob(*wide, every), log_p)
    log_q, p = ruled(logits, x)[0], log_p.exp()
    for place in (x[0] == MASK).nonzero().squeeze(-1).tolist():
        own = torch.stack([p[every[:, place] == token].sum() for token in range(V)])
        torch.testing.assert_close(log_q[place].exp(), own)
    drawn = ruled.sample(logits.expand(50, -1, -1), x.expand(50, -1), generator=seeded(seed))
    assert rule.accepts(drawn.tokens).all()


@few
@given(st.sampled_from(RULES[:3]), st.integers(0, 99), st.integers(1, 3))
def test_what_is_listed_is_all_there_is_and_enough(rule, seed: int, k: int) -> None:
    """The best k tokens, and the best of every class of the rule; probabilities add up to one."""
    head = CircuitHead(CHAINS[3], MASK, "product", top_k=k, constraint=rule)
    logits = torch.randn(1, 3, V, generator=seeded(seed)).double()
    every, x = strings(3), torch.full((V**3, 3), MASK)
    log_q = head.log_prob(logits.expand(V**3, -1, -1), x, every)
    torch.testing.assert_close(log_q.logsumexp(0), log_q.new_zeros(()))
    assert rule.accepts(every[log_q > -inf]).all()
    order = logits[0].argsort(dim=-1, descending=True)
    for text in every[log_q > -inf].tolist():
        for place, token in enumerate(text):
            better = order[place, : (order[place] == token).nonzero().item()]
            alike = rule.classes[better] == rule.classes[token]
            assert len(better) < k or not alike.any()
    drawn = head.sample(logits.expand(20, -1, -1), x[:20], generator=seeded(seed)).tokens
    assert rule.accepts(drawn).all()
    marginal = head(logits, x[:1])[0]
    torch.testing.assert_close(marginal.logsumexp(-1), marginal.new_zeros(3))


def test_a_rule_is_kept_in_files(tmp_path) -> None:
    for rule in (RULES[0], ~pf.Automaton.phrases([[0, 1]], num_categories=V)):
        head = CircuitHead(CHAINS[3], MASK, top_k=2, constraint=rule)
        head.save(tmp_path / "head.safetensors", dtype=torch.bfloat16)
        again = CircuitHead.load(tmp_path / "head.safetensors")
        assert again.constraint == rule and again.over(2).constraint == rule
        assert str(rule) in str(again)
    head.save_pretrained(tmp_path, training_text="letters")
    assert str(rule) in (tmp_path / "README.md").read_text()


def test_top_p_leaves_what_a_rule_needs() -> None:
    logits = torch.tensor([9.0, 0.0, 0.0, -9.0]).expand(1, 4, V)
    rule = pf.Automaton.options([[3, 1, 3, 2], [3, 2, 3, 1]], num_categories=V)
    settings = {"steps": 1, "gen_length": 4, "block_length": 4, "mask_token_id": MASK}
    for head in (None, CircuitHead(CHAINS[5], MASK), CircuitHead(CHAINS[2], MASK, top_k=1)):
        how = Decoding(constraint=rule, top_p=0.5, top_k=1 if head is None else None)
        assert rule.accepts(generate(fixed(logits), [[]], head, decoding=how, **settings)).all()


@pytest.mark.parametrize("coupling", ["product", "ratio", Projection()])
@pytest.mark.parametrize("order", ["joint", "any_order", "mpe"])
def test_lists_hold_what_the_circuit_allows_of_what_a_rule_needs(coupling, order) -> None:
    """The backbone prefers a token that the circuit never has; others of its class will do."""
    emission = torch.tensor([[0.0, 0.0, 0.7, 0.3]]).repeat(2, 1)
    model = pf.compile(pf.hmm(3, 2, pf.Categorical(V), emission=emission), dtype=torch.float64)
    logits = torch.tensor([3.0, 0.0, 2.0, -9.0]).double().expand(40, 3, V)
    rule = pf.Automaton([0, 1, 0, 1], [[1, -1], [-1, 2], [0, -1]], 0, [True, False, False])
    head, x = (
        CircuitHead(model, MASK, coupling, top_k=1, constraint=rule),
        torch.full((40, 3), MASK),
    )
    x[:20, 0] = 2  # rows of which something is known, and others
    drawn = head.sample(logits, x, order=order, temperature=float(order == "joint"))
    assert (drawn.tokens == torch.tensor([2, 3, 2])).all()
    how = Decoding(constraint=rule, order=order, temperature=float(order == "joint"))
    free = CircuitHead(model, MASK, coupling, top_k=1)
    for steps in (1, 3):
        texts = infill(fixed(logits[0]), x, free, steps=steps, decoding=how)
        assert (texts == torch.tensor([2, 3, 2])).all()
    with pytest.raises(pf.NoMassError):
        head.under(pf.Automaton.options([[2, 1, 2]], V)).sample(logits, x)


@pytest.mark.parametrize("coupling", ["product", "ratio", Projection()])
def test_what_is_said_of_draws_is_about_the_lists_that_they_are_from(coupling) -> None:
    """In rows where the circuit has what is listed first, those where it has not, and the rule."""
    emission = torch.tensor([[0.0, 0.0, 0.7, 0.3]]).repeat(2, 1)
    model = pf.compile(pf.hmm(3, 2, pf.Categorical(V), emission=emission), dtype=torch.float64)
    some = torch.tensor([[3.0, 0.0, 2.0, -2.0], [0.0, -3.0, 2.0, 1.0], [3.0, 0.0, 2.0, 2.5]])
    logits, x = some.double().unsqueeze(1).repeat(1, 3, 1), torch.full((3, 3), MASK)
    x[2, 1] = 3
    rule = pf.Automaton([0, 1, 0, 1], [[1, -1], [-1, 2], [0, -1]], 0, [True, False, False])
    head = CircuitHead(model, MASK, coupling, top_k=1, constraint=rule)
    draw, marginals = head.sample(logits, x), head(logits, x).exp()
    assert (head.log_prob(logits, x, draw.tokens) > -torch.inf).all()
    own = marginals.gather(-1, draw.tokens.unsqueeze(-1)).squeeze(-1)
    masked = x == MASK
    torch.testing.assert_close(own[masked], draw.confidence[masked], rtol=0, atol=1e-6)
    every = torch.cartesian_prod(*[torch.arange(V)] * 3)
    for row, alike in enumerate([1, 1, V]):  # texts that differ only where one token is known
        said = logits[row].expand(len(every), -1, -1), x[row].expand(len(every), -1)
        mass = head.log_prob(*said, every).exp().sum()
        assert float(mass.detach()) == pytest.approx(alike, abs=1e-9)
    taken = torch.where(masked.unsqueeze(-1), marginals > 0, True)
    beside = logits.softmax(dim=-1).masked_fill(taken, 0.0).sum(dim=-1)
    assert (head.left_out(logits, x)[masked] <= beside[masked] + 1e-9).all()
    assert (head.left_out(logits, x)[0] > 0.7).all()  # of what the circuit never has


def test_rows_that_nothing_can_be_made_of_are_named() -> None:
    emission = torch.tensor([[0.0, 0.0, 0.7, 0.3]]).repeat(2, 1)
    model = pf.compile(pf.hmm(3, 2, pf.Categorical(V), emission=emission), dtype=torch.float64)
    logits = torch.tensor([3.0, 0.0, 2.0, -9.0]).double().expand(3, 3, V)
    rule = pf.Automaton([0, 1, 0, 1], [[1, -1], [-1, 2], [0, -1]], 0, [True, False, False])
    x = torch.tensor([[2, MASK, MASK], [2, MASK, MASK], [0, MASK, MASK]])  # the last is impossible
    head = CircuitHead(model, MASK, "product", top_k=1, constraint=rule)
    for ask in (head.sample, head.forward):
        with pytest.raises(pf.NoMassError) as met:
            ask(logits, x)
        assert met.value.rows == (2,)
    assert (head.left_out(logits, x) >= 0).all()


@pytest.mark.parametrize("top_k", [None, 1, 2])
@pytest.mark.parametrize("top_p", [None, 0.9])
def test_what_is_never_written_does_not_matter_where_something_is(top_k, top_p) -> None:
    head, rule = CircuitHead(CHAINS[5], MASK, top_k=top_k), pf.Automaton.lengths(0, None, V)
    how = Decoding(constraint=rule, suppress=[0], top_p=top_p)
    settings = {"steps": 3, "gen_length": 6, "block_length": 3}
    assert (generate(Backbone(0), [[1, 2]], head, decoding=how, **settings) > 0).all()


@pytest.mark.parametrize("head", [None, head_of(5, "product", None)])
def test_what_leaves_the_best_token_alone_is_refused_at_the_door(head) -> None:
    """At temperature zero: that the rule allows of it is not certain."""
    how = Decoding(constraint=RULES[1], order="sharpened")
    with pytest.raises(GenerationError, match="sharpened"):
        generate(Backbone(0), [[1]], head, steps=2, gen_length=4, block_length=4, decoding=how)


ONCE = [[0, 1, 0], [1, -1, 1]]  # of three classes of tokens, the second occurs at most once


def surer(tokens: Tensor) -> Tensor:
    """A backbone of six tokens, which likes those that may occur once."""
    return torch.tensor([1.0, 1.0, 1.0, 0.0, -9.0, -9.0]).expand(*tokens.shape, V + 2)


@pytest.mark.parametrize(("order", "steps"), [("joint", 1), ("any_order", 1), ("any_order", 6)])
@pytest.mark.parametrize(("length", "top_k"), [(3, None), (3, 1), (8, None)])
def test_a_rule_goes_on_over_tokens_that_the_circuit_does_not_know(
    order, steps, length, top_k
) -> None:
    """They cut the text for the circuit, and move the state of the rule."""
    rule = pf.Automaton([1, 1, 1, 0, 2, 2], ONCE, 0, [True, True])
    head = CircuitHead(CHAINS[length], mask_token_id=9, coupling="product", top_k=top_k)
    text = torch.tensor([[9, 9, 5, 9, 5, 5, 9, 9, 9][: 9 if length < 8 else 8]])
    text = text.expand(50, -1)
    how = Decoding(constraint=rule, temperature=1.0, order=order, ranking="random")
    found = infill(narrow(surer, V), text, head, steps=steps, decoding=how, generator=seeded(0))
    assert rule.accepts(found).all() and len(found.unique(dim=0)) > 3
    lost = pf.Automaton([0, 1, 0, 0, 0, 2], [[0, 0, 1], [-1, 1, -1]], 0, [True, True])
    with pytest.raises(GenerationError, match="not all states"):
        infill(narrow(surer, V), text, head, steps=2, decoding=Decoding(constraint=lost))
    how = Decoding(constraint=lost & pf.Automaton.lengths(0, None, V))  # as the message says
    infill(narrow(surer, V), [[9, 2, 9, 9]], head, steps=2, decoding=how)


def test_a_rule_of_the_head_is_about_tokens_that_its_circuit_does_not_know(tmp_path) -> None:
    rule = pf.Automaton([1, 1, 1, 0, 2, 2], ONCE, 0, [True, True])
    head = CircuitHead(CHAINS[3], mask_token_id=9)
    text, settings = torch.tensor([[9, 9, 5, 9, 5, 9]]), {"steps": 2}
    wanted = infill(narrow(surer, V), text, head, decoding=Decoding(constraint=rule), **settings)
    head.under(rule).save(tmp_path / "head.safetensors")
    for ruled in (head.under(rule), CircuitHead.load(tmp_path / "head.safetensors")):
        assert torch.equal(infill(narrow(surer, V), text, ruled, **settings), wanted)
        assert ruled.sample(torch.zeros(1, 3, V), torch.full((1, 3), 9)).tokens.max() < V


def of_drawn(rule: pf.Automaton) -> pf.Automaton:
    return pf.Automaton(rule.classes[:V], rule.next, rule.start, rule.accept)


@settings(max_examples=of_fifty(5), suppress_health_check=[HealthCheck.filter_too_much])
@given(st.integers(0, 9999), st.sampled_from([2, 3]))
@example(seed=-1, width=3)
def test_whoever_is_not_drawn_may_lead_first_to_a_state(seed: int, width: int) -> None:
    """Tokens that the circuit does not know do not change which rules can be obeyed."""
    after = torch.randint(-1, 4, (4, V + 1), generator=seeded(seed))
    if seed < 0:  # the last token leads to the third state at once, the second by a detour
        ways = [[1, 1, -1, -1, 2], [3, 2, -1, -1, 2], [2, 2, 0, 2, 2], [3, 0, 3, 3, 3]]
        after = torch.tensor(ways)
    try:
        rule = pf.Automaton(torch.arange(V + 1), after, 0, [False, False, False, True])
        assume(len(of_drawn(rule).next) == len(rule.next))
        texts = rule.sample(40, 8, seeded(seed))
    except pf.EmptyLanguage:
        assume(False)
    masked = (texts < V) & (torch.rand(texts.shape, generator=seeded(seed)) < 0.8)
    head = CircuitHead(CHAINS[width], mask_token_id=9)
    how = Decoding(constraint=rule, temperature=1.0)
    flat = narrow(lambda tokens: torch.zeros(*tokens.shape, V + 1), V)
    text = texts.masked_fill(masked, 9)
    found = infill(flat, text, head, steps=2, decoding=how, generator=seeded(seed))
    assert rule.accepts(found).all() and torch.equal(found[~masked], texts[~masked])


@pytest.mark.parametrize("order", ["joint", "any_order"])
def test_windows_of_a_long_block_begin_where_those_before_have_led(order) -> None:
    rule = pf.Automaton([1, 1, 1, 0], [row[:2] for row in ONCE], 0, [False, True])
    how = Decoding(constraint=rule, temperature=1.0, order=order, ranking="random")
    settings = {"gen_length": 9, "block_length": 9, "mask_token_id": MASK, "decoding": how}
    for steps in (1, 4):
        head, flat = CircuitHead(CHAINS[2], MASK, "product"), narrow(surer, V)
        prompt = torch.empty(50, 0).long()
        found = generate(flat, prompt, head, steps=steps, generator=seeded(0), **settings)
        assert rule.accepts(found).all() and len(found.unique(dim=0)) > 3


def test_the_end_of_a_text_comes_when_it_obeys() -> None:
    """Nothing but the end follows the end, and what is before it obeys."""
    rule = pf.Automaton.template([0, 1]) | pf.Automaton.template([0, 1, 2, 2, END])
    how = Decoding(constraint=rule, temperature=1.0, end_token_id=END)
    found = generate(
        fixed(torch.zeros(1, 6, V)),
        torch.empty(60, 0).long(),
        steps=6,
        gen_length=6,
        block_length=2,
        decoding=how,
        mask_token_id=MASK,
        generator=seeded(0),
    )
    texts = {tuple(text) for text in found.tolist()}
    assert texts == {(0, 1, 3, 3, 3, 3), (0, 1, 2, 2, 3, 3)}


def test_what_would_obey_with_ends_in_between_is_not_taken_for_what_does() -> None:
    even = pf.Automaton([0, 1, 0, 0], [[0, 1], [1, 0]], 0, [True, False])  # of ones
    how = Decoding(constraint=even, temperature=1.0, end_token_id=END)
    settings = {"steps": 1, "gen_length": 6, "block_length": 6, "mask_token_id": MASK}
    prompt = torch.empty(60, 0).long()
    flat = fixed(torch.zeros(1, 6, V))
    found = generate(flat, prompt, decoding=how, generator=seeded(0), **settings)
    assert even.accepts(found).all() and (found == END).any()


def test_impossible_requests_are_refused_at_the_door() -> None:
    def never(tokens: Tensor) -> Tensor:
        raise AssertionError("the backbone is not asked")

    rule = pf.Automaton.options([[0, 1], [2, 1, 0]], num_categories=V)
    settings = {"steps": 1, "gen_length": 4, "block_length": 4, "mask_token_id": MASK}
    empty = pf.EmptyLanguage
    with pytest.raises(empty, match="row 0: no text of 4 tokens"):
        generate(never, [[1]], decoding=Decoding(constraint=rule), **settings)
    long = pf.Automaton.lengths(4, 4, V)
    with pytest.raises(empty, match="row 1: no text of 4 tokens"):
        generate(never, [[1], [1]], decoding=Decoding(constraint=[long, rule]), **settings)
    with pytest.raises(GenerationError, match="1 rules for 2 rows"):
        generate(never, [[1], [1]], decoding=Decoding(constraint=[long]), **settings)
    with pytest.raises(empty, match="row 0: no text of 4 tokens"):
        how = Decoding(constraint=pf.Automaton.template([0, 1, 2, 3]), suppress=[2])
        generate(never, [[1]], decoding=how, **settings)
    texts = torch.tensor([[MASK, 1, MASK], [MASK, 2, 0]])
    with pytest.raises(empty, match="row 1: token 2 at position 1"):
        infill(never, texts, steps=1, decoding=Decoding(constraint=rule), mask_token_id=MASK)
    with pytest.raises(empty, match="row 0: no text of 2 tokens"):
        how = Decoding(constraint=rule)
        infill(never, [[2, MASK]], steps=1, decoding=how, mask_token_id=MASK)
    head = CircuitHead(CHAINS[5], MASK, constraint=rule)
    with pytest.raises(GenerationError, match="a & b"):
        generate(never, [[1]], head, decoding=Decoding(constraint=rule), **settings)
    with pytest.raises(TypeMismatch, match="constraint"):
        Decoding(constraint="a+")  # type: ignore[arg-type]
    with pytest.raises(TypeMismatch, match="constraint"):
        CircuitHead(CHAINS[5], MASK, constraint="a+")  # type: ignore[arg-type]
    large = Decoding(constraint=pf.Automaton.lengths(4, 4, V + 2))
    with pytest.raises(GenerationError, match="about 6 tokens, the backbone about 4"):
        generate(fixed(torch.zeros(1, 5, V)), [[1]], decoding=large, **settings)


def test_circuits_that_are_no_chains_are_refused_at_the_door() -> None:
    tree = pf.compile(pf.chow_liu(torch.randint(V, (50, 4), generator=seeded(0))))
    head = CircuitHead(tree, MASK, constraint=RULES[1])
    with pytest.raises(pf.PropertyRequired):
        generate(Backbone(0), [[1]], head, steps=1, gen_length=4, block_length=4)


@pytest.mark.parametrize("head", [None, head_of(5, "product", None)])
def test_what_precision_new_tensors_have_does_not_matter(head) -> None:
    how, said = Decoding(constraint=RULES[1]), Backbone(0)
    settings = {"steps": 4, "gen_length": 8, "block_length": 4, "decoding": how}
    found = generate(said, [[1]], head, **settings)
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(generate(said, [[1]], head, **settings), found)
    finally:
        torch.set_default_dtype(torch.float32)


def builds_of(head: CircuitHead, rules: list[pf.Automaton], steps: int, monkeypatch) -> int:
    """How many products are made while every row is written under a rule of its own."""
    made = []

    def engine_under(*given: object) -> object:
        made.append(given)
        return build(*given)

    with monkeypatch.context() as patch:
        build = compiled.engine_under
        patch.setattr(compiled, "engine_under", engine_under)
        how = Decoding(temperature=1.0, constraint=rules)
        settings = {"steps": 2 * steps, "gen_length": 4, "block_length": 2}
        texts = generate(Backbone(0), [[1]] * len(rules), head, decoding=how, **settings)
    for rule, text in zip(rules, texts[:, 1:], strict=True):
        assert rule.accepts(text[None])
    return len(made)


def test_a_batch_of_many_rules_makes_every_product_once(monkeypatch) -> None:
    rules = [pf.Automaton.template([a, b, None, None], V) for a, b in product(range(3), range(3))]
    once = builds_of(CircuitHead(chain(2), MASK), rules, 1, monkeypatch)
    assert once == 1 + len(rules)  # and one that asks whether the circuit takes rules
    assert builds_of(CircuitHead(chain(2), MASK), rules, 2, monkeypatch) == once
    monkeypatch.setattr(derived, "HELD", 0)  # then the last alone is kept
    head = CircuitHead(chain(2), MASK)
    assert builds_of(head, rules, 1, monkeypatch) > once
    assert len(head.derived._given) == 1
