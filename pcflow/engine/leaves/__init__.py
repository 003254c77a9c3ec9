"""The bottom of both passes: evidence into input units, and flows of input units back out.

One leaf object per input step of a plan; it keeps what the way down needs. `FiniteLeaf` reads a
table: an observation is a gather, soft evidence one matrix product over the soft entries, a
missing value is one. `DensityLeaf` evaluates log-densities.
"""

from pcflow.engine.leaves.base import Leaf
from pcflow.engine.leaves.density import DensityLeaf
from pcflow.engine.leaves.few import FewLeaf
from pcflow.engine.leaves.finite import FiniteLeaf
from pcflow.engine.leaves.gate import GateLeaf
from pcflow.engine.leaves.posteriors import log_flows, log_posterior, rank_over_same_variable
from pcflow.engine.leaves.share import ShareLeaf
from pcflow.engine.plan import InputStep
from pcflow.engine.semiring import Semiring
from pcflow.engine.tables import Tables
from pcflow.evidence import CheckedEvidence
from pcflow.inputs import Few, FiniteFamily, Gate, Share

__all__ = [
    "DensityLeaf",
    "FiniteLeaf",
    "GateLeaf",
    "Leaf",
    "log_flows",
    "log_posterior",
    "make_leaf",
    "rank_over_same_variable",
]


def make_leaf(
    step: InputStep, tables: Tables, evidence: CheckedEvidence, semiring: Semiring, keep: bool
) -> Leaf:
    """The leaf of an input step; with `keep`, ready for the way down."""
    if isinstance(step.family, Few):
        return FewLeaf(step, tables, evidence, semiring, keep)
    if isinstance(step.family, Share):
        return ShareLeaf(step, tables, evidence, semiring, keep)
    if isinstance(step.family, FiniteFamily):
        return FiniteLeaf(step, tables, evidence, semiring, keep)
    if isinstance(step.family, Gate):
        return GateLeaf(step, tables, evidence, semiring)
    return DensityLeaf(step, tables, evidence, semiring)
