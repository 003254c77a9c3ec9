"""Circuits from something: a region graph, a chain, data, another circuit."""

from pcflow.construct.augment import add_gates, expose_latents
from pcflow.construct.chains import hmm
from pcflow.construct.initial import initialize
from pcflow.construct.regions import build_circuit, naive_bayes
from pcflow.construct.spn import learn_spn
from pcflow.construct.stationary import stationary
from pcflow.construct.trees import chow_liu, hclt, mixture_of_trees
from pcflow.construct.unrolled import unroll
from pcflow.construct.untied import untie

__all__ = [
    "add_gates",
    "build_circuit",
    "chow_liu",
    "expose_latents",
    "hclt",
    "hmm",
    "initialize",
    "learn_spn",
    "mixture_of_trees",
    "naive_bayes",
    "stationary",
    "unroll",
    "untie",
]
