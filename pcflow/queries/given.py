"""A model given that its values obey a rule: the same passes, over its product with an automaton.

Legend: B batch, D variables, V categories, n draws.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from operator import methodcaller
from typing import Any

import torch
from torch import Tensor

from pcflow.automata import Automaton, times
from pcflow.engine import (
    Engine,
    Pool,
    Tables,
    differentiable_log_prob,
    in_ordinary_modes,
    make_plan,
)
from pcflow.evidence import Evidence, Numbers
from pcflow.queries.asked import Asked
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

    def __init__(self, model: Asked, rule: Automaton, is_deterministic: Callable[[], bool]) -> None:
        """Multiply the model with the rule: what is deterministic stays so."""
        self.rule, self._model, self._is_deterministic = rule, model, is_deterministic
        engine = model.engine
        circuit = times(engine.structure, rule)
        machine = replace(engine.plan.machine, strip=STRIP)
        stored = engine.plan.banks
        plan = make_plan(circuit, machine=machine, stored=stored)
        tables = engine.tables
        like = tables.like
        more = [torch.stack([p.value for p in bank]).to(like) for bank in plan.banks[len(stored) :]]
        banks = _And(tables.banks, more)
        plan = plan.to(like.device, machine)
        own = Tables(plan, banks, like, engine.memory, tables.soft_dtype)
        self.engine = Engine(circuit, plan, own, Pool(machine.sheets), engine.memory)

    @property
    def log_probability(self) -> Tensor:
        """The log-probability (nats) that the rule holds, one number; differentiable."""
        return differentiable_log_prob(self.engine, self.engine.nothing())[0]

    @in_ordinary_modes
    def log_mass(self, evidence: Evidence | Numbers) -> Tensor:
        """Log-probability [B] (nats) of evidence and rule together.

        Differentiable in parameters and potentials.

        Args:
            evidence: values [B, D], NaN where missing, or `Evidence`.

        Returns:
            log sum_x p(x) prod_i lambda_i(x_i) over all x that are not ruled out by what is
            observed, nor by the rule; -inf where nothing is possible.

        Raises:
            EvidenceError: if the evidence does not fit the model.
        """
        return differentiable_log_prob(self.engine, self.evidence(evidence))

    def log_prob(self, evidence: Evidence | Numbers) -> Tensor:
        """Log-probability [B] (nats) of evidence given the rule; see `log_mass`.

        Raises:
            EvidenceError: if the evidence does not fit the model.
        """
        return self.log_mass(evidence) - self.log_probability

    @in_ordinary_modes
    @torch.no_grad()
    def mpe(self, evidence: Evidence | Numbers) -> MPE:
        """The most probable completion that obeys the rule; see `CompiledCircuit.mpe`.

        Exact for independent variables, and where the circuit is deterministic. The log-value is
        that of `log_prob`, plus the log-potentials of what was chosen.
        """
        found = mpe(self.engine, self.evidence(evidence), self._is_deterministic())
        return found._replace(log_value=found.log_value - self.log_probability)

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles ask a copy of the model again."""
        return methodcaller("given", self.rule), (self._model,)

    def __repr__(self) -> str:
        """The rule, and of how many variables."""
        return f"Given({self.rule}, {self.engine.structure.num_variables} variables)"


class _And(Sequence[Tensor]):
    """The parameters of a model as they are now, and some that stay."""

    def __init__(self, first: Sequence[Tensor], more: Sequence[Tensor]) -> None:
        self.first, self.more = first, more

    def __len__(self) -> int:
        return len(self.first) + len(self.more)

    def __getitem__(self, place: Any) -> Any:
        return (*self.first, *self.more)[place]
