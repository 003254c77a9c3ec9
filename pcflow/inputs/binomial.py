"""The binomial distribution."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from pcflow.checks import check_whole
from pcflow.inputs.base import FiniteFamily, Params
from pcflow.inputs.deviance import deviance, stirling


@dataclass(frozen=True)
class Binomial(FiniteFamily):
    """Successes 0, ..., `total_count` of independent trials.

    Parameter: `logits` [K], the log-odds of success.

    Raises:
        SettingError: if there is no trial.

    Examples:
        >>> Binomial(2).table({"logits": torch.zeros(1, 1)}).flatten()
        tensor([0.2500, 0.5000, 0.2500])
    """

    total_count: int
    num_categories: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Check the number of trials."""
        check_whole("total_count", self.total_count)
        object.__setattr__(self, "num_categories", self.total_count + 1)

    def parameter_shapes(self, units: int) -> dict[str, tuple[int, ...]]:
        """`logits` [K]."""
        return {"logits": (units,)}

    def initial(self, units: int, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Standard normal log-odds."""
        return {"logits": torch.randn(units, generator=generator)}

    def log_table(self, params: Params) -> Tensor:
        """Log of the number of ways, times successes and failures."""
        logits = params["logits"].unsqueeze(-2)  # [P, 1, K]
        won = torch.arange(self.num_categories, dtype=logits.dtype, device=logits.device)
        won = won.unsqueeze(-1)  # [V, 1]
        lost = self.total_count - won
        wins, losses = self.total_count * logits.sigmoid(), self.total_count * (-logits).sigmoid()
        excess = torch.where(logits < 0, won - wins, losses - lost)  # [P, V, K]
        ways = stirling(won + lost) - stirling(won) - stirling(lost)
        return ways - deviance(won, excess, wins) - deviance(lost, -excess, losses)

    def maximize(self, params: Params, flow: Tensor, pseudocount: float) -> dict[str, Tensor]:
        """Log-odds of all successes among all trials."""
        counts = flow + pseudocount * self.table(params)
        won = torch.arange(self.num_categories, dtype=flow.dtype, device=flow.device)
        won = (counts * won.unsqueeze(-1)).sum(dim=-2)  # [P, K]
        lost = self.total_count * counts.sum(dim=-2) - won
        used = (won > 0) & (lost > 0)
        logits = won.clamp_min(torch.finfo(won.dtype).tiny).log()
        logits = logits - lost.clamp_min(torch.finfo(won.dtype).tiny).log()
        some = (won > 0) | (lost > 0)
        bounded = torch.where(used, logits, logits.clamp(-EXTREME, EXTREME))
        return {"logits": torch.where(some, bounded, params["logits"])}


EXTREME = 30.0
"""Log-odds where all trials went one way: near enough to certain, and still with a gradient."""
