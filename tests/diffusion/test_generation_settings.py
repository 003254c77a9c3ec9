"""Laws of what may be asked of `generate` and `infill` beyond steps, lengths and temperatures."""

from typing import Any

import pytest
import torch
from device import DEVICE
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import of_fifty
from torch import Tensor

import pcflow as pf
from pcflow_diffusion import (
    CircuitHead,
    Decoding,
    Step,
    generate,
    infill,
    lengths_of,
    mdlm,
    narrow,
)
from pcflow_diffusion.errors import (
    BackboneError,
    GenerationError,
    ShapeMismatch,
    TokenOutOfRange,
)

V = 5
MASK = V
EMPTY = torch.empty(1, 0, dtype=torch.long).to(DEVICE)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator(DEVICE).manual_seed(seed)


def chain(length: int = 4, coupling: str = "product", seed: int = 5) -> CircuitHead:
    circuit = pf.hmm(length, 4, pf.Categorical(V), generator=torch.Generator().manual_seed(seed))
    return CircuitHead(pf.compile(circuit, DEVICE, torch.float64), MASK, coupling)


class Table:
    """A backbone whose logits hang on the place, on the token there and on all others."""

    mask_token_id = MASK

    def __init__(self, width: int = V, seed: int = 0) -> None:
        g = torch.Generator().manual_seed(seed)
        self.places = torch.randn(40, width, generator=g, dtype=torch.float64).to(DEVICE)
        self.tokens = torch.randn(V + 20, width, generator=g, dtype=torch.float64).to(DEVICE)
        self.shown: list[Tensor] = []

    def __call__(self, tokens: Tensor) -> Tensor:
        self.shown.append(tokens.clone())
        others = self.tokens[tokens]
        return self.places[: tokens.shape[1]] + others + others.sum(dim=1, keepdim=True)


def flat(tokens: Tensor) -> Tensor:
    return torch.zeros(*tokens.shape, V).to(DEVICE)


# ----------------------------------------------------------------------- temperature zero


@pytest.mark.parametrize("ranking", ["low_confidence", "margin", "entropy"])
@pytest.mark.parametrize("block_length", [2, 4, 8])
def test_temperature_zero_is_the_same_for_every_seed(block_length: int, ranking: str) -> None:
    how = Decoding(ranking=ranking)  # type: ignore[arg-type]
    texts = [
        generate(
            Table(), EMPTY, chain(), steps=4, gen_length=8, block_length=block_length,
            decoding=how, generator=seeded(seed),
        )
        for seed in range(10)
    ]  # fmt: skip
    assert all(torch.equal(text, texts[0]) for text in texts)


def test_temperature_zero_takes_the_best_token_given_those_before_it() -> None:
    """One step commits what as many steps commit, if the backbone says the same in all of them."""
    head, table = chain(6, "product"), Table()
    logits = table.places[:6]
    texts = [
        generate(lambda tokens: logits.expand(len(tokens), -1, -1)[:, : tokens.shape[1]], EMPTY,
                 head, steps=steps, gen_length=6, block_length=6)
        for steps in (1, 2, 3, 6)
    ]  # fmt: skip
    assert all(torch.equal(text, texts[0]) for text in texts)


def test_a_threshold_commits_what_is_sure_in_any_order() -> None:
    units = pf.Parameter(torch.eye(V).log())
    pair = [pf.InputLayer(v, pf.Categorical(V), V, {"logits": units}) for v in range(2)]
    circuit = pf.Circuit(pf.SumLayer([pf.ProductLayer(pair)], pf.Parameter(torch.zeros(1, V))))
    head = CircuitHead(pf.compile(circuit, DEVICE, torch.float64), MASK, "product")
    for threshold, calls in ((0.9, 1), (None, 2)):
        steps: list[Step] = []
        found = generate(
            flat, EMPTY, head, steps=2, gen_length=2, block_length=2,
            decoding=Decoding(threshold=threshold), callback=steps.append,
        )  # fmt: skip
        assert found[0, 0] == found[0, 1]  # the second one is certain given the first
        assert len(steps) == calls


# ----------------------------------------------------------------------- guidance


