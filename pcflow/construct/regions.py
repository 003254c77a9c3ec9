"""Region graphs to circuits, the hidden Markov model, and naive Bayes."""

from collections.abc import Callable, Sequence
from typing import Literal

import torch

from pcflow.checks import check_generator, check_kind, check_kinds, check_whole
from pcflow.circuit import Circuit, InputLayer, Layer, Parameter, ProductLayer, SumLayer
from pcflow.construct.given import Emission, distributions, each, emissions
from pcflow.errors import SettingError, StructureError
from pcflow.evidence import Numbers
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
    inputs: Inputs,
    homogeneous: bool = True,
    generator: torch.Generator | None = None,
    *,
    initial: Numbers | None = None,
    transition: Numbers | None = None,
    emission: Emission | Sequence[Emission] | None = None,
) -> Circuit:
    """A hidden Markov model: z_1 ~ initial, z_t+1 ~ A[z_t], x_t ~ B[z_t].

    The root's weight is the initial distribution [1, states]; every other sum layer's weight is a
    transition matrix [states, states] with rows z_t. What is not given is random. Zeros that are
    given stay zero, whoever learns.

    Args:
        length: number of positions.
        states: number of hidden states.
        inputs: emission family, or one per position.
        homogeneous: share one transition and one emission parameter between all positions.
        generator: source of the random parameters; torch's global one by default.
        initial: probabilities [states] of the first state.
        transition: probabilities [states, states] of the next state in every row; if they differ,
            [length - 1, states, states].
        emission: probabilities [states, V] of what a state emits, for a family with a finite range;
            for any family its parameters by name, the last axis being states. If emissions differ,
            one such for every position.

    Raises:
        SettingError: if a size is below 1.
        EvidenceError: if what should be matrices are no numbers.
        StructureError: if emissions that differ are to be shared, or there are too few; or if
            matrices are of other shapes, no probabilities, or none that the family can say.

    Examples:
        >>> from pcflow import Categorical
        >>> hmm(5, states=2, inputs=Categorical(3))
        Circuit(5 variables, 14 layers, 12 parameters)
        >>> onwards = hmm(5, 2, Categorical(3), transition=[[0.9, 0.1], [0, 1]])
    """
    check_whole("length", length)
    check_whole("states", states)
    check_generator(generator)
    families = per_variable(inputs, length)
    if homogeneous and len(set(families)) > 1:
        raise StructureError("a homogeneous HMM needs the same input family at every position")
    moves = _moves(transition, length, states, homogeneous)
    emits = _emits(emission, families, states, homogeneous)
    below: Layer | None = None
    for t in reversed(range(length)):
        if below is None or not homogeneous:
            emit = emits.get(t) or InputLayer.random(t, families[t], states, generator).parameters
            move = moves.get(t) or Parameter(torch.randn(states, states, generator=generator))
        here = InputLayer(t, families[t], states, emit)
        below = here if below is None else ProductLayer([here, SumLayer([below], move)])
    assert below is not None
    if initial is None:
        return Circuit(SumLayer.random([below], 1, generator=generator))
    return Circuit(
        SumLayer([below], Parameter(distributions("initial", initial, states).log()[None]))
    )


def _moves(
    given: Numbers | None, length: int, states: int, homogeneous: bool
) -> dict[int, Parameter]:
    """The transition after every position, or the one of all under the last."""
    if given is None:
        return {}
    if homogeneous:
        return {length - 1: Parameter(distributions("transition", given, states, states).log())}
    matrices = distributions("transition", given, length - 1, states, states).log()
    return {t: Parameter(matrix) for t, matrix in enumerate(matrices)}


def _emits(
    given: Emission | Sequence[Emission] | None,
    families: Sequence[InputFamily],
    states: int,
    homogeneous: bool,
) -> dict[int, dict[str, Parameter]]:
    """The emission at every position, or the one of all under the last."""
    if given is None:
        return {}
    if homogeneous:
        return {len(families) - 1: emissions("emission", given, families[-1], states)}
    every = zip(each("emission", given, len(families)), families, strict=True)
    return {t: emissions(f"emission[{t}]", one, f, states) for t, (one, f) in enumerate(every)}


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
