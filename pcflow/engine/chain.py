"""Long hidden Markov chains of few rows: a pass up and down by halves, in place of step by step.

Legend: L positions, B batch, K states, F folds, R rows of an arena.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from pcflow.circuit import MarkovChain
from pcflow.engine.evaluation import Evaluation
from pcflow.engine.halves import around, levels_of, sum_product
from pcflow.engine.kernels import exp_
from pcflow.engine.leaves import Leaf
from pcflow.engine.modes import in_ordinary_modes
from pcflow.engine.passes import AtLeaf, AtWeights
from pcflow.engine.plan import BankRead, Plan, SumStep
from pcflow.engine.tables import Tables
from pcflow.engine.told import Shares


@dataclass(frozen=True, eq=False)
class LongChain:
    """A chain as its steps read it, with one number of states at all positions.

    Attributes:
        sums: the step that arrives at every position.
        states: how many states the chain has, K.
        place: the position of every variable, [D].
        most: rows that are few, and whose products fit into memory.
    """

    plan: Plan
    sums: tuple[SumStep, ...]
    states: int
    place: Tensor
    most: int

    @classmethod
    def of(
        cls, chain: MarkovChain, plan: Plan, memory: int, device: torch.device
    ) -> LongChain | None:
        """None if it is short, or its numbers of states differ."""
        length, states, machine = len(chain.positions), chain.states, plan.machine
        if length < machine.long or min(chain.sizes) < states:
            return None
        row = 8 * length * states**2 * torch.float64.itemsize  # bytes: of products, up and down
        most = min(machine.some, machine.halves // states**2, memory // row)
        sums = tuple(step for step in reversed(plan.steps) if isinstance(step, SumStep))
        place = torch.tensor([chain.place[v] for v in range(plan.num_variables)], device=device)
        return cls(plan, sums, states, place, most)

    @cached_property
    def reads(self) -> dict[BankRead, Tensor]:
        """The positions at which parameters are read."""
        found: dict[BankRead, list[int]] = {}
        for t, step in enumerate(self.sums):
            found.setdefault(step.weight, []).append(t)
        return {read: torch.tensor(ts, device=self.place.device) for read, ts in found.items()}

    @cached_property
    def rows(self) -> Tensor:
        """The row of its arena that every sum but the root writes, [L - 1]."""
        return torch.tensor([s.out.start for s in self.sums[1:]], device=self.place.device).long()

    def share_of(self, shares: Shares) -> Tensor:
        """How much counts of the flow of every sum, [L, B]."""
        root, width = self.sums[0], self.states
        return torch.cat([shares[root.units][root.out], shares[width][self.rows]])

    def suits(self, rows: int) -> bool:
        """Whether so many rows are few."""
        return rows <= self.most

    def steps(self, tables: Tables, leaves: list[Leaf]) -> Tensor:
        """Logarithms [L, B, K, K], in double, from the states before a position to those at it.

        The first position has the same from all, as there is none before.
        """
        here = torch.zeros(1, dtype=torch.float64, device=self.place.device)
        here = here.new_zeros(len(self.sums), leaves[0].out.units.shape[1], self.states)
        for leaf in leaves:
            here.index_add_(0, self.place[leaf.step.variables], leaf.out.units.double())
        ways = here.new_empty(len(self.sums), self.states, self.states)
        for positions in self.reads.values():
            weight = tables.weight(self.sums[int(positions[0])], in_log_space=True)
            ways[positions] = weight.tensor.double()
        return ways.unsqueeze(1) + here.unsqueeze(2)


@dataclass(frozen=True, eq=False)
class Halved(Evaluation):
    """What a pass by halves found.

    Attributes:
        levels: sums of all ways, see `halves`.
    """

    chain: LongChain
    tables: Tables
    leaves: list[Leaf]
    levels: list[Tensor]

    @classmethod
    def up(cls, chain: LongChain, tables: Tables, leaves: list[Leaf]) -> Halved:
        """Multiply all steps."""
        levels = levels_of(chain.steps(tables, leaves), sum_product)
        log_value = levels[-1][0, :, 0].logsumexp(dim=-1).to(tables.like)
        return cls(log_value, chain, tables, leaves, levels)

    @in_ordinary_modes
    def down(
        self,
        root_flow: Tensor,
        at_leaf: AtLeaf,
        at_weights: AtWeights | None = None,
        shares: Shares | None = None,
    ) -> None:
        """All positions at once, by what comes before a step and what comes after it."""
        before, after = around(self.levels)
        last, length = self.levels[-1][:, :, 0], len(self.chain.sums)  # [1, B, K]
        total = last.logsumexp(dim=-1, keepdim=True)
        total.masked_fill_(total == -torch.inf, 0.0)  # what is impossible has no flow
        reached = torch.cat([before[1:length].squeeze(2), last])  # [L, B, K]
        states = exp_(reached + after[:length].squeeze(3) - total).mul_(root_flow.unsqueeze(-1))
        for leaf in self.leaves:
            at_leaf(leaf, states[self.chain.place[leaf.step.variables]].to(self.tables.like))
        if at_weights is not None:
            ways = before.transpose(2, 3) - total.unsqueeze(-1) + self.levels[0]
            flow = exp_(ways.add_(after.transpose(2, 3)))[:length]  # [L, B, K, K]
            share = root_flow if shares is None else root_flow * self.chain.share_of(shares)
            flow.mul_(share[..., None, None])
            self._tell(flow.sum(dim=1).to(self.tables.like), at_weights)

    def _tell(self, flow: Tensor, at_weights: AtWeights) -> None:
        """Flows [L, K, K] of weights, all that are one together; the root has one unit."""
        for read, positions in self.chain.reads.items():
            units = self.chain.sums[int(positions[0])].units
            at_weights(read, flow[positions].sum(dim=0, keepdim=True)[:, :units], self.tables)
