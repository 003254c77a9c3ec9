"""Input families: the univariate distributions at the leaves of a circuit, one file each."""

from pcflow.inputs.base import (
    DensityFamily,
    ExponentialFamily,
    FiniteFamily,
    InputFamily,
    Params,
    Power,
    alike,
    powered,
    spread_of,
)
from pcflow.inputs.bernoulli import Bernoulli
from pcflow.inputs.binomial import Binomial
from pcflow.inputs.categorical import Categorical, log_shares, smoothed
from pcflow.inputs.discretized_logistic import DiscretizedLogistic
from pcflow.inputs.exponential import Exponential
from pcflow.inputs.gate import Gate
from pcflow.inputs.gaussian import Gaussian
from pcflow.inputs.histogram import Histogram
from pcflow.inputs.indicator import Indicator
from pcflow.inputs.inflated import Inflated
from pcflow.inputs.intervals import log_sum
from pcflow.inputs.log_normal import LogNormal
from pcflow.inputs.poisson import Poisson
from pcflow.inputs.registry import FAMILIES, register_family
from pcflow.inputs.share import Few, Share, few

__all__ = [
    "FAMILIES",
    "Bernoulli",
    "Binomial",
    "Categorical",
    "DensityFamily",
    "DiscretizedLogistic",
    "Exponential",
    "ExponentialFamily",
    "Few",
    "FiniteFamily",
    "Gate",
    "Gaussian",
    "Histogram",
    "Indicator",
    "Inflated",
    "InputFamily",
    "LogNormal",
    "Params",
    "Poisson",
    "Power",
    "Share",
    "alike",
    "few",
    "log_shares",
    "log_sum",
    "powered",
    "register_family",
    "smoothed",
    "spread_of",
]
