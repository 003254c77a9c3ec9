"""What a model expects of a row of which nothing is known: how often it uses every unit.

Every unit is one then, because weights add up to one: a sum hands its flow on by its weights, and
nothing has to be evaluated before.

Legend: R rows of an arena, F folds, K units of the layer, J units read by a sum, H inputs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pcflow.engine.kernels import add_rows
from pcflow.engine.plan import InputStep, Plan, ProductStep, Read, SumStep
from pcflow.engine.semiring import Weight
from pcflow.engine.tables import Tables

Expected = dict[int, Tensor]
"""Flows of all units, by width [R, K], where the plan has their rows."""


def expected_flows(plan: Plan, tables: Tables) -> Expected:
    """Flows of all units, of one row.

    Args:
        plan: the steps, of which every fold has a row of its own: not the lean plan, and not one of
            a model under a rule, whose weights may add up to something else.
        tables: refreshed.
    """
    weights = tables.weights(in_log_space=False)
    flows = {width: tables.like.new_zeros(rows, width) for width, rows in plan.arenas.items()}
    root = plan.steps[-1]
    flows[root.units][root.out] = 1.0
    for number in reversed(range(len(plan.steps))):
        step = plan.steps[number]
        if not isinstance(step, InputStep):
            _hand_down(flows[step.units][step.out], step, weights.get(number), flows)
    return flows


def _hand_down(
    flow: Tensor, step: SumStep | ProductStep, weight: Weight | None, flows: Expected
) -> None:
    """Add what a step hands down of its flow [F, K]."""
    widths = [read.width for read in step.inputs]
    if isinstance(step, ProductStep):
        parts = _of_product(flow, widths) if step.kronecker else [flow] * len(widths)
    else:
        assert weight is not None
        parts = _of_sum(flow, weight, widths)
    for read, part in zip(step.inputs, parts, strict=True):
        _add(flows[read.width], read, part)


def _of_product(flow: Tensor, widths: list[int]) -> list[Tensor]:
    """Of a Kronecker product: to every unit what the products have that it is part of."""
    grid = flow.unflatten(-1, widths)
    axes = range(1, grid.dim())
    return [grid.sum([a for a in axes if a != axis]) for axis in axes]


def _of_sum(flow: Tensor, weight: Weight, widths: list[int]) -> list[Tensor]:
    if weight.mixing:
        return [flow * column for column in weight.columns]
    if len(weight.tensor) == 1:
        found = flow @ weight.tensor[0]
    else:
        found = torch.bmm(flow.unsqueeze(1), weight.tensor).squeeze(1)  # [F, J]
    return [found] if len(widths) == 1 else list(found.split(widths, dim=-1))


def _add(flows: Tensor, read: Read, part: Tensor) -> None:
    """To rows that are zero until somebody hands them something."""
    if isinstance(read.rows, slice):
        flows[read.rows].add_(part)
    else:
        add_rows(flows, read.rows, part.clone())  # it may lie in the same arena
