"""Couplings: how the backbone's marginals become potentials on the circuit's variables.

With r = the circuit's distribution of the masked tokens given the visible ones, r_i its one-site
posteriors and m_i the backbone's marginals, every coupling is q(x) ~ r(x) prod_i lambda_i(x_i), so
that q stays exactly normalised and exactly sampled.

Legend: B batch, L positions, V tokens (all of them, or the k that are listed).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, isfinite
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad

from pcflow import CompiledCircuit, Evidence, SettingError
from pcflow_diffusion.checks import check_count
from pcflow_diffusion.errors import CouplingError
from pcflow_diffusion.head.controls import observed, token_marginals, unsteered
from pcflow_diffusion.head.marginals import Marginals

NOT_MODULATED = "the projection cannot be modulated: use a log-linear coupling, such as the product"


class Coupling(Protocol):
    """Potentials from what the backbone says."""

    def couple(self, model: CompiledCircuit, said: Marginals) -> Evidence:
        """The visible tokens, and potentials for the others (see `Marginals.soft`).

        Args:
            model: the circuit over the L positions; variables behind them are controls.
            said: what the backbone says.
        """
        ...


@dataclass(frozen=True)
class LogLinear:
    """lambda_i = m_i^a / r_i^b.

    (1, 0) is the product of the CoDD paper (arXiv 2603.00045, Eq. 5), which counts twice what the
    circuit knows about single tokens; (1, 1) is the ratio, which divides that out. All numbers can
    be fitted to held-out text with `CircuitHead.fit_coupling`. Differentiable in the backbone's
    marginals; r_i is held fixed. Without b, r_i is not computed.

    Args:
        a: power of the backbone's marginals. Of n numbers, for n buckets of equal width, every row
            takes that of its own share of masked positions.
        b: power of the circuit's own marginals, divided out; as many numbers.

    Raises:
        SettingError: if a number is not finite, or there are more of one than of the other.

    Examples:
        >>> LogLinear() == LogLinear(1.0, 0.0) == coupling_by_name("product")
        True
        >>> by_share = LogLinear(a=(0.9, 0.7), b=(0.2, 0.6))  # up to half masked, and beyond
    """

    a: float | tuple[float, ...] = 1.0
    b: float | tuple[float, ...] = 0.0

    def __post_init__(self) -> None:
        """Check the numbers."""
        SettingError.check("a and b", (self.a, self.b), "as many finite numbers", _are_powers)

    def couple(self, model: CompiledCircuit, said: Marginals) -> Evidence:
        """One posterior query if a b is not zero, none otherwise.

        Args:
            model: the circuit over the L positions.
            said: what the backbone says.
        """
        a, b = _numbers(self.a), _numbers(self.b)
        if set(a) == {1.0} and not any(b):  # spare a large tensor being gone over for nothing
            return said.soft(said.log_m)
        bucket = bucket_of(said.masked, len(a))
        powers = torch.tensor([a, b], dtype=torch.float64).to(said.log_m)
        row = powers[:, bucket, None, None]  # [2, B, 1, 1]
        log_r = posterior(model, said) if any(b) else None
        easy = min(a) > 0  # then a large tensor need not be gone over three times
        powered = row[0] * said.log_m if easy else power(said.log_m, row[0])
        return said.soft(divided(powered, log_r, row[1]))


@dataclass(frozen=True)
class Projection:
    """lambda such that q keeps the backbone's marginals: q_i = m_i, the closest to r in KL.

    Nothing is trained. The potentials are held fixed in derivatives. What `couple` returns
    knows how far off the marginals were in the last sweep: `mismatch` [B].

    Args:
        sweeps: visits of every position, at most; two are better on text than convergence, because
            a backbone's marginals need not be matched exactly.
        tolerance: a row is left alone once no marginal was off by as much as this.
        pool: (a, b): keep marginals proportional to m_i^a r_i^b instead, in which the circuit has a
            say. Costs one posterior query unless b is zero.

    Raises:
        SettingError: if `sweeps` is below 1, `tolerance` negative, or a number not finite.

    Examples:
        >>> Projection() == Projection(sweeps=2) == coupling_by_name("projection")
        True
        >>> pooled = Projection(pool=(0.8, 0.3))
    """

    sweeps: int = 2
    tolerance: float = 0.0
    pool: tuple[float, float] = (1.0, 0.0)

    def __post_init__(self) -> None:
        """Check the numbers."""
        check_count("sweeps", self.sweeps)
        SettingError.check(
            "tolerance", self.tolerance, "finite, not negative", lambda t: 0 <= t < inf
        )
        pool = "two finite numbers"
        SettingError.check("pool", self.pool, pool, lambda p: len(p) == 2 and all(map(isfinite, p)))

    def couple(self, model: CompiledCircuit, said: Marginals) -> Evidence:
        """One posterior query per sweep, on chains and trees; more elsewhere.

        Args:
            model: the circuit over the L positions.
            said: what the backbone says.

        Raises:
            CouplingError: if the circuit has controls, whose marginals nobody gives.
        """
        if model.num_variables > said.length:
            raise CouplingError(NOT_MODULATED)
        target, (a, b) = said.log_m, self.pool
        if self.pool != (1.0, 0.0):
            log_r = posterior(model, said) if b else None
            target = divided(power(target, a), log_r, -b)
            if log_r is not None:  # no mass where the circuit cannot go
                target = target.masked_fill(log_r == -torch.inf, -torch.inf)
        return model.project(
            said.visible(),
            said.potentials.like(target),
            sweeps=self.sweeps,
            tolerance=self.tolerance,
            normalised=target is said.log_m,
        )


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


def log_potentials_of(coupled: Evidence, tokens: Tensor) -> Tensor:
    """Log-potentials of the tokens, both [B, L]: 0 where visible, -inf where not listed."""
    potentials, place = coupled.potentials, (slice(None), slice(tokens.shape[1]))
    assert potentials is not None
    chosen = potentials[place].at(tokens.unsqueeze(-1)).squeeze(-1)
    return chosen.masked_fill(~observed(coupled)[1][place], 0.0)


def power(log_m: Tensor, a: float | Tensor) -> Tensor:
    """Log m^a [B, L, V]; impossible for the backbone stays impossible, be a zero or negative."""
    ruled_out = log_m == -torch.inf
    return (a * log_m.masked_fill(ruled_out, 0.0)).masked_fill(ruled_out, -torch.inf)


def divided(potentials: Tensor, log_r: Tensor | None, b: float | Tensor) -> Tensor:
    """Log-potentials [B, L, V] less b log r.

    A token that the circuit rules out has no mass to divide, so its r is left alone.
    """
    if log_r is None:
        return potentials
    return potentials - b * log_r.masked_fill(log_r == -torch.inf, 0.0)


def posterior(model: CompiledCircuit, said: Marginals) -> Tensor:
    """Log r_i [B, L, V] of all tokens, or of the listed ones [B, L, k]; controls are summed out.

    Where many listed tokens are impossible for the backbone, they are asked for as the first one,
    behind all others, and no rows of tables are read for them; what they are told means nothing.
    """
    behind = model.num_variables - said.length
    nothing = unsteered(model, said.visible())

    def every() -> Tensor:
        return token_marginals(model, nothing, said.length)

    def some(listed: Tensor) -> Tensor:
        gone = said.log_m == -torch.inf
        if 4 * int(gone.sum()) < gone.numel():
            return token_marginals(model, nothing, said.length, pad(listed, (0, 0, 0, behind)))
        gone, place = gone.byte().sort(dim=-1, stable=True)  # what is possible in front
        asked = torch.where(gone > 0, listed[..., :1], listed.gather(-1, place))
        found = token_marginals(model, nothing, said.length, pad(asked, (0, 0, 0, behind)))
        return torch.empty_like(found).scatter(-1, place, found)

    return said.potentials.read(every, some)


def bucket_of(missing: Tensor, buckets: int) -> Tensor:
    """Which of so many buckets of equal width every row's share of missing positions is in [B].

    Examples:
        >>> missing = torch.tensor([[True, False], [True, True]])
        >>> bucket_of(missing, 2)  # a half is in the upper one, and so is all
        tensor([1, 1])
    """
    bucket = missing.sum(dim=-1) * buckets // missing.shape[-1]
    return bucket.clamp_max(buckets - 1)


def _are_powers(given: tuple[float | tuple[float, ...], float | tuple[float, ...]]) -> bool:
    a, b = map(_numbers, given)
    return len(a) == len(b) > 0 and all(map(isfinite, (*a, *b)))


def _numbers(given: float | tuple[float, ...]) -> tuple[float, ...]:
    return given if isinstance(given, tuple) else (given,)
