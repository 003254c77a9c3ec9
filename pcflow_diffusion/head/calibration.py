"""What is chosen by held-out examples: a coupling, its powers, and a temperature.

Legend: N examples, L positions, M tokens, V tokens of the vocabulary (or the k that are listed).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from pcflow import CompiledCircuit
from pcflow_diffusion.checks import check_count
from pcflow_diffusion.errors import CouplingError
from pcflow_diffusion.head.controls import Steering, with_tokens
from pcflow_diffusion.head.coupling import (
    Coupling,
    LogLinear,
    Projection,
    bucket_of,
    divided,
    log_potentials_of,
    posterior,
    power,
)
from pcflow_diffusion.head.likelihood import log_prob_of, told_of
from pcflow_diffusion.head.marginals import Marginals

Purpose = Literal["likelihood", "drawing"]

FEWEST = 64
"""Examples that a bucket needs for powers of its own."""

HOTTEST = 100.0
"""No temperature is above this, nor below its inverse."""


def choose(
    model: CompiledCircuit, said: Marginals, x0: Tensor, steering: Steering, purpose: Purpose
) -> Coupling:
    """The coupling that suits examples best; see `CircuitHead.choose_coupling`.

    Args:
        model: see `fit_log_linear`.
        said: likewise.
        x0: likewise.
        steering: likewise; nothing but log-linear couplings can be modulated.
        purpose: what it is for.

    Raises:
        CouplingError: see `fit_log_linear`.
    """
    drawing = purpose == "drawing"
    calibrated = said.tempered(fit_temperature(said, x0) if drawing else 1.0)
    fitted = fit_log_linear(model, calibrated, x0, steering, keep_a=drawing)
    if steering:
        return fitted
    tried: list[Coupling] = [fitted, *([Projection()] if drawing else _pooled(fitted))]
    return max(tried, key=lambda coupling: _score(coupling, model, calibrated, x0))


def _pooled(fitted: LogLinear) -> list[Coupling]:
    """Projections that pool nothing, half of what a fitted coupling pools, and all of it."""
    assert isinstance(fitted.a, float) and isinstance(fitted.b, float)
    return [
        Projection(pool=(1 + share * (fitted.a - 1), share * (1 - fitted.b)))
        for share in (0.0, 0.5, 1.0)
    ]


@torch.no_grad()
def _score(coupling: Coupling, model: CompiledCircuit, said: Marginals, x0: Tensor) -> float:
    """Total log q(x0 | x) (nats) under a coupling, of examples that are possible.

    What tokens count that are not listed is the same under all, and left out.
    """
    coupled = coupling.couple(model, said)
    alone = torch.zeros_like(said.log_listed).masked_fill(said.lists(x0), -torch.inf)
    log_q = log_prob_of(model, coupled, x0, torch.ones_like(said.masked), alone)
    return float(log_q[log_q.isfinite()].double().sum())


def fit_log_linear(
    model: CompiledCircuit,
    said: Marginals,
    x0: Tensor,
    steering: Steering,
    buckets: int = 1,
    *,
    keep_a: bool = False,
) -> LogLinear:
    """The `LogLinear` that makes examples most probable; see `CircuitHead.fit_coupling`.

    Args:
        model: the circuit over the L positions, and controls perhaps.
        said: what the backbone says of N examples.
        x0: all tokens, [N, L].
        steering: what steers the circuit, if anything does.
        buckets: of equal width, by the share of missing positions.
        keep_a: leave a at one and fit b alone.

    Raises:
        CouplingError: if no example has a missing token and is possible.
        SettingError: if `buckets` is below 1.
    """
    check_count("buckets", buckets)
    usable = _possible(model, said, x0, steering) & (said.masked & said.lists(x0)).any(dim=-1)
    if not bool(usable.any()):
        raise CouplingError(
            "fit_coupling needs examples with masked tokens that circuit and backbone hold possible"
        )
    log_r = posterior(model, said)
    bucket = bucket_of(said.masked, buckets)
    fitted = []
    for number in range(buckets):
        rows = _nearest(bucket, number, usable, buckets)
        steer = steering.at(rows)
        fitted.append(_fit(model, said.at(rows), x0[rows], log_r[rows], steer, keep_a))
    if buckets == 1:
        return LogLinear(*fitted[0])
    a, b = zip(*fitted, strict=True)
    return LogLinear(a, b)


@torch.no_grad()
def _possible(model: CompiledCircuit, said: Marginals, x0: Tensor, steering: Steering) -> Tensor:
    """The examples [N] that circuit and backbone hold possible, as far as tokens are listed."""
    plain, listed = steering.of(said.soft(said.log_m)), said.lists(x0) | ~said.masked
    known = with_tokens(plain, x0, listed)
    told = log_potentials_of(plain, x0).masked_fill(~listed, 0.0)
    return (model.log_prob(known) + told.sum(dim=-1)).isfinite()


def _nearest(bucket: Tensor, number: int, usable: Tensor, buckets: int) -> Tensor:
    """The usable rows of a bucket, and of its neighbours on both sides until they are enough."""
    for width in range(buckets):
        rows = (usable & ((bucket - number).abs() <= width)).nonzero().squeeze(-1)
        if len(rows) >= FEWEST:
            break
    return rows


def fit_temperature(said: Marginals, x0: Tensor) -> float:
    """The T at which m^(1/T) makes tokens most probable, each by itself.

    It is above 1 for a backbone that is surer than it is right. The log-likelihood is concave in
    1/T. Tokens that the backbone holds impossible are left out.

    Args:
        said: what the backbone says of N examples.
        x0: all tokens, [N, L].

    Returns:
        At least .01 and at most 100; 1 where all tokens are equally probable.
    """
    told = said.log_prob(x0)
    usable = said.masked & told.isfinite()
    log_m, right = said.log_m[usable], told[usable]  # [M, V], [M]

    def nats(sharpness: Tensor) -> Tensor:
        return (power(log_m, sharpness).logsumexp(dim=-1) - sharpness * right).mean()

    (sharpness,) = _least(nats, right.new_ones(1)) if len(right) else (1.0,)
    return 1 / min(max(sharpness, 1 / HOTTEST), HOTTEST)


def _fit(
    model: CompiledCircuit,
    said: Marginals,
    x0: Tensor,
    log_r: Tensor,
    steering: Steering,
    keep_a: bool,
) -> tuple[float, float]:
    """Powers (a, b) at the maximum of the mean log q, which is concave in them.

    Tokens that are not listed are summed out, where it is only nearly so.
    """
    listed = said.lists(x0) | ~said.masked
    whole = bool(listed.all())

    def nats(powers: Tensor) -> Tensor:
        potentials = divided(power(said.log_m, powers[0]), log_r, powers[1])
        coupled = steering.of(said.soft(potentials))
        if not whole:
            return -told_of(coupled, x0, listed)[0].log_prob(model).mean()
        return (model.log_prob(coupled) - log_potentials_of(coupled, x0).sum(dim=-1)).mean()

    a, b = _least(nats, said.log_m.new_tensor([1.0, 0.5]), free=[not keep_a, True])
    return a, b


def _least(
    value: Callable[[Tensor], Tensor], start: Tensor, free: Sequence[bool] = (True,)
) -> list[float]:
    """Where a convex function is least, looked for from numbers of which some are free to move."""
    numbers, moves = start.clone().requires_grad_(), start.new_tensor(free)
    optimizer = torch.optim.LBFGS([numbers], max_iter=30, line_search_fn="strong_wolfe")

    def step() -> Tensor:
        found = value(numbers)
        (slope,) = torch.autograd.grad(found, numbers)
        numbers.grad = slope * moves
        return found

    optimizer.step(step)
    return numbers.tolist()
