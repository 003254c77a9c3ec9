"""The plugs in samplers of transformers and diffusers, as they are installed, with tiny models."""

from types import SimpleNamespace
from typing import Any

import other_samplers as others
import pytest
import torch
from test_plugs import HEAD, MASK, STEPS, TEXTS, Flat, V, behind, chain, distance, prompts
from torch import Tensor

from pcflow_diffusion import CircuitHead, CircuitLM, circuit_processor, circuit_scheduler
from pcflow_diffusion.errors import GenerationError

DIFFUSERS = "diffusers: pip install 'pcflow[plugs]'"
TRANSFORMERS = "transformers: pip install 'pcflow[plugs]'"


def pipeline(model: Any, scheduler: Any, text: Tensor, steps: int, **how: Any) -> Tensor:
    diffusers = pytest.importorskip("diffusers", reason=DIFFUSERS)
    pipe = diffusers.LLaDA2Pipeline(model=model, scheduler=scheduler, tokenizer=None)
    pipe.set_progress_bar_config(disable=True)
    found: Tensor = pipe(
        input_ids=text,
        gen_length=16,
        block_length=8,
        num_inference_steps=steps,
        mask_token_id=MASK,
        threshold=2.0,  # so many tokens a step, and no more
        output_type="seq",
        **how,
    ).sequences
    return torch.cat([text[:, -1:], found], dim=1)


def block_scheduler() -> Any:
    diffusers = pytest.importorskip("diffusers", reason=DIFFUSERS)
    return diffusers.BlockRefinementScheduler()


class Told(Flat):
    """The same, with what a pipeline reads off a model."""

    device, dtype = torch.device("cpu"), torch.float32


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("length", [3, 8])
def test_diffusers_with_a_circuit_as_its_model(steps: int, length: int) -> None:
    """Prompts that end within a block and at its end; editing is on by default."""
    torch.manual_seed(7)
    lm = CircuitLM(Told(), HEAD)
    found = pipeline(lm, block_scheduler(), prompts(length), steps)
    assert distance(list(found)) < 0.1


@pytest.mark.parametrize("steps", STEPS)
def test_diffusers_with_a_scheduler(steps: int) -> None:
    """It sees blocks of 8 alone: prompts of 4 are on their left half."""
    torch.manual_seed(7)
    scheduler = block_scheduler()
    made = circuit_scheduler(HEAD, scheduler)
    found = pipeline(Told(), made, prompts(4), steps)
    assert distance(list(found[:, :5])) < 0.1
    assert "step" not in vars(scheduler), "the one that was given stays as it is"


def test_diffusers_with_marginals_draws_independently() -> None:
    torch.manual_seed(7)
    lm = CircuitLM(Told(), HEAD, mode="marginal")
    found = pipeline(lm, block_scheduler(), prompts(8), 1, temperature=1.0, editing_threshold=None)
    assert distance(list(found)) > 0.15
    with pytest.raises(GenerationError, match="temperature"):
        pipeline(Told(), circuit_scheduler(HEAD, block_scheduler()), prompts(8), 1, temperature=1.0)


@pytest.mark.parametrize("steps", STEPS)
def test_transformers_output_goes_through(steps: int) -> None:
    """A masked language model that knows nothing."""
    transformers = pytest.importorskip("transformers", reason=TRANSFORMERS)
    torch.manual_seed(7)
    config = transformers.BertConfig(
        vocab_size=V + 1,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
    )
    model = transformers.BertForMaskedLM(config).eval()
    torch.nn.init.zeros_(model.cls.predictions.decoder.weight)
    lm = CircuitLM(model, HEAD)
    output = lm(prompts()[:2], attention_mask=torch.ones(2, 3))
    assert type(output) is type(model(prompts()[:2])) and output.logits is output["logits"]
    assert (lm.config, lm.device, lm.dtype) == (config, model.device, model.dtype)
    sizes = {"gen_length": 16, "block_length": 8, "steps": steps}
    assert distance(behind(others.llada(lm, prompts(), MASK, **sizes), 3)) < 0.1


def diffusion_gemma() -> Any:
    """A model of a few weights, and the library."""
    transformers = pytest.importorskip("transformers", reason=TRANSFORMERS)
    if not hasattr(transformers, "DiffusionGemmaForBlockDiffusion"):
        pytest.skip(f"no DiffusionGemma in transformers {transformers.__version__}")
    text = {
        "vocab_size": V,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 2,
        "layer_types": ["sliding_attention", "full_attention"],
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "global_head_dim": 8,
        "num_experts": 2,
        "top_k_experts": 1,
        "moe_intermediate_size": 8,
        "pad_token_id": None,
        "eos_token_id": None,
        "bos_token_id": None,
    }
    config = transformers.DiffusionGemmaConfig(text_config=text, canvas_length=4)
    model = transformers.DiffusionGemmaForBlockDiffusion(config).eval()
    return transformers, model


@pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning")  # torch, on its own
def test_diffusion_gemma_takes_marginals() -> None:
    """The chain stays where it is: so does a canvas whose logits are its marginals."""
    transformers, model = diffusion_gemma()
    torch.manual_seed(7)
    text = torch.arange(V).repeat_interleave(8).unsqueeze(-1).expand(-1, 2)
    seen: list[Tensor] = []

    def watched(input_ids: Tensor, scores: Tensor) -> Tensor:
        seen.append(process(input_ids, scores))
        return seen[-1]

    process = circuit_processor(CircuitHead(chain(8).model, V, coupling="product"))
    found = model.generate(
        text,
        max_new_tokens=8,
        max_denoising_steps=3,
        logits_processor=transformers.LogitsProcessorList([watched]),
    ).sequences
    assert found.shape == (32, 10)
    assert len(seen) >= 2 and all(bool(scores.isfinite().all()) for scores in seen)
    assert float((found[:, 2] == text[:, 0]).double().mean()) > 0.9
    plain = model.generate(text, max_new_tokens=8, max_denoising_steps=3).sequences
    assert float((plain[:, 2] == text[:, 0]).double().mean()) < 0.7


def test_the_suite_knows_its_chain() -> None:
    assert len(prompts()) == TEXTS and isinstance(Told.config, SimpleNamespace)
