"""Other people's samplers write texts that obey a rule."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import other_samplers as others
import pytest
import torch
from test_plugs import HEAD, LONG, MASK, Flat, V, prompts
from torch import Tensor

import pcflow as pf
from pcflow_diffusion import (
    CircuitHead,
    CircuitLM,
    CircuitLogits,
    circuit_algorithm,
    circuit_decoder,
    circuit_policy,
    circuit_processor,
    circuit_remask,
    circuit_scheduler,
    circuit_transfer_index,
    dream_hook,
)
from pcflow_diffusion.errors import GenerationError, ShapeMismatch

RULES = (
    pf.Automaton.template([{0, 1}, pf.Automaton.lengths(14, 14, V), {3}]),
    ~pf.Automaton.phrases([[0, 0], [1, 2]], num_categories=V),
    pf.Automaton([0, 1, 1, 2], [[1, 0, -1], [2, 1, 0], [0, 0, 1]], 0, [True, False, False]),
)
ROWS = [RULES[row % 3] for row in range(30)]
PROMPTS = prompts()[:30]
RAGGED = [row[: 1 + number % 4] for number, row in enumerate(prompts(4)[:30])]
LENGTHS = [len(prompt) for prompt in RAGGED]
Run = Callable[[int], Any]


def lm(**how: Any) -> CircuitLM:
    return CircuitLM(Flat(), HEAD, constraint=ROWS, **how)


def shifted(steps: int) -> Any:
    model = lm(prompt_length=LENGTHS, right_shift=True, block_length=8)
    return others.dllm(model, RAGGED, MASK, 0, **LONG, steps=steps, right_shift=True)


def bd3lm(steps: int) -> Any:
    return others.bd3lm(lm(prompt_length=8, gen_length=16), RAGGED, MASK, 9, **LONG, steps=steps)


def fast(dual: bool) -> Run:
    return lambda steps: others.fast_dllm(
        lm(prompt_length=3), PROMPTS, MASK, **LONG, steps=steps, dual=dual
    )


def dream(steps: int) -> Any:
    hook = dream_hook(HEAD, constraint=ROWS, prompt_length=3)
    how = {"gen_length": 16, "steps": steps, "algorithm": "entropy"}
    return others.dream(Flat(), PROMPTS, MASK, hook, **how)


def dinfer(steps: int) -> Any:
    theirs = others.Decoder(temperature=0.0, threshold=0.9, mask_id=MASK)
    decoder = circuit_decoder(HEAD, theirs, constraint=ROWS, prompt_length=3)
    x = torch.cat([PROMPTS, torch.full((30, 16), MASK)], dim=1)
    for start in (3, 11):
        while bool((x[:, start : start + 8] == MASK).any()):
            decoder.decode(torch.zeros(30, 8, V), start, start + 8, x)
    return x


def mdlm(steps: int) -> Any:
    model = lm(prompt_length=0, confidence=False)

    def said(x: Tensor) -> Tensor:
        return others.subs(torch.nn.functional.pad(model(x).logits, (0, 1)), x, MASK)

    return others.mdlm(said, torch.full((30, 16), MASK), MASK, steps=steps)


RUNS: dict[str, Run] = {
    "llada": lambda steps: others.llada(
        lm(prompt_length=3, block_length=8), PROMPTS, MASK, **LONG, steps=steps
    ),
    "llada, random, all drawn": lambda steps: others.llada(
        lm(prompt_length=3), PROMPTS, MASK, **LONG, steps=steps, remasking="random"
    ),
    "dllm": lambda steps: others.dllm(
        lm(prompt_length=LENGTHS), RAGGED, MASK, 0, **LONG, steps=steps
    ),
    "dllm, shifted": shifted,
    "bd3lm": bd3lm,
    "fast-dllm, prefix": fast(dual=False),
    "fast-dllm, dual": fast(dual=True),
    "dream": dream,
    "dinfer": dinfer,
    "mdlm": mdlm,
}


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("name", RUNS)
def test_what_a_sampler_writes_obeys(name: str, steps: int) -> None:
    torch.manual_seed(0)
    texts = RUNS[name](steps)
    for rule, text in zip(ROWS, texts, strict=True):
        assert rule.accepts(text[None, -16:]).all(), text


def test_draws_are_those_of_the_joint_given_the_rule() -> None:
    """Of one window: pairs of neighbours, against the chain under the rule."""
    rule = RULES[1]
    model = CircuitLM(Flat(), HEAD, constraint=rule, prompt_length=0)
    texts = model(torch.full((3000, 8), MASK)).logits.argmax(dim=-1)
    exact = HEAD.model.given(rule).sample(3000, generator=torch.Generator().manual_seed(0))
    pairs = [torch.bincount((x[:, 3] * V + x[:, 4]), minlength=V * V) for x in (texts, exact)]
    assert (pairs[0] - pairs[1]).abs().sum() / 6000 < 0.06


def test_what_is_wanted_first_may_stand_anywhere() -> None:
    """Of a text that a token cuts which the circuit does not know; tokens below 3 occur once."""
    x = torch.full((60, 12), MASK)
    x[:, 5] = 9
    rule = pf.Automaton([1, 1, 1, 0, 1, *[0] * 5], [[0, 1], [1, -1]], 0, [False, True])
    joint = CircuitLogits(HEAD, constraint=rule)
    torch.manual_seed(0)
    for places in (slice(9, 11), slice(2, 4), slice(0, 12)):
        wanted = torch.zeros_like(x, dtype=torch.bool)
        wanted[:, places] = True
        wanted &= x == MASK
        x = torch.where(wanted, joint(torch.zeros(60, 12, V), x, wanted=wanted).argmax(-1), x)
    assert rule.accepts(x).all() and (x[:, 9:11] < 3).any()


@pytest.mark.parametrize("rule", [None, *RULES[1:]])
@pytest.mark.parametrize("gap", [slice(4, 5), slice(3, 6), slice(9, 11)])
def test_padding_between_tokens_cuts_a_text(rule, gap: slice) -> None:
    """As a token does that the circuit does not know; and the rule goes on behind it."""
    x, attended = torch.full((40, 13), MASK), torch.ones(40, 13).bool()
    x[:, 2] = 2
    x[:, gap], attended[:, gap] = 1, False
    joint, found = CircuitLogits(HEAD, constraint=rule), []
    for text in (x, x.masked_fill(~attended, 9)):
        torch.manual_seed(0)
        drawn = joint(torch.zeros(40, 13, V), text, attended=attended).argmax(dim=-1)
        found.append(drawn.where(x == MASK, x))
    assert torch.equal(*(text[attended] for text in found))
    if rule is not None:
        assert rule.accepts(found[0][attended].view(40, -1)).all()


def test_masks_that_are_padding_are_not_drawn_under_a_rule() -> None:
    x, attended = torch.full((40, 13), MASK), torch.ones(40, 13).bool()
    attended[:20, 9:] = attended[20:, 3] = attended[30:, :2] = False
    for rule in RULES[1:]:
        found = CircuitLogits(HEAD, constraint=rule)(torch.zeros(40, 13, V), x, attended=attended)
        assert (found[~attended] == 0).all()
        drawn = found.argmax(dim=-1)
        for row in range(40):
            assert rule.accepts(drawn[row][attended[row]][None]).all()


def test_what_is_visible_is_not_hidden_under_a_rule() -> None:
    """Where circuit and text contradict one another: without a rule tokens are hidden."""
    still = pf.hmm(4, V, pf.Categorical(V), transition=torch.eye(V), emission=torch.eye(V))
    head = CircuitHead(pf.compile(still), MASK, coupling="product")
    x, flat = torch.tensor([[MASK, MASK, 1, 3]]), torch.zeros(1, 4, V)
    CircuitLogits(head)(flat, x)
    with pytest.raises(pf.NoMassError):
        CircuitLogits(head, constraint=RULES[1])(flat, x)


def test_a_rule_of_the_head_is_that_of_the_plug() -> None:
    ruled = HEAD.under(RULES[1])
    found = CircuitLM(Flat(), ruled, prompt_length=0)(torch.full((9, 12), MASK)).logits
    assert RULES[1].accepts(found.argmax(dim=-1)).all()


def test_prompts_may_hold_tokens_that_the_rule_does_not_know() -> None:
    rule = pf.Automaton.lengths(0, None, 2)
    model = CircuitLM(Flat(), HEAD, prompt_length=3, constraint=rule)
    x = torch.cat([torch.full((9, 3), V - 1), torch.full((9, 10), MASK)], dim=1)
    assert rule.accepts(model(x).logits.argmax(dim=-1)[:, 3:]).all()


def test_what_cannot_obey_is_refused() -> None:
    rule = {"constraint": RULES[1]}
    with pytest.raises(GenerationError, match="say prompt_length"):
        CircuitLM(Flat(), HEAD, **rule)
    with pytest.raises(GenerationError, match="obey no rule"):
        CircuitLogits(HEAD, mode="marginal", **rule)
    with pytest.raises(GenerationError, match="obey no rule"):
        circuit_processor(HEAD, **rule)
    with pytest.raises(GenerationError, match="a & b"):
        CircuitLogits(HEAD.under(RULES[1]), **rule)
    scheduler = SimpleNamespace(step=None)
    for make in (
        lambda: circuit_scheduler(HEAD, scheduler, **rule),
        lambda: circuit_transfer_index(HEAD, others.transfer_index, **rule),
        lambda: circuit_algorithm(HEAD, others.LowConfidence, **rule),
        lambda: circuit_policy(HEAD, others.Policy(), **rule),
        lambda: circuit_remask(HEAD.under(RULES[1]), others.batched_remask),
    ):
        with pytest.raises(GenerationError, match="take CircuitLM"):
            make()
    flat, masks = torch.zeros(3, 4, V), torch.full((3, 4), MASK)
    with pytest.raises(ShapeMismatch, match="2 prompt lengths"):
        CircuitLogits(HEAD, prompt_length=[1, 2], **rule)(flat, masks)
    with pytest.raises(pf.EmptyLanguage, match="row 0"):
        CircuitLogits(HEAD, constraint=RULES[0])(flat, masks)


def test_a_block_whose_text_is_not_known_is_refused() -> None:
    model = CircuitLM(Flat(), HEAD, constraint=RULES[1], prompt_length=3)
    with pytest.raises(GenerationError, match="not known"):
        model(torch.full((2, 4), MASK), past_key_values=object())
