"""Learning: `fit`, the learners that it runs, and growing and pruning."""

from pcflow.learn.data import Conditional, Examples, Team
from pcflow.learn.em import EM
from pcflow.learn.fit import FitResult, Learner, fit
from pcflow.learn.gradient import Gradient
from pcflow.learn.refine import grow, prune
from pcflow.learn.stochastic import Anemone, MiniBatchEM

__all__ = [
    "EM",
    "Anemone",
    "Conditional",
    "Examples",
    "FitResult",
    "Gradient",
    "Learner",
    "MiniBatchEM",
    "Team",
    "fit",
    "grow",
    "prune",
]
