"""What goes back through tables and potentials, in both arithmetics.

Slopes are as in `Semiring`: derivatives by linear units, or by their logarithms.

Legend: F folds, B batch, S tables, V categories, K units, N entries (fold, row), n of them, C
chosen categories.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor
from torch.nn.functional import pad

from pcflow.engine.kernels import add_rows, named_sums, weighed_sums
from pcflow.engine.leaves.entries import Entries
from pcflow.engine.semiring import Value


class Flows(ABC):
    """From unit slopes to counts, gradients and posteriors.

    Args:
        entries: what is missing.
        place: row of the flattened table that every fold and row [F, B] reads.
        out: the units that were made of both.
    """

    def __init__(self, entries: Entries, place: Tensor, out: Value) -> None:
        """Nothing is computed yet."""
        self.entries, self.place, self.out = entries, place, out
        self.access = entries.access

    @staticmethod
    def of(entries: Entries, place: Tensor, out: Value) -> Flows:
        """Those of the arithmetic in which the table is read."""
        return (_LogFlows if entries.access.in_log_space else _LinearFlows)(entries, place, out)

    def counts(self, slope: Tensor, observed: Tensor, out: Tensor | None = None) -> Tensor:
        """Expected counts [S, V, K] of table entries, which may be written to `out`.

        Missing values without potentials are not counted.

        Args:
            slope: of units, [F, B, K].
            observed: flow [F, B, K] of what was observed, zero elsewhere.
            out: [S, V, K]; new memory by default.
        """
        shape = (self.access.sets.count, self.entries.size, slope.shape[-1])
        counts = slope.new_zeros(shape) if out is None else out.zero_()
        self.add_observed(counts, observed)
        if self.entries.soft is not None:
            self.add_soft(counts, self.entries.of(slope))
        return counts

    def named(self, slope: Tensor, observed: Tensor) -> tuple[Tensor, Tensor]:
        """The same of rows that are named [n], each once, and of which all others count nothing."""
        found = [(self.place.flatten(), observed.flatten(0, 1))]
        if self.entries.soft is None:
            return named_sums(*found[0])
        found += self.named_soft(self.entries.of(slope))
        place, counts = (torch.cat(parts) for parts in zip(*found, strict=True))
        return named_sums(place, counts)

    @abstractmethod
    def named_soft(self, slope: Tensor) -> list[tuple[Tensor, Tensor]]:
        """What entries with listed potentials count of some rows [n], [n, K]; in several parts."""

    def gradients(
        self,
        params: dict[str, Tensor],
        slope: Tensor,
        observed: Tensor,
        places: Mapping[str, Tensor],
    ) -> dict[str, Tensor]:
        """Gradient of every raw parameter, from the counts; see `Leaf.gradients`."""
        counts = self.counts(slope, observed)
        return self.access.family.table_gradient(params, self.access.probabilities, counts)

    def add_observed(self, counts: Tensor, observed: Tensor) -> None:
        """Add flows [F, B, K] of observed entries to [S, V, K]."""
        add_rows(counts.flatten(0, 1), self.place.flatten(), observed.flatten(0, 1))

    @abstractmethod
    def add_soft(self, counts: Tensor, slope: Tensor) -> None:
        """Add what entries with potentials count, by the slopes [N, K] of their units."""

    @abstractmethod
    def of_categories(self, slope: Tensor) -> Tensor:
        """Flow through every category [N, V], or through those listed [N, k]."""

    @abstractmethod
    def log_slope(self, slope: Tensor) -> Tensor:
        """Log of sum_k (flow_k / unit_k) theta_vk, up to a constant per entry: [N, V]."""

    @abstractmethod
    def log_chosen(self, slope: Tensor, fold: Tensor, row: Tensor, categories: Tensor) -> Tensor:
        """The same of chosen categories [n, C] of entries (fold, row), without a constant."""

    def log_potential(self, fold: Tensor, row: Tensor, categories: Tensor) -> Tensor:
        """Log-potentials [n, C] of chosen categories, relative to the scale of their units."""
        return self.entries.at(fold, row, categories)

    def _weigh(self, table: Tensor, place: Tensor, slope: Tensor, weigh: Weigh) -> Tensor:
        """Rows of a table at places [n, C] and slopes [n, K], a few entries at a time: [n, C].

        Of large ones, which are gone over one by one, what is named on and on at the end is read
        once.
        """
        numbers, width = self.access.tables.plan.machine.numbers, place.shape[1]
        size = max(1, numbers // max(1, width * slope.shape[1]))
        ends = different(place) if size == 1 and width else [width] * len(place)
        blocks = []
        room = table.new_empty(place[:size].numel(), slope.shape[1])  # the same for all blocks
        entries = zip(place.split(size), slope.split(size), ends[::size], strict=True)
        for some, units, end in entries:
            named = some[:, :end]
            rows = torch.index_select(table, 0, named.flatten(), out=room[: named.numel()])
            rows = rows.to(slope.dtype).view(*named.shape, units.shape[-1])
            blocks.append(with_its_last(weigh(rows, units), width))
        return torch.cat(blocks)


Weigh = Callable[[Tensor, Tensor], Tensor]
"""Makes numbers [n, C] of rows [n, C, K] and slopes [n, K]."""


class _LinearFlows(Flows):
    """By matrix products."""

    def add_soft(self, counts: Tensor, slope: Tensor) -> None:
        table = self.access.table

        def every() -> None:
            counts.add_(self._potential_times(slope).mul_(table))

        def some(place: Tensor) -> None:
            named, sums = weighed_sums(place, self.entries.potential, slope)
            add_rows(counts.flatten(0, 1), named, sums.mul_(table.flatten(0, 1)[named]))

        self.entries.read(every, some)

    def named_soft(self, slope: Tensor) -> list[tuple[Tensor, Tensor]]:
        def some(place: Tensor) -> list[tuple[Tensor, Tensor]]:
            named, sums = weighed_sums(place, self.entries.potential, slope)
            return [(named, sums.mul_(self.access.rows(named)))]

        return self.entries.read(list, some)

    def gradients(
        self,
        params: dict[str, Tensor],
        slope: Tensor,
        observed: Tensor,
        places: Mapping[str, Tensor],
    ) -> dict[str, Tensor]:
        """For logits without writing the counts down."""
        logits = self.access.family.logits
        if logits is None:
            return super().gradients(params, slope, observed, places)
        return {logits: self._logit_gradient(slope, observed, places.get(logits))}

    def _logit_gradient(self, slope: Tensor, observed: Tensor, out: Tensor | None) -> Tensor:
        """Counts less the table times their total."""
        total = self.access.sets.total(observed).unsqueeze(1)
        if self.entries.soft is None:
            gradient = self.access.weighed(total.neg_(), out)
        else:
            table, gradient = self.access.table, self._potentials_times(self.entries.of(slope))
            total += torch.einsum("fvk,fvk->fk", gradient, table).unsqueeze(1)
            gradient.sub_(total).mul_(table)
        self.add_observed(gradient, observed)
        return gradient

    def _potentials_times(self, slope: Tensor) -> Tensor:
        """Sum of potential x slope [N, K] over entries: [S, V, K]."""

        def some(place: Tensor) -> Tensor:
            found = torch.zeros_like(self.access.table)
            add_rows(found.flatten(0, 1), *weighed_sums(place, self.entries.potential, slope))
            return found

        return self.entries.read(lambda: self._potential_times(slope), some)

    def _potential_times(self, slope: Tensor) -> Tensor:
        """The same where potentials [N, V] are about all categories."""
        potential, shape = self.entries.potential, (len(self.entries.missing), -1)
        if self.access.sets.by_row:
            return self._outer_by_row(slope)
        if not self.access.sets.by_fold:
            return (potential.t() @ slope).unsqueeze(0)
        potential = potential.unflatten(0, shape)
        return torch.bmm(potential.transpose(1, 2), slope.unflatten(0, shape))

    def _outer_by_row(self, slope: Tensor) -> Tensor:
        """The same where every row has a table of its own, a few entries at a time."""
        potential, found = self.entries.potential, torch.zeros_like(self.access.table)
        size = max(1, self.access.tables.plan.machine.numbers // max(1, found[:1].numel()))
        blocks = (each.split(size) for each in (potential, slope, self.entries.number))
        for weights, slopes, number in zip(*blocks, strict=True):
            add_rows(found, number, weights.unsqueeze(-1) * slopes.unsqueeze(1))
        return found

    def of_categories(self, slope: Tensor) -> Tensor:
        potential = self.entries.potential
        return self.entries.read(
            lambda: potential * self.entries.times(slope, transposed=True),
            lambda place: potential * self._weigh(self.access.soft, place, slope, _rows_times),
        )

    def log_slope(self, slope: Tensor) -> Tensor:
        peak = slope.amax(dim=-1, keepdim=True)
        return self.entries.times(slope / peak.masked_fill(peak == 0, 1.0), transposed=True).log()

    def log_chosen(self, slope: Tensor, fold: Tensor, row: Tensor, categories: Tensor) -> Tensor:
        place = self.access.of_entries(categories, fold, row)
        return self._weigh(self.access.soft, place, slope, _weigh)

    def log_potential(self, fold: Tensor, row: Tensor, categories: Tensor) -> Tensor:
        scale = self.out.scale[fold, row].nan_to_num(neginf=0.0)  # -inf: units are all zero
        potential = super().log_potential(fold, row, categories)
        return potential - scale.to(potential.dtype).unsqueeze(-1)


class _LogFlows(Flows):
    """Edge by edge."""

    def add_soft(self, counts: Tensor, slope: Tensor) -> None:
        for some, edges in self._edges(slope):
            self._add(counts, some, edges)

    def named_soft(self, slope: Tensor) -> list[tuple[Tensor, Tensor]]:
        return self.entries.read(
            list,
            lambda place: [
                named_sums(place[some].flatten(), edges.flatten(0, 1))
                for some, edges in self._edges(slope)
            ],
        )

    def of_categories(self, slope: Tensor) -> Tensor:
        found = torch.empty_like(self.entries.potential)
        for some, edges in self._edges(slope):
            found[some] = edges.sum(dim=-1)
        return found

    def _edges(self, flow: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Blocks of entries, and their flow through every edge [n, V or k, K]."""
        for some, joint in self.entries.log_joint():
            fold, row = self.entries.fold[some], self.entries.row[some]
            share = (joint - self.out.units[fold, row].unsqueeze(-2)).exp().nan_to_num(nan=0.0)
            yield some, share * flow[some].unsqueeze(-2)

    def _add(self, counts: Tensor, some: slice, edges: Tensor) -> None:
        """Add edges [n, V or k, K] of some entries to [S, V, K]."""
        number, units = self.entries.number[some], edges.shape[-1]
        self.entries.read(
            lambda: add_rows(counts, number, edges),
            lambda place: add_rows(
                counts.view(-1, units), place[some].flatten(), edges.view(-1, units)
            ),
        )

    def log_slope(self, slope: Tensor) -> Tensor:
        slope = self._log_derivative(slope, self.entries.fold, self.entries.row)
        blocks = [
            (joint + slope[some].unsqueeze(-2)).logsumexp(-1)
            for some, joint in self.entries.log_table()
        ]
        return torch.cat(blocks)

    def _log_derivative(self, slope: Tensor, fold: Tensor, row: Tensor) -> Tensor:
        """Log of the derivative [n, K] by units, from those by their logarithms."""
        units = self.out.units[fold, row]
        return (slope.log() - units).nan_to_num(nan=-torch.inf, neginf=-torch.inf)

    def log_chosen(self, slope: Tensor, fold: Tensor, row: Tensor, categories: Tensor) -> Tensor:
        slope = self._log_derivative(slope, fold, row)
        place = self.access.of_entries(categories, fold, row)
        return self._weigh(self.access.table.flatten(0, 1), place, slope, _weigh_logs)


