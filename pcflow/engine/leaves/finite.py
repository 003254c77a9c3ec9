"""Input units that read a table.

Legend: F folds, B batch, D variables, V categories, K units, N entries (fold, row), n drawn ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot, pad

from pcflow.engine.leaves.access import access
from pcflow.engine.leaves.base import Leaf
from pcflow.engine.leaves.entries import Entries
from pcflow.engine.leaves.flows import Flows
from pcflow.engine.plan import InputStep, SumStep
from pcflow.engine.routes import Route
from pcflow.engine.semiring import Semiring, Value
from pcflow.engine.tables import Tables
from pcflow.evidence import CheckedEvidence
from pcflow.inputs import FiniteFamily


class FiniteLeaf(Leaf):
    """Input units that read tables [S, V, K].

    Attributes:
        access: how they read it.
        any_soft: whether something is missing, and has potentials.
        names_few: whether the table is large, few of its rows are read, and others are not counted.
    """

    def __init__(
        self,
        step: InputStep,
        tables: Tables,
        evidence: CheckedEvidence,
        semiring: Semiring,
        keep: bool,
    ) -> None:
        """Look up the values; `keep` tables that a way down would need."""
        super().__init__(step, tables, evidence, semiring)
        assert isinstance(step.family, FiniteFamily)
        self.x = self.x.long()
        self.any_soft = evidence.potentials is not None and self.any_missing
        reads_few = self._reads_few()
        self.names_few = reads_few and tables.by_rows and self._lists_few() and self._is_sparse()
        beside = reads_few and self.any_soft and tables.soft_dtype is not None
        once = not (keep or self.any_soft) and self.sets.by_fold
        few = once and self.x.shape[1] < step.family.size
        few = few or self.names_few or beside or self.sets.by_row
        self.access = access(tables, step, semiring.in_log_space, few)

    @property
    def _table_rows(self) -> int:
        """Of the flattened table."""
        assert isinstance(self.step.family, FiniteFamily)
        return self.step.family.size * self.sets.count

    def _reads_few(self) -> bool:
        """Whether the table is large, made of logits, and has more rows than there are values."""
        assert isinstance(self.step.family, FiniteFamily)
        is_large = self._table_rows * self.step.units > self.tables.plan.machine.numbers
        has_logits = self.step.family.logits is not None
        return has_logits and is_large and self.x.numel() < self._table_rows

    def _is_sparse(self) -> bool:
        """Whether to sort what is named costs less than to go over the tables."""
        return not self.sets.by_fold or 4 * self.x.numel() < self._table_rows

    def _lists_few(self) -> bool:
        """Whether potentials, if there are any, list no more than a few times as many."""
        most, soft = 4 * self._table_rows, self.evidence.potentials if self.any_soft else None
        listed = 1 if soft is None else soft.read(lambda: most, lambda some: some.shape[-1])
        return int(self.hidden.sum()) * listed < most

    @cached_property
    def entries(self) -> Entries:
        """What is missing, entry by entry."""
        soft = self.evidence.potentials if self.any_soft else None
        largest = self.evidence.domain.largest
        about = self.step.variables, self.missing, self.hidden
        return Entries(self.access, *about, soft, largest, self._weighed_before())

    def _weighed_before(self) -> Tensor | None:
        """What units were made of the potentials by whoever made these, [F, B, K]."""
        known, about = self.evidence.weighed, self.evidence
        if known is None or self.sets.by_row:
            return None
        now = about.log_potentials, about.missing, self.tables.cache.stamps
        return known.over(self.step.over) if known.holds(*now) else None

    @cached_property
    def flows(self) -> Flows:
        """What goes back through the table."""
        return Flows.of(self.entries, self.place, self.out)

    def up(self, out: Value) -> None:
        """Gather observations, weigh potentials, and set missing units to one."""
        self.out = out
        out.scale.zero_()
        if self._are_ones():
            out.units.fill_(0.0 if self.semiring.in_log_space else 1.0)
            return
        self.access.write(self.place, out.units)
        if self.any_soft or (self.any_missing and self.semiring.maximizes):
            units, scale = self.semiring.weigh(self.entries)  # [N, K], [N]
            self.entries.put(out.units, units)
            self.entries.put(out.scale, scale)
        elif self.any_missing:
            self.semiring.set_to_one(out.units, self.missing)
        self.rule_out(out)
        self.semiring.settle(out, self._zeros)

    def _are_ones(self) -> bool:
        """Whether no table is read: of a learner that counts, where all is missing.

        Others must meet a table that is not a number, which a learner did in the rows before.
        """
        if not (self.tables.by_rows and self.any_missing) or self.any_soft:
            return False
        return not self.semiring.maximizes and bool(self.hidden.all())

    def rule_out(self, out: Value) -> None:
        """Set to zero what is known to be, whatever the table says: of a whole table nothing."""

    def has_zeros(self) -> bool:
        """Of a table without zeros none comes, if nothing soft is said."""
        return (self.any_soft or self.access.has_zeros()) and super().has_zeros()

    def counts(self, slope: Tensor, out: Tensor | None = None) -> Tensor:
        """Expected counts [S, V, K] of table entries from unit slopes [F, B, K].

        Missing values without potentials are not counted. They may be written to `out`.
        """
        return self.flows.counts(slope, self.observed_flow(slope), out)

    def named_counts(self, slope: Tensor) -> tuple[Tensor, Tensor]:
        """The same where rows of the flattened table are named [n], each once: [n, K]."""
        return self.flows.named(slope, self.observed_flow(slope))

    def gradients(self, slope: Tensor, places: Mapping[str, Tensor] = {}) -> dict[str, Tensor]:
        """From the counts; for logits without writing these down."""
        params = self.tables.parameters(self.step)
        return self.flows.gradients(params, slope, self.observed_flow(slope), places)

    def add_to_potentials(self, slope: Tensor, gradient: Tensor) -> None:
        """The flow through every category of what is missing."""
        if self.entries.soft is None:
            return
        row, variable = self.entries.row, self.entries.variable
        flow = self.flows.of_categories(self.entries.of(slope))  # [N, V or k]
        found = pad(flow, (0, gradient.shape[-1] - flow.shape[-1]))
        gradient.index_put_((self.in_batch(row), variable), found, accumulate=True)

    def add_to_values(self, slope: Tensor, gradient: Tensor) -> None:
        """Integers have no slope."""

    def draw_mixed(self, unit: Tensor, fold: Tensor, route: Route, above: SumStep) -> Tensor | None:
        """By tables of the mixtures, where every fold has its own and enough is drawn."""
        if not self.sets.by_fold or self._draws_few(unit):
            return None
        return route.unit_value(self.tables, self.step, fold, unit, above)

    def _draws_few(self, unit: Tensor) -> bool:
        """Whether tables of running sums would cost more than they save."""
        columns = self.sets.count * self.step.units
        return self.any_soft or self.sets.by_row or 4 * len(unit) < columns

    def draw(self, unit: Tensor, fold: Tensor, row: Tensor, route: Route) -> Tensor:
        """By the unit's table entries, times potentials if there are any."""
        if not self._draws_few(unit):
            number = self.sets.number(fold, row)
            found = route.unit_value(self.tables, self.step, number, unit)
            if found is not None:
                return found
        size = max(1, self.tables.plan.machine.numbers // self.entries.width)
        blocks = zip(unit.split(size), fold.split(size), row.split(size), strict=True)
        drawn = [self._draw(*block, route) for block in blocks]
        return torch.cat(drawn) if drawn else unit

    def _draw(self, unit: Tensor, fold: Tensor, row: Tensor, route: Route) -> Tensor:
        """By linear scores, as exact as the units that they add up to, or by their logarithms."""
        linear = route.reads_linear and not self.access.in_log_space
        scores = self.entries.scores(unit, fold, row, linear)
        drawn = route.index(scores, in_log_space=False) if linear else route.category(scores)
        return self.entries.category(drawn, fold, row)

    def _zeros(self) -> tuple[Tensor, Tensor] | None:
        """Fold and row of units that are all zero in log space too, not just too small to hold."""
        looks = self.x.device.type == "cpu"  # elsewhere one would have to wait for it
        if looks and not self.any_soft and not self.access.has_zeros():
            return None
        dead = (self.out.units.amax(dim=-1) == 0) & (self.out.scale > -torch.inf)  # [F, B]
        if not looks:
            self.dead = dead.any(dim=0)
            return None
        if not dead.any():
            return None
        log_table, size = self.access.log_table, self.access.family.size
        fold, row = dead.nonzero(as_tuple=True)
        number = 0 if self.sets.count == 1 else self.sets.number(fold, row)
        score = log_table[number].amax(dim=-1)  # [N, V] or [V]
        known = torch.zeros(len(fold), size, device=score.device, dtype=score.dtype)
        if self.any_soft:
            known = self.entries.log_potential(fold, row)
        observed = one_hot(self.rows_read[fold, row], size).log()
        known = torch.where(self.missing[fold, row].unsqueeze(-1), known, observed)
        exact = (score + known).amax(dim=-1) == -torch.inf
        return fold[exact], row[exact]

    @cached_property
    def place(self) -> Tensor:
        """Row of the flattened table that every fold and row [F, B] reads."""
        return self.access.of_grid(self.rows_read)

    @property
    def rows_read(self) -> Tensor:
        """Of its own table, [F, B]."""
        return self.x

    def columns(self, row: Tensor, variable: Tensor) -> tuple[Any, ...]:
        """Where numbers [N, V] about its categories stand in [B, D, V]."""
        return row, variable, slice(self.entries.size)

    def rows_of(self, categories: Tensor) -> tuple[Tensor, Tensor]:
        """The rows of its table that categories have, and which of them have none."""
        beyond = categories >= self.entries.size
        return categories.masked_fill(beyond, 0), beyond
