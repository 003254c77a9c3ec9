"""Generation: how many calls, which positions, what the backbone sees, and no mixed modes."""

from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from device import DEVICE
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import of_fifty
from torch import Tensor

import pcflow as pf
from pcflow_diffusion import CircuitHead, Decoding, dream, generate, infill, llada, mdlm
from pcflow_diffusion.errors import BackboneError, GenerationError, LogitsError

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
        position = torch.arange(tokens.shape[1]).to(DEVICE)
        logits = torch.nn.functional.one_hot(position % V, V).float()
        if self.sharpness is not None:
            logits = logits * self.sharpness[-tokens.shape[1] :, None]
        return logits.expand(len(tokens), -1, -1)


@settings(max_examples=of_fifty(25))
@given(st.integers(1, 3), st.integers(1, 6), st.data(), st.sampled_from(RANKINGS))
def test_every_step_is_one_call_and_commits_its_share(
    blocks: int, length: int, data: st.DataObject, ranking: str
) -> None:
    steps = data.draw(st.integers(1, length))
    prompt = torch.randint(V, (2, 3)).to(DEVICE)
    backbone = Recorder()
    found = generate(
        backbone,
        prompt,
        steps=steps * blocks,
        gen_length=length * blocks,
        block_length=length,
        decoding=Decoding(ranking=ranking),  # type: ignore[arg-type]
        show="blocks",
    )
    assert torch.equal(found[:, :3], prompt)
    assert torch.equal(found[0, 3:], torch.arange(3, 3 + length * blocks).to(DEVICE) % V)
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
        torch.zeros(1, 9, dtype=torch.long).to(DEVICE),
        steps=3,
        gen_length=6,
        block_length=2,
        context=4,
        show="blocks",
    )
    assert [tokens.shape[1] for tokens in backbone.shown] == [6, 6, 6]


@pytest.mark.parametrize(("context", "widths"), [(0, [2, 2]), (2, [3, 4]), (9, [3, 5])])
def test_a_context_never_shows_padding_and_stays_aligned(context: int, widths: list[int]) -> None:
    """The backbone says of each token what stands two places before it, or 0."""
    shown: list[Tensor] = []

    def echo(tokens: Tensor) -> Tensor:
        shown.append(tokens)
        known = torch.nn.functional.pad(tokens.clamp_max(V - 1), (2, 0))[:, :-2]
        return torch.nn.functional.one_hot(known, V).float()

    found = generate(
        echo,
        torch.tensor([[7, 7, 1]]).to(DEVICE),
        steps=4,
        gen_length=4,
        block_length=2,
        mask_token_id=MASK,
        context=context,
        pad_token_id=7,
        show="blocks",
    )
    assert [tokens.shape[1] for tokens in shown[::2]] == widths
    assert all((tokens != 7).all() for tokens in shown)
    expected = [0, 0, 0, 0] if context == 0 else [0, 1, 0, 1]
    assert found[0, 3:].tolist() == expected


