"""A hidden Markov model of `libcirkit` whose layers take their parameters for every row.

Legend: F folds, B batch, K units, J units read by a sum, V categories, H inputs of a layer.
"""

from __future__ import annotations

from typing import Any

import torch
from cirkit.backend.torch.layers import TorchCategoricalLayer, TorchSumLayer
from cirkit.backend.torch.semiring import LSESumSemiring
from cirkit.pipeline import PipelineContext
from cirkit.templates.pgms import hmm
from torch import Tensor


class RowCategorical(TorchCategoricalLayer):
    """Categorical inputs; `given` are their log-probabilities [F, B, K, V]."""

    given: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Look up the values [F, B, 1] of every row in its own table: [F, B, K]."""
        place = x.long().unsqueeze(-1).expand(-1, -1, self.num_output_units, 1)
        found = self.given.gather(-1, place).squeeze(-1)
        return self.semiring.map_from(found, LSESumSemiring)


class RowSum(TorchSumLayer):
    """A sum; `given` are its weights [F, B, K, J]."""

    given: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Inputs [F, H, B, J / H], every row by its own weights: [F, B, K]."""
        side_by_side = x.permute(0, 2, 1, 3).flatten(start_dim=2)  # [F, B, J]
        return self.semiring.einsum(
            "fbi,fboi->fbo",
            inputs=(side_by_side,),
            operands=(self.given,),
            dim=-1,
            keepdim=True,
        )


class RowHMM:
    """The peer's module, with the layers replaced by those above."""

    def __init__(self, length: int, states: int, categories: int) -> None:
        """Compile."""
        context = PipelineContext("torch", semiring="lse-sum", fold=True, optimize=False)
        about = {"num_categories": categories}
        chain = hmm(range(length), num_latent_states=states, input_layer_kwargs=about)
        self.module: Any = context.compile(chain)
        layers = list(self.module.layers)
        self.inputs = [self._of_rows(one, RowCategorical, TorchCategoricalLayer) for one in layers]
        self.inputs = [one for one in self.inputs if one is not None]
        sums = [self._of_rows(one, RowSum, TorchSumLayer) for one in layers]
        self.sums = [one for one in sums if one is not None]  # from the last transition to the root

    @staticmethod
    def _of_rows(layer: Any, own: type, theirs: type) -> Any:
        if type(layer) is not theirs:
            return None
        layer.__class__ = own
        return layer

    def log_prob(self, emissions: Tensor, weights: list[Tensor], x: Tensor) -> Tensor:
        """Log-probability [B] of values [B, D], by logits [F, B, K, V] and [1, B, K, J]."""
        (only,) = self.inputs
        only.given = emissions.log_softmax(dim=-1)
        for layer, logits in zip(self.sums, weights, strict=True):
            layer.given = logits.softmax(dim=-1)
        found: Tensor = self.module(x)
        return found.flatten()

    def place(self, length: int) -> Tensor:
        """The variable of every fold of the inputs."""
        (only,) = self.inputs
        folds: Tensor = torch.as_tensor(only.scope_idx).flatten()
        assert len(folds) == length
        return folds
