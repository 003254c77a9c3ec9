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
    Unsatisfiable,
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
from pcflow.io import load, save
from pcflow.layers import InputLayer, Parameter, ProductLayer, SumLayer
from pcflow.learn import EM, Anemone, FitResult, Gradient, MiniBatchEM, fit
from pcflow.logic import CNF, ModelCount, compile_cnf, model_count, read_dimacs, write_dimacs
from pcflow.projection import ProjectedEvidence
from pcflow.properties import is_deterministic
from pcflow.queries import MPE
from pcflow.reference import reference_log_prob
from pcflow.refine import grow, prune
from pcflow.region_graph import Partition, Region, RegionGraph
from pcflow.spn import learn_spn
from pcflow.trees import chow_liu, hclt, mixture_of_trees

__all__ = [
    "CNF",
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
    "ModelCount",
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
    "Unsatisfiable",
    "build_circuit",
    "chow_liu",
    "compile",
    "compile_cnf",
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
    "model_count",
    "naive_bayes",
    "prune",
    "read_dimacs",
    "reference_log_prob",
    "save",
    "structure",
    "write_dimacs",
]