@pytest.mark.parametrize("ranking", ["low_confidence", "margin", "entropy"])
def test_sure_positions_come_first(ranking: str) -> None:
    backbone = Recorder(torch.tensor([1.0, 4.0, 2.0, 3.0]).to(DEVICE))
    generate(
        backbone,
        torch.empty(1, 0, dtype=torch.long).to(DEVICE),
        steps=4,
        gen_length=4,
        block_length=4,
        decoding=Decoding(ranking=ranking),  # type: ignore[arg-type]
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
    table = torch.tensor([[0.5, 0.2, 0.2, 0.1], [0.52, 0.46, 0.01, 0.01]]).to(DEVICE).log()

    def backbone(tokens: Tensor) -> Tensor:
        seen.append((tokens[0] == MASK).tolist())
        return table.expand(len(tokens), -1, -1)

    first = {}
    for ranking in ("low_confidence", "margin", "entropy"):
        seen: list[list[bool]] = []
        generate(
            backbone,
            torch.empty(1, 0, dtype=torch.long).to(DEVICE),
            steps=2,
            gen_length=2,
            block_length=2,
            mask_token_id=MASK,
            decoding=Decoding(ranking=ranking),  # type: ignore[arg-type]
        )
        first[ranking] = seen[1].index(False)
    assert first == {"low_confidence": 1, "margin": 0, "entropy": 1}


def pair_head(coupling: str) -> CircuitHead:
    """Two tokens that are always equal."""
    units = pf.Parameter(torch.eye(V).log())
    tokens = [pf.InputLayer(v, pf.Categorical(V), V, {"logits": units}) for v in range(2)]
    root = pf.SumLayer([pf.ProductLayer(tokens)], pf.Parameter(torch.zeros(1, V)))
    return CircuitHead(pf.compile(pf.Circuit(root), DEVICE, torch.float64), MASK, coupling)


def uniform(tokens: Tensor) -> Tensor:
    return torch.zeros(*tokens.shape, V).to(DEVICE)


@pytest.mark.parametrize("coupling", ["product", "ratio", "projection"])
def test_one_step_with_a_circuit_never_mixes_modes(coupling: str) -> None:
    prompt = torch.empty(400, 0, dtype=torch.long).to(DEVICE)
    alone = generate(
        uniform,
        prompt,
        steps=1,
        gen_length=2,
        block_length=2,
        mask_token_id=MASK,
        decoding=Decoding(temperature=1.0),
    )
    joint = generate(
        uniform,
        prompt,
        pair_head(coupling),
        steps=1,
        gen_length=2,
        block_length=2,
        decoding=Decoding(temperature=1.0),
    )
    assert (alone[:, 0] != alone[:, 1]).double().mean() > 0.6
    assert (joint[:, 0] == joint[:, 1]).all()
    assert len(joint[:, 0].unique()) == V


def test_visible_tokens_condition_the_rest_of_the_block() -> None:
    prompt = torch.empty(50, 0, dtype=torch.long).to(DEVICE)
    joint = generate(
        uniform,
        prompt,
        pair_head("ratio"),
        steps=2,
        gen_length=2,
        block_length=2,
        decoding=Decoding(temperature=1.0),
    )
    assert (joint[:, 0] == joint[:, 1]).all()


def test_the_same_generator_gives_the_same_text() -> None:
    prompt = torch.zeros(3, 2, dtype=torch.long).to(DEVICE)
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
                generator=torch.Generator(DEVICE).manual_seed(seed),
                decoding=Decoding(ranking="random", temperature=1.0),
            )
            for seed in (1, 1, 2)
        ]
        assert torch.equal(texts[0], texts[1])
        assert not torch.equal(texts[0], texts[2])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"gen_length": 0}, "gen_length must be"),
        ({"block_length": 0}, "block_length must be"),
        ({"steps": 1}, "steps=1: each of the 2 blocks takes at least one"),
        ({"steps": 0}, "steps must be"),
        ({"show": "none"}, "show must be one of all, blocks"),
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
    with pytest.raises((GenerationError, pf.SettingError), match=message):
        generate(uniform, torch.zeros(1, 2, dtype=torch.long).to(DEVICE), **(settings | changed))  # type: ignore[arg-type]


def equal_pairs(length: int) -> CircuitHead:
    """Tokens 0 and 1 are equal, 2 and 3 too, and so on; all pairs are independent."""
    units = pf.Parameter(torch.eye(V).log())
    pairs = []
    for v in range(0, length, 2):
        two = [pf.InputLayer(u, pf.Categorical(V), V, {"logits": units}) for u in (v, v + 1)]
        pairs.append(pf.SumLayer([pf.ProductLayer(two)], pf.Parameter(torch.zeros(1, V))))
    root = pf.ProductLayer(pairs) if len(pairs) > 1 else pairs[0]
    return CircuitHead(pf.compile(pf.Circuit(root), DEVICE, torch.float64), MASK, "product")


NO_PROMPT = torch.empty(200, 0, dtype=torch.long).to(DEVICE)


def test_a_block_shorter_than_the_circuit_sums_out_the_rest() -> None:
    found = generate(
        uniform,
        NO_PROMPT,
        equal_pairs(4),
        steps=1,
        gen_length=3,
        block_length=3,
        decoding=Decoding(temperature=1.0),
    )
    assert (found[:, 0] == found[:, 1]).all()
    assert (found[:, 1] != found[:, 2]).any()


