"""What an upward pass writes down, for a way down to read."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from pcflow.engine.leaves import Leaf
from pcflow.engine.memory import Pool, Sheet
from pcflow.engine.plan import Plan
from pcflow.engine.semiring import Semiring
from pcflow.engine.tables import Tables


@dataclass
class Tape:
    """What an upward pass wrote down. Its memory returns to the pool with the last reference.

    Attributes:
        sheet: the value of every unit.
        leaves: per input step its leaf.
        log_value: [B] (nats).
        lowest: [B], the smallest unit of any product of the row, and of the root.
    """

    plan: Plan
    tables: Tables
    semiring: Semiring
    pool: Pool
    sheet: Sheet
    leaves: dict[int, Leaf] = field(default_factory=dict)
    log_value: Tensor = field(init=False)
    lowest: Tensor = field(init=False)

    def __del__(self) -> None:
        """Recycle the sheet."""
        self.pool.give(self.sheet)
