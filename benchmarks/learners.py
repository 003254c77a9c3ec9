"""Anemone against mini-batch EM, EM and Adam: same circuits, same batches, same number of updates.

    python benchmarks/learners.py --data FOLDER --out learners.png

Prints a Markdown table and draws validation log-likelihood by batches seen; EM updates once per
epoch only. Every learner starts from the same parameters and is run with three step sizes, of which
the one that ends best on validation data counts; EM has none.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import density_sets
import torch
from matplotlib import pyplot
from matplotlib.axes import Axes
from toy import arguments, size

import pcflow as pf


def adam(step: float) -> pf.Gradient:
    """Adam with a step size."""
    return pf.Gradient(lambda parameters: torch.optim.Adam(parameters, lr=step))


LEARNERS: dict[str, dict[str, Callable[[], pf.Learner]]] = {  # by name and step size
    "Anemone": {str(step): partial(pf.Anemone, step, pseudocount=1e-7) for step in (0.1, 0.2, 0.4)},
    "mini-batch EM": {
        str(step): partial(pf.MiniBatchEM, step, pseudocount=1e-7) for step in (0.05, 0.1, 0.3)
    },
    "Adam": {str(step): partial(adam, step) for step in (0.01, 0.03, 0.1)},
    "EM": {"": pf.EM},
}


def main() -> None:
    """Train all, print and draw."""
    parser = arguments(__doc__)
    parser.add_argument("--data", type=Path, help="default: $PCFLOW_DATA/debd")
    parser.add_argument("--sets", nargs="+", default=size(["nltcs", "plants", "dna"], ["nltcs"]))
    parser.add_argument("--units", type=int, default=size(16, 2))
    parser.add_argument("--updates", type=int, default=size(1500, 4), help="one per batch")
    parser.add_argument("--batch-size", type=int, default=size(256, 50))
    parser.add_argument("--out", default="learners.png")
    given = parser.parse_args()
    figure, axes = pyplot.subplots(
        1, len(given.sets), figsize=(4 * len(given.sets), 3.2), squeeze=False
    )
    print("| set | learner | step | validation | test | behind Anemone | seconds |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for name, place in zip(given.sets, axes[0], strict=True):
        data = density_sets.read(name, given.data)
        compare(name, data, given.units, given.updates, given.batch_size, place)
    axes[0, 0].set_ylabel("validation (nats per row)")
    axes[0, 0].legend()
    figure.tight_layout()
    figure.savefig(given.out, dpi=120)


def compare(
    name: str, data: pf.datasets.Splits, units: int, updates: int, batch_size: int, axes: Axes
) -> None:
    """All learners on one hidden Chow-Liu tree."""
    torch.manual_seed(0)
    circuit = pf.hclt(data.train, units, pf.Categorical(int(data.train.max()) + 1))
    batches = math.ceil(len(data.train) / batch_size)
    epochs, reached = math.ceil(updates / batches), None
    for learner, kinds in LEARNERS.items():
        runs = {n: train(circuit, data, make(), epochs, batch_size) for n, make in kinds.items()}
        step = max(runs, key=lambda step: max(runs[step][0]))
        curve, test, seconds = runs[step]
        end = max(curve)
        reached = end if reached is None else reached
        behind = 100 * (reached - end) / abs(reached)
        print(
            f"| {name} | {learner} | {step} | {end:.3f} | {test:.3f} | {behind:.2f} % "
            f"| {seconds:.0f} |",
            flush=True,
        )
        axes.plot([batches * (epoch + 1) for epoch in range(epochs)], curve, label=learner)
    axes.set_title(name)
    axes.set_xlabel("batches seen")
    axes.set_ylim(reached - 0.1 * abs(reached), axes.get_ylim()[1])


def train(
    circuit: pf.Circuit, data: pf.datasets.Splits, learner: pf.Learner, epochs: int, batch_size: int
) -> tuple[list[float], float, float]:
    """Validation by epoch, test of the best epoch, seconds."""
    torch.manual_seed(1)
    model, began = pf.compile(circuit), time.perf_counter()
    result = pf.fit(
        model,
        data.train,
        learner,
        epochs=epochs,
        batch_size=batch_size,
        validation=data.validation,
        progress=False,
    )
    seconds = time.perf_counter() - began
    with torch.no_grad():
        return result.validation, float(model.log_prob(data.test).double().mean()), seconds


if __name__ == "__main__":
    main()
