"""What every leaf is.

Legend: F folds, B batch, D variables, V categories, K units, N entries (fold, row).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cached_property

from torch import Tensor

from pcflow.engine.plan import InputStep, SumStep
from pcflow.engine.routes import Route
from pcflow.engine.semiring import Semiring, Value, is_zero
from pcflow.engine.tables import Tables
from pcflow.evidence import CheckedEvidence, send


class Leaf(ABC):
    """The evidence of one input step, fold by fold, and the unit values it leads to.

    Attributes:
        sets: which parameters folds and rows read.
        evidence: of all variables.
        x: values [F, B].
        dead: rows [B] whose units may all be too small to hold; None if that was looked at.
        any_soft: whether what is missing may be other than one: by potentials or by intervals.
        rows: which rows of the batch these are, if not all.
        out: what `up` wrote.
    """

    out: Value
    dead: Tensor | None = None

    def __init__(
        self, step: InputStep, tables: Tables, evidence: CheckedEvidence, semiring: Semiring
    ) -> None:
        """Look up the values of the step's variables."""
        self.step, self.tables, self.semiring = step, tables, semiring
        self.sets = tables.sets(step)
        self.evidence, self.rows = evidence, evidence.origin
        self.x = step.of_its_variables(evidence.by_variable)  # [F, B]
        self.any_missing = evidence.any_missing and bool(self.hidden.any())
        self.any_soft = evidence.potentials is not None or evidence.bounded is not None

    @cached_property
    def missing(self) -> Tensor:
        """What is missing [F, B]."""
        return self.step.of_its_variables(self.evidence.missing_by_variable)

    @cached_property
    def hidden(self) -> Tensor:
        """The same on the CPU."""
        if self.x.device.type == "cpu":
            return self.missing
        return self.evidence.hidden.t()[list(self.step.over)]

    @abstractmethod
    def up(self, out: Value) -> None:
        """Write the values of the units into `out`."""

    @abstractmethod
    def gradients(self, slope: Tensor, places: Mapping[str, Tensor] = {}) -> dict[str, Tensor]:
        """Gradient of every raw parameter, set by set [S, ...], from unit slopes [F, B, K].

        They may be written to the `places` of those that have one, like the parameters.
        """

    @abstractmethod
    def add_to_potentials(self, slope: Tensor, gradient: Tensor) -> None:
        """Add the gradient of the log-potentials to that of the batch, which is like them."""

    @abstractmethod
    def add_to_values(self, slope: Tensor, gradient: Tensor) -> None:
        """Add the gradient of observed values to that of the batch, [B, D]."""

    @abstractmethod
    def draw(self, unit: Tensor, fold: Tensor, row: Tensor, route: Route) -> Tensor:
        """Values [N] of chosen units where nothing is observed."""

    def draw_mixed(self, unit: Tensor, fold: Tensor, route: Route, above: SumStep) -> Tensor | None:
        """Values [N] of mixtures of units, without choosing a unit; None if that is no gain."""
        return None

    def has_zeros(self) -> bool:
        """Whether some row [F, B] is exactly zero, all units of it; who asks waits for it."""
        return bool(is_zero(self.out).any())

    def observed_flow(self, slope: Tensor) -> Tensor:
        """The flow [F, B, K] of the entries that were observed, zero elsewhere."""
        flow = self.semiring.flow(self.out.units, slope)
        return flow.masked_fill(self.missing.unsqueeze(-1), 0.0) if self.any_missing else flow

    def places(self, which: Tensor) -> tuple[Tensor, Tensor]:
        """Fold and row [N] of those of [F, B] that are asked for, on the CPU."""
        fold, row = send(which.nonzero().t(), self.x.device)
        return fold, row

    def in_batch(self, row: Tensor) -> Tensor:
        """Which rows of the batch these are."""
        return row if self.rows is None else self.rows[row]
