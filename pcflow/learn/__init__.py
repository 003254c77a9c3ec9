"""Learning: `fit`, the learners that it runs, and growing and pruning."""

from pcflow.learn.batch import Batch, Model
from pcflow.learn.conditional import ConditionalCircuit, Conditioned
from pcflow.learn.data import Examples
from pcflow.learn.em import EM
from pcflow.learn.fit import FitInterrupted, FitResult, fit
from pcflow.learn.gradient import Gradient
from pcflow.learn.learner import Learner, Run
from pcflow.learn.refine import grow, prune
from pcflow.learn.stochastic import Anemone, MiniBatchEM
from pcflow.learn.team import Team

__all__ = [
    "EM",
    "Anemone",
    "Batch",
    "ConditionalCircuit",
    "Conditioned",
    "Examples",
    "FitInterrupted",
    "FitResult",
    "Gradient",
    "Learner",
    "MiniBatchEM",
    "Model",
    "Run",
    "Team",
    "fit",
    "grow",
    "prune",
]
