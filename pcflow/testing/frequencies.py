"""Whether draws follow a distribution, and sums over the real line; false alarms are very rare.

Legend: N draws, S states, Q points of a quadrature.
"""

from __future__ import annotations

import math

import torch
from scipy.stats import chi2
from torch import Tensor

FALSE_ALARM = 1e-9
"""Level of every comparison. Cells hold at least ten draws in expectation, where the chi-square
distribution is right to a factor of a few hundred this far out: below one in a million."""
CELL = 20.0
POINTS = 20_000
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


def real_line(values: Tensor) -> tuple[Tensor, Tensor]:
    """Points [Q] and weights [Q] of a sum that stands for an integral over all real numbers.

    The points lie densest around the given values, and reach a million times as far as these are
    spread. Of a density that jumps the sum is right to about three digits.
    """
    quartiles = torch.quantile(values.double(), torch.tensor([0.25, 0.5, 0.75]).double())
    spread = float(quartiles[2] - quartiles[0])
    spread = spread if spread > 0 else max(1.0, abs(float(quartiles[1])))
    ends = torch.linspace(-1, 1, POINTS + 1, dtype=torch.float64) * math.asinh(FARTHEST)
    edges = quartiles[1] + spread * ends.sinh()
    middles = quartiles[1] + spread * ((ends[1:] + ends[:-1]) / 2).sinh()
    return middles, edges.diff()


def axis(drawn: Tensor) -> tuple[Tensor, Tensor]:
    """Points [Q] and weights [Q]: all whole numbers in reach if the draws are such, else the line."""
    if not (drawn == drawn.round()).all():
        return real_line(drawn)
    low, high = int(drawn.min()), int(drawn.max())
    reach = min(LARGEST, 1_000 + 4 * (high - low))
    points = torch.arange(low - reach if low < 0 else 0, high + reach).double()
    return points, torch.ones_like(points)
