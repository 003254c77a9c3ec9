"""Input units that read a table.

Legend: F folds, B batch, D variables, V categories, K units, N entries (fold, row).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from math import log

import torch
from torch import Tensor

from pcflow.engine.kernels import NUMBERS, exp_, rows_times_table, rows_times_transposed
from pcflow.engine.leaves.base import Leaf
from pcflow.engine.log_semiring import LOG_BLOCK, LogSumProduct
from pcflow.engine.plan import InputStep, SumStep
from pcflow.engine.routes import Route
from pcflow.engine.semiring import Scaled, Semiring, Value, floor_of
from pcflow.engine.tables import Normalizer, Tables
from pcflow.evidence import CheckedEvidence
from pcflow.inputs import FiniteFamily, Indicator


class FiniteLeaf(Leaf):
    """Input units that read a table [F or 1, V, K].

    What is not observed is handled entry by entry: with a table shared by all folds the entries are
    just the missing ones, otherwise all of them, fold by fold, so that products can be batched.
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
        self.num_categories = step.family.num_categories
        self.shared = tables.is_shared(step)
        self.evidence, self.any_soft = evidence, self.any_soft and self.any_missing
        self.normalizer = self._normalizer(keep)

    @cached_property
    def entries(self) -> tuple[Tensor, Tensor]:
        """Fold and row [N] of what is handled entry by entry."""
        entries = self.missing if self.shared else torch.ones_like(self.missing)
        fold, row = entries.nonzero(as_tuple=True)
        return fold, row

    @property
    def fold(self) -> Tensor:
        """Fold of every entry [N]."""
        return self.entries[0]

    @property
    def row(self) -> Tensor:
        """Row of every entry [N]."""
        return self.entries[1]

    @cached_property
    def table(self) -> Tensor:
        """Probabilities or their logarithms, [F or 1, V, K]; not kept long if few are wanted."""
        in_log_space = self.semiring.in_log_space
        if self.normalizer is not None:
            return self.normalizer.table(in_log_space)
        return self.tables.table(self.step, in_log_space)

    def _normalizer(self, keep: bool) -> Normalizer | None:
        """What makes log-probabilities of parameters, where few of the table's are wanted."""
        whole = keep or self.shared or self.any_soft
        if whole or self.x.shape[1] >= self.num_categories:
            return None
        return self.tables.normalizer(self.step)

    def up(self, out: Value) -> None:
        """Gather observations, weigh potentials, and set missing units to one."""
        self.out = out
        flat, index = out.units.flatten(0, 1), self._table_rows().flatten()
        if self.normalizer is not None:
            torch.index_select(self.normalizer.logits.flatten(0, 1), 0, index, out=flat)
            out.units.sub_(self.normalizer.log_total)
            if not self.semiring.in_log_space:
                exp_(out.units)
        else:
            torch.index_select(self.table.flatten(0, 1), 0, index, out=flat)
        if self.semiring.in_log_space:
            self._up_log()
        else:
            self._up_scaled()

    def counts(self, slope: Tensor) -> Tensor:
        """Expected counts [F or 1, V, K] of table entries from unit slopes [F, B, K].

        Missing values without potentials are not counted.
        """
        counts = self._no_counts(slope)
        self._add_observed(counts, self.observed_flow(slope))
        if self.any_soft:
            soft = self._soft_slope(slope)
            if self.semiring.in_log_space:
                self._add_soft_log(soft, counts)
            else:
                counts += self._potential_times(soft).mul_(self.table)
        return counts

    def gradients(
        self, slope: Tensor, potentials: Tensor | None, learns: bool
    ) -> dict[str, Tensor]:
        """From the counts; for logits without writing these down."""
        if potentials is not None and self.any_soft:
            index = (self.row, self.step.variables[self.fold])
            gradient = self._potential_gradient(self._soft_slope(slope))
            potentials[..., : self.num_categories].index_put_(index, gradient, accumulate=True)
        if not learns:
            return {}
        family = self.step.family
        assert isinstance(family, FiniteFamily)
        if family.logits is not None and not self.semiring.in_log_space:
            return {family.logits: self._logit_gradient(slope)}
        table = self.table.exp() if self.semiring.in_log_space else self.table
        return family.table_gradient(self.tables.parameters(self.step), table, self.counts(slope))

    def _logit_gradient(self, slope: Tensor) -> Tensor:
        """Counts less the table times their total."""
        observed = self.observed_flow(slope)
        total = observed.sum(dim=(0, 1) if self.shared else 1).view(-1, 1, slope.shape[-1])
        if not self.any_soft:
            gradient = self.table * total.neg_()
        else:
            gradient = self._potential_times(self._soft_slope(slope))
            total += torch.einsum("fvk,fvk->fk", gradient, self.table).unsqueeze(1)
            gradient.sub_(total).mul_(self.table)
        self._add_observed(gradient, observed)
        return gradient

    def _no_counts(self, like: Tensor) -> Tensor:
        folds = 1 if self.shared else len(self.x)
        return like.new_zeros(folds, self.num_categories, like.shape[-1])

    def _add_observed(self, counts: Tensor, observed: Tensor) -> None:
        """Add flows [F, B, K] of observed entries to [F or 1, V, K]."""
        counts.flatten(0, 1).index_add_(0, self._table_rows().flatten(), observed.flatten(0, 1))

    def _soft_slope(self, slope: Tensor) -> Tensor:
        """Slopes [N, K] of soft entries, zero for observed ones among them."""
        soft = slope[self.fold, self.row]
        return soft if self.shared else soft.mul_(self.missing.flatten().unsqueeze(-1))

    def draw_mixed(self, unit: Tensor, fold: Tensor, route: Route, above: SumStep) -> Tensor | None:
        """By tables of the mixtures, where every fold has its own and enough is drawn."""
        if self.shared or self._draws_few(unit):
            return None
        return route.unit_value(self.tables, self.step, fold, unit, above)

    def _draws_few(self, unit: Tensor) -> bool:
        """Whether tables of running sums would cost more than they save."""
        columns = (1 if self.shared else len(self.x)) * self.step.units
        return self.any_soft or 4 * len(unit) < columns

    def draw(self, unit: Tensor, fold: Tensor, row: Tensor, route: Route) -> Tensor:
        """By the unit's table entries, times potentials if there are any."""
        if not self._draws_few(unit):
            place = torch.zeros_like(fold) if self.shared else fold
            found = route.unit_value(self.tables, self.step, place, unit)
            if found is not None:
                return found
        listed = self.evidence.categories if self.any_soft else None
        size = max(1, NUMBERS // (self.num_categories if listed is None else listed.shape[-1]))
        blocks = zip(unit.split(size), fold.split(size), row.split(size), strict=True)
        drawn = [self._draw_soft(*block, route) for block in blocks]
        return torch.cat(drawn) if drawn else unit

    def _draw_soft(self, unit: Tensor, fold: Tensor, row: Tensor, route: Route) -> Tensor:
        """By linear scores, as exact as the units that they add up to, or by their logarithms."""
        linear = route.reads_linear and not self.semiring.in_log_space
        scores = self._scores(unit, fold, row, linear)
        drawn = route.index(scores, in_log_space=False) if linear else route.category(scores)
        if not (self.any_soft and self.evidence.categories is not None):
            return drawn
        return self._listed(fold, row)[0].gather(-1, drawn.unsqueeze(-1)).squeeze(-1)

    def _scores(self, unit: Tensor, fold: Tensor, row: Tensor, linear: bool) -> Tensor:
        """Table entries of units times potentials [N, V], or their logarithms."""
        place = torch.zeros_like(fold) if self.shared else fold
        if self.any_soft and self.evidence.categories is not None:
            listed, log_potential = self._listed(fold, row)  # [N, k]
            table = self.tables.table(self.step, in_log_space=not linear)
            entries = table[place.unsqueeze(-1), listed, unit.unsqueeze(-1)]
        else:
            entries = self._of_units(unit, place, linear)
            if not self.any_soft:
                return entries
            if linear:
                return entries.mul_(self.potential[0].index_select(0, self._number(fold, row)))
            log_potential = self.log_potential(fold, row)
        return _linear(log_potential)[0].mul_(entries) if linear else log_potential + entries

    def _number(self, fold: Tensor, row: Tensor) -> Tensor:
        """Which of the entries [N] these are."""
        place = fold * self.missing.shape[1] + row
        return (self.missing.flatten().cumsum(0) - 1)[place] if self.shared else place

    def _of_units(self, unit: Tensor, fold: Tensor, linear: bool) -> Tensor:
        """All table entries of units [N, V], or their logarithms."""
        if linear:
            table = self.tables.by_unit(self.step).flatten(0, 1)  # [F K, V]
            return table.index_select(0, fold * self.step.units + unit)
        log_table = self.tables.table(self.step, in_log_space=True)
        return log_table[0].t()[unit] if self.shared else log_table[fold, :, unit]

    def _up_scaled(self) -> None:
        out = self.out
        out.scale.zero_()
        if not self.any_soft:
            if self.any_missing:  # probabilities are at most one; much faster than masked_fill_
                missing = self.missing.to(out.units.dtype).unsqueeze(-1)
                torch.maximum(out.units, missing, out=out.units)
        else:
            units, peak = (
                self._weigh_listed()
                if self.evidence.categories is not None
                else (self.times_table(self.potential[0]), self.potential[1])
            )  # [N, K], [N]
            put(out.units, self.fold, self.row, units, self.missing)
            put(out.scale, self.fold, self.row, peak, self.missing)
        self._mark_exact_zeros()
        assert isinstance(self.semiring, Scaled)
        self.semiring.raise_(out.units)

    @cached_property
    def potential(self) -> tuple[Tensor, Tensor]:
        """Linear potentials [N, V] of entries, the largest 1; and what divided them, log [N]."""
        return _linear(self.log_potential(self.fold, self.row))

    def _weigh_listed(self) -> tuple[Tensor, Tensor]:
        """Sum of potential times table over listed categories: [N, K]; and a log-scale [N]."""
        listed, log_potential = self._listed(self.fold, self.row)  # [N, k]
        place = listed if self.shared else listed + self.fold.unsqueeze(-1) * self.num_categories
        potential, peak = _linear(log_potential)
        table = self.table.flatten(0, 1)
        weigh = torch.nn.functional.embedding_bag
        return weigh(place, table, per_sample_weights=potential, mode="sum"), peak

    def _listed(self, fold: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
        """Listed categories [N, k] of entries, and log-potentials."""
        assert self.evidence.categories is not None and self.evidence.soft is not None
        variable = self.step.variables[fold]
        listed = self.evidence.categories[row, variable]
        log_potential = self.evidence.soft[row, variable]
        beyond = listed >= self.num_categories
        return listed.masked_fill(beyond, 0), log_potential.masked_fill(beyond, -torch.inf)

    def _mark_exact_zeros(self) -> None:
        """Scale -inf where all units are zero in log space too, not just too small to hold."""
        if not self.any_soft and not self._has_zeros():
            return
        dead = self.out.units.amax(dim=-1) == 0  # [F, B]
        if not dead.any():
            return
        log_table = self.tables.table(self.step, in_log_space=True)
        fold, row = dead.nonzero(as_tuple=True)
        score = log_table[0 if self.shared else fold].amax(dim=-1)  # [N, V] or [V]
        known = torch.zeros(len(fold), self.num_categories, device=score.device, dtype=score.dtype)
        if self.any_soft:
            known = self.log_potential(fold, row)
        one_hot = torch.nn.functional.one_hot(self.x[fold, row], self.num_categories).log()
        known = torch.where(self.missing[fold, row].unsqueeze(-1), known, one_hot)
        exact = (score + known).amax(dim=-1) == -torch.inf
        self.out.scale[fold[exact], row[exact]] = -torch.inf

    def _has_zeros(self) -> bool:
        if self.normalizer is not None:
            return self.normalizer.lowest < log(floor_of(self.out.units.dtype))
        return self.tables.has_zeros(self.step)

    def _up_log(self) -> None:
        assert isinstance(self.semiring, LogSumProduct)
        if not self.any_soft and not self.semiring.maximizes:
            self.out.units.masked_fill_(self.missing.unsqueeze(-1), 0.0)
        elif self.any_missing:
            for some, joint in self.log_joint():
                variables = self.step.variables[self.fold[some]]
                units = self.semiring.over_categories(joint, variables)  # [N, K]
                put(self.out.units, self.fold[some], self.row[some], units, self.missing)

    def _potential_times(self, slope: Tensor) -> Tensor:
        """Sum of potential [N, V] x slope [N, K] over entries: [F or 1, V, K]."""
        potential, shape = self.potential[0], (len(self.missing), -1)
        if self.shared:
            return (potential.t() @ slope).unsqueeze(0)
        potential = potential.unflatten(0, shape)
        return torch.bmm(potential.transpose(1, 2), slope.unflatten(0, shape))

    def _potential_gradient(self, slope: Tensor) -> Tensor:
        """Flow [N, V] through every category of soft entries."""
        if self.semiring.in_log_space:
            return self._add_soft_log(slope, None)
        return self.potential[0] * self.times_table(slope, transposed=True)

    def _add_soft_log(self, flow: Tensor, counts: Tensor | None) -> Tensor:
        """The same from logarithms, edge by edge; and expected counts."""
        gradient = flow.new_zeros(len(flow), self.num_categories)
        for some, joint in self.log_joint():
            fold, row = self.fold[some], self.row[some]
            share = (joint - self.out.units[fold, row].unsqueeze(-2)).exp().nan_to_num(nan=0.0)
            edges = share * flow[some].unsqueeze(-2)  # [N, V, K]
            if counts is not None:
                counts.index_add_(0, torch.zeros_like(fold) if self.shared else fold, edges)
            gradient[some] = edges.sum(dim=-1)
        return gradient

    def times_table(self, rows: Tensor, transposed: bool = False) -> Tensor:
        """Rows [N, V] @ table -> [N, K], or rows [N, K] @ table^T -> [N, V]."""
        if isinstance(self.step.family, Indicator):  # K ones: no product
            place = torch.tensor(self.step.family.values, device=rows.device)
            if not transposed:
                return rows.index_select(1, place)
            return rows.new_zeros(len(rows), self.num_categories).index_add_(1, place, rows)
        table = self.table if self.normalizer else self.tables.soft_table(self.step)
        if self.shared:
            times = rows_times_transposed if transposed else rows_times_table
            return times(rows, table[0])
        table = table.transpose(1, 2) if transposed else table
        product = torch.bmm(rows.unflatten(0, (len(table), -1)).to(table.dtype), table)
        flat: Tensor = product.flatten(0, 1).to(rows.dtype)
        return flat

    def log_joint(self, potentials: bool = True) -> Iterator[tuple[slice, Tensor]]:
        """Blocks of entries with log-table plus log-potential [N, V, K]."""
        size = max(1, LOG_BLOCK // (self.num_categories * self.table.shape[-1]))
        for start in range(0, len(self.fold), size):
            some = slice(start, start + size)
            joint = self.table[0 if self.shared else self.fold[some]]
            joint = joint.expand(len(self.fold[some]), -1, -1)
            if potentials and self.any_soft:
                joint = joint + self.log_potential(self.fold[some], self.row[some]).unsqueeze(-1)
            yield some, joint

    def log_potential(self, fold: Tensor, row: Tensor) -> Tensor:
        """Log-potentials [N, V] of entries."""
        log_potentials = self.evidence.log_potentials
        assert log_potentials is not None
        _, width, categories = log_potentials.shape  # [B, D, V]
        place = row * width + self.step.variables[fold]
        rows = log_potentials.reshape(-1, categories).index_select(0, place)
        return rows[:, : self.num_categories]

    def _table_rows(self) -> Tensor:
        """Row of the flattened table that every entry [F, B] reads."""
        if self.shared:
            return self.x
        folds = torch.arange(len(self.x), device=self.x.device)
        return self.x + folds.unsqueeze(-1) * self.num_categories


def _linear(log_potential: Tensor) -> tuple[Tensor, Tensor]:
    """Potentials [N, V] relative to the largest, and its log [N]; writes over its argument."""
    peak = log_potential.amax(dim=-1).nan_to_num(neginf=0.0)
    return exp_(log_potential.sub_(peak.unsqueeze(-1))), peak


def put(out: Tensor, fold: Tensor, row: Tensor, values: Tensor, where: Tensor) -> None:
    """Write values [N, ...] to entries (fold, row) of `out`, those for which `where` holds."""
    keep = where[fold, row]
    out[fold[keep], row[keep]] = values[keep]