def test_full_diffusion_draws_windows_jointly_and_leaves_the_prompt_alone() -> None:
    prompt = torch.randint(V, (200, 3)).to(DEVICE)
    head = equal_pairs(2)
    found = generate(
        head=head,
        backbone=uniform,
        prompt=prompt,
        steps=1,
        gen_length=8,
        block_length=8,
        decoding=Decoding(temperature=1.0),
        circuit_context=0,  # pairs begin where windows do
    )
    assert torch.equal(found[:, :3], prompt)
    pairs = found[:, 3:].view(-1, 4, 2)
    assert (pairs[..., 0] == pairs[..., 1]).all()
    assert (pairs[:, :-1] != pairs[:, 1:]).any()


@settings(max_examples=of_fifty(30))
@given(st.data(), st.integers(1, 9), st.sampled_from(RANKINGS))
def test_full_diffusion_commits_every_position_once_in_the_given_steps(
    data: st.DataObject, length: int, ranking: str
) -> None:
    steps = data.draw(st.integers(1, length))
    backbone = Recorder()
    found = generate(
        backbone,
        torch.zeros(2, 2, dtype=torch.long).to(DEVICE),
        equal_pairs(2),
        steps=steps,
        gen_length=length,
        block_length=length,
        decoding=Decoding(ranking=ranking, temperature=1.0),  # type: ignore[arg-type]
    )
    assert (found != MASK).all()
    left = [(tokens == MASK).sum(1) for tokens in backbone.shown]
    assert len(left) == steps
    assert all((a - b > 0).all() for a, b in pairwise(left))
    for before, after in pairwise(backbone.shown):
        known = before != MASK
        assert torch.equal(before[known], after[known])


def test_left_padded_prompts_are_as_if_each_were_alone() -> None:
    pad = 7
    rows = [torch.tensor(row).to(DEVICE) for row in ([1, 2, 3], [2], [0, 1], [3])]
    padded = torch.stack(
        [torch.nn.functional.pad(row, (3 - len(row), 0), value=pad) for row in rows]
    )
    seen: list[Tensor] = []

    def backbone(tokens: Tensor) -> Tensor:
        seen.append(tokens)
        total = tokens.masked_fill(tokens == MASK, 0).cumsum(1)
        return torch.nn.functional.one_hot(
            (total + torch.arange(tokens.shape[1]).to(DEVICE)) % V, V
        ).float()

    settings: dict[str, int] = {
        "steps": 4,
        "gen_length": 4,
        "block_length": 2,
        "mask_token_id": MASK,
    }
    found = generate(backbone, padded, pad_token_id=pad, **settings)  # type: ignore[arg-type]
    assert all((tokens != pad).all() for tokens in seen)
    for row, together in zip(rows, found, strict=True):
        alone = generate(backbone, row.unsqueeze(0), **settings)[0]  # type: ignore[arg-type]
        assert torch.equal(together[3:], alone[len(row) :])
    assert torch.equal(found[:, :3], padded)


def test_rows_stop_where_they_end() -> None:
    calls: list[int] = []

    def backbone(tokens: Tensor) -> Tensor:
        """The first row ends at the second token, the others never."""
        calls.append(len(tokens))
        logits = torch.zeros(*tokens.shape, V).to(DEVICE)
        logits[..., 2] = 1.0
        ends = tokens[:, 0] == 1
        logits[ends, 2, 3] = 5.0
        return logits

    prompt = torch.tensor([[1], [0], [0]]).to(DEVICE)
    found = generate(
        backbone,
        prompt,
        steps=3,
        gen_length=6,
        block_length=2,
        mask_token_id=MASK,
        decoding=Decoding(end_token_id=3),
    )
    assert found[0].tolist() == [1, 2, 3, 3, 3, 3, 3]
    assert found[1].tolist() == [0, 2, 2, 2, 2, 2, 2]
    assert calls == [3, 2, 2]


