"""The bottom of both passes: evidence into input units, and flows of input units back out.

One leaf object per input step of a plan; it keeps what the way down needs. `FiniteLeaf` reads a
table: an observation is a gather, soft evidence one matrix product over the soft entries, a
missing value is one. `DensityLeaf` evaluates log-densities.

Legend: F folds, B batch, D variables, V categories, K units, N entries (fold, row).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor

from pcflow.evidence import CheckedEvidence
from pcflow.inputs import DensityFamily, FiniteFamily
from pcflow.kernels import rows_times_table, rows_times_transposed
from pcflow.plan import InputStep
from pcflow.routes import Route
from pcflow.semiring import LOG_BLOCK, MAX_PRODUCT, LogSumProduct, Scaled, Semiring, Value
from pcflow.tables import Tables


def make_leaf(
    step: InputStep, tables: Tables, evidence: CheckedEvidence, semiring: Semiring
) -> FiniteLeaf | DensityLeaf:
    """The leaf of an input step."""
    finite = isinstance(step.family, FiniteFamily)
    return (FiniteLeaf if finite else DensityLeaf)(step, tables, evidence, semiring)


class Leaf(ABC):
    """The evidence of one input step, fold by fold, and the unit values it leads to."""

    out: Value

    def __init__(
        self, step: InputStep, tables: Tables, evidence: CheckedEvidence, semiring: Semiring
    ) -> None:
        """Look up the values of the step's variables."""
        self.step, self.tables, self.semiring = step, tables, semiring
        self.x = evidence.values.t()[step.variables]  # [F, B]
        self.missing = evidence.missing.t()[step.variables]  # [F, B]
        self.any_missing = bool(self.missing.any())

    @abstractmethod
    def up(self, out: Value) -> None:
        """Write the values of the units into `out`."""

    @abstractmethod
    def choose(self, unit: Tensor, fold: Tensor, row: Tensor, route: Route) -> Tensor:
        """Values [N] of chosen units: the observation where there is one, else a choice."""

    def observed_flow(self, slope: Tensor) -> Tensor:
        """The flow [F, B, K] of the entries that were observed, zero elsewhere."""
        flow = self.semiring.flow(self.out.units, slope)
        return flow.masked_fill(self.missing.unsqueeze(-1), 0.0) if self.any_missing else flow


