"""How input units read their table: whole, a few rows of it, or not at all because it is ones.

Legend: F folds, B batch, V categories, K units, N entries (fold, row), n of them, k categories.
"""

from __future__ import annotations

from functools import cached_property
from math import log

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from pcflow.engine.kernels import add_rows, exp_, numbered
from pcflow.engine.plan import InputStep
from pcflow.engine.semiring import floor_of
from pcflow.engine.tables import Normalizer, Tables
from pcflow.inputs import FiniteFamily, Indicator


class Access:
    """The table [F or 1, V, K] of an input step, as its units read it.

    Attributes:
        family: whose table it is.
        shared: whether all folds read the same one.
    """

    def __init__(
        self, tables: Tables, step: InputStep, family: FiniteFamily, in_log_space: bool
    ) -> None:
        """Read nothing yet."""
        self.tables, self.step, self.family = tables, step, family
        self.in_log_space, self.shared = in_log_space, tables.is_shared(step)

    @cached_property
    def table(self) -> Tensor:
        """Probabilities or their logarithms, [F or 1, V, K]."""
        return self.tables.table(self.step, self.in_log_space)

    @cached_property
    def probabilities(self) -> Tensor:
        """The table, linear."""
        return self.table.exp() if self.in_log_space else self.table

    @cached_property
    def soft(self) -> Tensor:
        """The table that soft evidence is multiplied with, flattened: [F V or V, K]."""
        return self.tables.soft_table(self.step).flatten(0, 1)

    @property
    def log_table(self) -> Tensor:
        """Logarithms."""
        return self.tables.table(self.step, in_log_space=True)

    def fold(self, fold: Tensor) -> Tensor:
        """Which table each fold reads."""
        return torch.zeros_like(fold) if self.shared else fold

    def place(self, category: Tensor, fold: Tensor | None = None) -> Tensor:
        """Row of the flattened table, of categories [N, ...] of folds [N], or of all in order."""
        if self.shared:
            return category
        fold = torch.arange(len(category), device=category.device) if fold is None else fold
        return category + fold.unsqueeze(-1) * self.family.size

    def write(self, place: Tensor, units: Tensor) -> None:
        """Write the rows of the flattened table at places [F, B] to units [F, B, K]."""
        flat = self.table.flatten(0, 1)
        torch.index_select(flat, 0, place.flatten(), out=units.flatten(0, 1))

    def rows(self, place: Tensor) -> Tensor:
        """Rows [..., K] of the flattened table, at any places [...]."""
        return self.table.flatten(0, 1)[place]

    def has_zeros(self) -> bool:
        """Whether a probability is zero, or too small to hold."""
        return self.tables.has_zeros(self.step)

    def times(self, rows: Tensor, transposed: bool = False) -> Tensor:
        """Rows [N, V] @ table -> [N, K], or rows [N, K] @ table^T -> [N, V]."""
        table = self.tables.soft_table(self.step)
        if self.shared:
            machine = self.tables.plan.machine
            times = machine.rows_times_transposed if transposed else machine.rows_times_table
            return times(rows, table[0])
        table = table.transpose(1, 2) if transposed else table
        product = torch.bmm(rows.unflatten(0, (len(table), -1)).to(table.dtype), table)
        flat: Tensor = product.flatten(0, 1).to(rows.dtype)
        return flat

    def bag(self, place: Tensor, weights: Tensor) -> Tensor:
        """Rows of the flattened table at places [N, k], weighed by [N, k] and added up: [N, K].

        On a CPU rows without weight are not read, if they are many.
        """
        low, starts = weights.to(self.soft.dtype), None
        if place.device.type == "cpu" and 4 * int((weights > 0).sum()) <= 3 * weights.numel():
            used = weights > 0  # [N, k]
            count = used.sum(dim=-1)
            place, low, starts = place[used], low[used], count.cumsum(0) - count
        units = embedding_bag(place, self.soft, starts, per_sample_weights=low, mode="sum")
        return units.to(weights.dtype)

    def column(self, unit: Tensor, fold: Tensor, linear: bool) -> Tensor:
        """All entries of units [n], or their logarithms: [n, V]."""
        if linear:
            by_unit = self.tables.by_unit(self.step).flatten(0, 1)  # [F K, V]
            found = by_unit.index_select(0, self.fold(fold) * self.step.units + unit)
            return found.to(self.tables.like.dtype)
        table = self.log_table
        return table[0].t()[unit] if self.shared else table[fold, :, unit]

    def some(self, categories: Tensor, unit: Tensor, fold: Tensor, linear: bool) -> Tensor:
        """Entries of units [n] for some categories [n, k], or their logarithms: [n, k]."""
        table = self.tables.soft_table(self.step) if linear else self.log_table
        return self._single(table, categories, unit, fold).to(self.tables.like.dtype)

    def _single(self, table: Tensor, categories: Tensor, unit: Tensor, fold: Tensor) -> Tensor:
        """Numbers [n, k] of a table [F or 1, V, K]; many times faster than by three indices."""
        _, size, units = table.shape
        row = categories + (self.fold(fold) * size).unsqueeze(-1)
        place = (row * units).add_(unit.unsqueeze(-1))
        return table.reshape(-1).index_select(0, place.flatten()).view_as(place)


