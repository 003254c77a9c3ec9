"""Couplings: how the backbone's marginals become potentials on the circuit's variables.

With r = the circuit's distribution of the masked tokens given the visible ones, r_i its one-site
posteriors and m_i the backbone's marginals, every coupling is q(x) ~ r(x) prod_i lambda_i(x_i), so
that q stays exactly normalised and exactly sampled.

Legend: B batch, L positions, V tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from pcflow import CompiledCircuit, Evidence
from pcflow_diffusion.errors import CouplingError


class Coupling(Protocol):
    """Potentials from what the backbone says."""

    def couple(self, model: CompiledCircuit, evidence: Evidence, log_m: Tensor) -> Evidence:
        """Evidence with potentials.

        Args:
            model: the circuit over the L positions.
            evidence: the visible tokens; the others are missing.
            log_m: the backbone's normalised log-marginals [B, L, V].
        """
        ...


@dataclass(frozen=True)
class LogLinear:
    """lambda_i = m_i^a / r_i^b.

    (1, 0) is the product of the CoDD paper (arXiv 2603.00045, Eq. 5), which counts twice what the
    circuit knows about single tokens; (1, 1) is the ratio, which divides that out. Both numbers can
    be fitted to held-out text with `CircuitHead.fit_coupling`. Differentiable in the backbone's
    marginals; r_i is held fixed.

    Args:
        a: power of the backbone's marginals.
        b: power of the circuit's own marginals, divided out.

    Examples:
        >>> LogLinear() == LogLinear(1.0, 0.0) == coupling_by_name("product")
        True
    """

    a: float = 1.0
    b: float = 0.0

    def couple(self, model: CompiledCircuit, evidence: Evidence, log_m: Tensor) -> Evidence:
        """One posterior query if b is not zero, none otherwise."""
        log_r = None if self.b == 0.0 else model.marginals(evidence)
        potentials = log_linear(log_m, log_r, self.a, self.b)
        return Evidence(evidence.values, evidence.missing, potentials)


@dataclass(frozen=True)
class Projection:
    """lambda such that q keeps the backbone's marginals: q_i = m_i, the closest to r in KL.

    Nothing is fitted or trained. The potentials are held fixed in derivatives.

    Args:
        sweeps: visits of every position; two are better on text than convergence, because a
            backbone's marginals need not be matched exactly.

    Raises:
        CouplingError: if `sweeps` is below 1.

    Examples:
        >>> Projection() == Projection(sweeps=2) == coupling_by_name("projection")
        True
    """

    sweeps: int = 2

    def __post_init__(self) -> None:
        """Check the number."""
        if self.sweeps < 1:
            raise CouplingError(f"sweeps must be at least 1, got {self.sweeps}")

    def couple(self, model: CompiledCircuit, evidence: Evidence, log_m: Tensor) -> Evidence:
        """One posterior query per sweep."""
        return model.project(evidence, log_m, sweeps=self.sweeps)


def coupling_by_name(name: str) -> Coupling:
    """Look up "product" (the paper), "ratio" or "projection".

    Raises:
        CouplingError: if there is no such coupling.

    Examples:
        >>> coupling_by_name("ratio")
        LogLinear(a=1.0, b=1.0)
    """
    named: dict[str, Coupling] = {
        "product": LogLinear(1.0, 0.0),
        "ratio": LogLinear(1.0, 1.0),
        "projection": Projection(),
    }
    if name not in named:
        raise CouplingError(f"no coupling is called {name!r}; there are {', '.join(named)}")
    return named[name]


def log_linear(log_m: Tensor, log_r: Tensor | None, a: float | Tensor, b: float | Tensor) -> Tensor:
    """A log m - b log r [B, L, V]; impossible for the backbone stays impossible.

    A token that the circuit rules out has no mass to divide, so its r is left alone.
    """
    ruled_out = log_m == -torch.inf
    potentials = (a * log_m.masked_fill(ruled_out, 0.0)).masked_fill(ruled_out, -torch.inf)
    if log_r is None:
        return potentials
    return potentials - b * log_r.masked_fill(log_r == -torch.inf, 0.0)
