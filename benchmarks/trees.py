"""A binary tree over real-valued columns, against spflow: scoring, EM and MPE."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from measure import Run, Workload, agree, backward, forward, renewed
from spflow.learn.expectation_maximization import expectation_maximization
from spflow.modules.leaves import Normal
from spflow.modules.products import ElementwiseProduct
from spflow.modules.sums import Sum
from torch import Tensor

import pcflow as pf

COLUMNS, UNITS, BATCH = 64, 32, 256
NAME = f"binary tree of {COLUMNS} Gaussians K={UNITS} B={BATCH}: "


def workloads() -> dict[str, Callable[[], Workload]]:
    """Builders by name."""
    kinds = {
        "forward": infer,
        "forward and backward": train,
        "a step of EM": em_step,
        "MPE of half the columns": completion,
    }
    return {NAME + what: partial(_named, NAME + what, kind) for what, kind in kinds.items()}


def _named(name: str, kind: Callable[[], tuple[Run, Run]]) -> Workload:
    ours, theirs = kind()
    return Workload(name, "spflow", ours, theirs)


def infer() -> tuple[Run, Run]:
    """One pass up."""
    model, theirs, x = both()
    return forward(lambda: model.log_prob(x)), forward(lambda: theirs.log_likelihood(x))


def train() -> tuple[Run, Run]:
    """One pass up and one down."""
    model, theirs, x = both()
    ours = backward(model, renewed(model, lambda: model.log_prob(x)))
    return ours, backward(theirs, renewed(theirs, lambda: theirs.log_likelihood(x)))


def em_step() -> tuple[Run, Run]:
    """Expected counts and new parameters."""
    model, theirs, x = both()
    learner = pf.EM()
    return (
        lambda: learner.epoch(model, [x]),
        lambda: expectation_maximization(theirs, x, max_steps=1),
    )


def completion() -> tuple[Run, Run]:
    """Max-product and backtracking; the peer follows heaviest branches, which is not MPE."""
    model, theirs, x = both()
    x = x.masked_fill(torch.rand(x.shape) < 0.5, torch.nan)
    return lambda: model.mpe(x), forward(lambda: theirs.sample_with_evidence(x.clone(), True))


def both() -> tuple[pf.CompiledCircuit, Any, Tensor]:
    """Both sides with the same parameters, and rows on which they agree."""
    mean, deviation = torch.randn(COLUMNS, UNITS), torch.rand(COLUMNS, UNITS) + 0.5
    leaf_values = {"loc": mean.unsqueeze(-1), "scale": deviation.unsqueeze(-1)}
    theirs: Any = Normal(list(range(COLUMNS)), UNITS, num_repetitions=1, **leaf_values)
    family = pf.Gaussian()
    layers: list[pf.circuit.Layer] = [
        pf.InputLayer(v, family, UNITS, _gaussian(mean[v], deviation[v])) for v in range(COLUMNS)
    ]
    while len(layers) > 1:
        logits = torch.randn(len(layers), UNITS, UNITS)  # [F, K, J]
        theirs = Sum(theirs, weights=logits.softmax(dim=-1).transpose(1, 2).unsqueeze(-1))
        theirs = ElementwiseProduct(theirs, num_splits=2)
        sums = [pf.SumLayer([x], pf.Parameter(w)) for x, w in zip(layers, logits, strict=True)]
        half = len(sums) // 2
        layers = [
            pf.ProductLayer(list(pair)) for pair in zip(sums[:half], sums[half:], strict=True)
        ]
    root = torch.randn(1, UNITS)
    theirs = Sum(theirs, weights=root.softmax(dim=-1).t().view(1, UNITS, 1, 1))
    model = pf.compile(pf.Circuit(pf.SumLayer(layers, pf.Parameter(root))))
    x = torch.randn(BATCH, COLUMNS)
    agree(lambda: model.log_prob(x), lambda: theirs.log_likelihood(x).flatten())
    return model, theirs, x


def _gaussian(mean: Tensor, deviation: Tensor) -> dict[str, pf.Parameter]:
    return {"mean": pf.Parameter(mean), "log_std": pf.Parameter(deviation.log())}
