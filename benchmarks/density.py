"""Test log-likelihood of one default configuration on density-estimation sets, as a Markdown table.

    python benchmarks/density.py --data FOLDER            # the six sets below, if they are there
    python benchmarks/density.py --data FOLDER --sets nltcs plants

A hidden Chow-Liu tree per set, trained by Anemone; its size and smoothing are chosen on validation
data from the same few candidates everywhere. Beside it the Chow-Liu tree itself, and published
numbers: HCLT with 100 states trained by EM (arXiv 2106.02264 and later tables), nats per row.
"""

from __future__ import annotations

import argparse
import os
import time
from itertools import product
from pathlib import Path

import torch

import pcflow as pf

PUBLISHED = {
    "nltcs": -6.00,
    "plants": -12.68,
    "baudio": -39.62,
    "bnetflix": -56.22,
    "pumsb_star": -22.78,
    "dna": -87.78,
}
UNITS = (8, 32, 100)
SMOOTHING = (1e-5, 1e-3)  # relative to a mean count of one


def main() -> None:
    """Train, choose, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--data", type=Path, default=Path(os.environ.get("PCFLOW_DATA", "")) / "debd"
    )
    parser.add_argument("--sets", nargs="+", default=list(PUBLISHED))
    parser.add_argument("--epochs", type=int, default=60)
    given = parser.parse_args()
    print("| set | Chow-Liu | HCLT here | published HCLT-100 | states | smoothing | seconds |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for name in given.sets:
        print(row(name, pf.datasets.read_density_set(name, given.data), given.epochs), flush=True)


def row(name: str, data: pf.datasets.Splits, epochs: int) -> str:
    """One set."""
    began = time.perf_counter()
    tree = mean(pf.compile(pf.chow_liu(data.train), dtype=torch.float64), data.test)
    tried = [train(data, *choice, epochs) for choice in product(UNITS, SMOOTHING)]
    _, test, units, smoothing = max(tried)
    published = f"{PUBLISHED[name]:.2f}" if name in PUBLISHED else ""
    seconds = time.perf_counter() - began
    return (
        f"| {name} | {tree:.3f} | {test:.3f} | {published} | {units} | {smoothing:g} "
        f"| {seconds:.0f} |"
    )


def train(
    data: pf.datasets.Splits, units: int, smoothing: float, epochs: int
) -> tuple[float, float, int, float]:
    """Validation and test log-likelihood of one candidate, and which it was."""
    torch.manual_seed(0)
    circuit = pf.hclt(data.train, units, pf.Categorical(int(data.train.max()) + 1))
    model = pf.compile(circuit)
    learner = pf.Anemone(pseudocount=smoothing)
    pf.fit(
        model,
        data.train,
        learner,
        epochs=epochs,
        batch_size=512,
        validation=data.validation,
        patience=5,
        progress=False,
    )
    return mean(model, data.validation), mean(model, data.test), units, smoothing


@torch.no_grad()
def mean(model: pf.CompiledCircuit, x: torch.Tensor) -> float:
    """Mean log-likelihood (nats)."""
    return float(model.log_prob(x).double().mean())


if __name__ == "__main__":
    main()
