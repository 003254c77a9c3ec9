"""What every query needs: rows that have mass, and variables that have a finite range.

Legend: B batch, D variables.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pcflow.engine import Engine, Evaluation
from pcflow.errors import NoMassError, NotANumber, PropertyRequired
from pcflow.evidence import CheckedEvidence


def evaluate(engine: Engine, part: CheckedEvidence, query: str) -> Evaluation:
    """An upward pass of rows that have mass.

    Raises:
        NoMassError, NotANumber: see `refuse_impossible`.
    """
    evaluation = engine.evaluate(part)
    refuse_impossible(evaluation.log_value, query, part)
    return evaluation


def refuse_impossible(log_value: Tensor, query: str, part: CheckedEvidence | None = None) -> None:
    """Raise if some row, of a part of a batch perhaps, has no mass.

    Args:
        log_value: [B] (nats).
        query: whose name the error bears.
        part: which rows these are, if not all.

    Raises:
        NoMassError: naming the rows.
        NotANumber: naming the rows whose mass is none, because some parameter is none.
    """
    possible = log_value > -torch.inf
    if bool(possible.all()):
        return
    rows = (~possible).nonzero().squeeze(-1)
    unknown = log_value[rows].isnan()
    error = NotANumber if bool(unknown.any()) else NoMassError
    named = rows[unknown] if bool(unknown.any()) else rows
    origin = None if part is None else part.origin
    raise error((named if origin is None else origin[named]).tolist(), query)


def refuse_nan(values: Tensor, query: str) -> Tensor:
    """The values [n, B, D] that a query found, all of which must be numbers.

    Raises:
        NotANumber: naming the rows that have others, because some parameter is none.
    """
    if values.is_floating_point():
        wrong = values.isnan().any(dim=-1).any(dim=0)  # [B]
        if wrong.any():
            raise NotANumber(wrong.nonzero().squeeze(-1).tolist(), query)
    return values


def refuse_unbounded(engine: Engine, query: str) -> None:
    """Raise if some variable has no finite range.

    Raises:
        PropertyRequired: naming the variable.
    """
    unbounded = [v for v, n in enumerate(engine.domain.num_categories) if n is None]
    if unbounded:
        raise PropertyRequired(
            f"{query} lists all categories of every variable, but variable {unbounded[0]} has no "
            "finite range; use log_prob with a value for it, or sample"
        )
