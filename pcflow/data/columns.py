"""A table of columns, each of a family of its own, and how families are fitted to parts of it.

Columns of one family are fitted and scored together. Legend: N rows, D columns, F columns of one
family, V categories, S statistics, K units.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pcflow.data.table import as_table
from pcflow.errors import EvidenceError, StructureError
from pcflow.inputs import (
    Bernoulli,
    Categorical,
    DensityFamily,
    FiniteFamily,
    InputFamily,
    Params,
    spread_of,
)

Fitted = dict[InputFamily, tuple[list[int], dict[str, Tensor]]]
"""For every family its columns and their parameters [F, ..., K]."""


MOST_COUNTED = 16
"""Categories up to which a column is counted; a longer table would be mostly empty."""


class Columns:
    """Rows [N, D] that the families allow, and what fits each whole column.

    Args:
        data: rows [N, D] of numbers; NaN is a missing value.
        families: one for each column.

    Raises:
        EvidenceError: if there are no rows or columns, a column holds no value, or a value that
            its family does not allow; says which.
        StructureError: if a family has nothing to fit.

    Attributes:
        values: the data, float64.
        families: as given.
        whole: parameters of one unit for every column, which smaller parts are smoothed towards.
        spread: standard deviations [D] of the columns, one where all values are alike.
    """

    def __init__(self, data: Any, families: Sequence[InputFamily]) -> None:
        """Check every column and fit it."""
        self.values = torch.from_numpy(as_table(data))
        self.families = families
        one = torch.ones(len(self.values), 1, dtype=torch.float64)
        self.whole: list[dict[str, Tensor]] = []
        for v, family in enumerate(families):
            column = self.values[:, v]
            check_column(v, column, family)
            # of finite families every category; densities have floors
            smoothing = 1.0 if isinstance(family, FiniteFamily) else 0.0
            self.whole.append(family.fitted(column, one, smoothing))
        self.spread = spread_of(self.values.t())

    def fit(
        self, rows: Tensor, variables: Sequence[int], weight: Tensor, pseudocount: float
    ) -> Fitted:
        """Units fitted to rows with weights [N, K], and `pseudocount` like the whole column."""
        found: Fitted = {}
        for family, members in self._by_family(variables).items():
            x = self.values[rows][:, members].t()  # [F, N]
            whole = self._stack(members, weight.shape[1])
            fitted = _fit(family, whole, x, weight, pseudocount)
            if isinstance(family, DensityFamily):
                fitted = family.floored(fitted, self.spread[members].unsqueeze(-1), whole)
            found[family] = members, fitted
        return found

    def score(self, rows: Tensor, fitted: Fitted) -> Tensor:
        """Log-probability [N, K] (nats) of what is known of the rows, all columns multiplied."""
        total = torch.zeros((), dtype=torch.float64)
        for family, (members, params) in fitted.items():
            total = total + _scores(family, params, self.values[rows][:, members].t()).sum(dim=0)
        return total

    def _by_family(self, variables: Sequence[int]) -> dict[InputFamily, list[int]]:
        groups: dict[InputFamily, list[int]] = {}
        for v in variables:
            groups.setdefault(self.families[v], []).append(v)
        return groups

    def _stack(self, members: Sequence[int], units: int) -> dict[str, Tensor]:
        """What fits the whole columns, for every one of K units."""
        names = self.whole[members[0]]
        stacked = {n: torch.stack([self.whole[v][n] for v in members]) for n in names}
        return {n: p.expand(*p.shape[:-1], units) for n, p in stacked.items()}


def unordered(family: InputFamily) -> int | None:
    """The number of categories, of a family of few that have no order; None of others."""
    if isinstance(family, Bernoulli | Categorical) and family.num_categories <= MOST_COUNTED:
        return family.num_categories
    return None


def check_column(variable: int, column: Tensor, family: InputFamily) -> None:
    """Refuse a column [N] that holds no value, or one that its family does not allow.

    Raises:
        EvidenceError: naming the column and the value.
        StructureError: if the family has nothing to fit.
    """
    known = column[~column.isnan()]
    if len(known) == 0:
        raise EvidenceError(f"column {variable} holds no value")
    if not _any_start(family):
        raise StructureError(f"column {variable}: {family} has no parameters to fit")
    wrong = impossible(known, family)
    if wrong.any():
        raise EvidenceError(f"column {variable} holds {known[wrong][0]:g}, not for {family}")


def impossible(values: Tensor, family: InputFamily) -> Tensor:
    """Which values [N] no unit of a family gives any probability; NaN is not one of them.

    Examples:
        >>> from pcflow.inputs import LogNormal
        >>> impossible(torch.tensor([-1.0, 2.0, torch.inf]), LogNormal())
        tensor([ True, False,  True])
    """
    wrong = values.isinf()
    if isinstance(family, FiniteFamily):
        return (
            wrong
            | (values < 0)
            | (values >= family.num_categories)
            | (values != values.round()) & ~values.isnan()
        )
    assert isinstance(family, DensityFamily)
    start = {name: p.to(values).unsqueeze(0) for name, p in _any_start(family).items()}
    return wrong | (family.log_prob(start, values.unsqueeze(0))[0, :, 0] == -torch.inf)


def _any_start(family: InputFamily) -> dict[str, Tensor]:
    return family.initial(1, torch.Generator().manual_seed(0))


def _fit(
    family: InputFamily, whole: Params, x: Tensor, weight: Tensor, pseudocount: float
) -> dict[str, Tensor]:
    """Parameters [F, ..., K] from values [F, N] with weights [N, K], smoothed towards the whole."""
    if not isinstance(family, FiniteFamily):
        return family.update(whole, x, weight, pseudocount)
    return family.maximize(whole, family.tally(x, weight) + pseudocount * family.table(whole), 0.0)


def _scores(family: InputFamily, params: Params, x: Tensor) -> Tensor:
    """Log-probabilities [F, N, K] of values [F, N]; zero where missing."""
    missing = x.isnan()
    if isinstance(family, DensityFamily):
        found = family.log_prob(params, torch.where(missing, family.mode(params)[:, :1], x))
    else:
        assert isinstance(family, FiniteFamily)
        table = family.log_table(params)  # [F, V, K]
        value = x.masked_fill(missing, 0.0).long().unsqueeze(-1)
        found = table.gather(1, value.expand(-1, -1, table.shape[-1]))
    return found.masked_fill(missing.unsqueeze(-1), 0.0)
