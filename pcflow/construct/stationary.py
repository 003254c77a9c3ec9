"""A hidden Markov model that starts as it goes on.

Legend: K states.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from pcflow.circuit import Circuit, MarkovChain, Parameter, required_by
from pcflow.errors import StructureError
from pcflow.queries import CompiledCircuit, as_circuit

SQUARINGS = 64
"""After 2 to this power steps, a chain of any speed that numbers can tell has come to rest."""


def stationary(circuit: Circuit | CompiledCircuit) -> Circuit:
    """The same hidden Markov model, started from the distribution that its states come to.

    So every window of a text has the same distribution, wherever it is cut out: what a circuit
    needs that is laid over the middle of texts, while `hmm` starts as texts begin. If the states
    come to different ends, the distribution is the one that the given start leads to, on average
    over time if they go in circles.

    Args:
        circuit: a homogeneous hidden Markov chain; it is not changed, and shares its other
            parameters.

    Returns:
        A new circuit of the same length.

    Raises:
        NotAChain: if the circuit is none.
        StructureError: if positions differ, or there is no transition.

    Examples:
        >>> import pcflow as pf
        >>> onwards, even = [[0.9, 0.1], [0.3, 0.7]], [0.5, 0.5]
        >>> start = pf.hmm(3, 2, pf.Bernoulli(), initial=even, transition=onwards)
        >>> pf.stationary(start).root.weight.value.exp()
        tensor([[0.7500, 0.2500]], dtype=torch.float64)
    """
    with required_by("stationary"):
        chain = MarkovChain.of(as_circuit(circuit))
    if not chain.is_homogeneous:
        raise StructureError("stationary: positions differ, or there is no transition")
    first, onwards = chain.positions[0].arrival, chain.positions[1].arrival
    rest = _rest(*(_probabilities(layer.weight) for layer in (first, onwards)))
    return Circuit(replace(first, weight=Parameter(rest.log())))


def _probabilities(weight: Parameter) -> Tensor:
    """Rows of probabilities, in double."""
    return weight.value.double().softmax(dim=-1)


def _rest(start: Tensor, onwards: Tensor) -> Tensor:
    """Where a start [1, K] leads to under transitions [K, K], on average over time."""
    steps = (
        onwards + torch.eye(len(onwards), dtype=torch.float64)
    ) / 2  # which never go in circles
    for _ in range(SQUARINGS):
        steps = steps @ steps
        steps = steps / steps.sum(dim=-1, keepdim=True)
    return start @ steps
