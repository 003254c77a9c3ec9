"""Input units over variables without a finite range.

Legend: F folds, B batch, D variables, K units, S statistics, N entries (fold, row), U intervals.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import torch
from torch import Tensor

from pcflow.engine.kernels import add_rows
from pcflow.engine.leaves.base import Leaf
from pcflow.engine.leaves.truncated import Truncated
from pcflow.engine.plan import InputStep
from pcflow.engine.routes import Route
from pcflow.engine.semiring import Semiring, Value
from pcflow.engine.tables import Tables
from pcflow.evidence import CheckedEvidence, send
from pcflow.inputs import DensityFamily, Params


class DensityLeaf(Leaf):
    """Input units that evaluate a log-density.

    Attributes:
        bounded: which entries [F, B] lie in intervals, on the CPU; None if none does.
    """

    def __init__(
        self, step: InputStep, tables: Tables, evidence: CheckedEvidence, semiring: Semiring
    ) -> None:
        """Look up the values."""
        super().__init__(step, tables, evidence, semiring)
        assert isinstance(step.family, DensityFamily)
        self.family, self.evidence, self.bounded = step.family, evidence, None
        if evidence.bounded is not None:
            here = evidence.bounded.t()[list(step.over)]
            self.bounded = here if bool(here.any()) else None

    def up(self, out: Value) -> None:
        """Log-densities; missing entries are one."""
        self.out = out
        self.semiring.write(self.log_prob(self.params()), out)

    def params(self) -> dict[str, Tensor]:
        """Raw parameters [S, ...], detached."""
        return {n: p.detach() for n, p in self.tables.parameters(self.step).items()}

    def _observed(self, params: dict[str, Tensor], x: Tensor) -> Tensor:
        """Log-densities [F, B, K] at values [F, B]."""
        log_prob = self.family.log_prob(params, self.sets.collect(x))
        return self.sets.release(log_prob, len(x))

    def log_prob(self, params: dict[str, Tensor]) -> Tensor:
        """Log of the unit values [F, B, K]; at the mode where a missing value is maximised."""
        log_prob = self._observed(params, self.x)
        if not self.any_missing:
            return log_prob
        idle = log_prob.new_zeros(())
        if self.semiring.maximizes:
            peak = self.family.log_prob(params, self.family.mode(params))
            peak = self.sets.spread(torch.diagonal(peak, dim1=-2, dim2=-1))  # [F or 1, B or 1, K]
            peak = peak.expand(len(self.x), -1, -1)
            variables = self.step.variables.unsqueeze(-1)
            idle = self.semiring.over_reals(torch.zeros_like(peak), peak, variables)
        found = torch.where(self.missing.unsqueeze(-1), idle, log_prob)
        if self.bounded is None:
            return found
        within = self.truncated(params).value(self.semiring, self.step.variables[self.bounds[0]])
        return found.index_put(self.bounds, within)

    @cached_property
    def bounds(self) -> tuple[Tensor, Tensor]:
        """Fold and row [N] of what lies in intervals."""
        assert self.bounded is not None
        return self.places(self.bounded)

    def truncated(self, params: Params) -> Truncated:
        """The units of these entries, in their intervals."""
        fold, row = self.bounds
        number = self.sets.number(fold, row)
        each = {name: p[number] for name, p in params.items()}
        return Truncated(self.family, each, *self._ends(fold, row))

    def _ends(self, fold: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
        """Ends [N, U] of the intervals of entries."""
        lower, upper = self.evidence.lower, self.evidence.upper
        assert lower is not None and upper is not None
        place = (row, self.step.variables[fold])
        return lower[place], upper[place]

    def means(self, slope: Tensor) -> Tensor:
        """Expected value [B, F], by the flow of every unit."""
        flow, params = self.semiring.flow(self.out.units, slope), self.params()
        mean = self.sets.spread(self.family.mean(params))  # [F or 1, B or 1, K]
        mean = mean.expand(len(self.x), -1, -1)
        if self.sets.by_row:
            found = torch.einsum("fbk,fbk->bf", flow, mean)
        else:
            found = torch.einsum("fbk,fk->bf", flow, mean.squeeze(1))
        if self.bounded is None:
            return found
        fold, row = self.bounds
        within = flow[fold, row] * self.truncated(params).mean()  # [N, K]
        return found.index_put((row, fold), within.sum(dim=-1))

    def counts(self, slope: Tensor) -> tuple[Tensor, Tensor]:
        """Flow [F, K] of what was observed, and its tallies [F, S, K]; expected within intervals.

        Missing values without intervals are not counted.
        """
        observed = self.observed_flow(slope)
        x = self.x.masked_fill(self.missing, torch.nan) if self.any_missing else self.x
        total, sums = observed.sum(dim=1), self.family.tally(self.params(), x, observed)
        if self.bounded is not None:
            fold, row = self.bounds
            flow = self.semiring.flow(self.out.units, slope)[fold, row]  # [N, K]
            add_rows(total, fold, flow)
            add_rows(sums, fold, self.truncated(self.params()).moments() * flow.unsqueeze(-2))
        return total, sums

    def gradients(self, slope: Tensor, places: Mapping[str, Tensor] = {}) -> dict[str, Tensor]:
        """By the family's own log-density."""
        flow = self.semiring.flow(self.out.units, slope)
        with torch.enable_grad():
            leaves = {n: p.requires_grad_() for n, p in self.params().items()}
            log_prob = self.log_prob(leaves)
        grads = torch.autograd.grad(log_prob, list(leaves.values()), flow)
        return dict(zip(leaves, grads, strict=True))

    def add_to_potentials(self, slope: Tensor, gradient: Tensor) -> None:
        """There are none here."""

    def add_to_values(self, slope: Tensor, gradient: Tensor) -> None:
        """By the family's own log-density, whose slope is zero where it does not know x."""
        flow = self.observed_flow(slope)
        with torch.enable_grad():
            x = self.x.detach().requires_grad_()
            log_prob = self._observed(self.params(), x)
        if log_prob.requires_grad:
            (found,) = torch.autograd.grad(log_prob, x, flow)  # [F, B]
            row = self.in_batch(torch.arange(x.shape[1], device=x.device))
            place = (row.unsqueeze(-1), self.step.variables)
            gradient.index_put_(place, found.t(), accumulate=True)

    def draw(self, unit: Tensor, fold: Tensor, row: Tensor, route: Route) -> Tensor:
        """Draws, or modes, of the density."""
        number = self.sets.number(fold, row)
        params = {name: p[number, ..., unit] for name, p in self.params().items()}
        drawn = route.value(self.family, params)
        if self.bounded is None:
            return drawn
        some = send(self.bounded, fold.device)[fold, row].nonzero().squeeze(-1)
        single = {name: p[some].unsqueeze(-1) for name, p in params.items()}
        within = Truncated(self.family, single, *self._ends(fold[some], row[some]))
        found = within.draw(route, self.semiring, self.step.variables[fold[some]])
        return drawn.index_put((some,), found)
