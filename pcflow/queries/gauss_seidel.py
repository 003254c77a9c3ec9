"""Iterative proportional fitting on trees, one variable after another (Gauss-Seidel).

A tree is walked depth first, and every message is up to date when it is read: `below` a node is
what the evidence there makes of its units, `above` what all the rest does. Both are [B, K], up to a
factor per row. A sweep reads every weight twice and every table twice, as much as one posterior
query.

Legend: B batch, D variables, V categories (all of them, or the k that are listed), K units.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from math import inf
from typing import NamedTuple

import torch
from torch import Tensor

from pcflow.engine import (
    Engine,
    InputStep,
    Machine,
    Plan,
    ProductStep,
    Read,
    Scaled,
    Step,
    SumStep,
    up,
)
from pcflow.evidence import CheckedEvidence, Potentials


@dataclass(frozen=True)
class Node:
    """One fold of one step, as a node of a tree.

    Attributes:
        step: its number in the plan.
        fold: which fold of it.
        parent: the node that reads it; -1 for the root.
        inputs: the nodes that it reads; each comes after it.
    """

    step: int
    fold: int
    parent: int
    inputs: list[int] = field(default_factory=list)


def tree_of(plan: Plan) -> list[Node] | None:
    """The nodes, depth first, of a plan that is a tree of dense sums and Hadamard products.

    It then has one input fold per variable, because products are decomposable. None for others.
    """
    if not (plan.is_tree and all(map(_is_plain, plan.steps))):
        return None
    writer = {
        (step.units, row): (number, row - step.out.start)
        for number, step in enumerate(plan.steps)
        for row in range(step.out.start, step.out.stop)
    }
    nodes: list[Node] = []
    waiting = [(len(plan.steps) - 1, 0, -1)]
    while waiting:
        number, fold, parent = waiting.pop()
        if parent >= 0:
            nodes[parent].inputs.append(len(nodes))
        step = plan.steps[number]
        reads = () if isinstance(step, InputStep) else step.inputs
        sources = [writer[read.width, _row(read, fold)] for read in reversed(reads)]
        waiting += [(*source, len(nodes)) for source in sources]
        nodes.append(Node(number, fold, parent))
    return nodes


def _is_plain(step: Step) -> bool:
    if isinstance(step, SumStep):
        return not step.mixing
    return isinstance(step, InputStep) or not step.kronecker


def _row(read: Read, fold: int) -> int:
    return read.rows.start + fold if isinstance(read.rows, slice) else int(read.rows[fold])


class Fitted(NamedTuple):
    """What sweeps come to.

    Attributes:
        potentials: [B, D, V].
        mismatch: [B], the largest difference between a marginal and its target that the last sweep
            of the row found, before mending it.
        lowest: [B, 1], the smallest peak of a message before it was scaled to one: if it is near
            underflow, units that matter may have been lost.
        units: by variable [B, K], what its input makes of its potentials, the largest of which is
            one; of none, if they are where a recording writes them.
        parameters: what is another object as soon as parameters change.
    """

    potentials: Tensor
    mismatch: Tensor
    lowest: Tensor = torch.ones(1, 1)
    units: Mapping[int, Tensor] = {}
    parameters: object = None


class _Front(NamedTuple):
    """Lists [B, D, k] with what is possible in front, so that no row of a table is read in vain.

    Attributes:
        place: where everything comes to stand, [B, D, k].
        widths: how much of every variable's list is possible in any row of the batch.
    """

    place: Tensor
    widths: list[int]

    @staticmethod
    def of(gone: Tensor) -> _Front | None:
        """By what is impossible, bool [B, D, k]; None where hardly anything is."""
        if not len(gone):
            return None
        left = ~gone
        count = left.sum(dim=-1, keepdim=True)  # [B, D, 1]
        widths = count.squeeze(-1).amax(dim=0).clamp_min(1)  # [D]
        if 4 * int(widths.sum()) > 3 * gone.shape[1] * gone.shape[2]:
            return None
        behind = count + gone.cumsum(dim=-1)
        return _Front(torch.where(gone, behind, left.cumsum(dim=-1)) - 1, widths.tolist())

    def sort(self, numbers: Tensor) -> Tensor:
        """Numbers [B, D, k] in this order."""
        return torch.empty_like(numbers).scatter(-1, self.place, numbers)

    def back(self, numbers: Tensor) -> Tensor:
        """The same where they stood."""
        return numbers.gather(-1, self.place)


class GaussSeidel:
    """Sweeps over a tree that set each potential to target / (what all the rest says of it).

    Each such update maximises the dual in that potential, so the dual never falls.

    Args:
        engine: whose plan the nodes are of.
        nodes: from `tree_of`.
        checked: what is observed; its potentials are where fitting starts, and what they rule out
            stays ruled out.
        about: normalised log-marginals [B, D, V], or of what is listed [B, D, k].
    """

    def __init__(
        self, engine: Engine, nodes: list[Node], checked: CheckedEvidence, about: Potentials
    ) -> None:
        """Start every message from one upward pass."""
        target, listed = about.log, about.categories
        self.steps, self.nodes, self.machine = engine.plan.steps, nodes, engine.plan.machine
        self.tiny = torch.finfo(target.dtype).tiny
        self.any_missing = checked.hidden.any(dim=0).tolist()
        self.tape = up(engine.plan, engine.tables, checked, Scaled(self.machine), engine.pool)
        self.sheet, self.weights, tables = self.tape.sheet, self.tape.weights, self.tape.tables
        self.stamps = tables.cache.stamps
        inputs = {n.step: self.steps[n.step] for n in nodes}
        leaves = {number: s for number, s in inputs.items() if isinstance(s, InputStep)}
        self.read = {n: tables.table(s, in_log_space=False) for n, s in leaves.items()}
        self.tables = {n: tables.sets(s).spread(self.read[n]) for n, s in leaves.items()}
        self.records = self._may_record(target)
        kept = self._kept if self.records else _as_it_is
        start = start_of(checked, about)
        few = listed is not None and not self.records
        self.front = _Front.of(start == -torch.inf) if few else None
        if self.front is not None and listed is not None:
            target, start, listed = map(self.front.sort, (target, start, listed))
        self.target = kept("target", target)
        self.potentials = kept("potentials", start)
        self.missing = kept("missing", checked.missing)
        self.listed = None if listed is None else kept("listed", listed)

    def fit(self, sweeps: int, tolerance: float) -> Fitted:
        """Sweep until every row's mismatch is below the tolerance; such rows are left alone."""
        if self.records and tolerance == 0:
            key = ("project", sweeps, self.target.shape, self.listed is not None)
            launch = partial(self._sweeps, sweeps, tolerance)
            reads = (self.weights, *self.read.values())  # whose views are new every time
            found = self.tape.recordings.run(key, reads, launch)
        else:
            found = self._sweeps(sweeps, tolerance)
        if self.front is not None:
            found = found._replace(potentials=self.front.back(found.potentials))
        del self.tape  # the sheet may be used again, and what is kept there is written over
        if not self.records:
            return found
        return Fitted(found.potentials.clone(), found.mismatch.clone(), found.lowest.clone())

    def _may_record(self, target: Tensor) -> bool:
        """Whether launches cost more than what is then done for observed variables in vain."""
        small = all(table.numel() <= self.machine.numbers for table in self.tables.values())
        return (
            self.tape.recordings.on
            and target.numel() <= self.machine.numbers
            and (small or all(self.any_missing))
        )

    def _kept(self, name: str, tensor: Tensor) -> Tensor:
        """The same numbers where a recording reads them."""
        key = ("project", name, tensor.shape)
        return self.tape.recordings.memory(key, partial(torch.empty_like, tensor)).copy_(tensor)

    def _sweeps(self, sweeps: int, tolerance: float) -> Fitted:
        self.mismatch = torch.zeros_like(self.target[:, 0, 0])
        self.live = torch.ones_like(self.mismatch, dtype=torch.bool)
        self.lowest = torch.ones_like(self.mismatch).unsqueeze(-1)
        self.below = [self._scaled(self.sheet.outs[n.step].units[n.fold]) for n in self.nodes]
        self.above: dict[int, Tensor] = {}
        self.later: dict[int, Tensor] = {}  # what the siblings that come after a node say
        self.units: dict[int, Tensor] = {}
        self._room: Tensor | None = None
        for sweep in range(sweeps):
            final = sweep == sweeps - 1
            self.looks = final or tolerance > 0
            found = self._sweep(final)
            self.mismatch = torch.where(self.live, found, self.mismatch)
            self.live &= found >= tolerance
            if tolerance > 0 and not self.live.any():
                break
        return Fitted(self.potentials, self.mismatch, self.lowest, self.units, self.stamps)

    def _sweep(self, final: bool) -> Tensor:
        """Mend every variable once; returns the largest mismatch [B] met, if anybody wants it.

        After the last node of the final sweep there is nobody left to tell.
        """
        worst = torch.zeros_like(self.mismatch)
        for number, node in enumerate(self.nodes):
            self.above[number] = self._from_above(number)
            if node.inputs:
                self._enter(node)
                continue
            worst = torch.maximum(worst, self._mend(number))
            if not (final and number == len(self.nodes) - 1):
                self._leave(number)
        return worst

    def _from_above(self, number: int) -> Tensor:
        """What all but the part below a node says of its units; the earlier siblings are in it."""
        parent = self.nodes[number].parent
        if parent < 0:
            return torch.ones_like(self.mismatch).unsqueeze(-1)  # [B, 1]
        above = self.above[parent]
        if isinstance(self._step(parent), SumStep):
            return self._scaled(_through(above, self._weight(parent)))
        return self._scaled(above * self.later[number]) if number in self.later else above

    def _enter(self, node: Node) -> None:
        """Multiply up what inputs say, from the last to the second."""
        inputs = node.inputs
        for earlier, later in zip(inputs[-2::-1], inputs[:0:-1], strict=True):
            found = self.below[later]
            if later in self.later:
                found = self._scaled(found * self.later[later])
            self.later[earlier] = found

    def _leave(self, number: int) -> None:
        """Tell the nodes above that the part below this one has changed, as far as it is done."""
        while number > 0:
            self.above.pop(number)
            parent = self.nodes[number].parent
            last = number == self.nodes[parent].inputs[-1]
            if isinstance(self._step(parent), ProductStep) and not last:
                self.above[parent] = self._scaled(self.above[parent] * self.below[number])
            if not last:
                return
            self.below[parent] = self._from_below(parent)
            number = parent

    def _from_below(self, number: int) -> Tensor:
        """What the inputs of a node say of its units."""
        first, *others = (self.below[i] for i in self.nodes[number].inputs)
        if isinstance(self._step(number), SumStep):
            weight = self._weight(number).transpose(1, 2)
            return self._scaled(first @ weight[0] if len(weight) == 1 else _through(first, weight))
        for other in others:
            first = self._scaled(first * other)
        return first

    def _mend(self, number: int) -> Tensor:
        """Set one variable's potential; returns how far its marginal was off, [B], if it looks."""
        node, step = self.nodes[number], self._step(number)
        assert isinstance(step, InputStep)
        variable = step.over[node.fold]
        if not (self.records or self.any_missing[variable]):
            return torch.zeros_like(self.mismatch)
        table = self._table(node, variable)  # [V, K] or [B, k, K]
        missing = self.missing[:, variable]  # [B]
        place = (slice(None), variable, slice(table.shape[-2]))
        wanted, present = self.target[place], self.potentials[place]  # [B, V]
        log_r = _times(self.machine, table, self.above[number]).log()
        mismatch = torch.zeros_like(self.mismatch)
        if self.looks:
            mismatch = furthest((present + log_r).log_softmax(dim=-1), wanted, missing)
        mended = (missing & self.live).unsqueeze(-1)
        fitted = torch.where(mended, _quotient(wanted, log_r, present), present)
        self.potentials[place] = fitted
        units = _mixed(self.machine, table, fitted.exp())
        below = self._scaled(units)
        self.below[number] = torch.where(mended, below, self.below[number])
        self.units[variable] = torch.where(mended, units, self.units.get(variable, units))
        return mismatch

    def _table(self, node: Node, variable: int) -> Tensor:
        """The rows [V, K] of a variable's table, or those that are listed, [B, k, K], for now.

        Where every row has a table of its own, all are [B, V, K].
        """
        tables = self.tables[node.step]
        table = tables[0 if len(tables) == 1 else node.fold]  # [B or 1, V, K]
        if self.listed is None:
            return table[0] if len(table) == 1 else table
        width = None if self.front is None else self.front.widths[variable]
        return self._rows(table, self.listed[:, variable, :width])

    def _rows(self, table: Tensor, listed: Tensor) -> Tensor:
        """The rows of listed categories, [B, k, K]."""
        listed = listed.clamp_max(table.shape[1] - 1)
        if len(table) > 1:
            return table.gather(1, listed.unsqueeze(-1).expand(-1, -1, table.shape[2]))
        table = table[0]
        rows = self._room_for(listed.numel(), table)
        torch.index_select(table, 0, listed.flatten(), out=rows)
        return rows.view(*listed.shape, -1)

    def _room_for(self, count: int, table: Tensor) -> Tensor:
        """So many rows of a table to be written over: one place for all stays in the cache."""
        room, units = self._room, table.shape[-1]
        if room is None or len(room) < count or room.shape[-1] != units:
            room = self._room = table.new_empty(count, units)
        return room[:count]

    def _scaled(self, message: Tensor) -> Tensor:
        """The message [B, K] with largest entry one; remembers how small it was."""
        peak = message.amax(dim=-1, keepdim=True)
        torch.minimum(self.lowest, peak, out=self.lowest)
        return message / peak.clamp_min(self.tiny)

    def _weight(self, number: int) -> Tensor:
        """The weight [B or 1, K, J] of a sum."""
        stacked = self.weights[self.nodes[number].step].over_rows
        return stacked[0 if len(stacked) == 1 else self.nodes[number].fold]

    def _step(self, number: int) -> Step:
        return self.steps[self.nodes[number].step]


