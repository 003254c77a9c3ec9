"""Soft evidence that gives a circuit chosen marginals: iterative proportional fitting.

Among all distributions with the given one-site marginals, the result is the closest in KL
divergence to the circuit's posterior (Csiszar 1975; Sinkhorn's algorithm for two variables).

Legend: B batch, D variables, V categories, K states, T chain length.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pcflow import queries
from pcflow.engine import Engine
from pcflow.errors import EvidenceError, PropertyRequired
from pcflow.evidence import CheckedEvidence, Evidence
from pcflow.leaves import FiniteLeaf
from pcflow.passes import up
from pcflow.plan import InputStep, Plan, ProductStep, Read, Step, SumStep
from pcflow.semiring import SCALED


@dataclass(frozen=True, eq=False)
class ProjectedEvidence(Evidence):
    """Evidence whose potentials were fitted.

    Args:
        mismatch: [B], the largest difference between a marginal and its target that the last sweep
            found, before mending it. Zero at the fixed point.
    """

    mismatch: Tensor | None = None


def project(
    engine: Engine, evidence: Evidence | Tensor, log_marginals: Tensor, sweeps: int
) -> ProjectedEvidence:
    """Fit potentials to marginals: Gauss-Seidel on chains, simultaneous steps elsewhere."""
    if sweeps < 1:
        raise ValueError(f"sweeps must be at least 1, got {sweeps}")
    if any(n is None for n in engine.circuit.num_categories):
        raise PropertyRequired("project needs every variable to have a finite range")
    checked = engine.check(evidence)
    target = _target(engine, checked, log_marginals)
    with torch.no_grad():
        chain = _chain(engine.plan)
        if chain is None:
            potentials, mismatch = _simultaneous(engine, checked, target, sweeps)
        else:
            potentials, mismatch = _Chain(engine, checked, chain).fit(target, sweeps)
    return ProjectedEvidence(checked.values, checked.missing, potentials, mismatch=mismatch)


def _target(engine: Engine, checked: CheckedEvidence, log_marginals: Tensor) -> Tensor:
    """Normalised log-marginals [B, D, V], checked like potentials."""
    as_potentials = Evidence(checked.values, checked.missing, log_marginals.detach())
    target = engine.check(as_potentials).log_potentials
    assert target is not None
    sizes = torch.tensor([n or 0 for n in engine.circuit.num_categories], device=target.device)
    beyond = torch.arange(target.shape[-1], device=target.device) >= sizes.unsqueeze(-1)  # [D, V]
    target = target.masked_fill(beyond, -torch.inf).log_softmax(dim=-1)
    empty = target.isnan().any(dim=-1) & checked.missing
    if empty.any():
        row, variable = (int(i) for i in empty.nonzero()[0])
        raise EvidenceError(f"marginals: row {row}, variable {variable} has no mass")
    return target


def _simultaneous(
    engine: Engine, checked: CheckedEvidence, target: Tensor, sweeps: int
) -> tuple[Tensor, Tensor]:
    """All variables at once, each row as far along the common step as its dual allows.

    The dual, sum_i sum_v m_i(v) log lambda_i(v) - log Z, is concave and largest at the projection.
    """
    given, missing = checked.log_potentials, checked.missing.unsqueeze(-1)
    potentials = torch.zeros_like(target) if given is None else given.detach().clone()
    for _ in range(sweeps):
        log_q = queries.marginals(engine, Evidence(checked.values, checked.missing, potentials))
        mismatch = _mismatch(log_q, target, checked.missing)
        step = _less(target, log_q).masked_fill(~missing, 0.0)
        potentials = potentials + _step_size(engine, checked, target, potentials, step) * step
    return potentials, mismatch


def _step_size(
    engine: Engine, checked: CheckedEvidence, target: Tensor, potentials: Tensor, step: Tensor
) -> Tensor:
    """The largest of 1, 1/2, 1/4, ... [B, 1, 1] that gains at least half of what it promises.

    Independent variables gain sum_i KL(m_i | q_i) by a full step. In general a share s of it gains
    s times that if s is 1 / (number of unobserved variables), so no shorter step is tried.
    """
    reachable = step > -torch.inf
    weight = target.exp().masked_fill(~checked.missing.unsqueeze(-1) | ~reachable, 0.0)

    def dual(candidate: Tensor) -> Tensor:
        soft = CheckedEvidence(checked.values, checked.missing, candidate)
        linear = weight * candidate.masked_fill(weight == 0, 0.0)  # [B, D, V]
        return linear.sum(dim=(1, 2)) - engine.log_value(soft)

    promise = (weight * step.masked_fill(~reachable, 0.0)).sum(dim=(1, 2))  # [B]
    before, least = dual(potentials), 1.0 / checked.missing.sum(dim=-1).clamp_min(1)
    size = torch.ones_like(before)
    while True:
        gain = dual(potentials + size[:, None, None] * step) - before
        short = (gain < 0.5 * size * promise) & (size > least)
        if not short.any():
            return size[:, None, None]
        size = torch.where(short, torch.maximum(size / 2, least), size)


def _less(target: Tensor, log_q: Tensor) -> Tensor:
    """Log-ratio of two distributions; what either rules out stays ruled out."""
    return (target - log_q).masked_fill((target == -torch.inf) | (log_q == -torch.inf), -torch.inf)


def _mismatch(log_q: Tensor, target: Tensor, missing: Tensor) -> Tensor:
    """Largest absolute difference [...] of two distributions over V, where not observed."""
    worst = (log_q.exp() - target.exp()).abs().amax(dim=-1).masked_fill(~missing, 0.0)
    return worst.amax(dim=-1) if worst.dim() > 1 else worst


@dataclass(frozen=True)
class _Link:
    """One position of a chain: its input fold, and the sum that leads to the next position."""

    input_step: int
    fold: int
    onward: SumStep | None


class _Chain:
    """Gauss-Seidel sweeps along a chain.

    A sweep collects messages from the right, then goes from left to right and mends each position's
    potential from its present marginal before moving on.
    """

    def __init__(self, engine: Engine, checked: CheckedEvidence, links: list[_Link]) -> None:
        self.engine, self.checked, self.links = engine, checked, links
        self.tape = up(engine.plan, engine.tables, checked, SCALED, engine.pool)
        self.emissions = [self._leaf(link).out.units[link.fold].clone() for link in links]

    def fit(self, target: Tensor, sweeps: int) -> tuple[Tensor, Tensor]:
        given = self.checked.log_potentials
        potentials = torch.zeros_like(target) if given is None else given.detach().clone()
        for _ in range(sweeps):
            mismatch = self._sweep(potentials, target)
        return potentials, mismatch

    def _sweep(self, potentials: Tensor, target: Tensor) -> Tensor:
        """Mend every position once, in place; returns the largest mismatch [B] met."""
        right = self._from_the_right()
        root = self.engine.plan.steps[-1]
        assert isinstance(root, SumStep)
        left = self.engine.tables.weight(root, False).tensor[0].expand(len(target), -1)  # [B, K]
        worst = torch.zeros_like(target[:, 0, 0])
        for t, link in enumerate(self.links):
            worst = torch.maximum(worst, self._mend(t, left * right[t], potentials, target))
            if link.onward is not None:
                matrix = self.engine.tables.weight(link.onward, False).tensor[0]
                left = _normalise((left * self.emissions[t]) @ matrix)
        return worst

    def _mend(self, t: int, state: Tensor, potentials: Tensor, target: Tensor) -> Tensor:
        """Set one variable's potential to target / (what the rest of the chain says of it)."""
        leaf = self._leaf(self.links[t])
        variable = int(leaf.step.variables[self.links[t].fold])
        table = leaf.table[0 if leaf.shared else self.links[t].fold]  # [V, K]
        width = len(table)
        missing = self.checked.missing[:, variable]  # [B]
        log_r = (_normalise(state) @ table.t()).log()  # [B, V]
        wanted, present = target[:, variable, :width], potentials[:, variable, :width]
        mismatch = _mismatch((present + log_r).log_softmax(dim=-1), wanted, missing)
        ratio = _less(wanted, log_r)
        ratio = ratio - ratio.amax(dim=-1, keepdim=True).nan_to_num(neginf=0.0)
        mended = missing.unsqueeze(-1)
        potentials[:, variable, :width] = torch.where(mended, ratio, present)
        self.emissions[t] = torch.where(mended, ratio.exp() @ table, self.emissions[t])
        return mismatch

    def _from_the_right(self) -> list[Tensor]:
        """What the positions after t say about state t: [B, K] for every t."""
        messages = [torch.ones_like(self.emissions[-1])]
        for t in reversed(range(len(self.links) - 1)):
            onward = self.links[t].onward
            assert onward is not None
            matrix = self.engine.tables.weight(onward, False).tensor[0]
            messages.append(_normalise((self.emissions[t + 1] * messages[-1]) @ matrix.t()))
        return messages[::-1]

    def _leaf(self, link: _Link) -> FiniteLeaf:
        leaf = self.tape.leaves[link.input_step]
        assert isinstance(leaf, FiniteLeaf)
        return leaf


