"""What still works when a circuit is large: 100,000 variables, 100 million parameters, all tokens.

The last case is a language model's vocabulary: initialised, compiled and trained.

    python benchmarks/scale.py

Absolute times are of the machine it runs on; no peer runs these. Linux only (peak memory).
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import TypeVar

import torch
from toy import TOY, arguments, size

import pcflow as pf

ROWS = size(64, 4)
T = TypeVar("T")
Run = Callable[[], torch.Tensor]


def long_chain(variables: int) -> pf.Circuit:
    """A homogeneous hidden Markov model."""
    return pf.hmm(variables, 8, pf.Categorical(10))


def wide_tree(variables: int) -> pf.Circuit:
    """A random binary tree."""
    return pf.build_circuit(pf.structure.random_binary_tree(variables), pf.Categorical(10), units=8)


def many_parameters(units: int) -> pf.Circuit:
    """A quad tree over images: 784 x 256 x K in the inputs, about 1,566 K x K in the sums."""
    return pf.build_circuit(pf.structure.quad_tree((28, 28)), pf.Categorical(256), units=units)


def vocabulary(units: int) -> pf.Circuit:
    """A hidden Markov model of 32 of 126,464 tokens, with inputs that fit some text."""
    circuit = pf.hmm(32, units, pf.Categorical(size(126_464, 100)))
    return pf.initialize(circuit, torch.randint(10, (8 * ROWS, 32)))


CASES: dict[str, tuple[Callable[[int], pf.Circuit], int, str]] = {
    "chain": (long_chain, size(100_000, 100), "log_prob"),
    "tree": (wide_tree, size(100_000, 100), "log_prob"),
    "parameters": (many_parameters, size(224, 2), "Adam"),
    "vocabulary": (vocabulary, size(256, 2), "Anemone"),
}


def main() -> None:
    """Run every case in a process of its own."""
    parser = arguments(__doc__)
    parser.add_argument("--case", choices=CASES)
    parser.add_argument("--size", type=int, help="variables, or units; the case's own by default")
    given = parser.parse_args()
    if given.case is not None:
        build, size, what = CASES[given.case]
        print(case(given.case, lambda: build(given.size or size), what))
        return
    columns = (
        "case",
        "variables",
        "parameters",
        "build, s",
        "compile, s",
        "first and next, s",
        "GiB",
    )
    print(f"| {' | '.join(columns)} | beyond torch itself, times the parameters |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for name in CASES:
        toy = ["--toy"] if TOY else []
        subprocess.run([sys.executable, __file__, "--case", name, *toy], check=True)


def case(name: str, build: Callable[[], pf.Circuit], what: str) -> str:
    """One Markdown row: seconds to build and compile, of the first two runs, peak memory."""
    torch.manual_seed(0)
    bare = peak()
    circuit, built = timed(build)
    model, compiled = timed(lambda: pf.compile(circuit))
    counts = f"{model.num_variables:,} | {model.plan.parameter_count:,}"
    x = torch.randint(10, (ROWS, model.num_variables))
    run = RUNS[what](model, x)
    runs = [timed(run) for _ in range(2)]
    assert all(value.isfinite().all() for value, _ in runs)
    seconds = ", ".join(f"{taken:.2f}" for _, taken in runs)
    times = (peak() - bare) / model.memory.parameters
    return (
        f"| {name}, {what} of {ROWS} rows | {counts} | {built:.1f} | {compiled:.1f} | {seconds} "
        f"| {peak() / 2**30:.1f} | {times:.1f} |"
    )


def peak() -> int:
    """The most memory that this process has had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def asking(model: pf.CompiledCircuit, x: torch.Tensor) -> Run:
    """A query."""
    return torch.no_grad()(lambda: model.log_prob(x).mean())


def by_gradient(model: pf.CompiledCircuit, x: torch.Tensor) -> Run:
    """A step of Adam."""
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    return lambda: step(model, optimizer, x)


def by_counts(model: pf.CompiledCircuit, x: torch.Tensor) -> Run:
    """A step of Anemone."""
    run, batch = pf.Anemone().start(model), pf.Batch(x)
    return lambda: run.step([batch])


RUNS = {"log_prob": asking, "Adam": by_gradient, "Anemone": by_counts}


def step(
    model: pf.CompiledCircuit, optimizer: torch.optim.Optimizer, x: torch.Tensor
) -> torch.Tensor:
    """One step of learning."""
    optimizer.zero_grad()
    loss = -model.log_prob(x).mean()
    loss.backward()
    optimizer.step()
    return loss.detach()


def timed(run: Callable[[], T]) -> tuple[T, float]:
    """The result, and seconds."""
    began = time.perf_counter()
    return run(), time.perf_counter() - began


if __name__ == "__main__":
    main()
