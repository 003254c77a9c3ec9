"""`CircuitLM` and `CircuitLogits`: what is done before the circuit, what comes out, and when not.

Marginals are the same for every seed, so most laws are stated in that mode.
"""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import other_samplers as others
import pytest
import torch
from test_plugs import HEAD, MASK, STAY, TEXTS, Flat, V, at_one, behind, chain, distance, prompts
from torch import Tensor

import pcflow as pf
from pcflow_diffusion import (
    CircuitHead,
    CircuitLM,
    CircuitLogits,
    DiffusionError,
    circuit_decoder,
    circuit_scheduler,
    circuit_transfer_index,
    dream_hook,
)
from pcflow_diffusion.errors import BackboneError, GenerationError, LogitsError, ShapeMismatch
from pcflow_diffusion.plugs.logits import drawn_logits


def told(*rows: list[int]) -> Tensor:
    return torch.tensor(rows)


class Spoken(torch.nn.Module):
    """A model whose logits are about the tokens that it sees, the same wherever they are."""

    def __init__(self, shift: int = 0, width: int = V) -> None:
        super().__init__()
        self.table = torch.nn.Embedding.from_pretrained(
            torch.randn(10, width, generator=torch.Generator().manual_seed(3))
        )
        self.shift, self.calls = shift, list[tuple[Tensor, dict[str, Any]]]()

    def forward(self, input_ids: Tensor, **named: Any) -> Any:
        self.calls.append((input_ids, named))
        around = self.table(input_ids)
        logits = around + around.mean(dim=1, keepdim=True)
        if self.shift:
            logits = torch.cat([logits[:, 1:], logits[:, -1:]], dim=1)
        return SimpleNamespace(logits=logits, hidden="kept")


CANVAS = told([0, 1, 4, 4, 2, 4, 4, 4, 4, 4], [3, 4, 4, 4, 4, 4, 1, 4, 4, 4])


def test_the_best_token_is_the_drawn_one_with_its_probability() -> None:
    tokens, p = torch.randint(0, 1000, (50,)), torch.linspace(0, 1, 50)
    logits = drawn_logits(tokens, p, 1000)
    found = logits.softmax(dim=-1)
    assert torch.equal(found.argmax(dim=-1), tokens)
    assert torch.allclose(found.amax(dim=-1), p.clamp_min(1.01e-3), atol=1e-6)
    top = found.topk(2).values
    assert bool(((top[1:, 0] - top[1:, 1]) > (top[:-1, 0] - top[:-1, 1])).all())
    entropy = torch.distributions.Categorical(probs=found).entropy()
    assert bool((entropy[1:] < entropy[:-1]).all())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_logits_of_any_precision(dtype: torch.dtype) -> None:
    found = CircuitLogits(HEAD)(torch.zeros(2, 10, V, dtype=dtype), CANVAS)
    assert found.dtype == torch.promote_types(dtype, torch.float32)
    assert bool((found[CANVAS == MASK].softmax(dim=-1).amax(dim=-1) > 0.25).all())
    assert torch.equal(found[CANVAS != MASK], torch.zeros_like(found[CANVAS != MASK]))


