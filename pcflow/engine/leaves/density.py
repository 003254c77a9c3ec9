"""Input units over variables without a finite range.

Legend: F folds, B batch, K units, S statistics, N entries (fold, row).
"""

from __future__ import annotations

import torch
from torch import Tensor

from pcflow.engine.leaves.base import Leaf
from pcflow.engine.log_semiring import LogSumProduct
from pcflow.engine.routes import Route
from pcflow.engine.semiring import Scaled, Value
from pcflow.inputs import DensityFamily


class DensityLeaf(Leaf):
    """Input units that evaluate a log-density."""

    def up(self, out: Value) -> None:
        """Log-densities, split into a scale and a mantissa; missing entries are one."""
        self.out = out
        log_prob = self.log_prob(self.params())
        if not isinstance(self.semiring, Scaled):
            out.units.copy_(log_prob)
            return
        scale = log_prob.amax(dim=-1)  # [F, B]
        out.scale.copy_(scale)
        torch.exp(log_prob - scale.nan_to_num(neginf=0.0).unsqueeze(-1), out=out.units)
        self.semiring.raise_(out.units)

    def params(self) -> dict[str, Tensor]:
        """Raw parameters, detached."""
        return {n: p.detach() for n, p in self.tables.parameters(self.step).items()}

    def log_prob(self, params: dict[str, Tensor]) -> Tensor:
        """Log of the unit values [F, B, K]; at the mode where a missing value is maximised."""
        assert isinstance(self.step.family, DensityFamily)
        log_prob = self.step.family.log_prob(params, self.x)
        if not self.any_missing:
            return log_prob
        idle = log_prob.new_zeros(())
        if self.semiring.maximizes:
            assert isinstance(self.semiring, LogSumProduct)
            peak = torch.diagonal(
                self.step.family.log_prob(params, self.step.family.mode(params)), dim1=-2, dim2=-1
            ).expand(len(self.x), -1)  # [F, K]
            idle = self.semiring.over_reals(peak, self.step.variables).unsqueeze(-2)  # [F, 1, K]
        return torch.where(self.missing.unsqueeze(-1), idle, log_prob)

    def means(self) -> Tensor:
        """Expected value [F, K] of every unit."""
        assert isinstance(self.step.family, DensityFamily)
        found = self.step.family.mean(self.params())
        return found.expand(len(self.x), -1)

    def counts(self, slope: Tensor) -> tuple[Tensor, Tensor]:
        """Observed flow [F, K] and flow-weighted statistics [F, S, K]."""
        assert isinstance(self.step.family, DensityFamily)
        observed = self.observed_flow(slope)
        statistics = self.step.family.statistics(self.x)  # [F, B, S]
        return observed.sum(dim=1), torch.einsum("fbs,fbk->fsk", statistics, observed)

    def gradients(
        self, slope: Tensor, potentials: Tensor | None, learns: bool
    ) -> dict[str, Tensor]:
        """By the family's own log-density; there are no potentials here."""
        if not learns:
            return {}
        flow = self.semiring.flow(self.out.units, slope)
        with torch.enable_grad():
            leaves = {n: p.requires_grad_() for n, p in self.params().items()}
            log_prob = self.log_prob(leaves)
        grads = torch.autograd.grad(log_prob, list(leaves.values()), flow)
        return dict(zip(leaves, grads, strict=True))

    def draw(self, unit: Tensor, fold: Tensor, row: Tensor, route: Route) -> Tensor:
        """Draws, or modes, of the density."""
        assert isinstance(self.step.family, DensityFamily)
        params = {
            name: p.expand(len(self.x), *p.shape[1:])[fold, ..., unit]
            for name, p in self.params().items()
        }
        return route.value(self.step.family, params)
