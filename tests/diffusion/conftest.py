from typing import Any

import pytest
import torch
from torch import Tensor


@pytest.fixture(scope="session")
def trained() -> dict[object, Any]:
    """Denoisers by what they were trained on: several experiments are about one text."""
    return {}


@pytest.fixture
def in_small(monkeypatch: pytest.MonkeyPatch, trained: dict[object, Any]) -> None:
    """Experiments on a text learn from 300 blocks, couplings from 64, a denoiser in 40 steps.

    Steps, not minutes: what is learned does not depend on what else the machine does. A judge, too,
    is small.
    """
    # imported late: benchmarks/mutants.py changes what tests import, after conftests are read
    from pcflow_diffusion.evaluate import few_step_of_text, setting
    from pcflow_diffusion.evaluate.setting import Material
    from pcflow_diffusion.models import (
        Denoiser,
        DenoiserConfig,
        Judge,
        TransformerConfig,
        train_denoiser,
        train_judge,
    )

    some, examples = Material.some, Material.examples

    def few(self: Material, count: int, generator: torch.Generator | None = None) -> Tensor:
        return some(self, min(count, 300), generator)

    def train(tokens: Tensor, config: DenoiserConfig, minutes: float, **how: Any) -> Denoiser:
        small = DenoiserConfig(config.vocabulary_size, width=64, depth=1, heads=2)
        about = (tokens.numpy().tobytes(), small, how["seed"])
        if about not in trained:
            trained[about] = train_denoiser(tokens, small, steps=40, **how)
        return trained[about]

    def train_reader(rows: Tensor, config: TransformerConfig, minutes: float, **how: Any) -> Judge:
        small = TransformerConfig(config.vocabulary_size, width=32, depth=1, heads=2)
        return train_judge(rows, small, steps=20, **how)

    monkeypatch.setattr(Material, "some", few)
    monkeypatch.setattr(Material, "examples", lambda self, x, g: examples(self, x[:64], g))
    monkeypatch.setattr(setting, "train_denoiser", train)
    monkeypatch.setattr(few_step_of_text, "train_judge", train_reader)
