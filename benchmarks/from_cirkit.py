"""A circuit of `libcirkit`, with its parameters, as a circuit of pcflow.

Both sides of a benchmark must run the same function. Only what region graphs with
`LogitsFactory` build is read:
categorical inputs, dense and mixing sums, Hadamard and Kronecker products, softmax everywhere.
"""

from __future__ import annotations

import numpy as np
import torch
from cirkit.symbolic.circuit import Circuit as SymbolicCircuit
from cirkit.symbolic.initializers import ConstantTensorInitializer
from cirkit.symbolic.layers import CategoricalLayer, HadamardLayer, KroneckerLayer, Layer, SumLayer
from cirkit.symbolic.parameters import (
    MixingWeightParameter,
    Parameter,
    SoftmaxParameter,
    TensorParameter,
    mixing_weight_factory,
)

import pcflow as pf


class LogitsFactory:
    """Makes parameters of given shape: the softmax of random logits, whose values are known."""

    def __init__(self, seed: int) -> None:
        """Seed the logits."""
        self.random = np.random.default_rng(seed)

    def __call__(self, shape: tuple[int, ...], lift: float = 0.0) -> Parameter:
        """A parameter of `shape`, softmax over its last axis; `lift` is added to entry 0."""
        logits = self.random.standard_normal(shape).astype(np.float32)
        logits[..., 0] += lift
        values = TensorParameter(*shape, initializer=ConstantTensorInitializer(logits))
        return Parameter.from_unary(SoftmaxParameter(shape), values)

    def mixing(self, shape: tuple[int, ...]) -> Parameter:
        """The same for sums that weigh whole inputs, unit by unit."""
        return mixing_weight_factory(shape, param_factory=self)


def from_cirkit(circuit: SymbolicCircuit) -> pf.Circuit:
    """The same circuit with the same parameters.

    Args:
        circuit: made with `LogitsFactory` for every parameter.

    Raises:
        TypeError: if a layer is of another kind.
    """
    built: dict[Layer, pf.circuit.Layer] = {}
    for layer in circuit.topological_ordering():
        inputs = [built[child] for child in circuit.layer_inputs(layer)]
        built[layer] = _convert(layer, inputs)
    (output,) = circuit.outputs
    return pf.Circuit(built[output])


def _convert(layer: Layer, inputs: list[pf.circuit.Layer]) -> pf.circuit.Layer:
    match layer:
        case CategoricalLayer():
            (variable,) = layer.scope
            logits = _logits(layer.probs).t().contiguous()  # [V, K]
            family = pf.Categorical(layer.num_categories)
            parameters = {"logits": pf.Parameter(logits)}
            return pf.InputLayer(variable, family, layer.num_output_units, parameters)
        case SumLayer():
            mixing = any(isinstance(n, MixingWeightParameter) for n in layer.weight.nodes)
            return pf.SumLayer(inputs, pf.Parameter(_logits(layer.weight)), mixing)
        case HadamardLayer():
            return pf.ProductLayer(inputs)
        case KroneckerLayer():
            return pf.ProductLayer(inputs, "kronecker")
    raise TypeError(f"no counterpart of {type(layer).__name__}")


def _logits(parameter: Parameter) -> torch.Tensor:
    (values,) = [node for node in parameter.nodes if isinstance(node, TensorParameter)]
    assert isinstance(values.initializer, ConstantTensorInitializer)
    return torch.from_numpy(np.asarray(values.initializer.value))
