"""Scoring, sampling and learning on a card against PyJuice, as a Markdown table.

    pip install pyjuice==2.6.3 .
    python benchmarks/gpu_peer.py

A hidden Markov model, a hidden tree as Chow and Liu's and a Poon-Domingos circuit of images of
28 x 28 pixels (cut every four), laid out as PyJuice lays them out, of 39 and 53 million edges as it
counts them (its paper, arXiv 2406.00766, Sec. 6.1, goes from 500 thousand to 2 billion), on random
rows.

PyJuice multiplies in bfloat16 going up and in TF32 going down, unless it is asked for more; pcflow
in float32, unless torch is asked for less. The rows in TF32 ask both for TF32.

Both sides carry the same parameters. Log-likelihoods that do not agree to 1e-3 are said in place
of the peer's times, and so is whatever it fails at. Without it only pcflow's column is filled.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from gpu_rates import (
    DEVICE,
    MEMORY,
    Outcome,
    Rates,
    Table,
    Work,
    in_a_line,
    milliseconds,
    ratio,
    require_card,
)
from measure import Run, forward
from torch import Tensor
from toy import arguments, is_installed, size

import pcflow as pf

LENGTH, STATES, SYMBOLS, ROWS = size((64, 1024, 4096, 256), (8, 16, 4, 4))
SIDE, CUT, LEVELS, IMAGES = size((28, 4, 256, 512), (4, 2, 4, 4))
TREE_UNITS, GRID_UNITS = size((256, 128), (4, 4))


@dataclass(frozen=True)
class Case:
    """A circuit on both sides.

    Attributes:
        name: for the table.
        circuit: ours.
        symbols: values of every variable.
        rows: of a batch.
        there: makes the peer's.
    """

    name: str
    circuit: pf.Circuit
    symbols: int
    rows: int
    there: Callable[[], Any]


def main() -> None:
    """Measure, print."""
    arguments(__doc__).parse_args()
    require_card()
    rates = Rates.measured()
    table = Table("workload", "ms", "PyJuice, ms", "faster by", "time over the floor")
    for build in (chain, tree, grid):
        with table.attempt(build.__name__):
            measure(table, rates, build())
    table.end(rates)


def chain() -> Case:
    """A hidden Markov model."""
    circuit = pf.hmm(LENGTH, STATES, pf.Categorical(SYMBOLS))
    name = f"HMM {LENGTH} x {STATES:,} states x {SYMBOLS:,} symbols B={ROWS}"
    return Case(name, circuit, SYMBOLS, ROWS, partial(hmm_there, circuit))


def tree() -> Case:
    """A hidden tree, in which every pixel hangs below the one to its left or the one above."""
    circuit = dense(neighbours(), TREE_UNITS)
    name = f"HCLT {SIDE} x {SIDE} K={TREE_UNITS} B={IMAGES}"
    return Case(name, circuit, LEVELS, IMAGES, partial(there, circuit, block=TREE_UNITS))


def neighbours() -> pf.RegionGraph:
    """A region for every pixel and what hangs below it: such a tree stands in for a learned one."""
    below: dict[int, list[pf.Region]] = {v: [] for v in range(SIDE**2)}
    partitions = []
    for v in reversed(range(SIDE**2)):
        region = pf.Region([v, *(u for part in below[v] for u in part.variables)])
        if below[v]:
            partitions.append(pf.Partition(region, (pf.Region([v]), *below[v])))
        near = [v - 1] * (v % SIDE > 0) + [v - SIDE] * (v >= SIDE)
        if near:
            below[near[int(torch.randint(len(near), ()))]].append(region)
    return pf.RegionGraph(region, partitions)


def grid() -> Case:
    """A Poon-Domingos circuit."""
    regions = pf.structure.poon_domingos((SIDE, SIDE), CUT)
    circuit = dense(regions, GRID_UNITS)
    name = f"PD {SIDE} x {SIDE} K={GRID_UNITS} B={IMAGES}"
    return Case(name, circuit, LEVELS, IMAGES, partial(there, circuit, block=min(32, GRID_UNITS)))


def dense(regions: pf.RegionGraph, units: int) -> pf.Circuit:
    """Every region one dense sum of the products of its parts; single variables are inputs."""
    family, built = pf.Categorical(LEVELS), {}
    for region in regions.regions:
        ways = [[built[part] for part in split.parts] for split in regions.splits(region)]
        if not ways:
            ways = [[pf.InputLayer.random(v, family, units) for v in region.variables]]
        products = [pf.ProductLayer(parts) for parts in ways if len(parts) > 1]
        above = 1 if region == regions.root else units
        built[region] = pf.SumLayer.random(products, above) if products else ways[0][0]
    return pf.Circuit(built[regions.root])


def measure(table: Table, rates: Rates, case: Case) -> None:
    """All rows of a circuit."""
    model, in_tf32 = (pf.compile(case.circuit, DEVICE, memory=MEMORY) for _ in range(2))
    x = torch.randint(case.symbols, (case.rows, model.num_variables), device=DEVICE)
    theirs = peer(case, model, x)
    for what, (run, work) in our_runs(model, in_tf32, x).items():
        if isinstance(theirs, str):
            (ours,), other = table.time(run), theirs
        else:
            ours, other = table.time(run, theirs[what])
        table.row(f"{case.name}: {what}", *_cells(ours, other), ratio(ours, rates.floor(work)))


def _cells(ours: Outcome, other: Outcome) -> tuple[str, str, str]:
    return milliseconds(ours), milliseconds(other), ratio(other, ours)


def our_runs(
    model: pf.CompiledCircuit, in_tf32: pf.CompiledCircuit, x: Tensor
) -> dict[str, tuple[Run, Work]]:
    """What is timed, with the least that it must do; what moves the parameters is last."""
    anemone, quick = pf.Anemone().start(model), pf.Anemone().start(in_tf32)
    plan, em, batch = model.plan, pf.EM(pseudocount=0.0).start(model), pf.Batch(x)
    flops = float(len(x) * plan.flops)
    values, weights = 8.0 * len(x) * plan.numbers_per_row, 4.0 * plan.parameter_count
    once = Work(flops, bytes=values + weights)
    step = Work(3 * flops, bytes=2 * values + 2 * weights)  # a product has two adjoints
    averaged = Work(3 * flops, bytes=2 * values + 4 * weights)
    return {
        "log_prob": (forward(lambda: model.log_prob(x)), once),
        "log_prob in TF32": (less_exactly(forward(lambda: in_tf32.log_prob(x))), once),
        "as many samples": (lambda: model.sample(len(x)), Work(bytes=16.0 * x.numel())),
        "a step of Anemone": (lambda: anemone.step([batch]), averaged),
        "a step of Anemone in TF32": (less_exactly(lambda: quick.step([batch])), averaged),
        "a step of EM": (lambda: em.step([batch]), step),
    }


def less_exactly(run: Run) -> Run:
    """With products of float32 in TF32."""

    def quick() -> None:
        torch.set_float32_matmul_precision("high")
        try:
            run()
        finally:
            torch.set_float32_matmul_precision("highest")

    return quick


def peer(case: Case, model: pf.CompiledCircuit, x: Tensor) -> dict[str, Run] | str:
    """The same by the same circuit there, or why that cannot be."""
    if DEVICE.type != "cuda" or not is_installed("pyjuice"):
        return "not installed"
    try:
        import pyjuice

        theirs = pyjuice.compile(case.there(), verbose=False).to(DEVICE)
        with torch.no_grad():
            ours, others = model.log_prob(x).double(), theirs(x).flatten().double()
        off = float(((ours - others) / ours).abs().max())
        alike = off < 1e-3
        return their_runs(theirs, x) if alike else f"log-likelihoods differ by a share of {off:.1e}"
    except Exception as error:
        return in_a_line(error)


def their_runs(theirs: Any, x: Tensor) -> dict[str, Run]:
    """What is timed, by PyJuice."""
    import pyjuice

    optimizer = pyjuice.optim.Anemone(theirs)

    def anemone(in_tf32: bool = False) -> None:
        theirs(x, force_use_fp32=in_tf32)
        theirs.backward(x, force_use_fp32=in_tf32)
        optimizer.step()

    def em() -> None:
        theirs(x)
        theirs.backward(x, flows_memory=0.0)
        theirs.mini_batch_em(step_size=1.0, pseudocount=0.0)

    return {
        "log_prob": lambda: theirs(x),
        "log_prob in TF32": lambda: theirs(x, force_use_fp32=True),
        "as many samples": lambda: pyjuice.queries.sample(theirs, num_samples=len(x)),
        "a step of Anemone": anemone,
        "a step of Anemone in TF32": lambda: anemone(in_tf32=True),
        "a step of EM": em,
    }


def hmm_there(circuit: pf.Circuit) -> Any:
    """The same hidden Markov model, whose parameters are tied there too."""
    import pyjuice

    values = {p.shape: p.value for p in circuit.parameters}
    return pyjuice.structures.HMM(
        seq_length=LENGTH,
        num_latents=STATES,
        num_emits=SYMBOLS,
        alpha=values[(STATES, STATES)].softmax(dim=1),
        beta=values[(SYMBOLS, STATES)].softmax(dim=0).t().contiguous(),
        gamma=values[(1, STATES)].softmax(dim=1)[0],
    )


def there(circuit: pf.Circuit, block: int) -> Any:
    """The same circuit without ties, layer by layer, in blocks of units as it makes them itself."""
    import pyjuice

    def at_input(layer: pf.InputLayer) -> Any:
        law = pyjuice.distributions.Categorical(num_cats=LEVELS)
        found = pyjuice.inputs(layer.variable, num_node_blocks=layer.units // block, dist=law)
        found.set_params(layer.parameters["logits"].value.softmax(dim=0).t().contiguous())
        return found

    def at_sum(layer: pf.SumLayer, below: tuple[Any, ...]) -> Any:
        width = min(block, layer.units)
        found = pyjuice.summate(*below, num_node_blocks=layer.units // width, block_size=width)
        found.set_params(layer.weight.value.softmax(dim=1))
        return found

    with pyjuice.set_block_size(block):
        return circuit.fold(at_input, at_sum, lambda _, below: pyjuice.multiply(*below))


if __name__ == "__main__":
    main()
