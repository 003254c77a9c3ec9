"""Circuits and evidence from Hypothesis, and an oracle that adds up states: for tests.

Install with `pip install 'pcflow[testing]'`.
"""

from pcflow.testing.broken import broken
from pcflow.testing.by_property import (
    compatible_circuits,
    deterministic_circuits,
    tree_distributions,
)
from pcflow.testing.families import finite_families, mixed_families, vtrees
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
from pcflow.testing.strategies import circuits, evidence, region_graphs

__all__ = [
    "Enumeration",
    "broken",
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
    "mixed_families",
    "region_graphs",
    "tree_distributions",
    "vtrees",
]
