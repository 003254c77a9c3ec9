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
    if not evaluation.possible:
        refuse_all_impossible(engine, part, query)
        refuse_impossible(evaluation.log_value, query, part.origin)
    return evaluation


def refuse_all_impossible(engine: Engine, part: CheckedEvidence, query: str) -> None:
    """Raise if some row of the batch that a part is of has no mass: who skips one skips all.

    Raises:
        NoMassError, NotANumber: see `refuse_impossible`.
    """
    refuse_impossible(engine.log_value(part if part.whole is None else part.whole), query)


def refuse_impossible(log_value: Tensor, query: str, rows: Tensor | None = None) -> None:
    """Raise if some row has no mass.

    Args:
        log_value: [B] (nats).
        query: whose name the error bears.
        rows: [B], the numbers by which the rows are known; 0, 1, ... by default.

    Raises:
        NoMassError: naming the rows.
        NotANumber: naming the rows whose mass is none, because some parameter is none.
    """
    possible = log_value > -torch.inf
    if bool(possible.all()):
        return
    places = (~possible).nonzero().squeeze(-1)
    unknown = log_value[places].isnan()
    error, places = (NotANumber, places[unknown]) if unknown.any() else (NoMassError, places)
    raise error((places if rows is None else rows[places]).tolist(), query)


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
