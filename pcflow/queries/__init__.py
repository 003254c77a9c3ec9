"""What users hold and ask: the compiled circuit and its queries."""

from pcflow.queries.compiled import CompiledCircuit, as_circuit, as_model, compile
from pcflow.queries.draws import Draws
from pcflow.queries.filtering import Filter
from pcflow.queries.given import Given
from pcflow.queries.mpe import MPE, chosen_potentials
from pcflow.queries.possible import never, refuse_impossible
from pcflow.queries.projection import ProjectedEvidence
from pcflow.queries.states import Viterbi, state_posteriors, viterbi

__all__ = [
    "MPE",
    "CompiledCircuit",
    "Draws",
    "Filter",
    "Given",
    "ProjectedEvidence",
    "Viterbi",
    "as_circuit",
    "as_model",
    "chosen_potentials",
    "compile",
    "never",
    "refuse_impossible",
    "state_posteriors",
    "viterbi",
]
