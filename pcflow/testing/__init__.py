"""The testing kit: laws for your own densities, circuits and input families, and what they need.

`check_density` is for any object of any library, `check_circuit` for a structure of your own,
`check_input_family` for a family of your own. Below them are Hypothesis strategies for circuits and
evidence, and an oracle that adds up states. Install with `pip install 'pcflow[testing]'`.
"""

from pcflow.testing.breach import Breach, LawBroken
from pcflow.testing.density import check_density
from pcflow.testing.families import check_input_family
from pcflow.testing.laws import check_circuit
from pcflow.testing.oracle import (
    Enumeration,
    enumerate_log_prob,
    enumerate_marginals,
    enumerate_mpe,
    enumerate_states,
    enumerate_weights,
)
from pcflow.testing.strategies import (
    circuits,
    deterministic_circuits,
    evidence,
    finite_families,
    mixed_families,
    region_graphs,
)

__all__ = [
    "Breach",
    "Enumeration",
    "LawBroken",
    "check_circuit",
    "check_density",
    "check_input_family",
    "circuits",
    "deterministic_circuits",
    "enumerate_log_prob",
    "enumerate_marginals",
    "enumerate_mpe",
    "enumerate_states",
    "enumerate_weights",
    "evidence",
    "finite_families",
    "mixed_families",
    "region_graphs",
]
