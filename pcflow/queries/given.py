"""A model given that its values obey a rule: the same passes, over its product with an automaton.

Legend: B batch, D variables, V categories, S states of the rule, n draws.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from operator import methodcaller
from typing import Any

import torch
from torch import Tensor

from pcflow.engine import (
    Engine,
    Pool,
    Tables,
    differentiable_log_prob,
    in_ordinary_modes,
    make_plan,
)
from pcflow.errors import EvidenceError
from pcflow.evidence import CheckedEvidence, Evidence, Numbers, RowParameters, as_tensor
from pcflow.logic import Automaton, times
from pcflow.queries.asked import Asked
from pcflow.queries.by_row import ByRow, rows_of
from pcflow.queries.mpe import MPE, mpe

STRIP = 1 << 18
"""Units of one strip: states share a transition, which should be read once for all of them."""


class Given(Asked):
    """A distribution given that its values obey a rule; made by `model.given(rule)`.

    It holds no parameters: those of the model count, as they are when it is asked. Evidence is that
    of the model, in all its kinds. Draws obey the rule; at another temperature than 1 the latent
    path, which is drawn as it is, includes the states of the rule.

    Attributes:
        rule: an automaton for the values of all variables, in their order.
        engine: plan, weights and memory, for code that needs the passes themselves.

    Examples:
        >>> import pcflow as pf
        >>> model = pf.compile(pf.hmm(3, states=2, inputs=pf.Categorical(2)), dtype=torch.float64)
        >>> given = model.given(pf.Automaton.options([[0, 1, 1], [1, 1, 0]]))
        >>> x = torch.tensor([[0, 1, 1], [1, 1, 0]])
        >>> torch.allclose(given.log_prob(x).exp().sum(), torch.ones(()).double())
        True
        >>> torch.allclose(given.log_mass(x), model.log_prob(x))
        True
    """

    def __init__(
        self,
        model: Asked,
        rule: Automaton,
        is_deterministic: Callable[[RowParameters | None], bool],
        engine: Engine,
    ) -> None:
        """What is deterministic stays so; the engine is that of `engine_under`."""
        self.rule, self._model, self._is_deterministic = rule, model, is_deterministic
        self.engine = engine

    @property
    def log_probability(self) -> Tensor:
        """The log-probability (nats) that the rule holds, one number; differentiable."""
        return differentiable_log_prob(self.engine, self.nothing())[0]

    @in_ordinary_modes
    def log_mass(self, evidence: Evidence | Numbers, parameters: ByRow | None = None) -> Tensor:
        """Log-probability [B] (nats) of evidence and rule together.

        Differentiable in parameters and potentials.

        Args:
            evidence: values [B, D], NaN where missing, or `Evidence`.
            parameters: some by row, see `CompiledCircuit.log_prob`.

        Returns:
            log sum_x p(x) prod_i lambda_i(x_i) over all x that are not ruled out by what is
            observed, nor by the rule; -inf where nothing is possible.

        Raises:
            EvidenceError: if the evidence does not fit the model.

        Examples:
            >>> import pcflow as pf
            >>> model = pf.compile(pf.hmm(2, states=2, inputs=pf.Categorical(2)))
            >>> given = model.given(pf.Automaton.options([[0, 1]]))
            >>> given.log_mass([[1, 1]]).item()
            -inf
        """
        return differentiable_log_prob(self.engine, self.evidence(evidence, parameters))

    def log_prob(self, evidence: Evidence | Numbers, parameters: ByRow | None = None) -> Tensor:
        """Log-probability [B] (nats) of evidence given the rule; see `log_mass`.

        It is no number where the model gives no mass to what is given.

        Args:
            evidence: rows [B, D], NaN for what is missing, or an `Evidence`.
            parameters: by name, with rows of their own [B, ...].

        Raises:
            EvidenceError: if the evidence does not fit the model.

        Examples:
            >>> import pcflow as pf
            >>> model = pf.compile(pf.hmm(2, states=2, inputs=pf.Categorical(2)))
            >>> given = model.given(pf.Automaton.options([[0, 1]]))
            >>> bool(given.log_prob([[0, 1]]).abs() < 1e-6)  # nothing else obeys
            True
        """
        known = self.evidence(evidence, parameters)
        return self.log_mass(known) - self._log_total(known)

    @in_ordinary_modes
    @torch.no_grad()
    def mpe(self, evidence: Evidence | Numbers, *, parameters: ByRow | None = None) -> MPE:
        """The most probable completion that obeys the rule; see `CompiledCircuit.mpe`.

        Exact for independent variables, and where the circuit is deterministic. The log-value is
        that of `log_prob`, plus the log-potentials of what was chosen.

        Args:
            evidence: rows [B, D], NaN for what is missing, or an `Evidence`.
            parameters: by name, with rows of their own [B, ...].

        Examples:
            >>> import pcflow as pf
            >>> model = pf.compile(pf.hmm(2, states=2, inputs=pf.Categorical(2)))
            >>> given = model.given(pf.Automaton.options([[0, 1]]))
            >>> given.mpe([[torch.nan, torch.nan]]).values
            tensor([[0, 1]])
        """
        known = self.evidence(evidence, parameters)
        found = mpe(self.engine, known, self._is_deterministic(known.parameters))
        return found._replace(log_value=found.log_value - self._log_total(known))

    def _log_total(self, known: CheckedEvidence) -> Tensor:
        """The log-probability of the rule, one number, or for every row of evidence [B]."""
        if known.parameters is None:
            return self.log_probability
        return differentiable_log_prob(self.engine, known.forgotten)

    @property
    def named(self) -> dict[str, Tensor]:
        """The parameters that rows may have of their own, by name."""
        return self._model.named

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles ask a copy of the model again."""
        return methodcaller("given", self.rule), (self._model,)

    def __repr__(self) -> str:
        """The rule, and of how many variables."""
        return f"Given({self.rule}, {self.engine.plan.num_variables} variables)"


