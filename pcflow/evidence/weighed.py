"""What input units made of potentials, for a pass that comes after: no table is read for it again.

Legend: B batch, D variables, V categories (all of them, or the k that are listed), K units.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Weighed:
    """Sums over categories of potential times table, of variables with one input each.

    Attributes:
        units: by variable [B, K], where it is missing.
        log: the potentials that they were made of, [B, D, V], the largest of each zero.
        version: how often these had been edited.
        missing: [B, D] bool.
        parameters: what is another object as soon as parameters change.
    """

    units: Mapping[int, Tensor]
    log: Tensor
    version: int
    missing: Tensor
    parameters: object

    @classmethod
    def of(
        cls, units: Mapping[int, Tensor], log: Tensor, missing: Tensor, parameters: object
    ) -> Weighed:
        """Those of potentials as they are now."""
        return cls(units, log, version_of(log), missing, parameters)

    def holds(self, log: Tensor | None, missing: Tensor, parameters: object) -> bool:
        """Whether these are the same potentials, of no more variables, and the same parameters."""
        if log is not self.log or parameters is not self.parameters:
            return False
        same = missing is self.missing or not bool((missing & ~self.missing).any())
        return same and version_of(self.log) == self.version

    def over(self, variables: tuple[int, ...]) -> Tensor:
        """Those of some variables, [F, B, K]; anything where nothing is missing."""
        some = next(iter(self.units.values()))
        return torch.stack([self.units.get(v, some) for v in variables])


def version_of(tensor: Tensor) -> int:
    """How often torch saw it edited."""
    return 0 if tensor.is_inference() else tensor._version
