"""The integral of a density over one or two real variables, finer where draws or errors are.

Legend: C cells, Q points of a cell, N draws, d real variables.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

NODES = torch.tensor([-math.sqrt(0.6), 0.0, math.sqrt(0.6)], dtype=torch.float64)
WEIGHTS = torch.tensor([5 / 18, 8 / 18, 5 / 18], dtype=torch.float64)
"""Of Gauss and Legendre, for the mean over [-1, 1]."""
CROWD = 4
"""A cell with more draws in it is cut before anything is asked; so is one with fewer that lie in a
corner of it, a quarter as wide: a narrow part of a density would be overlooked there."""
DEPTH = 24
"""So often a cell is cut for its draws at most."""
TARGET = 1e-3
"""Errors are made smaller until they add up to that."""


class Integral(NamedTuple):
    """What was found, and how sure that is.

    Attributes:
        value: the integral over all real numbers.
        error: what the last refinements changed, added up regardless of sign.
        points: at so many points the density was asked.
    """

    value: float
    error: float
    points: int


@dataclass(frozen=True)
class Cells:
    """Boxes [C, d] in the square (-1, 1)^d, that all reals are mapped to by an arcus tangens."""

    lower: Tensor
    upper: Tensor

    def cut(self) -> Cells:
        """All halved along every variable: the 2^d parts of a cell are neighbours, [C * 2^d, d]."""
        middle = (self.lower + self.upper) / 2
        width = self.lower.shape[1]
        sides = torch.tensor([*product([False, True], repeat=width)])  # [2^d, d]
        lower = torch.where(sides, middle.unsqueeze(1), self.lower.unsqueeze(1))
        upper = torch.where(sides, self.upper.unsqueeze(1), middle.unsqueeze(1))
        return Cells(lower.reshape(-1, width), upper.reshape(-1, width))


def integrate(log_density: Callable[[Tensor], Tensor], draws: Tensor, most: int) -> Integral:
    """The integral over all real numbers of a density of one or two variables.

    A narrow part is found if draws lie in it: cells are cut until few draws are in each. From there
    on those cells are cut whose parts do not add up to them.

    Args:
        log_density: log-densities [Q] at points [Q, d].
        draws: rows [N, d] by which cells are laid.
        most: at so many points it gives up; the error then says so.
    """
    center, spread = draws.median(0).values, _spread(draws)
    width = draws.shape[1]
    place = torch.atan((draws - center) / spread) * (2 / math.pi)
    nodes: Tensor = torch.cartesian_prod(*[NODES] * width).reshape(-1, width)
    weights: Tensor = torch.cartesian_prod(*[WEIGHTS] * width).reshape(-1, width).prod(-1)

    def mass(cells: Cells) -> Tensor:
        """By nine points, or three, of each [C]."""
        middle, half = (cells.lower + cells.upper) / 2, (cells.upper - cells.lower) / 2
        at = middle.unsqueeze(1) + half.unsqueeze(1) * nodes  # [C, Q, d]
        steep = torch.tan(at * (math.pi / 2))
        stretch = (spread * (math.pi / 2) * (1 + steep.square())).log().sum(-1)
        found = log_density((center + spread * steep).flatten(0, 1)).reshape(stretch.shape)
        return ((found + stretch).exp() * weights).sum(-1) * half.mul(2).prod(-1)

    cells = [*_crowded(place)]
    every = Cells(torch.cat([c.lower for c in cells]), torch.cat([c.upper for c in cells]))
    return _refine(mass, every, most // len(nodes))


def _refine(mass: Callable[[Cells], Tensor], cells: Cells, most: int) -> Integral:
    """Cut what is not yet right; what is right enough is added up and left."""
    known, done, slack = mass(cells), 0.0, 0.0
    asked, allowance = len(known), TARGET / 2
    while True:
        parts = cells.cut()
        found = mass(parts)
        asked += len(found)
        sums = found.reshape(len(known), -1).sum(-1)
        off = (sums - known).abs()
        error = slack + float(off.sum())
        if error <= TARGET or asked + 4 * len(found) > most or not math.isfinite(error):
            points = asked * 3 ** cells.lower.shape[1]
            return Integral(done + float(sums.sum()), error, points)
        allowance /= 2
        order = off.argsort()
        settled = torch.empty_like(off, dtype=torch.bool)
        settled[order] = off[order].cumsum(0) <= allowance
        done += float(sums[settled].sum())
        slack += float(off[settled].sum())
        kept = (~settled).repeat_interleave(len(found) // len(known))
        cells, known = Cells(parts.lower[kept], parts.upper[kept]), found[kept]


def _crowded(place: Tensor) -> Iterator[Cells]:
    """Cells that hold few of the places [N, d] each, and together are the whole square."""
    width = place.shape[1]
    whole = torch.ones(1, width, dtype=torch.float64)
    waiting = [(Cells(-whole, whole), place, 0)]
    while waiting:
        cell, inside, depth = waiting.pop()
        if depth == DEPTH or (depth > 1 and not _is_crowded(cell, inside)):
            yield cell
            continue
        parts = cell.cut()
        for lower, upper in zip(parts.lower.split(1), parts.upper.split(1), strict=True):
            held = ((inside >= lower) & (inside < upper)).all(-1)
            waiting.append((Cells(lower, upper), inside[held], depth + 1))


def _is_crowded(cell: Cells, inside: Tensor) -> bool:
    """Whether the places [N, d] in a cell are too many for it, or too close together."""
    if len(inside) < 2:
        return False
    span = inside.amax(0) - inside.amin(0)
    return len(inside) > CROWD or bool((4 * span < cell.upper - cell.lower).all())


def _spread(draws: Tensor) -> Tensor:
    """Half of what the middle half of every variable spans [d]."""
    low, high = torch.quantile(draws, torch.tensor([0.25, 0.75], dtype=draws.dtype), dim=0)
    own: Tensor = (high - low) / 2
    return own.where(own > 0, draws.median(0).values.abs().clamp_min(1.0))
