"""Laws of the kept prefix: exact where no token sees later blocks, and shorter calls everywhere."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from device import DEVICE
from torch import Tensor

import pcflow as pf
from pcflow_diffusion import CircuitHead, Decoding, generate, llada
from pcflow_diffusion.errors import BackboneError

V, E, DEEP = 7, 8, 2
MASK = V


class Attention:
    """Two layers of attention in which a token sees its own block and those before it."""

    def __init__(self, block: int, mapping: bool = False) -> None:
        g = torch.Generator().manual_seed(0)
        self.block, self.mapping = block, mapping
        self.tokens, self.places, self.out = (
            torch.randn(n, E, generator=g, dtype=torch.float64).to(DEVICE) for n in (V + 1, 60, V)
        )
        self.layers = torch.randn(DEEP, 3, E, E, generator=g, dtype=torch.float64).to(DEVICE)
        self.lengths: list[int] = []

    def __call__(
        self,
        tokens: Tensor,
        past_key_values: Any = None,
        use_cache: bool = False,
        attention_mask: Tensor | None = None,
    ) -> Any:
        self.lengths.append(tokens.shape[1])
        known = 0 if past_key_values is None else past_key_values[0][0].shape[2]
        places = torch.arange(known + tokens.shape[1]).to(DEVICE)
        state = self.tokens[tokens] + self.places[places[known:]]
        open_ = places // self.block <= places[known:, None] // self.block  # [n, all]
        if attention_mask is not None:
            open_ = open_ & (attention_mask[:, None] == 1)
        kept = []
        for layer, (query, key, value) in enumerate(self.layers):
            keys, values = (torch.tanh(state @ weight).unsqueeze(1) for weight in (key, value))
            if past_key_values is not None:
                keys, values = (
                    torch.cat(both, dim=2)
                    for both in zip(past_key_values[layer], (keys, values), strict=True)
                )
            kept.append((keys, values))
            scores = (state @ query) @ keys.squeeze(1).mT
            weights = scores.masked_fill(~open_, -torch.inf).softmax(-1).nan_to_num(0.0)
            state = state + weights @ values.squeeze(1)
        output = {"logits": state @ self.out.T}
        output |= {"past_key_values": tuple(kept)} if use_cache else {}
        return output if self.mapping else SimpleNamespace(**output)


HOW: dict[str, Any] = {"gen_length": 12, "block_length": 4, "mask_token_id": MASK}


@pytest.mark.parametrize("coupled", [False, True])
@pytest.mark.parametrize("guidance", [0.0, 1.5])
@pytest.mark.parametrize("show", ["all", "blocks"])
@pytest.mark.parametrize("prompt_length", [0, 4, 6])
def test_a_prefix_is_exact_where_no_token_sees_later_blocks(
    prompt_length: int, show: str, guidance: float, coupled: bool
) -> None:
    circuit = pf.hmm(6, 3, pf.Categorical(V), generator=torch.Generator().manual_seed(1))
    head = CircuitHead(pf.compile(circuit, DEVICE, torch.float64), MASK) if coupled else None
    prompt = torch.randint(V, (5, prompt_length), generator=torch.Generator().manual_seed(2))
    how = HOW | {"show": show, "align": True, "steps": 8, "decoding": Decoding(guidance=guidance)}
    plain, kept = Attention(block=4), Attention(block=4, mapping=True)
    wanted = generate(plain, prompt.to(DEVICE), head, **how)
    found = generate(kept, prompt.to(DEVICE), head, **how, cache=True)
    assert torch.equal(found, wanted)
    assert len(kept.lengths) == len(plain.lengths)
    assert sum(kept.lengths) < sum(plain.lengths)


def test_a_prefix_leaves_only_what_is_new_to_be_asked() -> None:
    model, prompt = Attention(block=4), torch.zeros(2, 4, dtype=torch.long).to(DEVICE)
    generate(model, prompt, **HOW, steps=9, cache=True, show="blocks")
    assert model.lengths == [8, 4, 4, 8, 4, 4, 8, 4, 4]
    model.lengths.clear()
    generate(model, prompt, **HOW, steps=9, cache=True)
    assert model.lengths == [16, 12, 12, 12, 8, 8, 8, 4, 4]


def test_rows_that_end_and_rows_that_are_padded_keep_their_own_prefix() -> None:
    prompt = torch.randint(V, (8, 4), generator=torch.Generator().manual_seed(2)).to(DEVICE)
    real = torch.ones_like(prompt)
    real[2, :2] = real[5, :3] = 0
    how = HOW | {"steps": 6, "decoding": Decoding(end_token_id=3), "show": "blocks"}
    for mask in (None, real):
        plain, kept = Attention(block=4), Attention(block=4)
        wanted = generate(plain, prompt, **how, attention_mask=mask)
        assert torch.equal(generate(kept, prompt, **how, attention_mask=mask, cache=True), wanted)
        assert len(kept.lengths) == len(plain.lengths)
    assert (wanted == 3).any(dim=1).double().mean() not in (0, 1)  # some rows end, some do not


def test_where_tokens_see_later_blocks_a_prefix_is_an_approximation() -> None:
    """Which is exact in the first block's first step, and fills every mask."""
    prompt = torch.randint(V, (40, 4), generator=torch.Generator().manual_seed(2)).to(DEVICE)
    wanted, found = (
        generate(Attention(block=99), prompt, **HOW, steps=6, cache=cache)
        for cache in (False, True)
    )
    assert (found < V).all()
    assert 0 < (found != wanted).double().mean() < 0.9


def test_backbones_that_keep_nothing_are_refused() -> None:
    def forgetful(tokens: Tensor, cache: Any = None, use_cache: bool = False) -> Tensor:
        return torch.zeros(*tokens.shape, V).to(DEVICE)

    prompt = torch.zeros(2, 4, dtype=torch.long).to(DEVICE)
    for backbone in (lambda tokens: forgetful(tokens), llada(Attention(4))):
        with pytest.raises(BackboneError, match="takes cache or past_key_values"):
            generate(backbone, prompt, **HOW, steps=3, cache=True)
    with pytest.raises(BackboneError, match="returns no cache"):
        generate(forgetful, prompt, **HOW, steps=3, cache=True)


@pytest.mark.parametrize("rows", [1, 3])
def test_a_causal_model_of_transformers_is_exact(rows: int) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    config = transformers.LlamaConfig(
        vocab_size=V + 1, hidden_size=16, intermediate_size=16, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=64,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.LlamaForCausalLM(config).double().eval().to(DEVICE)
    prompt = torch.randint(V, (rows, 4), generator=torch.Generator().manual_seed(2)).to(DEVICE)
    wanted, found = (
        generate(model, prompt, **HOW, steps=6, cache=cache, decoding=Decoding(suppress=[MASK]))
        for cache in (False, True)
    )
    assert torch.equal(found, wanted)
