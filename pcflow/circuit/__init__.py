"""What a circuit is: its layers, its scopes, and what is proved of it."""

from pcflow.circuit.circuit import Circuit
from pcflow.circuit.layers import (
    InputLayer,
    Layer,
    Parameter,
    ProductLayer,
    SumLayer,
    layer_parameters,
)
from pcflow.circuit.pairing import Part, Structure, walk
from pcflow.circuit.properties import (
    Compatible,
    Deterministic,
    OmniCompatible,
    Properties,
    StructuredDecomposable,
    is_deterministic,
    prove_compatible,
    prove_deterministic,
    prove_omni_compatible,
    prove_structured_decomposable,
    required_by,
)
from pcflow.circuit.rebuild import read_units, rebuild

__all__ = [
    "Circuit",
    "Compatible",
    "Deterministic",
    "InputLayer",
    "Layer",
    "OmniCompatible",
    "Parameter",
    "Part",
    "ProductLayer",
    "Properties",
    "Structure",
    "StructuredDecomposable",
    "SumLayer",
    "is_deterministic",
    "layer_parameters",
    "prove_compatible",
    "prove_deterministic",
    "prove_omni_compatible",
    "prove_structured_decomposable",
    "read_units",
    "rebuild",
    "required_by",
    "walk",
]
