"""The door: evidence is checked against the variables of a circuit here, and nowhere else.

Numbers are looked at as the circuit will see them, on its device and in its precision.
Legend: B batch, D variables, V categories (all of them, or the k that are listed), C chosen ones,
W chosen variables, U intervals of a variable.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from pcflow.errors import EvidenceError
from pcflow.evidence.domain import Domain, shown
from pcflow.evidence.evidence import CheckedEvidence, Evidence
from pcflow.evidence.intervals import Intervals, as_unions
from pcflow.evidence.look import look
from pcflow.evidence.numbers import Numbers, as_tensor

SOUND = torch.tensor(True)
"""There is nothing to refuse."""


def check(given: Evidence | Numbers, domain: Domain) -> CheckedEvidence:
    """Evidence that fits the variables of a circuit, on its device and in its precision.

    What was checked against the same domain before is returned as it is; some rows of it, as a
    batch by themselves.

    Args:
        given: values [B, D], NaN where missing, or `Evidence`.
        domain: what it must be about.

    Raises:
        EvidenceError: naming the argument, and where it applies the row, variable and value.
    """
    if isinstance(given, CheckedEvidence) and given.domain == domain:
        return given.by_itself
    if isinstance(given, CheckedEvidence) and given.parameters is not None:
        raise EvidenceError("the evidence has parameters by row of another model")
    evidence = given if isinstance(given, Evidence) else Evidence(values=given)
    shape = (evidence.batch_size, len(domain.num_categories))
    values = _values(evidence.values, shape)
    missing = _missing(evidence, values)
    clean = values if missing is None else values.masked_fill(missing, 0)
    values, fits = domain.read(clean)
    any_missing = None if missing is not None else False
    if missing is None:
        missing = torch.zeros(shape, dtype=torch.bool, device=clean.device)
    there = missing.to(domain.device)
    checked = CheckedEvidence(values, there, *_converted(evidence, domain), domain=domain)
    fits, sound, hidden = look(fits, _are_sound(evidence, checked), missing)
    if not bool(fits):
        domain.refuse(clean)
    if not bool(sound):
        _refuse_potentials(evidence, checked)
    return _bounded(evidence, checked).seen(hidden, any_missing)


def check_categories(given: Numbers, evidence: CheckedEvidence, variables: Sequence[int]) -> Tensor:
    """Categories [B, D, C] to ask of a circuit, on the device of the evidence.

    Args:
        given: those of the variables that are asked for, [B, W, C].
        evidence: what is known.
        variables: which ones these are; all others are asked for zeros.

    Raises:
        EvidenceError: if they are not integers of that shape, or one is in no variable's range.
    """
    categories, (batch, count) = as_tensor("categories", given), evidence.values.shape
    asked, width = list(variables), len(variables)
    if categories.is_floating_point() or categories.shape[:-1] != (batch, width):
        raise EvidenceError(
            f"categories must be integers [{batch}, {width}, C], got {categories.dtype} "
            f"{tuple(categories.shape)}"
        )
    if categories is not evidence.categories:
        _refuse_categories(categories, evidence.domain.largest, asked)
    categories = categories.to(evidence.values.device).long()
    if asked == list(range(count)):
        return categories
    found = categories.new_zeros(batch, count, categories.shape[-1])
    found[:, asked] = categories
    return found


def _refuse_categories(categories: Tensor, largest: int, variables: list[int]) -> None:
    wrong = (categories < 0) | (categories >= largest)
    if wrong.any():
        row, place, _ = (int(i) for i in wrong.nonzero()[0])
        raise EvidenceError(
            f"categories: row {row}, variable {variables[place]} must be in 0..{largest - 1}"
        )


def _values(values: Tensor | None, shape: tuple[int, int]) -> Tensor:
    if values is None:
        return torch.zeros(shape, dtype=torch.long)
    if values.shape != shape:
        width = shape[1]
        raise EvidenceError(
            f"values must be [B, {width}] for {width} variables, got {tuple(values.shape)}"
        )
    return values.long() if values.dtype == torch.bool else values


def _missing(evidence: Evidence, values: Tensor) -> Tensor | None:
    """What is missing [B, D]; None if nothing can be."""
    if evidence.values is None:
        return torch.ones_like(values, dtype=torch.bool)
    mask = evidence.missing
    given = None if mask is None else _mask(mask, *values.shape).to(values.device)
    if not values.is_floating_point():
        return given
    absent = values.isnan()
    return absent if given is None else absent | given


def _mask(missing: Tensor, batch: int, width: int) -> Tensor:
    if missing.shape != (batch, width) or missing.dtype != torch.bool:
        raise EvidenceError(
            f"missing must be bool [{batch}, {width}], got {missing.dtype} {tuple(missing.shape)}"
        )
    return missing


def _bounded(evidence: Evidence, checked: CheckedEvidence) -> CheckedEvidence:
    """With intervals, which on finite variables are potentials of zero or one."""
    if evidence.lower is None and evidence.upper is None:
        return checked
    intervals = _intervals(evidence, checked)
    checked = replace(checked, lower=intervals.lower, upper=intervals.upper)
    domain, log = checked.domain, checked.log_potentials
    some = intervals.there & checked.missing & ~domain.real
    if not bool(some.any()):
        return checked
    if log is None:
        log = torch.zeros(*some.shape, domain.largest, device=domain.device, dtype=domain.dtype)
    every = torch.arange(domain.largest, device=domain.device)
    held = intervals.holds(every if checked.categories is None else checked.categories)
    log = log.masked_fill(~held & some.unsqueeze(-1), -torch.inf)
    return replace(checked, log_potentials=log)


def _intervals(evidence: Evidence, checked: CheckedEvidence) -> Intervals:
    """As numbers of the circuit.

    Raises:
        EvidenceError: if they are of a wrong shape, or one that is read holds no number.
    """
    (rows, width), domain = checked.missing.shape, checked.domain
    given = as_unions(evidence.lower, evidence.upper, (rows, width))
    lower, upper = (bound.to(domain.device, domain.dtype) for bound in given)
    empty = Intervals.empty(lower, upper) & checked.missing.unsqueeze(-1)
    if bool(empty.any()):
        row, variable, place = (int(i) for i in empty.nonzero()[0])
        ends = (bound[row, variable, place].item() for bound in (lower, upper))
        raise EvidenceError(
            "lower, upper: row {}, variable {} has no number from {} to {}".format(
                row, variable, *ends
            )
        )
    return Intervals.of(lower, upper)


def _converted(evidence: Evidence, domain: Domain) -> tuple[Tensor | None, Tensor | None]:
    """Log-potentials as numbers of the circuit, and whose they are."""
    log, listed = evidence.log_potentials, evidence.categories
    if log is not None and not log.is_floating_point():
        raise EvidenceError(f"log_potentials must be floating point, got {log.dtype}")
    if listed is not None and (log is None or listed.is_floating_point()):
        raise EvidenceError("categories must be integers [B, D, k], with log_potentials of theirs")
    return (
        None if log is None else log.to(device=domain.device, dtype=domain.dtype),
        None if listed is None else listed.to(domain.device).long(),
    )


def _are_sound(evidence: Evidence, checked: CheckedEvidence) -> Tensor:
    """Whether no potential is one that `_refuse_potentials` refuses: one bool, not read.

    Raises:
        EvidenceError: if they are of a wrong shape.
    """
    given, log, potentials = evidence.log_potentials, checked.log_potentials, checked.potentials
    if given is None or log is None or potentials is None:
        return SOUND
    potentials.check(checked.missing.shape, checked.domain.largest)
    if not log.numel():
        return SOUND
    sound = (log.detach().amax(dim=-1) < torch.inf).all()  # NaN survives amax
    if potentials.categories is not None:
        sound &= ~potentials.misplaced(checked.domain.largest).any()
    if _may_lose(given, log):
        sound &= ~_lost(given, log).any()
    if not checked.domain.is_finite:
        sound &= ~_shaped(checked, log).any()
    return sound


def _refuse_potentials(evidence: Evidence, checked: CheckedEvidence) -> None:
    given, log = evidence.log_potentials, checked.log_potentials
    assert given is not None and log is not None and checked.potentials is not None
    log, largest = log.detach(), checked.domain.largest
    misplaced = checked.potentials.misplaced(largest)
    if misplaced.any():
        row, variable = (int(i) for i in misplaced.nonzero()[0])
        raise EvidenceError(
            f"categories: row {row}, variable {variable} must list different integers in "
            f"0..{largest - 1}"
        )
    _refuse(given, log, ~(log < torch.inf), "neither NaN nor +inf")
    if _may_lose(given, log):
        _refuse(given, log, _lost(given, log), "-inf or a number of the model's precision")
    shaped = _shaped(checked, log)
    _refuse(given, log, shaped, "0, because the variable has no finite range")


def _may_lose(given: Tensor, log: Tensor) -> bool:
    return torch.finfo(given.dtype).max > torch.finfo(log.dtype).max


def _lost(given: Tensor, log: Tensor) -> Tensor:
    """What the model's precision does not hold."""
    return (log.detach() == -torch.inf) & (given.detach().to(log.device) > -torch.inf)


def _shaped(checked: CheckedEvidence, log: Tensor) -> Tensor:
    """Potentials that say something of missing values without a finite range."""
    return (log.detach() != 0) & (checked.missing & checked.domain.real).unsqueeze(-1)


def _refuse(given: Tensor, log: Tensor, wrong: Tensor, wanted: str) -> None:
    if wrong.any():
        row, variable, place = (int(i) for i in wrong.nonzero()[0])
        value = shown(given[row, variable, place], log[row, variable, place])
        raise EvidenceError(
            f"log_potentials: row {row}, variable {variable} has {value} at place {place}, but "
            f"must be {wanted}"
        )
