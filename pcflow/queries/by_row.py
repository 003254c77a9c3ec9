"""Parameters that every row of evidence has of its own: the door.

Legend: B batch, P parameters of a bank.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pcflow.checks import check_kind
from pcflow.engine import InputStep, Plan, SumStep, in_ordinary_modes
from pcflow.errors import SettingError, TypeMismatch
from pcflow.evidence import Domain, RowParameters, Totals, look, version_of

ByRow = Mapping[str, Tensor] | Mapping[nn.Parameter, Tensor] | Mapping[str | nn.Parameter, Tensor]
"""For some parameters, or their names, what they hold in every row, [B, *shape]."""


def rows_of(given: ByRow | None) -> int | None:
    """How many rows parameters are given for; None, if none are given, or an empty dict.

    Raises:
        TypeMismatch: if they are no dict of tensors.
    """
    check_kind("parameters", given, Mapping | None, "a dict of tensors by parameter or name")
    if not given:
        return None
    sizes = (len(t) for t in given.values() if isinstance(t, Tensor) and t.dim() > 0)
    return next(sizes, 1)


def check_parameters(
    given: ByRow, named: Mapping[str, Tensor], plan: Plan, domain: Domain, rows: int
) -> RowParameters:
    """Parameters by row that fit a model, in its precision.

    Args:
        given: by name, or by the parameter itself.
        named: the parameters of the model.
        plan: of its engine; these are the first of the banks.
        domain: where the model is, and how precise.
        rows: how many there must be, B.

    Raises:
        TypeMismatch: if they are no dict of tensors.
        SettingError: naming the parameter, if the model has none such, or it does not fit, or
            holds NaN, +inf where no family makes a distribution of it, or nothing but -inf for a
            unit.
    """
    numbers = {key: n for n, pair in enumerate(named.items()) for key in pair}
    found: dict[int, Tensor] = {}
    for key, tensor in given.items():
        number = _number(key, numbers, found)
        name, parameter = list(named.items())[number]
        found[number] = _fitting(f"parameters[{name!r}]", tensor, parameter, domain, rows)
    totals = {n: _totals(t, plan) for n, t in found.items() if n in plan.logits and t.numel()}
    _refuse_no_distributions(list(named), found, totals, plan)
    return RowParameters(plan.banks, found, totals)


def _number(key: Any, numbers: Mapping[Any, int], met: Mapping[int, Tensor]) -> int:
    names = [name for name in numbers if isinstance(name, str)]
    if not isinstance(key, str | nn.Parameter) or key not in numbers:
        shown = key if isinstance(key, str) else type(key).__name__
        raise SettingError("parameters", shown, f"those of the model, or by name: {names}")
    if numbers[key] in met:
        raise SettingError("parameters", names[numbers[key]], "told once each")
    return numbers[key]


def _fitting(name: str, given: Any, parameter: Tensor, domain: Domain, rows: int) -> Tensor:
    if not isinstance(given, Tensor):
        raise TypeMismatch(name, given, "a tensor")
    wanted = (rows, *parameter.shape)
    if given.layout is not torch.strided or given.shape != wanted:
        raise SettingError(name, tuple(given.shape), f"of shape {wanted}, a set for every row")
    if not given.is_floating_point():
        raise SettingError(name, given.dtype, "floating point")
    if given.device.type != domain.device.type:
        raise SettingError(name, str(given.device), f"on {domain.device} like the model")
    fitting = given.to(domain.dtype)
    return fitting.clone() if fitting.is_inference() else fitting  # which could not be saved


@in_ordinary_modes
@torch.no_grad()
def _totals(logits: Tensor, plan: Plan) -> Totals:
    """Of logits [B, P, V, K], which are read once: passes take them from here."""
    log_total, lowest, moderate = plan.machine.log_normalizer(logits.flatten(0, 1))
    by_row = log_total.unflatten(0, logits.shape[:2])
    return Totals(by_row, lowest, moderate, version_of(logits))


def _refuse_no_distributions(
    names: list[str], found: Mapping[int, Tensor], totals: Mapping[int, Totals], plan: Plan
) -> None:
    given = {number: t.detach() for number, t in found.items() if t.numel()}
    sound = look(*(_is_sound(n, t, totals.get(n), plan) for n, t in given.items()))
    for (number, t), fine in zip(given.items(), sound, strict=True):
        if not bool(fine):
            _refuse(f"parameters[{names[number]!r}]", number, t, plan)


def _is_sound(bank: int, given: Tensor, totals: Totals | None, plan: Plan) -> Tensor:
    """Whether what a bank is given may be read: NaN survives amax, and totals of what may not."""
    if totals is not None:
        return totals.log_total.isfinite().all()
    if bank in plan.summed:
        return given.amax(dim=-1).isfinite().all()
    return given.amax() < torch.inf


def _refuse(name: str, bank: int, given: Tensor, plan: Plan) -> None:
    """Say what is wrong, of the first row of which something is."""
    no_number = given.isnan() if _may_be_infinite(plan, bank) else ~(given < torch.inf)
    for row in _rows_with(no_number):
        raise SettingError(name, f"NaN or +inf in row {row}", "finite, or -inf")
    if bank in plan.summed | plan.logits:
        impossible = given.amax(dim=-1 if bank in plan.summed else -2) == -torch.inf
        for row in _rows_with(impossible):
            what = f"nothing but -inf for a unit in row {row}"
            raise SettingError(name, what, "above -inf somewhere, for every unit")


def _rows_with(flags: Tensor) -> list[int]:
    rows: list[int] = flags.flatten(1).any(dim=1).nonzero().flatten().tolist()
    return rows


def _may_be_infinite(plan: Plan, bank: int) -> bool:
    """Whether all that reads a bank makes distributions of +inf, as log-odds of certain values."""
    for step in plan.steps:
        if isinstance(step, SumStep) and step.weight.bank == bank:
            return False
        if isinstance(step, InputStep):
            usual = step.family.initial(step.units, torch.Generator().manual_seed(0))
            for name in (name for name, read in step.parameters.items() if read.bank == bank):
                params = usual | {name: torch.full_like(usual[name], torch.inf)}
                one = {other: value.unsqueeze(0) for other, value in params.items()}
                if not step.family.is_proper(one).all():
                    return False
    return True