@pytest.mark.parametrize("head", [None, chain(6, "ratio")])
@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_guidance_comes_before_all_else(head: CircuitHead | None, scale: float) -> None:
    """As if the backbone itself went away from what it says without what was given."""
    model = Table()
    prompt = torch.randint(V, (20, 3), generator=seeded(), device=DEVICE)
    text = torch.randint(V + 1, (20, 6), generator=seeded(1), device=DEVICE)

    def guided(tokens: Tensor, given: Tensor) -> Tensor:
        without = model(tokens.masked_fill(given, MASK))
        return without + (scale + 1) * (model(tokens) - without)

    def asked(tokens: Tensor) -> Tensor:
        return guided(tokens, torch.arange(tokens.shape[1]).to(DEVICE) < 3)

    how = {"steps": 4, "gen_length": 6, "block_length": 3, "mask_token_id": MASK}
    found = generate(model, prompt, head, **how, decoding=Decoding(guidance=scale))  # type: ignore[arg-type]
    assert torch.equal(found, generate(asked, prompt, head, **how))  # type: ignore[arg-type]
    assert not torch.equal(found, generate(model, prompt, head, **how))  # type: ignore[arg-type]
    filled = infill(model, text, head, steps=3, decoding=Decoding(guidance=scale))
    wanted = infill(
        lambda tokens: guided(tokens, text != MASK), text, head, steps=3, mask_token_id=MASK
    )
    assert torch.equal(filled, wanted)


def test_what_is_impossible_stays_so_under_guidance() -> None:
    backbone = mdlm(Table(V + 1), MASK)
    prompt = torch.zeros(30, 2, dtype=torch.long).to(DEVICE)
    how = Decoding(temperature=1.0, guidance=1.0)
    found = generate(backbone, prompt, steps=2, gen_length=4, block_length=2, decoding=how)
    assert (found < V).all()


# ----------------------------------------------------------------------- ranking


@pytest.mark.parametrize("head", [None, chain(4), chain(2)])
@pytest.mark.parametrize("order", [None, "joint", "mpe"])
def test_deferred_tokens_are_committed_after_all_others(
    head: CircuitHead | None, order: str | None
) -> None:
    """Token 0 is sure at two places, and comes last, in spite of the threshold."""
    strong = torch.zeros(4, V, dtype=torch.float64).to(DEVICE)
    strong[[0, 2], 0], strong[[1, 3], [2, 3]] = 30.0, 15.0
    steps: list[Step] = []
    found = generate(
        lambda tokens: strong.expand(len(tokens), -1, -1), EMPTY, head, steps=4, gen_length=4,
        block_length=4, mask_token_id=MASK, callback=steps.append,
        decoding=Decoding(defer=[0], order=order),  # type: ignore[arg-type]
    )  # fmt: skip
    assert found.tolist() == [[0, 2, 0, 3]]
    assert [int(step.committed.nonzero()[0, 1]) % 2 for step in steps] == [1, 1, 0, 0]
    sure: list[Step] = []
    generate(
        lambda tokens: strong.expand(len(tokens), -1, -1), EMPTY, head, steps=4, gen_length=4,
        block_length=4, mask_token_id=MASK, callback=sure.append,
        decoding=Decoding(defer=[0], order=order, threshold=0.99),  # type: ignore[arg-type]
    )  # fmt: skip
    assert sure[0].committed.tolist() == [[False, True, False, True]]


# ----------------------------------------------------------------------- remasking


