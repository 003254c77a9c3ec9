"""Inputs that have no variable: what every row weighs a part of the circuit by.

Legend: F folds, B batch, K units, G gates.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from pcflow.engine.leaves.base import Leaf
from pcflow.engine.plan import InputStep
from pcflow.engine.routes import Route
from pcflow.engine.semiring import Semiring, Value
from pcflow.engine.tables import Tables
from pcflow.evidence import CheckedEvidence


class GateLeaf(Leaf):
    """One unit a fold. Nothing is missing, so there is nothing to draw, and nothing learns."""

    def __init__(
        self, step: InputStep, tables: Tables, evidence: CheckedEvidence, semiring: Semiring
    ) -> None:
        """Look up the weights."""
        self.step, self.tables, self.semiring = step, tables, semiring
        self.rows, self.any_missing, self.any_soft = evidence.origin, False, False
        number = tables.parameters(step)["number"].squeeze(-1).long()  # [F or 1]
        shape = (step.folds, len(evidence.values))
        self.x = number.new_zeros(shape)
        self.hidden = torch.zeros(shape, dtype=torch.bool)
        self.log_weight = tables.like.new_zeros(shape)
        if evidence.log_gates is not None:
            self.log_weight = evidence.log_gates.t().index_select(0, number)  # [F, B]

    def up(self, out: Value) -> None:
        """See `Leaf`."""
        self.out = out
        self.semiring.write(self.log_weight.unsqueeze(-1), out)

    def gradients(self, slope: Tensor, places: Mapping[str, Tensor] = {}) -> dict[str, Tensor]:
        """None are asked for."""
        return {}

    def add_to_potentials(self, slope: Tensor, gradient: Tensor) -> None:
        """It has none."""

    def add_to_values(self, slope: Tensor, gradient: Tensor) -> None:
        """It has none."""

    def draw(self, unit: Tensor, fold: Tensor, row: Tensor, route: Route) -> Tensor:
        """Of nothing that is missing."""
        return unit
