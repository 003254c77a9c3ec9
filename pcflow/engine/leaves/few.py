"""Input units of small classes of a rule: one step for all of them, each with values of its own.

Legend: F folds, B batch, D variables, V' values between them, W values of a class at most, K units,
N entries (fold, row), n of them, C chosen categories.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from pcflow.engine.leaves.entries import Entries
from pcflow.engine.leaves.share import ShareLeaf, seen_with
from pcflow.evidence import CheckedEvidence, Potentials


class FewLeaf(ShareLeaf):
    """A table of V' rows, of which every fold reads its own.

    Attributes:
        own: which these are, [F, W]; there are fewer where some are not `inside` [F, W].
        log: log-potentials of these, [F, B, W].
    """

    def _through_rows(self) -> CheckedEvidence:
        """Potentials of nothing: each fold looks at those of its own values."""
        device, shape = self.told.values.device, (*self.told.values.shape, 1)
        nothing = torch.zeros(1, dtype=self.told.domain.dtype, device=device).expand(shape)
        first = torch.zeros(1, dtype=torch.long, device=device).expand(shape)
        return seen_with(self.told, nothing, first)

    @cached_property
    def _padded(self) -> Tensor:
        """What is its own, -1 behind the last, [F, W]."""
        return self.step.own.to(self.x.device)

    @cached_property
    def own(self) -> Tensor:
        """See above."""
        return self._padded.clamp_min(0)

    @cached_property
    def inside(self) -> Tensor:
        """See above."""
        return self._padded >= 0

    def _lost(self) -> Tensor:
        number = self.number[self.x].unsqueeze(-1)  # [F, B, 1]
        read = (number == self.own.unsqueeze(1)) & self.inside.unsqueeze(1)
        silent = self.log.detach().amax(dim=-1) == -torch.inf
        return torch.where(self.missing, silent, ~read.any(dim=-1))

    @cached_property
    def log(self) -> Tensor:
        """See above."""
        (folds, batch), width = self.x.shape, self.own.shape[1]
        if self.told.potentials is None:
            log = self.tables.like.detach().new_zeros(folds, batch, width)
        else:
            row = torch.arange(batch, device=self.x.device).repeat(folds)
            variable = self.step.variables.repeat_interleave(batch)
            wanted = self.values[self.own].repeat_interleave(batch, dim=0)  # [F B, W]
            log = self.told.potentials.at_entries(row, variable, wanted).view(folds, batch, width)
        return log.masked_fill(~self.inside.unsqueeze(1), -torch.inf)

    @cached_property
    def entries(self) -> Entries:
        """See `FiniteLeaf`."""
        about = self.step.variables, self.missing, self.hidden
        near = self.evidence.potentials
        return _Entries(self, self.access, *about, near, self.evidence.domain.largest)

    def add_to_potentials(self, slope: Tensor, gradient: Tensor) -> None:
        """To those of its own."""
        said, entries = self.told.potentials, self.entries
        if said is None or not self.any_missing:
            return
        row, variable, flow = entries.row, entries.variable, self.entries.of(slope)
        wanted = self.values[self.own[entries.fold]]  # [N, W]

        def listed(categories: Tensor) -> Tensor:
            here = categories[row, variable].unsqueeze(1) == wanted.unsqueeze(-1)
            return here.int().argmax(dim=-1)  # nothing flows to what is not listed

        place = said.read(lambda: wanted, listed)
        where = self.in_batch(row).unsqueeze(-1), variable.unsqueeze(-1), place
        gradient.index_put_(where, self.flows.of_categories(flow), accumulate=True)


class _Entries(Entries):
    """What is missing, of which each entry lists the values of its fold."""

    def __init__(self, leaf: FewLeaf, *given: Any) -> None:
        super().__init__(*given)
        self.leaf = leaf

    def _said(self, fold: Tensor, row: Tensor) -> Potentials:
        return Potentials.of(self.leaf.log[fold, row].detach().clone(), self.leaf.own[fold])

    @property
    def width(self) -> int:
        return self.leaf.own.shape[1]

    def log_potential(self, fold: Tensor, row: Tensor) -> Tensor:
        log = self.leaf.log[fold, row].detach()
        every = log.new_full((len(fold), self.size), -torch.inf)
        return every.scatter_reduce_(1, self.leaf.own[fold], log, "amax")

    def at(self, fold: Tensor, row: Tensor, categories: Tensor) -> Tensor:
        log = self.leaf.log[fold, row].detach().unsqueeze(1)
        mine = categories.unsqueeze(-1) == self.leaf.own[fold].unsqueeze(1)  # [n, C, W]
        return torch.where(mine, log, -torch.inf).amax(dim=-1)

    def category(self, drawn: Tensor, fold: Tensor, row: Tensor) -> Tensor:
        return self.leaf.own[fold].gather(-1, drawn.unsqueeze(-1)).squeeze(-1)
