"""Laws of prompts: every form says the same, padding is never seen, and what is none is refused."""

from collections import UserDict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from device import DEVICE
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import of_fifty
from torch import Tensor

import pcflow as pf
from pcflow_diffusion import CircuitHead, Decoding, dream, generate, infill, llada, narrow
from pcflow_diffusion.errors import GenerationError, PromptError, TokenOutOfRange, TypeMismatch

V = 4
MASK = V
HOW: dict[str, Any] = {"steps": 4, "gen_length": 4, "block_length": 2, "mask_token_id": MASK}


def says(tokens: Tensor, real: Tensor) -> Tensor:
    """Logits from all tokens that are no padding, and from how many there are before each."""
    known = tokens.masked_fill((tokens == MASK) | ~real, 0)
    mixed = known.cumsum(1) + real.long().cumsum(1) + 3 * known.sum(1, keepdim=True)
    return torch.nn.functional.one_hot(mixed % V, V).double() + 0.1 * (mixed % 3).unsqueeze(-1)


class Watched:
    """A backbone that writes down what it is shown."""

    def __init__(self) -> None:
        self.shown: list[Tensor] = []

    def __call__(self, tokens: Tensor) -> Tensor:
        self.shown.append(tokens)
        return says(tokens, torch.ones_like(tokens, dtype=torch.bool))


class Attentive(Watched):
    """The same, which takes an attention mask."""

    def __call__(self, tokens: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        self.shown.append(tokens)
        ones = torch.ones_like(tokens) if attention_mask is None else attention_mask
        return says(tokens, ones.bool())


def chain(length: int = 3, coupling: str = "ratio") -> CircuitHead:
    g = torch.Generator().manual_seed(5)
    circuit = pf.hmm(length, 3, pf.Categorical(V), homogeneous=False, generator=g)
    return CircuitHead(pf.compile(circuit, DEVICE, torch.float64), MASK, coupling)


def left_padded(rows: list[list[int]], pad: int) -> tuple[Tensor, Tensor]:
    width = max(map(len, rows))
    tokens = [[pad] * (width - len(row)) + row for row in rows]
    real = [[0] * (width - len(row)) + [1] * len(row) for row in rows]
    return torch.tensor(tokens).long().to(DEVICE), torch.tensor(real).to(DEVICE)


def test_every_form_of_a_prompt_is_the_same_prompt() -> None:
    rows = [[1, 2, 3], [0, 0, 1]]
    tokens = torch.tensor(rows).to(DEVICE)
    wanted = generate(Watched(), tokens, **HOW)
    forms: list[Any] = [
        tokens.int(), {"input_ids": tokens}, UserDict(input_ids=tokens, token_type_ids=tokens),
        {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)},
    ]  # fmt: skip
    if DEVICE.type == "cpu":
        forms += [
            rows,
            tuple(map(tuple, rows)),
            {"input_ids": rows, "attention_mask": [[1] * 3] * 2},
        ]
    for form in forms:
        assert torch.equal(generate(Watched(), form, **HOW), wanted)
    for one in (tokens[0], rows[0], tokens[:1]):
        if isinstance(one, Tensor) or DEVICE.type == "cpu":
            assert torch.equal(generate(Watched(), one, **HOW), wanted[:1])


def test_lists_of_different_lengths_are_prompts_of_different_lengths() -> None:
    rows = [[1, 2, 3], [2], [], [0, 1]]
    head = chain()  # whose device is that of the lists
    for backbone in (Watched(), Attentive()):
        found = generate(backbone, rows, head, **HOW)
        for row, together in zip(rows, found, strict=True):
            alone = generate(Watched(), torch.tensor([row]).long().to(DEVICE), head, **HOW)[0]
            assert together[3 - len(row) :].tolist() == alone.tolist()


@settings(max_examples=of_fifty(20))
@given(
    st.lists(st.lists(st.integers(0, V - 1), max_size=4), min_size=1, max_size=5),
    st.sampled_from(["all", "blocks"]),
    st.sampled_from([None, 1]),
    st.booleans(),
    st.sampled_from([0.0, 1.0]),
)
def test_padded_rows_are_as_if_each_were_alone(
    rows: list[list[int]], show: str, context: int | None, coupled: bool, guidance: float
) -> None:
    """With a backbone that takes a mask all together, else one length after another."""
    head, how = chain(6, "product") if coupled else None, Decoding(guidance=guidance)
    more = HOW | {"show": show, "context": context, "decoding": how}
    padded, real = left_padded(rows, pad=0)  # which is a token of prompts as well
    for backbone in (Attentive(), Watched()):
        found = generate(backbone, padded, head, **more, attention_mask=real)
        for row, together in zip(rows, found, strict=True):
            alone = torch.tensor([row], dtype=torch.long).to(DEVICE)
            wanted = generate(Watched(), alone, head, **more)
            assert torch.equal(together[padded.shape[1] :], wanted[0, len(row) :])
        assert torch.equal(found[:, : padded.shape[1]], padded)