def test_infilling_keeps_what_is_there_and_shows_both_sides() -> None:
    text = torch.tensor([[1, MASK, 2, MASK], [MASK, MASK, MASK, 0]]).to(DEVICE)
    backbone = Recorder()
    for head in (None, equal_pairs(2), equal_pairs(4), equal_pairs(6)):
        backbone.shown.clear()
        found = infill(backbone, text, head, steps=2, decoding=Decoding(temperature=1.0))
        assert torch.equal(torch.where(text == MASK, text, found), text)
        assert (found != MASK).all()
        assert all(tokens.shape == text.shape for tokens in backbone.shown)
        assert len(backbone.shown) == 2
    with pytest.raises(pf.SettingError, match="steps must be a whole number of at least 1"):
        infill(backbone, text, steps=0)


def test_suppressed_tokens_are_never_generated() -> None:
    for head in (None, equal_pairs(2)):
        found = generate(
            uniform,
            NO_PROMPT,
            head,
            steps=1,
            gen_length=2,
            block_length=2,
            mask_token_id=MASK,
            decoding=Decoding(temperature=1.0, suppress=(0, 3)),
        )
        assert set(found.flatten().tolist()) == {1, 2}


def test_a_mask_inside_the_vocabulary_is_never_generated() -> None:
    found = generate(
        uniform,
        NO_PROMPT,
        steps=1,
        gen_length=2,
        block_length=2,
        mask_token_id=2,
        decoding=Decoding(temperature=1.0),
    )
    assert set(found.flatten().tolist()) == {0, 1, 3}


def test_only_the_most_probable_tokens_are_considered() -> None:
    table = torch.tensor([0.4, 0.3, 0.2, 0.1]).to(DEVICE).log()

    def backbone(tokens: Tensor) -> Tensor:
        return table.expand(*tokens.shape, V)

    for top_k, top_p, kept in (
        (2, None, {0, 1}),
        (None, 0.7, {0, 1}),
        (None, 0.71, {0, 1, 2}),
        (1, 1.0, {0}),
        (3, 0.7, {0, 1}),
        (None, 0.01, {0}),
    ):
        head = equal_pairs(2)
        head.top_k = top_k
        for who, how in (
            (None, Decoding(1.0, top_k=top_k, top_p=top_p)),
            (head, Decoding(1.0, top_p=top_p)),
        ):
            found = generate(
                backbone,
                NO_PROMPT,
                who,
                steps=1,
                gen_length=2,
                block_length=2,
                mask_token_id=MASK,
                decoding=how,
            )
            assert set(found.flatten().tolist()) == kept


def test_there_is_one_top_k() -> None:
    with pytest.raises(GenerationError, match="set the head's top_k"):
        run("infill", uniform, pair_head("product"), decoding=Decoding(top_k=2))


def test_an_end_that_cannot_be_met_is_refused() -> None:
    end = Decoding(end_token_id=MASK)
    with pytest.raises(GenerationError, match="end_token_id is the mask, 4"):
        run("generate", uniform, mask_token_id=MASK, decoding=end)
    with pytest.raises(GenerationError, match="end_token_id is for generate"):
        run("infill", uniform, mask_token_id=MASK, decoding=Decoding(end_token_id=0))


def test_what_is_sure_is_committed_at_once() -> None:
    table = torch.tensor([[0.97, 0.01, 0.01, 0.01], [0.4, 0.3, 0.2, 0.1]]).to(DEVICE).log()
    calls: list[int] = []

    def backbone(tokens: Tensor) -> Tensor:
        calls.append(1)
        return table[[0, 1, 0, 1]].expand(len(tokens), -1, -1)

    prompt = torch.empty(1, 0, dtype=torch.long).to(DEVICE)
    for threshold, steps in ((0.9, 3), (0.3, 1), (None, 4), (0.99, 4)):
        calls.clear()
        generate(
            backbone,
            prompt,
            steps=4,
            gen_length=4,
            block_length=4,
            mask_token_id=MASK,
            decoding=Decoding(threshold=threshold),
        )
        assert len(calls) == steps


