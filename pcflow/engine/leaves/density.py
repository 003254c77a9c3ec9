"""Input units over variables without a finite range.

Legend: F folds, B batch, D variables, K units, S statistics, N entries (fold, row).
"""

from __future__ import annotations

import torch
from torch import Tensor

from pcflow.engine.leaves.base import Leaf
from pcflow.engine.plan import InputStep
from pcflow.engine.routes import Route
from pcflow.engine.semiring import Semiring, Value
from pcflow.engine.tables import Tables
from pcflow.evidence import CheckedEvidence
from pcflow.inputs import DensityFamily


class DensityLeaf(Leaf):
    """Input units that evaluate a log-density."""

    def __init__(
        self, step: InputStep, tables: Tables, evidence: CheckedEvidence, semiring: Semiring
    ) -> None:
        """Look up the values."""
        super().__init__(step, tables, evidence, semiring)
        assert isinstance(step.family, DensityFamily)
        self.family = step.family

    def up(self, out: Value) -> None:
        """Log-densities; missing entries are one."""
        self.out = out
        self.semiring.write(self.log_prob(self.params(), self.x), out)

    def params(self) -> dict[str, Tensor]:
        """Raw parameters, detached."""
        return {n: p.detach() for n, p in self.tables.parameters(self.step).items()}

    def log_prob(self, params: dict[str, Tensor], x: Tensor) -> Tensor:
        """Log of the unit values [F, B, K]; at the mode where a missing value is maximised."""
        log_prob = self.family.log_prob(params, x)
        if not self.any_missing:
            return log_prob
        idle = log_prob.new_zeros(())
        if self.semiring.maximizes:
            peak = torch.diagonal(
                self.family.log_prob(params, self.family.mode(params)), dim1=-2, dim2=-1
            ).expand(len(self.x), -1)  # [F, K]
            idle = self.semiring.over_reals(peak, self.step.variables).unsqueeze(-2)  # [F, 1, K]
        return torch.where(self.missing.unsqueeze(-1), idle, log_prob)

    def means(self) -> Tensor:
        """Expected value [F, K] of every unit."""
        return self.family.mean(self.params()).expand(len(self.x), -1)

    def counts(self, slope: Tensor) -> tuple[Tensor, Tensor]:
        """Observed flow [F, K] and the tallies [F, S, K] of what was observed with it."""
        observed = self.observed_flow(slope)
        x = self.x.masked_fill(self.missing, torch.nan) if self.any_missing else self.x
        return observed.sum(dim=1), self.family.tally(self.params(), x, observed)

    def gradients(self, slope: Tensor) -> dict[str, Tensor]:
        """By the family's own log-density."""
        flow = self.semiring.flow(self.out.units, slope)
        with torch.enable_grad():
            leaves = {n: p.requires_grad_() for n, p in self.params().items()}
            log_prob = self.log_prob(leaves, self.x)
        grads = torch.autograd.grad(log_prob, list(leaves.values()), flow)
        return dict(zip(leaves, grads, strict=True))

    def add_to_potentials(self, slope: Tensor, gradient: Tensor) -> None:
        """There are none here."""

    def add_to_values(self, slope: Tensor, gradient: Tensor) -> None:
        """By the family's own log-density, whose slope is zero where it does not know x."""
        flow = self.observed_flow(slope)
        with torch.enable_grad():
            x = self.x.detach().requires_grad_()
            log_prob = self.family.log_prob(self.params(), x)
        if log_prob.requires_grad:
            (found,) = torch.autograd.grad(log_prob, x, flow)  # [F, B]
            row = self.in_batch(torch.arange(x.shape[1], device=x.device))
            place = (row.unsqueeze(-1), self.step.variables)
            gradient.index_put_(place, found.t(), accumulate=True)

    def draw(self, unit: Tensor, fold: Tensor, row: Tensor, route: Route) -> Tensor:
        """Draws, or modes, of the density."""
        params = {
            name: p.expand(len(self.x), *p.shape[1:])[fold, ..., unit]
            for name, p in self.params().items()
        }
        return route.value(self.family, params)
