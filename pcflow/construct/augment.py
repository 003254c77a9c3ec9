"""Circuits with more variables: latents as variables, and gates between several parameters.

Both put one variable beside every sum layer. Left missing, it is summed out; with potentials it
steers the sum, row by row.

Legend: D variables, K units, J units read by a sum, G gates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import inf

import torch

from pcflow.checks import check_generator, check_whole
from pcflow.circuit import Circuit, InputLayer, Layer, Parameter, ProductLayer, SumLayer
from pcflow.errors import SettingError
from pcflow.inputs import Indicator
from pcflow.queries import CompiledCircuit, as_circuit


def expose_latents(circuit: Circuit | CompiledCircuit) -> Circuit:
    """The joint distribution p(x, z) of a circuit's variables and its latents.

    Every sum layer gets a variable, whose value is the input that its unit chooses: of a dense
    layer the place of the input unit among all J, of a mixing layer that of the input. They are
    numbered D, D + 1, ... from the root down; of an `hmm`, variable D + t is the state at position
    t. Summed out, they leave p(x) as it was. Every sum of the result is decided by its variable, so
    that it is proved deterministic and `mpe` is exact (the augmented network of Peharz et al.
    2016). Potentials on them are potentials on the latents (CoDD, arXiv 2603.00045, Appendix E.1).

    Args:
        circuit: the circuit; it is not changed, and its parameters are the result's.

    Returns:
        A new circuit over the variables and the states of the old one.

    Raises:
        NotSmooth: if a sum adds up inputs with sums of their own, as it does where a region is
            split in several ways: each way then has latents that the others lack.

    Examples:
        >>> import pcflow as pf
        >>> chain = expose_latents(pf.hmm(3, states=2, inputs=pf.Categorical(5)))
        >>> chain.num_categories
        (5, 5, 5, 2, 2, 2)
    """
    circuit = as_circuit(circuit)

    def choose(layer: SumLayer, inputs: Sequence[Layer], variable: int) -> Layer:
        values = layer.weight.shape[1]
        families = [Indicator(own.tolist(), values) for own in layer.columns()]
        marked = [_beside(variable, *pair) for pair in zip(families, inputs, strict=True)]
        return replace(layer, inputs=tuple(marked))

    return _with_variables(circuit, choose)


def add_gates(
    circuit: Circuit | CompiledCircuit,
    gates: int,
    noise: float = 0.1,
    generator: torch.Generator | None = None,
) -> Circuit:
    """A circuit with several weights for every sum layer, and variables that choose among them.

    Every sum layer gets a variable of G values: where it is g, the layer has weights of its own,
    W_g. They are numbered D, D + 1, ... from the root down; of an `hmm`, variable D is about the
    initial distribution, and variable D + t about the transition into position t. Nothing known,
    all gates are equally likely, whatever the unit; that is a parameter too. Layers that share
    weights share all G. Potentials on the gates mix the weights anew for every row (CoDD, arXiv
    2603.00045, Appendix E.2; gates as in conditional SPNs, Shao et al. 2020).

    Args:
        circuit: the circuit; it is not changed.
        gates: how many weights there are to choose from, G.
        noise: standard deviation of what is added to the circuit's logits to make those of W_g.
            With zero, all are equal and p(x) is as it was; but no gradient tells them apart.
        generator: source of the noise; torch's global one by default.

    Returns:
        A new circuit over the variables of the old one and a gate per position.

    Raises:
        SettingError: if `gates` is below 1, or `noise` negative.
        NotSmooth: see `expose_latents`.

    Examples:
        >>> import pcflow as pf
        >>> add_gates(pf.hmm(3, states=2, inputs=pf.Categorical(5)), gates=4).num_categories
        (5, 5, 5, 4, 4, 4)
    """
    circuit = as_circuit(circuit)
    check_whole("gates", gates)
    SettingError.check("noise", noise, "at least 0", lambda x: 0 <= x < inf)
    check_generator(generator)
    several: dict[Parameter, list[Parameter]] = {}
    share: dict[Parameter, Parameter] = {}

    def choose(layer: SumLayer, inputs: Sequence[Layer], variable: int) -> Layer:
        weight = layer.weight
        if weight not in several:
            drawn = torch.randn(gates, *weight.shape, generator=generator, dtype=weight.value.dtype)
            several[weight] = [Parameter(weight.value + noise * one) for one in drawn]
            share[weight] = Parameter(weight.value.new_zeros(layer.units, gates))
        ways = [replace(layer, inputs=tuple(inputs), weight=one) for one in several[weight]]
        families = [Indicator([gate] * layer.units, gates) for gate in range(gates)]
        marked = [_beside(variable, *pair) for pair in zip(families, ways, strict=True)]
        return SumLayer(marked, share[weight], mixing=True)

    return _with_variables(circuit, choose)


def _with_variables(
    circuit: Circuit, choose: Callable[[SumLayer, Sequence[Layer], int], Layer]
) -> Circuit:
    """Rebuild every sum layer with a variable of its own, numbered from the root down."""
    sums = [layer for layer in reversed(circuit.layers) if isinstance(layer, SumLayer)]
    number = {layer: circuit.num_variables + n for n, layer in enumerate(sums)}

    def at_input(layer: InputLayer) -> Layer:
        return layer

    def at_sum(layer: SumLayer, inputs: tuple[Layer, ...]) -> Layer:
        return choose(layer, inputs, number[layer])

    def at_product(layer: ProductLayer, inputs: tuple[Layer, ...]) -> Layer:
        return replace(layer, inputs=inputs)

    return Circuit(circuit.fold(at_input, at_sum, at_product))


def _beside(variable: int, family: Indicator, layer: Layer) -> Layer:
    """A layer whose unit k is there only at the value of unit k of the family."""
    mark = InputLayer(variable, family, layer.units)
    if isinstance(layer, ProductLayer) and layer.unit_by_unit:
        return ProductLayer([*layer.inputs, mark])
    return ProductLayer([layer, mark])