def _normalise(message: Tensor) -> Tensor:
    peak = message.amax(dim=-1, keepdim=True)
    return message / peak.masked_fill(peak == 0, 1.0)


def _chain(plan: Plan) -> list[_Link] | None:
    """The positions of a plan that is a chain, as `hmm` builds it; None for any other."""
    writer = {(s.units, r): n for n, s in enumerate(plan.steps) for r in range(*_span(s.out))}
    links: list[_Link] = []
    onward: Step = plan.steps[-1]
    while isinstance(onward, SumStep) and onward.folds == len(onward.inputs) == 1:
        number, row = _source(onward.inputs[0], writer)
        step = plan.steps[number]
        if isinstance(step, InputStep):
            return [*links, _Link(number, row - step.out.start, None)]
        if not isinstance(step, ProductStep) or step.folds != 1 or len(step.inputs) != 2:
            return None
        sources = [_source(read, writer) for read in step.inputs]
        here = [s for s in sources if isinstance(plan.steps[s[0]], InputStep)]
        if len(here) != 1 or step.kronecker:
            return None
        (number, row), onward = here[0], plan.steps[sources[1 - sources.index(here[0])][0]]
        after = onward if isinstance(onward, SumStep) else None
        links.append(_Link(number, row - plan.steps[number].out.start, after))
    return None


def _source(read: Read, writer: dict[tuple[int, int], int]) -> tuple[int, int]:
    """Step and arena row that a read of one fold comes from."""
    row = read.rows.start if isinstance(read.rows, slice) else int(read.rows[0])
    return writer[(read.width, row)], row


def _span(rows: slice) -> tuple[int, int]:
    return rows.start, rows.stop
