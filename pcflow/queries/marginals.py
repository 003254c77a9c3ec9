"""Posteriors of finite variables: of all categories, or of chosen ones alone.

Legend: B batch, D variables (W of them), V categories (C of them).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from pcflow.engine import (
    Engine,
    Evaluation,
    FiniteLeaf,
    Leaf,
    log_flows,
    log_posterior,
    rank_over_same_variable,
)
from pcflow.evidence import CheckedEvidence, Numbers, check_categories
from pcflow.queries.possible import chosen_variables, evaluate, refuse_unbounded


def marginals(
    engine: Engine,
    checked: CheckedEvidence,
    categories: Numbers | None = None,
    variables: Iterable[int] | None = None,
) -> Tensor:
    """Posterior log-probabilities [B, W, V] of some variables, or [B, W, C] of some categories."""
    every = range(checked.values.shape[1])
    asked = list(every) if variables is None else chosen_variables(engine, variables)
    refuse_unbounded(engine, "marginals", asked)
    if categories is not None:
        chosen = Chosen(engine, check_categories(categories, checked, asked))
        for part in engine.parts(checked):
            chosen.ask(evaluate(engine, part, "marginals"))
        return _of(chosen.log_probability, variables, asked)
    shape = (*checked.values.shape, checked.domain.largest)
    found = Posteriors(engine, engine.tables.like.detach().new_full(shape, -torch.inf), asked)
    for part in engine.parts(checked):
        evaluation = evaluate(engine, part, "marginals")
        evaluation.down(torch.ones_like(evaluation.log_value), found.at_leaf)
    out = _of(found.out, variables, asked)
    return out if found.alone else out - out.logsumexp(dim=-1, keepdim=True)


def _of(found: Tensor, variables: Iterable[int] | None, asked: list[int]) -> Tensor:
    """What was found of some variables; itself if these are all."""
    return found if variables is None else found[:, asked]


class Posteriors:
    """Writes posteriors into `out` [B, D, V]; `alone` if no variable has two folds of inputs.

    Those of leaves without any of the variables that are `asked` for, all by default, are left out.
    """

    def __init__(self, engine: Engine, out: Tensor, asked: Iterable[int] | None = None) -> None:
        """Start with what is in `out`."""
        self.out, self.alone = out, engine.plan.one_input_each
        self.asked = frozenset(range(out.shape[1]) if asked is None else asked)

    def at_leaf(self, leaf: Leaf, slope: Tensor) -> None:
        """Write those of a leaf's variables."""
        if not isinstance(leaf, FiniteLeaf) or self.asked.isdisjoint(leaf.step.over):
            return
        part = self.out if leaf.rows is None else self.out[leaf.rows]
        log_posterior(leaf, slope, part, self.alone)
        if leaf.rows is not None:
            self.out[leaf.rows] = part


class Chosen:
    """Adds up how often chosen categories [B, D, C] of every variable are used, and any at all."""

    def __init__(self, engine: Engine, categories: Tensor) -> None:
        """Start with nothing."""
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
        evaluation.down(torch.ones_like(evaluation.log_value), self.at_leaf)

    def at_leaf(self, leaf: Leaf, slope: Tensor) -> None:
        """Add what a leaf uses."""
        if not isinstance(leaf, FiniteLeaf):
            return
        rows = slice(None) if leaf.rows is None else leaf.rows
        found, total = log_flows(leaf, slope, self.categories[rows])
        rank = torch.zeros(1).long() if self.alone else rank_over_same_variable(leaf)
        for turn in range(int(rank.max()) + 1):
            some = slice(None) if self.alone else (rank == turn).nonzero().squeeze(-1)
            variables = leaf.step.variables[some]
            place = (rows if leaf.rows is None else leaf.rows.unsqueeze(-1), variables)
            for sums, new in ((self.log_flow, found), (self.log_total, total)):
                sums[place] = torch.logaddexp(sums[place], new[some].transpose(0, 1))
