"""Soft evidence that gives a circuit chosen marginals: iterative proportional fitting.

Among all distributions with the given one-site marginals, the result is the closest in KL
divergence to the circuit's posterior (Csiszar 1975; Sinkhorn's algorithm for two variables). The
fixed point maximises a concave dual, sum_i sum_v m_i(v) log lambda_i(v) - log Z, and neither of the
two ways to it ever lets the dual fall.

Legend: B batch, D variables, V categories (all of them, or the k that are listed).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import inf

import torch
from torch import Tensor

from pcflow.checks import check_whole
from pcflow.engine import Engine, floor_of
from pcflow.errors import EvidenceError, NoMassError, NotANumber, SettingError
from pcflow.evidence import CheckedEvidence, Numbers, Potentials, Weighed, as_tensor
from pcflow.queries.gauss_seidel import Fitted, GaussSeidel, Node, furthest, start_of, tree_of
from pcflow.queries.marginals import marginals
from pcflow.queries.possible import refuse_all_impossible, refuse_unbounded


@dataclass(frozen=True, eq=False)
class ProjectedEvidence(CheckedEvidence):
    """Evidence whose potentials were fitted.

    Attributes:
        mismatch: [B], the largest difference between a marginal and its target that the last sweep
            of the row found, before mending it. Zero at the fixed point.

    Examples:
        >>> import pcflow as pf
        >>> model = pf.compile(pf.hmm(2, states=2, inputs=pf.Categorical(2)), dtype=torch.float64)
        >>> wanted = torch.tensor([[[0.2, 0.8], [0.5, 0.5]]]).double().log()
        >>> model.project([[torch.nan, torch.nan]], wanted, sweeps=1).mismatch.shape
        torch.Size([1])
    """

    log_potentials: Tensor
    mismatch: Tensor = field(kw_only=True)


def project(
    engine: Engine,
    checked: CheckedEvidence,
    log_marginals: Numbers | Potentials,
    sweeps: int,
    tolerance: float = 0.0,
    normalised: bool = False,
) -> ProjectedEvidence:
    """Fit potentials to marginals: Gauss-Seidel on trees, simultaneous steps elsewhere."""
    check_whole("sweeps", sweeps)
    SettingError.check("tolerance", tolerance, "at least 0", lambda least: 0 <= least < inf)
    refuse_unbounded(engine, "project")
    target = _target(engine, checked, log_marginals, normalised)
    nodes = tree_of(engine.plan)
    with torch.no_grad():
        parts = [(part, _rows(target, part)) for part in engine.parts(checked)]
        try:
            found = [_fit(engine, nodes, *part, sweeps, tolerance) for part in parts]
        except NoMassError:
            refuse_all_impossible(engine, checked, "project")
            raise
    potentials = torch.cat([each.potentials for each in found])
    mismatch = torch.cat([each.mismatch for each in found])
    return ProjectedEvidence(
        checked.values,
        checked.missing,
        potentials,
        target.categories,
        domain=checked.domain,
        parameters=checked.parameters,
        mismatch=mismatch,
        weighed=_weighed(found[0], potentials, checked) if len(found) == 1 else None,
    )


def _weighed(found: Fitted, potentials: Tensor, checked: CheckedEvidence) -> Weighed | None:
    """What inputs made of the potentials of all rows; None if rows have parameters of their own."""
    if not found.units or checked.parameters is not None:
        return None
    return Weighed.of(found.units, potentials, checked.missing, found.parameters)


def _target(
    engine: Engine, checked: CheckedEvidence, given: Numbers | Potentials, normalised: bool
) -> Potentials:
    """Normalised log-marginals [B, D, V], or of what is listed [B, D, k]; checked."""
    wanted = given
    if not isinstance(wanted, Potentials):
        wanted = Potentials.of(as_tensor("log_marginals", wanted), checked.categories)
    _refuse_others(checked, wanted)
    alone = replace(checked, parameters=None)
    told = engine.check(alone.with_potentials(wanted.like(wanted.log.detach()))).potentials
    assert told is not None
    if normalised:
        return told
    sizes = torch.tensor([n or 0 for n in checked.domain.num_categories], device=told.log.device)
    target = told.log.masked_fill(told.beyond(sizes), -torch.inf).log_softmax(dim=-1)
    empty = target.isnan().any(dim=-1) & checked.missing
    if empty.any():
        row, variable = (int(i) for i in empty.nonzero()[0])
        raise EvidenceError(f"log_marginals: row {row}, variable {variable} has no mass")
    return told.like(target)


def _refuse_others(checked: CheckedEvidence, wanted: Potentials) -> None:
    """Refuse marginals of other categories than those that the evidence has potentials of.

    Raises:
        EvidenceError: if they are.
    """
    if checked.log_potentials is None or checked.categories is wanted.categories:
        return
    known, named = checked.categories, wanted.categories
    if known is None or named is None or not torch.equal(known.cpu(), named.cpu()):
        raise EvidenceError("log_marginals must be of the categories that the evidence lists")


def _rows(target: Potentials, part: CheckedEvidence) -> Potentials:
    return target if part.origin is None else target[part.origin]


def _fit(
    engine: Engine,
    nodes: list[Node] | None,
    checked: CheckedEvidence,
    target: Potentials,
    sweeps: int,
    tolerance: float,
) -> Fitted:
    """Potentials [B, D, V] and mismatch [B] of one part of a batch."""
    if nodes is None:
        return Fitted(*_simultaneous(engine, checked, target, sweeps, tolerance))
    found = GaussSeidel(engine, nodes, checked, target).fit(sweeps, tolerance)
    low = (~(found.lowest.squeeze(-1) >= floor_of(target.log.dtype))).nonzero().squeeze(-1)
    if len(low):  # messages that may have underflowed: posteriors go through log space
        rows = checked.rows(low)
        mended = _simultaneous(engine, rows, target[low], sweeps, tolerance)
        found.potentials[low], found.mismatch[low] = mended
        return Fitted(found.potentials, found.mismatch)
    return found


def _simultaneous(
    engine: Engine, checked: CheckedEvidence, about: Potentials, sweeps: int, tolerance: float
) -> tuple[Tensor, Tensor]:
    """All variables at once, each row as far along the common step as its dual allows."""
    target, missing = about.log, checked.missing.unsqueeze(-1)
    start = start_of(checked, about)
    now = replace(checked, log_potentials=start, categories=about.categories)
    mismatch = torch.zeros_like(target[:, 0, 0])
    live = torch.ones_like(mismatch, dtype=torch.bool)
    for _ in range(sweeps):
        log_q = _posterior(engine, now)
        found = furthest(log_q, target, checked.missing).amax(dim=-1)
        mismatch = torch.where(live, found, mismatch)
        step = _less(target, log_q).masked_fill(~(missing & live[:, None, None]), 0.0)
        now = replace(now, log_potentials=_moved(engine, now, target, step))
        live &= found >= tolerance
        if tolerance > 0 and not live.any():
            break
    assert now.log_potentials is not None
    return now.log_potentials, mismatch


def _posterior(engine: Engine, now: CheckedEvidence) -> Tensor:
    """Log-marginals [B, D, V] under the present potentials."""
    try:
        return marginals(engine, replace(now, origin=None, whole=None), now.categories)
    except (NoMassError, NotANumber) as error:
        rows = error.rows if now.origin is None else now.origin[list(error.rows)].tolist()
        raise type(error)(rows, "project") from None


def _moved(engine: Engine, now: CheckedEvidence, target: Tensor, step: Tensor) -> Tensor:
    """Potentials [B, D, V] after the largest of 1, 1/2, 1/4, ... of the step that gains enough.

    Enough is half of what it promises. Independent variables gain sum_i KL(m_i | q_i) by a full
    step. In general a share s of it gains s times that if s is 1 / (number of unobserved
    variables), because the dual is concave; so no shorter step is tried.
    """
    assert now.log_potentials is not None
    potentials, reachable = now.log_potentials, step > -torch.inf
    weight = target.exp().masked_fill(~now.missing.unsqueeze(-1) | ~reachable, 0.0)

    def dual(candidate: Tensor) -> Tensor:
        linear = weight * candidate.masked_fill(weight == 0, 0.0)  # [B, D, V]
        return linear.sum(dim=(1, 2)) - engine.log_value(replace(now, log_potentials=candidate))

    promise = (weight * step.masked_fill(~reachable, 0.0)).sum(dim=(1, 2))  # [B]
    before, least = dual(potentials), 1.0 / now.missing.sum(dim=-1).clamp_min(1)
    size = torch.ones_like(before)
    while True:
        candidate = potentials + size[:, None, None] * step
        gain = dual(candidate) - before
        short = (gain < 0.5 * size * promise) & (size > least)
        if not short.any():
            return candidate
        size = torch.where(short, torch.maximum(size / 2, least), size)


def _less(target: Tensor, log_q: Tensor) -> Tensor:
    """Log-ratio of two distributions; what either rules out stays ruled out."""
    return (target - log_q).masked_fill((target == -torch.inf) | (log_q == -torch.inf), -torch.inf)
