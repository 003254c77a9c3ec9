"""Histograms: real values of any shape."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from pcflow.checks import as_reals
from pcflow.errors import StructureError
from pcflow.inputs.base import DensityFamily, Params, Power, powered
from pcflow.inputs.intervals import log_sum


@dataclass(frozen=True)
class Histogram(DensityFamily):
    """Real values with a density that is constant between fixed edges, and zero outside of them.

    Parameter: `logits` [S, K] of S bins; probabilities are their softmax. A bin holds its lower
    edge; the last one holds both.

    Args:
        edges: at least two, rising.

    Raises:
        StructureError: if the edges are too few, do not rise or are not finite.

    Examples:
        >>> family = Histogram([0.0, 1.0, 3.0])
        >>> family.log_prob({"logits": torch.zeros(1, 2, 1)}, torch.tensor([[2.0]])).exp().item()
        0.25
    """

    edges: tuple[float, ...]

    def __init__(self, edges: Iterable[float]) -> None:
        """Check the edges."""
        given = tuple(as_reals("edges", edges))
        if len(given) < 2 or not all(0 < b - a < float("inf") for a, b in pairwise(given)):
            raise StructureError(f"edges must be two or more that rise, all finite, got {given}")
        object.__setattr__(self, "edges", given)

    @classmethod
    def of(cls, column: Tensor | Iterable[float], bins: int = 20) -> Histogram:
        """Edges such that every bin holds about as many values of a column.

        Args:
            column: values [N]; NaN is left out.
            bins: how many, fewer where values repeat.

        Raises:
            StructureError: if the column does not hold two different finite values, or `bins` is
                below 1.

        Examples:
            >>> Histogram.of([1.0, 2.0, 3.0, 4.0, 5.0], bins=2)
            Histogram(edges=(1.0, 3.0, 5.0))
        """
        values = torch.as_tensor(column, dtype=torch.float64)
        values = values[~values.isnan()]
        if bins < 1 or len(values.unique()) < 2 or not values.isfinite().all():
            raise StructureError("a histogram needs a bin, and two different, finite values")
        shares = torch.linspace(0, 1, bins + 1, dtype=torch.float64)
        return cls(sorted(set(torch.quantile(values, shares).tolist())))

    @property
    def _bins(self) -> int:
        return len(self.edges) - 1

    def parameter_shapes(self, units: int) -> dict[str, tuple[int, ...]]:
        """`logits` [S, K]."""
        return {"logits": (self._bins, units)}

    def initial(self, units: int, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Standard normal logits."""
        return {"logits": torch.randn(self._bins, units, generator=generator)}

    def is_proper(self, params: Params) -> Tensor:
        """Those with a possible bin, and none that is infinitely likelier than another."""
        return params["logits"].amax(dim=-2).isfinite()

    def log_prob(self, params: Params, x: Tensor) -> Tensor:
        """Log-probability of the bin minus the log of its width."""
        height = self._log_height(params["logits"])  # [F, S, K]
        place, inside = self._place(x)
        height = height.expand(len(x), -1, -1)
        found = height.gather(1, place.unsqueeze(-1).expand(-1, -1, height.shape[-1]))
        return found.masked_fill(~inside.unsqueeze(-1), -torch.inf)  # [F, B, K]

    def mean(self, params: Params) -> Tensor:
        """Middles of the bins, by their probabilities."""
        edges = self._edges(params["logits"])
        middles = (edges[1:] + edges[:-1]) / 2
        return (self.moments(params) * middles.unsqueeze(-1)).sum(dim=-2)

    def raw_moment(self, params: Params, power: int) -> Tensor:
        """Average powers of the bins, without differences that cancel."""
        edges = self._edges(params["logits"])
        low, high = edges[:-1], edges[1:]
        powers = [low.pow(j) * high.pow(power - j) for j in range(power + 1)]
        average = torch.stack(powers).mean(dim=0)  # [S]
        return (self.moments(params) * average.unsqueeze(-1)).sum(dim=-2)

    def entropy(self, params: Params) -> Tensor:
        """That of the bins, plus the expected log of their widths."""
        probs = self.moments(params)
        widths = self._widths(probs).log().unsqueeze(-1)
        terms: Tensor = torch.special.entr(probs) + probs * widths
        return terms.sum(dim=-2)

    def mode(self, params: Params) -> Tensor:
        """The middle of the highest bin."""
        edges = self._edges(params["logits"])
        middles = (edges[1:] + edges[:-1]) / 2
        return middles[self._log_height(params["logits"]).argmax(dim=-2)]

    def sample(self, params: Params, generator: torch.Generator | None = None) -> Tensor:
        """A bin, and a uniform value in it."""
        probs = params["logits"].softmax(dim=-1)  # [N, S]
        place = torch.multinomial(probs, 1, generator=generator).squeeze(-1)
        edges = self._edges(probs)
        share = torch.rand(place.shape, generator=generator, dtype=probs.dtype, device=probs.device)
        return torch.lerp(edges[place], edges[place + 1], share)

    def log_mass(self, params: Params, lower: Tensor, upper: Tensor) -> Tensor:
        """Heights times what the interval has of every bin."""
        return log_sum(self._log_parts(params, lower, upper), dim=-2)

    def mean_within(self, params: Params, lower: Tensor, upper: Tensor) -> Tensor:
        """Middles of what the interval has of every bin, by their probabilities."""
        start, end = self._overlap(lower, upper)
        share = self.moments_within(params, lower, upper)
        return (share * ((start + end) / 2).unsqueeze(-1)).sum(dim=-2)

    def moments_within(self, params: Params, lower: Tensor, upper: Tensor) -> Tensor:
        """Probabilities of the bins, given the interval."""
        return self._log_parts(params, lower, upper).softmax(dim=-2).nan_to_num(nan=0.0)

    def mode_within(self, params: Params, lower: Tensor, upper: Tensor) -> Tensor:
        """The middle of what the interval has of the highest bin that it meets."""
        start, end = self._overlap(lower, upper)  # [F, B, S]
        height = self._log_height(params["logits"]).unsqueeze(1)  # [F, 1, S, K]
        met = height.masked_fill((end <= start).unsqueeze(-1), -torch.inf)
        return ((start + end) / 2).gather(-1, met.argmax(dim=-2))

    def _log_parts(self, params: Params, lower: Tensor, upper: Tensor) -> Tensor:
        """Log-masses [F, B, S, K] of the parts of an interval in every bin."""
        start, end = self._overlap(lower, upper)
        log_width = (end - start).clamp_min(0.0).log().unsqueeze(-1)  # [F, B, S, 1]
        return self._log_height(params["logits"]).unsqueeze(1) + log_width

    def _overlap(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """Where intervals [F, B] begin and end in every bin, [F, B, S]; reversed where nowhere."""
        edges = self._edges(lower)
        start = torch.maximum(lower.unsqueeze(-1), edges[:-1])
        return start, torch.minimum(upper.unsqueeze(-1), edges[1:])

    def product(
        self, params: Params, a: Power, other: DensityFamily, others: Params, b: Power
    ) -> tuple[DensityFamily, dict[str, Tensor], Tensor]:
        """A histogram again, with the edges of both."""
        if not isinstance(other, Histogram):
            return super().product(params, a, other, others, b)
        family = Histogram(sorted({*self.edges, *other.edges}))
        edges = family._edges(params["logits"])
        middles = ((edges[1:] + edges[:-1]) / 2).unsqueeze(0)  # [1, S]
        here, there = (
            f.log_prob({"logits": p["logits"].unsqueeze(0)}, middles).squeeze(0)  # [S, K]
            for f, p in ((self, params), (other, others))
        )
        height = powered(here.unsqueeze(-1), a) + powered(there.unsqueeze(-2), b)  # [S, K, L]
        logits = height + family._widths(edges).log().view(-1, 1, 1)
        log_mass = logits.logsumexp(dim=0)
        # where nothing is possible, any distribution stands in
        return family, {"logits": logits.masked_fill(log_mass == -torch.inf, 0.0)}, log_mass

    def statistics(self, x: Tensor) -> Tensor:
        """Which bin, as a vector with a single one."""
        place, inside = self._place(x)
        ones = inside.unsqueeze(-1).to(x.dtype)
        return torch.zeros(*x.shape, self._bins, dtype=x.dtype, device=x.device).scatter_(
            -1, place.unsqueeze(-1), ones
        )

    def moments(self, params: Params) -> Tensor:
        """Probabilities of the bins."""
        return params["logits"].softmax(dim=-2)

    def maximize(
        self, params: Params, weight: Tensor, statistics: Tensor, pseudocount: float
    ) -> dict[str, Tensor]:
        """Relative counts; a unit without flow keeps its bins."""
        counts = statistics + pseudocount * self.moments(params)  # [P, S, K]
        total = counts.sum(dim=-2, keepdim=True)
        return {"logits": torch.where(total > 0, (counts / total).log(), params["logits"])}

    def _log_height(self, logits: Tensor) -> Tensor:
        return logits.log_softmax(dim=-2) - self._widths(logits).log().unsqueeze(-1)

    def _edges(self, like: Tensor) -> Tensor:
        return torch.tensor(self.edges, dtype=like.dtype, device=like.device)

    def _widths(self, like: Tensor) -> Tensor:
        """Of the edges as they were given: rounded ones may lie too far from zero to tell apart."""
        widths = [high - low for low, high in pairwise(self.edges)]
        return torch.tensor(widths, dtype=like.dtype, device=like.device)

    def _place(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Index of the bin of every value, and whether it is in one at all."""
        edges = self._edges(x)
        inside = (x >= edges[0]) & (x <= edges[-1])
        place = torch.searchsorted(edges, x.contiguous(), right=True) - 1
        return place.clamp(0, self._bins - 1), inside
