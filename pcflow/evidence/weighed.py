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

    def over(self, variables: tuple[int, ...]) -> Tensor | None:
        """Those of variables of one step, [F, B, K]; anything where nothing is missing."""
        found = [self.units.get(v) for v in variables]
        some = next((units for units in found if units is not None), None)
        if some is None:
            return None
        return torch.stack([some if units is None else units for units in found])

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        """Files and deep copies hold none of it: it is of parameters as they are here."""
        return type(None), ()


def version_of(tensor: Tensor) -> int:
    """How often torch saw it edited."""
    return 0 if tensor.is_inference() else tensor._version
