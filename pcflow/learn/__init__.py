"""Learning parameters: learners, and `fit`, which runs one of them."""

from pcflow.learn.em import EM
from pcflow.learn.fit import FitResult, fit
from pcflow.learn.gradient import Gradient

__all__ = ["EM", "FitResult", "Gradient", "fit"]
