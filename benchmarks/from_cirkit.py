"""Circuits over images by `libcirkit`, and the same with their parameters as circuits of pcflow.

Both sides of a benchmark must run the same function. Only what region graphs with
`LogitsFactory` build is read:
categorical inputs, dense and mixing sums, Hadamard and Kronecker products, softmax everywhere.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from cirkit.backend.torch.queries import SamplingQuery
from cirkit.pipeline import PipelineContext
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
from cirkit.templates.region_graph import PoonDomingos, QuadGraph, QuadTree
from cirkit.utils.scope import Scope

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


def symbolic(
    regions: str, sum_product: str, units: int, side: int, categories: int, delta: int = 1
) -> SymbolicCircuit:
    """The peer's circuit over square images, with random parameters that can be read back.

    That of Poon and Domingos is cut at every `delta` pixels.
    """
    weights = LogitsFactory(seed=0)
    image = (1, side, side)

    def pixel(scope: Scope, num_units: int) -> CategoricalLayer:
        probs = weights((num_units, categories), lift=8.0)
        return CategoricalLayer(scope, num_units, num_categories=categories, probs=probs)

    graph = {
        "quad_tree": lambda: QuadTree(image, num_patch_splits=2),
        "quad_graph": lambda: QuadGraph(image),
        "poon_domingos": lambda: PoonDomingos(image, delta=delta),
    }[regions]()
    return graph.build_circuit(
        input_factory=pixel,
        sum_product=sum_product,
        sum_weight_factory=weights,
        nary_sum_weight_factory=weights.mixing,
        num_input_units=units,
        num_sum_units=units,
    )


def compiled(circuit: SymbolicCircuit) -> Any:
    """The peer's module."""
    context = PipelineContext("torch", semiring="lse-sum", fold=True, optimize=True)
    return context.compile(circuit)


def sampler(theirs: Any) -> SamplingQuery:
    """The peer's unconditional draws."""
    return SamplingQuery(theirs)


def from_cirkit(circuit: SymbolicCircuit) -> pf.Circuit:
    """The same circuit with the same parameters.

    Args:
        circuit: made with `LogitsFactory` for every parameter.

    Raises:
        TypeError: if a layer is of another kind.
    """
    built: dict[Layer, Any] = {}
    for layer in circuit.topological_ordering():
        inputs = [built[child] for child in circuit.layer_inputs(layer)]
        built[layer] = _convert(layer, inputs)
    (output,) = circuit.outputs
    return pf.Circuit(built[output])


def _convert(layer: Layer, inputs: list[Any]) -> Any:
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
