"""The lines that docs/plugs.md has people paste run, with their libraries stood in for."""

import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import other_samplers as others
import pytest
import torch
from test_plugs import MASK, PAD, STAY, Flat, V, behind, chain, prompts
from torch import Tensor

import pcflow_diffusion
from pcflow_diffusion import CircuitHead, CircuitLM

PAGE = (Path(__file__).parents[2] / "docs" / "plugs.md").read_text(encoding="utf-8")
ROWS = 48
LONG = chain(43)  # so that a block of 32 and what is before it are one window


def blocks() -> list[tuple[str, str]]:
    """The fenced lines of Python, with the heading above each."""
    found, heading = [], "first"
    for part in re.finditer(
        r"^## ([^\n]+)$|^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL
    ):
        heading = part[1] or heading
        if part[2]:
            found.append((heading, part[2]))
    return found


BLOCKS = blocks()


def stays(texts: Tensor | list[Tensor]) -> float:
    """How often a token is followed by itself; .94 in the chain."""
    rows = list(texts)
    return float(torch.cat([row[1:] == row[:-1] for row in rows]).double().mean())


def llada(lm: Any, prompt: Tensor, *, steps: int, gen_length: int, block_length: int) -> Tensor:
    steps = steps * block_length // gen_length
    sizes = {"gen_length": gen_length, "block_length": block_length, "steps": steps}
    return others.llada(lm, prompt, MASK, **sizes)[:, 2:]


class MDLMSampler:
    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model, self.mask = model, tokenizer.mask_token_id

    def sample(self, asked: list[Tensor], config: Any) -> list[Tensor]:
        steps = config.steps * config.block_size // config.max_new_tokens
        sizes = {"gen_length": config.max_new_tokens, "block_length": config.block_size}
        return others.dllm(self.model, asked, self.mask, PAD, **sizes, steps=steps)


def dual_cache(
    lm: Any, prompt: Tensor, *, gen_length: int, block_length: int
) -> tuple[Tensor, int]:
    """It asks another function of its module, which may have been replaced."""
    sizes = {"gen_length": gen_length, "block_length": block_length, "steps": 2, "dual": True}
    choose = sys.modules["generate"].get_transfer_index
    return others.fast_dllm(lm, prompt, MASK, **sizes, choose=choose)[:, 3:], 0


class Dream(Flat):
    def diffusion_generate(self, prompt: Tensor, *, temperature: float, **named: Any) -> Tensor:
        assert temperature == 0.0
        hook, sizes = named["generation_logits_hook_func"], {"gen_length": 16, "steps": 2}
        return others.dream(self, prompt, MASK, hook, **sizes, algorithm="entropy")[:, 2:]


class Tokenizer:
    mask_token_id, eos_token_id = MASK, None


class Masked(Flat):
    device, dtype = torch.device("cpu"), torch.float32


def stand_ins() -> dict[str, dict[str, Any]]:
    """Modules by the names under which the page imports them."""
    return {
        "generate": {
            "generate": llada,
            "get_transfer_index": others.transfer_index,
            "generate_with_dual_cache": dual_cache,
        },
        "dllm.core.samplers": {"MDLMSampler": MDLMSampler, "MDLMSamplerConfig": SimpleNamespace},
        "dinfer.decoding.parallel_strategy": {
            "ThresholdParallelDecoder": lambda **how: others.Decoder(**how, mask_id=MASK)
        },
        "sglang.srt.dllm.algorithm": {"algo_name_to_cls": {}},
        "sglang.srt.dllm.algorithm.low_confidence": {"LowConfidence": others.LowConfidence},
        "dllm_plugin.sampling": {
            "diffusion_sampler": SimpleNamespace(batched_remask=others.batched_remask)
        },
        "dllm_plugin.remasking": {"Llada2DefaultRemaskingPolicy": others.Policy},
    }


def names(heading: str) -> dict[str, Any]:
    """What the page takes for granted under a heading."""
    prompt = prompts()[:ROWS]
    known = {"CircuitLM": CircuitLM, "head": LONG, "model": Flat(), "prompt": prompt}
    known |= {"tokenizer": Tokenizer(), "prompts": list(prompt)}
    if heading == "Dream":
        known["model"] = Dream()
    elif heading == "diffusers":
        pytest.importorskip("diffusers", reason="pip install 'pcflow[plugs]'")
        known["model"] = Masked()
    elif heading == "transformers":
        from test_plugs_installed import diffusion_gemma

        known["model"] = diffusion_gemma()[1]
        known["head"] = CircuitHead(chain(8).model, V, coupling="product")
    elif heading == "MDLM and BD3-LM":
        known["model"] = SimpleNamespace(backbone=Flat(V + 1))
    return known


@pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning")  # torch, on its own
@pytest.mark.parametrize("number", range(len(BLOCKS)), ids=[heading for heading, _ in BLOCKS])
def test_the_lines_run_and_texts_follow_the_chain(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(7)
    for name, content in stand_ins().items():
        parts = name.split(".")
        for end in range(1, len(parts) + 1):
            dotted = ".".join(parts[:end])
            if dotted not in sys.modules:
                monkeypatch.setitem(sys.modules, dotted, ModuleType(dotted))
        vars(sys.modules[name]).update(content)
    heading, lines = BLOCKS[number]
    known = names(heading)
    exec(lines, known)
    if "texts" in known:
        texts = known["texts"]
        assert 0.88 < stays(texts) < 0.999  # ranking by confidence prefers what is likely


def test_every_door_is_on_the_page() -> None:
    doors = {name for name in pcflow_diffusion.__all__ if name.startswith(("circuit_", "dream_"))}
    assert doors and all(name in PAGE for name in doors)
    assert len(BLOCKS) >= 12 and float(STAY[0, 0]) == pytest.approx(0.94)
    assert behind(prompts(), 1)[0].shape == (3,)
