"""Laws of what densities say of intervals: that it agrees with the density, and with itself.

Legend: P parameter sets, F columns, B intervals, K units, S statistics, N draws, Q points.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from pcflow.inputs import DensityFamily
from pcflow.testing.breach import Breach, compare_entries, generator
from pcflow.testing.family_densities import (
    EXACT,
    QUADRATURE,
    Unit,
    slopes_are_finite,
)
from pcflow.testing.frequencies import band

Parameters = dict[str, Tensor]

FEW = 1_000
"""So many draws from every interval."""
NARROW = 1e-12
"""Widths, by the spread of the draws, in which a density is hardly anything but constant."""


def says_masses(family: DensityFamily) -> bool:
    """Whether the family says the mass of an interval at all."""
    return _says(family, "log_mass")


def _says(family: DensityFamily, name: str) -> bool:
    return getattr(type(family), name) is not getattr(DensityFamily, name)


def _ends(unit: Unit) -> tuple[Tensor, Tensor]:
    """Intervals [1, B] between quantiles of draws, and from and to infinity."""
    places = torch.tensor([0.0, 0.05, 0.3, 0.5, 0.9, 1.0]) * (len(unit.drawn) - 1)
    knots = unit.drawn[places.long()].tolist()
    ends = [-torch.inf, *knots, torch.inf]
    pairs = [(a, b) for i, a in enumerate(ends) for b in ends[i + 1 :] if a < b]
    lower, upper = torch.tensor(pairs, dtype=torch.float64).t().unsqueeze(1)  # [1, B]
    return lower, upper


class _Some:
    """Intervals of some mass, and what a unit has in them.

    Attributes:
        ends: [1, B] both.
        inside: which points of the unit they hold, [B, Q].
        mass: [B].
        share: of every point in the mass, [B, Q].
    """

    def __init__(self, unit: Unit) -> None:
        """Leave out those of hardly any mass: a quadrature says little of them."""
        lower, upper = _ends(unit)
        inside = (unit.points >= lower.t()) & (unit.points <= upper.t())
        mass = inside.double() @ unit.mass
        some = mass > 0.01
        self.ends, self.inside, self.mass = (
            (lower[:, some], upper[:, some]),
            inside[some],
            mass[some],
        )
        self.name, self.share = unit.name, self.inside * unit.mass / self.mass.unsqueeze(-1)

    def average(self, values: Tensor) -> Tensor:
        """Of values [Q, ...] at the points, by their share: [B, ...]; none where no mass is."""
        return torch.einsum("bq,q...->b...", self.share, values)

    def breach(self, law: str, found: Tensor, wanted: Tensor, slack: Tensor) -> Iterator[Breach]:
        """The first of these numbers [B] that is further off."""
        wrong = ~((found - wanted).abs() <= slack)
        if wrong.any():
            place = int(wrong.nonzero()[0])
            lower, upper = (end[0, place] for end in self.ends)
            told = f"{self.name}, from {lower:.6g} to {upper:.6g}"
            yield Breach(law, told, f"{wanted[place]:.6g}", f"{found[place]:.6g}")


def _shapes(family: DensityFamily, params: Parameters) -> Iterator[Breach]:
    law = "answers about intervals have the shapes of the base class"
    sets, size, units = family.moments(params).shape
    lower = torch.zeros(sets, 4, dtype=torch.float64)
    for name in ("log_mass", "mode_within", "mean_within", "moments_within"):
        shape = (sets, 4, size, units) if name == "moments_within" else (sets, 4, units)
        if name == "mode_within" or _says(family, name):
            found = getattr(family, name)(params, lower, lower + 3)
            if tuple(found.shape) != shape:
                yield Breach(law, name, str(shape), str(tuple(found.shape)))


def _precision(family: DensityFamily, params: Parameters) -> Iterator[Breach]:
    law = "answers about intervals have the precision of the parameters"
    lower, narrow = (
        torch.zeros(len(family.moments(params)), 4),
        {n: p.float() for n, p in params.items()},
    )
    for name in ("log_mass", "mode_within", "mean_within", "moments_within"):
        if name == "mode_within" or _says(family, name):
            found = getattr(family, name)(narrow, lower, lower + 3)
            if found.dtype != torch.float32:
                yield Breach(law, name, "torch.float32", str(found.dtype))


def _everything_has_mass_one(family: DensityFamily, params: Parameters) -> Iterator[Breach]:
    whole = torch.full((1, 1), torch.inf, dtype=torch.float64)
    found = family.log_mass(params, -whole, whole)
    law = "the mass of all numbers is one"
    yield from compare_entries(law, found, torch.zeros_like(found), EXACT)


def _parts_add_up(family: DensityFamily, units: Sequence[Unit]) -> Iterator[Breach]:
    law = "the mass of an interval is that of its parts"
    for unit in units:
        lower, upper = _ends(unit)
        middle = (lower.clamp_min(unit.drawn[0]) + upper.clamp_max(unit.drawn[-1])) / 2
        beyond = torch.nextafter(middle, torch.full_like(middle, torch.inf))
        left, right, whole = (
            family.log_mass(unit.params, *ends)[0, :, 0]
            for ends in ((lower, middle), (beyond, upper), (lower, upper))
        )
        yield from compare_entries(law, torch.logaddexp(left, right), whole, EXACT, unit.name)


def _narrow_ones_are_the_density(family: DensityFamily, units: Sequence[Unit]) -> Iterator[Breach]:
    law = "the mass of a narrow interval is the density times its width"
    for unit in units:
        if family.whole:
            points = unit.drawn.unique().unsqueeze(0)
            width, ends = torch.ones_like(points), (points, points)
        else:
            points = unit.apart[:: max(1, len(unit.apart) // 50)].unsqueeze(0)
            step = NARROW * (unit.drawn[-1] - unit.drawn[0])
            ends = points - step, points + step
            width = ends[1] - ends[0]
        found = family.log_mass(unit.params, *ends)[0, :, 0] - width[0].log()
        wanted = family.log_prob(unit.params, points)[0, :, 0]
        # where the density jumps between both ends, it is neither
        tolerance = EXACT if family.whole else 1e-5
        agree = (found - wanted).abs() <= tolerance * wanted.abs().clamp_min(1.0)
        if agree.double().mean() < 0.9:
            place = int((~agree).nonzero()[0])
            told = f"{unit.name}, at {points[0, place]:.6g}"
            yield Breach(law, told, f"{wanted[place]:.10g}", f"{found[place]:.10g}")


def _masses(family: DensityFamily, units: Sequence[Unit]) -> Iterator[Breach]:
    law = "the mass of an interval is the integral of the density"
    for unit in units:
        some = _Some(unit)
        found = family.log_mass(unit.params, *some.ends)[0, :, 0].exp()
        yield from some.breach(law, found, some.mass, torch.full_like(found, QUADRATURE))


def _means(family: DensityFamily, units: Sequence[Unit]) -> Iterator[Breach]:
    law = "`mean_within` is the mean within the interval"
    for unit in units if _says(family, "mean_within") else ():
        some = _Some(unit)
        found = family.mean_within(unit.params, *some.ends)[0, :, 0]
        slack = QUADRATURE * some.average(unit.points.abs())
        yield from some.breach(law, found, some.average(unit.points), slack)


def _moments(family: DensityFamily, units: Sequence[Unit]) -> Iterator[Breach]:
    law = "`moments_within` are the expected statistics within the interval"
    for unit in units if _says(family, "moments_within") else ():
        some, points = _Some(unit), unit.points.unsqueeze(0)
        found = family.moments_within(unit.params, *some.ends)[0, :, :, 0]  # [B, S]
        wanted = family.tally(unit.params, points, some.share.t().unsqueeze(0))[0].t()
        slack = 4 * QUADRATURE * (1 + some.average(family.statistics(points)[0].abs()))
        for column in zip(found.t(), wanted.t(), slack.t(), strict=True):
            yield from some.breach(law, *column)


def _modes(family: DensityFamily, units: Sequence[Unit]) -> Iterator[Breach]:
    law = "`mode_within` is in the interval, and no value there is likelier"
    for unit in units:
        some = _Some(unit)
        modes = family.mode_within(unit.params, *some.ends)[..., 0]  # [1, B]
        reached = family.log_prob(unit.params, modes)[0, :, 0]
        reached = reached.masked_fill((modes != modes.clamp(*some.ends))[0], -torch.inf)
        best = unit.log_prob.masked_fill(~some.inside, -torch.inf).amax(dim=-1)
        yield from some.breach(law, reached.minimum(best), best, torch.full_like(best, 1e-6))


def _draws(family: DensityFamily, units: Sequence[Unit]) -> Iterator[Breach]:
    law = "draws from an interval lie in it, and follow the density"
    for unit in units:
        low, high = (end[0, ::5, None].expand(-1, FEW) for end in _Some(unit).ends)  # [B, N]
        flat, size = (low.flatten(), high.flatten()), low.numel()
        each = {n: p[0, ..., 0].expand(size, *p.shape[1:-1]) for n, p in unit.params.items()}
        drawn = family.sample_within(each, *flat, generator()).view_as(low).sort(dim=-1).values
        inside = drawn.clamp(low, high)
        share = family.log_mass(unit.params, flat[0][None], inside.view(1, -1))[0, :, 0]
        whole = family.log_mass(unit.params, low[None, :, 0], high[None, :, 0])[0]  # [B, 1]
        below = (torch.arange(FEW).double() + 1) / FEW
        off = ((share.view_as(low) - whole).exp() - below).abs()
        # of a value that was drawn often, the last draw has the share
        off[:, :-1] = off[:, :-1].where(drawn[:, 1:] > drawn[:, :-1], 0.0)
        apart = off.amax(dim=-1)
        for row in (~((drawn == inside).all(dim=-1) & (apart <= band(FEW)))).nonzero()[:, 0]:
            told = f"{unit.name}, from {low[row, 0]:.6g} to {high[row, 0]:.6g}"
            found = f"from {drawn[row, 0]:.6g} to {drawn[row, -1]:.6g}, {apart[row]:.3g} apart"
            yield Breach(law, told, f"at most {band(FEW):.3g} apart", found)


def _derivatives(family: DensityFamily, params: Parameters) -> Iterator[Breach]:
    law = "intervals without mass do not spoil the derivatives"
    lower = torch.tensor([[-torch.inf, -2.0, 0.2, 1.0, 1.0, 2.0, -torch.inf]]).double()
    upper = torch.tensor([[-1.0, -1.0, 0.3, 1.0, 50.0, torch.inf, torch.inf]]).double()
    yield from slopes_are_finite(law, lambda some: family.log_mass(some, lower, upper), params)


INTERVALS = (_shapes, _precision, _everything_has_mass_one, _derivatives)
"""Of a family and its parameters; the first holds before the others can be asked."""

INTERVAL_UNITS = (
    _parts_add_up,
    _narrow_ones_are_the_density,
    _masses,
    _means,
    _moments,
    _modes,
    _draws,
)
"""Of a family and its units."""
