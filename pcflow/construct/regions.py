"""Region graphs to circuits, the hidden Markov model, and naive Bayes."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Literal, cast

import torch

from pcflow.checks import as_iterable, check_generator, check_kind, check_kinds, check_whole
from pcflow.circuit import Circuit, InputLayer, Layer, Parameter, ProductLayer, SumLayer
from pcflow.errors import SettingError, StructureError
from pcflow.inputs import InputFamily
from pcflow.structure import Partition, Region, RegionGraph

Inputs = InputFamily | Sequence[InputFamily]


def build_circuit(
    region_graph: RegionGraph,
    inputs: Inputs,
    units: int = 1,
    layer: Literal["cp", "tucker"] = "cp",
    generator: torch.Generator | None = None,
) -> Circuit:
    """Put layers of `units` units on every region of a region graph, with random parameters.

    A partition becomes a "cp" layer (a dense sum over each part, then a Hadamard product) or a
    "tucker" layer (a Kronecker product of the parts, then a dense sum). A region with several
    partitions mixes them unit by unit; a leaf region of several variables is their Hadamard
    product. The root is one sum unit (Peharz et al. 2020; Mari et al. 2023; Loconte et al. 2024).

    Args:
        region_graph: how the variables are split.
        inputs: one input family for all variables, or one per variable.
        units: units per region, K.
        layer: "cp" or "tucker"; a Tucker layer has K^2 inputs per sum (K^n for n parts).
        generator: source of the initial parameters; torch's global one by default.

    Raises:
        SettingError: if `units` is below 1, or `layer` unknown.
        StructureError: if `inputs` are too few.

    Examples:
        >>> from pcflow import Categorical, structure
        >>> build_circuit(structure.random_binary_tree(4), Categorical(3), units=2)
        Circuit(4 variables, 14 layers, 50 parameters)
    """
    check_kind("region_graph", region_graph, RegionGraph, "a RegionGraph")
    check_whole("units", units)
    SettingError.check("layer", layer, '"cp" or "tucker"', lambda kind: kind in ("cp", "tucker"))
    check_generator(generator)
    families = per_variable(inputs, region_graph.num_variables)
    builder = _Builder(families, units, _cp if layer == "cp" else _tucker, generator)
    built: dict[Region, Layer] = {}
    for region in region_graph.regions:
        built[region] = builder.region(region, region_graph.splits(region), built)
    return Circuit(SumLayer.random([built[region_graph.root]], 1, generator=generator))


def hmm(
    length: int,
    states: int,
    inputs: Inputs | Sequence[Sequence[InputFamily]],
    homogeneous: bool = True,
    generator: torch.Generator | None = None,
) -> Circuit:
    """A hidden Markov model with random parameters: z_1 ~ initial, z_t+1 ~ A[z_t], x_t ~ B[z_t].

    The root's weight is the initial distribution [1, states]; every other sum layer's weight is a
    transition matrix [states, states] with rows z_t.

    Args:
        length: number of positions.
        states: number of hidden states.
        inputs: emission family, or one per position; or, where positions have several variables,
            a list of families for each of them, or one such list for all, `[[Gaussian(),
            Categorical(3)]]`. With M families, variable t * M + m is emission m of position t.
        homogeneous: share one transition and the emissions' parameters between all positions.
        generator: source of the initial parameters; torch's global one by default.

    Raises:
        SettingError: if a size is below 1.
        StructureError: if emissions that differ are to be shared, or there are too few.

    Examples:
        >>> from pcflow import Categorical
        >>> hmm(5, states=2, inputs=Categorical(3))
        Circuit(5 variables, 14 layers, 12 parameters)
    """
    check_whole("length", length)
    check_whole("states", states)
    check_generator(generator)
    families = _per_position(inputs, length)
    if homogeneous and len(set(families)) > 1:
        raise StructureError("a homogeneous HMM needs the same input family at every position")
    variables = list(accumulate(map(len, families), initial=0))
    emit = _random_emissions(families[-1], states, generator)
    move = Parameter(torch.randn(states, states, generator=generator))
    last = _placed(emit, variables[-2])
    below: Layer = last[0] if len(last) == 1 else ProductLayer(last)
    for t in reversed(range(length - 1)):
        if not homogeneous:
            emit = _random_emissions(families[t], states, generator)
            move = Parameter(torch.randn(states, states, generator=generator))
        below = ProductLayer([*_placed(emit, variables[t]), SumLayer([below], move)])
    return Circuit(SumLayer.random([below], 1, generator=generator))


def _per_position(
    inputs: Inputs | Sequence[Sequence[InputFamily]], length: int
) -> list[tuple[InputFamily, ...]]:
    """The families of every position."""
    single = isinstance(inputs, InputFamily)
    if single or not all(
        isinstance(one, Sequence) and one for one in as_iterable("inputs", inputs)
    ):
        return [(family,) for family in per_variable(cast(Inputs, inputs), length)]
    several = cast(Sequence[Sequence[InputFamily]], inputs)
    lists = list(several) * (length if len(several) == 1 else 1)
    for t, families in enumerate(lists):
        check_kinds(f"inputs[{t}]", families, InputFamily, "an input family")
        check_whole(f"number of inputs[{t}]", len(families))
    if len(lists) != length:
        raise StructureError(f"{length} positions need as many lists of inputs, got {len(lists)}")
    return [tuple(families) for families in lists]


def _random_emissions(
    families: Sequence[InputFamily], states: int, generator: torch.Generator | None
) -> list[InputLayer]:
    """Emissions with random parameters, of some position."""
    return [InputLayer.random(0, family, states, generator) for family in families]


def _placed(emissions: Sequence[InputLayer], first: int) -> list[InputLayer]:
    """The same emissions of a position whose first variable is this."""
    return [replace(layer, variable=first + m) for m, layer in enumerate(emissions)]


def naive_bayes(
    inputs: Sequence[InputFamily], units: int, generator: torch.Generator | None = None
) -> Circuit:
    """A mixture of `units` products of single variables, with random parameters.

    Known as naive Bayes or the latent class model: variables are independent given the component
    (Lowd and Domingos 2005).

    Args:
        inputs: the input family of every variable.
        units: number of components, K.
        generator: source of the initial parameters; torch's global one by default.

    Raises:
        SettingError: if there is no variable, or `units` is below 1.

    Examples:
        >>> from pcflow import Bernoulli, Gaussian
        >>> naive_bayes([Bernoulli(), Gaussian()], units=3)
        Circuit(2 variables, 4 layers, 12 parameters)
    """
    check_kinds("inputs", inputs, InputFamily, "an input family")
    check_whole("number of inputs", len(inputs))
    check_whole("units", units)
    check_generator(generator)
    layers = [InputLayer.random(v, family, units, generator) for v, family in enumerate(inputs)]
    below = layers[0] if len(layers) == 1 else ProductLayer(layers)
    return Circuit(SumLayer.random([below], 1, generator=generator))


class _Builder:
    """Builds the layer of one region from the layers of its parts."""

    def __init__(
        self,
        families: Sequence[InputFamily],
        units: int,
        combine: Callable[[list[Layer], int, torch.Generator | None], Layer],
        generator: torch.Generator | None,
    ) -> None:
        self.families, self.units, self.combine = families, units, combine
        self.generator = generator

    def region(
        self, region: Region, splits: Sequence[Partition], built: dict[Region, Layer]
    ) -> Layer:
        if not splits:
            return self.leaf(region)
        ways = [[built[part] for part in split.parts] for split in splits]
        layers = [self.combine(parts, self.units, self.generator) for parts in ways]
        if len(layers) == 1:
            return layers[0]
        return SumLayer.random(layers, self.units, mixing=True, generator=self.generator)

    def leaf(self, region: Region) -> Layer:
        layers = [
            InputLayer.random(v, self.families[v], self.units, self.generator)
            for v in region.variables
        ]
        return layers[0] if len(layers) == 1 else ProductLayer(layers)


def _cp(parts: list[Layer], units: int, generator: torch.Generator | None) -> Layer:
    return ProductLayer([SumLayer.random([p], units, generator=generator) for p in parts])


def _tucker(parts: list[Layer], units: int, generator: torch.Generator | None) -> Layer:
    return SumLayer.random([ProductLayer(parts, "kronecker")], units, generator=generator)


def per_variable(inputs: Inputs, num_variables: int) -> Sequence[InputFamily]:
    """One family for each variable.

    Raises:
        StructureError: if there are too few or too many.
    """
    if isinstance(inputs, InputFamily):
        return [inputs] * num_variables
    check_kinds("inputs", inputs, InputFamily, "an input family")
    if len(inputs) != num_variables:
        raise StructureError(f"{num_variables} variables need as many inputs, got {len(inputs)}")
    return inputs
