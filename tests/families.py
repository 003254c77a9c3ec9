"""An instance of every input family that has parameters."""

import pcflow as pf

FAMILIES = [
    pf.Bernoulli(),
    pf.Binomial(3),
    pf.Categorical(3),
    pf.DiscretizedLogistic(4),
    pf.Exponential(),
    pf.Gaussian(),
    pf.Histogram([0.0, 1.0, 3.0]),
    pf.Inflated(pf.LogNormal()),
    pf.LogNormal(),
    pf.Poisson(),
]
