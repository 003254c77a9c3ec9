"""The powers of the log-linear coupling, fitted to held-out examples.

Legend: N examples, L positions, V tokens (all of them, or the k that are listed).
"""

from __future__ import annotations

import torch
from torch import Tensor

from pcflow import CompiledCircuit
from pcflow_diffusion.checks import check_count
from pcflow_diffusion.errors import CouplingError
from pcflow_diffusion.head.controls import steered, with_tokens
from pcflow_diffusion.head.coupling import (
    LogLinear,
    bucket_of,
    divided,
    log_potentials_of,
    posterior,
    power,
)
from pcflow_diffusion.head.marginals import Marginals

FEWEST = 64
"""Examples that a bucket needs for powers of its own."""


def fit_log_linear(
    model: CompiledCircuit,
    said: Marginals,
    x0: Tensor,
    buckets: int = 1,
    controls: Tensor | None = None,
) -> LogLinear:
    """The `LogLinear` that makes examples most probable; see `CircuitHead.fit_coupling`.

    Args:
        model: the circuit over the L positions, and controls perhaps.
        said: what the backbone says of N examples.
        x0: all tokens, [N, L].
        buckets: of equal width, by the share of missing positions.
        controls: log-potentials of the circuit's controls, if it has any.

    Raises:
        CouplingError: if no example has a missing token and is possible.
        SettingError: if `buckets` is below 1.
    """
    check_count("buckets", buckets)
    usable = _possible(model, said, x0, controls) & said.masked.any(dim=-1)
    if not bool(usable.any()):
        raise CouplingError(
            "fit_coupling needs examples with masked tokens that circuit and backbone hold possible"
        )
    log_r = posterior(model, said)
    bucket = bucket_of(said.masked, buckets)
    fitted = []
    for number in range(buckets):
        rows = _nearest(bucket, number, usable, buckets)
        steer = None if controls is None else controls[rows]
        fitted.append(_fit(model, said.at(rows), x0[rows], log_r[rows], steer))
    if buckets == 1:
        return LogLinear(*fitted[0])
    a, b = zip(*fitted, strict=True)
    return LogLinear(a, b)


@torch.no_grad()
def _possible(
    model: CompiledCircuit, said: Marginals, x0: Tensor, controls: Tensor | None
) -> Tensor:
    """The examples [N] that circuit and backbone hold possible."""
    plain = said.soft(said.log_m)
    known = with_tokens(steered(plain, controls), x0, torch.ones_like(said.masked))
    return (model.log_prob(known) + log_potentials_of(plain, x0).sum(dim=-1)).isfinite()


def _nearest(bucket: Tensor, number: int, usable: Tensor, buckets: int) -> Tensor:
    """The usable rows of a bucket, and of its neighbours on both sides until they are enough."""
    for width in range(buckets):
        rows = (usable & ((bucket - number).abs() <= width)).nonzero().squeeze(-1)
        if len(rows) >= FEWEST:
            break
    return rows


def _fit(
    model: CompiledCircuit, said: Marginals, x0: Tensor, log_r: Tensor, controls: Tensor | None
) -> tuple[float, float]:
    """Powers (a, b) at the maximum of the mean log q, which is concave in them."""
    powers = torch.tensor([1.0, 0.5]).to(said.log_m).requires_grad_()
    optimizer = torch.optim.LBFGS([powers], max_iter=30, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        coupled = said.soft(divided(power(said.log_m, powers[0]), log_r, powers[1]))
        log_z = model.log_prob(steered(coupled, controls))
        value = (log_z - log_potentials_of(coupled, x0).sum(dim=-1)).mean()
        (powers.grad,) = torch.autograd.grad(value, powers)
        return value

    optimizer.step(loss)
    a, b = powers.tolist()
    return a, b
