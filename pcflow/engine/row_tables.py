"""Tables of a batch whose rows have parameters of their own.

What is made of them lives as long as the pass that reads them, and is never kept with what all
batches share. Banks are [P, B, ...] here, so that steps choose their folds as ever; in memory rows
come first, as they were given, and nothing is laid out anew.

Legend: F folds, B batch, P parameters of a bank, K units of the layer, J units read by a sum, S
sets of parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import TypeVar, cast

import torch
from torch import Tensor

from pcflow.engine.plan import BankRead, InputStep
from pcflow.engine.semiring import Weight
from pcflow.engine.sets import Sets
from pcflow.engine.tables import Normalizer, Tables, select
from pcflow.evidence import CheckedEvidence, RowParameters
from pcflow.inputs import FiniteFamily

T = TypeVar("T")


class RowTables(Tables):
    """The parameters of a plan, some of them by row.

    Args:
        shared: those that all batches read.
        parameters: of the rows.
        evidence: of the rows.
    """

    def __init__(
        self, shared: Tables, parameters: RowParameters, evidence: CheckedEvidence
    ) -> None:
        """Nothing is computed yet."""
        parameters.check_owner(shared.plan.banks)
        vars(self).update(vars(shared))
        self.shared, self.rows, self.origin = shared, len(evidence.values), evidence.origin
        self.own, self.given = frozenset(parameters.by_bank), parameters
        given = {n: bank.detach().transpose(0, 1) for n, bank in parameters.by_bank.items()}
        self.banks = [given.get(n, bank) for n, bank in enumerate(shared.banks)]
        self._made: dict[tuple[str, Hashable], object] = {}

    def keep(
        self,
        kind: str,
        key: Hashable,
        banks: Iterable[int],
        make: Callable[[], T],
        renew: Callable[[T], T] | None = None,
    ) -> T:
        """What is made of parameters by row is kept here, all else with what is shared."""
        wanted = frozenset(banks)
        if self.own.isdisjoint(wanted):
            return super().keep(kind, key, wanted, make, renew)
        if (kind, key) not in self._made:
            with torch.no_grad():
                self._made[kind, key] = make()
        return cast(T, self._made[kind, key])

    def weights(self, in_log_space: bool) -> dict[int, Weight]:
        """Those that are shared, and those of this batch, [F or 1, B, K, J]."""
        mine = {n: step for n, step in self._sums.items() if step.weight.bank in self.own}
        own = {n: self.weight(step, in_log_space) for n, step in mine.items()}
        return own if len(own) == len(self._sums) else self.shared.weights(in_log_space) | own

    def _normalised(self, kind: str, bank: int, softmax: Callable[..., Tensor]) -> Tensor:
        if bank not in self.own:
            return super()._normalised(kind, bank, softmax)
        given = self.banks[bank].transpose(0, 1)  # [B, P, K, J]

        def make() -> Tensor:
            return softmax(given, -1, out=self.pages.take(given, given.shape)).transpose(0, 1)

        return self.keep(kind, bank, [bank], make)

    def sets(self, step: InputStep) -> Sets:
        """One for every row, if a parameter of the step is by row."""
        found = super().sets(step)
        return Sets(self.rows, found.folds) if self._has_rows(step) else found

    def parameters(self, step: InputStep) -> dict[str, Tensor]:
        """Raw parameters of an input step, all of them set by set [S, ...]."""
        if not self._has_rows(step):
            return super().parameters(step)
        sets, reads = self.sets(step), step.parameters
        return {name: self._by_set(self.banks[r.bank], r, sets) for name, r in reads.items()}

    def normalizer(self, step: InputStep) -> Normalizer:
        """By what was found when logits were looked at, if that was all of them."""
        assert isinstance(step.family, FiniteFamily) and step.family.logits is not None
        read = step.parameters[step.family.logits]
        known = self.given.totals_of(read.bank) if read.bank in self.own else None
        if known is None:
            return super().normalizer(step)
        logits = self.parameters(step)[step.family.logits]
        log_total = self._by_set(known.log_total.transpose(0, 1), read, self.sets(step))
        return Normalizer(logits, log_total, known.lowest, known.moderate)

    def of_folds(self, step: InputStep, read: BankRead, found: Tensor) -> Tensor:
        """By fold and row [F or 1, B, ...]; if all rows share the parameter, their sum."""
        if not self._has_rows(step):
            return found
        found = self.sets(step).spread(found)
        return found if read.bank in self.own else found.sum(dim=1)

    def _has_rows(self, step: InputStep) -> bool:
        return any(read.bank in self.own for read in step.parameters.values())

    def _by_set(self, bank: Tensor, read: BankRead, sets: Sets) -> Tensor:
        chosen = select(bank, read)
        if read.bank not in self.own:
            chosen = chosen.unsqueeze(1)  # [F or 1, B or 1, ...]
        each = chosen.expand(sets.folds, sets.rows, *chosen.shape[2:]).transpose(0, 1)
        return each.flatten(0, 1)


def tables_of(tables: Tables, evidence: CheckedEvidence) -> Tables:
    """Those that a batch reads: as they are, unless its rows have parameters of their own."""
    if evidence.parameters is None:
        return tables
    return RowTables(tables, evidence.parameters, evidence)
