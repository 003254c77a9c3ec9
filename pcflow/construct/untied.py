"""A circuit whose sum layers share no weights."""

from __future__ import annotations

from dataclasses import replace

from pcflow.circuit import Circuit, InputLayer, Layer, Parameter, ProductLayer, SumLayer
from pcflow.queries import CompiledCircuit, as_circuit


def untie(circuit: Circuit | CompiledCircuit) -> Circuit:
    """The same distribution, with weights of its own for every sum layer.

    They begin at those that layers shared; what input layers share stays shared. A homogeneous
    `hmm` gets a transition for every step, which can then be learned, or given row by row, apart.

    Args:
        circuit: the circuit; it is not changed.

    Returns:
        A new circuit, the same distribution.

    Examples:
        >>> import pcflow as pf
        >>> chain = pf.hmm(4, states=2, inputs=pf.Categorical(5))
        >>> print(chain)
        Circuit(4 variables, 11 layers, 16 parameters)
        >>> print(pf.untie(chain))
        Circuit(4 variables, 11 layers, 24 parameters)
    """

    def at_input(layer: InputLayer) -> Layer:
        return layer

    def at_sum(layer: SumLayer, inputs: tuple[Layer, ...]) -> Layer:
        return replace(layer, inputs=inputs, weight=Parameter(layer.weight.value))

    def at_product(layer: ProductLayer, inputs: tuple[Layer, ...]) -> Layer:
        return replace(layer, inputs=inputs)

    return Circuit(as_circuit(circuit).fold(at_input, at_sum, at_product))
