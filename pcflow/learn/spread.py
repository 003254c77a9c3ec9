"""How far the values of columns spread, put together from batches, processes and tied columns.

Columns are known by the weight of their values, the mean, and the weighted squares of what deviates
from it: [3, D], double. Legend: B batch, D variables, F folds, P parameters of a bank, G groups.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable

import torch
from torch import Tensor

from pcflow.engine import BankRead, InputStep
from pcflow.evidence import CheckedEvidence, Domain
from pcflow.inputs import alike, spread_of
from pcflow.learn.team import ALONE, Team


def unseen(variables: int) -> Tensor:
    """Columns [3, D] of which no value was met."""
    return torch.zeros(3, variables, dtype=torch.float64)


def seen(evidence: CheckedEvidence, weight: Tensor) -> Tensor:
    """Columns [3, D] of the rows of a batch, with weights [B]."""
    values, missing = evidence.nearby.detach().double(), evidence.missing
    if evidence.bounded is not None:
        missing = missing & ~evidence.bounded.to(missing.device)
    there = weight.double().unsqueeze(-1).masked_fill(missing, 0.0)  # [B, D]
    total = there.sum(dim=0)
    mean = (there * values).sum(dim=0) / total.clamp_min(torch.finfo(total.dtype).tiny)
    return torch.stack([total, mean, (there * (values - mean).square()).sum(dim=0)]).cpu()


def together(columns: Tensor, group: Tensor, groups: int, team: Team = ALONE) -> Tensor:
    """Those [3, N] of one group, and of all processes, as one column [3, G].

    Chan, Golub and LeVeque (1983), Algorithms for computing the sample variance.
    """
    weight, mean, squares = columns

    def added(numbers: Tensor) -> Tensor:
        found: Tensor = numbers.new_zeros(groups).index_add_(0, group, numbers)
        team.add_up([found])
        return found

    total = added(weight)
    middle = added(weight * mean) / total.clamp_min(torch.finfo(total.dtype).tiny)
    return torch.stack([total, middle, added(squares + weight * (mean - middle[group]).square())])


def both(columns: Tensor, others: Tensor) -> Tensor:
    """The columns [3, D] of two sets of rows."""
    places = torch.arange(columns.shape[1]).repeat(2)
    return together(torch.cat([columns, others], dim=1), places, columns.shape[1])


def spread(columns: Tensor) -> Tensor:
    """Standard deviations [D]; zero where all values are alike."""
    weight, mean, squares = columns
    found: Tensor = (squares / weight.clamp_min(torch.finfo(weight.dtype).tiny)).sqrt()
    return found.masked_fill(alike(found, mean.abs()), 0.0)


def by_row(columns: Tensor, steps: Iterable[InputStep], bank: int, rows: int) -> Tensor:
    """Columns [3, P] of the parameters of a bank: of all variables that read one, together."""
    reads = [(read, step) for step in steps for read in step.parameters.values()]
    mine = [(read, step) for read, step in reads if read.bank == bank]
    places = torch.cat([_places(read, step.folds, rows) for read, step in mine])
    over = torch.tensor([v for _, step in mine for v in step.over])
    return together(columns[:, over], places, rows)


def _places(read: BankRead, folds: int, rows: int) -> Tensor:
    """The row [F] that every fold reads."""
    found = torch.arange(rows)[read.rows] if isinstance(read.rows, slice) else read.rows.cpu()
    return found.expand(folds) if read.shared else found


FARTHEST = 2.0**17
"""So many of its standard deviations a column may lie from zero in float32, of whose 24 bits 7 are
then left to tell its values apart."""


def warn_of_rounding(rows: Tensor, domain: Domain) -> None:
    """Warn if what is real in rows [N, D] loses its differences in the precision of a model."""
    if domain.is_finite or domain.dtype != torch.float32:
        return
    x = rows.detach().to("cpu", torch.float64)
    size, spread = x.nan_to_num(nan=0.0).abs().amax(dim=0), spread_of(x.t())
    constant = x.nan_to_num(nan=torch.inf).amin(dim=0) == x.nan_to_num(nan=-torch.inf).amax(dim=0)
    far = (size > FARTHEST * spread) & ~constant & domain.real.cpu()
    for column in far.nonzero().flatten().tolist():
        told = f"{size[column] / spread[column]:.0e} of its standard deviations from zero"
        warnings.warn(
            f"column {column} lies {told}, and float32 rounds its differences away: subtract what "
            "is common, or compile(dtype=torch.float64)",
            stacklevel=3,
        )
