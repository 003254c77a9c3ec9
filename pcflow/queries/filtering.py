"""Filtering: a hidden Markov chain that is told one observation after another.

All that is kept of the past is how probable every state is, so a step costs the same however long
the past. Everything is a logarithm in float64, since nobody checks afterwards what was lost.

Legend: B batch, M emissions of a position, K states, N columns, V categories.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import index

import torch
from torch import Tensor

from pcflow.checks import check_whole
from pcflow.circuit import InputLayer, MarkovChain, Position
from pcflow.errors import EvidenceError, PropertyRequired, SettingError
from pcflow.evidence import CheckedEvidence, Domain, Numbers, as_tensor, check
from pcflow.inputs import DensityFamily, FiniteFamily
from pcflow.queries.possible import refuse_impossible

SMALLEST = -700.0
"""Exponentials of numbers above this are normal numbers in float64."""


class Filter:
    """What is known of the state of B chains after some observations; made by `model.filter(B)`.

    It goes by the parameters that the model had when it was made. `copy.copy` of it goes a way of
    its own from there on.

    Attributes:
        position: how many observations there were.
        log_prob: [B], log p(x_1, ..., x_t) (nats) of what was observed so far.
        log_states: [B, K], log p(z_t | x_1, ..., x_t) (nats); None before the first observation.

    Examples:
        >>> import pcflow as pf
        >>> seen = pf.compile(pf.hmm(3, states=2, inputs=pf.Categorical(5))).filter(1)
        >>> log_p = seen.observe(torch.tensor([4]))
        >>> seen.next_log_probs().shape
        torch.Size([1, 5])
    """

    def __init__(self, chain: MarkovChain, rows: int, device: torch.device) -> None:
        """Nothing is observed yet."""
        check_whole("rows", rows)
        self._chain, self._device = chain, device
        self._kept: dict[object, _Logs] = {}
        self.position = 0
        self.log_prob = torch.zeros(rows, dtype=torch.float64, device=device)
        self.log_states: Tensor | None = None

    def observe(self, x: Numbers) -> Tensor:
        """Take one observation of every row into account.

        Args:
            x: [B], or [B, M] where a position has several variables; NaN where missing.

        Returns:
            log p(x_t | x_1, ..., x_t-1) (nats), [B]; -inf where the observation was impossible.

        Raises:
            EvidenceError: if it does not fit, or all positions of a chain whose positions differ
                are observed; others go on for ever.
        """
        position = self._next()
        known = self._check(position, as_tensor("x", x))
        joint = self._ahead(position)  # [B, K]
        columns = zip(known.values.t(), known.missing.t(), strict=True)
        for layer, (column, hidden) in zip(position.emissions, columns, strict=True):
            joint = joint + self._log_likelihood(layer, column).masked_fill(hidden[:, None], 0.0)
        found = joint.logsumexp(dim=-1)
        possible = found > -torch.inf
        self.log_states = joint - found.where(possible, 0.0).unsqueeze(-1)
        self.log_prob, self.position = self.log_prob + found, self.position + 1
        return found

    def next_log_probs(self, emission: int = 0) -> Tensor:
        """Log-probabilities (nats) of what comes next, [B, V], given all that was observed.

        Args:
            emission: which of the variables of a position.

        Raises:
            PropertyRequired: if that has no finite range.
            NoMassError: if what was observed of some row is impossible.
            EvidenceError: if the chain has no next position; see `observe`.
        """
        position = self._next()
        count = len(position.emissions)
        wanted = f"in 0..{count - 1}"
        SettingError.check("emission", emission, wanted, lambda one: index(one) in range(count))
        layer = position.emissions[emission]
        if not isinstance(layer.family, FiniteFamily):
            raise PropertyRequired(
                f"next_log_probs lists all categories, but {layer} has no finite range; "
                "next_log_states says how probable every state is"
            )
        refuse_impossible(self.log_prob, "next_log_probs")
        return self._table(layer).after(self._ahead(position))

    def next_log_states(self) -> Tensor:
        """Log-probabilities (nats) of the next state, [B, K], given all that was observed.

        Raises:
            NoMassError: if what was observed of some row is impossible.
            EvidenceError: if the chain has no next position; see `observe`.
        """
        refuse_impossible(self.log_prob, "next_log_states")
        return self._ahead(self._next())

    def _check(self, position: Position, values: Tensor) -> CheckedEvidence:
        """One observation [B] or [B, M] as evidence about the variables of a position."""
        categories = tuple(layer.family.num_categories for layer in position.emissions)
        domain = Domain(categories, self._device, torch.float64)
        known = check(values.unsqueeze(-1) if values.dim() == 1 else values, domain)
        if len(known.values) != len(self.log_prob):
            raise EvidenceError(f"x: {len(self.log_prob)} rows are filtered, got {len(values)}")
        return known

    def _next(self) -> Position:
        """The position that is observed next: of a homogeneous chain there is always one."""
        positions = self._chain.positions
        if self.position < len(positions):
            return positions[self.position]
        if not self._chain.is_homogeneous:
            raise EvidenceError(f"all {len(positions)} positions of the chain are observed")
        return positions[-1]

    def _ahead(self, position: Position) -> Tensor:
        """Log p(z_t | x_1, ..., x_t-1) [B, K]."""
        arrival = self._logs(position.arrival.weight, position.arrival.log_weight)
        if self.log_states is None:
            return arrival.logs.expand(len(self.log_prob), -1)
        return arrival.after(self.log_states)

    def _log_likelihood(self, layer: InputLayer, column: Tensor) -> Tensor:
        """Log p(x | state) [B, K] of values [B]."""
        if isinstance(layer.family, DensityFamily):
            numbers = {n: p.unsqueeze(0).to(self._device) for n, p in layer.float64().items()}
            return layer.family.log_prob(numbers, column.unsqueeze(0)).squeeze(0)
        return self._table(layer).logs.index_select(1, column.long()).t()

    def _table(self, layer: InputLayer) -> _Logs:
        """Log p(v | state) [K, V] of a layer whose variable has a finite range."""
        key = layer.family, *layer.parameters.values()
        return self._logs(key, lambda: layer.log_table().t())

    def _logs(self, key: object, make: Callable[[], Tensor]) -> _Logs:
        """Made once for all positions that share parameters."""
        if key not in self._kept:
            self._kept[key] = _Logs(make().to(self._device))
        return self._kept[key]


class _Logs:
    """A matrix [K, N] of logarithms, none above zero."""

    def __init__(self, logs: Tensor) -> None:
        self.logs, self.linear = logs, logs.exp()
        self.least = _least(logs).min()

    def after(self, rows: Tensor) -> Tensor:
        """Logarithms [B, N] of the product of what rows [B, K] are logarithms of and the matrix."""
        peak = rows.amax(dim=-1, keepdim=True).nan_to_num(neginf=0.0)
        found = ((rows - peak).exp() @ self.linear).log() + peak
        low = _least(rows - peak).amin(dim=-1) + self.least < SMALLEST
        for row in low.nonzero().squeeze(-1).tolist():  # some summand may have underflowed
            found[row] = (rows[row].unsqueeze(-1) + self.logs).logsumexp(dim=0)
        return found


def _least(logs: Tensor) -> Tensor:
    """Logarithms of what is above zero, and zero for what is not."""
    return logs.masked_fill(logs == -torch.inf, 0.0)
