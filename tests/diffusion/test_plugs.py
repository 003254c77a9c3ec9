"""Laws of the plugs: whatever sampler commits, pairs of tokens follow the joint.

The circuit is a known chain, so that the law of neighbours is known, and the backbone says nothing.
The samplers are the decisive lines of other people's, in `other_samplers`.
"""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import other_samplers as others
import pytest
import torch
from torch import Tensor

import pcflow as pf
from pcflow_diffusion import (
    CircuitHead,
    CircuitLM,
    circuit_algorithm,
    circuit_decoder,
    circuit_policy,
    circuit_remask,
    circuit_transfer_index,
    dream_hook,
)

V = MASK = 4
PAD = 0  # a token as any other: whoever takes padding for text is found out
STAY = torch.eye(V) * 0.92 + 0.02
PAIRS = STAY / V  # of the chain, which is stationary from the start
TEXTS = 400
STEPS = (1, 2, 8)


def chain(length: int) -> CircuitHead:
    emission = torch.eye(V) * (1 - 4e-4) + 1e-4
    circuit = pf.hmm(
        length,
        V,
        pf.Categorical(V),
        initial=torch.full((V,), 1 / V),
        transition=STAY,
        emission=emission,
    )
    return CircuitHead(pf.compile(circuit), MASK, coupling="product")


HEAD = chain(8)


class Flat(torch.nn.Module):
    """A model that knows nothing, and says so to whoever calls it in whatever way."""

    config = SimpleNamespace(mask_token_id=MASK, vocab_size=V)

    def __init__(self, width: int = V) -> None:
        super().__init__()
        self.width, self.seen = width, list[dict[str, Any]]()

    def forward(self, x: Tensor, *rest: Any, **named: Any) -> Any:
        self.seen.append(named)
        return SimpleNamespace(logits=torch.zeros(*x.shape, self.width), past_key_values=object())


def prompts(length: int = 3) -> Tensor:
    """Texts of the chain."""
    zeros = torch.zeros(TEXTS, 8, dtype=torch.long)
    nothing = pf.Evidence(zeros, zeros == 0)
    drawn: Tensor = HEAD.model.sample(1, nothing, generator=torch.Generator().manual_seed(1))[0]
    return drawn[:, :length]


def ragged() -> list[Tensor]:
    """The same of four lengths, from one on."""
    return [row[: 1 + number % 4] for number, row in enumerate(prompts(4))]


def distance(texts: list[Tensor]) -> float:
    """Total variation between the pairs of neighbours in texts and those of the chain."""
    counts = torch.zeros(V, V)
    for text in texts:
        assert bool(((text >= 0) & (text < V)).all()), "masks or padding were left"
        counts.index_put_((text[:-1], text[1:]), torch.ones(()), accumulate=True)
    return float((counts / counts.sum() - PAIRS).abs().sum() / 2)


def behind(texts: Tensor, prompt: int) -> list[Tensor]:
    """What was generated, and the token before it."""
    return list(texts[:, prompt - 1 :])


Run = Callable[[int, dict[str, Any]], list[Tensor]]
LONG = {"gen_length": 16, "block_length": 8}


def run_llada(steps: int, how: dict[str, Any]) -> list[Tensor]:
    lm = CircuitLM(Flat(), HEAD, **how)
    return behind(others.llada(lm, prompts(), MASK, **LONG, steps=steps), 3)


def run_llada_at_random(steps: int, how: dict[str, Any]) -> list[Tensor]:
    lm = CircuitLM(Flat(), HEAD, block_length=8, **how)
    found = others.llada(lm, prompts(), MASK, **LONG, steps=steps, remasking="random")
    return behind(found, 3)


def run_llada_in_a_long_block(steps: int, how: dict[str, Any]) -> list[Tensor]:
    """Thrice as long as the circuit, in the end one token a step."""
    lm, steps = CircuitLM(Flat(), HEAD, **how), {1: 1, 2: 2, 8: 24}[steps]
    return behind(others.llada(lm, prompts(), MASK, gen_length=24, block_length=24, steps=steps), 3)


