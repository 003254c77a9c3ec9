"""Monte Carlo estimates with their standard errors, for what has no exact answer or a costly one.

Every estimate is the average of a score of exact draws. Legend: n draws, D variables.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import isinf, nan, sqrt
from typing import NamedTuple

import torch
from torch import Tensor

from pcflow.algebra.moments import disjoint_variables, marginal_log_prob
from pcflow.checks import check_generator, check_kind, check_whole
from pcflow.circuit import Circuit
from pcflow.errors import SettingError, StructureError
from pcflow.queries import CompiledCircuit, as_model

Score = Callable[[Tensor], Tensor]
"""From draws [n, D] to one number each [n]."""


class Estimate(NamedTuple):
    """An average over draws.

    Attributes:
        value: the average. Infinite if the score of some draw is.
        standard_error: standard deviation of the scores over the root of their number: about 95 %
            of all estimates are within two of it. Zero if the value is infinite, because one such
            draw proves it; NaN if the value is.

    Examples:
        >>> value, standard_error = Estimate(0.5, 0.01)
        >>> f"{value} ± {2 * standard_error}"
        '0.5 ± 0.02'
    """

    value: float
    standard_error: float


def expectation_estimate(
    model: Circuit | CompiledCircuit,
    function: Score,
    n: int,
    generator: torch.Generator | None = None,
) -> Estimate:
    """E[f(x)] for any function of a state.

    Args:
        model: any circuit, which is then compiled in float64, or a compiled one.
        function: from states [n, D] to a number each [n]; called on parts of the draws.
        n: number of draws, at least two.
        generator: source of randomness; torch's global one by default.

    Returns:
        The mean over the draws, and its standard error.

    Raises:
        SettingError: if `n` is less than two, or the function's answer is not [n].

    Examples:
        >>> import pcflow as pf
        >>> normal = {name: pf.Parameter(torch.zeros(1)) for name in ("mean", "log_std")}
        >>> circuit = pf.Circuit(pf.InputLayer(0, pf.Gaussian(), 1, normal))
        >>> value, error = expectation_estimate(circuit, lambda x: (x[:, 0] > 0).double(), 10_000)
        >>> abs(value - 0.5) < 5 * error
        True
    """
    check_kind("function", function, Callable, "a function from draws to scores")
    return _average(as_model(model), function, n, generator)


def entropy_estimate(
    model: Circuit | CompiledCircuit, n: int, generator: torch.Generator | None = None
) -> Estimate:
    """Entropy H(X) = -E[log p(x)] (nats), differential where values are real.

    Args:
        model: any circuit, which is then compiled in float64, or a compiled one.
        n: number of draws, at least two.
        generator: source of randomness; torch's global one by default.

    Returns:
        The mean over the draws, in nats, and its standard error.

    Raises:
        SettingError: if `n` is less than two.

    Examples:
        >>> import pcflow as pf
        >>> model = pf.compile(pf.hmm(4, states=2, inputs=pf.Categorical(3)))
        >>> value, error = entropy_estimate(model, 1_000)
        >>> pf.entropy_lower_bound(model) < value + 5 * error
        True
    """
    return cross_entropy_estimate(model, model, n, generator)


def cross_entropy_estimate(
    p: Circuit | CompiledCircuit,
    q: Circuit | CompiledCircuit,
    n: int,
    generator: torch.Generator | None = None,
) -> Estimate:
    """Cross-entropy -E_p[log q(x)] (nats).

    Infinite as soon as a draw from p is impossible under q. A finite estimate does not prove that
    there is none.

    Args:
        p: what is drawn from; any circuit, which is then compiled in float64, or a compiled one.
        q: what scores it, over the same variables.
        n: number of draws, at least two.
        generator: source of randomness; torch's global one by default.

    Returns:
        The mean over the draws, in nats, and its standard error.

    Raises:
        StructureError: if p and q are over different variables.
        SettingError: if `n` is less than two.

    Examples:
        >>> import pcflow as pf
        >>> p, q = (pf.hmm(3, states=2, inputs=pf.Bernoulli()) for _ in range(2))
        >>> cross_entropy_estimate(p, q, 1_000).value > 0
        True
    """
    p, q = _same_variables(p, q)
    return _average(p, lambda x: -q.log_prob(x), n, generator)


def kl_estimate(
    p: Circuit | CompiledCircuit,
    q: Circuit | CompiledCircuit,
    n: int,
    generator: torch.Generator | None = None,
) -> Estimate:
    """Kullback-Leibler divergence KL(p || q) = E_p[log p(x) - log q(x)] (nats).

    Infinite as soon as a draw from p is impossible under q. A finite estimate does not prove that
    there is none.

    Args:
        p: what is drawn from; any circuit, which is then compiled in float64, or a compiled one.
        q: what it is compared to, over the same variables.
        n: number of draws, at least two.
        generator: source of randomness; torch's global one by default.

    Returns:
        The mean over the draws, in nats, and its standard error.

    Raises:
        StructureError: if p and q are over different variables.
        SettingError: if `n` is less than two.

    Examples:
        >>> import pcflow as pf
        >>> p = pf.hmm(3, states=2, inputs=pf.Bernoulli())
        >>> kl_estimate(p, p, 100)
        Estimate(value=0.0, standard_error=0.0)
    """
    p, q = _same_variables(p, q)
    return _average(p, lambda x: p.log_prob(x) - q.log_prob(x), n, generator)


def mutual_information_estimate(
    model: Circuit | CompiledCircuit,
    a: int | Iterable[int],
    b: int | Iterable[int],
    n: int,
    generator: torch.Generator | None = None,
) -> Estimate:
    """Mutual information I(A; B) = E[log p(a, b) - log p(a) - log p(b)] (nats).

    For variables of any kind, with exact marginals of every draw.

    Args:
        model: any circuit, which is then compiled in float64, or a compiled one.
        a: a variable, or several.
        b: others.
        n: number of draws, at least two.
        generator: source of randomness; torch's global one by default.

    Returns:
        The mean over the draws, in nats, and its standard error.

    Raises:
        EvidenceError: if there is no such variable, a set is empty or both share a variable.
        SettingError: if `n` is less than two.

    Examples:
        >>> import pcflow as pf
        >>> values = [pf.InputLayer.random(v, pf.Gaussian()) for v in range(2)]
        >>> independent = pf.Circuit(pf.ProductLayer(values))
        >>> abs(mutual_information_estimate(independent, 0, 1, n=100).value) < 1e-12
        True
    """
    model = as_model(model)
    sets = disjoint_variables(model.engine.structure, a, b)

    def score(x: Tensor) -> Tensor:
        joint, *single = (
            marginal_log_prob(model, x[:, list(some)], some) for some in (sets[0] + sets[1], *sets)
        )
        return joint - single[0] - single[1]

    return _average(model, score, n, generator)


def _same_variables(
    p: Circuit | CompiledCircuit, q: Circuit | CompiledCircuit
) -> tuple[CompiledCircuit, CompiledCircuit]:
    """Both as models."""
    first = as_model(p)
    second = first if q is p else as_model(q)
    if first.num_categories != second.num_categories:
        raise StructureError(
            "p and q must be over the same variables, but their numbers of categories are "
            f"{first.num_categories} and {second.num_categories}"
        )
    return first, second


@torch.no_grad()
def _average(
    model: CompiledCircuit, score: Score, n: int, generator: torch.Generator | None
) -> Estimate:
    """The average score of n draws, part by part (Chan, Golub and LeVeque 1983)."""
    check_whole("n", n, least=2)  # a standard error needs two draws
    check_generator(generator, model.device)
    size = max(1, model.plan.machine.values // model.num_variables)
    seen, mean, squares = 0, 0.0, 0.0
    for start in range(0, n, size):
        drawn = model.sample(min(size, n - start), generator=generator)
        scores = torch.as_tensor(score(drawn)).double()
        if scores.shape != drawn.shape[:1]:
            wanted = f"one number for each draw, [{len(drawn)}]"
            raise SettingError("what the function makes", tuple(scores.shape), wanted)
        count, part = len(drawn), scores.mean().item()
        gap, total = part - mean, seen + count
        squares += (scores - part).square().sum().item() + gap**2 * seen * count / total
        mean, seen = (mean * seen + part * count) / total, total
    return Estimate(mean, _error(mean, squares, n))


def _error(mean: float, squares: float, n: int) -> float:
    if isinf(mean):
        return 0.0
    return nan if mean != mean else sqrt(squares / (n - 1) / n)
