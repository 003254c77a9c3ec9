"""The powers of the log-linear coupling, fitted to held-out examples.

Legend: N examples, L positions, V tokens (all of them, or the k that are listed).
"""

from __future__ import annotations

import torch
from torch import Tensor

from pcflow import CompiledCircuit, Evidence
from pcflow_diffusion.errors import CouplingError
from pcflow_diffusion.head.controls import steered, with_tokens
from pcflow_diffusion.head.coupling import (
    LogLinear,
    bucket_of,
    log_linear,
    log_potentials_of,
    posterior,
)

FEWEST = 64
"""Examples that a bucket needs for powers of its own."""


def fit_log_linear(
    model: CompiledCircuit,
    evidence: Evidence,
    log_m: Tensor,
    x0: Tensor,
    categories: Tensor | None = None,
    buckets: int = 1,
    controls: Tensor | None = None,
) -> LogLinear:
    """The `LogLinear` that makes examples most probable; see `CircuitHead.fit_coupling`.

    Args:
        model: the circuit over the L positions, and controls perhaps.
        evidence: the visible tokens, and which are missing.
        log_m: the backbone's normalised log-marginals [N, L, V].
        x0: all tokens, [N, L].
        categories: [N, L, k], the tokens that `log_m` is about, if not all.
        buckets: of equal width, by the share of missing positions.
        controls: log-potentials of the circuit's controls, if it has any.

    Raises:
        CouplingError: if no example has a missing token and is possible, or `buckets` is below 1.
    """
    if buckets < 1:
        raise CouplingError(f"buckets must be at least 1, got {buckets}")
    assert evidence.missing is not None
    plain = Evidence(evidence.values, evidence.missing, log_m, categories)
    with torch.no_grad():
        known = with_tokens(steered(plain, controls), x0, torch.ones_like(x0, dtype=torch.bool))
        possible = (model.log_prob(known) + log_potentials_of(plain, x0).sum(dim=-1)).isfinite()
    usable = possible & evidence.missing.any(dim=-1).to(possible.device)
    if not bool(usable.any()):
        raise CouplingError(
            "fit_coupling needs examples with masked tokens that circuit and backbone hold possible"
        )
    log_r = posterior(model, evidence, categories)
    bucket = bucket_of(evidence.missing, buckets).to(usable.device)
    fitted = []
    for number in range(buckets):
        rows = _nearest(bucket, number, usable, buckets)
        listed, steer = (None if t is None else t[rows] for t in (categories, controls))
        some = _rows(evidence, rows)
        fitted.append(_fit(model, some, x0[rows], log_m[rows], log_r[rows], listed, steer))
    if buckets == 1:
        return LogLinear(*fitted[0])
    a, b = zip(*fitted, strict=True)
    return LogLinear(a, b)


def _nearest(bucket: Tensor, number: int, usable: Tensor, buckets: int) -> Tensor:
    """The usable rows of a bucket, and of its neighbours on both sides until they are enough."""
    for width in range(buckets):
        rows = (usable & ((bucket - number).abs() <= width)).nonzero().squeeze(-1)
        if len(rows) >= FEWEST:
            break
    return rows


def _fit(
    model: CompiledCircuit,
    evidence: Evidence,
    x0: Tensor,
    log_m: Tensor,
    log_r: Tensor,
    categories: Tensor | None,
    controls: Tensor | None,
) -> tuple[float, float]:
    """Powers (a, b) at the maximum of the mean log q, which is concave in them."""
    powers = torch.tensor([1.0, 0.5], dtype=log_m.dtype, device=log_m.device, requires_grad=True)
    optimizer = torch.optim.LBFGS([powers], max_iter=30, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        potentials = log_linear(log_m, log_r, powers[0], powers[1])
        coupled = Evidence(evidence.values, evidence.missing, potentials, categories)
        log_z = model.log_prob(steered(coupled, controls))
        value = (log_z - log_potentials_of(coupled, x0).sum(dim=-1)).mean()
        (powers.grad,) = torch.autograd.grad(value, powers)
        return value

    optimizer.step(loss)
    a, b = powers.tolist()
    return a, b


def _rows(evidence: Evidence, rows: Tensor) -> Evidence:
    assert evidence.values is not None and evidence.missing is not None
    return Evidence(evidence.values[rows], evidence.missing[rows])
