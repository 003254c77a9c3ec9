"""Most probable states.

Legend: B batch, D variables.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pcflow.engine import Best, Engine, MaxProduct, follow, up
from pcflow.evidence import CheckedEvidence
from pcflow.queries.possible import refuse_all_impossible, refuse_impossible


class MPE(NamedTuple):
    """A most probable state.

    Attributes:
        values: [B, D], observed values kept.
        log_value: [B], log p(values) plus the log-potentials of the values that were chosen (nats).
        exact: whether no state can be better; False means `log_value` is a lower bound.

    Examples:
        >>> import pcflow as pf
        >>> model = pf.compile(pf.hmm(3, states=2, inputs=pf.Categorical(4)))
        >>> values, log_value, exact = model.mpe([[1, torch.nan, torch.nan]])
        >>> values.shape, exact
        (torch.Size([1, 3]), False)
    """

    values: Tensor
    log_value: Tensor
    exact: bool


def mpe(engine: Engine, checked: CheckedEvidence, deterministic: bool) -> MPE:
    """The most probable completion of evidence; exact if the circuit is deterministic."""
    values = torch.cat([_best(engine, part) for part in engine.parts(checked)])
    known = torch.zeros_like(checked.missing)
    chosen = CheckedEvidence(
        values,
        known,
        domain=checked.domain,
        log_gates=checked.log_gates,
        parameters=checked.parameters,
    )
    log_value = engine.log_value(chosen)
    log_potential = chosen_potentials(checked, values, checked.missing)
    return MPE(values, log_value + log_potential, deterministic)


def chosen_potentials(evidence: CheckedEvidence, values: Tensor, where: Tensor) -> Tensor:
    """Total log-potential [B] of the values [B, D] that were chosen, where they were [B, D]."""
    if evidence.potentials is None:
        return values.new_zeros(len(values))
    # real values are no indices, and their potentials are all zero
    index = values.long().clamp(0, evidence.domain.largest - 1).unsqueeze(-1)
    chosen = evidence.potentials.at(index).detach().squeeze(-1)  # [B, D]
    return chosen.masked_fill(~where | evidence.domain.real, 0.0).sum(dim=-1)


def _best(engine: Engine, part: CheckedEvidence) -> Tensor:
    """The best state [B, D] of variables and latents."""
    tape = up(engine.plan, engine.tables, part, MaxProduct(engine.plan.machine), engine.pool)
    if not (tape.log_value > -torch.inf).all():
        refuse_all_impossible(engine, part, "mpe")
        refuse_impossible(tape.log_value, "mpe", part.origin)
    return follow(tape, Best(), copies=1)
