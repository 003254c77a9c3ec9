"""Families of inputs, each in a circuit of its own, and all in one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import pcflow as pf
from cases.given import DTYPES, Cases, asked, codes, gaps, gradients, in_both, queried, seeded
from cases.learning import learned


def columns() -> dict[str, tuple[pf.Categorical | Any, Tensor]]:
    """Every family of inputs, with 80 rows of three variables of its kind."""
    real = torch.randn(80, 3, generator=seeded(), dtype=torch.float64)
    return {
        "Categorical": (pf.Categorical(4), codes(80, 3, 4)),
        "Bernoulli": (pf.Bernoulli(), codes(80, 3, 2)),
        "Binomial": (pf.Binomial(5), codes(80, 3, 6)),
        "DiscretizedLogistic": (pf.DiscretizedLogistic(8), codes(80, 3, 8)),
        "Indicator": (pf.Indicator([0, 1]), codes(80, 1, 2).expand(-1, 3)),
        "Gaussian": (pf.Gaussian(), real),
        "LogNormal": (pf.LogNormal(), real.exp()),
        "Exponential": (pf.Exponential(), real.abs()),
        "Histogram": (pf.Histogram.of(real.flatten(), bins=6), real),
        "Poisson": (pf.Poisson(), codes(80, 3, 7)),
    }


def inputs() -> Cases:
    """Queries, learning, moments and products of every family."""
    for name, (family, x) in columns().items():
        drawn = pf.naive_bayes([family] * 3, 2, seeded())
        circuit = pf.initialize(drawn, x, seeded())
        holes = gaps(x)[:4]
        yield name, [drawn, circuit]
        yield f"{name}, log prob", asked(circuit, x, holes)
        yield f"{name}, queries", [queried(m, holes) for m in in_both(circuit)]
        yield f"{name}, gradients", [gradients(m, holes) for m in in_both(circuit)]
        for learner in (pf.EM(0.1), pf.Anemone()):
            both = [learned(circuit, gaps(x), learner, dtype=dtype) for dtype in DTYPES]
            yield f"{name}, {type(learner).__name__}", both
        yield f"{name}, moments", [pf.covariance(circuit), pf.moment(circuit, {0: 2, 1: 1})]
        if name != "Poisson":  # whose products are no Poissons
            yield f"{name}, squared", asked(pf.multiply(circuit, circuit), x)


def mixed_inputs() -> Cases:
    """All families in one circuit."""
    families = [family for family, _ in columns().values()]
    x = torch.stack([x[:, 0].double() for _, x in columns().values()], dim=1)
    graph = pf.structure.random_binary_tree(len(families), replicas=2, seed=3)
    circuit = pf.initialize(pf.build_circuit(graph, families, 2, generator=seeded()), x, seeded())
    yield "log prob", asked(circuit, x, gaps(x))
    yield "queries", [queried(model, gaps(x)[:5]) for model in in_both(circuit)]
    yield "learned", [learned(circuit, gaps(x), pf.EM(0.1)), learned(circuit, x, pf.Anemone())]