class Between(Given):
    """A distribution given that its values lead from some states of a rule to others, row by row.

    Evidence has as many rows as there are states to start from, or one of both counts.
    `model.given(rule, start, final)` makes it.

    Attributes:
        start: the state of every row before the first variable, -1 for none, [B].
        log_final: what its states after the last variable are weighed by (nats), [B, S].
        has_rows: whether one of both was given row by row; then draws are [n, B, D].
    """

    def __init__(
        self,
        model: Asked,
        rule: Automaton,
        is_deterministic: Callable[[RowParameters | None], bool],
        engine: Engine,
        start: Numbers | None,
        final: Numbers | None,
    ) -> None:
        """Read the states."""
        super().__init__(model, rule, is_deterministic, engine)
        self.start, self.log_final = _ends(rule, start, final, engine.tables.like)
        self.has_rows = start is not None or (
            final is not None and as_tensor("final", final).dim() == 2
        )

    @cached_property
    def log_gates(self) -> Tensor:
        """What the gates of the circuit are weighed by, those of ends first, [B, 2 S]."""
        states = torch.arange(len(self.rule.next), device=self.start.device)
        first = (self.start.unsqueeze(-1) == states).to(self.log_final).log()
        return torch.cat([self.log_final, first], dim=-1)

    def evidence(
        self, given: Evidence | Numbers, parameters: ByRow | None = None
    ) -> CheckedEvidence:
        """See `CompiledCircuit.evidence`; a single row goes with every start.

        Raises:
            EvidenceError: if it does not fit, or has another number of rows.
        """
        return self._weighed(super().evidence(given, parameters))

    def nothing(self, parameters: ByRow | None = None) -> CheckedEvidence:
        """All is missing, in a row for every start."""
        rows = rows_of(parameters)
        rows = len(self.start) if rows is None else rows
        return self.evidence(self.engine.nothing(rows), parameters)

    @property
    def log_probability(self) -> Tensor:
        """The log [B] (nats) of how the model weighs the states where it ends; differentiable."""
        return differentiable_log_prob(self.engine, self.nothing())

    def _weighed(self, evidence: CheckedEvidence) -> CheckedEvidence:
        rows, starts = len(evidence.values), len(self.start)
        if rows != starts and 1 not in (rows, starts):
            raise EvidenceError(f"evidence has {rows} rows for {starts} states to start from")
        count = rows if starts == 1 else starts
        if rows != count:
            first = torch.zeros(count, dtype=torch.long, device=self.start.device)
            evidence = evidence.rows(first).by_itself
        found = replace(evidence, log_gates=self.log_gates.expand(count, -1))
        return found.seen(evidence.hidden)

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles ask a copy of the model again."""
        ends = (self.start, self.log_final) if self.has_rows else (None, self.log_final[0])
        return methodcaller("given", self.rule, *ends), (self._model,)


def _ends(
    rule: Automaton, start: Numbers | None, final: Numbers | None, like: Tensor
) -> tuple[Tensor, Tensor]:
    """States before [B] and log-weights of those after [B, S].

    Raises:
        EvidenceError: if they are none of the rule, or do not fit together.
    """
    states = len(rule.next)
    first = torch.zeros(1).long() if start is None else rule.states("start", start)
    last = rule.accept.double().log() if final is None else as_tensor("final", final).detach()
    last = last.to(like).unsqueeze(0) if last.dim() == 1 else last.to(like)
    rows = {*first.shape, *last.shape[:-1]} - {1}
    if first.dim() != 1 or last.dim() != 2 or last.shape[1] != states or len(rows) > 1:
        shapes = tuple(first.shape), tuple(last.shape)
        raise EvidenceError(f"start must be [B], final [B, {states}] or [{states}], got {shapes}")
    if not (last < torch.inf).all():
        raise EvidenceError("final must be log-weights, none of them NaN or infinite")
    count = rows.pop() if rows else 1
    return first.to(like.device).expand(count), last.expand(count, -1)


def engine_under(engine: Engine, rule: Automaton, between: bool = False) -> Engine:
    """The engine of a model times a rule, on its parameters; see `times`."""
    circuit = times(engine.structure, rule, between)
    machine = replace(engine.plan.machine, strip=STRIP)
    stored, tables = engine.plan.banks, engine.tables
    plan = make_plan(circuit, machine=machine, stored=stored)
    plan = replace(plan, num_variables=engine.plan.num_variables)  # gates come after them
    like = tables.like
    more = [torch.stack([p.value for p in bank]).to(like) for bank in plan.banks[len(stored) :]]
    plan = plan.to(like.device, machine)
    own = Tables(plan, _And(tables.banks, more), like, engine.memory, tables.soft_dtype)
    return Engine(circuit, plan, own, Pool(machine.sheets), engine.memory)


class _And(Sequence[Tensor]):
    """The parameters of a model as they are now, and some that stay."""

    def __init__(self, first: Sequence[Tensor], more: Sequence[Tensor]) -> None:
        self.first, self.more = first, more

    def __len__(self) -> int:
        return len(self.first) + len(self.more)

    def __getitem__(self, place: Any) -> Any:
        return (*self.first, *self.more)[place]
