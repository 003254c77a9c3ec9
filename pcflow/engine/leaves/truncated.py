"""Densities of values that are known to lie in intervals.

Legend: F folds, B batch, N entries (fold, row), U intervals of an entry, K units, S statistics.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pcflow.engine.routes import Route
from pcflow.engine.semiring import Semiring
from pcflow.inputs import DensityFamily, Params, log_sum

Within = Callable[[Params, Tensor, Tensor], Tensor]
"""What a family says of intervals [N, U]: [N, U, ..., K]."""


class Truncated:
    """Units of a family, and a union of intervals for each entry.

    Args:
        family: of the units.
        params: of every entry, [N, ..., K].
        lower: [N, U], NaN where there is no interval.
        upper: the same.
    """

    def __init__(self, family: DensityFamily, params: Params, lower: Tensor, upper: Tensor) -> None:
        """Put something in place of what is no interval."""
        self.family, self.params = family, params
        self.there = ~lower.isnan().unsqueeze(-1)  # [N, U, 1]
        self.lower, self.upper = (end.masked_fill(end.isnan(), 0.0) for end in (lower, upper))

    def value(self, semiring: Semiring, variables: Tensor) -> Tensor:
        """Log of the unit values [N, K] of entries over `variables` [N]."""
        mass = log_sum(self.masses(), dim=1)
        if not semiring.maximizes:
            return mass
        return semiring.over_reals(mass, self.peaks().amax(dim=1), variables)

    def masses(self) -> Tensor:
        """Log-mass of every interval, [N, U, K]."""
        found = self._ask(self.family.log_mass)
        return torch.where(self.there, found, -torch.inf)

    def peaks(self) -> Tensor:
        """Log of the largest density in every interval, [N, U, K]."""
        modes = self._ask(self.family.mode_within)
        each = {n: p.movedim(-1, 1).flatten(0, 1).unsqueeze(-1) for n, p in self.params.items()}
        found = self.family.log_prob(each, modes.movedim(-1, 1).flatten(0, 1))  # [N K, U, 1]
        found = found.view_as(modes.movedim(-1, 1)).movedim(1, -1)  # [N, U, K]
        inside = (modes >= self.lower.unsqueeze(-1)) & (modes <= self.upper.unsqueeze(-1))
        return torch.where(self.there & inside, found, -torch.inf)

    def mean(self) -> Tensor:
        """Expected value of every unit, [N, K]."""
        return self._average(self._clamped(self._ask(self.family.mean_within)))

    def moments(self) -> Tensor:
        """Expected statistics of every unit, [N, S, K]."""
        return self._average(self._ask(self.family.moments_within))

    def draw(self, route: Route, semiring: Semiring, variables: Tensor) -> Tensor:
        """Draws, or modes, [N] of entries of one unit each."""
        lower, upper = self.lower, self.upper
        if lower.shape[1] > 1:
            scores = self._scores(semiring, variables)
            chosen = route.index(scores, in_log_space=True).unsqueeze(-1)
            lower, upper = lower.gather(1, chosen), upper.gather(1, chosen)
        single = {name: p.squeeze(-1) for name, p in self.params.items()}
        return route.within(self.family, single, lower.squeeze(-1), upper.squeeze(-1))

    def _scores(self, semiring: Semiring, variables: Tensor) -> Tensor:
        """By which one of its intervals is chosen for a single unit, [N, U] (nats)."""
        mass = self.masses().squeeze(-1)
        if not semiring.maximizes:
            return mass
        return semiring.over_reals(mass, self.peaks().squeeze(-1), variables)

    def _ask(self, within: Within) -> Tensor:
        return within(self.params, self.lower, self.upper)

    def _clamped(self, values: Tensor) -> Tensor:
        return values.maximum(self.lower.unsqueeze(-1)).minimum(self.upper.unsqueeze(-1))

    def _average(self, values: Tensor) -> Tensor:
        """Over intervals by their masses: [N, ..., K] of [N, U, ..., K]."""
        share = self.masses().softmax(dim=1).nan_to_num(nan=0.0)
        share = share.view(*share.shape[:2], *[1] * (values.dim() - 3), share.shape[-1])
        return torch.where(share > 0, share * values, 0.0).sum(dim=1)
