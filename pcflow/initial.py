"""Parameters to start learning from, taken from data.

Legend: N rows, D variables, K units.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from pcflow.circuit import Circuit, InputLayer, Parameter
from pcflow.columns import check_column
from pcflow.errors import StructureError
from pcflow.inputs import DensityFamily


def initialize(circuit: Circuit, data: Any, generator: torch.Generator | None = None) -> Circuit:
    """The same circuit with densities that fit the data, each a little differently.

    Each unit is fitted to its whole column and as much again to a single row, drawn at random. So
    units have the scale of their column, whatever it is measured in, and differ from each other.
    Finite inputs and weights of sums stay as they are: random ones are as good a start.

    Args:
        circuit: the circuit; it is not changed.
        data: rows [N, D], anything that numpy reads; NaN is a missing value.
        generator: source of the rows; torch's global one by default.

    Raises:
        StructureError: if the data are not such rows, or a column holds no value or one that its
            family does not allow.

    Examples:
        >>> import pcflow as pf
        >>> circuit = pf.hmm(2, states=3, inputs=pf.Gaussian())
        >>> data = 1000 + torch.randn(50, 2)
        >>> bool(pf.compile(pf.initialize(circuit, data)).log_prob(data).mean() > -5)
        True
    """
    table = torch.from_numpy(np.array(np.asarray(data), dtype=np.float64))
    if table.dim() != 2 or table.shape[1] != circuit.num_variables or len(table) == 0:
        wanted = f"[N, {circuit.num_variables}] with at least one row"
        raise StructureError(f"data must be {wanted}, got {tuple(table.shape)}")
    columns: dict[Parameter, list[int]] = {}
    layers = [layer for layer in circuit.layers if isinstance(layer, InputLayer)]
    for layer in layers:
        for parameter in layer.parameters.values():
            columns.setdefault(parameter, []).append(layer.variable)
    values: dict[Parameter, Tensor] = {}
    for layer in layers:
        family, named = layer.family, layer.parameters
        if isinstance(family, DensityFamily) and not values.keys() >= set(named.values()):
            shared = sorted({v for p in named.values() for v in columns[p]})
            for v in shared:
                check_column(v, table[:, v], family)
            found = initial_units(family, table[:, shared].flatten(), layer.units, generator)
            values.update({p: found[name].to(p.value) for name, p in named.items()})
    return circuit.replace(values)


def initial_units(
    family: DensityFamily, column: Tensor, units: int, generator: torch.Generator | None
) -> dict[str, Tensor]:
    """Parameters of units that fit a column [N], each drawn towards one of its values."""
    column = column[~column.isnan()]
    weight = torch.full((len(column), units), 1 / len(column), dtype=torch.float64)
    row = torch.randint(len(column), (units,), generator=generator)
    weight[row, torch.arange(units)] += 1.0
    return family.fitted(column, weight)
