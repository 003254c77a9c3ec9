"""The testing kit: laws for your own densities, circuits and input families, and what they need.

`check_density` is for any object of any library, `check_circuit` for a structure of your own,
`check_input_family` for a family of your own, `check_units` for whatever learns from a table. Below
them are Hypothesis strategies for circuits and evidence, and an oracle that adds up states. Install
with `pip install 'pcflow[testing]'`.
"""

from pcflow.testing.breach import Breach, LawBroken
from pcflow.testing.broken import broken
from pcflow.testing.by_property import (
    compatible_circuits,
    deterministic_circuits,
    tree_distributions,
)
from pcflow.testing.density import check_density
from pcflow.testing.families import check_input_family
from pcflow.testing.ingredients import finite_families, mixed_families, vtrees
from pcflow.testing.laws import check_circuit
from pcflow.testing.learning import partly_frozen, row_weights
from pcflow.testing.oracle import (
    Enumeration,
    count_active_inputs,
    enumerate_log_prob,
    enumerate_marginals,
    enumerate_mpe,
    enumerate_states,
    enumerate_support,
    enumerate_weights,
)
from pcflow.testing.profile import register_profile
from pcflow.testing.report import Outcome, Report
from pcflow.testing.strategies import circuits, evidence, intervals, region_graphs
from pcflow.testing.units import check_units, units

__all__ = [
    "Breach",
    "Enumeration",
    "LawBroken",
    "Outcome",
    "Report",
    "broken",
    "check_circuit",
    "check_density",
    "check_input_family",
    "check_units",
    "circuits",
    "compatible_circuits",
    "count_active_inputs",
    "deterministic_circuits",
    "enumerate_log_prob",
    "enumerate_marginals",
    "enumerate_mpe",
    "enumerate_states",
    "enumerate_support",
    "enumerate_weights",
    "evidence",
    "finite_families",
    "intervals",
    "mixed_families",
    "partly_frozen",
    "region_graphs",
    "register_profile",
    "row_weights",
    "tree_distributions",
    "units",
    "vtrees",
]
