"""The Bernoulli distribution."""

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from pcflow.inputs.base import FiniteFamily, Params


@dataclass(frozen=True)
class Bernoulli(FiniteFamily):
    """Values 0 and 1.

    Parameter: `logits` [K], the log-odds of value 1; plus or minus infinity makes a point mass.

    Examples:
        >>> Bernoulli().table({"logits": torch.zeros(1, 1)}).flatten()
        tensor([0.5000, 0.5000])
    """

    num_categories: int = field(default=2, init=False, repr=False)

    def parameter_shapes(self, units: int) -> dict[str, tuple[int, ...]]:
        """`logits` [K]."""
        return {"logits": (units,)}

    def initial(self, units: int, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Standard normal log-odds."""
        return {"logits": torch.randn(units, generator=generator)}

    def log_table(self, params: Params) -> Tensor:
        """Log-sigmoid of minus and plus the logits."""
        logits = params["logits"]
        return torch.stack([logsigmoid(-logits), logsigmoid(logits)], dim=-2)  # [P, 2, K]

    def table_gradient(self, params: Params, table: Tensor, flow: Tensor) -> dict[str, Tensor]:
        """Flow of ones, less the expected share of all flow; right at infinite logits too."""
        return {"logits": flow[..., 1, :] - table[..., 1, :] * flow.sum(dim=-2)}

    def maximize(self, params: Params, flow: Tensor, pseudocount: float) -> dict[str, Tensor]:
        """Smoothed log-odds of the counts; point masses are kept."""
        zeros, ones = (flow + pseudocount).unbind(dim=-2)
        keep = params["logits"].isinf() | (zeros + ones == 0)
        return {"logits": torch.where(keep, params["logits"], ones.log() - zeros.log())}
