"""The categorical distribution."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pcflow.checks import check_whole
from pcflow.inputs.base import FiniteFamily, Params


@dataclass(frozen=True)
class Categorical(FiniteFamily):
    """`num_categories` values 0, 1, ... with free probabilities.

    Parameter: `logits` [V, K]; probabilities are their softmax over V. A logit of -inf is a hard
    zero and stays one.

    Raises:
        SettingError: if there is no category.

    Examples:
        >>> family = Categorical(3)
        >>> family.table({"logits": torch.zeros(1, 3, 1)}).flatten()
        tensor([0.3333, 0.3333, 0.3333])
    """

    num_categories: int
    logits: ClassVar[str | None] = "logits"

    def __post_init__(self) -> None:
        """Check the size."""
        check_whole("num_categories", self.num_categories)

    def parameter_shapes(self, units: int) -> dict[str, tuple[int, ...]]:
        """`logits` [V, K]."""
        return {"logits": (self.num_categories, units)}

    def initial(self, units: int, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Standard normal logits."""
        return {"logits": torch.randn(self.num_categories, units, generator=generator)}

    def is_proper(self, params: Params) -> Tensor:
        """Those with a possible value, and none that is infinitely likelier than another."""
        return params["logits"].amax(dim=-2).isfinite()

    def log_table(self, params: Params) -> Tensor:
        """Log-softmax of the logits over V."""
        logits = params["logits"]
        if not logits.is_cuda:
            return torch.log_softmax(logits, dim=-2)
        return by_columns(logits, in_log_space=True)

    def table(self, params: Params) -> Tensor:
        """Softmax of the logits over V."""
        logits = params["logits"]
        if not logits.is_cuda:
            return torch.softmax(logits, dim=-2)
        return by_columns(logits, in_log_space=False)

    def table_gradient(self, params: Params, table: Tensor, flow: Tensor) -> dict[str, Tensor]:
        """The softmax's own gradient, without a second pass over the logits."""
        total = flow.sum(dim=-2, keepdim=True)  # [P, 1, K]
        return {"logits": torch.addcmul(flow, table, total, value=-1.0)}

    def maximize(self, params: Params, flow: Tensor, pseudocount: float) -> dict[str, Tensor]:
        """Smoothed relative counts, as log-probabilities; hard zeros are kept."""
        return {"logits": log_shares(flow, params["logits"], pseudocount)}


def log_shares(counts: Tensor, logits: Tensor, pseudocount: float) -> Tensor:
    """Log of smoothed relative counts, by few passes over memory.

    Args:
        counts: nonnegative, [..., V, K].
        logits: the present ones, [..., V, K]. Those of -inf are kept, and those of units of which
            even with the pseudocount nothing was counted.
        pseudocount: added to every count.
    """
    shares = smoothed(counts, logits, pseudocount)
    total = shares.sum(dim=-2, keepdim=True)  # [..., 1, K]
    found = shares.div_(total).log_()
    if not logits.is_cuda and total.amin().item() > 0:
        return found
    return torch.where(total > 0, found, logits)


def smoothed(
    counts: Tensor, logits: Tensor, pseudocount: float, out: Tensor | None = None
) -> Tensor:
    """Counts [..., V, K] and a pseudocount, but nothing where logits are -inf.

    Args:
        counts: nonnegative.
        logits: the present ones.
        pseudocount: what is added.
        out: where it is written, over the logits if need be.
    """
    zeros = None
    if logits.is_cuda or logits.amin().item() == -torch.inf:  # not to wait for a GPU
        zeros = logits == -torch.inf
    shares = torch.add(counts, pseudocount, out=out)
    return shares if zeros is None else shares.masked_fill_(zeros, 0.0)


def by_columns(logits: Tensor, in_log_space: bool) -> Tensor:
    """Softmax of logits [..., V, K] over V, or its logarithm, by sums over columns.

    Torch's own walks down each column with few threads on a GPU: 126,464 categories of 256 units
    take 160 ms on an H100, as long as 4,096 units.
    """
    below = logits - logits.amax(dim=-2, keepdim=True)
    shares = below.exp()
    total = shares.sum(dim=-2, keepdim=True)  # [..., 1, K]
    return below - total.log() if in_log_space else shares / total
