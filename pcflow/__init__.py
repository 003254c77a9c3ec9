"""pcflow: compile probabilistic circuits and query them exactly.

A *region graph* says how variables are split; a *circuit* puts layers of sum, product and input
units on it and is proved smooth and decomposable as it is built; a *compiled circuit* runs it.
Every query is one upward pass over *evidence* and at most one downward pass. To read the code,
begin with `passes.py`.
"""

from pcflow import datasets, structure
from pcflow.augment import add_gates, expose_latents
from pcflow.bounds import (
    entropy_lower_bound,
    entropy_upper_bound,
    map_lower_bound,
    map_upper_bound,
    mpe_lower_bound,
    mpe_upper_bound,
)
from pcflow.build import build_circuit, hmm, naive_bayes
from pcflow.circuit import Circuit
from pcflow.compiled import CompiledCircuit, compile
from pcflow.errors import (
    EvidenceError,
    FileFormatError,
    NoMassError,
    NotCompatible,
    NotDecomposable,
    NotDeterministic,
    NotOmniCompatible,
    NotSmooth,
    NotStructuredDecomposable,
    PcflowError,
    PropertyRequired,
    StructureError,
    Unsatisfiable,
)
from pcflow.estimates import (
    Estimate,
    cross_entropy_estimate,
    entropy_estimate,
    expectation_estimate,
    kl_estimate,
    mutual_information_estimate,
)
from pcflow.evidence import Evidence
from pcflow.information import (
    cauchy_schwarz_divergence,
    cross_entropy,
    entropy,
    expectation,
    kl_divergence,
    log_expectation,
    marginal_map,
    renyi_divergence,
    renyi_entropy,
)
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
from pcflow.learn import (
    EM,
    Anemone,
    Conditional,
    Examples,
    FitResult,
    Gradient,
    Learner,
    MiniBatchEM,
    fit,
)
from pcflow.logic import CNF, ModelCount, compile_cnf, model_count, read_dimacs, write_dimacs
from pcflow.moments import covariance, moment, mutual_information, pairwise_mutual_information
from pcflow.projection import ProjectedEvidence
from pcflow.properties import (
    Compatible,
    Deterministic,
    OmniCompatible,
    Properties,
    StructuredDecomposable,
    is_deterministic,
    prove_compatible,
    prove_deterministic,
    prove_omni_compatible,
    prove_structured_decomposable,
)
from pcflow.queries import MPE
from pcflow.reference import reference_log_prob
from pcflow.refine import grow, prune
from pcflow.region_graph import Partition, Region, RegionGraph
from pcflow.spn import learn_spn
from pcflow.transform import condition, marginalize, mixture, multiply, power, restrict
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
    "Compatible",
    "CompiledCircuit",
    "Conditional",
    "Deterministic",
    "DiscretizedLogistic",
    "Estimate",
    "Evidence",
    "EvidenceError",
    "Examples",
    "Exponential",
    "FileFormatError",
    "FitResult",
    "Gaussian",
    "Gradient",
    "Histogram",
    "Indicator",
    "InputLayer",
    "Learner",
    "LogNormal",
    "MiniBatchEM",
    "ModelCount",
    "NoMassError",
    "NotCompatible",
    "NotDecomposable",
    "NotDeterministic",
    "NotOmniCompatible",
    "NotSmooth",
    "NotStructuredDecomposable",
    "OmniCompatible",
    "Parameter",
    "Partition",
    "PcflowError",
    "Poisson",
    "ProductLayer",
    "ProjectedEvidence",
    "Properties",
    "PropertyRequired",
    "Region",
    "RegionGraph",
    "StructureError",
    "StructuredDecomposable",
    "SumLayer",
    "Unsatisfiable",
    "add_gates",
    "build_circuit",
    "cauchy_schwarz_divergence",
    "chow_liu",
    "compile",
    "compile_cnf",
    "condition",
    "covariance",
    "cross_entropy",
    "cross_entropy_estimate",
    "datasets",
    "entropy",
    "entropy_estimate",
    "entropy_lower_bound",
    "entropy_upper_bound",
    "expectation",
    "expectation_estimate",
    "expose_latents",
    "fit",
    "grow",
    "hclt",
    "hmm",
    "initialize",
    "is_deterministic",
    "kl_divergence",
    "kl_estimate",
    "learn_spn",
    "load",
    "log_expectation",
    "map_lower_bound",
    "map_upper_bound",
    "marginal_map",
    "marginalize",
    "mixture",
    "mixture_of_trees",
    "model_count",
    "moment",
    "mpe_lower_bound",
    "mpe_upper_bound",
    "multiply",
    "mutual_information",
    "mutual_information_estimate",
    "naive_bayes",
    "pairwise_mutual_information",
    "power",
    "prove_compatible",
    "prove_deterministic",
    "prove_omni_compatible",
    "prove_structured_decomposable",
    "prune",
    "read_dimacs",
    "read_psdd",
    "reference_log_prob",
    "renyi_divergence",
    "renyi_entropy",
    "restrict",
    "save",
    "structure",
    "write_dimacs",
    "write_psdd",
]
