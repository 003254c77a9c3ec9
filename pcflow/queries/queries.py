"""Every query: a few lines over one upward pass and at most one downward pass.

Legend: B batch, D variables, V categories (C of them), S samples.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pcflow.engine import (
    MAX_PRODUCT,
    BankRead,
    Best,
    DensityLeaf,
    Drawn,
    Engine,
    Evaluation,
    FiniteLeaf,
    Leaf,
    differentiable_log_prob,
    follow,
    log_flows,
    log_posterior,
    rank_over_same_variable,
    up,
)
from pcflow.errors import PropertyRequired
from pcflow.evidence import (
    CheckedEvidence,
    Evidence,
    as_evidence,
    check_categories,
    refuse_impossible,
)


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


class Draws(NamedTuple):
    """Draws, and how probable each drawn value is by itself.

    Attributes:
        values: [n, B, D], observed values kept.
        log_marginals: [n, B, D], posterior log-probability (nats) of every value; 0 where observed.
        drawn: [B, D] bool, what was not observed.
    """

    values: Tensor
    log_marginals: Tensor
    drawn: Tensor


def marginals(
    engine: Engine, evidence: Evidence | Tensor, categories: Tensor | None = None
) -> Tensor:
    """Posterior log-probabilities [B, D, V] of every variable, or [B, D, C] of some categories."""
    checked = _finite(engine, evidence)
    if categories is not None:
        chosen = _Chosen(engine, check_categories(categories, checked))
        for part in engine.parts(checked):
            chosen.ask(_possible(engine, part, "marginals"))
        return chosen.log_probability
    batch, width = checked.values.shape
    out = engine.tables.like.detach().new_full((batch, width, checked.largest), -torch.inf)
    found = _Posteriors(out, engine.plan.one_input_each)
    for part in engine.parts(checked):
        evaluation = _possible(engine, part, "marginals")
        evaluation.down(torch.ones_like(evaluation.log_value), found)
    return out if found.alone else out - out.logsumexp(dim=-1, keepdim=True)


def _finite(engine: Engine, evidence: Evidence | Tensor) -> CheckedEvidence:
    """Checked evidence about variables that all have a finite range."""
    dense = [v for v, n in enumerate(engine.structure.num_categories) if n is None]
    if dense:
        raise PropertyRequired(
            f"marginals lists the probabilities of every category, but variable {dense[0]} has no "
            "finite range; use log_prob with a value for it, or sample"
        )
    return engine.check(evidence)


def _possible(engine: Engine, part: CheckedEvidence, query: str) -> Evaluation:
    """An upward pass of rows that have mass."""
    evaluation = engine.evaluate(part)
    refuse_impossible(evaluation.log_value, query, part.origin)
    return evaluation


class _Posteriors:
    """Writes posteriors into `out` [B, D, V]; `alone` if no variable has two folds of inputs."""

    wants_weights = False

    def __init__(self, out: Tensor, alone: bool) -> None:
        self.out, self.alone = out, alone

    def at_leaf(self, leaf: Leaf, slope: Tensor) -> None:
        assert isinstance(leaf, FiniteLeaf)
        part = self.out if leaf.rows is None else self.out[leaf.rows]
        log_posterior(leaf, slope, part, self.alone)
        if leaf.rows is not None:
            self.out[leaf.rows] = part

    def at_weights(self, read: BankRead, flow: Tensor) -> None:
        raise AssertionError("not wanted")


class _Chosen:
    """Adds up how often chosen categories [B, D, C] of every variable are used, and any at all."""

    wants_weights = False

    def __init__(self, engine: Engine, categories: Tensor) -> None:
        like = engine.tables.like.detach()
        self.alone, self.categories = engine.plan.one_input_each, categories
        self.log_flow = like.new_full(categories.shape, -torch.inf)
        self.log_total = like.new_full(categories.shape[:2], -torch.inf)

    @property
    def log_probability(self) -> Tensor:
        """[B, D, C]."""
        return self.log_flow - self.log_total.unsqueeze(-1)

    def ask(self, evaluation: Evaluation) -> None:
        """Go down from rows of which all are possible."""
        evaluation.down(torch.ones_like(evaluation.log_value), self)

    def at_leaf(self, leaf: Leaf, slope: Tensor) -> None:
        assert isinstance(leaf, FiniteLeaf)
        rows = slice(None) if leaf.rows is None else leaf.rows
        found, total = log_flows(leaf, slope, self.categories[rows])
        rank = torch.zeros(1).long() if self.alone else rank_over_same_variable(leaf)
        for turn in range(int(rank.max()) + 1):
            some = slice(None) if self.alone else (rank == turn).nonzero().squeeze(-1)
            variables = leaf.step.variables[some]
            place = (rows if leaf.rows is None else leaf.rows.unsqueeze(-1), variables)
            for sums, new in ((self.log_flow, found), (self.log_total, total)):
                sums[place] = torch.logaddexp(sums[place], new[some].transpose(0, 1))

    def at_weights(self, read: BankRead, flow: Tensor) -> None:
        raise AssertionError("not wanted")


def mean(engine: Engine, evidence: Evidence | Tensor) -> Tensor:
    """Posterior mean [B, D] of every variable."""
    checked = engine.check(evidence)
    like = engine.tables.like.detach()
    sizes = [1 if n is None else n for n in engine.structure.num_categories]
    posterior = like.new_full((*checked.values.shape, max(sizes)), -torch.inf)
    found = _Means(posterior, engine.plan.one_input_each, like.new_zeros(checked.values.shape))
    for part in engine.parts(checked):
        evaluation = _possible(engine, part, "mean")
        evaluation.down(torch.ones_like(evaluation.log_value), found)
    finite = torch.tensor([n is not None for n in engine.structure.num_categories])
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
    _check_draws(n, route)
    checked = engine.nothing() if evidence is None else engine.check(evidence)
    drawn = [
        _draws(engine, _possible(engine, part, "sample"), n, part, route)
        for part in engine.parts(checked)
    ]
    values = torch.cat(drawn, dim=1)
    return values[:, 0] if evidence is None else values


def sample_with_marginals(
    engine: Engine, n: int, evidence: Evidence | Tensor, route: Drawn
) -> Draws:
    """Draws, and the marginal of every drawn value, in one upward pass."""
    _check_draws(n, route)
    checked = _finite(engine, evidence)
    found = _Chosen(engine, checked.values.new_zeros(*checked.values.shape, n))
    for part in engine.parts(checked):
        evaluation = _possible(engine, part, "sample")
        drawn = _draws(engine, evaluation, n, part, route).movedim(0, -1)  # [B, D, n]
        found.categories[slice(None) if part.origin is None else part.origin] = drawn
        found.ask(evaluation)
    values, log_marginals = found.categories.movedim(-1, 0), found.log_probability.movedim(-1, 0)
    return Draws(values, log_marginals, checked.missing)


def _check_draws(n: int, route: Drawn) -> None:
    if n < 0 or not route.temperature >= 0:
        raise ValueError(f"must not be negative: {n=}, temperature={route.temperature}")


def _draws(
    engine: Engine, evaluation: Evaluation, n: int, part: CheckedEvidence, route: Drawn
) -> Tensor:
    """Draws [n, B, D]."""
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
    refuse_impossible(tape.log_value, "mpe", part.origin)
    return follow(tape, Best(), copies=1)