class FewRows(Access):
    """Rows that are made of logits when they are read; the table is not kept."""

    @property
    def keeps_soft(self) -> bool:
        """Whether potentials read another table, which is kept."""
        return self.tables.soft_dtype is not None and not self.tables.by_rows

    @cached_property
    def soft(self) -> Tensor:
        """See `Access`."""
        return super().soft if self.keeps_soft else self.table.flatten(0, 1)

    @cached_property
    def normalizer(self) -> Normalizer:
        """What makes log-probabilities of logits."""
        return self.tables.normalizer(self.step)

    @cached_property
    def table(self) -> Tensor:
        """See `Access`."""
        return self.normalizer.table(self.in_log_space)

    def write(self, place: Tensor, units: Tensor) -> None:
        """See `Access`."""
        flat = self.normalizer.logits.flatten(0, 1)
        torch.index_select(flat, 0, place.flatten(), out=units.flatten(0, 1))
        units.sub_(self.normalizer.log_total)
        if not self.in_log_space:
            exp_(units)

    def rows(self, place: Tensor) -> Tensor:
        """See `Access`."""
        log_total = self.normalizer.log_total  # [F or 1, 1, K]
        fold = place.new_zeros(()) if self.shared else place // self.family.num_categories
        found = self.normalizer.logits.flatten(0, 1)[place].sub_(log_total.squeeze(1)[fold])
        return found if self.in_log_space else exp_(found)

    def bag(self, place: Tensor, weights: Tensor) -> Tensor:
        """See `Access`; every row is made once, whoever names it."""
        if self.keeps_soft:
            return super().bag(place, weights)
        named, where = numbered(place, self.normalizer.logits[..., 0].numel())
        return embedding_bag(where, self.rows(named), per_sample_weights=weights, mode="sum")

    def some(self, categories: Tensor, unit: Tensor, fold: Tensor, linear: bool) -> Tensor:
        """See `Access`."""
        if linear and self.keeps_soft:
            return super().some(categories, unit, fold, linear)
        logits, log_total, _ = self.normalizer
        found = self._single(logits, categories, unit, fold)
        found.sub_(log_total[self.fold(fold), 0, unit].unsqueeze(-1))
        return exp_(found) if linear else found

    def has_zeros(self) -> bool:
        """See `Access`."""
        return bool(self.normalizer.lowest < log(floor_of(self.tables.like.dtype)))


class Ones(Access):
    """A table of K ones: there is nothing to multiply by."""

    def times(self, rows: Tensor, transposed: bool = False) -> Tensor:
        """See `Access`."""
        assert isinstance(self.family, Indicator)
        place = torch.tensor(self.family.values, device=rows.device)
        if not transposed:
            return rows.index_select(1, place)
        found = rows.new_zeros(len(rows), self.family.num_categories)
        add_rows(found.t(), place, rows.t())
        return found


def access(tables: Tables, step: InputStep, in_log_space: bool, few: bool) -> Access:
    """How a step reads its table; `few` says that it wants few rows, and the table is not kept."""
    family = step.family
    assert isinstance(family, FiniteFamily)
    if isinstance(family, Indicator):
        return Ones(tables, step, family, in_log_space)
    made_of_logits = few and family.logits is not None
    return (FewRows if made_of_logits else Access)(tables, step, family, in_log_space)
