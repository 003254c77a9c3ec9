"""An atom beside a density: amounts of which many are exactly zero."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from pcflow.checks import check_kind
from pcflow.errors import SettingError
from pcflow.inputs.base import DensityFamily, Params
from pcflow.inputs.intervals import log_sum
from pcflow.inputs.poisson import Poisson

NEITHER = "a density of real values without an atom, such as LogNormal()"
ATOM = "atom_logit"
LEAST = 1e-6
"""The share of neither part is learned to be below this: what is impossible would stay so."""


@dataclass(frozen=True)
class Inflated(DensityFamily):
    """One value of a probability of its own, and a density of all others.

    For amounts that are often zero, measurements that end at a limit. The log-density is a
    log-probability at the atom and per unit of the value elsewhere, so that sums over the one and
    integrals over the other add up to one. Parameters: `atom_logit` [K], and those of the density.

    Args:
        density: of all other values.
        at: where the atom is.

    Raises:
        TypeMismatch: if `density` is no density.
        SettingError: if it has atoms itself, or `at` is not finite.

    Examples:
        >>> from pcflow.inputs import Exponential
        >>> zero = torch.zeros(1, 1)
        >>> params = {"atom_logit": zero, "log_mean": zero}
        >>> Inflated(Exponential()).log_prob(params, torch.tensor([[0.0, 1.0]])).exp().flatten()
        tensor([0.5000, 0.1839])
    """

    density: DensityFamily
    at: float = 0.0

    def __post_init__(self) -> None:
        """Counts are atoms already."""
        check_kind("density", self.density, DensityFamily, NEITHER)
        whole = isinstance(self.density, Inflated | Poisson)
        SettingError.check("density", self.density, NEITHER, lambda _: not whole)
        SettingError.check("at", self.at, "a finite number", math.isfinite)

    @property
    def locations(self) -> Mapping[str, str]:
        """Those of the density."""
        return self.density.locations

    @property
    def atoms(self) -> tuple[float, ...]:
        """The one."""
        return (self.at,)

    def parameter_shapes(self, units: int) -> dict[str, tuple[int, ...]]:
        """`atom_logit` [K], and those of the density."""
        return {ATOM: (units,), **self.density.parameter_shapes(units)}

    def initial(self, units: int, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Standard normal logits."""
        logit = torch.randn(units, generator=generator)
        return {ATOM: logit, **self.density.initial(units, generator)}

    def log_prob(self, params: Params, x: Tensor) -> Tensor:
        """Log-probability of the atom; log-density of what is none."""
        logit = params[ATOM].unsqueeze(-2)  # [F, 1, K]
        apart = self.density.log_prob(params, x) + logsigmoid(-logit)  # [F, B, K]
        return torch.where(self._is_atom(x), logsigmoid(logit), apart)

    def mean(self, params: Params) -> Tensor:
        """The atom and the mean of the density, by their probabilities."""
        return torch.lerp(self.density.mean(params), self._atom_like(params), self._share(params))

    def raw_moment(self, params: Params, power: int) -> Tensor:
        """Likewise."""
        atom = self._atom_like(params) ** power
        return torch.lerp(self.density.raw_moment(params, power), atom, self._share(params))

    def entropy(self, params: Params) -> Tensor:
        """Of whether it is the atom, and of the density if not."""
        share, rest = self._share(params), torch.sigmoid(-params[ATOM])
        either: Tensor = torch.special.entr(share) + torch.special.entr(rest)
        return either + rest * self.density.entropy(params)

    def mode(self, params: Params) -> Tensor:
        """The atom, where its log-probability is above the highest log-density."""
        peak = self.density.mode(params)  # [P, K]
        log_peak = torch.diagonal(self.density.log_prob(params, peak), dim1=-2, dim2=-1)
        atom_wins = logsigmoid(params[ATOM]) >= log_peak + logsigmoid(-params[ATOM])
        return torch.where(
            atom_wins, self._atom_like(params), self._beside(peak, self.density.mean(params))
        )

    def sample(self, params: Params, generator: torch.Generator | None = None) -> Tensor:
        """The atom or a draw of the density."""
        drawn, share = self.density.sample(params, generator), self._share(params)
        noise = torch.rand(share.shape, generator=generator, dtype=share.dtype, device=share.device)
        return torch.where(noise < share, self._atom_like(params), drawn)

    def log_mass(self, params: Params, lower: Tensor, upper: Tensor) -> Tensor:
        """Of the atom, if it is in the interval, and of the density."""
        return log_sum(self._log_parts(params, lower, upper), dim=0)

    def mean_within(self, params: Params, lower: Tensor, upper: Tensor) -> Tensor:
        """The atom and the mean of the density within, by their shares of the mass."""
        atom, rest = self._parts_within(params, lower, upper).unbind()
        apart = self.density.mean_within(params, lower, upper)
        return atom * self.at + _times(rest, apart)

    def moments_within(self, params: Params, lower: Tensor, upper: Tensor) -> Tensor:
        """Both shares, and what is expected of the density times the second."""
        parts = self._parts_within(params, lower, upper)
        apart = self.density.moments_within(_apart(params), lower, upper)  # [F, B, S, K]
        return torch.cat([parts.movedim(0, 2), _times(parts[1].unsqueeze(2), apart)], dim=2)

    def mode_within(self, params: Params, lower: Tensor, upper: Tensor) -> Tensor:
        """The atom, where it is in the interval and above the highest log-density there."""
        peak = self.density.mode_within(params, lower, upper)  # [F, B, K]
        heights = [self.density.log_prob(params, one) for one in peak.unbind(dim=-1)]
        height = torch.diagonal(torch.stack(heights, dim=-1), dim1=-2, dim2=-1)
        log_atom, log_rest = self._log_parts(params, lower, upper)
        above = log_atom >= height + logsigmoid(-params[ATOM]).unsqueeze(-2)
        atom_wins = (log_rest == -torch.inf) | ((log_atom > -torch.inf) & above)
        towards = torch.where(upper > self.at, upper, lower).unsqueeze(-1)
        return torch.where(atom_wins, self.at, self._beside(peak, towards.expand_as(peak)))

    def sample_within(
        self,
        params: Params,
        lower: Tensor,
        upper: Tensor,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The atom or a draw of the density within, by their shares of the mass."""
        single = {name: p.unsqueeze(-1) for name, p in params.items()}
        ends = lower.unsqueeze(-1), upper.unsqueeze(-1)
        share = self._parts_within(single, *ends)[0].flatten()  # [N]
        drawn = self.density.sample_within(params, lower, upper, generator)
        noise = torch.rand(share.shape, generator=generator, dtype=share.dtype, device=share.device)
        return torch.where(noise < share, self.at, drawn)

    def statistics(self, x: Tensor) -> Tensor:
        """Whether it is the atom, whether not, and if not, those of the density."""
        atom = self._is_atom(x)  # [F, B, 1]
        rest = self.density.statistics(x).masked_fill(atom, 0.0)
        return torch.cat([atom.to(x.dtype), (~atom).to(x.dtype), rest], dim=-1)

    def tally(self, params: Params, x: Tensor, weight: Tensor) -> Tensor:
        """Likewise; what is no atom as the density counts it."""
        atom, known = self._is_atom(x), ~x.isnan().unsqueeze(-1)  # [F, B, 1]
        parts = torch.stack([weight * atom, weight * (known & ~atom)]).sum(dim=2)  # [2, F, K]
        rest = x.masked_fill(atom.squeeze(-1), torch.nan)
        apart = self.density.tally(_apart(params), rest, weight)
        return torch.cat([parts.movedim(0, 1), apart], dim=1)

    def recentred(self, tallies: Tensor, weight: Tensor, before: Params, params: Params) -> Tensor:
        """What is no atom, as the density has it."""
        parts, rest = tallies[:, :2], tallies[:, 2:]
        moved = self.density.recentred(rest, tallies[:, 1], _apart(before), _apart(params))
        return torch.cat([parts, moved], dim=1)

    def moments(self, params: Params) -> Tensor:
        """Both probabilities, and what is expected of the density times the second."""
        share, rest = self._share(params).unsqueeze(-2), torch.sigmoid(-params[ATOM]).unsqueeze(-2)
        return torch.cat([share, rest, rest * self.density.moments(params)], dim=-2)

    def maximize(
        self, params: Params, weight: Tensor, statistics: Tensor, pseudocount: float
    ) -> dict[str, Tensor]:
        """Relative counts, and the update of the density from what is no atom."""
        counts = statistics + pseudocount * self.moments(params)  # [P, S, K]
        atom, rest = counts[:, 0], counts[:, 1]
        share = (atom / (atom + rest)).clamp(LEAST, 1 - LEAST)
        logit = torch.where(atom + rest > 0, share.logit(), params[ATOM])
        return {ATOM: logit, **self.density.maximize(_apart(params), rest, counts[:, 2:], 0.0)}

    def floored(self, params: Params, spread: Tensor, present: Params) -> dict[str, Tensor]:
        """As the density has it."""
        return {**params, **self.density.floored(_apart(params), spread, _apart(present))}

    def _log_parts(self, params: Params, lower: Tensor, upper: Tensor) -> Tensor:
        """Log-masses [2, F, B, K] of the atom and of the density in intervals [F, B]."""
        inside = ((lower <= self.at) & (self.at <= upper)).unsqueeze(-1)
        logit = params[ATOM].unsqueeze(-2)
        apart = self.density.log_mass(params, lower, upper) + logsigmoid(-logit)
        return torch.stack([torch.where(inside, logsigmoid(logit), -torch.inf), apart])

    def _parts_within(self, params: Params, lower: Tensor, upper: Tensor) -> Tensor:
        """Their shares of an interval that has some mass, [2, F, B, K]."""
        return self._log_parts(params, lower, upper).softmax(dim=0)

    def _beside(self, value: Tensor, towards: Tensor) -> Tensor:
        """The value, or the next one if that is the atom."""
        return torch.where(value == self.at, torch.nextafter(value, towards), value)

    def _is_atom(self, x: Tensor) -> Tensor:
        return (x == self.at).unsqueeze(-1)

    def _share(self, params: Params) -> Tensor:
        return torch.sigmoid(params[ATOM])

    def _atom_like(self, params: Params) -> Tensor:
        return torch.full_like(params[ATOM], self.at)


def _times(share: Tensor, value: Tensor) -> Tensor:
    """Nothing where the share is zero, of which no value need be known."""
    return torch.where(share > 0, share * value, 0.0)


def _apart(params: Params) -> dict[str, Tensor]:
    """Those of the density."""
    return {name: p for name, p in params.items() if name != ATOM}
