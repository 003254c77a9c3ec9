"""Laws of families without a finite range: sums over whole numbers, or integrals over real ones.

Legend: P parameter sets, F columns, B batch, K units, S statistics, N draws, Q points.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import product

import torch
from torch import Tensor

from pcflow.inputs import DensityFamily
from pcflow.testing.breach import Breach, compare_entries, generator
from pcflow.testing.frequencies import axis, band

Parameters = dict[str, Tensor]

DRAWS = 20_000
EXACT = 1e-9
QUADRATURE = 5e-3
"""Integrals are right to that share; of densities that jump, no better."""


def draws(family: DensityFamily, params: Parameters, count: int = DRAWS) -> Tensor:
    """Draws [P, N, K] of every unit."""
    sets, units = _sizes(params)
    columns = [
        family.sample(
            {n: p[s, ..., k].expand(count, *p.shape[1:-1]) for n, p in params.items()},
            generator(s * units + k),
        )
        for s in range(sets)
        for k in range(units)
    ]
    return torch.stack(columns).view(sets, units, count).transpose(1, 2)


def _sizes(params: Parameters) -> tuple[int, int]:
    first = next(iter(params.values()))
    return first.shape[0], first.shape[-1]


class Unit:
    """One unit of a family on a grid.

    Attributes:
        name: which one.
        params: [1, ..., 1].
        drawn: [N], sorted.
        apart: those that are no atoms.
        points: [Q], all whole numbers in reach if the draws are such.
        mass: [Q], probability around every point.
    """

    def __init__(self, family: DensityFamily, name: str, params: Parameters, drawn: Tensor) -> None:
        """Lay the grid where the draws are; an atom is a point of width one."""
        self.name, self.params, self.drawn = name, params, drawn.sort().values
        self.apart = self.drawn[~torch.isin(self.drawn, self.drawn.new_tensor(family.atoms))]
        self.points, width = axis(drawn, family.atoms)
        self.log_prob = family.log_prob(params, self.points.unsqueeze(0))[0, :, 0]
        self.mass = self.log_prob.exp() * width

    def average(self, values: Tensor) -> Tensor:
        """Of values [Q, ...], by their share of the mass."""
        some = self.mass > 0
        share = self.mass[some] / self.mass[some].sum()
        return torch.einsum("q,q...->...", share, values[some])


def units_of(family: DensityFamily, params: Parameters) -> list[Unit]:
    """All units."""
    sets, units = _sizes(params)
    drawn, found = draws(family, params), []
    for s, k in product(range(sets), range(units)):
        one = {n: p[s : s + 1, ..., k : k + 1] for n, p in params.items()}
        told = ", ".join(f"{n} {p.flatten().tolist()}" for n, p in one.items())
        found.append(Unit(family, told, one, drawn[s, :, k]))
    return found


def _columns(family: DensityFamily, params: Parameters) -> Tensor:
    """Values [F, B] of all units."""
    return draws(family, params, 20).flatten(1)


def _tally(family: DensityFamily, params: Parameters, x: Tensor) -> Tensor:
    """Of values that all count once for every unit."""
    return family.tally(params, x, torch.ones(*x.shape, _sizes(params)[1]).to(x))


def _shapes(family: DensityFamily, params: Parameters) -> Iterator[Breach]:
    sets, units = _sizes(params)
    x = _columns(family, params)
    statistics = family.statistics(x)
    S = statistics.shape[-1]
    told = {
        "log_prob [F, B, K]": (family.log_prob(params, x), (sets, x.shape[1], units)),
        "mean [P, K]": (family.mean(params), (sets, units)),
        "mode [P, K]": (family.mode(params), (sets, units)),
        "statistics [F, B, S]": (statistics, (*x.shape, S)),
        "tally [F, S, K]": (_tally(family, params, x), (sets, S, units)),
        "moments [P, S, K]": (family.moments(params), (sets, S, units)),
    }
    for name, (found, shape) in told.items():
        if tuple(found.shape) != shape:
            law = "answers have the shapes of the base class"
            yield Breach(law, name, str(shape), str(tuple(found.shape)))


def _a_tied_parameter_set_serves_all(family: DensityFamily, params: Parameters) -> Iterator[Breach]:
    x = _columns(family, params)
    one = {n: p[:1] for n, p in params.items()}
    apart = torch.cat([family.log_prob(one, column.unsqueeze(0)) for column in x])
    law = "one parameter set serves many columns"
    yield from compare_entries(law, family.log_prob(one, x), apart, EXACT, "log_prob")


def _total(family: DensityFamily, units: Sequence[Unit]) -> Iterator[Breach]:
    for unit in units:
        total = unit.mass.sum()
        if not abs(total - 1) <= QUADRATURE:
            yield Breach("the density integrates to one", unit.name, "1", f"{total:.6g}")


def _draws(family: DensityFamily, units: Sequence[Unit]) -> Iterator[Breach]:
    law = "draws follow the density"
    for unit in units:
        below = torch.cat([torch.zeros(1), unit.mass.cumsum(0) / unit.mass.sum()])
        share = torch.arange(DRAWS + 1).double() / DRAWS
        # of whole numbers: up to and with the value, and up to it
        upper = below[torch.searchsorted(unit.points, unit.drawn, right=True)]
        lower = below[torch.searchsorted(unit.points, unit.drawn)]
        off = float(torch.maximum(share[:-1] - upper, lower - share[1:]).max())
        if not off <= band(DRAWS) + QUADRATURE:
            found = f"distribution functions {off:.3g} apart"
            yield Breach(law, unit.name, f"at most {band(DRAWS) + QUADRATURE:.2g} apart", found)


def _draws_come_from_the_generator(family: DensityFamily, params: Parameters) -> Iterator[Breach]:
    law = "the same generator gives the same draws"
    first, second = (draws(family, params, 3) for _ in range(2))
    yield from compare_entries(law, second, first, 0.0, "draws")


def _mode(family: DensityFamily, units: Sequence[Unit]) -> Iterator[Breach]:
    for unit in units:
        at_mode = family.log_prob(unit.params, family.mode(unit.params)).item()
        best = int(unit.log_prob.argmax())
        if not at_mode >= unit.log_prob[best] - 1e-6:
            expected = f"at least {unit.log_prob[best]:.6g}, as at {unit.points[best]:.6g}"
            yield Breach(
                "no value is likelier than the mode", unit.name, expected, f"{at_mode:.6g}"
            )


def _mean(family: DensityFamily, units: Sequence[Unit]) -> Iterator[Breach]:
    for unit in units:
        found, wanted = family.mean(unit.params).item(), unit.average(unit.points)
        slack = QUADRATURE * unit.average(unit.points.abs())
        if not abs(found - wanted) <= slack:
            yield Breach("`mean` is the mean", unit.name, f"{wanted:.6g}", f"{found:.6g}")


def _moments(family: DensityFamily, units: Sequence[Unit]) -> Iterator[Breach]:
    for unit in units:
        some = unit.mass > 0
        points, share = unit.points[some].unsqueeze(0), unit.mass[some] / unit.mass[some].sum()
        wanted = family.tally(unit.params, points, share.view(1, -1, 1))[0, :, 0]
        found = family.moments(unit.params)[0, :, 0]
        slack = QUADRATURE * unit.average(family.statistics(unit.points.unsqueeze(0))[0].abs())
        if not ((found - wanted).abs() <= slack).all():
            law = "`moments` are what is expected of `tally`"
            yield Breach(law, unit.name, str(wanted.tolist()), str(found.tolist()))


def _tallies_can_be_moved(family: DensityFamily, params: Parameters) -> Iterator[Breach]:
    law = "`recentred` is the tally from other parameters"
    x, others = _columns(family, params), {n: p.flip(0) for n, p in params.items()}
    weight = torch.rand(*x.shape, _sizes(params)[1], generator=generator()).double()
    found = family.recentred(family.tally(params, x, weight), weight.sum(1), params, others)
    yield from compare_entries(law, found, family.tally(others, x, weight), EXACT, "tallies")


def _units_can_be_chosen(family: DensityFamily, params: Parameters) -> Iterator[Breach]:
    x, units = _columns(family, params), [_sizes(params)[1] - 1, 0]
    chosen = {n: p[..., units] for n, p in params.items()}
    found, wanted = family.of_units(units).log_prob(chosen, x), family.log_prob(params, x)
    law = "`of_units` is the family of those units"
    yield from compare_entries(law, found, wanted[..., units], EXACT, "log_prob")


def _precision(family: DensityFamily, params: Parameters) -> Iterator[Breach]:
    law = "answers have the precision of the parameters"
    x, narrow = _columns(family, params), {n: p.float() for n, p in params.items()}
    for dtype, named in ((torch.float32, narrow), (torch.float64, params)):
        asked = x.to(dtype)
        answers = {
            "log_prob": family.log_prob(named, asked),
            "mean": family.mean(named),
            "mode": family.mode(named),
            "moments": family.moments(named),
            "sample": draws(family, named, 3),
            "statistics": family.statistics(asked),
            "tally": _tally(family, named, asked),
        }
        for name, answer in answers.items():
            if answer.dtype != dtype:
                yield Breach(law, name, str(dtype), str(answer.dtype))


def _derivatives(family: DensityFamily, params: Parameters) -> Iterator[Breach]:
    """Impossible values have no flow, and a slope of zero times infinity must not arise."""
    law = "impossible values do not spoil the derivatives"
    x = torch.cat([_columns(family, params), torch.tensor([[-1.0, -0.5, 0.0, 0.5]] * 2)], dim=1)
    yield from slopes_are_finite(law, lambda leaves: family.log_prob(leaves, x), params)


def slopes_are_finite(
    law: str, log_value: Callable[[Parameters], Tensor], params: Parameters
) -> Iterator[Breach]:
    """Of values by parameters, where what has no mass has no flow."""
    leaves = {n: p.clone().requires_grad_() for n, p in params.items()}
    found = log_value(leaves)
    flow = (found > -torch.inf).to(found)
    slopes = torch.autograd.grad(found, list(leaves.values()), flow)
    for name, slope in zip(leaves, slopes, strict=True):
        if not slope.isfinite().all():
            yield Breach(law, f"of {name}", "finite numbers", str(slope.tolist()))


DENSITY = (
    _shapes,
    _a_tied_parameter_set_serves_all,
    _draws_come_from_the_generator,
    _tallies_can_be_moved,
    _units_can_be_chosen,
    _precision,
    _derivatives,
)
"""Of a family and its parameters; the first holds before the others can be asked."""

DENSITY_UNITS = (_total, _draws, _mode, _mean, _moments)
"""Of a family and its units, which are drawn from once for all of them."""
