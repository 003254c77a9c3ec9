"""What every query needs: rows that have mass, and variables that have a finite range.

Legend: B batch, D variables.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import Tensor

from pcflow.checks import as_wholes
from pcflow.engine import Engine, Evaluation, InputStep, Taped
from pcflow.errors import EvidenceError, NoMassError, NotANumber, PropertyRequired
from pcflow.evidence import CheckedEvidence, Evidence
from pcflow.inputs import Few, Share

MOST_ASKED = 1024
"""Variables of a row that are asked one by one what is wrong with it."""


def evaluate(engine: Engine, part: CheckedEvidence, query: str) -> Evaluation:
    """An upward pass of rows that have mass.

    Raises:
        NoMassError: see `refuse_impossible`.
        NotANumber: likewise.
    """
    evaluation = engine.evaluate(part)
    _refuse_without_mass(engine, evaluation, part, query)
    return evaluation


def trace(engine: Engine, part: CheckedEvidence, query: str) -> Taped:
    """The same for draws, which follow what it wrote down.

    Raises:
        NoMassError: see `refuse_impossible`.
        NotANumber: likewise.
    """
    taped = engine.trace(part)
    _refuse_without_mass(engine, taped, part, query)
    return taped


def _refuse_without_mass(
    engine: Engine, evaluation: Evaluation, part: CheckedEvidence, query: str
) -> None:
    if not evaluation.possible:
        refuse_all_impossible(engine, part, query)
        refuse_impossible(evaluation.log_value, query, part.origin)


def refuse_all_impossible(engine: Engine, part: CheckedEvidence, query: str) -> None:
    """Raise if some row of the batch that a part is of has no mass: who skips one skips all.

    Raises:
        NoMassError: see `refuse_impossible`.
        NotANumber: likewise.
    """
    whole = part if part.whole is None else part.whole
    why, ruled = partial(never, engine, whole), _is_ruled(engine)
    refuse_impossible(engine.log_value(whole), query, None, why, ruled)


def _is_ruled(engine: Engine) -> bool:
    inputs = (step for step in engine.plan.steps if isinstance(step, InputStep))
    return engine.plan.has_rules or any(isinstance(step.family, Few | Share) for step in inputs)


def refuse_impossible(
    log_value: Tensor,
    query: str,
    rows: Tensor | None = None,
    why: Callable[[int], tuple[int, float] | None] = lambda row: None,
    ruled: bool = False,
) -> None:
    """Raise if some row has no mass.

    Args:
        log_value: [B] (nats).
        query: whose name the error bears.
        rows: [B], the numbers by which the rows are known; 0, 1, ... by default.
        why: of a row of these B without mass, what is wrong with it (see `never`).
        ruled: whether a rule may be what forbids it.

    Raises:
        NoMassError: naming the rows.
        NotANumber: naming the rows whose mass is none, because some parameter is none.
    """
    possible = log_value > -torch.inf
    if bool(possible.all()):
        return
    places = (~possible).nonzero().squeeze(-1)
    unknown = log_value[places].isnan()
    if unknown.any():
        places = places[unknown]
    known = (places if rows is None else rows[places]).tolist()
    if unknown.any():
        raise NotANumber(known, query)
    raise NoMassError(known, query, why(int(places[0])), ruled)


def never(engine: Engine, evidence: CheckedEvidence, row: int) -> tuple[int, float] | None:
    """The first variable of a row whose value is impossible by itself, and the value.

    None if there is none, or too many variables to ask one by one, or if the row has parameters of
    its own, which each of them would need.
    """
    values, count = evidence.values[row], evidence.values.shape[1]
    if count > MOST_ASKED or evidence.parameters is not None:
        return None
    others = ~torch.eye(count, dtype=torch.bool, device=values.device)
    alone = Evidence(values.expand(count, count), others | evidence.missing[row])
    wrong = (engine.log_value(engine.check(alone)) == -torch.inf).nonzero()
    if not len(wrong):
        return None
    variable = int(wrong[0])
    return variable, values[variable].item()


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


def chosen_variables(engine: Engine, variables: Iterable[int]) -> list[int]:
    """Variables that are asked for, in that order.

    Raises:
        TypeMismatch: if they are no whole numbers.
        EvidenceError: if the circuit does not have one, or one is named twice.
    """
    asked, count = as_wholes("variables", variables), len(engine.domain.num_categories)
    if len(set(asked)) < len(asked) or not all(0 <= v < count for v in asked):
        raise EvidenceError(f"variables must be different integers in 0..{count - 1}, got {asked}")
    return asked


def refuse_unbounded(engine: Engine, query: str, asked: Iterable[int] | None = None) -> None:
    """Raise if some variable that is asked for, all by default, has no finite range.

    Raises:
        PropertyRequired: naming the variable.
    """
    sizes = engine.domain.num_categories
    unbounded = [v for v in (range(len(sizes)) if asked is None else asked) if sizes[v] is None]
    if unbounded:
        others = "" if asked is None else "marginals of others (`variables=`), or "
        raise PropertyRequired(
            f"{query} lists all categories of every variable, but variable {unbounded[0]} has no "
            f"finite range; ask for {others}log_prob with a value or an interval for it, or sample"
        )
