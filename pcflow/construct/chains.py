"""The hidden Markov model, from random parameters or from matrices as people have them.

Legend: K states, V categories, M emissions of a position.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any, cast

import torch
from torch import Tensor

from pcflow.checks import as_iterable, check_generator, check_kinds, check_whole
from pcflow.circuit import Circuit, InputLayer, Layer, Parameter, ProductLayer, SumLayer
from pcflow.construct.regions import FAMILIES, Inputs, per_variable
from pcflow.errors import StructureError
from pcflow.evidence import Numbers, as_tensor
from pcflow.inputs import FiniteFamily, InputFamily

Emission = Numbers | Mapping[str, Any]
"""Probabilities [K, V] of a finite family; or the family's parameters by name, [..., K]."""

OFF = 1e-4
"""By how much probabilities may miss a sum of one, and what a family can say them."""


def hmm(
    length: int,
    states: int,
    inputs: Inputs | Sequence[Sequence[InputFamily]],
    homogeneous: bool = True,
    generator: torch.Generator | None = None,
    *,
    initial: Numbers | None = None,
    transition: Numbers | None = None,
    emission: Emission | Sequence[Any] | None = None,
) -> Circuit:
    """A hidden Markov model: z_1 ~ initial, z_t+1 ~ A[z_t], x_t ~ B[z_t].

    The root's weight is the initial distribution [1, states]; every other sum layer's weight is a
    transition matrix [states, states] with rows z_t. What is not given is random. Zeros that are
    given stay zero, whoever learns.

    Args:
        length: number of positions.
        states: number of hidden states.
        inputs: emission family, or one per position; or, where positions have several variables,
            a list of families for each of them, or one such list for all, `[[Gaussian(),
            Categorical(3)]]`. With M families, variable t * M + m is emission m of position t.
        homogeneous: share one transition and the emissions' parameters between all positions.
        generator: source of the random parameters; torch's global one by default.
        initial: probabilities [states] of the first state.
        transition: probabilities [states, states] of the next state in every row; if they are not
            shared, [length - 1, states, states].
        emission: probabilities [states, V] of what a state emits, for a family with a finite range;
            for any family its parameters by name, the last axis being states. Where positions have
            several variables, a list of them; if they are not shared, one such for every position.

    Returns:
        The circuit, over all emissions of all positions.

    Raises:
        SettingError: if a size is below 1.
        EvidenceError: if what should be matrices are no numbers.
        StructureError: if emissions that differ are to be shared, or there are too few; or if
            matrices are of other shapes, no probabilities, or none that the family can say.

    Examples:
        >>> from pcflow import Categorical
        >>> print(hmm(5, states=2, inputs=Categorical(3)))
        Circuit(5 variables, 14 layers, 12 parameters)
        >>> onwards = hmm(5, 2, Categorical(3), transition=[[0.9, 0.1], [0, 1]])
    """
    check_whole("length", length)
    check_whole("states", states)
    check_generator(generator)
    families = _per_position(inputs, length)
    if homogeneous and len(set(families)) > 1:
        raise StructureError("a homogeneous HMM needs the same input family at every position")
    moves = _moves(transition, length, states, homogeneous)
    emits = _emits(emission, families, states, homogeneous)
    variables = list(accumulate(map(len, families), initial=0))
    below: Layer | None = None
    for t in reversed(range(length)):
        if below is None or not homogeneous:
            emit = emits.get(t) or [InputLayer.random(0, f, states, generator) for f in families[t]]
            move = moves.get(t) or Parameter(torch.randn(states, states, generator=generator))
        layers: list[Layer] = [
            replace(one, variable=variables[t] + m) for m, one in enumerate(emit)
        ]
        layers += [] if below is None else [SumLayer([below], move)]
        below = layers[0] if len(layers) == 1 else ProductLayer(layers)
    assert below is not None
    if initial is None:
        return Circuit(SumLayer.random([below], 1, generator=generator))
    first = _distributions("initial", initial, states).log().unsqueeze(0)
    return Circuit(SumLayer([below], Parameter(first)))


def _per_position(
    inputs: Inputs | Sequence[Sequence[InputFamily]], length: int
) -> list[tuple[InputFamily, ...]]:
    """The families of every position."""
    single = isinstance(inputs, InputFamily)
    if single or not all(
        isinstance(one, Sequence) and one for one in as_iterable("inputs", inputs, FAMILIES)
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


def _moves(
    given: Numbers | None, length: int, states: int, homogeneous: bool
) -> dict[int, Parameter]:
    """The transition after every position, or the one of all under the last."""
    if given is None:
        return {}
    if homogeneous:
        return {length - 1: Parameter(_distributions("transition", given, states, states).log())}
    matrices = _distributions("transition", given, length - 1, states, states).log()
    return {t: Parameter(matrix) for t, matrix in enumerate(matrices)}


def _emits(
    given: Emission | Sequence[Any] | None,
    families: Sequence[Sequence[InputFamily]],
    states: int,
    homogeneous: bool,
) -> dict[int, list[InputLayer]]:
    """The emissions of every position, or those of all under the last."""
    if given is None:
        return {}
    if homogeneous:
        return {len(families) - 1: _of_position("emission", given, families[-1], states)}
    every = zip(_each("emission", given, len(families), "position"), families, strict=True)
    return {t: _of_position(f"emission[{t}]", one, f, states) for t, (one, f) in enumerate(every)}


def _of_position(
    name: str, given: Any, families: Sequence[InputFamily], states: int
) -> list[InputLayer]:
    """Its emissions, of some variable."""
    if len(families) == 1:
        return [_emission(name, given, families[0], states)]
    every = zip(_each(name, given, len(families), "variable"), families, strict=True)
    return [_emission(f"{name}[{m}]", one, f, states) for m, (one, f) in enumerate(every)]


def _emission(name: str, given: Emission, family: InputFamily, states: int) -> InputLayer:
    if isinstance(given, Mapping):
        read = {n: as_tensor(f"{name}[{n!r}]", numbers) for n, numbers in given.items()}
        named = {n: Parameter(numbers.double()) for n, numbers in read.items()}
        return InputLayer(0, family, states, named)
    if not isinstance(family, FiniteFamily):
        raise StructureError(f"{name} of {family} must be its parameters by name")
    table = _distributions(name, given, states, family.num_categories).t().unsqueeze(0)  # [1, V, K]
    start = {
        n: p.double().unsqueeze(0) for n, p in family.initial(states, torch.Generator()).items()
    }
    params = family.maximize(start, table, 0.0)
    if not torch.allclose(family.table(params), table, rtol=0.0, atol=OFF):
        raise StructureError(f"{name} is nothing that {family} can say")
    return InputLayer(0, family, states, {n: Parameter(p.squeeze(0)) for n, p in params.items()})


def _distributions(name: str, given: Numbers, *shape: int) -> Tensor:
    """Probabilities of that shape, in double, of which the last axis is divided by its sum."""
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


def _each(name: str, given: Any, count: int, what: str) -> Sequence[Any]:
    """One for each."""
    if isinstance(given, Mapping) or not hasattr(given, "__len__") or len(given) != count:
        found = len(given) if isinstance(given, Sequence) else type(given).__name__
        raise StructureError(f"{name} must be {count}, one for each {what}, got {found}")
    return cast(Sequence[Any], given)
