"""What an input family is, and how to add one.

A family is a frozen dataclass (equal settings compare equal, so that layers can be folded) that
knows how to read its parameters. Two kinds exist:

* a `FiniteFamily` has `num_categories` values 0, 1, ...; it writes down its whole table of
  log-probabilities, and the engine does the rest: gathers, soft evidence, sampling, mode;
* a `DensityFamily` has values without a finite table; it writes its log-density, mode, draw and
  sufficient statistics; and, if circuits are to be asked for them, its raw moments and entropy,
  and the mass of an interval, with the mean, mode and statistics within (`log_mass`, ..._within).
  Most are an `ExponentialFamily`, whose EM update is found by matching expected statistics.

To add a family: derive a frozen dataclass from one of them, implement the abstract methods, and, if
files are to name it, `register_family`. Parameters are unconstrained tensors whose last axis counts
units. `pcflow.testing.check_input_family` says whether it does what is asked of it.

Legend: P parameter sets, F folds, B batch, V categories, K and L units, S statistics, N draws.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, Self

import torch
from torch import Tensor

from pcflow.errors import PropertyRequired
from pcflow.inputs.intervals import inverse

Params = Mapping[str, Tensor]


Power = float | Tensor

ROUNDING = 1e-2
"""By how much the logarithm of a distribution's mass may miss zero."""


def powered(log_p: Tensor, power: Power) -> Tensor:
    """The logarithm of p to a power; zero stays zero, whatever the power."""
    possible = log_p > -torch.inf
    return torch.where(possible, power * log_p.masked_fill(~possible, 0.0), -torch.inf)


def refuse_infinite(rate: Tensor, what: object) -> None:
    """Raise if a rate at which a density must fall off is not positive.

    Raises:
        PropertyRequired: naming the family.
    """
    if not (rate > 0).all():
        raise PropertyRequired(f"a product of powers of {what} units has no finite mass")