@settings(max_examples=of_fifty(30))
@given(
    st.integers(1, 9), st.integers(1, 10), st.sampled_from([0.1, 0.5, 0.99]), st.booleans(),
    st.sampled_from([0.0, 1.0]), st.integers(1, 9), st.booleans(),
)  # fmt: skip
def test_remasking_takes_no_step_more_and_leaves_no_mask(
    length: int, steps: int, share: float, coupled: bool, temperature: float, block: int, fill: bool
) -> None:
    head, told = chain() if coupled else None, []
    how = Decoding(temperature, remask=share)
    text = torch.randint(V + 1, (3, length), generator=seeded(length), device=DEVICE)
    prompt = torch.randint(V, (3, 2), generator=seeded(1), device=DEVICE)
    more: dict[str, Any] = {"decoding": how, "callback": told.append, "generator": seeded()}
    if fill:
        found = infill(Table(), text, head, steps=steps, **more)
        assert torch.equal(found[text != MASK], text[text != MASK])
    else:
        blocks = -(-length // block)
        steps *= blocks
        found = generate(
            Table(), prompt, head, steps=steps, gen_length=length, block_length=block, **more
        )
        assert torch.equal(found[:, :2], prompt)
    assert (found < V).all()
    assert len(told) <= steps


def test_the_token_that_the_circuit_finds_least_probable_is_masked_again() -> None:
    """A chain that stays where it is; the backbone insists on a stranger, once."""
    stay = torch.full((V, V), 0.01).fill_diagonal_(0.96)
    near = torch.full((V, V), 1e-3).fill_diagonal_(1 - 1e-3 * (V - 1))
    uniform = torch.full((V,), 1 / V)
    circuit = pf.hmm(6, V, pf.Categorical(V), initial=uniform, transition=stay, emission=near)
    head = CircuitHead(pf.compile(circuit, DEVICE, torch.float64), MASK, "product")
    calls: list[Tensor] = []

    def backbone(tokens: Tensor) -> Tensor:
        logits = flat(tokens)
        calls.append(tokens)
        if len(calls) == 1:
            logits[:, [0, 1, 2], [1, 3, 1]] = 40.0  # which are committed
        return logits

    how = Decoding(remask=0.4)
    found = generate(backbone, EMPTY, head, steps=2, gen_length=6, block_length=6, decoding=how)
    assert calls[1].tolist() == [[1, MASK, 1, MASK, MASK, MASK]]
    assert found.tolist() == [[1] * 6]


def test_without_a_head_the_backbone_says_which_token_it_doubts() -> None:
    shown: list[list[int]] = []

    def backbone(tokens: Tensor) -> Tensor:
        """Sure of token 2, which it likes no more where another one stands beside it."""
        shown.append(tokens[0].tolist())
        logits = flat(tokens)
        logits[..., 2] = 3.0
        logits[0, 1, 0], logits[0, 1, 2] = (9.0, 0.0) if len(shown) == 1 else (0.0, 4.0)
        return logits

    found = generate(
        backbone, EMPTY, steps=4, gen_length=4, block_length=4, mask_token_id=MASK,
        decoding=Decoding(remask=0.5),
    )  # fmt: skip
    assert shown[1] == [MASK, 0, MASK, MASK]
    assert shown[2][1] == MASK
    assert found.tolist() == [[2, 2, 2, 2]]


# ----------------------------------------------------------------------- callbacks


def test_a_callback_is_told_of_every_step_and_may_stop() -> None:
    steps: list[Step] = []

    def until_three(step: Step) -> bool:
        steps.append(step)
        return step.number == 2

    prompt = torch.zeros(2, 1, dtype=torch.long).to(DEVICE)
    how = {"steps": 8, "gen_length": 8, "block_length": 4, "mask_token_id": MASK}
    found = generate(Table(), prompt, **how, callback=until_three)  # type: ignore[arg-type]
    assert [step.number for step in steps] == [0, 1, 2]
    assert torch.equal(found, steps[-1].tokens)
    assert (found == MASK).sum(dim=1).tolist() == [5, 5]
    before = torch.full_like(found, MASK)
    before[:, 0] = 0
    for step in steps:
        assert torch.equal(step.committed, (before == MASK) & (step.tokens != MASK))
        before = step.tokens
    seen: list[Step] = []
    whole = generate(Table(), prompt, **how, callback=seen.append)  # type: ignore[arg-type]
    assert len(seen) == 8
    assert torch.equal(whole, seen[-1].tokens)
    infill(Table(), whole.fill_(MASK), steps=4, callback=until_three)
    with pytest.raises(GenerationError, match="callback"):
        generate(Table(), prompt, **how, callback=3)  # type: ignore[arg-type]


# ----------------------------------------------------------------------- blocks


@settings(max_examples=of_fifty(40))
@given(st.integers(1, 12), st.integers(1, 6), st.integers(0, 7), st.booleans(), st.data())
def test_blocks_fill_all_that_is_asked_for_and_nothing_else(
    length: int, block_length: int, prompt_length: int, align: bool, data: st.DataObject
) -> None:
    """Blocks are hidden until their turn, which shows where each begins."""
    origin = 0 if align else prompt_length
    cuts = range(prompt_length + 1, prompt_length + length)
    stops = [at for at in cuts if (at - origin) % block_length == 0] + [prompt_length + length]
    steps = len(stops) + data.draw(st.integers(0, 5))
    table = Table()
    prompt = torch.zeros(1, prompt_length, dtype=torch.long).to(DEVICE)
    found = generate(
        table, prompt, steps=steps, gen_length=length, block_length=block_length, show="blocks",
        align=align,
    )  # fmt: skip
    assert found.shape[1] == prompt_length + length
    assert (found < V).all()
    assert sorted({tokens.shape[1] for tokens in table.shown}) == stops
    assert len(table.shown) <= steps


def test_aligned_blocks_of_rows_of_different_lengths_are_those_of_each_row() -> None:
    padded = torch.tensor([[1, 2, 3], [0, 0, 2], [0, 1, 1]]).to(DEVICE)
    real = torch.tensor([[1, 1, 1], [0, 0, 1], [0, 1, 1]]).to(DEVICE)
    how = {"steps": 4, "gen_length": 6, "block_length": 4, "align": True, "show": "blocks"}
    found = generate(Table(), padded, **how, attention_mask=real)  # type: ignore[arg-type]
    for row, (tokens, known) in enumerate(zip(padded, real, strict=True)):
        alone = generate(Table(), tokens[known == 1], **how)  # type: ignore[arg-type]
        assert torch.equal(found[row, 3:], alone[0, -6:])


def test_lengths_count_what_comes_before_the_end() -> None:
    table = Table()
    how = Decoding(temperature=1.0, end_token_id=2)
    prompt = torch.full((40, 2), 2).to(DEVICE)  # the end of another text
    found = generate(
        table, prompt, steps=8, gen_length=8, block_length=2, decoding=how, generator=seeded()
    )
    lengths = lengths_of(found, 2, end_token_id=2)
    for row, length in zip(found[:, 2:].tolist(), lengths.tolist(), strict=True):
        assert row == row[:length] + [2] * (8 - length)
        assert 2 not in row[:length]
    assert 0 < int(lengths.min()) + 1 <= int(lengths.max()) <= 8


# ----------------------------------------------------------------------- vocabularies


def test_surplus_logits_have_no_mass_on_request() -> None:
    wide = Table(V + 3)
    wide.places[:, V:] = 50.0  # the best by far
    text = torch.full((20, 4), MASK).to(DEVICE)
    with pytest.raises(ShapeMismatch, match=r"narrow\(backbone, 5\)"):
        infill(wide, text, chain(), steps=2)
    for head in (None, chain()):
        for temperature in (0.0, 1.0):
            found = infill(narrow(wide, V), text, head, steps=2, decoding=Decoding(temperature))
            assert (found < V).all()
    with pytest.raises(BackboneError, match="8 logits, fewer than vocabulary_size=9"):
        infill(narrow(wide, 9), text, steps=1)


def test_a_prompt_may_hold_what_has_no_mass() -> None:
    """Ids that a model knows and the circuit does not; no `config` says how many there are."""
    wide, prompt = Table(V + 3), torch.tensor([[0, V + 1], [V + 1, 1]]).to(DEVICE)
    how = {"steps": 2, "gen_length": 4, "block_length": 4, "mask_token_id": MASK}
    for head in (None, chain()):
        found = generate(narrow(wide, V), prompt, head, **how)  # type: ignore[arg-type]
        assert torch.equal(found[:, :2], prompt) and (found[:, 2:] < V).all()
    with pytest.raises(TokenOutOfRange):
        generate(Table(), prompt, **how)  # type: ignore[arg-type]


@pytest.mark.parametrize("steps", [1, 2, 6])
def test_texts_keep_a_rule_that_the_circuit_was_multiplied_by(steps: int) -> None:
    """Every token is followed by itself or the next one, whatever model and circuit prefer."""
    follows = torch.eye(V) + torch.eye(V).roll(1, dims=1)
    rule = pf.hmm(
        6,
        V,
        pf.Categorical(V),
        initial=torch.full((V,), 1 / V),
        transition=follows / 2,
        emission=torch.eye(V),
    )
    prior = pf.hmm(6, 4, pf.Categorical(V), generator=torch.Generator().manual_seed(5))
    model = pf.compile(pf.multiply(prior, rule), DEVICE, torch.float64)
    prompt, table = torch.arange(V).repeat(40).unsqueeze(-1).to(DEVICE), Table()
    for coupling in ("product", "projection"):
        head = CircuitHead(model, MASK, coupling)
        for temperature in (0.0, 1.0):
            found = generate(
                table,
                prompt,
                head,
                steps=steps,
                gen_length=5,
                block_length=5,
                decoding=Decoding(temperature),
                generator=seeded(),
            )
            assert bool(follows[found[:, :-1].cpu(), found[:, 1:].cpu()].bool().all())


def test_models_that_take_a_noise_level_are_given_one() -> None:
    given_levels: list[Tensor] = []

    def model(tokens: Tensor, sigma: Tensor) -> Tensor:
        given_levels.append(sigma)
        return torch.zeros(*tokens.shape, V + 1).to(DEVICE)

    infill(mdlm(model, MASK, sigma=0), torch.full((3, 2), MASK).to(DEVICE), steps=1)
    assert given_levels[0].tolist() == [0.0, 0.0, 0.0]