def test_a_backbone_that_takes_a_mask_is_asked_about_all_rows_at_once() -> None:
    padded, real = left_padded([[1, 2, 3], [2], [0, 1]], pad=0)
    for backbone, calls, shown in ((Attentive(), 4, 3), (Watched(), 12, 1)):
        generate(backbone, padded, **HOW, attention_mask=real)
        assert [len(tokens) for tokens in backbone.shown] == [shown] * calls
    for adapt, calls in ((llada, 12), (dream, 12), (lambda m: narrow(m, V), 4)):
        model = Attentive()
        generate(adapt(model), padded, **HOW, attention_mask=real)  # type: ignore[operator]
        assert len(model.shown) == calls


def test_the_pad_in_a_prompt_is_a_token_where_a_mask_says_so() -> None:
    tokens, real = left_padded([[0, 0, 3], [0, 2]], pad=0)
    backbone = Watched()
    generate(backbone, tokens, **HOW, attention_mask=real, pad_token_id=0)
    assert sorted(shown.shape[1] for shown in backbone.shown) == [6] * 4 + [7] * 4
    backbone.shown.clear()
    generate(backbone, tokens, **HOW, pad_token_id=0)
    assert [shown.shape[1] for shown in backbone.shown] == [5] * 4


@pytest.mark.parametrize(
    ("tokens", "settings_", "message"),
    [
        ([[1, 2, 3], [1, 2, 0]], {"pad_token_id": 0}, "row 1, position 2: the prompt ends in padd"),
        ([[1, 2], [1, 0]], {"attention_mask": [[1, 1], [1, 0]]}, "row 1, position 1: padding foll"),
        ([[1, 2, 3]], {"attention_mask": [[1, 0, 1]]}, "row 0, position 1: there is padding betw"),
        ([[1, 2], [1, MASK]], {}, "row 1, position 1: the prompt holds the mask, 4"),
    ],
)
def test_prompts_that_hold_what_they_may_not_are_refused(
    tokens: list[list[int]], settings_: dict[str, Any], message: str
) -> None:
    prompt = torch.tensor(tokens).to(DEVICE)
    more = {
        name: torch.tensor(value).to(DEVICE) if isinstance(value, list) else value
        for name, value in settings_.items()
    }
    with pytest.raises(PromptError, match=message) as caught:
        generate(Watched(), prompt, **HOW, **more)
    assert f"row {caught.value.row}, position {caught.value.position}" in str(caught.value)


def test_a_mask_where_there_is_padding_is_no_mask_of_the_prompt() -> None:
    tokens, real = left_padded([[1, 2], [3]], pad=MASK)
    found = generate(Attentive(), tokens, **HOW, attention_mask=real)
    assert torch.equal(found[:, :2], tokens)
    assert (found[:, 2:] < V).all()


@pytest.mark.parametrize("token", [V + 1, -1, 99])
@pytest.mark.parametrize("call", ["generate", "infill"])
def test_ids_outside_of_the_vocabulary_are_refused(token: int, call: str) -> None:
    tokens = torch.tensor([[1, 2], [1, token]]).to(DEVICE)
    text = torch.nn.functional.pad(tokens, (0, 1), value=MASK)
    model = Watched()
    for config in (None, SimpleNamespace(vocab_size=V + 1), SimpleNamespace(vocab_size=None)):
        model.config = config  # type: ignore[attr-defined]
        with pytest.raises(TokenOutOfRange, match=rf"token {token}, outside .* at \[1, 1\]"):
            if call == "generate":
                generate(model, tokens, **HOW)
            else:
                infill(model, text, steps=1, mask_token_id=MASK)
    model.config = SimpleNamespace(vocab_size=100)  # type: ignore[attr-defined]
    if token > 0:
        generate(model, tokens, **HOW)


@pytest.mark.parametrize("backbone", [Watched(), Attentive()])
def test_no_rows_are_no_text(backbone: Watched) -> None:
    nothing = torch.zeros(0, 3, dtype=torch.long).to(DEVICE)
    for mask in (None, nothing):
        assert generate(backbone, nothing, **HOW, attention_mask=mask).shape == (0, 7)
        found = infill(backbone, nothing, steps=1, mask_token_id=MASK, attention_mask=mask)
        assert found.shape == (0, 3)


