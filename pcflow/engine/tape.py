"""What an upward pass writes down, for a way down to read."""

from __future__ import annotations

from dataclasses import dataclass, field
from threading import Lock
from weakref import finalize

from torch import Tensor

from pcflow.engine.leaves import Leaf
from pcflow.engine.memory import Pool, Sheet
from pcflow.engine.plan import Plan
from pcflow.engine.recording import NEVER, Recordings
from pcflow.engine.semiring import Semiring, Weight
from pcflow.engine.tables import Tables


@dataclass(eq=False)
class Tape:
    """What an upward pass wrote down. Its memory returns to the pool with the last reference.

    Attributes:
        sheet: the value of every unit.
        weights: of every sum step, by its number.
        leaves: per input step its leaf.
        log_value: [B] (nats).
        lowest: [B], the smallest unit of any product of the row, and of the root.
        lock: of who goes down, because what is read on the way is copied to one place.
    """

    plan: Plan
    tables: Tables
    semiring: Semiring
    pool: Pool
    sheet: Sheet
    weights: dict[int, Weight]
    leaves: dict[int, Leaf] = field(default_factory=dict)
    log_value: Tensor = field(init=False)
    lowest: Tensor = field(init=False)
    lock: Lock = field(default_factory=Lock, init=False)

    @property
    def recordings(self) -> Recordings:
        """Of passes over the sheet; none, if the weights are those of one batch."""
        return NEVER if self.tables.own else self.sheet.recordings

    def __post_init__(self) -> None:
        """Whoever holds the tape holds the sheet."""
        finalize(self, self.pool.give, self.sheet).atexit = False
