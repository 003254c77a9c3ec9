"""The chain rule: every variable given those before it, in one walk through all of them.

Legend: B batch, D variables (W of them), F folds, K units, V categories, P parameters of a bank.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.utils.checkpoint import checkpoint

from pcflow.circuit import InputLayer, Parameter, SumLayer, Turns
from pcflow.engine import Engine, InputStep, LogMatrix, differentiable_leaves, refuse_edits
from pcflow.evidence import CheckedEvidence
from pcflow.inputs import FiniteFamily, log_sum
from pcflow.queries.possible import chosen_variables, refuse_impossible, refuse_unbounded
from pcflow.queries.prefixes import Contexts, Walk, log_mass


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
    def place(self) -> dict[object, tuple[int, int]]:
        """The input step and the fold of every input layer, by its key."""
        steps = [step for step in self.engine.plan.steps if isinstance(step, InputStep)]
        return {
            (variable, family, step.units, held): (number, fold)
            for number, step in enumerate(steps)
            for fold, (variable, family, held) in enumerate(
                zip(step.over, step.families, _held(step, self.engine.plan.banks), strict=True)
            )
        }

    @cached_property
    def home(self) -> dict[Parameter, tuple[int, int]]:
        """The bank of every parameter, and its row there."""
        banks = enumerate(self.engine.plan.banks)
        return {p: (number, row) for number, bank in banks for row, p in enumerate(bank)}

    def conditionals(self, evidence: CheckedEvidence) -> Tensor:
        """Log p(x_j | x_<j) [B, D]."""

        def ask(part: CheckedEvidence) -> Tensor:
            masses = [mass for _, mass in Prefixes(self, part).walk()]
            before = torch.stack(masses[:-1], dim=-1)  # [B, D]
            found = torch.stack(masses[1:], dim=-1) - before
            found = torch.where(before > -torch.inf, found, -torch.inf)
            return found.to(self.engine.domain.dtype)

        return self._in_parts(evidence, ask)

    def next_log_probs(
        self, evidence: CheckedEvidence, variables: Iterable[int] | None = None
    ) -> Tensor:
        """Log p(x_j = v | x_<j) [B, W, V]."""
        every = list(range(evidence.values.shape[1]))
        asked = every if variables is None else chosen_variables(self.engine, variables)
        refuse_unbounded(self.engine, "next_log_probs", asked)

        def ask(part: CheckedEvidence) -> Tensor:
            prefixes = Prefixes(self, part)
            found = {}
            for variable, (contexts, mass) in enumerate(prefixes.walk()):
                if variable in asked:
                    refuse_impossible(mass, "next_log_probs", part.origin)
                    found[variable] = prefixes.spread(contexts) - mass.unsqueeze(-1)
            return torch.stack([found[v] for v in asked], dim=1).to(self.engine.domain.dtype)

        return self._in_parts(evidence, ask)

    def _in_parts(
        self, evidence: CheckedEvidence, ask: Callable[[CheckedEvidence], Tensor]
    ) -> Tensor:
        """As many rows at a time as fit into memory; parts are asked again for their gradients."""
        most = max(1, self.engine.memory // self._bytes_per_row)
        if len(evidence.values) <= most:
            return ask(evidence)
        stamps = self.engine.tables.cache.refresh()

        def again(part: CheckedEvidence) -> Tensor:
            refuse_edits(self.engine, stamps)
            return ask(part)

        rows = torch.arange(len(evidence.values), device=evidence.values.device)
        parts = [evidence.rows(some) for some in rows.split(most)]
        return torch.cat([checkpoint(again, part, use_reentrant=False) for part in parts])

    @cached_property
    def _bytes_per_row(self) -> int:
        """Of the contexts and values of all turns."""
        layers = (layer for turn in self.turns.turns for layer in (*turn.enter, *turn.renew))
        return torch.float64.itemsize * sum(layer.units for layer in layers)


class Prefixes:
    """A walk along rows of evidence with the parameters as they are now; differentiable."""

    def __init__(self, rule: ChainRule, evidence: CheckedEvidence) -> None:
        """Look up what the inputs say."""
        self.rule, self.banks = rule, rule.engine.tables.banks
        self.start = rule.engine.tables.like.new_zeros(len(evidence.values), dtype=torch.float64)
        self.units = differentiable_leaves(rule.engine, evidence.by_itself)
        self.logs: dict[int, Sequence[Tensor]] = {}

    def walk(self) -> Iterator[tuple[Contexts, Tensor]]:
        """At every turn the contexts of its inputs, and log p(x_<j) [B]; at last log p(x)."""
        walk, mass = Walk(self.rule.turns, self._log_weight, self.start), self.start
        for turn in self.rule.turns.turns:
            contexts = walk.enter(turn)
            yield contexts, mass
            units = {layer: self._units(layer) for layer in turn.inputs}
            mass = log_mass(contexts, units)
            walk.leave(turn, units)
        yield {}, mass

    def spread(self, contexts: Contexts) -> Tensor:
        """How the mass of a prefix is spread over the next variable: logarithms [B, V]."""
        found = [self._table(layer).after(context) for layer, context in contexts.items()]
        total = log_sum(torch.stack(found), dim=0)
        missing = self.rule.engine.domain.largest - total.shape[-1]
        return pad(total, (0, missing), value=-torch.inf)

    def _units(self, layer: InputLayer) -> Tensor:
        """What an input layer says of its variable, logarithms [B, K]."""
        key = layer.variable, layer.family, layer.units, tuple(layer.parameters.values())
        step, fold = self.rule.place[key]
        return self.units[step][fold].double()

    def _log_weight(self, layer: SumLayer) -> Tensor:
        bank, row = self.rule.home[layer.weight]
        if bank not in self.logs:
            self.logs[bank] = self.banks[bank].double().log_softmax(dim=-1).unbind()
        return self.logs[bank][row]

    def _table(self, layer: InputLayer) -> LogMatrix:
        """Log-probabilities [K, V] of all values."""
        assert isinstance(layer.family, FiniteFamily)
        places = {name: self.rule.home[p] for name, p in layer.parameters.items()}
        one = {n: self.banks[bank][row].double()[None] for n, (bank, row) in places.items()}
        table = layer.family.log_table(one).double()
        return LogMatrix(table.squeeze(0).t().to(self.rule.engine.domain.device))


def _held(step: InputStep, banks: Sequence[Sequence[Parameter]]) -> list[tuple[Parameter, ...]]:
    """The parameters of every fold."""
    every = []
    for read in step.parameters.values():
        bank = banks[read.bank]
        rows = range(len(bank))[read.rows] if isinstance(read.rows, slice) else read.rows.tolist()
        every.append([bank[row] for row in rows] * (step.folds if read.shared else 1))
    return list(zip(*every, strict=True)) or [()] * step.folds
