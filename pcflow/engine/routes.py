"""Which input a sum unit follows on the way down, when it follows one: drawn or best.

Exactly three combinations of arithmetic and route exist. EXPECTED (sum-product, all inputs by their
share) gives flows, posteriors and gradients; SAMPLE (sum-product, drawn) and MPE (max-product,
best) follow one input. `argmax` over sum-product values would look like MPE and be wrong.

Legend: N entries, X alternatives, K units.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from pcflow.engine.kernels import first_at_least, running_sums
from pcflow.engine.plan import InputStep, SumStep
from pcflow.engine.tables import Tables
from pcflow.inputs import DensityFamily, Params


class Route(Protocol):
    """How to pick one of several alternatives."""

    @property
    def reads_linear(self) -> bool:
        """Whether values of finite variables are picked from linear scores as well as from logs."""
        ...

    def fill(self, numbers: Tensor) -> None:
        """Draw as many uniform numbers in [0, 1), if picks need any."""
        ...

    def by(self, numbers: Tensor) -> Route:
        """The same, picking by uniform numbers that were drawn before, in their order."""
        ...

    def index(self, scores: Tensor, in_log_space: bool) -> Tensor:
        """Pick an alternative [...] from scores [..., X], which may be written over."""
        ...

    def category(self, scores: Tensor) -> Tensor:
        """Pick a value [N] of a finite variable from log-scores [N, V]; not written over."""
        ...

    def by_weight(self, tables: Tables, step: SumStep, fold: Tensor, unit: Tensor) -> Tensor | None:
        """Pick an input [N] of sums whose inputs are all one; None if there is no quick way."""
        ...

    def unit_value(
        self,
        tables: Tables,
        step: InputStep,
        fold: Tensor,
        unit: Tensor,
        above: SumStep | None = None,
    ) -> Tensor | None:
        """Pick a value [N] of finite units by a table kept for all of them; None if there is none.

        `fold` is zero where all folds share their table. With `above`, units are those of that sum
        step, which mixes the units of the input step fold by fold.
        """
        ...

    def value(self, family: DensityFamily, params: Params) -> Tensor:
        """Pick a value [N] of single units with parameters [N, ...]."""
        ...

    def within(self, family: DensityFamily, params: Params, lower: Tensor, upper: Tensor) -> Tensor:
        """The same in intervals with ends [N]."""
        ...


@dataclass(frozen=True)
class Drawn:
    """Pick in proportion to the scores.

    Args:
        generator: source of randomness; torch's global one by default.
        temperature: categories are drawn from scores to the power 1 / temperature; zero takes the
            highest. The latent path is always drawn as it is (CoDD, arXiv 2603.00045, Sec. 5.1).
    """

    generator: torch.Generator | None = None
    temperature: float = 1.0

    @property
    def reads_linear(self) -> bool:
        """At temperature 1; others make what is far below the largest matter."""
        return self.temperature == 1.0

    def fill(self, numbers: Tensor) -> None:
        """From the generator."""
        numbers.uniform_(generator=self.generator)

    def by(self, numbers: Tensor) -> Route:
        """For places in lists of alternatives."""
        return _Given(self, numbers)

    def index(self, scores: Tensor, in_log_space: bool) -> Tensor:
        """Inverse of the cumulative sum at a uniform number; never an impossible alternative."""
        if in_log_space:
            scores = (scores - scores.amax(dim=-1, keepdim=True)).exp_()
        total = running_sums(scores, out=scores)  # [..., X]
        return first_at_least(total, self.point(total[..., -1:]))

    def point(self, total: Tensor) -> Tensor:
        """Uniform numbers above 0, at most `total`: the first cumulative sum to reach one is it."""
        return (1.0 - self.uniform(total)).mul_(total)

    def uniform(self, like: Tensor) -> Tensor:
        """Uniform numbers in [0, 1)."""
        return torch.rand(
            like.shape, generator=self.generator, dtype=like.dtype, device=like.device
        )

    def category(self, scores: Tensor) -> Tensor:
        """Draw from the tempered scores."""
        if self.temperature == 0.0:
            return scores.argmax(dim=-1)
        scores = scores if self.temperature == 1.0 else scores / self.temperature
        return self.index(scores, in_log_space=True)

    def by_weight(self, tables: Tables, step: SumStep, fold: Tensor, unit: Tensor) -> Tensor | None:
        """Inverse of the running sums of the weights."""
        table = tables.running(step)  # [F or 1, K, J]
        place = unit if len(table) == 1 else unit + fold * step.units
        sums = table.flatten(0, 1).index_select(0, place)  # [N, J]
        return first_at_least(sums, self.point(sums[:, -1:]))

    def unit_value(
        self,
        tables: Tables,
        step: InputStep,
        fold: Tensor,
        unit: Tensor,
        above: SumStep | None = None,
    ) -> Tensor | None:
        """Inverse of the cumulative table; the mode at temperature zero."""
        if self.temperature == 0.0:
            return Best().unit_value(tables, step, fold, unit, above)
        if self.temperature != 1.0:
            return None
        table = tables.cumulative(step, above)
        column = fold * table.units + unit
        return table.first_at_least(column, self.point(table.total[column]))

    def value(self, family: DensityFamily, params: Params) -> Tensor:
        """Draw."""
        return family.sample(params, self.generator)

    def within(self, family: DensityFamily, params: Params, lower: Tensor, upper: Tensor) -> Tensor:
        """Draw."""
        return family.sample_within(params, lower, upper, self.generator)


class _Given(Drawn):
    """By uniform numbers that were drawn before."""

    def __init__(self, route: Drawn, numbers: Tensor) -> None:
        super().__init__(route.generator, route.temperature)
        self._left: list[Tensor]
        object.__setattr__(self, "_left", [numbers])

    def uniform(self, like: Tensor) -> Tensor:
        (numbers,) = self._left
        self._left[0] = numbers[like.numel() :]
        return numbers[: like.numel()].view(like.shape)


@dataclass(frozen=True)
class Best:
    """Pick the highest score."""

    def fill(self, numbers: Tensor) -> None:
        """None are needed."""

    def by(self, numbers: Tensor) -> Best:
        """Itself."""
        return self

    @property
    def reads_linear(self) -> bool:
        """The passes that ask run in log space."""
        return False

    def index(self, scores: Tensor, in_log_space: bool) -> Tensor:
        """The first of the largest."""
        return scores.argmax(dim=-1)

    def category(self, scores: Tensor) -> Tensor:
        """The first of the largest."""
        return scores.argmax(dim=-1)

    def by_weight(self, tables: Tables, step: SumStep, fold: Tensor, unit: Tensor) -> Tensor | None:
        """None: the best value of an input unit weighs as well."""
        return None

    def unit_value(
        self,
        tables: Tables,
        step: InputStep,
        fold: Tensor,
        unit: Tensor,
        above: SumStep | None = None,
    ) -> Tensor | None:
        """The mode of the unit; that of a mixture would skip the choice of a component."""
        return None if above is not None else tables.modes(step)[fold, unit]

    def value(self, family: DensityFamily, params: Params) -> Tensor:
        """Take the mode of a single unit, seen as a layer of one unit."""
        single = {name: p.unsqueeze(-1) for name, p in params.items()}
        return family.mode(single).squeeze(-1)

    def within(self, family: DensityFamily, params: Params, lower: Tensor, upper: Tensor) -> Tensor:
        """Take the mode in the interval, likewise."""
        single = {name: p.unsqueeze(-1) for name, p in params.items()}
        return family.mode_within(single, lower.unsqueeze(-1), upper.unsqueeze(-1)).flatten()
