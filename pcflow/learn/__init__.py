"""Learning parameters: learners, and `fit`, which runs one of them."""

from pcflow.learn.em import EM
from pcflow.learn.fit import FitResult, fit
from pcflow.learn.gradient import Gradient
from pcflow.learn.stochastic import Anemone, MiniBatchEM

__all__ = ["EM", "Anemone", "FitResult", "Gradient", "MiniBatchEM", "fit"]
