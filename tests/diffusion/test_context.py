"""Windows that see their context: texts follow a known chain, whatever the windows and the steps.

The circuit is the chain, the backbone knows nothing, and the product couples: what is drawn is the
chain's own, as far as a window holds both ends of what is masked. Total variation of two thousand
pairs from their distribution is about .02 by chance; that of independent ones is .69.

Legend: n rows, N positions of a text, V tokens.
"""

from types import SimpleNamespace

import pytest
import torch
from device import DEVICE
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import of_fifty
from torch import Tensor

import pcflow as pf
from pcflow_diffusion import CircuitHead, Decoding, Modulation, generate, infill, minimum_cover

V = 4
MASK = V
ROWS = 2000
ONWARDS = torch.eye(V, dtype=torch.float64).roll(1, dims=1) * 0.92 + 0.02  # rows .94, .02, .02, .02
ENTROPY = float((ONWARDS * ONWARDS.log()).sum(dim=-1).mean())  # mean log-probability of a pair
RANKINGS = ["random", "low_confidence"]


def chain(length: int, top_k: int | None = None, modulated: bool = False) -> CircuitHead:
    """The chain, at any place of a text."""
    certain = torch.eye(V, dtype=torch.float64) * (1 - V * 1e-9) + 1e-9
    even = torch.full((V,), 1 / V)
    circuit = pf.hmm(
        length, V, pf.Categorical(V), initial=even, transition=ONWARDS, emission=certain
    )
    modulation = None
    if modulated:
        circuit, modulation = pf.expose_latents(circuit), Modulation(V, V, width=4).to(DEVICE)
    model = pf.compile(circuit, DEVICE, torch.float64)
    return CircuitHead(model, MASK, "product", top_k=top_k, modulation=modulation)


def texts(length: int, seed: int = 0, rows: int = ROWS) -> Tensor:
    """Draws of the chain."""
    g = torch.Generator().manual_seed(seed)
    tokens = [torch.randint(V, (rows,), generator=g)]
    while len(tokens) < length:
        tokens.append(torch.multinomial(ONWARDS[tokens[-1]], 1, generator=g).squeeze(-1))
    return torch.stack(tokens, dim=-1).to(DEVICE)


def flat(tokens: Tensor) -> Tensor:
    return torch.zeros(*tokens.shape, V, dtype=torch.float64, device=DEVICE)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator(DEVICE).manual_seed(seed)


def how(ranking: str) -> Decoding:
    return Decoding(temperature=1.0, ranking=ranking)  # type: ignore[arg-type]


def off(text: Tensor) -> float:
    """The largest total variation of a pair of neighbours from the chain's."""
    pairs = text[:, :-1] * V + text[:, 1:]  # [n, N - 1]
    shares = torch.nn.functional.one_hot(pairs, V * V).double().mean(dim=0).cpu()
    return float((shares - ONWARDS.flatten() / V).abs().sum(dim=-1).amax() / 2)


def log_pairs(text: Tensor) -> float:
    """Mean log-probability of the second of two neighbours given the first."""
    return float(ONWARDS.log()[text[:, :-1].cpu(), text[:, 1:].cpu()].mean())


