"""Parameters of a chain as people have them: matrices of probabilities.

Legend: K states, V categories.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from pcflow.circuit import Parameter
from pcflow.errors import StructureError
from pcflow.evidence import Numbers, as_tensor
from pcflow.inputs import FiniteFamily, InputFamily

Emission = Numbers | Mapping[str, Any]
"""Probabilities [K, V] of a finite family; or the family's parameters by name, [..., K]."""

OFF = 1e-4
"""By how much probabilities may miss a sum of one, and what a family can say them."""


def distributions(name: str, given: Numbers, *shape: int) -> Tensor:
    """Probabilities of that shape, in double, of which the last axis is divided by its sum.

    Raises:
        EvidenceError: if they are no numbers.
        StructureError: naming the argument, if they are of another shape, or no distributions.
    """
    probs = as_tensor(name, given).detach().to("cpu", torch.float64)
    if probs.shape != shape:
        raise StructureError(f"{name} must be {list(shape)}, got {list(probs.shape)}")
    total = probs.sum(dim=-1, keepdim=True)
    fits = (probs >= 0).all(dim=-1) & ((total - 1).abs() <= OFF).squeeze(-1)  # NaN does not
    if not fits.all():
        place = (~fits).nonzero()[0].tolist() if fits.dim() else []
        row = f" of row {', '.join(map(str, place))}" if place else ""
        raise StructureError(f"{name}: the numbers{row} are no probabilities that sum to one")
    return probs / total


def emissions(name: str, given: Emission, family: InputFamily, units: int) -> dict[str, Parameter]:
    """Parameters of input units with given distributions.

    Raises:
        StructureError: naming the argument, if they are of another shape, or no distributions of
            the family.
    """
    if isinstance(given, Mapping):
        read = {n: as_tensor(f"{name}[{n!r}]", numbers) for n, numbers in given.items()}
        return {n: Parameter(numbers.double()) for n, numbers in read.items()}
    if not isinstance(family, FiniteFamily):
        raise StructureError(f"{name} of {family} must be its parameters by name")
    table = distributions(name, given, units, family.num_categories).t().unsqueeze(0)  # [1, V, K]
    start = {
        n: p.double().unsqueeze(0) for n, p in family.initial(units, torch.Generator()).items()
    }
    params = family.maximize(start, table, 0.0)
    if not torch.allclose(family.table(params), table, rtol=0.0, atol=OFF):
        raise StructureError(f"{name} is nothing that {family} can say")
    return {n: Parameter(p.squeeze(0)) for n, p in params.items()}


def each(name: str, given: Any, count: int) -> Sequence[Any]:
    """One for each position.

    Raises:
        StructureError: naming the argument, if there are more or fewer.
    """
    if isinstance(given, Mapping) or not hasattr(given, "__len__") or len(given) != count:
        found = len(given) if isinstance(given, Sequence) else type(given).__name__
        raise StructureError(f"{name} must be {count}, one for each position, got {found}")
    return cast(Sequence[Any], given)
