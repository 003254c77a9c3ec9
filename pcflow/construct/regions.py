"""Region graphs to circuits, and naive Bayes."""

from collections.abc import Callable, Sequence
from typing import Literal

import torch

from pcflow.checks import as_iterable, check_generator, check_kind, check_kinds, check_whole
from pcflow.circuit import Circuit, InputLayer, Layer, ProductLayer, SumLayer
from pcflow.errors import SettingError, StructureError
from pcflow.inputs import InputFamily
from pcflow.structure import Partition, Region, RegionGraph

Inputs = InputFamily | Sequence[InputFamily]
FAMILIES = "an input family, such as Categorical(3), or one per variable"
"""What inputs must be."""


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

    Returns:
        The circuit, with random parameters.

    Raises:
        SettingError: if `units` is below 1, or `layer` unknown.
        StructureError: if `inputs` are too few.

    Examples:
        >>> from pcflow import Categorical, structure
        >>> print(build_circuit(structure.random_binary_tree(4), Categorical(3), units=2))
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

    Returns:
        The circuit, with random parameters.

    Raises:
        SettingError: if there is no variable, or `units` is below 1.

    Examples:
        >>> from pcflow import Bernoulli, Gaussian
        >>> print(naive_bayes([Bernoulli(), Gaussian()], units=3))
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
    as_iterable("inputs", inputs, FAMILIES)
    check_kinds("inputs", inputs, InputFamily, "an input family")
    if len(inputs) != num_variables:
        raise StructureError(f"{num_variables} variables need as many inputs, got {len(inputs)}")
    return inputs