@pytest.mark.parametrize("ranking", RANKINGS)
@pytest.mark.parametrize(
    ("circuit", "block", "blocks", "prompt"),
    [(8, 4, 3, 0), (8, 4, 2, 3), (8, 3, 2, 1), (4, 6, 2, 1), (8, 14, 1, 0)],
)
def test_generated_pairs_follow_the_chain_within_and_across_blocks(
    circuit: int, block: int, blocks: int, prompt: int, ranking: str
) -> None:
    head, given_ = chain(circuit), texts(prompt) if prompt else texts(1)[:, :0]
    for steps in sorted({1, 2, block // 2, block}):
        found = generate(
            flat,
            given_,
            head,
            steps=steps * blocks,
            gen_length=block * blocks,
            block_length=block,
            decoding=how(ranking),
            generator=seeded(),
        )
        assert off(found) < 0.1


@pytest.mark.parametrize("ranking", RANKINGS)
@pytest.mark.parametrize("circuit", [4, 8, 16])
def test_filled_pairs_follow_the_chain_and_more_steps_make_them_no_worse(
    circuit: int, ranking: str
) -> None:
    """In a stretch that no window holds, far ends know of one another only by what is between."""
    text = texts(12).index_fill(1, torch.arange(1, 12).to(DEVICE), MASK)
    scores = []
    for steps in (1, 2, 4, 11):
        found = infill(
            flat, text, chain(circuit), steps=steps, decoding=how(ranking), generator=seeded(1)
        )
        assert torch.equal(found[:, 0], text[:, 0])
        assert off(found) < 0.1
        scores.append(log_pairs(found))
    assert abs(scores[0] - ENTROPY) < 0.03
    assert min(scores) > scores[0] - (0.03 if circuit >= 8 else 0.16)


@pytest.mark.parametrize("ranking", RANKINGS)
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_masks_amid_text_follow_the_chain_on_both_sides(steps: int, ranking: str) -> None:
    """Rows differ in what is masked, and no stretch of masks is longer than a window holds."""
    whole = texts(16)
    masked = torch.rand(whole.shape, generator=torch.Generator().manual_seed(1)).to(DEVICE) < 0.6
    masked[:, ::6] = False
    text = whole.masked_fill(masked, MASK)
    for head in (chain(7), chain(7, top_k=V - 1), chain(7, modulated=True)):
        with torch.no_grad():
            found = infill(
                flat, text, head, steps=steps, decoding=how(ranking), generator=seeded(2)
            )
        assert torch.equal(found[~masked], whole[~masked])
        if head.top_k is None:
            assert off(found) < 0.1
            assert abs(log_pairs(found) - ENTROPY) < 0.05
        else:  # a token of four never stands where masks are
            assert log_pairs(found) < ENTROPY


@pytest.mark.parametrize("ranking", RANKINGS)
def test_a_little_context_is_enough_for_a_chain_and_without_any_blocks_are_strangers(
    ranking: str,
) -> None:
    def edge(context: int | None) -> float:
        found = generate(
            flat,
            texts(3),
            chain(8),
            steps=1,
            gen_length=4,
            block_length=4,
            decoding=how(ranking),
            circuit_context=context,
            generator=seeded(),
        )
        return log_pairs(found[:, 2:4])

    assert edge(0) < -2.5
    assert all(abs(edge(context) - ENTROPY) < 0.15 for context in (1, 2, 9, None))


def test_without_context_windows_are_the_fewest(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []
    draw = CircuitHead.draw
    monkeypatch.setattr(
        CircuitHead,
        "draw",
        lambda self, said, **more: (drawn.append(1), draw(self, said, **more))[1],
    )
    for seed in range(8):
        text = texts(20, seed, rows=1)
        masked = torch.rand(20, generator=torch.Generator().manual_seed(seed)) < 0.4
        text[0, masked] = MASK
        drawn.clear()
        infill(flat, text, chain(4), steps=1, circuit_context=0)
        places = masked.nonzero().flatten().tolist()
        assert len(drawn) == len(minimum_cover(places, 4, 0, 20))


def greedy(tokens: Tensor) -> Tensor:
    """A backbone that says something else at every place of every text."""
    place = torch.arange(tokens.shape[1], device=DEVICE)
    total = tokens.masked_fill(tokens == MASK, 0).sum(dim=-1, keepdim=True)
    return torch.sin((total + place).unsqueeze(-1) * (1.0 + torch.arange(V, device=DEVICE)))


@settings(max_examples=of_fifty(25))
@given(st.integers(1, 9), st.integers(3, 6), st.integers(1, 4), st.integers(0, 10_000))
def test_a_batch_of_ragged_rows_is_as_its_rows_alone(
    length: int, circuit: int, steps: int, seed: int
) -> None:
    g = torch.Generator().manual_seed(seed)
    model = pf.compile(pf.hmm(circuit, 3, pf.Categorical(V), generator=g), DEVICE, torch.float64)
    head = CircuitHead(model, MASK, "product")
    text = torch.randint(V + 1, (4, length), generator=g).to(DEVICE)
    text[0], text[1] = MASK, text[1] % V
    settled = Decoding(order="any_order")  # at temperature zero: no chance
    found = infill(greedy, text, head, steps=steps, decoding=settled)
    for row, together in zip(text, found, strict=True):
        alone = infill(greedy, row.unsqueeze(0), head, steps=steps, decoding=settled)
        assert torch.equal(alone[0], together)


@settings(max_examples=of_fifty(15))
@given(st.lists(st.integers(0, 6), min_size=2, max_size=4), st.integers(1, 6), st.integers(0, 99))
def test_ragged_prompts_that_are_asked_together_are_as_each_alone(
    lengths: list[int], block: int, seed: int
) -> None:
    """Windows of one step differ in width: some texts are shorter than the circuit."""

    def backbone(tokens: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        real = torch.ones_like(tokens) if attention_mask is None else attention_mask
        place = real.cumsum(dim=-1).unsqueeze(-1)
        return torch.sin(place * (1.0 + torch.arange(V, device=DEVICE)))

    g = torch.Generator().manual_seed(seed)
    model = pf.compile(pf.hmm(5, 3, pf.Categorical(V), generator=g), DEVICE, torch.float64)
    head, settled = CircuitHead(model, MASK, "product"), Decoding(order="any_order")
    prompts = [torch.randint(V, (length,), generator=g).tolist() for length in lengths]
    more = {"steps": 4, "gen_length": 2 * block, "block_length": block, "decoding": settled}
    found = generate(backbone, prompts, head, **more)  # type: ignore[arg-type]
    for prompt, together in zip(prompts, found, strict=True):
        alone = generate(backbone, [prompt], head, **more)[0]  # type: ignore[arg-type]
        assert torch.equal(alone[len(prompt) :], together[max(lengths) :])


def test_the_circuit_sees_nothing_before_a_token_that_it_does_not_know() -> None:
    class Wide:
        config = SimpleNamespace(vocab_size=V + 4)

        def __call__(self, tokens: Tensor) -> Tensor:
            return flat(tokens)

    prompt = texts(2)
    for strange, follows in ((0, True), (1, False)):
        found = generate(
            Wide(),
            prompt.index_fill(1, torch.tensor([strange]).to(DEVICE), V + 3),
            chain(8),
            steps=1,
            gen_length=2,
            block_length=2,
            decoding=how("random"),
            generator=seeded(),
        )
        assert off(found[:, 2:]) < 0.1
        assert (off(torch.stack([prompt[:, 1], found[:, 2]], dim=1)) < 0.1) == follows


def test_what_the_circuit_holds_impossible_is_not_shown_to_it() -> None:
    """The circuit goes on from 0 to 1 and back, and knows of no other token."""
    even, swap = [0.5, 0.5], [[0.0, 1.0], [1.0, 0.0]]
    circuit = pf.hmm(
        4, 2, pf.Categorical(V), initial=even, transition=swap, emission=torch.eye(V)[:2]
    )
    head = CircuitHead(pf.compile(circuit, DEVICE, torch.float64), MASK, "product")
    prompt = torch.tensor([[0, 1], [3, 1], [1, 3]] * 50).to(DEVICE)
    found = generate(
        flat,
        prompt,
        head,
        steps=1,
        gen_length=2,
        block_length=2,
        decoding=how("random"),
        generator=seeded(),
    )
    assert (found[::3, 2:] == torch.tensor([0, 1]).to(DEVICE)).all()
    assert (found[:, 2] != found[:, 3]).all()
    assert set(found[1::3, 2].tolist()) == set(found[2::3, 2].tolist()) == {0, 1}
    text = torch.tensor([[0, MASK, 3]]).to(DEVICE)
    with pytest.raises(pf.NoMassError, match=r"row 0; variable 2 never has the value 3"):
        infill(flat, text, head, steps=1)


def test_what_is_impossible_is_named_by_row_and_place_of_the_text() -> None:
    """Also where rows are asked apart, and where it stands in the prompt, or amid padding."""
    swap = [[0.0, 1.0], [1.0, 0.0]]
    circuit = pf.hmm(4, 2, pf.Categorical(V), transition=swap, emission=torch.eye(V)[:2])
    head = CircuitHead(pf.compile(circuit, DEVICE, torch.float64), MASK, "product")
    rows = [[0, MASK, 0, 1, 0, 1], [0, MASK, 0], [1, 0, 1, MASK, 3]]
    padded = torch.tensor([[0] * (6 - len(row)) + row for row in rows]).to(DEVICE)
    real = torch.tensor([[0] * (6 - len(row)) + [1] * len(row) for row in rows]).to(DEVICE)
    with pytest.raises(pf.NoMassError, match=r"row 2; variable 5 never has the value 3") as caught:
        infill(flat, padded, head, steps=1, attention_mask=real)
    assert caught.value.rows == (2,) and caught.value.never == (5, 3)
