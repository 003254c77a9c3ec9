"""Variables one after another: what each one's turn changes in a circuit.

The probability of a prefix is linear in every unit that is above, or at, the variable whose turn
it is; what a unit is multiplied by there is its *context*. A turn changes nothing outside the
layers above its variable. So a context holds as long as turns stay below its layer, and the value
of a layer is found anew only when they leave it. Of a chain, a turn enters and leaves one position;
of a tree whose leaves are in order, every layer is entered and left once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from pcflow.circuit.circuit import Circuit
from pcflow.circuit.layers import InputLayer, Layer, ProductLayer, SumLayer
from pcflow.circuit.scopes import Scope, Scopes


@dataclass
class Turn:
    """What the turn of a variable changes.

    Attributes:
        enter: the layers above it that are not above the variable before, from the root down.
        inputs: its input layers.
        leave: the layers above it that are not above the next variable, from the inputs up.
        renew: those of them whose values are read later.
        idle_contexts: layers whose contexts nobody reads any more.
        idle_values: layers whose values nobody reads any more.
    """

    enter: list[Layer] = field(default_factory=list)
    inputs: list[InputLayer] = field(default_factory=list)
    leave: list[Layer] = field(default_factory=list)
    renew: list[Layer] = field(default_factory=list)
    idle_contexts: list[Layer] = field(default_factory=list)
    idle_values: list[Layer] = field(default_factory=list)


@dataclass(frozen=True)
class Turns:
    """The turns of all variables, in their order; see `of`.

    Attributes:
        circuit: of products of two inputs.
        turns: one for every variable.
        parents: who reads every layer, and in which place.
    """

    circuit: Circuit
    turns: list[Turn]
    parents: dict[Layer, list[tuple[Layer, int]]]

    @classmethod
    def of(cls, circuit: Circuit) -> Turns:
        """Find out what changes when.

        Examples:
            >>> import pcflow as pf
            >>> turns = Turns.of(pf.hmm(4, states=2, inputs=pf.Bernoulli())).turns
            >>> [(len(turn.enter), len(turn.renew)) for turn in turns]
            [(3, 1), (3, 1), (3, 1), (2, 0)]
        """
        pairs = in_pairs(circuit)
        found = cls(pairs, _turns(pairs), {layer: [] for layer in pairs.layers})
        for layer in pairs.layers:
            for place, child in enumerate(layer.inputs):
                found.parents[child].append((layer, place))
        found._find_readers()
        return found

    def _find_readers(self) -> None:
        """Write who is renewed and who is idle, from the last turn to the first."""
        values: set[Layer] = set()  # that are read later
        contexts: set[Layer] = set()
        for turn in reversed(self.turns):
            for layer in reversed(turn.leave):
                if layer in values:
                    values.remove(layer)
                    turn.renew.append(layer)
                    turn.idle_values += _new(layer.inputs, values)
            turn.renew.reverse()
            for layer in reversed(turn.enter):
                contexts.discard(layer)
                turn.idle_contexts += _new((la for la, _ in self.parents[layer]), contexts)
                turn.idle_values += _new(self._beside(layer), values)

    def _beside(self, layer: Layer) -> Iterator[Layer]:
        """The other inputs of products that read a layer."""
        for parent, place in self.parents[layer]:
            if isinstance(parent, ProductLayer):
                yield parent.inputs[1 - place]


def in_pairs(circuit: Circuit) -> Circuit:
    """The same circuit with products of two inputs each, itself if it has no others.

    A turn is then as long as a product is deep, not as it is wide.
    """
    if all(len(la.inputs) == 2 for la in circuit.layers if isinstance(la, ProductLayer)):
        return circuit

    def at_sum(layer: SumLayer, inputs: tuple[Layer, ...]) -> Layer:
        return replace(layer, inputs=inputs)

    def at_product(layer: ProductLayer, inputs: tuple[Layer, ...]) -> Layer:
        if layer.unit_by_unit:
            first = {
                la: circuit.scope(own)[0] for own, la in zip(layer.inputs, inputs, strict=True)
            }
            inputs = tuple(sorted(inputs, key=first.__getitem__))
        return _product(inputs, layer)

    return Circuit(circuit.fold(lambda layer: layer, at_sum, at_product))


def _product(inputs: Sequence[Layer], like: ProductLayer) -> Layer:
    """Halves, each a product of halves."""
    if len(inputs) == 1:
        return inputs[0]
    middle = len(inputs) // 2
    return ProductLayer(
        [_product(part, like) for part in (inputs[:middle], inputs[middle:])], like.kind
    )


def _turns(circuit: Circuit) -> list[Turn]:
    """What is entered and left when."""
    turns = [Turn() for _ in range(circuit.num_variables)]
    stays: dict[Scope, list[tuple[int, int]]] = {}
    for layer in circuit.layers:
        scope = circuit.scopes[layer]
        if scope not in stays:
            stays[scope] = _stays(scope, circuit.scopes)
        for first, last in stays[scope]:
            turns[first].enter.append(layer)
            turns[last].leave.append(layer)
        if isinstance(layer, InputLayer):
            turns[layer.variable].inputs.append(layer)
    for turn in turns:
        turn.enter.reverse()
    return turns


def _stays(scope: Scope, scopes: Scopes) -> list[tuple[int, int]]:
    """The first and the last of every stretch of variables of a scope."""
    variables = np.sort(np.concatenate([scopes.met[start:stop] for start, stop in scope]))
    cuts = (np.diff(variables) > 1).nonzero()[0]
    firsts, lasts = variables[np.r_[0, cuts + 1]], variables[np.r_[cuts, len(variables) - 1]]
    return list(zip(firsts.tolist(), lasts.tolist(), strict=True))


def _new(layers: Iterable[Layer], wanted: set[Layer]) -> list[Layer]:
    """Those that nobody reads later, each once; from now on somebody does."""
    found = [layer for layer in dict.fromkeys(layers) if layer not in wanted]
    wanted.update(found)
    return found