def _rows_times(rows: Tensor, slope: Tensor) -> Tensor:
    """Linear rows [n, C, K], slopes [n, K] -> [n, C]."""
    return torch.bmm(slope.unsqueeze(1), rows.transpose(1, 2)).squeeze(1)


def _weigh(rows: Tensor, slope: Tensor) -> Tensor:
    """Linear rows [n, C, K], slopes [n, K] -> [n, C]."""
    peak = slope.amax(dim=-1, keepdim=True)  # [n, 1]
    share = slope / peak.masked_fill(peak == 0, 1.0)
    product = torch.bmm(share.unsqueeze(1), rows.transpose(1, 2)).squeeze(1)  # quick on a CPU
    return product.log_().add_(peak.log())


def _weigh_logs(rows: Tensor, slope: Tensor) -> Tensor:
    return torch.logsumexp(rows + slope.unsqueeze(-2), dim=-1)


def different(place: Tensor) -> list[int]:
    """How many places of each line [n, C] are there before the last one repeats itself.

    Examples:
        >>> different(torch.tensor([[4, 2, 2, 2], [4, 2, 2, 3], [1, 1, 1, 1]]))
        [2, 4, 1]
    """
    counts = torch.arange(2, place.shape[1] + 1, device=place.device)
    changes = (place[:, 1:] != place[:, :-1]) * counts  # [n, C - 1]
    return pad(changes, (1, 0), value=1).amax(dim=-1).tolist()


def with_its_last(numbers: Tensor, width: int) -> Tensor:
    """Numbers [n, C], the last of them again and again: [n, width].

    Examples:
        >>> with_its_last(torch.tensor([[4, 2]]), 4)
        tensor([[4, 2, 2, 2]])
    """
    again = width - numbers.shape[1]
    return torch.cat([numbers, numbers[:, -1:].expand(-1, again)], dim=1) if again else numbers
