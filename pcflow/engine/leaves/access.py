"""How input units read their table: whole, a few rows of it, or not at all because it is ones.

Legend: F folds, B batch, S tables, V categories, K units, N entries (fold, row), n of them, k
categories.
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
    """The tables [S, V, K] of an input step, as its units read them.

    Attributes:
        family: whose tables these are.
        sets: which of them folds and rows read.
    """

    def __init__(
        self, tables: Tables, step: InputStep, family: FiniteFamily, in_log_space: bool
    ) -> None:
        """Read nothing yet."""
        self.tables, self.step, self.family = tables, step, family
        self.in_log_space, self.sets = in_log_space, tables.sets(step)

    @cached_property
    def table(self) -> Tensor:
        """Probabilities or their logarithms, [S, V, K]."""
        return self.tables.table(self.step, self.in_log_space)

    @cached_property
    def probabilities(self) -> Tensor:
        """The table, linear."""
        return self.table.exp() if self.in_log_space else self.table

    @property
    def soft_table(self) -> Tensor:
        """The tables that soft evidence is multiplied with, [S, V, K]; by row as they are."""
        if self.sets.by_row:
            return self.tables.table(self.step, in_log_space=False)
        return self.tables.soft_table(self.step)

    @cached_property
    def soft(self) -> Tensor:
        """The same, flattened: [S V, K]."""
        return self.soft_table.flatten(0, 1)

    @property
    def log_table(self) -> Tensor:
        """Logarithms."""
        return self.tables.table(self.step, in_log_space=True)

    def place(self, category: Tensor, fold: Tensor, row: Tensor) -> Tensor:
        """Row of the flattened tables, of categories of folds and rows that broadcast."""
        if self.sets.count == 1:
            return category
        return category + self.sets.number(fold, row) * self.family.size

    def of_entries(self, category: Tensor, fold: Tensor, row: Tensor) -> Tensor:
        """The same of categories [N, ...] of folds and rows [N]."""
        return self.place(category, fold.unsqueeze(-1), row.unsqueeze(-1))

    def of_grid(self, category: Tensor) -> Tensor:
        """The same of categories [F, B] of all folds and rows."""
        if self.sets.count == 1:
            return category
        fold, row = (torch.arange(size, device=category.device) for size in category.shape)
        return self.place(category, fold.unsqueeze(-1), row)

    def write(self, place: Tensor, units: Tensor) -> None:
        """Write the rows of the flattened table at places [F, B] to units [F, B, K]."""
        flat = self.table.flatten(0, 1)
        torch.index_select(flat, 0, place.flatten(), out=units.flatten(0, 1))

    def rows(self, place: Tensor) -> Tensor:
        """Rows [..., K] of the flattened table, at any places [...]."""
        return self.table.flatten(0, 1)[place]

    def weighed(self, units: Tensor, out: Tensor | None = None) -> Tensor:
        """The table, every unit times a number of [S, 1, K]; it may be written to `out`."""
        return torch.mul(self.table, units, out=out)

    def has_zeros(self) -> bool:
        """Whether a probability is zero, or too small to hold."""
        return self.tables.has_zeros(self.step)

    def times(self, rows: Tensor, transposed: bool = False) -> Tensor:
        """Rows [N, V] @ table -> [N, K], or rows [N, K] @ table^T -> [N, V]."""
        table = self.tables.soft_table(self.step)
        if not self.sets.by_fold:
            machine = self.tables.plan.machine
            times = machine.rows_times_transposed if transposed else machine.rows_times_table
            return times(rows, table[0])
        table = table.transpose(1, 2) if transposed else table
        product = torch.bmm(rows.unflatten(0, (len(table), -1)).to(table.dtype), table)
        flat: Tensor = product.flatten(0, 1).to(rows.dtype)
        return flat

    def times_each(self, rows: Tensor, number: Tensor, transposed: bool = False) -> Tensor:
        """Rows [N, V] @ the table of each [N]: [N, K]; or [N, K] @ table^T: [N, V]."""
        table = self.probabilities.transpose(1, 2) if transposed else self.probabilities
        size = max(1, self.tables.plan.machine.numbers // max(1, table[:1].numel()))
        blocks = zip(rows.unsqueeze(1).split(size), number.split(size), strict=True)
        return torch.cat([torch.bmm(some, table[its]).squeeze(1) for some, its in blocks])

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

    def column(self, unit: Tensor, number: Tensor, linear: bool) -> Tensor:
        """All entries of units [n] of tables [n], or their logarithms: [n, V]."""
        if self.sets.by_row:
            return self.tables.table(self.step, in_log_space=not linear)[number, :, unit]
        if linear:
            by_unit = self.tables.by_unit(self.step).flatten(0, 1)  # [F K, V]
            found = by_unit.index_select(0, number * self.step.units + unit)
            return found.to(self.tables.like.dtype)
        table = self.log_table
        return table[number, :, unit] if self.sets.by_fold else table[0].t()[unit]

    def some(self, categories: Tensor, unit: Tensor, number: Tensor, linear: bool) -> Tensor:
        """Entries of units [n] for some categories [n, k], or their logarithms: [n, k]."""
        table = self.soft_table if linear else self.log_table
        return _single(table, categories, unit, number).to(self.tables.like.dtype)


def _single(table: Tensor, categories: Tensor, unit: Tensor, number: Tensor) -> Tensor:
    """Numbers [n, k] of tables [S, V, K]; many times faster than by three indices."""
    _, size, units = table.shape
    row = categories + (number * size).unsqueeze(-1)
    place = (row * units).add_(unit.unsqueeze(-1))
    return table.reshape(-1).index_select(0, place.flatten()).view_as(place)


class FewRows(Access):
    """Rows that are made of logits when they are read; the table is not kept."""

    @property
    def keeps_soft(self) -> bool:
        """Whether potentials read another table, which is kept."""
        return self.tables.soft_dtype is not None and not (self.tables.by_rows or self.sets.by_row)

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
        units.sub_(self.sets.spread(self.normalizer.log_total.squeeze(1)))
        if not self.in_log_space:
            exp_(units)

    def rows(self, place: Tensor) -> Tensor:
        """See `Access`."""
        log_total = self.normalizer.log_total  # [F or 1, 1, K]
        shared = self.sets.count == 1
        number = place.new_zeros(()) if shared else place // self.family.num_categories
        found = self.normalizer.logits.flatten(0, 1)[place].sub_(log_total.squeeze(1)[number])
        return found if self.in_log_space else exp_(found)

    def weighed(self, units: Tensor, out: Tensor | None = None) -> Tensor:
        """See `Access`; a piece at a time, as fresh memory is dear."""
        logits, log_total, _, moderate = self.normalizer
        found = self.tables.pages.take(logits, logits.shape) if out is None else out
        units = units * exp_(-log_total) if moderate else units
        size = max(1, self.tables.plan.machine.cached // max(1, logits[:1].numel()))
        pieces = (part.split(size) for part in (logits, log_total, units, found))
        for some, totals, times, out in zip(*pieces, strict=True):
            if moderate:
                torch.exp(some, out=out).mul_(times)
            else:
                exp_(torch.sub(some, totals, out=out)).mul_(times)
        return found

    def bag(self, place: Tensor, weights: Tensor) -> Tensor:
        """See `Access`; every row is made once, whoever names it."""
        if self.keeps_soft:
            return super().bag(place, weights)
        named, where = numbered(place, self.normalizer.logits[..., 0].numel())
        return embedding_bag(where, self.rows(named), per_sample_weights=weights, mode="sum")

    def some(self, categories: Tensor, unit: Tensor, number: Tensor, linear: bool) -> Tensor:
        """See `Access`."""
        if linear and self.keeps_soft:
            return super().some(categories, unit, number, linear)
        logits, log_total, *_ = self.normalizer
        found = _single(logits, categories, unit, number)
        found.sub_(log_total[number, 0, unit].unsqueeze(-1))
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
