"""A binary tree over real-valued columns, against spflow: scoring, EM and MPE."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from measure import Run, Workload, agree, backward, em_step, forward, renewed
from torch import Tensor
from toy import is_installed, size

import pcflow as pf

COLUMNS, UNITS, BATCH = size((64, 32, 256), (4, 2, 64))
NAME = f"binary tree of {COLUMNS} Gaussians K={UNITS} B={BATCH}: "


Sides = tuple[Run, Run | None]


def workloads() -> dict[str, Callable[[], Workload]]:
    """Builders by name."""
    kinds = {
        "forward": infer,
        "forward and backward": train,
        "a step of EM": learning,
        "MPE of half the columns": completion,
    }
    return {NAME + what: partial(_named, NAME + what, kind) for what, kind in kinds.items()}


def _named(name: str, kind: Callable[[], Sides]) -> Workload:
    ours, theirs = kind()
    return Workload(name, "spflow", ours, theirs)


def infer() -> Sides:
    """One pass up."""
    model, theirs, x = both()
    ours = forward(lambda: model.log_prob(x))
    return ours, theirs and forward(lambda: theirs.log_likelihood(x))


def train() -> Sides:
    """One pass up and one down."""
    model, theirs, x = both()
    ours = backward(model, renewed(model, lambda: model.log_prob(x)))
    return ours, theirs and backward(theirs, renewed(theirs, lambda: theirs.log_likelihood(x)))


def learning() -> Sides:
    """Expected counts and new parameters."""
    model, theirs, x = both()
    if theirs is None:
        return em_step(model, x), None
    from spflow.learn.expectation_maximization import expectation_maximization

    return em_step(model, x), lambda: expectation_maximization(theirs, x, max_steps=1)


def completion() -> Sides:
    """Max-product and backtracking; the peer follows heaviest branches, which is not MPE."""
    model, theirs, x = both()
    x = x.masked_fill(torch.rand(x.shape) < 0.5, torch.nan)
    peer = theirs and forward(lambda: theirs.sample_with_evidence(x.clone(), True))
    return lambda: model.mpe(x), peer


@dataclass(frozen=True)
class Tree:
    """Parameters of a balanced binary tree, from the leaves to the root.

    Attributes:
        mean: of the Gaussians, [D, K].
        deviation: of the Gaussians, [D, K].
        logits: of the sums of every level, [F, K, K]; F halves from level to level.
        root: of the root, [1, K].
    """

    mean: Tensor
    deviation: Tensor
    logits: list[Tensor]
    root: Tensor


def both() -> tuple[pf.CompiledCircuit, Any, Tensor]:
    """Both sides with the same parameters, and rows on which they agree."""
    mean, deviation = torch.randn(COLUMNS, UNITS), torch.rand(COLUMNS, UNITS) + 0.5
    levels = range(COLUMNS.bit_length() - 1)
    logits = [torch.randn(COLUMNS >> level, UNITS, UNITS) for level in levels]
    tree = Tree(mean, deviation, logits, torch.randn(1, UNITS))
    model, theirs = pf.compile(_pcflow(tree)), _spflow(tree)
    x = torch.randn(BATCH, COLUMNS)
    agree(lambda: model.log_prob(x), theirs and (lambda: theirs.log_likelihood(x).flatten()))
    return model, theirs, x


def _pcflow(tree: Tree) -> pf.Circuit:
    layers: list[Any] = [
        pf.InputLayer(v, pf.Gaussian(), UNITS, _gaussian(tree.mean[v], tree.deviation[v]))
        for v in range(COLUMNS)
    ]
    for logits in tree.logits:
        sums = [pf.SumLayer([x], pf.Parameter(w)) for x, w in zip(layers, logits, strict=True)]
        half = len(sums) // 2
        layers = [
            pf.ProductLayer(list(pair)) for pair in zip(sums[:half], sums[half:], strict=True)
        ]
    return pf.Circuit(pf.SumLayer(layers, pf.Parameter(tree.root)))


def _spflow(tree: Tree) -> Any:
    """The same tree there, or None."""
    if not is_installed("spflow"):
        return None
    from spflow.modules.leaves import Normal
    from spflow.modules.products import ElementwiseProduct
    from spflow.modules.sums import Sum

    values = {"loc": tree.mean.unsqueeze(-1), "scale": tree.deviation.unsqueeze(-1)}
    found: Any = Normal(list(range(COLUMNS)), UNITS, num_repetitions=1, **values)
    for logits in tree.logits:
        found = Sum(found, weights=logits.softmax(dim=-1).transpose(1, 2).unsqueeze(-1))
        found = ElementwiseProduct(found, num_splits=2)
    return Sum(found, weights=tree.root.softmax(dim=-1).t().view(1, UNITS, 1, 1))


def _gaussian(mean: Tensor, deviation: Tensor) -> dict[str, pf.Parameter]:
    return {"mean": pf.Parameter(mean), "log_std": pf.Parameter(deviation.log())}
