"""Below which units anything is known: flows of the others say nothing that could be learned.

A sum over variables of which a row says nothing hands its flow on by its own weights: to count
that would confirm whatever the weights are.

Legend: F folds, B batch, D variables, R rows of an arena.
"""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor

from pcflow.engine.plan import InputStep, Plan, Step

Shares = dict[int, Tensor]
"""How much of every fold's flow counts: [R, B] of the arena of each width."""


def told_below(plan: Plan, told: Tensor) -> Shares:
    """One where a row knows something about the variables of a fold, zero elsewhere.

    Args:
        plan: the steps, of which every fold has a row of its own: not the lean plan.
        told: [B, D], one or zero.
    """
    by_variable = told.t()
    shares = {w: told.new_empty(rows, len(told)) for w, rows in plan.arenas.items()}
    for step in plan.steps:
        if isinstance(step, InputStep):
            found = by_variable.index_select(0, step.variables)  # [F, B]
        else:
            found = reduce(torch.maximum, (shares[read.width][read.rows] for read in step.inputs))
        shares[step.units][step.out] = found
    return shares


def share_of(shares: Shares, step: Step) -> Tensor:
    """How much of the flow of a step's folds counts: [F, B, 1]."""
    return shares[step.units][step.out].unsqueeze(-1)