def test_rows_are_coupled_one_by_one_while_little_is_masked() -> None:
    text = torch.full((400, 2), MASK).to(DEVICE)
    text[200:, 0] = 1  # half of these rows is known
    how = Decoding(temperature=1.0, gamma=0.6)
    found = infill(uniform, text, equal_pairs(2), steps=1, decoding=how)
    assert (found[:200, 0] != found[:200, 1]).any()
    assert (found[200:, 1] == 1).all()


@pytest.mark.parametrize("order", ["any_order", "sharpened", "mpe"])
def test_every_order_keeps_modes_apart(order: str) -> None:
    for steps in (1, 2):
        found = generate(
            uniform,
            NO_PROMPT,
            equal_pairs(4),
            steps=steps,
            gen_length=4,
            block_length=4,
            decoding=Decoding(temperature=1.0, order=order),
        )  # type: ignore[arg-type]
        assert (found[:, 0] == found[:, 1]).all()
        assert (found[:, 2] == found[:, 3]).all()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"order": "last"}, "'last'"),
        ({"ranking": "best"}, "'best'"),
        ({"temperature": -1.0}, "temperature"),
        ({"gamma": -0.1}, "gamma"),
        ({"threshold": 2.0}, "threshold"),
        ({"top_k": 0}, "top_k"),
        ({"top_p": 0.0}, "top_p"),
        ({"suppress": (2, -1)}, "suppress.*-1"),
        ({"temperature": float("inf")}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_k": 2.5}, "top_k"),
    ],
)
def test_settings_out_of_range_are_refused(setting: dict[str, object], message: str) -> None:
    with pytest.raises(pf.SettingError, match=message):
        Decoding(**setting)  # type: ignore[arg-type]


@pytest.mark.parametrize(("threshold", "calls"), [(None, 2), (0.9, 1)])
def test_the_joint_says_what_is_committed_not_the_backbone(
    threshold: float | None, calls: int
) -> None:
    """The circuit is surer of the second position, the backbone of the first."""
    tables = torch.tensor([[0.94, 0.03, 0.03], [0.01, 0.01, 0.98]]).to(DEVICE)
    inputs = [
        pf.InputLayer(v, pf.Categorical(3), 1, {"logits": pf.Parameter(row.log().unsqueeze(-1))})
        for v, row in enumerate(tables)
    ]
    circuit = pf.Circuit(pf.SumLayer.random([pf.ProductLayer(inputs)], 1))
    head = CircuitHead(pf.compile(circuit, DEVICE, torch.float64), 3, "product")
    shown: list[list[int]] = []

    def backbone(tokens: Tensor) -> Tensor:
        shown.append(tokens[0].tolist())
        return torch.tensor([[[0.5, 0.25, 0.25], [1 / 3, 1 / 3, 1 / 3]]]).to(DEVICE).log()

    decoding = Decoding(threshold=threshold)
    filled = infill(backbone, torch.tensor([[3, 3]]).to(DEVICE), head, steps=2, decoding=decoding)
    assert filled.tolist() == [[0, 2]]
    assert shown == [[3, 3], [3, 2]][:calls]


