"""Speed against peers on the same circuits, as a Markdown table of ratios.

    pip install -r benchmarks/requirements.txt .
    python benchmarks/speed.py

Both sides carry the same parameters; before anything is timed, their results must agree.
"""

from __future__ import annotations

import argparse
import platform
from collections.abc import Callable

import torch
from cirkit.pipeline import PipelineContext
from cirkit.symbolic.layers import CategoricalLayer
from cirkit.templates.region_graph import QuadTree
from cirkit.utils.scope import Scope
from from_cirkit import LogitsFactory, from_cirkit
from measure import Workload, measure_machine, table
from torch import Tensor, nn
from torch.autograd.graph import increment_version

import pcflow as pf

BATCH, UNITS, CATEGORIES = 128, 32, 256


def quad_tree(side: int = 28) -> list[Workload]:
    """An image of side x side pixels, CP layers, against libcirkit with fold and optimise on."""
    weights = LogitsFactory(seed=0)

    def pixel(scope: Scope, num_units: int) -> CategoricalLayer:
        probs = weights((num_units, CATEGORIES), lift=8.0)
        return CategoricalLayer(scope, num_units, num_categories=CATEGORIES, probs=probs)

    symbolic = QuadTree((1, side, side), num_patch_splits=2).build_circuit(
        input_factory=pixel,
        sum_product="cp",
        sum_weight_factory=weights,
        num_input_units=UNITS,
        num_sum_units=UNITS,
    )
    theirs = PipelineContext("torch", semiring="lse-sum", fold=True, optimize=True).compile(
        symbolic
    )
    model = pf.compile(from_cirkit(symbolic))
    x = _images(side * side)
    with torch.no_grad():
        torch.testing.assert_close(model.log_prob(x), theirs(x).flatten(), rtol=1e-5, atol=0.0)

    name = f"quad_tree({side}, {side}) CP K={UNITS} Categorical({CATEGORIES}) B={BATCH}"
    plan = model.plan
    flops, written, weight_count = (
        BATCH * plan.flops,
        BATCH * plan.numbers_per_row,
        plan.parameter_count,
    )
    ours, peer = lambda: model.log_prob(x), lambda: theirs(x)
    forward = (flops, 2 * written)  # every unit is written once and read once
    both = (3 * flops, 4 * written + 2 * weight_count)  # adjoints of products; flows, gradients
    return [
        Workload(f"{name}: forward", "libcirkit", _forward(ours), _forward(peer), *forward),
        Workload(
            f"{name}: forward, parameters new each time",
            "libcirkit",
            _forward(_renewed(model, ours)),
            _forward(_renewed(theirs, peer)),
            forward[0],
            forward[1] + 2 * weight_count,
        ),
        Workload(
            f"{name}: forward and backward",
            "libcirkit",
            _backward(model, _renewed(model, ours)),
            _backward(theirs, _renewed(theirs, peer)),
            *both,
        ),
    ]


def _images(pixels: int) -> Tensor:
    """Rows in which most pixels have the category that the circuit expects.

    The peer cuts log-likelihoods off at -708, so other rows could not be compared.
    """
    noise = torch.randint(CATEGORIES, (BATCH, pixels))
    return noise.masked_fill(torch.rand(BATCH, pixels) < 0.95, 0)


def hmm_soft_evidence(length: int = 32, states: int = 1024, tokens: int = 32_768) -> list[Workload]:
    """Log Z of a language model's potentials, one row, against one bare matrix product."""
    model = pf.compile(pf.hmm(length, states, pf.Categorical(tokens)))
    potentials = torch.randn(1, length, tokens).log_softmax(dim=-1)
    nothing = torch.ones(1, length, dtype=torch.bool)
    evidence = pf.Evidence(missing=nothing, log_potentials=potentials)
    rows, matrix, out = potentials[0].exp(), torch.rand(tokens, states), torch.empty(length, states)
    return [
        Workload(
            f"HMM {length} x {states} states x {tokens:,} tokens: log Z of soft evidence, B=1",
            "one bare matrix product",
            _forward(lambda: model.log_prob(evidence)),
            _forward(lambda: torch.mm(rows, matrix, out=out)),
            2.0 * length * tokens * states,
            float(tokens * states),
        )
    ]


def _forward(run: Callable[[], Tensor]) -> Callable[[], object]:
    return torch.no_grad()(run)


def _backward(module: nn.Module, run: Callable[[], Tensor]) -> Callable[[], object]:
    def both() -> None:
        module.zero_grad(set_to_none=True)
        run().mean().backward()

    return both


def _renewed(module: nn.Module, run: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """Run as after an optimizer's step: nothing computed from the parameters may be kept."""

    def renewed() -> Tensor:
        for parameter in module.parameters():
            increment_version(parameter)
        return run()

    return renewed


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=30, help="timed turns (%(default)s)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    machine = measure_machine(given.repeats)
    workloads = [*quad_tree(), *hmm_soft_evidence()]
    print(table(workloads, machine, given.repeats))
    print(
        f"\n{platform.machine()}, {given.threads} threads, torch {torch.__version__}; medians of "
        f"{given.repeats} interleaved runs"
    )


if __name__ == "__main__":
    main()
