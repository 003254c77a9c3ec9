"""The chain rule: every variable given those before it, in one pass over all of them.

Trees whose leaves are in order are asked step by step of the plan, in the model's precision
(`Folded`); all other circuits, and rows of which something may have been lost on that way, in
logarithms: variable by variable (`Walk`), or all at once where scopes are small (`Stages`).

Legend: B batch, D variables (W of them), F folds, K units, V categories.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.utils.checkpoint import checkpoint

from pcflow.circuit import InputLayer, Parameter, SumLayer, Turns
from pcflow.engine import (
    Engine,
    Folded,
    InputStep,
    LogMatrix,
    SumStep,
    banks_of,
    differentiable_leaves,
    floor_of,
    refuse_edits,
)
from pcflow.evidence import CheckedEvidence
from pcflow.inputs import FiniteFamily, log_sum
from pcflow.queries.possible import chosen_variables, refuse_impossible, refuse_unbounded
from pcflow.queries.prefixes import Contexts, Walk, log_mass
from pcflow.queries.stages import Stages


class Prefix(NamedTuple):
    """What is known before a variable.

    Attributes:
        contexts: of the input layers of the variable, up to a common factor.
        before: log-mass [B] of the prefix, by the same factor.
        after: that of the prefix with the variable.
    """

    contexts: Contexts
    before: Tensor
    after: Tensor


class ChainRule:
    """Asks a model for conditionals; keeps what follows from its structure."""

    def __init__(self, engine: Engine) -> None:
        """Nothing is found out yet."""
        self.engine = engine

    @cached_property
    def turns(self) -> Turns:
        """Of all variables."""
        return Turns.of(self.engine.structure)

    @cached_property
    def folded(self) -> Folded | None:
        """The quick way, if there is one."""
        return Folded.of(self.engine.plan)

    @cached_property
    def stages(self) -> Stages | None:
        """All at once, unless these are many more than a walk makes steps."""
        circuit = self.engine.structure
        walked = sum(len(turn.enter) for turn in self.turns.turns)
        return Stages(circuit) if Stages.count(circuit) <= 4 * walked else None

    @cached_property
    def steps(self) -> dict[int, InputStep]:
        """The input steps by their numbers."""
        steps = enumerate(self.engine.plan.steps)
        return {number: step for number, step in steps if isinstance(step, InputStep)}

    @cached_property
    def place(self) -> dict[object, tuple[int, int]]:
        """The input step and the fold of every input layer, by its key."""
        banks = self.engine.plan.banks
        return {
            (variable, family, step.units, held): (number, fold)
            for number, step in self.steps.items()
            for fold, (variable, family, held) in enumerate(
                zip(step.over, step.families, _held(step, banks), strict=True)
            )
        }

    @cached_property
    def home(self) -> dict[Parameter, tuple[int, int]]:
        """The bank of every parameter, and its row there."""
        banks = enumerate(self.engine.plan.banks)
        return {p: (number, row) for number, bank in banks for row, p in enumerate(bank)}

    def conditionals(self, evidence: CheckedEvidence) -> Tensor:
        """Log p(x_j | x_<j) [B, D]."""
        return self._in_parts(evidence, lambda prefixes: prefixes.conditionals())

    def next_log_probs(
        self, evidence: CheckedEvidence, variables: Iterable[int] | None = None
    ) -> Tensor:
        """Log p(x_j = v | x_<j) [B, W, V]."""
        every = list(range(evidence.values.shape[1]))
        asked = every if variables is None else chosen_variables(self.engine, variables)
        refuse_unbounded(self.engine, "next_log_probs", asked)

        dtype, largest = self.engine.domain.dtype, self.engine.domain.largest

        def ask(prefixes: Prefixes) -> Tensor:
            found = {}
            for variable, (contexts, before, _) in enumerate(prefixes):
                if variable in asked:
                    refuse_impossible(before, "next_log_probs", prefixes.origin)
                    found[variable] = prefixes.spread(contexts) - before.unsqueeze(-1)
            none = self.engine.tables.like.new_empty(prefixes.rows, 0, largest)
            return torch.cat([none, *(found[v].unsqueeze(1).to(dtype) for v in asked)], dim=1)

        return self._in_parts(evidence, ask)

    def _in_parts(self, evidence: CheckedEvidence, ask: Ask) -> Tensor:
        """As many rows at a time as fit into memory; parts are asked again for their gradients."""
        own = 0 if evidence.parameters is None else evidence.parameters.numbers_per_row
        numbers = self._numbers_per_row + 4 * own  # those of a part, and what is made of them
        most = max(1, self.engine.memory // (torch.float64.itemsize * numbers))
        if len(evidence.values) <= most:
            return self._quickly(evidence, ask)
        stamps = self.engine.tables.cache.refresh()

        def again(part: CheckedEvidence) -> Tensor:
            refuse_edits(self.engine, stamps)
            return self._quickly(part, ask)

        rows = torch.arange(len(evidence.values), device=evidence.values.device)
        parts = [evidence.rows(some) for some in rows.split(most)]
        return torch.cat([checkpoint(again, part, use_reentrant=False) for part in parts])

    def _quickly(self, evidence: CheckedEvidence, ask: Ask) -> Tensor:
        """The quick way, if there is one, for rows that lose nothing on it."""
        if self.folded is None:
            return ask(Walked(self, evidence))
        quick = Quick(self, evidence, self.folded)
        if not bool(quick.doubtful.any()):
            return ask(quick)
        order = quick.doubtful.long().argsort(stable=True)
        count = int(quick.doubtful.sum())
        sure, rest = order[: len(order) - count], order[len(order) - count :]
        found = [ask(Walked(self, evidence.rows(rest)))]
        if len(sure):
            found.insert(0, ask(Quick(self, evidence.rows(sure), self.folded)))
        return torch.cat(found)[order.argsort()]

    @cached_property
    def _numbers_per_row(self) -> int:
        """In the contexts and values of all turns."""
        layers = (layer for turn in self.turns.turns for layer in (*turn.enter, *turn.renew))
        walked = sum(layer.units for layer in layers)
        return walked if self.stages is None else max(walked, 4 * self.stages.numbers)


class Prefixes(ABC):
    """The prefixes of rows of evidence, with the parameters as they are now; differentiable.

    Attributes:
        origin: which rows of a larger batch these are.
    """

    def __init__(self, rule: ChainRule, evidence: CheckedEvidence) -> None:
        """Look up what the inputs say."""
        self.rule, self.banks = rule, banks_of(rule.engine, evidence)
        own = evidence.parameters
        self.own = frozenset(() if own is None else own.by_bank)
        self.rows, self.origin = len(evidence.values), evidence.origin
        leaves = differentiable_leaves(rule.engine, evidence.by_itself)
        self.units = dict(zip(rule.steps, leaves, strict=True))

    @abstractmethod
    def __iter__(self) -> Iterator[Prefix]:
        """Variable by variable."""

    def conditionals(self) -> Tensor:
        """Log p(x_j | x_<j) [B, D]."""
        each = [
            torch.where(before > -torch.inf, after - before, -torch.inf)
            for _, before, after in self
        ]
        return torch.stack(each, dim=1).to(self.rule.engine.domain.dtype)

    def spread(self, contexts: Contexts) -> Tensor:
        """How the mass of a prefix is spread over the next variable: logarithms [B, V]."""
        found = [self._table(layer).after(context) for layer, context in contexts.items()]
        total = log_sum(torch.stack(found), dim=0)
        missing = self.rule.engine.domain.largest - total.shape[-1]
        return pad(total, (0, missing), value=-torch.inf)

    def _table(self, layer: InputLayer) -> LogMatrix:
        """Log-probabilities [K, V] of all values; [B, K, V] if some parameter is by row."""
        assert isinstance(layer.family, FiniteFamily)
        homes = {name: self.rule.home[p] for name, p in layer.parameters.items()}
        by_row = any(bank in self.own for bank, _ in homes.values())
        held = {name: self._held(*home, by_row) for name, home in homes.items()}
        table = layer.family.log_table(held).double().mT.to(self.rule.engine.domain.device)
        return LogMatrix(table if by_row else table.squeeze(0))

    def _held(self, bank: int, row: int, by_row: bool) -> Tensor:
        """A parameter [1, ...], or [B, ...] by row."""
        if bank in self.own:
            return self.banks[bank][:, row].double()
        shared = self.banks[bank][row].double().unsqueeze(0)
        return shared.expand(self.rows, *shared.shape[1:]) if by_row else shared

    def _place(self, layer: InputLayer) -> tuple[int, int]:
        key = layer.variable, layer.family, layer.units, tuple(layer.parameters.values())
        return self.rule.place[key]


Ask = Callable[[Prefixes], Tensor]
"""Makes an answer of prefixes."""


class Walked(Prefixes):
    """One after another, in logarithms in which nothing is lost."""

    def __init__(self, rule: ChainRule, evidence: CheckedEvidence) -> None:
        """Take no logarithms yet."""
        super().__init__(rule, evidence)
        self._logs: dict[int, Sequence[Tensor]] = {}

    def __iter__(self) -> Iterator[Prefix]:
        """Walk."""
        mass = self.rule.engine.tables.like.new_zeros(self.rows, dtype=torch.float64)
        walk = Walk(self.rule.turns, self._log_weight, mass)
        for turn in self.rule.turns.turns:
            contexts, before = walk.enter(turn), mass
            units = {layer: self._said(layer) for layer in turn.inputs}
            mass = log_mass(contexts, units)
            yield Prefix(contexts, before, mass)
            walk.leave(turn, units)

    def conditionals(self) -> Tensor:
        """Without a walk, if scopes are small, and weights those of all rows."""
        if self.own or self.rule.stages is None:
            return super().conditionals()
        after = self.rule.stages.log_masses(self._log_weight, self._said)
        before = torch.cat([torch.zeros_like(after[:1]), after[:-1]])
        found = torch.where(before > -torch.inf, after - before, -torch.inf)
        return found.t().to(self.rule.engine.domain.dtype)

    def _log_weight(self, layer: SumLayer) -> Tensor:
        bank, row = self.rule.home[layer.weight]
        if bank not in self._logs:
            by_row = int(bank in self.own)
            self._logs[bank] = self.banks[bank].double().log_softmax(dim=-1).unbind(by_row)
        return self._logs[bank][row]

    def _said(self, layer: InputLayer) -> Tensor:
        """What an input layer says of its variable, logarithms [B, K]."""
        step, fold = self._place(layer)
        return self.units[step][fold].double()


class Quick(Prefixes):
    """All at once.

    Attributes:
        doubtful: rows [B] of which something may have been lost.
    """

    def __init__(self, rule: ChainRule, evidence: CheckedEvidence, folded: Folded) -> None:
        """Go through the plan."""
        super().__init__(rule, evidence)
        self.linear: dict[int, Tensor] = {}
        peaks = {n: _peak(units) for n, units in self.units.items()}  # [F, B, 1]
        units = {n: (units - peaks[n]).exp() for n, units in self.units.items()}
        self.contexts, lowest = folded.contexts(units, self._weight)
        self.before = {n: c.sum(dim=-1) for n, c in self.contexts.items()}  # [F, B]
        after = {n: torch.linalg.vecdot(c, units[n]) for n, c in self.contexts.items()}
        least = [mass.detach().amin(dim=0) for mass in after.values()]
        least += [c.detach().amin(dim=(0, 2)) for c in self.contexts.values()]
        floor = floor_of(lowest.dtype)
        self.doubtful = ~(torch.stack([lowest, *least]).amin(dim=0) >= floor)
        self.after = {n: mass.log() + peaks[n].squeeze(-1) for n, mass in after.items()}

    def __iter__(self) -> Iterator[Prefix]:
        """Read off."""
        for turn in self.rule.turns.turns:
            (layer,) = turn.inputs
            step, fold = self._place(layer)
            contexts = {layer: self.contexts[step][fold].double().log()}
            before, after = self.before[step][fold].log(), self.after[step][fold]
            yield Prefix(contexts, before, after)

    def conditionals(self) -> Tensor:
        """All at once."""
        order = torch.tensor([v for step in self.rule.steps.values() for v in step.over])
        each = [self.after[n] - self.before[n].log() for n in self.rule.steps]  # [F, B]
        return torch.cat(each)[order.argsort().to(each[0].device)].t()

    def _weight(self, step: SumStep) -> Tensor:
        """Weights [F or 1, K, J], by row [F or 1, B, K, J]; those that are kept, if they serve."""
        bank = step.weight.bank
        learns = torch.is_grad_enabled() and self.banks[bank].requires_grad
        if not (learns or bank in self.own):
            return self.rule.engine.tables.weight(step, in_log_space=False).tensor
        if bank not in self.linear:
            linear = self.banks[bank].softmax(dim=-1)
            self.linear[bank] = linear.transpose(0, 1) if bank in self.own else linear
        return self.linear[bank][step.weight.rows]


def _peak(units: Tensor) -> Tensor:
    """The largest unit [F, B, 1], zero where none is possible."""
    return units.detach().amax(dim=-1, keepdim=True).nan_to_num(neginf=0.0)


def _held(step: InputStep, banks: Sequence[Sequence[Parameter]]) -> list[tuple[Parameter, ...]]:
    """The parameters of every fold."""
    every = []
    for read in step.parameters.values():
        bank = banks[read.bank]
        rows = range(len(bank))[read.rows] if isinstance(read.rows, slice) else read.rows.tolist()
        every.append([bank[row] for row in rows] * (step.folds if read.shared else 1))
    return list(zip(*every, strict=True)) or [()] * step.folds
