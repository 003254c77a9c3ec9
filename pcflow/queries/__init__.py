"""What users hold and ask: the compiled circuit and its queries."""

from pcflow.queries.compiled import CompiledCircuit, as_model, compile
from pcflow.queries.projection import ProjectedEvidence
from pcflow.queries.queries import MPE, Draws, chosen_potentials

__all__ = [
    "MPE",
    "CompiledCircuit",
    "Draws",
    "ProjectedEvidence",
    "as_model",
    "chosen_potentials",
    "compile",
]
