"""A normalised density fitted to rows, by which another one is weighed.

It need not be right, only normalised: what laws conclude by it holds whatever it is, and the nearer
it is, the more they see. It shares nothing with the engine.

Legend: N rows, D variables, K components, V values, R real variables.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

COMPONENTS = 8
"""Of the mixture; beside it there is one of a single component."""
STEPS = 12
FLOOR = 5e-3
"""Least standard deviation within a component, as a share of that of the rows."""
TINY = 1e-6
"""Least spread of a column whose values are all the same, as a share of them."""


class Column(Protocol):
    """One variable of every component, or several real ones; values [N], or [N, R]."""

    def fit(self, values: Tensor, share: Tensor) -> None:
        """Be like values, of which components own these shares [N, K]."""

    def score(self, values: Tensor) -> Tensor:
        """Log-probabilities [N, K] of values."""

    def draw(self, unit: Tensor, generator: torch.Generator) -> Tensor:
        """Values of each of these components [N]."""


Placed = tuple["int | list[int]", Column]
"""A column, and which variables it is of."""


class Finite:
    """Frequencies of 0, 1, ..., size - 1."""

    def __init__(self, size: int) -> None:
        """Of so many values."""
        self.size = size

    def fit(self, values: Tensor, share: Tensor) -> None:
        """Count, and half a row more, spread over all values."""
        counts = share.new_full((self.size, share.shape[1]), 0.5 / self.size)
        self.log_table = _log_shares(counts.index_add(0, values.long(), share), 0)  # [V, K]

    def score(self, values: Tensor) -> Tensor:
        """Look them up; what is none of the values is impossible."""
        inside = (values >= 0) & (values < self.size) & (values == values.round())
        found = self.log_table[values.where(inside, 0.0).long()]
        return found.masked_fill(~inside.unsqueeze(-1), -torch.inf)

    def draw(self, unit: Tensor, generator: torch.Generator) -> Tensor:
        """By the table."""
        return _choose(self.log_table.T[unit].exp(), generator).double()


class Whole:
    """Whole numbers without a largest one: a logistic variable, rounded."""

    def fit(self, values: Tensor, share: Tensor) -> None:
        """Mean and scale [K]."""
        self.mean, spread = _moments(values, share)
        self.scale = (spread * math.sqrt(3) / math.pi).clamp_min(0.1)

    def score(self, values: Tensor) -> Tensor:
        """The mass of half a unit around; none elsewhere."""
        low = (values.unsqueeze(-1) - 0.5 - self.mean) / self.scale
        step = 1 / self.scale
        log_sigmoid = torch.nn.functional.logsigmoid
        mass = log_sigmoid(low + step) + log_sigmoid(-low) + torch.log(-torch.expm1(-step))
        return mass.where((values == values.round()).unsqueeze(-1), -torch.inf)

    def draw(self, unit: Tensor, generator: torch.Generator) -> Tensor:
        """Round."""
        uniform = torch.rand(len(unit), generator=generator, dtype=torch.float64)
        return (self.mean[unit] + self.scale[unit] * torch.logit(uniform, eps=1e-12)).round()


class Normal:
    """Real variables that go together: a normal distribution with all covariances."""

    def fit(self, values: Tensor, share: Tensor) -> None:
        """Means [K, R] and roots [K, R, R] of covariances; for few rows variances alone."""
        total = (share.sum(0) + 1e-9)[:, None]  # [K, 1]
        center = values.mean(0)
        self.mean = (share.T @ values + 1e-9 * center) / total
        least = FLOOR * values.std(0, correction=0) + TINY * center.abs().clamp_min(1.0)
        alone = 4 * values.shape[1] * share.shape[1] > len(values)
        roots = []
        for mean, mine, size in zip(self.mean, share.T, total, strict=True):
            apart = values - mean
            covariance = (mine[:, None] * apart).T @ apart / size
            covariance = covariance.diagonal().diag_embed() if alone else covariance
            roots.append(torch.linalg.cholesky(covariance + least.square().diag_embed()))
        self.root = torch.stack(roots)

    def score(self, values: Tensor) -> Tensor:
        """Log-densities."""
        apart = (values - self.mean[:, None]).mT  # [K, R, N]
        z: Tensor = torch.linalg.solve_triangular(self.root, apart, upper=False)
        stretch = self.root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        constant = 0.5 * math.log(2 * math.pi) * values.shape[-1]
        return -0.5 * z.square().sum(-2).T - stretch - constant

    def draw(self, unit: Tensor, generator: torch.Generator) -> Tensor:
        """Normal ones."""
        shape = (len(unit), self.mean.shape[1], 1)
        normal = torch.randn(shape, generator=generator, dtype=torch.float64)
        return self.mean[unit] + (self.root[unit] @ normal).squeeze(-1)


class Real:
    """A normal variable, and atoms with a probability of their own."""

    def __init__(self, atoms: Sequence[float]) -> None:
        """With these atoms."""
        self.atoms = torch.tensor([*atoms], dtype=torch.float64)
        self.which = Finite(len(atoms) + 1)

    def fit(self, values: Tensor, share: Tensor) -> None:
        """Frequencies of the atoms, and mean and standard deviation [K] of all else."""
        kind = self._kind(values)
        self.which.fit(kind, share)
        apart = share * (kind == len(self.atoms)).unsqueeze(-1)
        whole = values[kind == len(self.atoms)]
        least = max(FLOOR * float(whole.std(correction=0)), TINY) if len(whole) else 1.0
        self.mean, spread = _moments(values, apart)
        self.std = (spread.square() + least**2).sqrt()

    def score(self, values: Tensor) -> Tensor:
        """Of an atom its probability, of other values a density."""
        kind = self._kind(values)
        z = (values.unsqueeze(-1) - self.mean) / self.std
        normal = -0.5 * z.square() - self.std.log() - 0.5 * math.log(2 * math.pi)
        return self.which.score(kind) + normal.where(kind.unsqueeze(-1) == len(self.atoms), 0.0)

    def draw(self, unit: Tensor, generator: torch.Generator) -> Tensor:
        """An atom, or a normal number."""
        kind = self.which.draw(unit, generator).long()
        normal = torch.randn(len(unit), generator=generator, dtype=torch.float64)
        normal = self.mean[unit] + self.std[unit] * normal
        return torch.cat([self.atoms, normal.new_zeros(1)])[kind].where(
            kind < len(self.atoms), normal
        )

    def _kind(self, values: Tensor) -> Tensor:
        """Which atom [N], or their number."""
        if not len(self.atoms):
            return torch.zeros_like(values)
        same = values.unsqueeze(-1) == self.atoms
        return same.double().argmax(-1).where(same.any(-1), len(self.atoms)).double()


class Mixture:
    """A mixture of products of columns, by expectation maximisation."""

    def __init__(self, columns: Sequence[Placed], rows: Tensor, components: int) -> None:
        """Fit to rows [N, D], from the nearest of some of them."""
        self.columns, self.width = columns, rows.shape[1]
        centers = rows[torch.linspace(0, len(rows) - 1, components).long()]
        scaled = rows.std(0, correction=0).clamp_min(1e-12)
        nearest = torch.cdist(rows / scaled, centers / scaled).argmin(-1)
        share = torch.nn.functional.one_hot(nearest, components).double()
        for _ in range(STEPS if components > 1 else 1):
            self.log_weight = _log_shares(share.sum(0) + 0.5, 0)
            for place, column in columns:
                column.fit(rows[:, place], share)
            share = self._parts(rows).softmax(-1)

    def _parts(self, rows: Tensor) -> Tensor:
        scores = [column.score(rows[:, place]) for place, column in self.columns]
        return torch.stack(scores).sum(0) + self.log_weight  # [N, K]

    def log_prob(self, rows: Tensor) -> Tensor:
        """Log-probabilities [N] of rows [N, D]."""
        return self._parts(rows).logsumexp(-1)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Draws [n, D]."""
        unit = _choose(self.log_weight.exp().expand(n, -1), generator)
        out = torch.empty(n, self.width, dtype=torch.float64)
        for place, column in self.columns:
            out[:, place] = column.draw(unit, generator)
        return out


