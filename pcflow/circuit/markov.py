"""Circuits that are a hidden Markov chain, read off as one: position after position.

Legend: K states.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from pcflow.circuit.circuit import Circuit
from pcflow.circuit.layers import InputLayer, Layer, ProductLayer, SumLayer
from pcflow.errors import NotAChain


@dataclass(frozen=True)
class Position:
    """One position of a chain.

    Attributes:
        arrival: the sum that chooses the state here, [1, K] at the start, then [K before, K].
        emissions: an input layer of K units for every variable of the position.
    """

    arrival: SumLayer
    emissions: tuple[InputLayer, ...]

    @property
    def states(self) -> int:
        """K."""
        return self.arrival.weight.shape[1]

    @property
    def variables(self) -> tuple[int, ...]:
        """The variable of every emission."""
        return tuple(layer.variable for layer in self.emissions)

    @property
    def emits(self) -> tuple[object, ...]:
        """Families and parameters of the emissions, which are equal where they are shared."""
        return tuple((la.family, *la.parameters.values()) for la in self.emissions)


@dataclass(frozen=True)
class MarkovChain:
    """The positions of a hidden Markov chain, in order.

    Examples:
        >>> import pcflow as pf
        >>> chain = MarkovChain.of(pf.hmm(5, states=2, inputs=pf.Bernoulli()))
        >>> len(chain.positions), chain.states, chain.is_homogeneous
        (5, 2, True)
    """

    positions: tuple[Position, ...]

    @classmethod
    def of(cls, circuit: Circuit) -> MarkovChain:
        """Read a circuit as a chain.

        Raises:
            NotAChain: naming the first layer, from the root down, where it is none.
        """
        positions: list[Position] = []
        arrival: Layer | None = circuit.root
        while arrival is not None:
            position, arrival = _position(arrival)
            positions.append(position)
        return cls(tuple(positions))

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """K of every position."""
        return tuple(position.states for position in self.positions)

    @property
    def states(self) -> int:
        """The largest K."""
        return max(self.sizes)

    @cached_property
    def place(self) -> dict[int, int]:
        """The position of every variable."""
        places = enumerate(self.positions)
        return {variable: t for t, position in places for variable in position.variables}

    @property
    def is_homogeneous(self) -> bool:
        """Whether one transition and the same emissions serve all positions: it can go on."""
        emissions = {position.emits for position in self.positions}
        transitions = {position.arrival.weight for position in self.positions[1:]}
        return len(emissions) == len(transitions) == 1


def _position(arrival: Layer) -> tuple[Position, Layer | None]:
    """The position that a sum arrives at, and the sum that leaves it, if it is not the last."""
    if not isinstance(arrival, SumLayer) or arrival.mixing or len(arrival.inputs) > 1:
        raise NotAChain(arrival)
    (below,) = arrival.inputs
    together = isinstance(below, ProductLayer) and below.unit_by_unit
    parts = below.inputs if together else (below,)
    emissions = tuple(part for part in parts if isinstance(part, InputLayer))
    others = [part for part in parts if not isinstance(part, InputLayer)]
    if not emissions or len(others) > 1:
        raise NotAChain(below)
    return Position(arrival, emissions), others[0] if others else None
