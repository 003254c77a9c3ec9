"""Input units that read some rows of a table, because a rule tells these values apart from others.

The evidence is seen through the rows: what is observed as another value is impossible, what is
missing weighs these values alone, by their potentials, or each by one if there are none.

Legend: F folds, B batch, D variables, V categories, V' those that count, k' of which are listed, K
units, N entries (fold, row), n of them, C chosen categories.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from pcflow.engine.leaves.entries import Entries
from pcflow.engine.leaves.finite import FiniteLeaf
from pcflow.engine.plan import InputStep, SumStep
from pcflow.engine.routes import Route
from pcflow.engine.semiring import Semiring, Value
from pcflow.engine.tables import Tables
from pcflow.evidence import CheckedEvidence, Potentials
from pcflow.inputs import Share


class ShareLeaf(FiniteLeaf):
    """A table of V' rows.

    Attributes:
        told: what is known of all categories.
        lost: what is observed as a value that does not count, or rules out all that do, [F, B].
    """

    def __init__(
        self,
        step: InputStep,
        tables: Tables,
        evidence: CheckedEvidence,
        semiring: Semiring,
        keep: bool,
    ) -> None:
        """Look at the evidence through the rows."""
        assert isinstance(step.family, Share)
        device = evidence.values.device
        self.told, self.values = evidence, step.family.values.to(device)
        self.number = step.family.place.to(device)
        super().__init__(step, tables, self._through_rows(), semiring, keep)
        self.lost = self._lost()

    def _through_rows(self) -> CheckedEvidence:
        """What is known, of the values that count."""
        near, self.origin = _among(self.told, self.values, self.number)
        return seen_with(self.told, near.log, near.categories)

    def _lost(self) -> Tensor:
        lost = (self.number[self.x] < 0) & ~self.missing
        near = self.evidence.potentials
        if self.told.potentials is None or near is None:
            return lost
        silent = (near.log.detach().amax(dim=-1) == -torch.inf).t()  # [D, B]
        return lost | (silent.index_select(0, self.step.variables) & self.missing)

    @property
    def rows_read(self) -> Tensor:
        """See `FiniteLeaf`; the first for values that do not count."""
        return self.number[self.x].clamp_min(0)

    @cached_property
    def entries(self) -> Entries:
        """See `FiniteLeaf`."""
        near = self.evidence.potentials if self.any_soft else None
        about = self.step.variables, self.missing, self.hidden
        return _Entries(self, self.access, *about, near, self.evidence.domain.largest)

    def rule_out(self, out: Value) -> None:
        """See `FiniteLeaf`."""
        nothing = -torch.inf if self.semiring.in_log_space else 0.0
        out.units.masked_fill_(self.lost.unsqueeze(-1), nothing)
        out.scale.masked_fill_(self.lost, -torch.inf)

    def has_zeros(self) -> bool:
        """See `FiniteLeaf`; whatever the table has."""
        return bool(self.lost.any()) or super().has_zeros()

    def draw(self, unit: Tensor, fold: Tensor, row: Tensor, route: Route) -> Tensor:
        """See `FiniteLeaf`."""
        return self.values[super().draw(unit, fold, row, route)]

    def draw_mixed(self, unit: Tensor, fold: Tensor, route: Route, above: SumStep) -> Tensor | None:
        """None: what is missing has potentials."""
        return None

    def add_to_potentials(self, slope: Tensor, gradient: Tensor) -> None:
        """To those of the categories that count."""
        if self.told.potentials is None or self.entries.soft is None:
            return
        row, variable = self.in_batch(self.entries.row), self.entries.variable
        flow = self.flows.of_categories(self.entries.of(slope))  # [N, V' or k']
        place = self.origin[self.entries.row, variable]
        where = row.unsqueeze(-1), variable.unsqueeze(-1), place
        gradient.index_put_(where, flow, accumulate=True)

    def columns(self, row: Tensor, variable: Tensor) -> tuple[Any, ...]:
        """See `FiniteLeaf`."""
        return row.unsqueeze(-1), variable.unsqueeze(-1), self.values

    def rows_of(self, categories: Tensor) -> tuple[Tensor, Tensor]:
        """See `FiniteLeaf`; where a rule holds, all variables have the same categories."""
        numbered = self.number[categories]
        return numbered.clamp_min(0), numbered < 0


class _Entries(Entries):
    """What is missing; what is asked of categories is looked up among all that was told."""

    def __init__(self, leaf: ShareLeaf, *given: Any) -> None:
        super().__init__(*given)
        self.leaf = leaf

    def weighed(self) -> tuple[Tensor, Tensor]:
        """See `Entries`; without potentials all entries of a table are the same."""
        if self.leaf.told.potentials is not None:
            return super().weighed()
        mass = self.access.tables.mass(self.access.step)  # [S, K]
        units = mass.index_select(0, self.number)
        return units, units.new_zeros(len(units))

    def log_potential(self, fold: Tensor, row: Tensor) -> Tensor:
        told = self.leaf.told.potentials
        if told is None:
            return super().log_potential(fold, row)
        every = told.entries(row, self.variables[fold]).dense(self.largest)
        return every.index_select(1, self.leaf.values)

    def at(self, fold: Tensor, row: Tensor, categories: Tensor) -> Tensor:
        told = self.leaf.told.potentials
        if told is None:
            return self.access.tables.like.new_zeros(categories.shape)
        return told.at_entries(row, self.variables[fold], self.leaf.values[categories])


def seen_with(evidence: CheckedEvidence, log: Tensor, categories: Tensor | None) -> CheckedEvidence:
    """The same with other potentials."""
    return replace(evidence, log_potentials=log, categories=categories).seen(evidence.hidden)


def _among(evidence: CheckedEvidence, values: Tensor, number: Tensor) -> tuple[Potentials, Tensor]:
    """Potentials of the values that count, and where they stand among all, [B, D, V' or k']."""
    if evidence.potentials is not None:
        return evidence.potentials.restricted(values, number)
    shape = (*evidence.values.shape, len(values))
    nothing = torch.zeros(1, dtype=evidence.domain.dtype, device=values.device).expand(shape)
    return Potentials.of(nothing), values.expand(shape)