class InputFamily(ABC):
    """A univariate distribution with unconstrained parameters, `units` of them side by side.

    Attributes:
        num_categories: number of values, or None if they are not 0, 1, ..., V - 1.
        separate: parameters whose likeliest values do not depend on the other ones: they can be
            learned by counting while the others are frozen.
    """

    num_categories: int | None
    separate: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    def parameter_shapes(self, units: int) -> dict[str, tuple[int, ...]]:
        """Name and shape of every parameter of a layer; the last axis counts units.

        Args:
            units: how many units a layer has, K.

        Raises:
            StructureError: if the family cannot have that many units.
        """

    @abstractmethod
    def initial(self, units: int, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Random parameters to start learning from, in the shapes of `parameter_shapes`.

        Args:
            units: how many units a layer has, K.
            generator: randomness; torch's global one if not given.
        """

    @abstractmethod
    def is_proper(self, params: Params) -> Tensor:
        """Which units [P, K] are distributions, whatever numbers the parameters are.

        Args:
            params: by name, [P, ...] each.
        """

    @property
    def locations(self) -> Mapping[str, str]:
        """Parameters in the units of the values, each with the name of the log of its scale.

        Optimizers move it by shares of that.
        """
        return {}

    def of_units(self, units: Sequence[int]) -> Self:
        """The family of chosen units: itself, unless its settings tell units apart.

        Args:
            units: which, by number.
        """
        return self

    def fitted(self, x: Tensor, weight: Tensor, pseudocount: float = 0.0) -> dict[str, Tensor]:
        """Parameters of units, each fitted to a column with weights of its own.

        A unit to which no known value is given gets what fits the whole column, which is also what
        densities are smoothed towards.

        Args:
            x: the column [N]; NaN is left out.
            weight: of every value for every unit [N, K], nonnegative.
            pseudocount: see `maximize`.

        Examples:
            >>> from pcflow.inputs import Bernoulli
            >>> x, weight = torch.tensor([0.0, 1.0, 1.0, 1.0]), torch.ones(4, 1)
            >>> Bernoulli().fitted(x, weight)["logits"].sigmoid()
            tensor([0.7500])
        """
        start = self.initial(weight.shape[1], torch.Generator().manual_seed(0))
        params = {name: p.to(weight).unsqueeze(0) for name, p in start.items()}  # [1, ..., K]
        columns = x.to(weight.dtype).unsqueeze(0)
        params = self._to_whole(params, columns, torch.ones_like(weight), pseudocount)
        params = self._to_rows(params, columns, weight, pseudocount)
        return {name: p.squeeze(0) for name, p in params.items()}

    def _to_whole(
        self, params: Params, x: Tensor, ones: Tensor, pseudocount: float
    ) -> dict[str, Tensor]:
        """From anywhere to what fits all rows alike."""
        # a category that the whole column lacks would be a hard zero, and stay one
        return self.update(params, x, ones, pseudocount)

    def _to_rows(
        self, params: Params, x: Tensor, weight: Tensor, pseudocount: float
    ) -> dict[str, Tensor]:
        """From there to rows with weights."""
        return self.update(params, x, weight, pseudocount)

    @abstractmethod
    def raw_moment(self, params: Params, power: int) -> Tensor:
        """The expected value [P, K] of a power of x, of every unit.

        Args:
            params: by name, [P, ...] each.
            power: at least 1.

        Raises:
            PropertyRequired: if the family does not say it.
        """

    @abstractmethod
    def entropy(self, params: Params) -> Tensor:
        """Entropy [P, K] (nats) of every unit, differential where values are real.

        Args:
            params: by name, [P, ...] each.

        Raises:
            PropertyRequired: if the family does not say it.
        """

    @abstractmethod
    def update(
        self, params: Params, x: Tensor, weight: Tensor, pseudocount: float
    ) -> dict[str, Tensor]:
        """EM update [F, ..., K] from data.

        Args:
            params: the present parameters, [F or 1, ...] each.
            x: columns [F, N]; NaN is left out.
            weight: of every row for every unit [N, K].
            pseudocount: see `maximize`.
        """


class FiniteFamily(InputFamily):
    """A family over the values 0, 1, ..., V - 1."""

    num_categories: int
    logits: ClassVar[str | None] = None
    """Name of the parameter whose log-softmax over V is the log-table, if there is such a one: some
    of its entries can then be had without the whole table."""

    @property
    def size(self) -> int:
        """How many rows its table has."""
        return self.num_categories

    @abstractmethod
    def log_table(self, params: Params) -> Tensor:
        """Normalised log-probabilities [P, V, K] (nats), differentiable in the parameters.

        Args:
            params: by name, [P, ...] each.
        """

    def is_proper(self, params: Params) -> Tensor:
        """Those whose table adds up to one."""
        return self.log_table(params).logsumexp(dim=-2).abs() < ROUNDING

    def table(self, params: Params) -> Tensor:
        """Probabilities [P, V, K].

        Args:
            params: by name, [P, ...] each.
        """
        return self.log_table(params).exp()

    def raw_moment(self, params: Params, power: int) -> Tensor:
        """Values 0, 1, ... as numbers, by their probabilities."""
        table = self.table(params)
        numbers = torch.arange(self.num_categories, dtype=table.dtype, device=table.device)
        return (table * torch.pow(numbers, power).unsqueeze(-1)).sum(dim=-2)

    def entropy(self, params: Params) -> Tensor:
        """Of the table."""
        terms: Tensor = torch.special.entr(self.table(params))
        return terms.sum(dim=-2)

    def table_gradient(self, params: Params, table: Tensor, flow: Tensor) -> dict[str, Tensor]:
        """Gradients of the parameters, by name, from that of the log-table.

        Args:
            params: by name, [P, ...] each.
            table: what `table` says of them, [P, V, K].
            flow: the gradient of the log-table [P, V, K].
        """
        with torch.enable_grad():
            leaves = {name: p.detach().requires_grad_() for name, p in params.items()}
            log_table = self.log_table(leaves)
        # A value of probability zero has no flow; its log-table entry may have no finite slope.
        grads = torch.autograd.grad(log_table, list(leaves.values()), flow)
        return {name: g.nan_to_num(nan=0.0) for name, g in zip(leaves, grads, strict=True)}

    @abstractmethod
    def maximize(self, params: Params, flow: Tensor, pseudocount: float) -> dict[str, Tensor]:
        """EM update: the parameters that maximise sum flow * log-table, smoothed.

        Args:
            params: the present parameters [P, ...], kept where a unit has no flow at all.
            flow: expected counts [P, V, K], nonnegative.
            pseudocount: added to every count where the table is free; a family of fewer parameters
                than values adds so many observations distributed as its present parameters.
        """

    def update(
        self, params: Params, x: Tensor, weight: Tensor, pseudocount: float
    ) -> dict[str, Tensor]:
        """See `InputFamily.update`."""
        return self.maximize(params, self.tally(x, weight), pseudocount)

    def tally(self, x: Tensor, weight: Tensor) -> Tensor:
        """Weighted counts [F, V, K] of values.

        Args:
            x: columns [F, N]; NaN is left out.
            weight: of every row for every unit [N, K].
        """
        size = self.num_categories + 1  # missing values are counted last, and left out
        first = size * torch.arange(len(x), device=x.device).unsqueeze(-1)
        place = x.nan_to_num(nan=self.num_categories).long() + first  # [F, N]
        counts = weight.new_zeros(len(x) * size, weight.shape[1])
        counts.index_add_(0, place.flatten(), weight.repeat(len(x), 1))
        return counts.view(len(x), size, -1)[:, :-1]


class DensityFamily(InputFamily):
    """A family whose values are not a finite range: real numbers, unbounded counts."""

    num_categories = None
    whole: ClassVar[bool] = False
    """Whether all values are whole numbers."""

    @property
    def atoms(self) -> tuple[float, ...]:
        """Values that have a probability of their own among those that have a density."""
        return ()

    @abstractmethod
    def log_prob(self, params: Params, x: Tensor) -> Tensor:
        """Log-density [F, B, K] (nats) of values.

        Args:
            params: by name, [F, ...] each.
            x: values [F, B].
        """

    def is_proper(self, params: Params) -> Tensor:
        """Those of finite parameters whose density at the mode can be evaluated."""
        mode = self.mode(params)  # [P, K]
        each = {n: p.movedim(-1, 1).flatten(0, 1).unsqueeze(-1) for n, p in params.items()}
        peak = self.log_prob(each, mode.flatten().unsqueeze(-1)).view_as(mode)
        finite = [
            p.isfinite().flatten(1, -2).all(1) if p.dim() > 2 else p.isfinite()
            for p in params.values()
        ]
        return torch.stack([peak.isfinite(), *finite]).all(dim=0)

    @abstractmethod
    def mean(self, params: Params) -> Tensor:
        """The expected value [P, K] of every unit.

        Args:
            params: by name, [P, ...] each.
        """

    def raw_moment(self, params: Params, power: int) -> Tensor:
        """The mean; higher powers by the families that know them."""
        if power == 1:
            return self.mean(params)
        raise PropertyRequired(
            f"{self} does not say its moments of power {power} (`raw_moment`); "
            "`expectation_estimate` draws instead"
        )

    def entropy(self, params: Params) -> Tensor:
        """By the families that know it."""
        raise PropertyRequired(
            f"{self} does not say its entropy (`entropy`); `entropy_estimate` draws instead"
        )

    @abstractmethod
    def mode(self, params: Params) -> Tensor:
        """The most probable value [P, K] of every unit.

        Args:
            params: by name, [P, ...] each.
        """

    @abstractmethod
    def sample(self, params: Params, generator: torch.Generator | None = None) -> Tensor:
        """One draw [N] from each of N single units.

        Args:
            params: by name, [N, ...] each, without the axis of units.
            generator: randomness; torch's global one if not given.
        """

    def product(
        self, params: Params, a: Power, other: DensityFamily, others: Params, b: Power
    ) -> tuple[DensityFamily, dict[str, Tensor], Tensor]:
        """Every unit to the power a, times every unit of another family to the power b.

        What algebra on circuits needs (`multiply`, `power`, `kl_divergence`, ...). Zero stays zero
        under any power. Not every family has such products; this default refuses.

        Args:
            params: [..., K].
            a: a number, or [K, L].
            other: the other family.
            others: its parameters [..., L].
            b: like a.

        Returns:
            A family, parameters [..., K, L] of its units, and their log-masses [K, L] (nats): the
            product is exp(log-mass) times the unit's density.

        Raises:
            PropertyRequired: if there is no such family, or a product has no finite mass.
        """
        raise PropertyRequired(
            f"products of powers of {self} and {other} are of no family that is known here"
        )

    def log_mass(self, params: Params, lower: Tensor, upper: Tensor) -> Tensor:
        """Log-probability [F, B, K] (nats) of closed intervals.

        What evidence of intervals needs; `mean_within` and `moments_within` are for means and EM.
        It must be exact in tails and where intervals are narrow, so no difference of two numbers
        near 1; and -inf, without NaN in a derivative, where no mass is.

        Args:
            params: by name, [F, ...] each.
            lower: the lower ends [F, B], which may be infinite.
            upper: the upper ends [F, B], which may be infinite.

        Raises:
            PropertyRequired: if the family does not say it.
        """
        raise PropertyRequired(f"{self} does not say the mass of an interval (`log_mass`)")

    def mean_within(self, params: Params, lower: Tensor, upper: Tensor) -> Tensor:
        """The expected value [F, B, K] given that it lies in an interval, of some mass.

        Args:
            params: by name, [F, ...] each.
            lower: the lower ends [F, B], which may be infinite.
            upper: the upper ends [F, B], which may be infinite.

        Raises:
            PropertyRequired: if the family does not say it.
        """
        raise PropertyRequired(
            f"{self} does not say its mean within an interval (`mean_within`); draw instead"
        )

    def moments_within(self, params: Params, lower: Tensor, upper: Tensor) -> Tensor:
        """What a unit of flow is expected to `tally` [F, B, S, K] given an interval, of some mass.

        Args:
            params: by name, [F, ...] each.
            lower: the lower ends [F, B], which may be infinite.
            upper: the upper ends [F, B], which may be infinite.

        Raises:
            PropertyRequired: if the family does not say them.
        """
        raise PropertyRequired(
            f"EM needs the expected statistics of {self} within an interval, which it does not say "
            "(`moments_within`); `Gradient` learns without them"
        )

    def mode_within(self, params: Params, lower: Tensor, upper: Tensor) -> Tensor:
        """The most probable value [F, B, K] in an interval: that nearest to the only peak.

        Args:
            params: by name, [F, ...] each.
            lower: the lower ends [F, B], which may be infinite.
            upper: the upper ends [F, B], which may be infinite.
        """
        mode = self.mode(params).unsqueeze(-2)  # [P, 1, K]
        return torch.maximum(torch.minimum(mode, upper.unsqueeze(-1)), lower.unsqueeze(-1))

    def sample_within(
        self,
        params: Params,
        lower: Tensor,
        upper: Tensor,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """One draw [N] from each of N single units, within intervals: by inversion.

        Args:
            params: by name, [N, ...] each, without the axis of units.
            lower: the lower ends [N], which may be infinite.
            upper: the upper ends [N], which may be infinite.
            generator: randomness; torch's global one if not given.
        """
        single = {name: p.double().unsqueeze(-1) for name, p in params.items()}
        low, high = lower.double(), upper.double()

        def log_below(x: Tensor) -> Tensor:
            return self.log_mass(single, low.unsqueeze(-1), x.unsqueeze(-1)).flatten()  # [N]

        uniform = torch.rand(low.shape, generator=generator, dtype=lower.dtype, device=lower.device)
        target = log_below(high) + (1 - uniform.double()).log()
        found = inverse(log_below, target, low, high, self.whole).to(lower.dtype)
        return found.clamp(torch.finfo(found.dtype).min, torch.finfo(found.dtype).max)

    @abstractmethod
    def statistics(self, x: Tensor) -> Tensor:
        """Sufficient statistics [F, B, S] of values.

        Args:
            x: values [F, B].
        """

    def tally(self, params: Params, x: Tensor, weight: Tensor) -> Tensor:
        """Statistics [F, S, K] of columns, weighted and added up.

        A family of values that may lie far from zero counts them from its present parameters, lest
        what is small be the difference of large numbers; its `moments` are then counted alike.

        Args:
            params: the present parameters, [F, ...] each.
            x: columns [F, B]; NaN is left out.
            weight: of every value for every unit [F, B, K].
        """
        missing = x.isnan()
        possible = torch.where(missing, self.mode(params)[:, :1], x)
        statistics = self.statistics(possible).masked_fill(missing.unsqueeze(-1), 0.0)
        return torch.einsum("fbs,fbk->fsk", statistics, weight)

    def recentred(self, tallies: Tensor, weight: Tensor, before: Params, params: Params) -> Tensor:
        """Tallies [P, S, K] as counted from other parameters than before.

        Args:
            tallies: as they were counted [P, S, K].
            weight: the flow that they are of [P, K].
            before: the parameters from which they were counted.
            params: those from which they are to be.
        """
        return tallies

    @abstractmethod
    def moments(self, params: Params) -> Tensor:
        """What a unit of flow is expected to `tally` [P, S, K].

        Args:
            params: by name, [P, ...] each.
        """

    def floored(self, params: Params, spread: Tensor, present: Params) -> dict[str, Tensor]:
        """Updated parameters, none narrower than the family's floor allows.

        Args:
            params: as updated, [P, ..., K].
            spread: standard deviation [P, 1] of the columns that they are for, zero where no two
                different values are known yet.
            present: as they were before.
        """
        return dict(params)

    @abstractmethod
    def maximize(
        self, params: Params, weight: Tensor, statistics: Tensor, pseudocount: float
    ) -> dict[str, Tensor]:
        """EM update from flow and the statistics that it weighs.

        Args:
            params: the present parameters [P, ...], kept where a unit has no flow at all.
            weight: total flow [P, K].
            statistics: what `tally` says [P, S, K].
            pseudocount: so many observations distributed as the present parameters are added.
        """

    def update(
        self, params: Params, x: Tensor, weight: Tensor, pseudocount: float
    ) -> dict[str, Tensor]:
        """See `InputFamily.update`; who knows the spread of the columns calls `floored` after."""
        tallies = self.tally(params, x, weight.expand(len(x), -1, -1))
        known = (~x.isnan()).to(weight)  # [F, N]
        return self.maximize(params, known @ weight, tallies, pseudocount)

    def _to_whole(
        self, params: Params, x: Tensor, ones: Tensor, pseudocount: float
    ) -> dict[str, Tensor]:
        """Twice: first to be near, then to be exact."""
        near = self._to_rows(params, x, ones, 0.0)
        return self._to_rows(near, x, ones, 0.0)

    def _to_rows(
        self, params: Params, x: Tensor, weight: Tensor, pseudocount: float
    ) -> dict[str, Tensor]:
        """Not below the floor of the whole column."""
        found = self.update(params, x, weight, pseudocount)
        return self.floored(found, spread_of(x).unsqueeze(-1), params)


def spread_of(x: Tensor) -> Tensor:
    """Standard deviation [F] of columns [F, N], NaN left out; one where all values are alike.

    Examples:
        >>> spread_of(torch.tensor([[1e9 + 3, 1e9 - 3], [5, torch.nan]], dtype=torch.float64))
        tensor([3., 1.], dtype=torch.float64)
    """
    deviation = x - x.nanmean(dim=1, keepdim=True)
    spread = deviation.square().nanmean(dim=1).sqrt()
    return spread.masked_fill(alike(spread, x.nan_to_num(nan=0.0).abs().amax(dim=1)), 1.0)


def alike(spread: Tensor, size: Tensor) -> Tensor:
    """Whether values of a spread and a size differ by no more than their mean was rounded."""
    return spread <= 8 * torch.finfo(spread.dtype).eps * size


class ExponentialFamily(DensityFamily):
    """A density whose likeliest parameters are those with the average statistics of the data.

    So EM needs no more than the inverse of `moments`. Log-density, entropy and products also follow
    from a log-normaliser, but only as differences of large numbers: each family writes its own.
    """

    @abstractmethod
    def matching(self, moments: Tensor) -> dict[str, Tensor]:
        """Parameters [P, ..., K] with given expected statistics, as far as allowed.

        Args:
            moments: the statistics [P, S, K].
        """

    def maximize(
        self, params: Params, weight: Tensor, statistics: Tensor, pseudocount: float
    ) -> dict[str, Tensor]:
        """By matching the average statistics; a unit without flow keeps its parameters."""
        total = weight + pseudocount  # [P, K]
        moments = statistics + pseudocount * self.moments(params)  # [P, S, K]
        found = self.matching(moments / total.unsqueeze(-2))

        def where_used(name: str, kept: Tensor) -> Tensor:
            used = (total > 0).view(len(total), *[1] * (kept.dim() - 2), -1)  # [P, ..., K]
            return torch.where(used, found[name], kept)

        return {name: where_used(name, kept) for name, kept in params.items()}
