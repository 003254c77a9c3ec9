"""Point masses on fixed values: the literals of logical circuits."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from pcflow.checks import as_wholes, check_whole
from pcflow.errors import StructureError
from pcflow.inputs.base import FiniteFamily, Params


@dataclass(frozen=True)
class Indicator(FiniteFamily):
    """Unit k is 1 where the variable equals `values[k]` and 0 elsewhere; no parameters.

    Args:
        values: the value of each unit (one integer means one unit).
        num_categories: number of values of the variable.

    Raises:
        StructureError: if a value is not in 0, ..., num_categories - 1.

    Examples:
        >>> Indicator(7, num_categories=10).values
        (7,)
    """

    values: tuple[int, ...]
    num_categories: int

    def __init__(self, values: int | Iterable[int], num_categories: int = 2) -> None:
        """Check that the values are in range."""
        check_whole("num_categories", num_categories)
        given = tuple(as_wholes("values", values))
        wrong = [v for v in given if not 0 <= v < num_categories]
        if wrong or not given:
            raise StructureError(f"indicator values {given} must lie in 0..{num_categories - 1}")
        object.__setattr__(self, "values", given)
        object.__setattr__(self, "num_categories", num_categories)

    def parameter_shapes(self, units: int) -> dict[str, tuple[int, ...]]:
        """None at all; `units` must be the number of values."""
        if units != len(self.values):
            raise StructureError(f"{self} has {len(self.values)} units, not {units}")
        return {}

    def of_units(self, units: Sequence[int]) -> Self:
        """The values of those units."""
        return type(self)([self.values[unit] for unit in units], self.num_categories)

    def initial(self, units: int, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Nothing to draw."""
        return {}

    def log_table(self, params: Params) -> Tensor:
        """Zero at the unit's value, -inf elsewhere; one parameter set."""
        table = torch.full((1, self.num_categories, len(self.values)), -torch.inf)
        table[0, list(self.values), list(range(len(self.values)))] = 0.0
        return table

    def table_gradient(self, params: Params, table: Tensor, flow: Tensor) -> dict[str, Tensor]:
        """Nothing to learn."""
        return {}

    def maximize(self, params: Params, flow: Tensor, pseudocount: float) -> dict[str, Tensor]:
        """Nothing to learn."""
        return {}
