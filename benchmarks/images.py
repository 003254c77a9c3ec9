"""Images of 28 x 28 pixels: quad trees and quad graphs against libcirkit.

Both sides carry the same parameters, see `from_cirkit`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from cirkit.backend.torch.queries import SamplingQuery
from cirkit.pipeline import PipelineContext
from cirkit.symbolic.circuit import Circuit as SymbolicCircuit
from cirkit.symbolic.layers import CategoricalLayer
from cirkit.templates.region_graph import QuadGraph, QuadTree, RegionGraph
from cirkit.utils.scope import Scope
from from_cirkit import LogitsFactory, from_cirkit
from measure import Workload, agree, backward, forward, renewed
from torch import Tensor

import pcflow as pf

SIDE, CATEGORIES = 28, 256


@dataclass(frozen=True)
class Structure:
    """One circuit in the terms of the peer."""

    name: str
    region_graph: Callable[[], RegionGraph]
    sum_product: str
    units: int

    def symbolic(self) -> SymbolicCircuit:
        """The peer's circuit, with random parameters that can be read back."""
        weights = LogitsFactory(seed=0)

        def pixel(scope: Scope, num_units: int) -> CategoricalLayer:
            probs = weights((num_units, CATEGORIES), lift=8.0)
            return CategoricalLayer(scope, num_units, num_categories=CATEGORIES, probs=probs)

        return self.region_graph().build_circuit(
            input_factory=pixel,
            sum_product=self.sum_product,
            sum_weight_factory=weights,
            nary_sum_weight_factory=weights.mixing,
            num_input_units=self.units,
            num_sum_units=self.units,
        )


def _tree() -> RegionGraph:
    return QuadTree((1, SIDE, SIDE), num_patch_splits=2)


TREE_32 = Structure("quad_tree CP K=32", _tree, "cp", 32)
TREE_128 = Structure("quad_tree CP K=128", _tree, "cp", 128)
TUCKER_16 = Structure("quad_tree Tucker K=16", _tree, "tucker", 16)
GRAPH_32 = Structure("quad_graph CP K=32", lambda: QuadGraph((1, SIDE, SIDE)), "cp", 32)


def workloads() -> dict[str, Callable[[], Workload]]:
    """Builders by name."""
    found: dict[str, Callable[[], Workload]] = {}
    for structure, batch, faster in [
        (TREE_32, 128, (5.0, 3.0)),
        (TREE_32, 1, (None, None)),
        (GRAPH_32, 128, (5.0, 3.0)),
        (TREE_128, 128, (6.0, 4.0)),
        (TUCKER_16, 128, (None, None)),
    ]:
        name = f"{structure.name} B={batch}: forward"
        found[name] = partial(infer, name, structure, batch, faster[0])
        name = f"{structure.name} B={batch}: forward and backward"
        found[name] = partial(train, name, structure, batch, faster[1])
    name = f"{TREE_32.name} B=128: forward, parameters new each time"
    found[name] = partial(infer_renewed, name, TREE_32, 128)
    found[f"{TREE_32.name}: a sample"] = partial(samples, TREE_32)
    found[f"{TREE_32.name} B=128: a conditional sample of each row, half observed"] = partial(
        conditional_samples, TREE_32
    )
    for structure in (TREE_32, GRAPH_32):
        found[f"{structure.name}: compile"] = partial(compiling, structure)
    return found


def infer(name: str, structure: Structure, batch: int, goal: float | None) -> Workload:
    """One pass up."""
    model, theirs, x = both(structure, batch)
    flops, numbers = _floor(model, batch)
    return Workload(
        name,
        "libcirkit",
        forward(lambda: model.log_prob(x)),
        forward(lambda: theirs(x)),
        flops,
        numbers,
        goal=goal,
    )


def train(name: str, structure: Structure, batch: int, goal: float | None) -> Workload:
    """One pass up, and one down for all gradients; parameters are new each time."""
    model, theirs, x = both(structure, batch)
    flops, numbers = _floor(model, batch)
    return Workload(
        name,
        "libcirkit",
        backward(model, renewed(model, lambda: model.log_prob(x))),
        backward(theirs, renewed(theirs, lambda: theirs(x))),
        3 * flops,  # a product has two adjoints
        2 * numbers + 2 * model.plan.parameter_count,  # flows; gradients
        goal=goal,
    )


def infer_renewed(name: str, structure: Structure, batch: int) -> Workload:
    """Forward, with nothing kept from the parameters."""
    model, theirs, x = both(structure, batch)
    flops, numbers = _floor(model, batch)
    return Workload(
        name,
        "libcirkit",
        forward(renewed(model, lambda: model.log_prob(x))),
        forward(renewed(theirs, lambda: theirs(x))),
        flops,
        numbers + 2 * model.plan.parameter_count,
    )


def samples(structure: Structure, count: int = 1024, peer_count: int = 32) -> Workload:
    """Unconditional: the peer draws for every unit, so its memory allows few at a time."""
    model, theirs, _ = both(structure, 1)
    draw = SamplingQuery(theirs)
    return Workload(
        f"{structure.name}: a sample ({count} at a time, peer {peer_count})",
        "libcirkit",
        lambda: model.sample(count),
        forward(lambda: draw(peer_count)[0]),
        numbers=2.0 * count * SIDE**2,
        per=(count, peer_count),
        goal=20.0,
    )


def conditional_samples(structure: Structure, batch: int = 128) -> Workload:
    """Against pcflow's own forward pass of the same rows: no peer can do it."""
    model, _, x = both(structure, batch)
    x = x.float().masked_fill(torch.rand(x.shape) < 0.5, torch.nan)
    flops, numbers = _floor(model, batch)
    return Workload(
        f"{structure.name} B={batch}: a conditional sample of each row, half observed",
        "log_prob of the same rows",
        lambda: model.sample(1, x),
        forward(lambda: model.log_prob(x)),
        flops,
        2 * numbers,
        goal=0.5,
    )


def compiling(structure: Structure) -> Workload:
    """From the circuit's layers to a module."""
    symbolic = structure.symbolic()
    circuit = from_cirkit(symbolic)

    def theirs() -> object:
        context = PipelineContext("torch", semiring="lse-sum", fold=True, optimize=True)
        return context.compile(symbolic)

    return Workload(
        f"{structure.name}: compile", "libcirkit", lambda: pf.compile(circuit), theirs, goal=1.0
    )


def both(structure: Structure, batch: int) -> tuple[pf.CompiledCircuit, Any, Tensor]:
    """The two compiled circuits and a batch on which they agree."""
    symbolic = structure.symbolic()
    context = PipelineContext("torch", semiring="lse-sum", fold=True, optimize=True)
    theirs = context.compile(symbolic)
    model = pf.compile(from_cirkit(symbolic))
    x = _images(batch)
    agree(lambda: model.log_prob(x), lambda: theirs(x.long()).flatten())
    return model, theirs, x


def _images(batch: int) -> Tensor:
    """Rows in which most pixels have the category that the circuit expects.

    The peer cuts log-likelihoods off at -708, so other rows could not be compared.
    """
    noise = torch.randint(CATEGORIES, (batch, SIDE**2))
    return noise.masked_fill(torch.rand(batch, SIDE**2) < 0.95, 0)


def _floor(model: pf.CompiledCircuit, batch: int) -> tuple[float, float]:
    """FLOPs; and numbers moved: every unit is written once and read once, every weight read."""
    plan = model.plan
    return batch * plan.flops, 2 * batch * plan.numbers_per_row + plan.parameter_count
