"""Whether draws follow a distribution, and sums over the real line; false alarms are very rare.

Legend: N draws, S states, Q points of a quadrature.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from scipy.stats import binom, chi2
from torch import Tensor

FALSE_ALARM = 1e-9
"""Level of every comparison. Cells hold at least ten draws in expectation, where the chi-square
distribution is right to a factor of a few hundred this far out: below one in a million."""
CELL = 20.0
QUADRATURE = 5e-3
"""Integrals over real variables are right to that share."""
STAKES = 12
"""Bets on a mean are of 1, 1/2, 1/4, ... of what one has."""
KNOTS = 2_048
CUTS = 8
TAIL = 2_000
FARTHEST = 1e6
LARGEST = 100_000
"""Sums over whole numbers end there at the latest."""


def chi_square(counts: Tensor, probabilities: Tensor) -> float:
    """Pearson's p-value of counts [S]; rare states are put together until they are not rare.

    Zero if a state was drawn that has no probability.
    """
    if counts[probabilities == 0].sum() > 0:
        return 0.0
    expected = probabilities * counts.sum()
    cell = _cells(expected)
    sums = torch.zeros(int(cell.max()) + 1, 2, dtype=torch.float64)
    sums.index_add_(0, cell, torch.stack([counts.double(), expected.double()], dim=-1))
    observed, wanted = sums[sums[:, 1] > 0].unbind(dim=-1)
    if len(wanted) < 2:
        return 1.0
    statistic = ((observed - wanted) ** 2 / wanted).sum()
    return float(chi2.sf(statistic.item(), len(wanted) - 1))


def _cells(expected: Tensor) -> Tensor:
    """The cell of every state: states in rising order, cut wherever enough draws are expected.

    A cell holds at least half of `CELL`: what it lacks at its start the state before it had, and
    its own states are no rarer than that one. Only the last can run out of states.
    """
    order = expected.argsort(stable=True)
    before = expected[order].cumsum(0) - expected[order]
    cell = torch.empty_like(order)
    cell[order] = (before / CELL).long()
    last = cell == cell.max()
    if expected[last].sum() < CELL / 2:
        cell[last] = int(cell[~last].max()) if not last.all() else 0
    return cell


def band(draws: int) -> float:
    """How far an empirical distribution function may be off (Dvoretzky-Kiefer-Wolfowitz)."""
    return math.sqrt(math.log(2 / FALSE_ALARM) / (2 * draws))


def log_evidence(log_weight: Tensor) -> float:
    """Logarithm of the evidence against independent weights [N] having a mean of at most 1.

    A gambler bets a share of what he has on each weight, which multiplies it by 1 - share +
    share * weight: if the mean is at most 1, he does not gain in the mean, so that his money is
    above 1/a with a probability below a, however weights are distributed (Markov's inequality).
    Several gamblers with different shares put their money together.
    """
    log_weight = log_weight.nan_to_num(nan=-torch.inf, posinf=700.0, neginf=-torch.inf)
    stake = -math.log(2) * torch.arange(STAKES, dtype=torch.float64)
    kept = torch.log(-torch.expm1(stake)).unsqueeze(-1)
    money = torch.logaddexp(kept, stake.unsqueeze(-1) + log_weight).sum(-1)
    return float(money.logsumexp(0)) - math.log(STAKES)


def log_sign_test(rose: int, fell: int) -> float:
    """Logarithm of the p-value of so many signs, if both are as likely; exact."""
    tail = binom.logcdf(min(rose, fell), rose + fell, 0.5)
    return min(0.0, float(tail) + math.log(2))


def real_line(values: Tensor) -> tuple[Tensor, Tensor]:
    """Points [Q] and weights [Q] of a sum that stands for an integral over all real numbers.

    Cells are cut between the values, which should be draws: where a density jumps, it is wrong by
    less than what lies between two of them. Beyond them they widen, to a million spreads.
    """
    values = values.double().unique()
    knots = values[torch.linspace(0, len(values) - 1, min(KNOTS, len(values))).round().long()]
    inside = torch.lerp(knots[:-1, None], knots[1:, None], torch.arange(CUTS).double() / CUTS)
    spread = float(torch.quantile(knots, 0.75) - torch.quantile(knots, 0.25))
    first = (spread if spread > 0 else max(1.0, abs(float(knots[0])))) / TAIL
    tail = first * torch.expm1(torch.linspace(0, math.log(TAIL * FARTHEST), TAIL)).double()
    edges = torch.cat([knots[0] - tail.flip(0)[:-1], inside.flatten(), knots[-1] + tail])
    return (edges[1:] + edges[:-1]) / 2, edges.diff()


def axis(drawn: Tensor, atoms: Sequence[float] = ()) -> tuple[Tensor, Tensor]:
    """Points [Q], rising, and weights [Q]: whole numbers if all draws are such, or the real line.

    Atoms among real numbers are points of weight one.
    """
    if atoms:
        values = torch.tensor(atoms, dtype=drawn.dtype)
        points, weights = axis(drawn[~torch.isin(drawn, values)])
        order = torch.cat([points, values]).argsort()
        widths = torch.cat([weights, torch.ones_like(values)])
        return torch.cat([points, values])[order], widths[order]
    if not (drawn == drawn.round()).all():
        return real_line(drawn)
    low, high = int(drawn.min()), int(drawn.max())
    reach = min(LARGEST, 1_000 + 4 * (high - low))
    points = torch.arange(low - reach if low < 0 else 0, high + reach).double()
    return points, torch.ones_like(points)
