"""What a circuit is: its layers, its scopes, and what is proved of it."""

from pcflow.circuit.circuit import Circuit, is_deterministic
from pcflow.circuit.garbage import no_collection
from pcflow.circuit.layers import (
    Fixed,
    InputLayer,
    Layer,
    Parameter,
    ProductLayer,
    SumLayer,
    Unit,
    layer_parameters,
)
from pcflow.circuit.markov import MarkovChain, Position
from pcflow.circuit.pairing import Part, Structure, walk
from pcflow.circuit.properties import (
    Compatible,
    Decomposable,
    Deterministic,
    OmniCompatible,
    Properties,
    Smooth,
    StructuredDecomposable,
    prove_compatible,
    prove_deterministic,
    prove_omni_compatible,
    prove_structured_decomposable,
    required_by,
)
from pcflow.circuit.rebuild import alike, kept, read_units, rebuild
from pcflow.circuit.reference import reference_log_prob, unit_log_probs
from pcflow.circuit.supports import Supports
from pcflow.circuit.turns import Turn, Turns

__all__ = [
    "Circuit",
    "Compatible",
    "Decomposable",
    "Deterministic",
    "Fixed",
    "InputLayer",
    "Layer",
    "MarkovChain",
    "OmniCompatible",
    "Parameter",
    "Part",
    "Position",
    "ProductLayer",
    "Properties",
    "Smooth",
    "Structure",
    "StructuredDecomposable",
    "SumLayer",
    "Supports",
    "Turn",
    "Turns",
    "Unit",
    "alike",
    "is_deterministic",
    "kept",
    "layer_parameters",
    "no_collection",
    "prove_compatible",
    "prove_deterministic",
    "prove_omni_compatible",
    "prove_structured_decomposable",
    "read_units",
    "rebuild",
    "reference_log_prob",
    "required_by",
    "unit_log_probs",
    "walk",
]
