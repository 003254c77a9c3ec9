"""A weight that every row of evidence brings along: of a part of a circuit, not of a variable."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pcflow.errors import PropertyRequired
from pcflow.inputs.base import InputFamily, Params


@dataclass(frozen=True)
class Gate(InputFamily):
    """One unit whose value is what the evidence weighs gate `number` by, or one.

    It stands for a state of a rule before the first variable or after the last. So it is no part of
    a circuit that people see, and its variable is one that evidence has no values for.
    """

    num_categories: None = None

    def parameter_shapes(self, units: int) -> dict[str, tuple[int, ...]]:
        """Which gate it is."""
        return {"number": (units,)}

    def initial(self, units: int, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """The first ones."""
        return {"number": torch.arange(units, dtype=torch.get_default_dtype())}

    def is_proper(self, params: Params) -> Tensor:
        """Whatever its number."""
        return torch.ones_like(params["number"], dtype=torch.bool)

    def raw_moment(self, params: Params, power: int) -> Tensor:
        """None."""
        raise PropertyRequired(f"{self} has no values")

    def entropy(self, params: Params) -> Tensor:
        """None."""
        raise PropertyRequired(f"{self} has no values")

    def update(
        self, params: Params, x: Tensor, weight: Tensor, pseudocount: float
    ) -> dict[str, Tensor]:
        """Nothing to learn."""
        return {}