class FiniteLeaf(Leaf):
    """Input units that read a table [F or 1, V, K].

    What is not observed is handled entry by entry: with a table shared by all folds the entries are
    just the missing ones, otherwise all of them, fold by fold, so that products can be batched.
    """

    def __init__(
        self, step: InputStep, tables: Tables, evidence: CheckedEvidence, semiring: Semiring
    ) -> None:
        """Look up the values, and which entries are not observed."""
        super().__init__(step, tables, evidence, semiring)
        assert isinstance(step.family, FiniteFamily)
        self.x = self.x.long()
        self.categories = step.family.num_categories
        self.table = tables.table(step, semiring.in_log_space)
        self.shared = len(self.table) == 1
        self.log_potentials = evidence.log_potentials if self.any_missing else None
        if self.any_missing:
            entries = self.missing if self.shared else torch.ones_like(self.missing)
            self.fold, self.row = entries.nonzero(as_tuple=True)  # [N] each
        self.potential: Tensor | None = None  # [N, V], linear, largest entry 1

    def up(self, out: Value) -> None:
        """Gather observations, weigh potentials, and set missing units to one."""
        self.out = out
        index = self._table_rows().flatten()
        torch.index_select(self.table.flatten(0, 1), 0, index, out=out.units.flatten(0, 1))
        if self.semiring.in_log_space:
            self._up_log()
        else:
            self._up_scaled()

    def counts(self, slope: Tensor, potentials: Tensor | None = None) -> Tensor:
        """Expected counts [F or 1, V, K] of table entries from unit slopes [F, B, K].

        Missing values without potentials are not counted. The gradient of the log-potentials is
        written into `potentials` [B, D, V] if that is given.
        """
        counts = torch.zeros_like(self.table)
        observed = self.observed_flow(slope).flatten(0, 1)
        counts.flatten(0, 1).index_add_(0, self._table_rows().flatten(), observed)
        if self.log_potentials is None:
            return counts
        soft = slope[self.fold, self.row]  # [N, K]
        soft.mul_(self.missing[self.fold, self.row].unsqueeze(-1))
        if self.semiring.in_log_space:
            gradient = self._soft_log(soft, counts)
        else:
            gradient = self._soft_scaled(soft, counts)
        if potentials is not None:
            index = (self.row, self.step.variables[self.fold])
            potentials[..., : self.categories].index_put_(index, gradient, accumulate=True)
        return counts

    def log_posterior(self, slope: Tensor, out: Tensor, alone: bool) -> None:
        """Add this step's share of every variable's posterior into `out` [B, D, V], as logs.

        An observed variable has all mass on its value. `alone` says that no other fold, here or in
        another step, is over the same variable.
        """
        variables = self.step.variables
        fold, row = (~self.missing).nonzero(as_tuple=True)
        out[row, variables[fold], self.x[fold, row]] = 0.0
        if not self.any_missing:
            return
        log_q = self._log_slope(slope[self.fold, self.row])  # [N, V]
        if self.log_potentials is not None:
            log_q += self._log_potential()
        log_q = log_q.log_softmax(dim=-1)
        fold, row = self.fold, self.row
        if not self.shared:
            keep = self.missing[fold, row]
            fold, row, log_q = fold[keep], row[keep], log_q[keep]
        if alone:
            out[row, variables[fold], : self.categories] = log_q
            return
        weight = self.semiring.flow(self.out.units, slope).sum(dim=-1).log()  # [F, B]
        log_q = log_q + weight[fold, row].unsqueeze(-1)
        log_q = log_q.nan_to_num_(nan=-torch.inf, neginf=-torch.inf)
        rank = self._rank_over_same_variable()[fold]
        for some in (rank == i for i in range(int(rank.max()) + 1 if len(rank) else 0)):
            place = (row[some], variables[fold[some]], slice(self.categories))
            out[place] = torch.logaddexp(out[place], log_q[some])

    def choose(self, unit: Tensor, fold: Tensor, row: Tensor, route: Route) -> Tensor:
        """Values [N] of chosen units; unobserved ones by their table entry times potential."""
        values = self.x[fold, row]
        unobserved = self.missing[fold, row].nonzero().squeeze(-1)
        fold, row, unit = fold[unobserved], row[unobserved], unit[unobserved]
        columns = len(self.table) * self.table.shape[-1]
        if self.log_potentials is None and 4 * len(unit) >= columns:  # else tables cost more
            place = torch.zeros_like(fold) if self.shared else fold
            found = route.unit_value(self.tables, self.step, place, unit)
            if found is not None:
                return values.index_copy_(0, unobserved, found)
        table = self.tables.table(self.step, in_log_space=True)
        for some in torch.arange(len(unit), device=unit.device).split(
            max(1, LOG_BLOCK // self.categories)
        ):
            f, k = fold[some], unit[some]
            scores = table[0].t()[k] if self.shared else table[f, :, k]  # [N, V]
            if self.log_potentials is not None:
                variable = self.step.variables[f]
                scores = scores + self.log_potentials[row[some], variable, : self.categories]
            values[unobserved[some]] = route.category(scores)
        return values

    def _up_scaled(self) -> None:
        out, unobserved = self.out, self.missing.unsqueeze(-1)
        out.scale.zero_()
        if self.log_potentials is None:
            if self.any_missing:
                out.units.masked_fill_(unobserved, 1.0)
        else:
            log_potential = self._log_potential()
            peak = log_potential.amax(dim=-1, keepdim=True).nan_to_num(neginf=0.0)  # [N, 1]
            self.potential = log_potential.sub_(peak).exp_()
            units = self._rows_times_table(self.potential)  # [N, K]
            put(out.units, self.fold, self.row, units, self.missing)
            put(out.scale, self.fold, self.row, peak.squeeze(-1), self.missing)
        self._mark_exact_zeros()
        assert isinstance(self.semiring, Scaled)
        self.semiring.raise_(out.units)

    def _mark_exact_zeros(self) -> None:
        """Scale -inf where all units are zero in log space too, not just too small to hold."""
        dead = self.out.units.amax(dim=-1) == 0  # [F, B]
        if not dead.any():
            return
        log_table = self.tables.table(self.step, in_log_space=True)
        fold, row = dead.nonzero(as_tuple=True)
        score = log_table[0 if self.shared else fold].amax(dim=-1)  # [N, V] or [V]
        known = torch.zeros(len(fold), self.categories, device=score.device, dtype=score.dtype)
        if self.log_potentials is not None:
            variable = self.step.variables[fold]
            known = self.log_potentials[row, variable, : self.categories]
        one_hot = torch.nn.functional.one_hot(self.x[fold, row], self.categories).log()
        known = torch.where(self.missing[fold, row].unsqueeze(-1), known, one_hot)
        exact = (score + known).amax(dim=-1) == -torch.inf
        self.out.scale[fold[exact], row[exact]] = -torch.inf

    def _up_log(self) -> None:
        assert isinstance(self.semiring, LogSumProduct)
        if self.log_potentials is None and self.semiring is not MAX_PRODUCT:
            self.out.units.masked_fill_(self.missing.unsqueeze(-1), 0.0)
        elif self.any_missing:
            for some, joint in self._log_joint():
                units = self.semiring.reduce(joint.transpose(-1, -2))  # [N, K]
                put(self.out.units, self.fold[some], self.row[some], units, self.missing)

    def _soft_scaled(self, slope: Tensor, counts: Tensor) -> Tensor:
        """Add the counts of soft entries; return the gradient [N, V] of their log-potentials."""
        assert self.potential is not None
        if self.shared:
            counts[0] += self.table[0] * (self.potential.t() @ slope)
            return self.potential * rows_times_transposed(slope, self.table[0])
        shape = (self.missing.shape[0], -1)
        potential, slope = self.potential.unflatten(0, shape), slope.unflatten(0, shape)
        counts += self.table * torch.bmm(potential.transpose(1, 2), slope)
        gradient: Tensor = potential * torch.bmm(slope, self.table.transpose(1, 2))
        return gradient.flatten(0, 1)

    def _soft_log(self, flow: Tensor, counts: Tensor) -> Tensor:
        """The same from logarithms, edge by edge."""
        gradient = flow.new_zeros(len(flow), self.categories)
        for some, joint in self._log_joint():
            fold, row = self.fold[some], self.row[some]
            share = (joint - self.out.units[fold, row].unsqueeze(-2)).exp().nan_to_num(nan=0.0)
            edges = share * flow[some].unsqueeze(-2)  # [N, V, K]
            counts.index_add_(0, torch.zeros_like(fold) if self.shared else fold, edges)
            gradient[some] = edges.sum(dim=-1)
        return gradient

    def _log_slope(self, slope: Tensor) -> Tensor:
        """Log of sum_k (flow_k / unit_k) theta_vk, up to a constant per entry: [N, V]."""
        if not self.semiring.in_log_space:
            peak = slope.amax(dim=-1, keepdim=True)
            return self._rows_times_table(slope / peak.masked_fill(peak == 0, 1.0), True).log()
        units = self.out.units[self.fold, self.row]  # [N, K]
        slope = (slope.log() - units).nan_to_num(nan=-torch.inf, neginf=-torch.inf)
        blocks = [
            (joint + slope[some].unsqueeze(-2)).logsumexp(-1)
            for some, joint in self._log_joint(potentials=False)
        ]
        return torch.cat(blocks)

    def _rows_times_table(self, rows: Tensor, transposed: bool = False) -> Tensor:
        """Rows [N, V] @ table -> [N, K], or rows [N, K] @ table^T -> [N, V]."""
        if self.shared:
            times = rows_times_transposed if transposed else rows_times_table
            return times(rows, self.table[0])
        table = self.table.transpose(1, 2) if transposed else self.table
        product: Tensor = torch.bmm(rows.unflatten(0, (len(table), -1)), table)
        flat: Tensor = product.flatten(0, 1)
        return flat

    def _log_joint(self, potentials: bool = True) -> Iterator[tuple[slice, Tensor]]:
        """Blocks of entries with log-table plus log-potential [N, V, K]."""
        size = max(1, LOG_BLOCK // (self.categories * self.table.shape[-1]))
        for start in range(0, len(self.fold), size):
            some = slice(start, start + size)
            joint = self.table[0 if self.shared else self.fold[some]]
            joint = joint.expand(len(self.fold[some]), -1, -1)
            if potentials and self.log_potentials is not None:
                joint = joint + self._log_potential(some).unsqueeze(-1)
            yield some, joint

    def _log_potential(self, some: slice = slice(None)) -> Tensor:
        assert self.log_potentials is not None
        _, width, categories = self.log_potentials.shape  # [B, D, V]
        place = self.row[some] * width + self.step.variables[self.fold[some]]
        rows = self.log_potentials.reshape(-1, categories).index_select(0, place)
        return rows[:, : self.categories]  # [N, V]

    def _rank_over_same_variable(self) -> Tensor:
        """For every fold [F], how many folds before it are over the same variable."""
        count: dict[int, int] = {}
        ranks = []
        for variable in self.step.variables.tolist():
            ranks.append(count.get(variable, 0))
            count[variable] = ranks[-1] + 1
        return torch.tensor(ranks, device=self.x.device)

    def _table_rows(self) -> Tensor:
        """Row of the flattened table that every entry [F, B] reads."""
        if self.shared:
            return self.x
        folds = torch.arange(len(self.x), device=self.x.device)
        return self.x + folds.unsqueeze(-1) * self.categories


class DensityLeaf(Leaf):
    """Input units that evaluate a log-density."""

    def up(self, out: Value) -> None:
        """Log-densities, split into a scale and a mantissa; missing entries are one."""
        self.out = out
        log_prob = self.log_prob(self.params())
        if not isinstance(self.semiring, Scaled):
            out.units.copy_(log_prob)
            return
        scale = log_prob.amax(dim=-1)  # [F, B]
        out.scale.copy_(scale)
        torch.exp(log_prob - scale.nan_to_num(neginf=0.0).unsqueeze(-1), out=out.units)
        self.semiring.raise_(out.units)

    def params(self) -> dict[str, Tensor]:
        """Raw parameters, detached."""
        return {n: p.detach() for n, p in self.tables.parameters(self.step).items()}

    def log_prob(self, params: dict[str, Tensor]) -> Tensor:
        """Log of the unit values [F, B, K]; at the mode where max-product meets a missing value."""
        assert isinstance(self.step.family, DensityFamily)
        log_prob = self.step.family.log_prob(params, self.x)
        if not self.any_missing:
            return log_prob
        idle = log_prob.new_zeros(())
        if self.semiring is MAX_PRODUCT:
            idle = torch.diagonal(
                self.step.family.log_prob(params, self.step.family.mode(params)), dim1=-2, dim2=-1
            ).unsqueeze(-2)  # [F, 1, K]
        return torch.where(self.missing.unsqueeze(-1), idle, log_prob)

    def counts(self, slope: Tensor) -> tuple[Tensor, Tensor]:
        """Observed flow [F, K] and flow-weighted statistics [F, S, K]."""
        assert isinstance(self.step.family, DensityFamily)
        observed = self.observed_flow(slope)
        statistics = self.step.family.statistics(self.x)  # [F, B, S]
        return observed.sum(dim=1), torch.einsum("fbs,fbk->fsk", statistics, observed)

    def gradients(self, slope: Tensor) -> dict[str, Tensor]:
        """Gradient of every raw parameter [F or 1, ...] from unit slopes [F, B, K]."""
        flow = self.semiring.flow(self.out.units, slope)
        with torch.enable_grad():
            leaves = {n: p.requires_grad_() for n, p in self.params().items()}
            log_prob = self.log_prob(leaves)
        grads = torch.autograd.grad(log_prob, list(leaves.values()), flow)
        return dict(zip(leaves, grads, strict=True))

    def choose(self, unit: Tensor, fold: Tensor, row: Tensor, route: Route) -> Tensor:
        """Values [N] of chosen units; unobserved ones are draws, or modes, of the density."""
        assert isinstance(self.step.family, DensityFamily)
        values = self.x[fold, row]
        some = self.missing[fold, row]
        params = {
            name: p.expand(len(self.x), *p.shape[1:])[fold[some], ..., unit[some]]
            for name, p in self.params().items()
        }
        values[some] = route.value(self.step.family, params)
        return values


def put(out: Tensor, fold: Tensor, row: Tensor, values: Tensor, where: Tensor) -> None:
    """Write values [N, ...] to entries (fold, row) of `out`, those for which `where` holds."""
    keep = where[fold, row]
    out[fold[keep], row[keep]] = values[keep]
