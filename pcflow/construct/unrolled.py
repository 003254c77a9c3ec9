"""A hidden Markov model over another number of positions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pcflow.checks import check_whole
from pcflow.circuit import Circuit, Layer, MarkovChain, Position, ProductLayer, required_by
from pcflow.errors import SettingError, StructureError
from pcflow.queries import CompiledCircuit, as_circuit


def unroll(circuit: Circuit | CompiledCircuit, length: int) -> Circuit:
    """The same hidden Markov model over another number of positions, with the same parameters.

    What is shared between positions stays shared. A chain whose positions differ can be made
    shorter, not longer.

    Args:
        circuit: a hidden Markov chain whose variables are in the order of positions, as `hmm` makes
            them; it is not changed.
        length: number of positions.

    Returns:
        A new circuit of the length asked for.

    Raises:
        NotAChain: if the circuit is none.
        StructureError: if its variables are not in the order of its positions.
        SettingError: if `length` is below 1, or above that of a chain that cannot go on.

    Examples:
        >>> import pcflow as pf
        >>> short = pf.hmm(3, states=2, inputs=pf.Categorical(5))
        >>> print(pf.unroll(short, 100))
        Circuit(100 variables, 299 layers, 16 parameters)
    """
    check_whole("length", length)
    with required_by("unroll"):
        chain = MarkovChain.of(as_circuit(circuit))
    variables = [v for position in chain.positions for v in position.variables]
    if variables != sorted(variables):
        raise StructureError(f"unroll: variables must be in the order of positions: {variables}")
    most = len(chain.positions)
    if length > most and not chain.is_homogeneous:
        wanted = f"at most {most}, because positions differ or there is no transition"
        raise SettingError("length", length, wanted)
    last = chain.positions[-1]
    return _built([*chain.positions[:length], *[last] * (length - most)])


def _built(positions: Sequence[Position]) -> Circuit:
    """Layers from the last position to the first."""
    before = sum(len(position.emissions) for position in positions)
    above: list[Layer] = []
    for position in reversed(positions):
        before -= len(position.emissions)
        emissions = [replace(la, variable=before + m) for m, la in enumerate(position.emissions)]
        parts = [*emissions, *above]
        below = parts[0] if len(parts) == 1 else ProductLayer(parts)
        above = [replace(position.arrival, inputs=(below,))]
    return Circuit(above[0])