def run(call: str, backbone: object, head: CircuitHead | None = None, **more: object) -> Tensor:
    """Two masks filled in one step, by `generate` or by `infill`."""
    if call == "infill":
        return infill(backbone, torch.tensor([[MASK, MASK]]).to(DEVICE), head, steps=1, **more)  # type: ignore[arg-type]
    prompt = torch.empty(1, 0, dtype=torch.long).to(DEVICE)
    return generate(backbone, prompt, head, steps=1, gen_length=2, block_length=2, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("call", ["generate", "infill"])
def test_masks_that_contradict_one_another_are_refused(call: str) -> None:
    knows = Recorder()  # whose mask is V, as the head's
    with pytest.raises(GenerationError, match="argument 3, head 4"):
        run(call, uniform, pair_head("ratio"), mask_token_id=3)
    with pytest.raises(GenerationError, match="argument 3, backbone 4"):
        run(call, knows, mask_token_id=3)
    head = pair_head("ratio")
    head.mask_token_id = 5
    with pytest.raises(GenerationError, match="head 5, backbone 4"):
        run(call, knows, head)
    with pytest.raises(GenerationError, match="argument 5, head 5, backbone 4"):
        run(call, knows, head, mask_token_id=5)
    for same in (MASK, np.int64(MASK)):
        assert (run(call, knows, pair_head("ratio"), mask_token_id=same) < V).all()
    with pytest.raises(GenerationError, match="argument 3, head 4"):
        run(call, uniform, pair_head("ratio"), mask_token_id=np.int64(3))


def test_an_adapted_model_says_what_its_mask_is() -> None:
    def biased(tokens: Tensor) -> Tensor:
        return torch.eye(V + 1, device=tokens.device)[[2]].expand(*tokens.shape, -1)

    text = torch.tensor([[1, MASK, 0]]).to(DEVICE)
    assert infill(mdlm(biased, MASK), text, steps=1).tolist() == [[1, 2, 0]]
    assert infill(llada(Recorder()), text, steps=1).tolist() == [[1, 1, 0]]  # type: ignore[arg-type]
    assert infill(dream(Recorder()), text, steps=1).tolist() == [[1, 0, 0]]  # type: ignore[arg-type]


@pytest.mark.parametrize("head", [None, pair_head("ratio")])
def test_what_is_said_of_visible_tokens_does_not_matter(head: CircuitHead | None) -> None:
    text = torch.tensor([[3, MASK, 3]]).to(DEVICE)
    for value in (-torch.inf, torch.inf, torch.nan):

        def backbone(tokens: Tensor, value: float = value) -> Tensor:
            logits = torch.zeros(*tokens.shape, V).to(DEVICE)
            return logits.masked_fill((tokens != MASK).unsqueeze(-1), value)

        for temperature in (0.0, 1.0):
            how = Decoding(temperature, suppress=(0, 1))
            found = infill(backbone, text, head, steps=1, mask_token_id=MASK, decoding=how)
            assert found[0, 0] == found[0, 2] == 3
            assert int(found[0, 1]) in (2, 3)
    mask_inside = mdlm(lambda tokens: torch.zeros(*tokens.shape, V + 1).to(DEVICE), MASK)
    how = Decoding(1.0, suppress=(3,))
    assert int(infill(mask_inside, text, steps=1, decoding=how)[0, 1]) in (0, 1, 2)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("head", [None, pair_head("ratio"), equal_pairs(4)])
@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([-torch.inf] * V, "no token"),
        ([-torch.inf, -torch.inf, 0.0, -torch.inf], "no token"),  # 2 is suppressed
        ([0.0, torch.nan, 0.0, 0.0], "nan"),
        ([0.0, torch.inf, 0.0, 0.0], "inf"),
    ],
)
def test_masked_positions_without_a_distribution_are_refused(
    values: list[float], message: str, head: CircuitHead | None, temperature: float
) -> None:
    def backbone(tokens: Tensor) -> Tensor:
        logits = torch.zeros(*tokens.shape, V).to(DEVICE)
        logits[tokens[:, 0] == 1, -1] = torch.tensor(values).to(DEVICE)
        return logits

    settings: dict[str, object] = {"temperature": temperature, "suppress": (2,)}
    text = torch.tensor([[0, MASK, MASK], [1, 3, MASK]]).to(DEVICE)
    how = Decoding(**settings)  # type: ignore[arg-type]
    with pytest.raises(LogitsError, match=f"row 1, position 2:.*{message}"):
        infill(backbone, text, head, steps=1, mask_token_id=MASK, decoding=how)
    prompt = torch.tensor([[0, 2], [7, 0], [7, 1]]).to(
        DEVICE
    )  # the last is a group of its own, no row 0
    prompt[1, 1] = 0
    with pytest.raises(LogitsError, match=f"row 2, position 3:.*{message}"):
        generate(
            backbone,
            prompt,
            head,
            steps=2,
            gen_length=4,
            block_length=2,
            mask_token_id=MASK,
            pad_token_id=7,
            decoding=how,
            show="blocks",
        )