def _as_it_is(_: str, tensor: Tensor) -> Tensor:
    return tensor


def start_of(checked: CheckedEvidence, about: Potentials) -> Tensor:
    """Where fitting starts: the present potentials [B, D, V], or ones, of what can be at all."""
    if checked.log_potentials is not None:
        return checked.log_potentials.detach().clone()
    return torch.zeros_like(about.log).masked_fill(about.log == -inf, -inf)


def furthest(log_q: Tensor, target: Tensor, missing: Tensor) -> Tensor:
    """Largest absolute difference [...] of two distributions over V, zero where observed."""
    return (log_q.exp() - target.exp()).abs().amax(dim=-1).masked_fill(~missing, 0.0)


def _quotient(target: Tensor, log_r: Tensor, present: Tensor) -> Tensor:
    """Log of target / r [B, V], the largest zero.

    What the target or the present potential rules out stays ruled out. What r does is as possible
    as what is most so: it has no mass, or too little to hold, and then it must not be lost.
    """
    gone = (target == -torch.inf) | (present == -torch.inf)
    unseen = log_r == -torch.inf
    quotient = (target - log_r).masked_fill(gone | unseen, -torch.inf)
    peak = quotient.amax(dim=-1, keepdim=True).nan_to_num(neginf=0.0)
    return (quotient - peak).masked_fill(unseen & ~gone, 0.0)


def _through(message: Tensor, weight: Tensor) -> Tensor:
    """A message [B, K] @ a matrix [1, K, J], or one for every row, [B, K, J]: [B, J]."""
    if len(weight) == len(message):
        return torch.bmm(message.unsqueeze(1), weight).squeeze(1)
    return torch.bmm(message.unsqueeze(0), weight).squeeze(0)  # of single rows, makes short work


def _times(machine: Machine, table: Tensor, units: Tensor) -> Tensor:
    """Sum over units [B, K] of each row of a table [V, K] or [B, V, K]: [B, V]."""
    if table.dim() == 2:
        return machine.rows_times_transposed(units, table)
    return torch.bmm(units.unsqueeze(1), table.transpose(1, 2)).squeeze(1)  # quick on a CPU


def _mixed(machine: Machine, table: Tensor, shares: Tensor) -> Tensor:
    """Sum over categories, by shares [B, V], of the rows of a table: [B, K]."""
    if table.dim() == 2:
        return machine.rows_times_table(shares, table)
    return (shares.unsqueeze(-2) @ table).squeeze(-2)
