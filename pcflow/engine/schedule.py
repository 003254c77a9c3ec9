"""In which order the layers of a circuit run, and which of them together.

Layers of equal depth, kind and shape form a *group*: they could run as one batched operation. Wide
groups are cut into *strips*, and strips run depth first, so that what one writes is read by the
next while it is still in the cache, and its memory is free again soon. Folds are ordered by the
layer that reads them, so that a tree is read in slices only.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, groupby
from types import MappingProxyType

from pcflow.circuit import (
    Circuit,
    InputLayer,
    Layer,
    Parameter,
    ProductLayer,
    SumLayer,
    layer_parameters,
)

Place = tuple[int, int, int]


@dataclass(frozen=True)
class Schedule:
    """What runs together, and when.

    Attributes:
        groups: the folds of every group, bottom up. Parameters are stored by group.
        strips: pieces of groups, in the order in which they run.
    """

    groups: list[list[Layer]]
    strips: list[list[Layer]]


def make_schedule(
    circuit: Circuit,
    strip_units: int,
    fold: bool = True,
    home: Mapping[Parameter, int] = MappingProxyType({}),
) -> Schedule:
    """Group, order and cut the layers of a circuit; `fold=False` lets every layer run by itself.

    Parameters that have a `home` are stored already: those of a group in the same.
    """
    depth: dict[Layer, int] = {}
    for layer in circuit.layers:
        below = map(depth.__getitem__, layer.inputs)
        depth[layer] = 0 if isinstance(layer, InputLayer) else 1 + max(below)
    place: dict[Layer, Place] = {}
    groups: list[list[Layer]] = []
    strips: list[list[Layer]] = []
    for group in reversed(_groups(circuit, depth, fold, dict(home))):
        members = sorted(group, key=lambda layer: place.get(layer, (0, 0, 0)))
        groups.append(members)
        for strip in _cut(members, place, strip_units):
            for fold_number, layer in enumerate(strip):
                for slot, child in enumerate(layer.inputs):
                    if child not in place:
                        place[child] = len(strips), slot, fold_number
            strips.append(strip)
    return Schedule(groups[::-1], list(_depth_first(strips, depth)))


def _groups(
    circuit: Circuit, depth: dict[Layer, int], fold: bool, home: dict[Parameter, int]
) -> list[list[Layer]]:
    """Layers that can be one step, bottom up."""
    levels: dict[int, dict[object, list[Layer]]] = defaultdict(lambda: defaultdict(list))
    for layer in circuit.layers:
        levels[depth[layer]][_signature(layer) if fold else layer].append(layer)
    groups: list[list[Layer]] = []
    stored = 1 + max(home.values(), default=-1)
    for level in sorted(levels):
        for members in levels[level].values():
            if isinstance(members[0], ProductLayer):
                groups.append(members)
                continue
            split: dict[tuple[int | None, ...], list[Layer]] = defaultdict(list)
            for layer in members:  # parameters of one step must be stored together
                split[tuple(home.get(p) for p in layer_parameters(layer))].append(layer)
            for group in split.values():
                for parameter in (p for layer in group for p in layer_parameters(layer)):
                    home.setdefault(parameter, len(groups) + stored)
                groups.append(group)
    return groups


def _signature(layer: Layer) -> object:
    if isinstance(layer, InputLayer):
        return layer.family, layer.units
    widths = tuple([child.units for child in layer.inputs])
    if isinstance(layer, SumLayer):
        return "sum", layer.mixing, layer.units, widths
    return "product", layer.kind, widths


def _cut(members: list[Layer], place: dict[Layer, Place], units: int) -> Iterator[list[Layer]]:
    """Strips of a group, cut where what reads them is cut, or where the input changes."""
    most = max(1, units // members[0].units)
    if len(members) <= most or _share_a_table(members):
        yield members
        return
    strip: list[Layer] = []
    for _, run in groupby(members, key=lambda layer: place[layer][:2]):
        together = list(run)
        if strip and len(strip) + len(together) > most:
            yield strip
            strip = []
        pieces = -(-len(together) // most)
        size = -(-len(together) // pieces)
        while len(together) > size:
            yield together[:size]
            together = together[size:]
        strip += together
    yield strip


def _share_a_table(members: list[Layer]) -> bool:
    """Input layers with tied parameters stay together, so that their table is read once."""
    parameters = [layer_parameters(layer) for layer in members if isinstance(layer, InputLayer)]
    return len(set(parameters)) < len(parameters)


def _depth_first(strips: list[list[Layer]], depth: dict[Layer, int]) -> Iterator[list[Layer]]:
    """Every strip after those it reads, which follow one another as closely as they can.

    `strips` begins with the root. Of several, the deepest comes first: it needs memory for longest.
    """
    home = {layer: number for number, strip in enumerate(strips) for layer in strip}

    def below(number: int) -> Iterator[int]:
        inputs = chain.from_iterable(layer.inputs for layer in strips[number])
        numbers = dict.fromkeys(map(home.__getitem__, inputs))
        return iter(sorted(numbers, key=lambda n: -depth[strips[n][0]]))

    seen, stack = {0}, [(0, below(0))]
    while stack:
        number, waiting = stack[-1]
        following = next((n for n in waiting if n not in seen), None)
        if following is None:
            stack.pop()
            yield strips[number]
        else:
            seen.add(following)
            stack.append((following, below(following)))
