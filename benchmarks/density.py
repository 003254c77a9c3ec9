"""Test log-likelihood of one default recipe on density-estimation sets, as a Markdown table.

    python benchmarks/density.py --data FOLDER            # the six sets below, if they are there
    python benchmarks/density.py --data FOLDER --sets nltcs plants

The recipe, the same for every set: hidden Chow-Liu trees, one, or one for each of 4 or 8 clusters
of rows, with 4 states per hidden variable, trained by Anemone until validation says stop. The best
two of them are doubled and trained on, and the best of these again and again, as long as validation
gains a thousandth. What is best on validation data is reported. Beside it the Chow-Liu tree itself,
and published numbers, nats per row: HCLT with 100 states trained by EM (arXiv 2106.02264 and later
tables), and the best circuit that we know of, recalled from several papers and not checked again.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import NamedTuple

import density_sets
import torch
from toy import arguments, size

import pcflow as pf

PUBLISHED = {  # HCLT-100, best
    "nltcs": (-6.00, -5.99),
    "plants": (-12.68, -12.54),
    "baudio": (-39.62, -39.62),
    "bnetflix": (-56.22, -56.21),
    "pumsb_star": (-22.78, -22.41),
    "dna": (-87.78, -79.05),
}
TREES = size((1, 4, 8), (1, 2))
UNITS = 4  # states to begin with
MOST_UNITS = size(64, 8)
SMOOTHING = 0.01  # rows that are added to every count
GAIN = 1e-3  # relative, below which growing stops


class Found(NamedTuple):
    """A trained model, by its mean log-likelihoods."""

    validation: float
    test: float
    train: float
    trees: int
    units: int
    circuit: pf.Circuit


def main() -> None:
    """Train, choose, print."""
    parser = arguments(__doc__)
    parser.add_argument("--data", type=Path, help="default: $PCFLOW_DATA/debd")
    parser.add_argument("--sets", nargs="+", default=size(list(PUBLISHED), ["nltcs"]))
    parser.add_argument("--epochs", type=int, default=size(60, 2), help="at most, of every stage")
    given = parser.parse_args()
    print("| set | Chow-Liu | here | HCLT-100 | best known | trees x states | train | seconds |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for name in given.sets:
        print(row(name, density_sets.read(name, given.data), given.epochs), flush=True)


def row(name: str, data: pf.datasets.Splits, epochs: int) -> str:
    """One set."""
    began = time.perf_counter()
    tree = mean(pf.compile(pf.chow_liu(data.train), dtype=torch.float64), data.test)
    best = search(data, epochs)
    published = PUBLISHED.get(name)
    told = ["", ""] if published is None else [f"{value:.2f}" for value in published]
    cells = [
        name,
        f"{tree:.3f}",
        f"{best.test:.3f}",
        *told,
        f"{best.trees} x {best.units}",
        f"{best.train:.3f}",
        f"{time.perf_counter() - began:.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def search(data: pf.datasets.Splits, epochs: int) -> Found:
    """The best on validation data; of what is grown further, the worst is left out each time."""
    found = [trained(data, start(data, trees), trees, UNITS, epochs) for trees in TREES]
    best = max(found)
    while found and found[0].units < MOST_UNITS:
        kept = sorted(found, reverse=True)[: max(1, len(found) - 1)]
        both = [(one, further(data, one, epochs)) for one in kept]
        best = max([best, *(grown for _, grown in both)])
        found = [new for old, new in both if new.validation >= (1 - GAIN) * old.validation]
    return best


def start(data: pf.datasets.Splits, trees: int) -> pf.Circuit:
    """Trees before they are trained."""
    torch.manual_seed(0)
    inputs = pf.Categorical(int(data.train.max()) + 1)
    return pf.hclt(data.train, UNITS, inputs, trees=trees)


def further(data: pf.datasets.Splits, found: Found, epochs: int) -> Found:
    """Of twice as many states."""
    return trained(data, pf.grow(found.circuit), found.trees, 2 * found.units, epochs)


def trained(
    data: pf.datasets.Splits, circuit: pf.Circuit, trees: int, units: int, epochs: int
) -> Found:
    """As long as validation gains."""
    model = pf.compile(circuit)
    pf.fit(
        model,
        data.train,
        pf.Anemone(pseudocount=SMOOTHING / len(data.train)),
        epochs=epochs,
        batch_size=min(512, max(50, len(data.train) // 32)),
        validation=data.validation,
        patience=5,
        progress=False,
    )
    means = (mean(model, part) for part in (data.validation, data.test, data.train))
    return Found(*means, trees, units, model.circuit)


@torch.no_grad()
def mean(model: pf.CompiledCircuit, x: torch.Tensor) -> float:
    """Mean log-likelihood (nats)."""
    return sum(float(model.log_prob(part).double().sum()) for part in x.split(2048)) / len(x)


if __name__ == "__main__":
    main()
