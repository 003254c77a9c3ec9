"""The logistic distribution in steps of one: a smooth bump over many ordered values."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from pcflow.checks import check_whole
from pcflow.errors import SettingError
from pcflow.inputs.base import FiniteFamily, Params


@dataclass(frozen=True)
class DiscretizedLogistic(FiniteFamily):
    """Values 0, ..., V - 1 by a logistic distribution cut at the halves (arXiv 1701.05517, 2.1).

    Value v has the mass from v - 1/2 to v + 1/2; the first and the last value take the tails. Two
    parameters however many values, and neighbours are alike: for grey levels, ages, counts.
    Parameters: `mean` [K] and `log_scale` [K], both in steps.

    Args:
        num_categories: number of values, V.
        min_scale: EM never goes below this scale.

    Raises:
        SettingError: if there are fewer than two values, or `min_scale` is not positive.

    Examples:
        >>> zero = torch.zeros(1, 1)
        >>> DiscretizedLogistic(3).table({"mean": zero + 1, "log_scale": zero}).flatten()
        tensor([0.3775, 0.2449, 0.3775])
    """

    num_categories: int
    min_scale: float = 0.05
    locations: ClassVar[Mapping[str, str]] = {"mean": "log_scale"}

    def __post_init__(self) -> None:
        """Check the settings."""
        check_whole("num_categories", self.num_categories, least=2)
        SettingError.check("min_scale", self.min_scale, "positive", lambda x: 0 < x < math.inf)

    def parameter_shapes(self, units: int) -> dict[str, tuple[int, ...]]:
        """`mean` [K], `log_scale` [K]."""
        return {"mean": (units,), "log_scale": (units,)}

    def initial(self, units: int, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Means anywhere in the range, an eighth of it as scale."""
        spread = float(self.num_categories)
        mean = spread * torch.rand(units, generator=generator) - 0.5
        return {"mean": mean, "log_scale": torch.full((units,), spread / 8).log()}

    def log_table(self, params: Params) -> Tensor:
        """Log of the mass between the cuts."""
        slope = torch.exp(-params["log_scale"]).unsqueeze(-2)  # [P, 1, K]
        return self._log_mass(slope, slope * params["mean"].unsqueeze(-2))

    def maximize(self, params: Params, flow: Tensor, pseudocount: float) -> dict[str, Tensor]:
        """Newton's method from the present parameters; no step lowers the likelihood.

        Written in the slope 1 / scale and the shift mean / scale the likelihood is concave.
        """
        counts = (flow + pseudocount * self.table(params)).double()  # [P, V, K]
        scale = params["log_scale"].double().exp().clamp_min(self.min_scale).unsqueeze(-2)
        mean = params["mean"].double().unsqueeze(-2)  # [P, 1, K]
        total = counts.sum(dim=-2, keepdim=True)
        for _ in range(NEWTON_STEPS):
            step = self._newton(counts / total.clamp_min(1e-300), 1 / scale, mean / scale)
            mean, scale, moved = self._ascend(counts, mean, scale, step)
            if not moved:
                break
        used = total.squeeze(-2) > 0
        found = {"mean": mean.squeeze(-2), "log_scale": scale.log().squeeze(-2)}
        return {n: torch.where(used, found[n].to(p.dtype), p) for n, p in params.items()}

    def _cuts(self, like: Tensor) -> Tensor:
        """Upper end [V, 1] of every value."""
        values = torch.arange(self.num_categories, dtype=like.dtype, device=like.device)
        return values.unsqueeze(-1) + 0.5

    def _log_mass(self, slope: Tensor, shift: Tensor) -> Tensor:
        """Log-mass [P, V, K]: s(a) - s(b) = s(a) s(-b) (1 - exp(b - a)) for a sigmoid s."""
        ends = slope * self._cuts(slope) - shift  # [P, V, K]
        below = logsigmoid(slope - ends)[..., 1:, :]
        above = logsigmoid(ends)[..., :-1, :]
        inner = torch.log(-torch.expm1(-slope))
        middle = below[..., :-1, :] + above[..., 1:, :] + inner
        return torch.cat([above[..., :1, :], middle, below[..., -1:, :]], dim=-2)

    def _newton(self, share: Tensor, slope: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
        """The step [P, 1, K] in slope and shift."""
        cuts = self._cuts(slope)[:-1]  # [V - 1, 1], between v and v + 1
        rising = torch.sigmoid(slope * cuts - shift)  # [P, V - 1, K]
        below, above = share[..., :-1, :], share[..., 1:, :]
        pull = below * (1 - rising) - above * rising
        bend = (below + above) * rising * (1 - rising)
        inner = share[..., 1:-1, :].sum(dim=-2, keepdim=True)
        gain = torch.expm1(slope)

        def over_cuts(x: Tensor) -> Tensor:
            return x.sum(dim=-2, keepdim=True)

        by_slope = over_cuts(pull * cuts) + inner / gain
        by_shift = -over_cuts(pull)
        # minus the second derivatives, kept away from singular
        aa = over_cuts(bend * cuts.square()) + inner * (gain + 1) / gain.square() + 1e-12
        ab = -over_cuts(bend * cuts)
        bb = over_cuts(bend) + 1e-12
        det = (aa * bb - ab.square()).clamp_min(1e-300)
        return (bb * by_slope - ab * by_shift) / det, (aa * by_shift - ab * by_slope) / det

    def _ascend(
        self, counts: Tensor, mean: Tensor, scale: Tensor, step: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor, bool]:
        """Go along the step, or as far as nothing is lost; also whether any unit moved.

        What rounding could lose is nothing: near the top, steps are right that no score can judge.
        """
        slope, shift = 1 / scale, mean / scale
        flattest, steepest = 1e-3 / self.num_categories, 1 / self.min_scale

        def score(slope: Tensor, shift: Tensor) -> Tensor:
            return (counts * self._log_mass(slope, shift)).sum(dim=-2, keepdim=True)

        before, size = score(slope, shift), torch.ones_like(scale)
        least = before * (1 + ROUNDING)  # scores are sums of negative numbers
        for _ in range(HALVINGS):
            new_slope = (slope + size * step[0]).clamp(flattest, steepest)
            new_mean = (shift + size * step[1]) / new_slope
            new_mean = new_mean.clamp(-1.0, float(self.num_categories))
            worse = ~(score(new_slope, new_slope * new_mean) >= least)
            if not worse.any():
                break
            size = torch.where(worse, size / 2, size)
        new_slope = torch.where(worse, slope, new_slope)
        new_mean = torch.where(worse, mean, new_mean)
        change = torch.maximum((new_slope / slope - 1).abs(), (new_mean - mean).abs() * slope)
        return new_mean, 1 / new_slope, bool((change > 1e-6).any())


NEWTON_STEPS = 30
HALVINGS = 30
ROUNDING = 16 * torch.finfo(torch.float64).eps
