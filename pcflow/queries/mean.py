"""Posterior means.

Legend: F folds, B batch, D variables.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pcflow.engine import DensityLeaf, Engine, Leaf, add_rows
from pcflow.evidence import CheckedEvidence
from pcflow.queries.marginals import Posteriors
from pcflow.queries.possible import evaluate, refuse_nan


def mean(engine: Engine, checked: CheckedEvidence) -> Tensor:
    """Posterior mean [B, D] of every variable."""
    like, size = engine.tables.like.detach(), max(1, checked.domain.largest)
    posterior = like.new_full((*checked.values.shape, size), -torch.inf)
    found = _Means(engine, posterior, like.new_zeros(checked.values.shape))
    for part in engine.parts(checked):
        evaluation = evaluate(engine, part, "mean")
        evaluation.down(torch.ones_like(evaluation.log_value), found.at_leaf)
    counted = posterior.softmax(dim=-1) @ torch.arange(size).to(like)  # [B, D]
    means = torch.where(checked.domain.real, found.mean, counted)
    kept = torch.where(checked.missing, means, checked.values.to(like.dtype))
    return refuse_nan(kept.unsqueeze(0), "mean")[0]


class _Means:
    """Writes posteriors of finite variables, and adds up `mean` [B, D] of the others."""

    def __init__(self, engine: Engine, posterior: Tensor, mean: Tensor) -> None:
        self.finite, self.mean = Posteriors(engine, posterior), mean

    def at_leaf(self, leaf: Leaf, slope: Tensor) -> None:
        self.finite.at_leaf(leaf, slope)
        if not isinstance(leaf, DensityLeaf):
            return
        means = leaf.means(slope)  # [B, F]
        rows = slice(None) if leaf.rows is None else leaf.rows
        part = self.mean[rows]
        add_rows(part.t(), leaf.step.variables, means.t())
        self.mean[rows] = part
