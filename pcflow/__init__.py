"""pcflow: compile probabilistic circuits and query them exactly.

A *region graph* says how variables are split; a *circuit* puts layers of sum, product and input
units on it and is proved smooth and decomposable as it is built; a *compiled circuit* runs it.
Every query is one upward pass over *evidence* and at most one downward pass. To read the code,
begin with `passes.py`.
"""

from pcflow import datasets, structure
from pcflow.build import build_circuit, hmm, naive_bayes
from pcflow.circuit import Circuit
from pcflow.compiled import CompiledCircuit, compile
from pcflow.errors import (
    EvidenceError,
    FileFormatError,
    NoMassError,
    NotDecomposable,
    NotSmooth,
    PcflowError,
    PropertyRequired,
    StructureError,
)
from pcflow.evidence import Evidence
from pcflow.initial import initialize
from pcflow.inputs import (
    Bernoulli,
    Binomial,
    Categorical,
    DiscretizedLogistic,
    Exponential,
    Gaussian,
    Histogram,
    Indicator,
    LogNormal,
    Poisson,
)
from pcflow.io import load, read_psdd, save, write_psdd
from pcflow.layers import InputLayer, Parameter, ProductLayer, SumLayer
from pcflow.learn import EM, Anemone, FitResult, Gradient, MiniBatchEM, fit
from pcflow.projection import ProjectedEvidence
from pcflow.properties import is_deterministic
from pcflow.queries import MPE
from pcflow.reference import reference_log_prob
from pcflow.refine import grow, prune
from pcflow.region_graph import Partition, Region, RegionGraph
from pcflow.spn import learn_spn
from pcflow.trees import chow_liu, hclt, mixture_of_trees

__all__ = [
    "EM",
    "MPE",
    "Anemone",
    "Bernoulli",
    "Binomial",
    "Categorical",
    "Circuit",
    "CompiledCircuit",
    "DiscretizedLogistic",
    "Evidence",
    "EvidenceError",
    "Exponential",
    "FileFormatError",
    "FitResult",
    "Gaussian",
    "Gradient",
    "Histogram",
    "Indicator",
    "InputLayer",
    "LogNormal",
    "MiniBatchEM",
    "NoMassError",
    "NotDecomposable",
    "NotSmooth",
    "Parameter",
    "Partition",
    "PcflowError",
    "Poisson",
    "ProductLayer",
    "ProjectedEvidence",
    "PropertyRequired",
    "Region",
    "RegionGraph",
    "StructureError",
    "SumLayer",
    "build_circuit",
    "chow_liu",
    "compile",
    "datasets",
    "fit",
    "grow",
    "hclt",
    "hmm",
    "initialize",
    "is_deterministic",
    "learn_spn",
    "load",
    "mixture_of_trees",
    "naive_bayes",
    "prune",
    "read_psdd",
    "reference_log_prob",
    "save",
    "structure",
    "write_psdd",
]
