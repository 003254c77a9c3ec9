"""Learning parameters: learners, and `fit`, which runs one of them."""

from pcflow.learn.data import Conditional, Examples, Team
from pcflow.learn.em import EM
from pcflow.learn.fit import FitResult, Learner, fit
from pcflow.learn.gradient import Gradient
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
]
