"""The whole circuit as one differentiable function: forward is `up`, backward is `down`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor

from pcflow.engine.evaluate import Engine
from pcflow.engine.evaluation import Evaluation
from pcflow.engine.leaves import Leaf
from pcflow.engine.modes import in_ordinary_modes
from pcflow.engine.once import once
from pcflow.engine.plan import BankRead
from pcflow.engine.tables import BankSums, Tables
from pcflow.engine.versions import Stamp
from pcflow.evidence import CheckedEvidence


def differentiable_log_prob(engine: Engine, evidence: CheckedEvidence) -> Tensor:
    """Log-probability [B] (nats), differentiable once in parameters, potentials and real values.

    In parameters by row, too.

    Raises:
        Unsupported: when it is differentiated a second time.
    """
    banks = banks_of(engine, evidence)
    if not _learns(evidence, banks):
        return engine.log_value(evidence)
    evidence = _to_be_saved(evidence)
    apply = cast(Callable[..., Tensor], _LogProb.apply)
    return apply(engine, evidence, evidence.values, evidence.log_potentials, *banks)


def differentiable_leaves(engine: Engine, evidence: CheckedEvidence) -> list[Tensor]:
    """Logarithms [F, B, K] of the units of every input step, differentiable as `log_prob` is."""
    banks = banks_of(engine, evidence)
    if not _learns(evidence, banks):
        return [leaf.out.units for leaf in engine.log_leaves(evidence)]
    evidence = _to_be_saved(evidence)
    apply = cast(Callable[..., tuple[Tensor, ...]], _LogLeaves.apply)
    return list(apply(engine, evidence, evidence.values, evidence.log_potentials, *banks))


def _learns(evidence: CheckedEvidence, banks: Sequence[Tensor]) -> bool:
    inputs = (evidence.values, evidence.log_potentials, *banks)
    wanted = any(tensor.requires_grad for tensor in inputs if tensor is not None)
    return wanted and torch.is_grad_enabled()


def _to_be_saved(evidence: CheckedEvidence) -> CheckedEvidence:
    """The same, without potentials of inference mode, which cannot be saved."""
    potentials = evidence.log_potentials
    if potentials is None or not potentials.is_inference():
        return evidence
    return replace(evidence, log_potentials=potentials.clone())


class _LogLeaves(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        engine: Engine,
        evidence: CheckedEvidence,
        values: Tensor,
        potentials: Tensor | None,
        *banks: Tensor,
    ) -> tuple[Tensor, ...]:
        _keep(ctx, engine, evidence, potentials)
        ctx.leaves = engine.log_leaves(evidence)
        ctx.stamps = engine.tables.cache.stamps
        return tuple(leaf.out.units.clone() for leaf in ctx.leaves)

    @staticmethod
    @in_ordinary_modes
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        refuse_edits(ctx.engine, ctx.stamps)
        ctx.engine.tables.cache.watch()
        _ = ctx.saved_tensors
        with torch.no_grad():
            gradients = _Gradients(ctx.engine, ctx.evidence, ctx.needs_input_grad)
            for leaf, grad in zip(ctx.leaves, grads, strict=True):
                gradients.at_leaf(leaf, grad)
            found = [*map(gradients.of_bank, range(len(gradients.banks)))]
        return once(None, None, gradients.values, gradients.potentials, *found)


def banks_of(engine: Engine, evidence: CheckedEvidence) -> Sequence[Tensor]:
    """The parameters [P, ...] that are read, [B, P, ...] where every row has its own."""
    banks, own = engine.tables.banks, evidence.parameters
    return banks if own is None else own.in_place_of(banks)


def _keep(ctx: Any, engine: Engine, evidence: CheckedEvidence, potentials: Tensor | None) -> None:
    """Keep what backward needs; of what torch saves it notices if it is edited in between."""
    ctx.engine, ctx.evidence = engine, evidence
    own = () if evidence.parameters is None else evidence.parameters.by_bank.values()
    ctx.save_for_backward(potentials, *own)


class _LogProb(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        engine: Engine,
        evidence: CheckedEvidence,
        values: Tensor,
        potentials: Tensor | None,
        *banks: Tensor,
    ) -> Tensor:
        _keep(ctx, engine, evidence, potentials)
        ctx.evaluation = None
        if len(engine.parts(evidence)) > 1:  # too much to keep: each part is run again on its way
            ctx.evidence = evidence.copy()
            log_value = engine.log_value(evidence)
        else:
            ctx.evaluation = engine.evaluate(evidence)
            log_value = ctx.evaluation.log_value.clone()
        ctx.stamps = engine.tables.cache.stamps
        return log_value

    @staticmethod
    @in_ordinary_modes
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        with torch.no_grad():
            found = _gradients(ctx, grad)
        return once(*found)


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """Gradients of all that `forward` takes."""
    engine: Engine = ctx.engine
    refuse_edits(engine, ctx.stamps)
    engine.tables.cache.watch()
    _ = ctx.saved_tensors
    evidence: CheckedEvidence = ctx.evidence
    gradients = _Gradients(engine, evidence, ctx.needs_input_grad)
    if ctx.evaluation is not None:
        gradients.of(ctx.evaluation, grad)
    else:
        for part in engine.parts(evidence):
            gradients.of(engine.evaluate(part), grad[part.origin])
        refuse_edits(engine, ctx.stamps)
    found = map(gradients.of_bank, range(len(gradients.banks)))
    return None, None, gradients.values, gradients.potentials, *found


def refuse_edits(engine: Engine, stamps: tuple[Stamp, ...]) -> None:
    """Raise if parameters have changed since they had these stamps, for all that is known."""
    if not engine.tables.cache.unchanged_since(stamps):
        raise RuntimeError("parameters were edited between log_prob and backward")


class _Gradients:
    """Gradients of values, potentials and banks, from what a way down finds."""

    def __init__(self, engine: Engine, evidence: CheckedEvidence, wanted: Sequence[bool]) -> None:
        self.banks, self.wanted = banks_of(engine, evidence), wanted[4:]
        self.batch, own = len(evidence.values), evidence.parameters
        self.values = torch.zeros_like(evidence.values) if wanted[2] else None
        log = evidence.log_potentials if wanted[3] else None
        self.potentials = None if log is None else torch.zeros_like(log)
        by_row = frozenset(() if own is None else own.by_bank)
        self.sums = BankSums(engine.plan, engine.tables.pages, by_row)

    def of(self, evaluation: Evaluation, root_flow: Tensor) -> None:
        """Go down from where the derivative is `root_flow` [B]."""
        evaluation.down(root_flow, self.at_leaf, self.at_weights if any(self.wanted) else None)

    def of_bank(self, bank: int) -> Tensor | None:
        """The gradient of a bank, if it is wanted."""
        if not self.wanted[bank]:
            return None
        found = self.sums.found.get(bank)
        if found is None:
            return torch.zeros_like(self.banks[bank])
        return found.transpose(0, 1) if bank in self.sums.own else found

    def at_weights(self, read: BankRead, flow: Tensor, tables: Tables) -> None:
        """By the adjoint of the softmax."""
        if self.wanted[read.bank]:
            total = flow.sum(dim=-1, keepdim=True)
            weights = tables.linear(read.bank)[read.rows]
            place = self.sums.place(read, flow.shape[1:], flow)
            out = flow if place is None else place
            torch.addcmul(flow, weights, total, value=-1.0, out=out)
            if place is None:
                self.add(read, flow, tables.origin)

    def add(self, read: BankRead, folds: Tensor, origin: Tensor | None) -> None:
        """Add what belongs to the parameters of a step, or of some rows."""
        if origin is None or read.bank not in self.sums.own:
            self.sums.add(read, folds)
        else:
            self.sums.add_rows(read, folds, origin, self.batch)

    def at_leaf(self, leaf: Leaf, slope: Tensor) -> None:
        """By the family's own rule."""
        if self.potentials is not None:
            leaf.add_to_potentials(slope, self.potentials)
        if self.values is not None:
            leaf.add_to_values(slope, self.values)
        wanted = {n: r for n, r in leaf.step.parameters.items() if self.wanted[r.bank]}
        if not wanted:
            return
        places = {} if leaf.sets.by_row else self._places(wanted)
        found = leaf.gradients(slope, places)
        for name, read in wanted.items():
            if name not in places:
                self.add(read, leaf.tables.of_folds(leaf.step, read, found[name]), leaf.rows)
            elif found[name] is not places[name]:
                places[name].copy_(found[name])

    def _places(self, wanted: Mapping[str, BankRead]) -> dict[str, Tensor]:
        """Memory of gradients to which nothing else is added, by the names of parameters."""
        banks = {name: self.banks[read.bank] for name, read in wanted.items()}
        found = {n: self.sums.place(wanted[n], b.shape[1:], b) for n, b in banks.items()}
        return {name: place for name, place in found.items() if place is not None}
