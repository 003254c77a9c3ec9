"""What the way down says of finite variables: of all categories, or of chosen ones alone.

Legend: F folds, B batch, D variables, V categories, C chosen ones, K units, N entries (fold, row).
"""

from __future__ import annotations

import torch
from torch import Tensor

from pcflow.engine.leaves.finite import FiniteLeaf
from pcflow.evidence import send


def log_posterior(leaf: FiniteLeaf, slope: Tensor, out: Tensor, alone: bool) -> None:
    """Add a step's share of every variable's posterior into `out` [B, D, V], as logs.

    An observed variable has all mass on its value. `alone` says that no other fold, here or in
    another step, is over the same variable.
    """
    variables, entries = leaf.step.variables, leaf.entries
    fold, row = leaf.places(~leaf.hidden)
    out[row, variables[fold], leaf.x[fold, row]] = 0.0
    if not leaf.any_missing:
        return
    fold, row = entries.fold, entries.row
    log_q = leaf.flows.log_slope(slope[fold, row])  # [N, V]
    if leaf.any_soft:
        log_q += entries.log_potential(fold, row)
    log_q = log_q.log_softmax(dim=-1)
    if leaf.sets.by_fold:
        keep = send(leaf.hidden.flatten().nonzero().squeeze(-1), fold.device)
        fold, row, log_q = fold[keep], row[keep], log_q[keep]
    if alone:
        out[leaf.columns(row, variables[fold])] = log_q
        return
    weight = _log_total(leaf, slope)  # [F, B]
    log_q = log_q + weight[fold, row].unsqueeze(-1)
    log_q = log_q.nan_to_num_(nan=-torch.inf, neginf=-torch.inf)
    rank = rank_over_same_variable(leaf)[fold]
    for some in (rank == i for i in range(int(rank.max()) + 1 if len(rank) else 0)):
        place = leaf.columns(row[some], variables[fold[some]])
        out[place] = torch.logaddexp(out[place], log_q[some])


def rank_over_same_variable(leaf: FiniteLeaf) -> Tensor:
    """For every fold [F], how many folds before it are over the same variable."""
    count: dict[int, int] = {}
    ranks = []
    for variable in leaf.step.over:
        ranks.append(count.get(variable, 0))
        count[variable] = ranks[-1] + 1
    return send(torch.tensor(ranks), leaf.x.device)


def _log_total(leaf: FiniteLeaf, slope: Tensor) -> Tensor:
    return leaf.semiring.flow(leaf.out.units, slope).sum(dim=-1).log()


def log_flows(leaf: FiniteLeaf, slope: Tensor, categories: Tensor) -> tuple[Tensor, Tensor]:
    """Log of how often each fold uses chosen categories of its variable, and any at all.

    Args:
        leaf: whose units have been written.
        slope: of its units, [F, B, K].
        categories: of every variable, [B, D, C]; what a variable does not have is never used.

    Returns:
        [F, B, C] and [F, B]; -inf where nothing flows.
    """
    total = _log_total(leaf, slope)  # [F, B]
    chosen = categories.index_select(1, leaf.step.variables).transpose(0, 1)  # [F, B, C]
    observed = chosen == leaf.x.unsqueeze(-1)
    found = total.unsqueeze(-1).masked_fill(~observed, -torch.inf)
    fold, row = leaf.places(leaf.hidden)
    if len(fold):
        asked, beyond = leaf.rows_of(chosen[fold, row])  # [N, C]
        flows = leaf.flows.log_chosen(slope[fold, row], fold, row, asked)
        if leaf.any_soft:
            flows += leaf.flows.log_potential(fold, row, asked)
        found[fold, row] = flows.masked_fill_(beyond, -torch.inf)
    return found, total
