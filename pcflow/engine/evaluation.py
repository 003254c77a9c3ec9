"""What an upward pass found, and how to go down again.

Legend: B batch, C copies, D variables.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import torch
from torch import Tensor

from pcflow.engine.passes import AtLeaf, AtWeights, down, follow
from pcflow.engine.routes import Route
from pcflow.engine.tape import Tape
from pcflow.engine.told import Shares


@dataclass(frozen=True, eq=False)
class Evaluation(ABC):
    """The result of an upward pass.

    Attributes:
        log_value: [B] (nats).
    """

    log_value: Tensor

    @cached_property
    def possible(self) -> bool:
        """Whether no log-value is -inf or NaN."""
        return bool((self.log_value > -torch.inf).all())

    def known(self, possible: bool | None) -> Self:
        """The same, if that was looked at."""
        if possible is not None:
            self.__dict__["possible"] = possible
        return self

    @abstractmethod
    def down(
        self,
        root_flow: Tensor,
        at_leaf: AtLeaf,
        at_weights: AtWeights | None = None,
        shares: Shares | None = None,
    ) -> None:
        """Hand the root's flow [B] down; see `passes.down`."""


@dataclass(frozen=True, eq=False)
class Taped(Evaluation):
    """A pass that wrote down the value of every unit.

    Attributes:
        scaled: the tape of all rows; in log space if no layer has a second unit to share a scale.
        exact: the log-space tape of the doubtful rows, if there are any.
        doubtful: their indices.
    """

    scaled: Tape
    exact: Tape | None = None
    doubtful: Tensor | None = None

    def down(
        self,
        root_flow: Tensor,
        at_leaf: AtLeaf,
        at_weights: AtWeights | None = None,
        shares: Shares | None = None,
    ) -> None:
        """Go down on every tape; doubtful rows have no slope on the first."""
        if self.exact is None or self.doubtful is None:
            down(self.scaled, root_flow, at_leaf, at_weights, shares)
            return
        rows = self.doubtful
        down(self.scaled, root_flow.index_fill(0, rows, 0.0), at_leaf, at_weights, shares)
        exact = None if shares is None else {w: share[:, rows] for w, share in shares.items()}
        down(self.exact, root_flow[rows], at_leaf, at_weights, exact)

    def follow(self, route: Route, copies: int) -> Tensor:
        """Values [C, B, D] along chosen inputs, C copies of every row."""
        values: Tensor = follow(self.scaled, route, copies).unflatten(0, (copies, -1))
        if self.exact is not None and self.doubtful is not None:
            exact = follow(self.exact, route, copies).unflatten(0, (copies, -1))
            values.index_copy_(1, self.doubtful, exact)
        return values
