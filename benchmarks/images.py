"""Images of 28 x 28 pixels: quad trees and quad graphs against libcirkit.

Both sides carry the same parameters, see `from_cirkit`; without the peer, ours are drawn.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from measure import Run, Workload, agree, backward, forward, renewed
from torch import Tensor
from toy import is_installed, size

import pcflow as pf

SIDE, CATEGORIES = size((28, 256), (4, 4))
BATCH = size(128, 8)
FEW, MANY = size((32, 128), (2, 4))  # units
WIDE = size(16, 2)  # units of Tucker layers
PATCHES = {"poon_domingos": (size(4, 2),)}  # of so many pixels a side, nothing smaller is cut
SAMPLES, PEER_SAMPLES = size((1024, 32), (8, 4))


@dataclass(frozen=True)
class Structure:
    """One circuit, in words that both sides know."""

    regions: str
    layer: str
    units: int

    @property
    def name(self) -> str:
        """For the table."""
        kind = {"cp": "CP", "tucker": "Tucker"}[self.layer]
        return f"{self.regions} {kind} K={self.units}"

    def circuits(self) -> tuple[pf.Circuit, Any]:
        """Ours, and the peer's with the same parameters, None if it is not installed."""
        if is_installed("cirkit"):
            from from_cirkit import from_cirkit, symbolic

            cut = PATCHES.get(self.regions, ())
            theirs = symbolic(self.regions, self.layer, self.units, SIDE, CATEGORIES, *cut)
            return from_cirkit(theirs), theirs
        regions = getattr(pf.structure, self.regions)((SIDE, SIDE), *PATCHES.get(self.regions, ()))
        inputs = pf.Categorical(CATEGORIES)
        return pf.build_circuit(regions, inputs, self.units, layer=self.layer), None


TREE = Structure("quad_tree", "cp", FEW)
WIDE_TREE = Structure("quad_tree", "cp", MANY)
TUCKER = Structure("quad_tree", "tucker", WIDE)
GRAPH = Structure("quad_graph", "cp", FEW)


def workloads() -> dict[str, Callable[[], Workload]]:
    """Builders by name."""
    found: dict[str, Callable[[], Workload]] = {}
    for structure, batch, faster in [
        (TREE, BATCH, (5.0, 3.0)),
        (TREE, 1, (None, None)),
        (GRAPH, BATCH, (5.0, 3.0)),
        (WIDE_TREE, BATCH, (6.0, 4.0)),
        (TUCKER, BATCH, (None, None)),
    ]:
        name = f"{structure.name} B={batch}: forward"
        found[name] = partial(infer, name, structure, batch, faster[0])
        name = f"{structure.name} B={batch}: forward and backward"
        found[name] = partial(train, name, structure, batch, faster[1])
    for what, build in [
        (f" B={BATCH}: forward, parameters new each time", infer_renewed),
        (f": a sample ({SAMPLES} at a time, peer {PEER_SAMPLES})", samples),
        (f" B={BATCH}: a conditional sample of each row, half observed", conditional_samples),
    ]:
        name = TREE.name + what
        found[name] = partial(build, name, TREE)
    for structure in (TREE, GRAPH):
        name = f"{structure.name}: compile"
        found[name] = partial(compiling, name, structure)
    return found


def infer(name: str, structure: Structure, batch: int, goal: float | None) -> Workload:
    """One pass up."""
    model, theirs, x = both(structure, batch)
    flops, numbers = _floor(model, batch)
    ours = forward(lambda: model.log_prob(x))
    peer = theirs and forward(lambda: theirs(x))
    return Workload(name, "libcirkit", ours, peer, flops, numbers, goal=goal)


def train(name: str, structure: Structure, batch: int, goal: float | None) -> Workload:
    """One pass up, and one down for all gradients; parameters are new each time."""
    model, theirs, x = both(structure, batch)
    flops, numbers = _floor(model, batch)
    return Workload(
        name,
        "libcirkit",
        backward(model, renewed(model, lambda: model.log_prob(x))),
        theirs and backward(theirs, renewed(theirs, lambda: theirs(x))),
        3 * flops,  # a product has two adjoints
        2 * numbers + 2 * model.plan.parameter_count,  # flows; gradients
        goal=goal,
    )


def infer_renewed(name: str, structure: Structure) -> Workload:
    """Forward, with nothing kept from the parameters."""
    model, theirs, x = both(structure, BATCH)
    flops, numbers = _floor(model, BATCH)
    ours = forward(renewed(model, lambda: model.log_prob(x)))
    peer = theirs and forward(renewed(theirs, lambda: theirs(x)))
    numbers += 2 * model.plan.parameter_count
    return Workload(name, "libcirkit", ours, peer, flops, numbers)


def samples(name: str, structure: Structure) -> Workload:
    """Unconditional: the peer draws for every unit, so its memory allows few at a time."""
    model, theirs, _ = both(structure, 1)
    return Workload(
        name,
        "libcirkit",
        lambda: model.sample(SAMPLES),
        theirs and _peer_samples(theirs),
        numbers=2.0 * SAMPLES * SIDE**2,
        per=(SAMPLES, PEER_SAMPLES),
        goal=20.0,
    )


def conditional_samples(name: str, structure: Structure) -> Workload:
    """Against pcflow's own forward pass of the same rows: no peer can do it."""
    model, _, x = both(structure, BATCH)
    x = x.float().masked_fill(torch.rand(x.shape) < 0.5, torch.nan)
    flops, numbers = _floor(model, BATCH)
    ours, once = (lambda: model.sample(1, x)), forward(lambda: model.log_prob(x))
    return Workload(name, "log_prob of the same rows", ours, once, flops, 2 * numbers, goal=0.5)


def compiling(name: str, structure: Structure) -> Workload:
    """From the circuit's layers to a module."""
    circuit, symbolic = structure.circuits()
    peer = symbolic and (lambda: _peer(symbolic))
    return Workload(name, "libcirkit", lambda: pf.compile(circuit), peer, goal=1.0)


def both(structure: Structure, batch: int) -> tuple[pf.CompiledCircuit, Any, Tensor]:
    """The two compiled circuits and a batch on which they agree."""
    circuit, symbolic = structure.circuits()
    model, theirs = pf.compile(circuit), symbolic and _peer(symbolic)
    x = _images(batch)
    agree(lambda: model.log_prob(x), theirs and (lambda: theirs(x.long()).flatten()))
    return model, theirs, x


def _peer(symbolic: Any) -> Any:
    from from_cirkit import compiled

    return compiled(symbolic)


def _peer_samples(theirs: Any) -> Run:
    from from_cirkit import sampler

    draw = sampler(theirs)
    return forward(lambda: draw(PEER_SAMPLES)[0])


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
