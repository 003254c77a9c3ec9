from typing import Any

import pytest
import torch
from torch import Tensor


@pytest.fixture
def in_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Experiments on a text learn from 300 blocks, couplings from 64, a denoiser in 40 steps.

    Steps, not minutes: what is learned does not depend on what else the machine does.
    """
    # imported late: benchmarks/mutants.py changes what tests import, after conftests are read
    from pcflow_diffusion.evaluate import setting
    from pcflow_diffusion.evaluate.setting import Material
    from pcflow_diffusion.models import Denoiser, DenoiserConfig, train_denoiser

    some, examples = Material.some, Material.examples

    def few(self: Material, count: int, generator: torch.Generator | None = None) -> Tensor:
        return some(self, min(count, 300), generator)

    def train(tokens: Tensor, config: DenoiserConfig, minutes: float, **how: Any) -> Denoiser:
        small = DenoiserConfig(config.vocabulary_size, width=64, depth=2, heads=2)
        return train_denoiser(tokens, small, steps=40, **how)

    monkeypatch.setattr(Material, "some", few)
    monkeypatch.setattr(Material, "examples", lambda self, x, g: examples(self, x[:64], g))
    monkeypatch.setattr(setting, "train_denoiser", train)
