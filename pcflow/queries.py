"""Every query: a few lines over one upward pass and at most one downward pass.

Legend: B batch, D variables, V categories, S samples.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pcflow.autograd import differentiable_log_prob
from pcflow.engine import Engine
from pcflow.errors import NoMassError, PropertyRequired
from pcflow.evidence import CheckedEvidence, Evidence, as_evidence
from pcflow.leaves import DensityLeaf, FiniteLeaf, Leaf
from pcflow.log_semiring import MAX_PRODUCT
from pcflow.passes import follow, up
from pcflow.plan import BankRead
from pcflow.routes import Best, Drawn


class MPE(NamedTuple):
    """A most probable state.

    Attributes:
        values: [B, D], observed values kept.
        log_value: [B], log p(values) plus the log-potentials of the values that were chosen (nats).
        exact: whether no state can be better; False means `log_value` is a lower bound.
    """

    values: Tensor
    log_value: Tensor
    exact: bool


def log_prob(engine: Engine, evidence: Evidence | Tensor) -> Tensor:
    """Log-probability [B] of evidence."""
    return differentiable_log_prob(engine, engine.check(evidence))


def marginals(engine: Engine, evidence: Evidence | Tensor) -> Tensor:
    """Posterior log-probabilities [B, D, V] of every variable."""
    dense = [v for v, n in enumerate(engine.circuit.num_categories) if n is None]
    if dense:
        raise PropertyRequired(
            f"marginals lists the probabilities of every category, but variable {dense[0]} has no "
            "finite range; use log_prob with a value for it, or sample"
        )
    checked = engine.check(evidence)
    batch, width = checked.values.shape
    categories = max(n for n in engine.circuit.num_categories if n is not None)
    out = engine.tables.like.detach().new_full((batch, width, categories), -torch.inf)
    found = _Posteriors(out, engine.plan.one_input_each)
    for part in engine.parts(checked):
        evaluation = engine.evaluate(part)
        refuse_impossible(evaluation.log_value, "marginals", part)
        evaluation.down(torch.ones_like(evaluation.log_value), found)
    return out if found.alone else out - out.logsumexp(dim=-1, keepdim=True)


class _Posteriors:
    """Writes posteriors into `out` [B, D, V]; `alone` if no variable has two folds of inputs."""

    wants_weights = False

    def __init__(self, out: Tensor, alone: bool) -> None:
        self.out, self.alone = out, alone

    def at_leaf(self, leaf: Leaf, slope: Tensor) -> None:
        assert isinstance(leaf, FiniteLeaf)
        part = self.out if leaf.rows is None else self.out[leaf.rows]
        leaf.log_posterior(slope, part, self.alone)
        if leaf.rows is not None:
            self.out[leaf.rows] = part

    def at_weights(self, read: BankRead, flow: Tensor) -> None:
        raise AssertionError("not wanted")


def mean(engine: Engine, evidence: Evidence | Tensor) -> Tensor:
    """Posterior mean [B, D] of every variable."""
    checked = engine.check(evidence)
    like = engine.tables.like.detach()
    sizes = [1 if n is None else n for n in engine.circuit.num_categories]
    posterior = like.new_full((*checked.values.shape, max(sizes)), -torch.inf)
    found = _Means(posterior, engine.plan.one_input_each, like.new_zeros(checked.values.shape))
    for part in engine.parts(checked):
        evaluation = engine.evaluate(part)
        refuse_impossible(evaluation.log_value, "mean", part)
        evaluation.down(torch.ones_like(evaluation.log_value), found)
    finite = torch.tensor([n is not None for n in engine.circuit.num_categories])
    counted = posterior.softmax(dim=-1) @ torch.arange(max(sizes)).to(like)  # [B, D]
    means = torch.where(finite.to(like.device), counted, found.mean)
    return torch.where(checked.missing, means, checked.values.to(like.dtype))


class _Means(_Posteriors):
    """Writes posteriors of finite variables, and adds up `mean` [B, D] of the others."""

    def __init__(self, out: Tensor, alone: bool, mean: Tensor) -> None:
        super().__init__(out, alone)
        self.mean = mean

    def at_leaf(self, leaf: Leaf, slope: Tensor) -> None:
        if not isinstance(leaf, DensityLeaf):
            super().at_leaf(leaf, slope)
            return
        flow = leaf.semiring.flow(leaf.out.units, slope)  # [F, B, K]
        means = torch.einsum("fbk,fk->bf", flow, leaf.means())
        rows = slice(None) if leaf.rows is None else leaf.rows
        part = self.mean[rows].index_add(1, leaf.step.variables, means)
        self.mean[rows] = part


def sample(engine: Engine, n: int, evidence: Evidence | Tensor | None, route: Drawn) -> Tensor:
    """Draws [n, D], or [n, B, D] given evidence."""
    if n < 0 or not route.temperature >= 0:
        raise ValueError(f"must not be negative: {n=}, temperature={route.temperature}")
    checked = engine.nothing() if evidence is None else engine.check(evidence)
    values = torch.cat([_draws(engine, n, part, route) for part in engine.parts(checked)], dim=1)
    return values[:, 0] if evidence is None else values


def _draws(engine: Engine, n: int, part: CheckedEvidence, route: Drawn) -> Tensor:
    """Draws [n, B, D]."""
    evaluation = engine.evaluate(part)
    refuse_impossible(evaluation.log_value, "sample", part)
    most = max(1, engine.plan.samples_at_a_time // max(1, len(part.values)))
    copies = [min(most, n - done) for done in range(0, n, most)]
    blocks = [evaluation.follow(route, some) for some in copies]  # [C, B, D] each
    return torch.cat(blocks) if blocks else part.values.expand(0, *part.values.shape)


def mpe(engine: Engine, evidence: Evidence | Tensor, deterministic: bool) -> MPE:
    """The most probable completion of evidence; exact if the circuit is deterministic."""
    given = as_evidence(evidence)
    checked = engine.check(given)
    values = torch.cat([_best(engine, part) for part in engine.parts(checked)])
    with torch.no_grad():
        log_value = log_prob(engine, Evidence(values=values))
    log_potential = chosen_potentials(checked, values, checked.missing)
    return MPE(values, log_value + log_potential, deterministic)


def chosen_potentials(evidence: CheckedEvidence, values: Tensor, where: Tensor) -> Tensor:
    """Total log-potential [B] of the values [B, D] that were chosen, where they were [B, D]."""
    if evidence.log_potentials is None:
        return values.new_zeros(len(values))
    # real values are no indices, but their potentials are all zero
    last = evidence.log_potentials.shape[-1] - 1
    index = values.long().clamp(0, last).unsqueeze(-1)
    chosen = evidence.log_potentials.detach().gather(-1, index).squeeze(-1)  # [B, D]
    return chosen.masked_fill(~where, 0.0).sum(dim=-1)


def _best(engine: Engine, part: CheckedEvidence) -> Tensor:
    """The best state [B, D] of variables and latents."""
    tape = up(engine.plan, engine.tables, part, MAX_PRODUCT, engine.pool)
    refuse_impossible(tape.log_value, "mpe", part)
    return follow(tape, Best(), copies=1)


def refuse_impossible(log_value: Tensor, query: str, part: CheckedEvidence | None = None) -> None:
    """Raise if some row, of a part of a batch perhaps, has no mass.

    Raises:
        NoMassError: naming the rows.
    """
    impossible = log_value == -torch.inf
    if impossible.any():
        rows = impossible.nonzero().squeeze(-1)
        origin = None if part is None else part.origin
        raise NoMassError((rows if origin is None else origin[rows]).tolist(), query)