def ignorant_head(top_k: int | None = None) -> CircuitHead:
    """Two uniform tokens that do not depend on each other."""
    flat = {"logits": pf.Parameter(torch.zeros(V, 1))}
    inputs = [pf.InputLayer(v, pf.Categorical(V), 1, flat) for v in range(2)]
    circuit = pf.Circuit(pf.SumLayer([pf.ProductLayer(inputs)], pf.Parameter(torch.zeros(1, 1))))
    return CircuitHead(pf.compile(circuit, DEVICE, torch.float64), MASK, "product", top_k)


@pytest.mark.parametrize(
    ("limits", "head"),
    [
        ({"top_k": 1}, None),
        ({"top_p": 0.1}, None),
        ({"top_p": 0.1}, ignorant_head()),
        ({}, ignorant_head(top_k=1)),
    ],
)
def test_the_threshold_is_about_probabilities_before_truncation(
    limits: dict[str, float], head: CircuitHead | None
) -> None:
    """With a head, in a block longer than its circuit, where the backbone's marginals count."""
    for threshold, calls in ((0.9, 4), (0.2, 1)):
        backbone = Recorder()  # probability 0.475 of the best of V tokens
        generate(
            backbone,
            torch.empty(1, 0, dtype=torch.long).to(DEVICE),
            head,
            steps=4,
            gen_length=4,
            block_length=4,
            decoding=Decoding(threshold=threshold, **limits),  # type: ignore[arg-type]
        )
        assert len(backbone.shown) == calls


def test_under_a_head_the_threshold_is_about_the_joint_of_truncated_marginals() -> None:
    backbone = Recorder()
    text, how = torch.tensor([[MASK, MASK]]).to(DEVICE), Decoding(threshold=0.9)
    infill(backbone, text, ignorant_head(top_k=1), steps=2, decoding=how)
    assert len(backbone.shown) == 1


def test_a_negative_context_is_refused() -> None:
    with pytest.raises(pf.SettingError, match=r"context must be .* at least 0, got -1"):
        run("generate", uniform, mask_token_id=MASK, context=-1)
    assert (run("generate", uniform, mask_token_id=MASK, context=0) < V).all()


@pytest.mark.parametrize("call", ["generate", "infill"])
def test_what_is_not_logits_is_refused(call: str) -> None:
    with pytest.raises(BackboneError, match=r"\(1, 2, V\).*\(1, 3, 4\)"):
        run(call, lambda _: torch.zeros(1, 3, V).to(DEVICE), mask_token_id=MASK)
    with pytest.raises(BackboneError, match="tuple holds 2 tensors"):
        run(call, lambda tokens: (uniform(tokens), uniform(tokens)), mask_token_id=MASK)
    for hold in (
        lambda logits: SimpleNamespace(logits=logits),
        lambda logits: {"logits": logits},
        lambda logits: (torch.zeros(()), logits, None),
    ):
        found = run(call, lambda tokens, hold=hold: hold(Recorder()(tokens)), mask_token_id=MASK)
        assert found.tolist() == [[0, 1]]


def test_ids_outside_the_vocabulary_do_not_wrap_around() -> None:
    def last(tokens: Tensor) -> Tensor:
        return torch.eye(V, device=tokens.device)[[-1]].expand(*tokens.shape, V)

    text = torch.tensor([[0, -1]]).to(DEVICE)
    assert infill(last, text, steps=1, mask_token_id=-1).tolist() == [[0, V - 1]]
    assert run("generate", last, mask_token_id=-1).tolist() == [[V - 1, V - 1]]
    how = Decoding(suppress=(V, V + 9))
    assert run("infill", last, mask_token_id=MASK, decoding=how).tolist() == [[V - 1, V - 1]]


def test_at_temperature_zero_only_a_latent_path_that_is_asked_for_is_random() -> None:
    """The circuit holds one of V modes; the backbone does not say which."""
    found = {
        order: generate(
            uniform,
            NO_PROMPT,
            pair_head("product"),
            steps=1,
            gen_length=2,
            block_length=2,
            decoding=Decoding(order=order),  # type: ignore[arg-type]
        ).unique(dim=0)
        for order in ("joint", "mpe", None)
    }
    assert len(found["joint"]) == V
    assert len(found["mpe"]) == len(found[None]) == 1
