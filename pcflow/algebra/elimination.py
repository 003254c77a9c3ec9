"""Products of tables to circuits, by eliminating one variable after another.

What is left when a variable is summed out is a table over its neighbours, whose entries are units:
sums over the variable's values of what was multiplied. The last one is the circuit, and its mass
the partition function (Zhang and Poole 1994; Darwiche 2003). Time and size are exponential in the
width of the order alone.

Legend: N entries of a table, S those of what is left, P units of what is multiplied.
"""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heapify, heappop, heappush
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from pcflow.algebra.massed import NOTHING, Massed, finish, mix, select
from pcflow.circuit import Circuit, InputLayer, Layer, ProductLayer
from pcflow.errors import NoMassError, SettingError
from pcflow.inputs import Indicator

MOST_WEIGHTS = 1 << 24
"""How many weights a circuit may have."""


class Table(NamedTuple):
    """A factor: for every assignment, the last variable running fastest, a number or a unit.

    Attributes:
        scope: its variables.
        units: logarithms of numbers [N], beside units if variables were summed out.
    """

    scope: tuple[int, ...]
    units: Massed


def eliminate(
    tables: Sequence[tuple[tuple[int, ...], Tensor]], sizes: Sequence[int]
) -> tuple[Circuit, float]:
    """The distribution proportional to a product of tables, and the log of their sum (nats).

    Args:
        tables: scopes, and logarithms of values [N], the last variable running fastest.
        sizes: how many values every variable has.

    Raises:
        NoMassError: if the product is zero everywhere.
        SettingError: if the circuit would have more than 2^24 weights.
    """
    # what has a single value multiplies no table, and may be in any number of scopes
    tables = [(tuple(v for v in scope if sizes[v] > 1), log) for scope, log in tables]
    elimination = _Elimination(tables, sizes)
    for variable in _order([scope for scope, _ in tables], sizes):
        elimination.sum_out(variable)
    return elimination.circuit()


class _Elimination:
    """The tables that are left, by the variables that they are about."""

    def __init__(
        self, tables: Sequence[tuple[tuple[int, ...], Tensor]], sizes: Sequence[int]
    ) -> None:
        self.sizes, self.weights = sizes, 0
        self.about: list[dict[int, Table]] = [{} for _ in sizes]
        self.done: list[Massed] = []
        self.made = 0
        for scope, log in tables:
            self.add(Table(scope, Massed(None, log)))

    def add(self, table: Table) -> None:
        self.made += 1
        for variable in table.scope:
            self.about[variable][self.made] = table
        if not table.scope:
            self.done.append(table.units)

    def sum_out(self, variable: int) -> None:
        """Multiply what is about a variable, and add up over its values."""
        numbers = dict(self.about[variable])
        for number, table in numbers.items():
            for other in table.scope:
                del self.about[other][number]
        tables = list(numbers.values())
        left = sorted({v for table in tables for v in table.scope} - {variable})
        below = [table for table in tables if table.units.layer is not None]
        inner = sorted({v for table in below for v in table.scope} - {variable})
        self.count(left, [*inner, variable], below)
        grid = _Grid([*left, variable], self.sizes)
        units = self.multiplied(variable, inner, below)
        log = sum((t.units.log_mass[grid.index(t.scope)] for t in tables), grid.zeros())
        weight = torch.full((grid.count(left), grid.count([*inner, variable])), NOTHING).double()
        weight[grid.index(left), grid.index([*inner, variable])] = log
        one = torch.zeros(units.units, dtype=torch.float64)
        self.add(Table(tuple(left), mix([Massed(units, one)], weight)))

    def multiplied(self, variable: int, inner: list[int], below: list[Table]) -> Layer:
        """Units [P] of the values of a variable, beside what was summed out before."""
        grid = _Grid([*inner, variable], self.sizes)
        values = Indicator(grid.index([variable]).tolist(), self.sizes[variable])
        layers: list[Layer] = [InputLayer(variable, values, len(values.values))]
        for table in below:
            assert table.units.layer is not None
            layers.append(select(table.units.layer, grid.index(table.scope)))
        return layers[0] if len(layers) == 1 else ProductLayer(layers)

    def count(self, left: list[int], inner: list[int], below: list[Table]) -> None:
        """Refuse what would be too large, before it is made."""
        units = prod(self.sizes[v] for v in inner)
        read = sum(prod(self.sizes[v] for v in table.scope) for table in below)
        self.weights += units * (prod(self.sizes[v] for v in left) + read)
        _check_size(self.weights)

    def circuit(self) -> tuple[Circuit, float]:
        """What is left, which is independent, and the log of its mass."""
        total = sum(one.log_mass.item() for one in self.done)
        if total == NOTHING:
            raise NoMassError([0], "eliminate")
        layers = [one.layer for one in self.done if one.layer is not None]
        root = layers[0] if len(layers) == 1 else ProductLayer(layers)
        return finish(Massed(root, torch.zeros(1, dtype=torch.float64))), total


class _Grid:
    """All assignments of some variables, the last one running fastest."""

    def __init__(self, scope: Sequence[int], sizes: Sequence[int]) -> None:
        self.sizes = sizes
        ranges = [torch.arange(sizes[v]) for v in scope]
        meshes = torch.meshgrid(*ranges, indexing="ij")
        self.values = {v: mesh.flatten() for v, mesh in zip(scope, meshes, strict=True)}

    def index(self, scope: Sequence[int]) -> Tensor:
        """For every assignment, its number among those of some of the variables."""
        number = torch.zeros_like(next(iter(self.values.values())))
        for v in scope:
            number = number * self.sizes[v] + self.values[v]
        return number

    def count(self, scope: Sequence[int]) -> int:
        return prod(self.sizes[v] for v in scope)

    def zeros(self) -> Tensor:
        return torch.zeros(len(self.index([])), dtype=torch.float64)


def _order(scopes: Sequence[tuple[int, ...]], sizes: Sequence[int]) -> list[int]:
    """Variables such that the next one always leaves the smallest table."""
    near = _neighbours(scopes, len(sizes))

    def left(v: int) -> int:
        return prod(sizes[u] for u in near[v])

    heap = [(left(v), v) for v in range(len(sizes))]
    heapify(heap)
    found: dict[int, None] = {}
    while heap:
        size, v = heappop(heap)
        if v in found or size != left(v):
            continue  # told anew when its neighbours changed
        _check_size(size)
        found[v] = None
        for u in near[v]:
            near[u] |= near[v]
            near[u] -= {u, v}
        for u in near[v]:
            heappush(heap, (left(u), u))
    return list(found)


def _neighbours(scopes: Sequence[tuple[int, ...]], variables: int) -> list[set[int]]:
    """For every variable, those that share a scope with it."""
    near: list[set[int]] = [set() for _ in range(variables)]
    for scope in scopes:
        for v in scope:
            near[v].update(scope)
    for v, others in enumerate(near):
        others.discard(v)
    return near


def _check_size(weights: int) -> None:
    wanted = f"at most {MOST_WEIGHTS:,}: the network is too wide"
    SettingError.check("weights of the circuit", weights, wanted, lambda n: n <= MOST_WEIGHTS)