def test_what_is_no_prompt_is_refused() -> None:
    for wrong in ("text", [["a"]], [[1.5]], {"tokens": [1]}, [[[1]]], [True], None, object()):
        with pytest.raises((TypeMismatch, pf.PcflowError)):
            generate(Watched(), wrong, **HOW)  # type: ignore[arg-type]
    tokens = torch.zeros(2, 3, dtype=torch.long).to(DEVICE)
    for wrong in (tokens[:, :2], tokens + 2, tokens[0], "mask", 1.0):
        with pytest.raises(pf.PcflowError, match="attention_mask"):
            generate(Watched(), tokens, **HOW, attention_mask=wrong)  # type: ignore[arg-type]


def test_the_mask_of_a_model_s_config_counts() -> None:
    model, text = Watched(), torch.tensor([[1, MASK, 0]]).to(DEVICE)
    model.config = SimpleNamespace(mask_token_id=MASK)  # type: ignore[attr-defined]
    for backbone in (model, llada(model), dream(model), narrow(model, V)):
        assert (infill(backbone, text, steps=1) < V).all()
    model.config = SimpleNamespace(mask_token_id=MASK + 1)  # type: ignore[attr-defined]
    for backbone in (model, llada(model), dream(model), narrow(model, V)):
        with pytest.raises(GenerationError, match="head 4, backbone 5"):
            infill(backbone, text, chain(), steps=1)


@settings(max_examples=of_fifty(20))
@given(
    st.lists(st.lists(st.integers(0, MASK), min_size=1, max_size=5), min_size=1, max_size=4),
    st.data(),
    st.booleans(),
    st.sampled_from(["product", "ratio", "projection"]),
)
def test_padding_on_either_side_of_a_text_is_never_seen(
    rows: list[list[int]], data: st.DataObject, coupled: bool, coupling: str
) -> None:
    """By the backbone and by the head, which would take it for tokens."""
    head, width = chain(4, coupling) if coupled else None, 6
    shifts = [data.draw(st.integers(0, width - len(row))) for row in rows]
    tokens, real = torch.full((2, len(rows), width), 0).to(DEVICE)
    for number, (row, shift) in enumerate(zip(rows, shifts, strict=True)):
        tokens[number, shift : shift + len(row)] = torch.tensor(row)
        real[number, shift : shift + len(row)] = 1
    tokens[real == 0] = torch.randint(MASK + 1, tokens.shape).to(DEVICE)[real == 0]
    for backbone in (Attentive(), Watched()):
        found = infill(backbone, tokens, head, steps=2, mask_token_id=MASK, attention_mask=real)
        assert torch.equal(found[real == 0], tokens[real == 0])
        for row, shift, together in zip(rows, shifts, found, strict=True):
            one = torch.tensor([row]).to(DEVICE)
            alone = infill(Watched(), one, head, steps=2, mask_token_id=MASK)
            assert torch.equal(together[shift : shift + len(row)], alone[0])


def test_nothing_that_is_handed_over_is_changed_and_no_gradient_is_kept() -> None:
    tokens, real = left_padded([[1, 2, 3], [2]], pad=0)
    text = torch.nn.functional.pad(tokens, (0, 2), value=MASK)
    copies = tokens.clone(), real.clone(), text.clone()
    weight = torch.ones((), dtype=torch.float64, requires_grad=True)

    def backbone(shown: Tensor) -> Tensor:
        logits = says(shown, torch.ones_like(shown, dtype=torch.bool)) * weight
        assert not logits.requires_grad
        return logits

    generate(backbone, tokens, chain(), **HOW, attention_mask=real)
    infill(backbone, text, chain(), steps=2)
    assert all(map(torch.equal, (tokens, real, text), copies))


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_model_of_transformers_takes_what_its_tokenizer_returns(side: str) -> None:
    """BERT sees no padding; what stands there stays."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2}
    config = transformers.BertConfig(vocab_size=V + 1, num_attention_heads=2, **sizes)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.BertForMaskedLM(config).double().eval().to(DEVICE)
    rows = [[1, MASK, 3, MASK, 0], [2, MASK], [MASK, 0, MASK]]
    ids = [row + [0] * (5 - len(row)) for row in rows]
    real = [[1] * len(row) + [0] * (5 - len(row)) for row in rows]
    if side == "left":
        ids, real = ([row[::-1] for row in some] for some in (ids, real))
    batch = transformers.BatchEncoding(
        {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(real)}
    ).to(DEVICE)
    found = infill(narrow(model, V), batch, chain(4), steps=2)
    assert (found < V).all()
    known = batch["input_ids"] != MASK
    assert torch.equal(found[known], batch["input_ids"][known])
    if side == "right":  # BERT counts places from the left, padding among them
        for row, together in zip(rows, found, strict=True):
            alone = infill(narrow(model, V), torch.tensor([row]).to(DEVICE), chain(4), steps=2)
            assert torch.equal(together[: len(row)], alone[0])
