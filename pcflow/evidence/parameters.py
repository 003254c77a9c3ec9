"""Parameters that every row of a batch has of its own, in place of those of the model.

Legend: B batch, P parameters of a bank, K units.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import is_
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pcflow.errors import EvidenceError
from pcflow.evidence.weighed import version_of


class Totals(NamedTuple):
    """What makes log-probabilities of logits by row, found when these were looked at.

    Attributes:
        log_total: of every unit, over its categories, [B, P, 1, K].
        lowest: no larger than any of the log-probabilities, one number.
        moderate: whether exponentials of logits and totals are exact as they are.
        version: how often the logits had been edited.
    """

    log_total: Tensor
    lowest: Tensor
    moderate: bool
    version: int


@dataclass(frozen=True, eq=False)
class RowParameters:
    """Some of a model's parameters, anew for every row; checked against the model.

    Args:
        owner: what the model stores, bank by bank; whose parameters these are is known by it.
        by_bank: [B, P, ...] of some banks, by their numbers.
        totals: of those that are logits.
    """

    owner: Sequence[object]
    by_bank: Mapping[int, Tensor]
    totals: Mapping[int, Totals] = field(default_factory=dict)

    @property
    def numbers_per_row(self) -> int:
        """How many numbers a row has."""
        return sum(given[:1].numel() for given in self.by_bank.values())

    def rows(self, index: Tensor) -> RowParameters:
        """Those of the rows of `index`."""
        by_bank = {n: given[index] for n, given in self.by_bank.items()}
        known = {n: self.totals_of(n) for n in self.totals}
        totals = {
            n: total._replace(log_total=total.log_total[index], version=version_of(by_bank[n]))
            for n, total in known.items()
            if total is not None
        }
        return replace(self, by_bank=by_bank, totals=totals)

    def totals_of(self, bank: int) -> Totals | None:
        """Those of a bank, unless its logits were edited since."""
        found = self.totals.get(bank)
        return found if found and found.version == version_of(self.by_bank[bank]) else None

    @property
    def each(self) -> list[RowParameters]:
        """Those of every row by itself, if there are any."""
        count = len(next(iter(self.by_bank.values())))
        return [self.rows(row) for row in torch.arange(count).split(1)]

    def in_place_of(self, banks: Sequence[Tensor]) -> list[Tensor]:
        """The parameters of a model [P, ...], some of them by row."""
        return [self.by_bank.get(number, bank) for number, bank in enumerate(banks)]

    def largest(self, banks: Sequence[Tensor]) -> list[Tensor]:
        """The parameters of a model, or the largest of any row, zero where all rows are."""
        some = {n: given.amax(dim=0) for n, given in self.by_bank.items() if len(given)}
        return [some.get(number, bank) for number, bank in enumerate(banks)]

    def check_owner(self, banks: Sequence[object]) -> None:
        """Refuse to stand in for what another model stores.

        Raises:
            EvidenceError: if they are not of the model with these banks.
        """
        if not all(map(is_, self.owner, banks)):
            raise EvidenceError("parameters by row are those of another model")

    def __getstate__(self) -> dict[str, Any]:
        """Copies and files hold no totals: how often tensors were edited is counted anew there."""
        return vars(self) | {"totals": {}}
