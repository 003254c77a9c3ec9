"""The whole circuit as one differentiable function: forward is `up`, backward is `down`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pcflow.engine import Engine
from pcflow.evidence import CheckedEvidence
from pcflow.inputs import FiniteFamily
from pcflow.leaves import DensityLeaf, FiniteLeaf
from pcflow.passes import Slopes, Tape
from pcflow.plan import InputStep
from pcflow.tables import accumulate


def differentiable_log_prob(engine: Engine, evidence: CheckedEvidence) -> Tensor:
    """Log-probability [B] (nats), differentiable once in the parameters and log-potentials."""
    apply = cast(Callable[..., Tensor], _LogProb.apply)
    return apply(engine, evidence, evidence.log_potentials, *engine.tables.banks)


class _LogProb(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, engine: Engine, evidence: CheckedEvidence, potentials: Tensor, *banks: Tensor
    ) -> Tensor:
        evaluation = engine.evaluate(evidence)
        if any(ctx.needs_input_grad):
            ctx.engine, ctx.evaluation = engine, evaluation
            ctx.versions = [bank._version for bank in banks]
            ctx.save_for_backward(potentials)
        return evaluation.log_value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        engine: Engine = ctx.engine
        banks = engine.tables.banks
        if [bank._version for bank in banks] != ctx.versions:
            raise RuntimeError("parameters were edited between log_prob and backward")
        (potentials,) = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        slope = torch.zeros_like(potentials) if wanted[2] else None
        grads = [torch.zeros_like(b) if w else None for b, w in zip(banks, wanted[3:], strict=True)]
        for tape, slopes, rows in ctx.evaluation.down(grad):
            part = slope if rows is None or slope is None else torch.zeros_like(slope[rows])
            _backward(engine, tape, slopes, part, grads)
            if slope is not None and part is not None and rows is not None:
                slope[rows] = part
        return None, None, slope, *grads


def _backward(
    engine: Engine,
    tape: Tape,
    slopes: Slopes,
    potentials: Tensor | None,
    grads: list[Tensor | None],
) -> None:
    """Add one tape's share to the gradients."""
    for bank, weights in slopes.weights.items():
        grad = grads[bank]
        if grad is not None:
            grad += engine.tables.weight_gradient(bank, weights)
    for number, leaf in tape.leaves.items():
        step = leaf.step
        learns = any(grads[read.bank] is not None for read in step.parameters.values())
        if learns or potentials is not None:
            found = _input_gradient(engine, leaf, slopes.sheet.outs[number].units, potentials)
            _accumulate(step, found, grads)


def _input_gradient(
    engine: Engine, leaf: FiniteLeaf | DensityLeaf, slope: Tensor, potentials: Tensor | None
) -> dict[str, Tensor]:
    if isinstance(leaf, DensityLeaf):
        return leaf.gradients(slope)
    counts = leaf.counts(slope, potentials)
    family = leaf.step.family
    assert isinstance(family, FiniteFamily)
    table = engine.tables.table(leaf.step, in_log_space=False)
    return family.table_gradient(engine.tables.parameters(leaf.step), table, counts)


def _accumulate(step: InputStep, found: dict[str, Tensor], grads: list[Tensor | None]) -> None:
    for name, gradient in found.items():
        read = step.parameters[name]
        grad = grads[read.bank]
        if grad is not None:
            accumulate(grad, read, gradient)
