"""The whole circuit as one differentiable function: forward is `up`, backward is `down`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pcflow.engine import Engine
from pcflow.evidence import CheckedEvidence
from pcflow.leaves import Leaf
from pcflow.plan import BankRead
from pcflow.tables import BankSums


def differentiable_log_prob(engine: Engine, evidence: CheckedEvidence) -> Tensor:
    """Log-probability [B] (nats), differentiable once in the parameters and log-potentials."""
    banks = engine.tables.banks
    learns = any(
        tensor.requires_grad for tensor in (*banks, evidence.log_potentials) if tensor is not None
    )
    if not (learns and torch.is_grad_enabled()):
        return engine.log_value(evidence)
    apply = cast(Callable[..., Tensor], _LogProb.apply)
    return apply(engine, evidence, evidence.log_potentials, *banks)


class _LogProb(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, engine: Engine, evidence: CheckedEvidence, potentials: Tensor, *banks: Tensor
    ) -> Tensor:
        ctx.engine, ctx.evaluation = engine, engine.evaluate(evidence)
        ctx.versions = [bank._version for bank in banks]
        ctx.save_for_backward(potentials)
        log_value: Tensor = ctx.evaluation.log_value.clone()
        return log_value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        engine: Engine = ctx.engine
        banks = engine.tables.banks
        if [bank._version for bank in banks] != ctx.versions:
            raise RuntimeError("parameters were edited between log_prob and backward")
        (potentials,) = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        gradients = _Gradients(engine, wanted[3:], potentials if wanted[2] else None)
        ctx.evaluation.down(grad, gradients)
        return None, None, gradients.potentials, *map(gradients.of_bank, range(len(banks)))


class _Gradients:
    """Gradients of banks and potentials, from what a way down finds."""

    def __init__(self, engine: Engine, wanted: Sequence[bool], potentials: Tensor | None) -> None:
        self.engine, self.wanted = engine, wanted
        self.wants_weights = any(wanted)
        self.potentials = None if potentials is None else torch.zeros_like(potentials)
        self.sums = BankSums(engine.plan)

    def of_bank(self, bank: int) -> Tensor | None:
        """The gradient of a bank, if it is wanted."""
        if not self.wanted[bank]:
            return None
        found = self.sums.found.get(bank)
        return torch.zeros_like(self.engine.tables.banks[bank]) if found is None else found

    def at_weights(self, read: BankRead, flow: Tensor) -> None:
        """By the adjoint of the softmax."""
        if self.wanted[read.bank]:
            total = flow.sum(dim=-1, keepdim=True)
            weights = self.engine.tables.linear(read.bank)[read.rows]
            self.sums.add(read, flow.addcmul_(weights, total, value=-1.0))

    def at_leaf(self, leaf: Leaf, slope: Tensor) -> None:
        """By the family's own rule."""
        learns = any(self.wanted[read.bank] for read in leaf.step.parameters.values())
        soft, rows = self.potentials, leaf.rows
        part = soft if soft is None or rows is None else torch.zeros_like(soft[rows])
        for name, gradient in leaf.gradients(slope, part, learns).items():
            if self.wanted[leaf.step.parameters[name].bank]:
                self.sums.add(leaf.step.parameters[name], gradient)
        if soft is not None and part is not None and rows is not None:
            soft[rows] += part