def run_llada_in_known_blocks(steps: int, how: dict[str, Any]) -> list[Tensor]:
    lm = CircuitLM(Flat(), HEAD, prompt_length=3, block_length=8, **how)
    found = others.llada(lm, prompts(), MASK, **LONG, steps=steps)
    return behind(found, 3)


def run_dllm(steps: int, how: dict[str, Any]) -> list[Tensor]:
    lm = CircuitLM(Flat(), HEAD, **how)
    return others.dllm(lm, ragged(), MASK, PAD, **LONG, steps=steps)


def run_dllm_shifted(steps: int, how: dict[str, Any]) -> list[Tensor]:
    lm = CircuitLM(Flat(), HEAD, right_shift=True, block_length=8, **how)
    return others.dllm(lm, ragged(), MASK, PAD, **LONG, steps=steps, right_shift=True)


def run_bd3lm(steps: int, how: dict[str, Any]) -> list[Tensor]:
    lm = CircuitLM(Flat(), HEAD, **how)
    pad = 9  # a token of its own, which the circuit does not know
    return others.bd3lm(lm, ragged(), MASK, pad, **LONG, steps=steps)


def run_prefix_cache(steps: int, how: dict[str, Any]) -> list[Tensor]:
    lm = CircuitLM(Flat(), HEAD, **how)
    found = others.fast_dllm(lm, prompts(), MASK, **LONG, steps=steps, dual=False)
    return behind(found, 3)


def run_dual_cache(steps: int, how: dict[str, Any]) -> list[Tensor]:
    lm = CircuitLM(Flat(), HEAD, **how)
    found = others.fast_dllm(lm, prompts(), MASK, **LONG, steps=steps, dual=True)
    return behind(found, 3)


def run_threshold(steps: int, how: dict[str, Any]) -> list[Tensor]:
    lm, threshold = CircuitLM(Flat(), HEAD, **how), {1: 0.0, 2: 0.5, 8: 1.0}[steps]
    found = others.fast_dllm(lm, prompts(), MASK, **LONG, steps=8, dual=False, threshold=threshold)
    return behind(found, 3)


def run_transfer_index(steps: int, how: dict[str, Any]) -> list[Tensor]:
    choose = circuit_transfer_index(HEAD, others.transfer_index, **how)
    found = others.fast_dllm(
        Flat(), prompts(), MASK, **LONG, steps=steps, dual=False, choose=choose
    )
    return inside(found, 3, 8)


def run_dream(algorithm: str) -> Run:
    def run(steps: int, how: dict[str, Any]) -> list[Tensor]:
        hook = dream_hook(HEAD, **how)
        found = others.dream(
            Flat(), prompts(), MASK, hook, gen_length=8, steps=steps, algorithm=algorithm
        )
        return behind(found, 3)

    return run


def run_mdlm(steps: int, how: dict[str, Any]) -> list[Tensor]:
    lm = CircuitLM(Flat(V + 1), HEAD, **{"confidence": False} | how)
    text = torch.full((TEXTS, 12), MASK)
    return list(others.mdlm(lambda x: others.subs(lm(x).logits, x, MASK), text, MASK, steps=steps))


def inside(texts: Tensor, prompt: int, block: int) -> list[Tensor]:
    """Blocks by themselves: a sampler that hands over no more than these knows no more."""
    return list(texts[:, prompt:].unflatten(1, (-1, block)).flatten(0, 1))


def run_sglang(steps: int, how: dict[str, Any]) -> list[Tensor]:
    config = SimpleNamespace(block_size=8, mask_id=MASK, threshold={1: 0.0, 2: 0.5, 8: 1.0}[steps])
    algorithm = circuit_algorithm(HEAD, others.LowConfidence, **how)(config)
    assert type(algorithm).__name__ == "CircuitLowConfidence"
    batch = SimpleNamespace(input_ids=torch.full((TEXTS * 8,), MASK))
    batch.input_ids.view(TEXTS, 8)[::2, :3] = prompts()[::2]
    while bool((batch.input_ids == MASK).any()):
        algorithm.step(batch, torch.zeros(TEXTS * 8, V), [None] * TEXTS)
    return list(batch.input_ids.view(TEXTS, 8))


