"""Filtering: a circuit that is told one observation after another.

What is kept of the past is what the next variables need: of a hidden Markov chain how probable
every state is, so that a step costs the same however long the past; of other circuits contexts and
values beside the path to the variable whose turn it is. Everything is a logarithm in float64, and
no product loses what is small, since nobody checks afterwards what was lost.

Legend: B batch, M variables of a position, K states, V categories.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from copy import copy

import torch
from torch import Tensor

from pcflow.checks import as_whole
from pcflow.circuit import Circuit, InputLayer, MarkovChain, Position, SumLayer, Turns
from pcflow.engine import LogMatrix
from pcflow.errors import EvidenceError, PropertyRequired, SettingError
from pcflow.evidence import CheckedEvidence, Domain, Numbers, as_tensor, check
from pcflow.inputs import DensityFamily, FiniteFamily, log_sum
from pcflow.queries.held import Held
from pcflow.queries.possible import refuse_impossible
from pcflow.queries.prefixes import Contexts, Walk, log_mass


class Filter(ABC):
    """What is known after some observations of B rows; made by `model.filter(B)`.

    Variables are observed in their order. Of a hidden Markov chain along which they rise, as those
    of `hmm` do, an observation is a position with all of its variables; of any other circuit it is
    the next variable. So it is of a chain of one position with several variables, which is a naive
    Bayes model. A filter goes by the parameters that the model had when it was
    made, or that its rows were given. `copy.copy` of it goes a way of its own from there on.

    Attributes:
        position: how many observations there were.
        log_prob: [B], log p(x_1, ..., x_t) (nats) of what was observed so far.
        log_states: [B, K], log p(z_t | x_1, ..., x_t) (nats) of the states of a chain; None before
            the first observation, and of circuits that are no chain.

    Examples:
        >>> import pcflow as pf
        >>> seen = pf.compile(pf.hmm(3, states=2, inputs=pf.Categorical(5))).filter(1)
        >>> log_p = seen.observe(torch.tensor([4]))
        >>> seen.next_log_probs().shape
        torch.Size([1, 5])
    """

    def __init__(self, held: Held) -> None:
        """Nothing is observed yet."""
        self._held = held
        self._kept: dict[object, LogMatrix] = {}
        self.position = 0
        self.log_prob = torch.zeros(held.rows, dtype=torch.float64, device=held.device)
        self.log_states: Tensor | None = None

    @classmethod
    def of(cls, circuit: Circuit, held: Held) -> Filter:
        """That of a chain if it is one whose variables rise, or of any circuit.

        Args:
            circuit: over the variables of the sequence, in their order.
            held: parameters of rows and of soft evidence that stay; see `CompiledCircuit.filter`.
        """
        try:
            return ChainFilter(_in_order(MarkovChain.of(circuit)), held)
        except PropertyRequired as why:
            return CircuitFilter(circuit, why, held)

    def observe(self, x: Numbers) -> Tensor:
        """Take one observation of every row into account.

        Args:
            x: [B], or [B, M] where a position has several variables; NaN where missing.

        Returns:
            log p(x_t | x_1, ..., x_t-1) (nats), [B]; -inf where the observation was impossible.

        Raises:
            EvidenceError: if it does not fit, or all is observed; chains whose positions are alike
                go on for ever.

        Examples:
            >>> import pcflow as pf
            >>> chain = pf.hmm(2, states=2, inputs=pf.Categorical(3))
            >>> model = pf.compile(chain, dtype=torch.float64)
            >>> reading = model.filter(1)
            >>> total = reading.observe([0]) + reading.observe([2])
            >>> torch.isclose(total, model.log_prob([[0, 2]]))
            tensor([True])
        """
        following = self._next()
        known = self._check(following, as_tensor("x", x))
        columns = zip(following, known.values.t(), known.missing.t(), strict=True)
        found = self._take(
            {
                layer: self._log_likelihood(layer, column).masked_fill(hidden[:, None], 0.0)
                for layers, column, hidden in columns
                for layer in layers
            }
        )
        self.log_prob, self.position = self.log_prob + found, self.position + 1
        return found

    def next_log_probs(self, emission: int = 0) -> Tensor:
        """Log-probabilities (nats) of what comes next, [B, V], given all that was observed.

        Args:
            emission: which of the variables of a position.

        Raises:
            PropertyRequired: if that has no finite range.
            NoMassError: if what was observed of some row is impossible.
            EvidenceError: if nothing comes next; see `observe`.

        Examples:
            >>> import pcflow as pf
            >>> reading = pf.compile(pf.hmm(2, states=2, inputs=pf.Categorical(3))).filter(1)
            >>> torch.isclose(reading.next_log_probs()[:, 2], reading.observe([2]))
            tensor([True])
        """
        following = self._next()
        count = len(following)
        wanted = f"in 0..{count - 1}"
        SettingError.check("emission", emission, wanted, lambda one: as_whole(one) in range(count))
        for layer in following[emission]:
            if not isinstance(layer.family, FiniteFamily):
                raise PropertyRequired(
                    f"next_log_probs lists all categories, but {layer} has no finite range; "
                    "observe says how probable a value is"
                )
        refuse_impossible(self.log_prob, "next_log_probs")
        contexts = self._ahead()
        spread = [self._table(la).after(contexts[la]) for la in following[emission]]
        return log_sum(torch.stack(spread), dim=0)

    def next_log_states(self) -> Tensor:
        """Log-probabilities (nats) of the next state of a chain, [B, K], given what was observed.

        Raises:
            PropertyRequired: if the circuit is no chain along which variables rise.
            NoMassError: if what was observed of some row is impossible.
            EvidenceError: if nothing comes next; see `observe`.

        Examples:
            >>> import pcflow as pf
            >>> reading = pf.compile(pf.hmm(2, states=4, inputs=pf.Categorical(3))).filter(1)
            >>> reading.next_log_states().shape
            torch.Size([1, 4])
        """
        following = self._next()
        refuse_impossible(self.log_prob, "next_log_states")
        return self._ahead()[following[0][0]]

    @abstractmethod
    def _next(self) -> Sequence[Sequence[InputLayer]]:
        """The input layers of every variable that is observed next."""

    @abstractmethod
    def _ahead(self) -> Contexts:
        """Log-probabilities [B, K] that their units are used, given what was observed."""

    @abstractmethod
    def _take(self, units: Contexts) -> Tensor:
        """Go on with what their units say of it; the log-probability [B] of the observation."""

    def _check(self, following: Sequence[Sequence[InputLayer]], values: Tensor) -> CheckedEvidence:
        """One observation [B] or [B, M] as evidence about the variables of a position."""
        categories = tuple(layers[0].family.num_categories for layers in following)
        domain = Domain(categories, self._held.device, torch.float64)
        known = check(values.unsqueeze(-1) if values.dim() == 1 else values, domain)
        if len(known.values) != len(self.log_prob):
            raise EvidenceError(f"x: {len(self.log_prob)} rows are filtered, got {len(values)}")
        return known

    def _log_likelihood(self, layer: InputLayer, column: Tensor) -> Tensor:
        """What the units of a layer say of values [B], logarithms [B, K]."""
        if isinstance(layer.family, DensityFamily):
            x = column.unsqueeze(1 if self._held.by_row(layer) else 0)  # [B, 1] or [1, B]
            found = layer.family.log_prob(self._held.parameters(layer), x)
            return found.flatten(0, 1)
        logs, values = self._table(layer).logs, column.long()
        if logs.dim() < 3:
            return logs.index_select(1, values).t()
        return logs[torch.arange(len(values), device=values.device), :, values]

    def _table(self, layer: InputLayer) -> LogMatrix:
        """Log p(v | unit) [K, V] of a layer whose variable has a finite range, or [B, K, V].

        Made once: all layers that share parameters share it.
        """
        key = layer.family, *layer.parameters.values()
        if key not in self._kept:
            self._kept[key] = LogMatrix(self._held.log_table(layer).mT)
        return self._kept[key]


class ChainFilter(Filter):
    """What is known of the state of a hidden Markov chain."""

    def __init__(self, chain: MarkovChain, held: Held) -> None:
        """Nothing is observed yet."""
        super().__init__(held)
        self._chain = chain

    @property
    def _position(self) -> Position:
        """The position that is observed next: of a homogeneous chain there is always one."""
        positions = self._chain.positions
        if self.position < len(positions):
            return positions[self.position]
        if not self._chain.is_homogeneous:
            raise EvidenceError(f"all {len(positions)} positions of the chain are observed")
        return positions[-1]

    def _next(self) -> Sequence[Sequence[InputLayer]]:
        return [(layer,) for layer in self._position.emissions]

    def _ahead(self) -> Contexts:
        """Log p(z_t | x_1, ..., x_t-1), the same for every emission."""
        arrival, before = self._position.arrival, self.log_states
        if arrival.weight not in self._kept:
            self._kept[arrival.weight] = LogMatrix(self._held.log_weight(arrival))
        before = self.log_prob.unsqueeze(-1) if before is None else before  # one way to begin
        return dict.fromkeys(self._position.emissions, self._kept[arrival.weight].after(before))

    def _take(self, units: Contexts) -> Tensor:
        joint = sum(units.values(), next(iter(self._ahead().values())))  # [B, K]
        found = joint.logsumexp(dim=-1)
        self.log_states = joint - found.where(found > -torch.inf, 0.0).unsqueeze(-1)
        return found


class CircuitFilter(Filter):
    """What is known beside the path to the variable whose turn it is."""

    def __init__(self, circuit: Circuit, no_chain: PropertyRequired, held: Held) -> None:
        """Nothing is observed yet."""
        super().__init__(held)
        self._turns, self._no_chain = Turns.of(circuit), no_chain
        sums = (layer for layer in self._turns.circuit.layers if isinstance(layer, SumLayer))
        self._logs = {layer.weight: held.log_weight(layer) for layer in sums}
        self._walk = Walk(self._turns, self._log_weight, self.log_prob)
        self._contexts = self._walk.enter(self._turns.turns[0])

    def _log_weight(self, layer: SumLayer) -> Tensor:
        return self._logs[layer.weight]

    def next_log_states(self) -> Tensor:
        """Refused: there are no states."""
        raise self._no_chain.named("next_log_states")

    def _next(self) -> Sequence[Sequence[InputLayer]]:
        turns = self._turns.turns
        if self.position == len(turns):
            raise EvidenceError(f"all {len(turns)} variables are observed")
        return [turns[self.position].inputs]

    def _ahead(self) -> Contexts:
        return {la: context - self.log_prob[:, None] for la, context in self._contexts.items()}

    def _take(self, units: Contexts) -> Tensor:
        walk, turns = copy(self._walk), self._turns.turns  # copies of the filter keep theirs
        found = log_mass(self._contexts, units)
        walk.leave(turns[self.position], units)
        last = self.position + 1 == len(turns)
        self._contexts = {} if last else walk.enter(turns[self.position + 1])
        self._walk = walk
        return torch.where(self.log_prob > -torch.inf, found - self.log_prob, -torch.inf)


def _in_order(chain: MarkovChain) -> MarkovChain:
    """A chain that can be observed position by position, as its variables are numbered."""
    order = [variable for position in chain.positions for variable in position.variables]
    if order != sorted(order):
        raise PropertyRequired(f"the variables of the chain are not in order: {order}")
    if len(chain.positions) == 1 < len(order):
        raise PropertyRequired("a chain of one position is a naive Bayes model: nothing comes next")
    return chain
