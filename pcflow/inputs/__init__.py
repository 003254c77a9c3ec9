"""Input families: the univariate distributions at the leaves of a circuit, one file each."""

from pcflow.inputs.base import DensityFamily, FiniteFamily, InputFamily
from pcflow.inputs.bernoulli import Bernoulli
from pcflow.inputs.categorical import Categorical
from pcflow.inputs.gaussian import Gaussian
from pcflow.inputs.indicator import Indicator

FAMILIES: dict[str, type[InputFamily]] = {
    family.__name__: family for family in (Bernoulli, Categorical, Gaussian, Indicator)
}
"""Every family that files may name, by class name."""

__all__ = [
    "FAMILIES",
    "Bernoulli",
    "Categorical",
    "DensityFamily",
    "FiniteFamily",
    "Gaussian",
    "Indicator",
    "InputFamily",
]
