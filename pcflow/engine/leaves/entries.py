"""What input units say entry by entry: of what is missing, by their table and its potentials.

Legend: F folds, B batch, D variables, V categories, k listed ones, K units, N entries (fold, row),
n of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import TypeVar

import torch
from torch import Tensor

from pcflow.engine.kernels import exp_, take
from pcflow.engine.leaves.access import Access
from pcflow.evidence import Potentials, send

T = TypeVar("T")


class Entries:
    """The missing entries of a step; all of them, fold by fold, if every fold reads its own table.

    Args:
        access: how the table is read.
        variables: of every fold, [F].
        missing: [F, B].
        hidden: the same on the CPU.
        soft: potentials of the batch, [B, D], if there are any.
        largest: how many categories these are about.
        before: what `weighed` found of them before, [F, B, K], if that is known.
    """

    def __init__(
        self,
        access: Access,
        variables: Tensor,
        missing: Tensor,
        hidden: Tensor,
        soft: Potentials | None,
        largest: int,
        before: Tensor | None = None,
    ) -> None:
        """Look nothing up yet."""
        self.access, self.variables = access, variables
        self.missing, self.hidden = missing, hidden
        self.soft, self.largest, self.before = soft, largest, before
        self.size = access.family.size

    @cached_property
    def _place(self) -> tuple[Tensor, Tensor]:
        if not self.access.sets.by_fold:
            fold, row = send(self.hidden.nonzero().t(), self.missing.device)
            return fold, row
        every = torch.arange(self.missing.numel(), device=self.missing.device)
        return every // self.missing.shape[1], every % self.missing.shape[1]

    @property
    def fold(self) -> Tensor:
        """Fold of every entry [N]."""
        return self._place[0]

    @property
    def row(self) -> Tensor:
        """Row of every entry [N]."""
        return self._place[1]

    @property
    def number(self) -> Tensor:
        """Table of every entry [N]."""
        return self.access.sets.number(*self._place)

    @property
    def variable(self) -> Tensor:
        """Variable of every entry [N]."""
        return self.variables[self.fold]

    def of(self, slope: Tensor) -> Tensor:
        """Slopes [N, K] of [F, B, K], zero for what is observed among the entries."""
        found = slope[self.fold, self.row]
        if not self.access.sets.by_fold:
            return found
        return found.mul_(self.missing.flatten().unsqueeze(-1))

    def put(self, out: Tensor, values: Tensor) -> None:
        """Write values [N, ...] to `out` [F, B, ...] where something is missing."""
        if not self.access.sets.by_fold:
            out[self.fold, self.row] = values.to(out.dtype)
            return
        where = self.missing.view(*self.missing.shape, *[1] * (out.dim() - 2))
        torch.where(where, values.view_as(out).to(out.dtype), out, out=out)

    def log_potential(self, fold: Tensor, row: Tensor) -> Tensor:
        """Log-potentials [n, V] of any entries."""
        assert self.soft is not None
        every = self.soft.entries(row, self.variables[fold]).dense(self.largest)
        return every[:, : self.size]

    def at(self, fold: Tensor, row: Tensor, categories: Tensor) -> Tensor:
        """Log-potentials [n, C] of rows [n, C] of the table."""
        assert self.soft is not None
        return self.soft.at_entries(row, self.variables[fold], categories)

    def _said(self, fold: Tensor, row: Tensor) -> Potentials:
        """The same, or those of the k listed categories."""
        assert self.soft is not None
        return self.soft.entries(row, self.variables[fold]).below(self.size)

    @cached_property
    def _weights(self) -> tuple[Potentials, Tensor, Tensor]:
        """Potentials, linear [N, V or k] with the largest 1, and what divided them, log [N]."""
        said = self._said(self.fold, self.row)
        return said, *linear(said.log)

    @property
    def potential(self) -> Tensor:
        """Linear potentials [N, V or k], the largest 1."""
        return self._weights[1]

    def read(self, every: Callable[[], T], some: Callable[[Tensor], T]) -> T:
        """What one of two functions makes: of all categories; or of the rows listed, [N, k].

        The rows are those of the flattened table, and everything else is impossible.
        """
        return self._weights[0].read(
            every, lambda listed: some(self.access.of_entries(listed, *self._place))
        )

    def times(self, rows: Tensor, transposed: bool = False) -> Tensor:
        """Rows [N, V] of all entries @ table -> [N, K], or rows [N, K] @ table^T -> [N, V]."""
        if self.access.sets.by_row:
            return self.access.times_each(rows, self.number, transposed)
        return self.access.times(rows, transposed)

    def weighed(self) -> tuple[Tensor, Tensor]:
        """Sum of potential times table over categories: [N, K]; and a log-scale [N]."""
        _, weights, peak = self._weights
        if self.before is not None:
            return take(self.before, self._place), peak
        units = self.read(
            lambda: self.times(weights), lambda place: self.access.bag(place, weights)
        )
        return units, peak

    def log_joint(self) -> Iterator[tuple[slice, Tensor]]:
        """Blocks of entries with log-table plus log-potential [n, V or k, K]."""
        if self.soft is None:
            yield from self.log_table()
            return
        said = self._said(self.fold, self.row)
        for some, table in said.read(self.log_table, self._log_rows):
            yield some, table + said.log[some].unsqueeze(-1)

    def log_table(self) -> Iterator[tuple[slice, Tensor]]:
        """Blocks of entries with the log-table of each, [n, V, K]."""
        table, shared = self.access.table, self.access.sets.count == 1
        for some in self._blocks(self.size):
            number = self.number[some]
            yield some, table[0 if shared else number].expand(len(number), -1, -1)

    def _log_rows(self, listed: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """The same of listed categories [N, k]."""
        place = self.access.of_entries(listed, *self._place)
        for some in self._blocks(listed.shape[-1]):
            yield some, self.access.rows(place[some])

    def _blocks(self, categories: int) -> Iterator[slice]:
        """Entries of so many categories each, as many at a time as fit."""
        edges, units = self.access.tables.plan.machine.edges, self.access.step.units
        size = max(1, edges // (categories * units))
        return (slice(start, start + size) for start in range(0, len(self.fold), size))

    @property
    def width(self) -> int:
        """How many categories a draw looks at."""
        if self.soft is None:
            return self.size
        return self.soft.read(lambda: self.size, lambda listed: listed.shape[-1])

    def scores(self, unit: Tensor, fold: Tensor, row: Tensor, linearly: bool) -> Tensor:
        """Table entries of units [n] times potentials, or their logarithms: [n, V or k]."""
        column, number = self.access.column, self.access.sets.number(fold, row)
        if self.soft is None:
            return column(unit, number, linearly)
        if linearly:
            return self._linear_scores(unit, fold, row)
        said = self._said(fold, row)
        return said.log + said.read(
            lambda: column(unit, number, False),
            lambda listed: self.access.some(listed, unit, number, False),
        )

    def _linear_scores(self, unit: Tensor, fold: Tensor, row: Tensor) -> Tensor:
        (said, weights, _), among = self._weights, self._among(fold, row)
        number = self.access.sets.number(fold, row)
        entries = said.read(
            lambda: self.access.column(unit, number, True),
            lambda listed: self.access.some(listed[among], unit, number, True),
        )
        return entries.mul_(weights.index_select(0, among))

    def _among(self, fold: Tensor, row: Tensor) -> Tensor:
        """Which of the entries these are, [n]."""
        place = fold * self.missing.shape[1] + row
        if self.access.sets.by_fold:
            return place
        return (self.missing.flatten().cumsum(0) - 1)[place]

    def category(self, drawn: Tensor, fold: Tensor, row: Tensor) -> Tensor:
        """Which category stands at a drawn place [n] of the scores."""
        if self.soft is None:
            return drawn
        variable = self.variables[fold]
        return self.soft.read(
            lambda: drawn,
            lambda listed: listed[row, variable].gather(-1, drawn.unsqueeze(-1)).squeeze(-1),
        )


def linear(log_potential: Tensor) -> tuple[Tensor, Tensor]:
    """Potentials [N, V] relative to the largest, and its log [N]; writes over its argument."""
    peak = log_potential.amax(dim=-1).nan_to_num(neginf=0.0)
    return exp_(log_potential.sub_(peak.unsqueeze(-1))), peak
