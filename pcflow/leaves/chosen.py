"""What the way down says of chosen categories alone: few rows of a table, instead of all.

Legend: F folds, B batch, D variables, C chosen categories, K units, N entries (fold, row).
"""

from __future__ import annotations

import torch
from torch import Tensor

from pcflow.kernels import NUMBERS
from pcflow.leaves.finite import FiniteLeaf


def log_flows(leaf: FiniteLeaf, slope: Tensor, categories: Tensor) -> tuple[Tensor, Tensor]:
    """Log of how often each fold uses chosen categories of its variable, and any at all.

    Args:
        leaf: whose units have been written.
        slope: of its units, [F, B, K].
        categories: of every variable, [B, D, C]; what a variable does not have is never used.

    Returns:
        [F, B, C] and [F, B]; -inf where nothing flows.
    """
    total = leaf.semiring.flow(leaf.out.units, slope).sum(dim=-1).log()  # [F, B]
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
    return potentials - leaf.out.scale[fold, row].unsqueeze(-1)


def _log_weights(
    leaf: FiniteLeaf, slope: Tensor, fold: Tensor, row: Tensor, chosen: Tensor
) -> Tensor:
    """Log of sum_k slope_k theta_vk [N, C], a block of entries at a time."""
    place = chosen if leaf.shared else chosen + fold.unsqueeze(-1) * leaf.num_categories
    if leaf.semiring.in_log_space:  # the derivative by a unit, not by its logarithm
        slope = slope.log() - leaf.out.units[fold, row]
        slope.nan_to_num_(nan=-torch.inf, neginf=-torch.inf)
    size = max(1, NUMBERS // max(1, place.shape[1] * slope.shape[1]))
    table = leaf.table.flatten(0, 1)
    blocks = zip(place.split(size), slope.split(size), strict=True)
    weigh = _weigh_logs if leaf.semiring.in_log_space else _weigh
    return torch.cat([weigh(table[some], units) for some, units in blocks])


def _weigh(rows: Tensor, slope: Tensor) -> Tensor:
    """Linear rows [N, C, K], slopes [N, K] -> [N, C]."""
    peak = slope.amax(dim=-1, keepdim=True)  # [N, 1]
    share = slope / peak.masked_fill(peak == 0, 1.0)
    return torch.bmm(rows, share.unsqueeze(-1)).squeeze(-1).log_().add_(peak.log())


def _weigh_logs(rows: Tensor, slope: Tensor) -> Tensor:
    return torch.logsumexp(rows + slope.unsqueeze(-2), dim=-1)
