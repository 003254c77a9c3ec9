"""Brute force: every query by adding up all states of a circuit, in float64.

A complete state is scored by `reference_log_prob`; everything else is sums and maxima over states.
Legend: S states, B batch, D variables, V categories, K units, J inputs of a sum.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from pcflow.circuit import Circuit, InputLayer, Layer, SumLayer, reference_log_prob
from pcflow.errors import PropertyRequired
from pcflow.evidence import Domain, Evidence, Numbers, check

MOST_STATES = 1 << 20


def enumerate_states(circuit: Circuit) -> Tensor:
    """All complete states [S, D], the last variable running fastest.

    Args:
        circuit: over finite variables.

    Returns:
        The states [S, D].

    Raises:
        PropertyRequired: if a variable has no finite range, or there are more than 2^20 states.

    Examples:
        >>> import pcflow as pf
        >>> enumerate_states(pf.hmm(2, states=1, inputs=pf.Bernoulli())).tolist()
        [[0, 0], [0, 1], [1, 0], [1, 1]]
    """
    sizes = [n for n in circuit.num_categories if n is not None]
    if len(sizes) < circuit.num_variables:
        raise PropertyRequired("enumeration needs every variable to have a finite range")
    if prod(sizes) > MOST_STATES:
        raise PropertyRequired(f"{prod(sizes)} states are too many to enumerate")
    return torch.cartesian_prod(*map(torch.arange, sizes)).reshape(-1, len(sizes))


@dataclass(frozen=True, eq=False)
class Enumeration:
    """Every state, and how much it weighs in every row of the evidence.

    Attributes:
        states: [S, D].
        log_weight: [B, S], log p(x) plus the log-potentials of x where it agrees with what is
            observed, -inf elsewhere.

    Examples:
        >>> import pcflow as pf
        >>> found = enumerate_weights(pf.hmm(2, states=2, inputs=pf.Bernoulli()), [[torch.nan] * 2])
        >>> found.states.shape, found.log_weight.shape
        (torch.Size([4, 2]), torch.Size([1, 4]))
    """

    states: Tensor
    log_weight: Tensor


def enumerate_weights(circuit: Circuit, evidence: Evidence | Numbers) -> Enumeration:
    """Score every state under every row of the evidence.

    Args:
        circuit: over finite variables.
        evidence: a tensor [B, D], NaN where missing, or an `Evidence`.

    Returns:
        The states [S, D], and the logarithm (nats) of the weight of each in every row.

    Raises:
        PropertyRequired: if a variable has no finite range, or there are too many states.
        EvidenceError: if the evidence does not fit the circuit.

    Examples:
        >>> import pcflow as pf
        >>> circuit = pf.hmm(2, states=2, inputs=pf.Bernoulli())
        >>> enumerate_weights(circuit, torch.tensor([[1.0, torch.nan]])).log_weight.isinf().tolist()
        [[True, True, False, False]]
    """
    states = enumerate_states(circuit)
    domain = Domain(circuit.num_categories, torch.device("cpu"), torch.float64)
    known = check(evidence, domain).of_shared("enumerate_weights")
    log_weight = reference_log_prob(circuit, states).expand(len(known.values), -1)  # [B, S]
    agrees = known.missing.unsqueeze(1) | (known.values.unsqueeze(1) == states)  # [B, S, D]
    log_weight = log_weight.masked_fill(~agrees.all(dim=-1), -torch.inf)
    if known.potentials is not None:
        variables = torch.arange(states.shape[1])
        potentials = known.potentials.dense(domain.largest)[:, variables, states]  # [B, S, D]
        log_weight = log_weight + potentials.masked_fill(~known.missing.unsqueeze(1), 0.0).sum(-1)
    return Enumeration(states, log_weight)


def enumerate_log_prob(circuit: Circuit, evidence: Evidence | Numbers) -> Tensor:
    """Log-probability [B] (nats, float64) of the evidence: what `log_prob` must return.

    Args:
        circuit: over finite variables.
        evidence: a tensor [B, D], NaN where missing, or an `Evidence`.

    Returns:
        Log-probabilities [B], in nats.

    Raises:
        PropertyRequired: if a variable has no finite range, or there are too many states.
        EvidenceError: if the evidence does not fit the circuit.

    Examples:
        >>> import pcflow as pf
        >>> circuit = pf.hmm(3, states=2, inputs=pf.Categorical(3))
        >>> bool(enumerate_log_prob(circuit, torch.full((1, 3), torch.nan)).abs() < 1e-12)
        True
    """
    return enumerate_weights(circuit, evidence).log_weight.logsumexp(dim=-1)


def enumerate_marginals(circuit: Circuit, evidence: Evidence | Numbers) -> Tensor:
    """Posterior log-probabilities [B, D, V] (nats, float64): what `marginals` must return.

    Rows without mass are NaN.

    Args:
        circuit: over finite variables.
        evidence: a tensor [B, D], NaN where missing, or an `Evidence`.

    Returns:
        Log-probabilities [B, D, V], in nats.

    Raises:
        PropertyRequired: if a variable has no finite range, or there are too many states.
        EvidenceError: if the evidence does not fit the circuit.

    Examples:
        >>> import pcflow as pf
        >>> circuit = pf.hmm(3, states=2, inputs=pf.Categorical(3))
        >>> enumerate_marginals(circuit, torch.full((1, 3), torch.nan)).exp().sum(-1).round()
        tensor([[1., 1., 1.]], dtype=torch.float64)
    """
    found = enumerate_weights(circuit, evidence)
    probability = found.log_weight.softmax(dim=-1)  # [B, S]
    largest = max(n or 0 for n in circuit.num_categories)
    one_hot = torch.nn.functional.one_hot(found.states, largest).double()  # [S, D, V]
    return torch.einsum("bs,sdv->bdv", probability, one_hot).log()


def enumerate_mpe(circuit: Circuit, evidence: Evidence | Numbers) -> tuple[Tensor, Tensor]:
    """The most probable completion [B, D] of every row, and its log-weight [B] (nats, float64).

    Potentials count. Of several best states the first is given.

    Args:
        circuit: over finite variables.
        evidence: a tensor [B, D], NaN where missing, or an `Evidence`.

    Returns:
        States [B, D], and the logarithms [B] (nats) of their weights.

    Raises:
        PropertyRequired: if a variable has no finite range, or there are too many states.
        EvidenceError: if the evidence does not fit the circuit.

    Examples:
        >>> import pcflow as pf
        >>> odds = pf.Parameter(torch.logit(torch.tensor([0.3])))
        >>> coin = pf.InputLayer(0, pf.Bernoulli(), parameters={"logits": odds})
        >>> values, log_value = enumerate_mpe(pf.Circuit(coin), torch.tensor([[torch.nan]]))
        >>> values.item(), round(log_value.exp().item(), 6)
        (0, 0.7)
    """
    found = enumerate_weights(circuit, evidence)
    log_value, state = found.log_weight.max(dim=-1)
    return found.states[state], log_value


def enumerate_support(circuit: Circuit) -> dict[Layer, Tensor]:
    """For every layer [S, K], in which states its units are positive: structure and hard zeros.

    Args:
        circuit: over finite variables.

    Returns:
        For every layer bools [S, K].

    Raises:
        PropertyRequired: if a variable has no finite range, or there are too many states.

    Examples:
        >>> import pcflow as pf
        >>> literal = pf.InputLayer(0, pf.Indicator([1, 0]), units=2)
        >>> root = pf.SumLayer([literal], pf.Parameter.from_probs([[0.3, 0.7]]))
        >>> enumerate_support(pf.Circuit(root))[literal].tolist()
        [[False, True], [True, False]]
    """
    states = enumerate_states(circuit)
    found: dict[Layer, Tensor] = {}
    for layer in circuit.layers:
        below = [found[child] for child in layer.inputs]
        if isinstance(layer, InputLayer):
            found[layer] = (layer.log_table() > -torch.inf)[states[:, layer.variable]]  # [S, K]
        elif isinstance(layer, SumLayer):
            found[layer] = _active(layer, below) > 0
        else:
            found[layer] = layer.combine(below, torch.logical_and)
    return found


def count_active_inputs(circuit: Circuit) -> int:
    """The most inputs that any sum unit has positive in any state: at most 1 if deterministic.

    Args:
        circuit: over finite variables.

    Returns:
        The number.

    Raises:
        PropertyRequired: if a variable has no finite range, or there are too many states.

    Examples:
        >>> import pcflow as pf
        >>> count_active_inputs(pf.hmm(2, states=3, inputs=pf.Bernoulli()))
        3
    """
    support = enumerate_support(circuit)
    sums = [layer for layer in circuit.layers if isinstance(layer, SumLayer)]
    counts = [_active(layer, [support[child] for child in layer.inputs]) for layer in sums]
    return max((int(count.max()) for count in counts), default=0)


def _active(layer: SumLayer, below: list[Tensor]) -> Tensor:
    """How many inputs of every sum unit are positive in every state: [S, K]."""
    used = (layer.weight.value > -torch.inf).double()  # [K, J]
    return layer.add_up([some.double() for some in below], used)
