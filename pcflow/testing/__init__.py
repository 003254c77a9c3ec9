"""Circuits and evidence from Hypothesis, and an oracle that adds up states: for tests.

Install with `pip install 'pcflow[testing]'`.
"""

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
    "Enumeration",
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