def run_remask(steps: int, how: dict[str, Any]) -> list[Tensor]:
    remask = circuit_remask(HEAD, others.batched_remask, **how)
    draft, threshold = torch.full((TEXTS, 8), MASK), {1: 0.0, 2: 0.5, 8: 1.0}[steps]
    draft[::2, :3] = prompts()[::2]
    while bool((draft == MASK).any()):
        draft, _, _ = remask(torch.zeros(TEXTS, 8, V), draft, MASK, threshold)
    return list(draft)


def run_policy(steps: int, how: dict[str, Any]) -> list[Tensor]:
    policy, found = circuit_policy(HEAD, others.Policy(), **how), []
    config = {"mask_token_id": MASK, "num_transfer": 8 // steps}
    for text in range(TEXTS // 8):  # one request at a time; every token comes first as often
        draft = (text % V, *[MASK] * 7)
        while MASK in draft:
            done = policy.apply(
                input_draft=draft, logits=torch.zeros(8, V), remasking_config=config
            )
            draft = done.next_input_block
        found.append(torch.tensor(draft))
    return found


def run_decoder(steps: int, how: dict[str, Any]) -> list[Tensor]:
    decoder = others.Decoder(0.0, {1: 0.0, 2: 0.5, 8: 1.0}[steps], MASK)
    made = circuit_decoder(HEAD, decoder, **how)
    x = torch.cat([prompts(), torch.full((TEXTS, 16), MASK)], dim=1)
    for start in (3, 11):
        while bool((x[:, start : start + 8] == MASK).any()):
            made.decode(torch.zeros(TEXTS, 8, V), start, start + 8, x)
    return behind(x, 3)


RUNS: dict[str, Run] = {
    "LLaDA": run_llada,
    "LLaDA, random": run_llada_at_random,
    "LLaDA, a long block": run_llada_in_a_long_block,
    "LLaDA, known blocks": run_llada_in_known_blocks,
    "dllm, ragged": run_dllm,
    "dllm, ragged, shifted": run_dllm_shifted,
    "BD3LM, ragged": run_bd3lm,
    "Fast-dLLM, prefix cache": run_prefix_cache,
    "Fast-dLLM, dual cache": run_dual_cache,
    "Fast-dLLM, threshold": run_threshold,
    "Fast-dLLM, get_transfer_index": run_transfer_index,
    "Dream, origin": run_dream("origin"),
    "Dream, maskgit_plus": run_dream("maskgit_plus"),
    "Dream, topk_margin": run_dream("topk_margin"),
    "Dream, entropy": run_dream("entropy"),
    "MDLM": run_mdlm,
    "SGLang": run_sglang,
    "vLLM, batched_remask": run_remask,
    "vLLM, policy": run_policy,
    "dInfer": run_decoder,
}


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("sampler", RUNS)
def test_committed_pairs_follow_the_joint(sampler: str, steps: int) -> None:
    torch.manual_seed(7)
    assert distance(RUNS[sampler](steps, {})) < 0.1


def at_one(logits: Tensor) -> tuple[Tensor, Tensor]:
    """A token drawn at every position by itself, and its probability."""
    p = logits.softmax(dim=-1)
    token = torch.multinomial(p.flatten(0, -2), 1).view(p.shape[:-1])
    return token, p.gather(-1, token.unsqueeze(-1)).squeeze(-1)


@pytest.mark.parametrize("sampler", RUNS)
def test_draws_from_marginals_are_told_apart(sampler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(7)
    monkeypatch.setattr(others, "greedy", at_one)
    more = {"confidence": True} if sampler == "MDLM" else {}
    assert distance(RUNS[sampler](1, {"mode": "marginal"} | more)) > 0.15