def test_a_seed_draws_the_same_text() -> None:
    def drawn(seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return CircuitLM(Flat(), HEAD, generator=generator)(CANVAS).logits.argmax(dim=-1)

    assert torch.equal(drawn(1), drawn(1))
    assert any(not torch.equal(drawn(1), drawn(seed)) for seed in range(2, 9))


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("guidance", [0.0, 0.7])
def test_temperature_zero_is_greedy_and_rows_are_as_each_alone(steps: int, guidance: float) -> None:
    circuit = pf.hmm(5, 3, pf.Categorical(V), generator=torch.Generator().manual_seed(2))
    head, how = CircuitHead(pf.compile(circuit), MASK), {"guidance": guidance, "temperature": 0.0}

    def text(rows: Tensor) -> Tensor:
        lm = CircuitLM(Spoken(), head, **how)  # type: ignore[arg-type]
        return others.llada(lm, rows, MASK, gen_length=9, block_length=3, steps=steps)

    together = text(prompts()[:4])
    assert torch.equal(together, text(prompts()[:4]))
    assert torch.equal(together, torch.cat([text(row) for row in prompts()[:4].split(1)]))


def test_greedy_tokens_are_ranked_as_they_were_drawn() -> None:
    """The first is committed before those that were drawn given it, however sure these are."""
    emission = torch.eye(V) * (1 - 4e-4) + 1e-4
    even, stays = torch.tensor([0.4, 0.3, 0.2, 0.1]), torch.eye(V) * 0.996 + 1e-3
    pair = pf.hmm(3, V, pf.Categorical(V), initial=even, transition=stays, emission=emission)
    found = CircuitLogits(CircuitHead(pf.compile(pair), MASK, "product"), temperature=0.0)(
        torch.zeros(1, 3, V), told([4, 4, 4])
    )
    sure = found.softmax(dim=-1).amax(dim=-1)[0]
    assert found.argmax(dim=-1).tolist() == [[0, 0, 0]]
    assert float(sure.amax()) < 0.45 and float(sure.amin()) > 0.35
    assert len(set(sure.tolist())) == 3


@pytest.mark.parametrize("steps", [1, 2, 8])
def test_without_confidence_a_sampler_may_draw_again(
    steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(7)
    monkeypatch.setattr(others, "greedy", at_one)
    lm = CircuitLM(Flat(), HEAD, confidence=False)
    found = others.llada(lm, prompts(), MASK, gen_length=16, block_length=8, steps=steps)
    assert distance(behind(found, 3)) < 0.1


def test_padding_is_no_text() -> None:
    rows = [[0, 1, 4, 4, 2], [2, 4, 4, 1]]
    joint = CircuitLogits(HEAD, mode="marginal")
    alone = [joint(torch.zeros(1, len(row), V), told(row)) for row in rows]
    left = told([3, 3, 0, 1, 4, 4, 2], [3, 3, 3, 2, 4, 4, 1])
    right = told([0, 1, 4, 4, 2, 3, 3], [2, 4, 4, 1, 3, 3, 3])
    for text, keep in ((left, slice(2, 7)), (right, slice(0, 5))):
        attended = torch.tensor([[1] * 5 + [0] * 2, [1] * 4 + [0] * 3]).bool()
        attended = attended if text is right else attended.flip(-1)
        found = joint(torch.zeros(2, 7, V), text, attended=attended)
        assert torch.allclose(found[:1, keep], alone[0], atol=1e-6)
        own = found[1:, 3:] if text is left else found[1:, :4]
        assert torch.allclose(own, alone[1], atol=1e-6)


@pytest.mark.parametrize(
    "mask",
    [
        torch.tensor([[0, 0, 1, 1, 1, 1]]),
        torch.tensor([[0, 0, 1, 1, 1, 1]]).bool()[:, None, None],
        torch.tensor([[-1e9, -1e9, 0, 0, 0, 0]])[:, None, None].expand(1, 2, 6, 6),
        torch.tensor([[0, 0, 1, 1, 1, 1]])[:, None, None].expand(1, 1, 6, 6),
    ],
)
def test_attention_masks_of_every_form_say_what_is_padding(mask: Tensor) -> None:
    model = Flat()
    lm, text = CircuitLM(model, HEAD, mode="marginal"), told([3, 3, 0, 4, 4, 1])
    found = lm(text, attention_mask=mask).logits
    alone = lm(text[:, 2:]).logits
    assert torch.allclose(found[:, 2:], alone, atol=1e-6)
    assert model.seen[0]["attention_mask"] is mask, "it is handed on untouched"


def test_guidance_acts_before_the_circuit() -> None:
    model, w = Spoken(), 1.5
    lm = CircuitLM(model, HEAD, guidance=w, mode="marginal")
    first = lm(CANVAS).logits
    asked, free = model(CANVAS).logits, model(torch.full_like(CANVAS, MASK)).logits
    joint = CircuitLogits(HEAD, mode="marginal")
    assert torch.equal(first, joint(free + (w + 1) * (asked - free), CANVAS))

    later = CANVAS.clone()
    later[:, 3] = 1  # was committed: it is no part of what is given
    found = lm(later).logits
    hidden = torch.full_like(later, MASK).index_fill(1, torch.tensor([3]), 1)
    asked, free = model(later).logits, model(hidden).logits
    assert torch.equal(found, joint(free + (w + 1) * (asked - free), later))


def test_what_is_given_may_be_said() -> None:
    model = Spoken()
    CircuitLM(model, HEAD, prompt_length=[2, 1], guidance=1.0)(CANVAS)
    assert torch.equal(model.calls[1][0][:, :3], told([4, 4, 4], [4, 4, 4]))
    assert torch.equal(model.calls[1][0][:, 3:], CANVAS[:, 3:]), "what was visible behind stays"


def test_another_text_begins_anew() -> None:
    model = Spoken()
    lm = CircuitLM(model, HEAD, guidance=1.0)
    for text in (told([0, 4, 4, 4]), told([0, 1, 4, 4]), told([2, 1, 4, 4]), told([0, 1, 4, 4, 4])):
        lm(text)
    hidden = [call[0].tolist()[0] for call in model.calls[1::2]]
    assert hidden == [[4] * 4, [4, 1, 4, 4], [4] * 4, [4] * 5]


@pytest.mark.parametrize("steps", [1, 2])
def test_guidance_of_the_sampler_is_refused_and_ours_is_its(steps: int) -> None:
    text = prompts()[:4]
    sizes = {"gen_length": 8, "block_length": 4, "steps": steps}
    with pytest.raises(GenerationError, match="before the circuit"):
        others.llada(CircuitLM(Flat(), HEAD), text, MASK, **sizes, guidance=0.5)
    others.llada(CircuitLM(Flat(), HEAD, mode="marginal"), text, MASK, **sizes, guidance=0.5)
    others.llada(CircuitLM(Flat(), HEAD, guidance=0.5), text, MASK, **sizes)


def test_guidance_of_a_padded_batch_is_refused() -> None:
    text, attended = told([9, 0, 1, 4, 4], [0, 1, 2, 4, 4]), told([0, 1, 1, 1, 1], [1] * 5)
    for hidden in ([9, 4, 4, 4, 4], [4] * 5):
        both = torch.cat([text, told(hidden, [4] * 5)])
        with pytest.raises(GenerationError):
            CircuitLM(Flat(), HEAD)(both, attention_mask=attended.repeat(2, 1))


@pytest.mark.parametrize(
    "batch",
    [
        told([0, 1, 4, 4], [0, 1, 4, 4]),
        told([0, 4, 4, 4], [1, 4, 4, 4]),
        told([4, 4, 4, 4], [4, 4, 4, 4]),
        told([0, 1, 2, 4], [0, 4, 4, 4]),
        told([0, 4, 4, 4], [4, 4, 4, 4], [1, 4, 4, 4], [0, 4, 4, 4]),
    ],
)
def test_other_batches_are_no_guidance(batch: Tensor) -> None:
    assert CircuitLM(Flat(), HEAD)(batch).logits.shape == (*batch.shape, V)


def test_a_block_with_a_cache_sees_what_was_on_its_left() -> None:
    """Prefix cache, dual cache and a prefix that ends before the block, against the canvas."""
    lm, cache = CircuitLM(Flat(), chain(6), mode="marginal"), object()
    canvas = told([0, 1, 2, 4, 4, 4, 4], [3, 3, 3, 4, 4, 4, 4])
    whole = lm(canvas).logits
    assert torch.allclose(lm(canvas[:, 3:], past_key_values=cache).logits, whole[:, 3:])
    block, replaced = canvas[:, 3:5], torch.zeros(2, 7).bool()
    replaced[:, 3:5] = True
    found = lm(block, past_key_values=cache, replace_position=replaced).logits
    assert torch.allclose(found, lm(canvas[:, :5]).logits[:, 3:], atol=1e-6)
    lm(canvas[:, :3])
    found = lm(block, past_key_values=cache).logits
    assert torch.allclose(found, whole[:, 3:5], atol=2e-3)  # whose windows show fewer on the left


def test_a_cache_of_another_text_is_not_taken_for_this_one() -> None:
    lm, block = CircuitLM(Flat(), HEAD, mode="marginal"), told([2, 4, 4, 4])
    alone = lm(block, past_key_values=object()).logits
    lm(told([0, 0, 0, 1, 4, 4, 4]))  # its rest begins with 1
    assert torch.equal(lm(block, past_key_values=object()).logits, alone)
    empty = SimpleNamespace(get_seq_length=lambda: 0)
    assert torch.equal(lm(block, past_key_values=empty).logits, lm(block).logits)


def test_padding_before_a_block_amid_a_cache_is_no_text() -> None:
    lm, mask = CircuitLM(Flat(), HEAD, mode="marginal"), told([0, 1, 1, 1, 1, 1, 1])
    canvas, replaced = told([3, 0, 4, 4, 4, 4, 4]), (2, 4)
    lm(canvas, attention_mask=mask)
    named = {"past_key_values": object(), "replace_position": replaced, "attention_mask": mask}
    found = lm(canvas[:, 2:4], **named).logits
    assert torch.allclose(found, lm(canvas[:, 1:4]).logits[:, 1:], atol=1e-6)


class Cache:
    """What a model keeps of so many positions."""

    def __init__(self, length: int) -> None:
        self.length = length

    def get_seq_length(self) -> int:
        return self.length


@pytest.mark.parametrize("name", ["past_key_values", "cache"])
def test_a_cache_that_grows_block_by_block_is_followed(name: str) -> None:
    """Prompt, block, and the block once more when it is full, as it enters the cache."""
    lm, block = CircuitLM(Flat(), chain(6), mode="marginal"), told([4, 4, 4])
    lm(told([0, 0, 0]))
    lm(block, **{name: Cache(3)})
    for _ in range(2):
        lm(told([1, 1, 2]), **{name: Cache(3)})
    found = lm(block, **{name: Cache(6)}).logits
    assert torch.allclose(found, lm(told([0, 0, 0, 1, 1, 2, 4, 4, 4])).logits[:, 6:], atol=2e-3)


@pytest.mark.parametrize("cache", [object(), Cache(6)])
def test_where_a_cache_has_more_than_was_said_nothing_is_taken_for_a_neighbour(cache: Any) -> None:
    lm, block = CircuitLM(Flat(), HEAD, mode="marginal"), told([4, 4, 4])
    lm(told([0, 0, 0]))
    if not isinstance(cache, Cache):  # which does not say how much
        lm(told([1, 1, 2]), past_key_values=cache)
    alone = CircuitLM(Flat(), HEAD, mode="marginal")(block).logits
    assert torch.equal(lm(block, past_key_values=cache).logits, alone)


def test_an_attention_mask_counts_by_place_as_by_name() -> None:
    def model(input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        return torch.zeros(*input_ids.shape, V)

    lm, text, mask = CircuitLM(model, HEAD, mode="marginal"), told([3, 0, 4, 4]), told([0, 1, 1, 1])
    assert torch.equal(lm(text, mask), lm(text, attention_mask=mask))
    assert not torch.equal(lm(text, mask), lm(text))


def test_what_is_impossible_stays_so_under_guidance() -> None:
    def model(x: Tensor) -> Tensor:
        return torch.zeros(*x.shape, V).index_fill(-1, torch.tensor([1]), -torch.inf)

    found = CircuitLM(model, HEAD, guidance=1.0)(CANVAS)
    assert bool((found.argmax(dim=-1) != 1)[CANVAS == MASK].all())


def test_a_text_goes_on_while_nothing_given_and_no_mask_is_new() -> None:
    """So it does where a sampler writes other tokens in place of its own."""
    model = Spoken()
    lm = CircuitLM(model, HEAD, guidance=1.0)
    for text in ([0, 4, 4, 4], [0, 1, 2, 4], [0, 3, 2, 4], [0, 3, 4, 4], [0, 3, 1, 4]):
        lm(told(text))
    hidden = [call[0].tolist()[0] for call in model.calls[1::2]]
    assert hidden == [[4] * 4, [4, 1, 2, 4], [4, 3, 2, 4], [4] * 4, [4, 4, 1, 4]]


def test_the_model_s_own_loop_is_not_run_without_the_circuit() -> None:
    class Loop(Spoken):
        generation_config = "its own"

        def diffusion_generate(self, x: Tensor) -> Tensor:
            return x

    lm = CircuitLM(Loop(), HEAD)
    assert lm.generation_config == "its own" and not hasattr(lm, "diffusion_generate")
    with pytest.raises(AttributeError, match="would not ask the circuit"):
        lm.diffusion_generate(CANVAS)


@pytest.mark.parametrize(
    "wrong",
    [
        {"left": told([0, 1])},
        {"left": [[0], [1]]},
        {"wanted": torch.ones(2, 9).bool()},
        {"wanted": True},
        {"attended": torch.ones(2, 9).bool()},
    ],
)
def test_what_does_not_belong_to_the_text_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(DiffusionError, match=next(iter(wrong))):
        CircuitLogits(HEAD)(torch.zeros(2, 10, V), CANVAS, **wrong)
    with pytest.raises(DiffusionError, match="3 prompt lengths for 2 rows"):
        CircuitLM(Flat(), HEAD, prompt_length=[1, 2, 3])(CANVAS)


def test_flags_may_be_numbers_and_texts_empty() -> None:
    joint, logits = CircuitLogits(HEAD, mode="marginal"), torch.zeros(2, 10, V)
    ones = torch.ones(2, 10)
    assert torch.equal(joint(logits, CANVAS, wanted=ones, attended=ones), joint(logits, CANVAS))
    for block_length in (None, 4):
        empty = CircuitLogits(HEAD, block_length=block_length)
        assert empty(logits[:, :0], CANVAS[:, :0]).shape == (2, 0, V)
        assert empty(logits[:0], CANVAS[:0]).shape == (0, 10, V)


@pytest.mark.parametrize("how", [{"guidance": 1.0}, {"right_shift": True}])
def test_what_a_cache_cannot_do_is_refused(how: dict[str, Any]) -> None:
    with pytest.raises(GenerationError, match=next(iter(how))):
        CircuitLM(Flat(), HEAD, **how)(told([4, 4]), past_key_values=object())


def test_shifted_logits_are_about_the_same_tokens() -> None:
    straight = CircuitLM(Spoken(), HEAD, mode="marginal")(CANVAS).logits
    shifted = CircuitLM(Spoken(shift=1), HEAD, right_shift=True, mode="marginal")(CANVAS).logits
    again = torch.cat([shifted[:, :1], shifted[:, :-1]], dim=1)
    assert torch.allclose(again[:, 1:], straight[:, 1:], atol=1e-6)


def test_what_is_suppressed_is_never_drawn_and_the_rest_is_coupled() -> None:
    torch.manual_seed(7)
    lm = CircuitLM(Flat(), HEAD, suppress=[1])
    text = prompts()
    text = text[(text != 1).all(dim=-1)]
    found = others.llada(lm, text, MASK, gen_length=8, block_length=8, steps=2)
    assert bool((found != 1).all())
    pairs = torch.zeros(V, V).index_put(
        (found[:, 3:-1].flatten(), found[:, 4:].flatten()), torch.ones(()), accumulate=True
    )
    assert float(pairs.diagonal().sum() / pairs.sum()) > 0.9


def test_tokens_beyond_the_circuit_are_refused_until_suppressed() -> None:
    logits, text = torch.zeros(1, 4, V + 3), told([0, 4, 4, 1])
    with pytest.raises(ShapeMismatch, match=r"suppress=range\(4, 7\)"):
        CircuitLogits(HEAD)(logits, text)
    for mode in ("drawn", "marginal"):
        found = CircuitLogits(HEAD, mode=mode, suppress=range(V, V + 3))(logits, text)
        assert found.shape == logits.shape
        assert bool((found[text == MASK].argmax(dim=-1) < V).all())


@pytest.mark.parametrize("pack", [lambda o: o.logits, lambda o: (o.logits, 1), vars, lambda o: o])
def test_what_a_model_returns_is_returned(pack: Callable[[Any], Any]) -> None:
    plain = Spoken()
    lm = CircuitLM(lambda x: pack(plain(x)), HEAD)
    given, found = pack(plain(CANVAS)), lm(CANVAS)
    assert type(found) is type(given)
    logits = getattr(found, "logits", found)
    logits = logits[0] if isinstance(found, tuple) else logits
    logits = found["logits"] if isinstance(found, dict) else logits
    assert logits.shape == (2, 10, V)
    if isinstance(found, SimpleNamespace):
        assert found.hidden == "kept" and not torch.equal(found.logits, given.logits)


def test_it_is_a_module_that_passes_for_the_model() -> None:
    model = Spoken()
    lm = CircuitLM(model, HEAD)
    assert next(lm.parameters()) is model.table.weight
    assert (lm.device, lm.dtype) == (torch.device("cpu"), torch.float32)
    assert lm.table is model.table and lm.eval().training is False
    assert CircuitLM(Flat(), HEAD).config.mask_token_id == MASK
    with pytest.raises(AttributeError, match="nowhere"):
        _ = lm.nowhere


def test_a_named_tuple_stays_one() -> None:
    class Named(NamedTuple):
        logits: Tensor
        hidden: int

    found = CircuitLM(lambda x: Named(torch.zeros(*x.shape, V), 3), HEAD)(CANVAS)
    assert isinstance(found, Named) and found.hidden == 3
    assert bool((found.logits != 0).any())


def test_model_outputs_that_are_no_logits_are_refused() -> None:
    for bad in (None, torch.zeros(2, 3, V), {"scores": 1}, "text"):
        with pytest.raises(BackboneError):
            CircuitLM(lambda x, bad=bad: bad, HEAD)(CANVAS)


def test_a_wrong_place_is_named() -> None:
    logits = torch.zeros(2, 10, V)
    logits[1, 8] = torch.nan
    with pytest.raises(LogitsError, match="row 1, position 8"):
        CircuitLogits(HEAD)(logits, CANVAS)
    with pytest.raises(LogitsError, match="row 1, position 8"):
        CircuitLogits(HEAD)(logits, CANVAS, left=told([0, 1], [2, 3]))


def test_with_a_block_length_no_more_is_drawn_than_may_be_committed() -> None:
    text = told([0, *[4] * 9], [0, 1, 2, *[4] * 7])
    found = CircuitLogits(HEAD, block_length=3)(torch.zeros(2, 10, V), text)
    drawn = (found != 0).any(dim=-1)
    assert drawn.tolist() == [[1 <= i < 4 for i in range(10)], [3 <= i < 6 for i in range(10)]]
    lm = CircuitLM(Flat(), HEAD, prompt_length=1, block_length=3)
    drawn = (lm(text).logits != 0).any(dim=-1)
    assert drawn.tolist() == [[1 <= i < 4 for i in range(10)], [3 <= i < 4 for i in range(10)]]


def test_a_text_without_masks_is_left_as_it_is() -> None:
    text, logits = told([0, 1, 2]), torch.randn(1, 3, V)
    assert torch.equal(CircuitLogits(HEAD)(logits, text), logits)


@pytest.mark.parametrize(
    "wrong",
    [
        {"mode": "both"},
        {"temperature": -1.0},
        {"block_length": 0},
        {"suppress": ["a"]},
        {"prompt_length": [-1]},
        {"prompt_length": "a"},
        {"guidance": -1.0},
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises((pf.SettingError, DiffusionError)):
        CircuitLM(Flat(), HEAD, **wrong)
    with pytest.raises(DiffusionError):
        CircuitLM(None, HEAD)  # type: ignore[arg-type]
    with pytest.raises(DiffusionError):
        dream_hook("head")  # type: ignore[arg-type]


def test_a_temperature_that_undoes_the_draw_is_refused_where_it_is_seen() -> None:
    x, flat = told([0, 4, 4]), torch.zeros(1, 3, V)
    scheduler = SimpleNamespace(step=lambda *given, **named: given)
    asked: list[Callable[[dict[str, Any]], Any]] = [
        lambda how: circuit_scheduler(HEAD, scheduler, **how).step(
            flat, 0, x, mask_token_id=MASK, temperature=0.5
        ),
        lambda how: circuit_transfer_index(HEAD, lambda *given: given, **how)(
            flat, 0.5, "low_confidence", x == MASK, x, 1
        ),
        lambda how: circuit_decoder(HEAD, others.Decoder(0.5, 0.9, MASK), **how),
    ]
    for ask in asked:
        with pytest.raises(GenerationError, match=r"temperature 0\.5"):
            ask({})
        ask({"confidence": False})
        ask({"mode": "marginal"})


def test_what_is_said_by_name_is_handed_on() -> None:
    x, flat, told_ = told([0, 4, 4]), torch.zeros(1, 3, V), dict[str, Any]()
    theirs = SimpleNamespace(
        decode=lambda *given, **named: told_.update(named), mask_id=MASK, temperature=0.0
    )
    circuit_decoder(HEAD, theirs).decode(flat, 0, 3, x, iter_threshold=0.5)
    circuit_transfer_index(HEAD, theirs.decode)(flat, 0.0, "random", x == MASK, x, threshold=0.9)
    assert told_ == {"iter_threshold": 0.5, "threshold": 0.9}


def test_another_mask_is_refused() -> None:
    x, flat = told([0, 4, 4]), torch.zeros(1, 3, V)
    scheduler = SimpleNamespace(step=lambda *given, **named: given)
    for mask in (3, None):
        with pytest.raises(GenerationError, match="mask"):
            circuit_scheduler(HEAD, scheduler).step(flat, 0, x, mask_token_id=mask)
    with pytest.raises(GenerationError, match="mask"):
        circuit_decoder(HEAD, others.Decoder(0.0, 0.9, 3))
    model = Flat()
    model.config = SimpleNamespace(mask_token_id=3)
    with pytest.raises(GenerationError, match="mask is 3, that of the head 4"):
        CircuitLM(model, HEAD)


@pytest.mark.parametrize("mode", ["drawn", "marginal"])
def test_strange_tokens_end_the_text_of_the_circuit(mode: Any) -> None:
    """Ids beyond its vocabulary, at the edges and in the middle, are never handed to it."""
    torch.manual_seed(7)
    text = told([9, 0, 4, 4, 9, 4, 2, -1], [4, 9, 9, 4, 4, 4, 4, 1])
    found = CircuitLogits(HEAD, mode=mode)(torch.zeros(2, 8, V), text)
    if mode == "marginal":
        joint = CircuitLogits(HEAD, mode="marginal")
        for row, part in ((0, slice(1, 4)), (0, slice(5, 7)), (1, slice(3, 8)), (1, slice(0, 1))):
            alone = joint(torch.zeros(1, 8, V)[:, part], text[row : row + 1, part])
            assert torch.allclose(found[row : row + 1, part], alone, atol=1e-6)


@pytest.mark.parametrize("mode", ["drawn", "marginal"])
def test_what_the_circuit_holds_impossible_is_not_shown_to_it(mode: Any) -> None:
    never = pf.hmm(4, 1, pf.Categorical(3), emission=[[0.5, 0.5, 0.0]])
    head = CircuitHead(pf.compile(never), 3, coupling="product")
    text = told([2, 3, 3], [0, 3, 3])
    found = CircuitLogits(head, mode=mode)(torch.zeros(2, 3, 3), text)
    assert bool((found[:, 1:].argmax(dim=-1) < 2).all())
    only = torch.full((1, 3, 3), -torch.inf)
    only[..., 2] = 0
    with pytest.raises(pf.NoMassError):
        CircuitLogits(head, mode=mode)(only, told([0, 3, 3]))


def test_marginals_of_one_position_are_the_chains() -> None:
    """A window far into a text sees the neighbours on both sides."""
    text = told([*[0] * 9, 4, *[2] * 9])
    found = CircuitLogits(HEAD, mode="marginal")(torch.zeros(1, 19, V), text)[0, 9].exp()
    expected = STAY[0] * STAY[:, 2]
    assert torch.allclose(found, expected / expected.sum(), atol=2e-3)
    assert isinstance(HEAD, CircuitHead) and len(prompts()) == TEXTS
