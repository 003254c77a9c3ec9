"""Circuits under test, with evidence about them: what `check_circuit` tries its laws on.

Legend: B batch, D variables.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
from hypothesis import strategies as st
from torch import Tensor

from pcflow.circuit import Circuit, InputLayer, Layer, ProductLayer, SumLayer
from pcflow.evidence import Evidence
from pcflow.inputs import DensityFamily
from pcflow.queries import CompiledCircuit, compile
from pcflow.testing.density import MOST_STATES
from pcflow.testing.family_intervals import says_masses
from pcflow.testing.ingredients import SEEDS
from pcflow.testing.strategies import evidence, intervals

MOST_LAYERS = 12
"""Larger circuits are told by their size only."""


@dataclass(frozen=True)
class Case:
    """A circuit, possible evidence about it, and a seed for what else is drawn.

    Attributes:
        circuit: the circuit.
        model: the same in float64.
        about: evidence that is possible; perhaps without rows.
        within: evidence of intervals, that is possible; None if a family does not say their mass,
            or no law asks.
        seed: for draws.
    """

    circuit: Circuit
    model: CompiledCircuit
    about: Evidence
    within: Evidence | None
    seed: int

    @property
    def rows(self) -> Tensor:
        """What is observed [B, D], NaN elsewhere."""
        assert self.about.values is not None and self.about.missing is not None
        return self.about.values.double().masked_fill(self.about.missing, torch.nan)

    @property
    def atoms(self) -> dict[int, tuple[float, ...]]:
        """Of variables that have a density, values that have a probability besides."""
        found: dict[int, tuple[float, ...]] = {}
        for layer in self.circuit.layers:
            if isinstance(layer, InputLayer) and isinstance(layer.family, DensityFamily):
                before = found.get(layer.variable, ())
                found[layer.variable] = tuple({*before, *layer.family.atoms})
        return found

    @property
    def finite(self) -> bool:
        """Whether every variable has a finite range."""
        return None not in self.circuit.num_categories

    @property
    def small(self) -> bool:
        """Whether its states can be enumerated."""
        sizes = [n for n in self.circuit.num_categories if n is not None]
        return self.finite and prod(sizes) <= MOST_STATES

    def generator(self) -> torch.Generator:
        """For draws."""
        return torch.Generator().manual_seed(self.seed)


@st.composite
def cases(draw: st.DrawFn, strategy: st.SearchStrategy[Circuit], bounded: bool) -> Case:
    """Cases of a strategy's circuits; evidence of finite ones is drawn by `evidence`.

    With intervals only where the law is about them.
    """
    circuit, seed = draw(strategy), draw(SEEDS)
    model = compile(circuit, dtype=torch.float64)
    if None in circuit.num_categories:
        about = _drawn_evidence(model, seed)
    else:
        about = draw(evidence(circuit))
        assert about.values is not None
        missing = about.values.isnan() if about.values.is_floating_point() else about.missing
        about = Evidence(about.values, missing, about.log_potentials)
    within = draw(intervals(circuit)) if bounded and _says_masses(circuit) else None
    return Case(circuit, model, _possible(model, about), within, seed)


def _says_masses(circuit: Circuit) -> bool:
    families = {x.family for x in circuit.layers if isinstance(x, InputLayer)}
    return all(says_masses(family) for family in families if isinstance(family, DensityFamily))


def _drawn_evidence(model: CompiledCircuit, seed: int) -> Evidence:
    generator = torch.Generator().manual_seed(seed)
    values = model.sample(3, generator=generator)
    return Evidence(values, torch.rand(values.shape, generator=generator) < 0.4)


def _possible(model: CompiledCircuit, about: Evidence) -> Evidence:
    return _select(about, (model.log_prob(about) > -torch.inf).nonzero().flatten())


def _select(about: Evidence, rows: Tensor) -> Evidence:
    fields = (about.values, about.missing, about.log_potentials)
    return Evidence(*(None if t is None else t[rows] for t in fields))


def picture(circuit: Circuit) -> str:
    """The circuit, to be pasted if it is small, and then its layers with their parameters."""
    written = f"circuit   {circuit!r}"
    if len(circuit.layers) > MOST_LAYERS:
        return written
    number = {layer: n for n, layer in enumerate(circuit.layers)}

    def parameters(layer: Layer) -> str:
        match layer:
            case InputLayer():
                named = {name: p.value.tolist() for name, p in layer.parameters.items()}
                return "".join(f", {name} {value}" for name, value in named.items())
            case SumLayer():
                return f", weights {layer.weight.value.softmax(-1).tolist()}"
            case ProductLayer():
                return ""

    def one(layer: Layer) -> str:
        below = ", ".join(str(number[child]) for child in layer.inputs)
        return f"layer {number[layer]}   {layer}{below and ' of '}{below}{parameters(layer)}"

    return "\n".join([written, *map(one, circuit.layers)])
