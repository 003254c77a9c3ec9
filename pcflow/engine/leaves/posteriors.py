"""What the way down says of finite variables: of all categories, or of chosen ones alone.

Legend: F folds, B batch, D variables, V categories, C chosen ones, K units, N entries (fold, row).
"""

from __future__ import annotations

import torch
from torch import Tensor

from pcflow.engine.kernels import NUMBERS
from pcflow.engine.leaves.finite import FiniteLeaf


def log_posterior(leaf: FiniteLeaf, slope: Tensor, out: Tensor, alone: bool) -> None:
    """Add a step's share of every variable's posterior into `out` [B, D, V], as logs.

    An observed variable has all mass on its value. `alone` says that no other fold, here or in
    another step, is over the same variable.
    """
    variables = leaf.step.variables
    fold, row = (~leaf.missing).nonzero(as_tuple=True)
    out[row, variables[fold], leaf.x[fold, row]] = 0.0
    if not leaf.any_missing:
        return
    log_q = _log_slope(leaf, slope[leaf.fold, leaf.row])  # [N, V]
    if leaf.any_soft:
        log_q += leaf.log_potential(leaf.fold, leaf.row)
    log_q = log_q.log_softmax(dim=-1)
    fold, row = leaf.fold, leaf.row
    if not leaf.shared:
        keep = leaf.missing[fold, row]
        fold, row, log_q = fold[keep], row[keep], log_q[keep]
    if alone:
        out[row, variables[fold], : leaf.num_categories] = log_q
        return
    weight = _log_total(leaf, slope)  # [F, B]
    log_q = log_q + weight[fold, row].unsqueeze(-1)
    log_q = log_q.nan_to_num_(nan=-torch.inf, neginf=-torch.inf)
    rank = rank_over_same_variable(leaf)[fold]
    for some in (rank == i for i in range(int(rank.max()) + 1 if len(rank) else 0)):
        place = (row[some], variables[fold[some]], slice(leaf.num_categories))
        out[place] = torch.logaddexp(out[place], log_q[some])


def rank_over_same_variable(leaf: FiniteLeaf) -> Tensor:
    """For every fold [F], how many folds before it are over the same variable."""
    count: dict[int, int] = {}
    ranks = []
    for variable in leaf.step.variables.tolist():
        ranks.append(count.get(variable, 0))
        count[variable] = ranks[-1] + 1
    return torch.tensor(ranks, device=leaf.x.device)


def _log_slope(leaf: FiniteLeaf, slope: Tensor) -> Tensor:
    """Log of sum_k (flow_k / unit_k) theta_vk, up to a constant per entry: [N, V]."""
    if not leaf.semiring.in_log_space:
        peak = slope.amax(dim=-1, keepdim=True)
        return leaf.times_table(slope / peak.masked_fill(peak == 0, 1.0), transposed=True).log()
    slope = _log_derivative(leaf, slope, leaf.fold, leaf.row)
    blocks = [
        (joint + slope[some].unsqueeze(-2)).logsumexp(-1)
        for some, joint in leaf.log_joint(potentials=False)
    ]
    return torch.cat(blocks)


def _log_total(leaf: FiniteLeaf, slope: Tensor) -> Tensor:
    return leaf.semiring.flow(leaf.out.units, slope).sum(dim=-1).log()


def _log_derivative(leaf: FiniteLeaf, slope: Tensor, fold: Tensor, row: Tensor) -> Tensor:
    """Log of the derivative [N, K] by units, from those by their logarithms."""
    units = leaf.out.units[fold, row]  # [N, K]
    return (slope.log() - units).nan_to_num(nan=-torch.inf, neginf=-torch.inf)


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
    fold, row = leaf.missing.nonzero(as_tuple=True)
    if len(fold):
        asked = chosen[fold, row]  # [N, C]
        beyond = asked >= leaf.num_categories
        asked = asked.masked_fill(beyond, 0)
        flows = _log_weights(leaf, slope[fold, row], fold, row, asked)
        if leaf.any_soft:
            flows += _log_potentials(leaf, fold, row, asked)
        found[fold, row] = flows.masked_fill_(beyond, -torch.inf)
    return found, total


def _log_potentials(leaf: FiniteLeaf, fold: Tensor, row: Tensor, chosen: Tensor) -> Tensor:
    """Log-potentials [N, C], relative to the scale of the units that they went into."""
    potentials = leaf.evidence.potentials_of(row, leaf.step.variables[fold], chosen)
    if leaf.semiring.in_log_space:
        return potentials
    scale = leaf.out.scale[fold, row].nan_to_num(neginf=0.0)  # -inf marks units that are all zero
    return potentials - scale.unsqueeze(-1)


def _log_weights(
    leaf: FiniteLeaf, slope: Tensor, fold: Tensor, row: Tensor, chosen: Tensor
) -> Tensor:
    """Log of sum_k slope_k theta_vk [N, C], a block of entries at a time."""
    place = chosen if leaf.shared else chosen + fold.unsqueeze(-1) * leaf.num_categories
    if leaf.semiring.in_log_space:
        slope = _log_derivative(leaf, slope, fold, row)
    size = max(1, NUMBERS // max(1, place.shape[1] * slope.shape[1]))
    table = leaf.table.flatten(0, 1)
    weigh = _weigh_logs if leaf.semiring.in_log_space else _weigh
    blocks = []
    room = table.new_empty(place[:size].numel(), slope.shape[1])  # the same for all blocks
    for some, units in zip(place.split(size), slope.split(size), strict=True):
        rows = torch.index_select(table, 0, some.flatten(), out=room[: some.numel()])
        blocks.append(weigh(rows.view(*some.shape, units.shape[-1]), units))
    return torch.cat(blocks)


def _weigh(rows: Tensor, slope: Tensor) -> Tensor:
    """Linear rows [N, C, K], slopes [N, K] -> [N, C]."""
    peak = slope.amax(dim=-1, keepdim=True)  # [N, 1]
    share = slope / peak.masked_fill(peak == 0, 1.0)
    product = torch.bmm(share.unsqueeze(1), rows.transpose(1, 2)).squeeze(1)  # quick on a CPU
    return product.log_().add_(peak.log())


def _weigh_logs(rows: Tensor, slope: Tensor) -> Tensor:
    return torch.logsumexp(rows + slope.unsqueeze(-2), dim=-1)