class Copies:
    """One of the rows that were seen: who draws the same ones again is found by it."""

    def __init__(self, rows: Tensor) -> None:
        """Of rows [N, D] without a real value."""
        self.rows = rows

    def log_prob(self, rows: Tensor) -> Tensor:
        """Log-frequencies [N], -inf of what was not seen."""
        _, place = torch.unique(torch.cat([self.rows, rows]), dim=0, return_inverse=True)
        counts = torch.bincount(place[: len(self.rows)], minlength=len(place)).double()
        return (counts[place[len(self.rows) :]] / len(self.rows)).log()

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Draws [n, D]."""
        return self.rows[torch.randint(len(self.rows), (n,), generator=generator)]


class Fitted:
    """Mixtures over real, whole and finite variables.

    Attributes:
        whole: which variables [D] are whole numbers without a largest one.
        real: which [D] are real.
        smooth: which of these have no atoms.
        atoms: of real variables, values that have a probability of their own.
        root: of the covariance of smooth variables, lower triangular [D, D]; zero elsewhere.
        spread: how far values [D] lie apart, of smooth ones given those before them.
    """

    def __init__(
        self,
        num_categories: Sequence[int | None],
        rows: Tensor,
        atoms: Mapping[int, Sequence[float]],
    ) -> None:
        """Fit to rows [N, D]."""
        self.atoms = atoms
        endless = torch.tensor([n is None for n in num_categories])
        atomic = torch.tensor([bool(atoms.get(v)) for v in range(len(num_categories))])
        self.whole = endless & ~atomic & (rows == rows.round()).all(0)
        self.real = endless & ~self.whole
        self.smooth = self.real & ~atomic
        several = min(COMPONENTS, max(1, len(rows) // 20))
        self.parts: list[Mixture | Copies] = [
            Mixture(self._columns(num_categories), rows, components) for components in (1, several)
        ]
        if not self.real.any():
            self.parts.append(Copies(rows))
        self.root, self.spread = self._scales(rows)

    def _columns(self, num_categories: Sequence[int | None]) -> list[Placed]:
        """One for each variable, and one for all smooth ones."""
        smooth = self.smooth.nonzero().flatten().tolist()
        columns: list[Placed] = [(smooth, Normal())] if smooth else []
        for variable, size in enumerate(num_categories):
            if size is not None:
                columns.append((variable, Finite(size)))
            elif self.whole[variable]:
                columns.append((variable, Whole()))
            elif variable not in smooth:
                columns.append((variable, Real(self.atoms[variable])))
        return columns

    def _scales(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        root = torch.zeros(rows.shape[1], rows.shape[1], dtype=rows.dtype)
        if self.smooth.any():
            together = Normal()
            together.fit(rows[:, self.smooth], rows.new_ones(len(rows), 1))
            place = self.smooth.nonzero().flatten()
            root[place[:, None], place] = together.root[0]
        spread = rows.std(0, correction=0).clamp_min(TINY)
        return root, root.diagonal().where(self.smooth, spread)

    def log_probs(self, rows: Tensor) -> Tensor:
        """Log-probabilities [P, N] (nats) of rows [N, D] by every part, each normalised."""
        return torch.stack([part.log_prob(rows) for part in self.parts])

    def log_prob(self, rows: Tensor) -> Tensor:
        """Log-probabilities [N] (nats) of rows [N, D] by all parts in equal shares."""
        return self.log_probs(rows).logsumexp(0) - math.log(len(self.parts))

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Draws [n, D]."""
        drawn = torch.stack([part.sample(n, generator) for part in self.parts])  # [P, n, D]
        chosen = torch.randint(len(self.parts), (n,), generator=generator)
        return drawn[chosen, torch.arange(n)]

    def is_atom(self, rows: Tensor) -> Tensor:
        """Which values [N, D] have a probability of their own."""
        known = [
            torch.isin(v, v.new_tensor([*self.atoms.get(i, ())])) for i, v in enumerate(rows.T)
        ]
        return torch.stack(known, dim=-1)


def _moments(values: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    """Means and standard deviations [K] of values [N] by shares [N, K]."""
    total = share.sum(0) + 1e-9
    mean = (values @ share + 1e-9 * values.mean()) / total
    apart = (values.unsqueeze(-1) - mean).square()
    return mean, ((apart * share).sum(0) / total).sqrt()


def _log_shares(counts: Tensor, dim: int) -> Tensor:
    return (counts / counts.sum(dim, keepdim=True)).log()


def _choose(weights: Tensor, generator: torch.Generator) -> Tensor:
    """One of the columns [N] by weights [N, K]."""
    below = weights.cumsum(-1)
    uniform = torch.rand(len(weights), 1, generator=generator, dtype=torch.float64)
    place = (below <= uniform * below[:, -1:]).sum(-1)
    return place.clamp_max(weights.shape[-1] - 1)
