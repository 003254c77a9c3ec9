"""Test log-likelihood of one default recipe on density-estimation sets, as a Markdown table.

    python benchmarks/density.py --data FOLDER            # the six sets below, if they are there
    python benchmarks/density.py --data FOLDER --sets nltcs plants

The recipe, the same for every set: a hidden Chow-Liu tree for each of 4 or 8 clusters of rows, with
4 states per hidden variable, trained by Anemone for a few epochs. The better of the two is settled,
doubled, explored and settled, and so on, as long as validation gains: small batches leave a poor
optimum quickly, large ones end their noise. What is best on validation data is reported, with the
seconds on the clock and those of the processor. Beside it the Chow-Liu tree itself, and published
numbers, nats per row: HCLT with 100 states trained by EM (arXiv 2106.02264 and later tables), and
the best circuit that we know of, recalled from several papers and not checked again.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import NamedTuple

import density_sets
import torch
from toy import arguments, size

import pcflow as pf

PEERS = "HCLT-100", "best known"
PUBLISHED = {
    "nltcs": (-6.00, -5.99),
    "plants": (-12.68, -12.54),
    "baudio": (-39.62, -39.62),
    "bnetflix": (-56.22, -56.21),
    "pumsb_star": (-22.78, -22.41),
    "dna": (-87.78, -79.05),
}
TREES = size((4, 8), (1, 2))
UNITS = 4  # states to begin with
MOST_UNITS = size(64, 8)
SMOOTHING = 0.025  # rows that are added to every count
EXPLORE = 64, 100  # batches of an epoch at most, rows of a batch at least
SETTLE = 16, 200
RACE = size(8, 2)  # epochs after which the better start is chosen
PATIENCE = 3
GAIN = 3e-4  # relative, below which growing stops
LOSS = 1e-2  # relative, after which settling would not help any more


class Found(NamedTuple):
    """A trained circuit, by its mean log-likelihood on validation data."""

    validation: float
    trees: int
    units: int
    circuit: pf.Circuit


def main() -> None:
    """Train, choose, print."""
    parser = arguments(__doc__)
    parser.add_argument("--data", type=Path, help="default: $PCFLOW_DATA/debd")
    parser.add_argument("--sets", nargs="+", default=size(list(PUBLISHED), ["nltcs"]))
    parser.add_argument("--epochs", type=int, default=size(12, 2), help="at most, of every fit")
    given = parser.parse_args()
    head = "set", "Chow-Liu", "here", *PEERS, "trees x states", "train", "seconds", "of CPU"
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}", flush=True)
    for name in given.sets:
        print(row(name, density_sets.read(name, given.data), given.epochs), flush=True)


def row(name: str, data: pf.datasets.Splits, epochs: int) -> str:
    """One set."""
    wall, processor = time.perf_counter(), time.process_time()
    tree = mean(pf.compile(pf.chow_liu(data.train), dtype=torch.float64), data.test)
    best = search(data, epochs)
    model = pf.compile(best.circuit)
    published = PUBLISHED.get(name)
    told = ["", ""] if published is None else [f"{value:.2f}" for value in published]
    cells = [
        name,
        f"{tree:.3f}",
        f"{mean(model, data.test):.3f}",
        *told,
        f"{best.trees} x {best.units}",
        f"{mean(model, data.train):.3f}",
        f"{time.perf_counter() - wall:.0f}",
        f"{time.process_time() - processor:.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def search(data: pf.datasets.Splits, epochs: int) -> Found:
    """The best on validation data of a start that is settled, doubled, settled, and so on."""
    first = max(started(data, trees, min(epochs, RACE)) for trees in TREES)
    found = best = learned(data, first, SETTLE, epochs)
    while found.units < MOST_UNITS:
        doubled = found._replace(units=2 * found.units, circuit=pf.grow(found.circuit))
        explored = learned(data, doubled, EXPLORE, epochs)
        if explored.validation < (1 + LOSS) * found.validation:
            break
        grown = learned(data, explored, SETTLE, epochs)
        best = max(best, grown)
        if grown.validation < (1 - GAIN) * found.validation:
            break
        found = grown
    return best


def started(data: pf.datasets.Splits, trees: int, epochs: int) -> Found:
    """Hidden trees, no longer where they began."""
    torch.manual_seed(0)
    inputs = pf.Categorical(int(data.train.max()) + 1)
    circuit = pf.hclt(data.train, UNITS, inputs, trees=trees)
    return learned(data, Found(0.0, trees, UNITS, circuit), EXPLORE, epochs)


def learned(data: pf.datasets.Splits, found: Found, batches: tuple[int, int], epochs: int) -> Found:
    """Trained on, as long as validation gains."""
    number, rows = batches
    model = pf.compile(found.circuit)
    result = pf.fit(
        model,
        data.train,
        pf.Anemone(momentum=0.8, pseudocount=SMOOTHING / len(data.train)),
        epochs=epochs,
        batch_size=max(rows, math.ceil(len(data.train) / number)),
        validation=data.validation,
        patience=PATIENCE,
        progress=False,
    )
    return found._replace(validation=result.validation[result.best_epoch], circuit=model.circuit)


@torch.no_grad()
def mean(model: pf.CompiledCircuit, x: torch.Tensor) -> float:
    """Mean log-likelihood (nats)."""
    return sum(float(model.log_prob(part).double().sum()) for part in x.split(2048)) / len(x)


if __name__ == "__main__":
    main()
