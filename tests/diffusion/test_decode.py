"""Generation: how many calls, which positions, what the backbone sees, and no mixed modes."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import pcflow as pf
from pcflow_diffusion import CircuitHead, generate
from pcflow_diffusion.errors import GenerationError

V = 4
MASK = V
RANKINGS = ["random", "low_confidence", "margin", "entropy"]


class Recorder:
    """A backbone that prefers the position's number modulo V, and writes down what it is shown."""

    mask_token_id = MASK

    def __init__(self, sharpness: Tensor | None = None) -> None:
        self.shown: list[Tensor] = []
        self.sharpness = sharpness

    def __call__(self, tokens: Tensor) -> Tensor:
        self.shown.append(tokens.clone())
        position = torch.arange(tokens.shape[1])
        logits = torch.nn.functional.one_hot(position % V, V).float()
        if self.sharpness is not None:
            logits = logits * self.sharpness[-tokens.shape[1] :, None]
        return logits.expand(len(tokens), -1, -1)


@settings(max_examples=25)
@given(st.integers(1, 3), st.integers(1, 6), st.data(), st.sampled_from(RANKINGS))
def test_every_step_is_one_call_and_commits_its_share(
    blocks: int, length: int, data: st.DataObject, ranking: str
) -> None:
    steps = data.draw(st.integers(1, length))
    prompt = torch.randint(V, (2, 3))
    backbone = Recorder()
    found = generate(
        backbone,
        prompt,
        steps=steps * blocks,
        gen_length=length * blocks,
        block_length=length,
        ranking=ranking,  # type: ignore[arg-type]
    )
    assert torch.equal(found[:, :3], prompt)
    assert torch.equal(found[0, 3:], torch.arange(3, 3 + length * blocks) % V)
    assert len(backbone.shown) == steps * blocks
    for block in range(blocks):
        shown = backbone.shown[block * steps : (block + 1) * steps]
        left = [int((tokens == MASK).sum(1)[0]) for tokens in shown] + [0]
        assert left[0] == length
        committed = [a - b for a, b in pairwise(left)]
        assert max(committed) - min(committed) <= 1
        for tokens in shown:
            assert tokens.shape[1] == 3 + (block + 1) * length  # nothing to the right
            assert (tokens[:, : 3 + block * length] != MASK).all()


def test_context_limits_what_the_backbone_sees() -> None:
    backbone = Recorder()
    generate(
        backbone,
        torch.zeros(1, 9, dtype=torch.long),
        steps=3,
        gen_length=6,
        block_length=2,
        context=4,
    )
    assert [tokens.shape[1] for tokens in backbone.shown] == [6, 6, 6]


@pytest.mark.parametrize("ranking", ["low_confidence", "margin", "entropy"])
def test_sure_positions_come_first(ranking: str) -> None:
    backbone = Recorder(torch.tensor([1.0, 4.0, 2.0, 3.0]))
    generate(
        backbone,
        torch.empty(1, 0, dtype=torch.long),
        steps=4,
        gen_length=4,
        block_length=4,
        ranking=ranking,  # type: ignore[arg-type]
    )
    masks = [(tokens[0] == MASK).tolist() for tokens in backbone.shown]
    assert masks == [
        [True, True, True, True],
        [True, False, True, True],
        [True, False, True, False],
        [True, False, False, False],
    ]


def test_rankings_differ_where_they_should() -> None:
    """One position with a clear best token of middling mass, one with two good tokens."""
    table = torch.tensor([[0.5, 0.2, 0.2, 0.1], [0.52, 0.46, 0.01, 0.01]]).log()

    def backbone(tokens: Tensor) -> Tensor:
        seen.append((tokens[0] == MASK).tolist())
        return table.expand(len(tokens), -1, -1)

    first = {}
    for ranking in ("low_confidence", "margin", "entropy"):
        seen: list[list[bool]] = []
        generate(
            backbone,
            torch.empty(1, 0, dtype=torch.long),
            steps=2,
            gen_length=2,
            block_length=2,
            mask_token_id=MASK,
            ranking=ranking,  # type: ignore[arg-type]
        )
        first[ranking] = seen[1].index(False)
    assert first == {"low_confidence": 1, "margin": 0, "entropy": 1}


def pair_head(coupling: str) -> CircuitHead:
    """Two tokens that are always equal."""
    units = pf.Parameter(torch.eye(V).log())
    tokens = [pf.InputLayer(v, pf.Categorical(V), V, {"logits": units}) for v in range(2)]
    root = pf.SumLayer([pf.ProductLayer(tokens)], pf.Parameter(torch.zeros(1, V)))
    return CircuitHead(pf.compile(pf.Circuit(root), dtype=torch.float64), MASK, coupling)


def uniform(tokens: Tensor) -> Tensor:
    return torch.zeros(*tokens.shape, V)


@pytest.mark.parametrize("coupling", ["product", "ratio", "projection"])
def test_one_step_with_a_circuit_never_mixes_modes(coupling: str) -> None:
    prompt = torch.empty(400, 0, dtype=torch.long)
    alone = generate(
        uniform, prompt, steps=1, gen_length=2, block_length=2, mask_token_id=MASK, temperature=1.0
    )
    joint = generate(
        uniform, prompt, pair_head(coupling), steps=1, gen_length=2, block_length=2, temperature=1.0
    )
    assert (alone[:, 0] != alone[:, 1]).double().mean() > 0.6
    assert (joint[:, 0] == joint[:, 1]).all()
    assert len(joint[:, 0].unique()) == V


def test_visible_tokens_condition_the_rest_of_the_block() -> None:
    prompt = torch.empty(50, 0, dtype=torch.long)
    joint = generate(
        uniform, prompt, pair_head("ratio"), steps=2, gen_length=2, block_length=2, temperature=1.0
    )
    assert (joint[:, 0] == joint[:, 1]).all()


def test_the_same_generator_gives_the_same_text() -> None:
    prompt = torch.zeros(3, 2, dtype=torch.long)
    for head in (None, pair_head("product")):
        texts = [
            generate(
                uniform,
                prompt,
                head,
                steps=4,
                gen_length=8,
                block_length=2,
                mask_token_id=MASK,
                ranking="random",
                temperature=1.0,
                generator=torch.Generator().manual_seed(seed),
            )
            for seed in (1, 1, 2)
        ]
        assert torch.equal(texts[0], texts[1])
        assert not torch.equal(texts[0], texts[2])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"gen_length": 5}, "multiple of block_length=2"),
        ({"gen_length": 0}, "gen_length=0"),
        ({"block_length": 0}, "block_length=0"),
        ({"steps": 3}, "steps=3 must be a multiple of the 2 blocks"),
        ({"steps": 1}, "steps=1"),
        ({"steps": 6}, "at most 2"),
        ({"ranking": "best"}, "'best'"),
        ({"mask_token_id": None}, "mask_token_id is needed"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(changed: dict[str, object], message: str) -> None:
    settings: dict[str, object] = {
        "steps": 2,
        "gen_length": 4,
        "block_length": 2,
        "mask_token_id": MASK,
    }
    with pytest.raises(GenerationError, match=message):
        generate(uniform, torch.zeros(1, 2, dtype=torch.long), **(settings | changed))  # type: ignore[arg-type]


def test_a_head_of_another_length_is_refused() -> None:
    with pytest.raises(GenerationError, match="covers 2 positions, but block_length=4"):
        generate(
            uniform,
            torch.zeros(1, 2, dtype=torch.long),
            pair_head("ratio"),
            steps=1,
            gen_length=4,
            block_length=4,
        )
