"""LearnSPN against spflow's, on nltcs and on a mixed table with gaps, as a Markdown table.

    python benchmarks/learn_spn.py --data FOLDER          # FOLDER holds nltcs.train.data and so on
    python benchmarks/learn_spn.py --sets mixed           # needs no data

Every learner is given a few candidate settings; the best on validation data is reported, in nats
per test row. Seconds are of learning, all candidates together.

What spflow 1.1.0 needs: its randomised dependence coefficient ranks ties by their position, so that
two constant columns are found dependent and peeled row by row, and raises on some pairs; constant
columns and such pairs are called independent for it here. Its Bernoulli leaves give NaN where a
slice holds only ones, so binary columns are categorical; its leaves are fitted by maximum
likelihood and refuse missing values, so its candidates include rows that are filled in (mean of
real columns, most frequent value of others) and complete rows only. Test rows keep their gaps for
everyone. Candidates that raise are left out, and counted in the last column.
"""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Callable, Iterator
from itertools import combinations, product
from pathlib import Path
from typing import Any

import density_sets
import networkx as nx
import numpy as np
import torch
from torch import Tensor
from toy import arguments, is_installed, size

import pcflow as pf

Splits = pf.datasets.Splits
Score = Callable[[Tensor], Tensor]
"""Rows [N, D] to log-likelihoods [N] (nats)."""

MIXED = (
    pf.Bernoulli(),  # constant
    pf.Bernoulli(),
    pf.Categorical(5),
    pf.Poisson(),
    pf.Gaussian(),
    pf.Gaussian(),
    pf.Gaussian(),
    pf.LogNormal(),
    pf.Gaussian(),  # independent of all
)
MISSING = 0.1
THRESHOLD = 0.3  # spflow's default


def main() -> None:
    """Learn, choose, print."""
    parser = arguments(__doc__)
    parser.add_argument("--data", type=Path, help="default: $PCFLOW_DATA/debd")
    parser.add_argument("--sets", nargs="+", default=["nltcs", "mixed"])
    given = parser.parse_args()
    print("| set | learner | test LL | worst row | seconds | chosen | raised |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for name in given.sets:
        data = mixed_sets() if name == "mixed" else density_sets.read(name, given.data)
        inputs = MIXED if name == "mixed" else (pf.Bernoulli(),) * data.train.shape[1]
        for learner, candidates in (
            ("independent columns", independent),
            ("pcflow learn_spn", ours),
            ("spflow learn_spn", theirs),
        ):
            print(f"| {name} | {learner} {best(data, candidates(data.train, inputs))}", flush=True)


Candidates = Iterator[tuple[str, Callable[[], Score]]]


def best(data: Splits, candidates: Candidates) -> str:
    """The rest of a row of the table: the candidate that is best on validation data."""
    tried, raised, began = [], 0, time.perf_counter()
    for name, learn in candidates:
        try:
            score = learn()
            tried.append((float(score(data.validation).double().mean()), name, score))
        except (RuntimeError, ValueError):  # of spflow, which says nothing more specific
            raised += 1
    seconds = time.perf_counter() - began
    if not tried:
        return f"| - | - | {seconds:.1f} | {'none' if raised else 'not installed'} | {raised} |"
    _, name, score = max(tried, key=lambda found: np.nan_to_num(found[0], nan=-np.inf))
    test = score(data.test).double()
    return f"| {test.mean():.3f} | {test.min():.1f} | {seconds:.1f} | {name} | {raised} |"


def independent(train: Tensor, inputs: tuple[Any, ...]) -> Candidates:
    """No split at all."""
    yield "", lambda: scorer(pf.learn_spn(train, inputs, min_rows=len(train) + 1))


def ours(train: Tensor, inputs: tuple[Any, ...]) -> Candidates:
    """Clustering and smoothing; everything else by default."""
    for clustering, pseudocount in product(("em", "kmeans"), (0.3, 1.0)):
        yield (
            f"{clustering}, pseudocount {pseudocount}",
            lambda c=clustering, p=pseudocount: scorer(  # type: ignore[misc]
                pf.learn_spn(
                    train,
                    inputs,
                    clustering=c,
                    pseudocount=p,
                    generator=torch.Generator().manual_seed(0),
                )
            ),
        )


def scorer(circuit: pf.Circuit) -> Score:
    """Compile; no gradients."""
    model = pf.compile(circuit, dtype=torch.float64)
    return torch.no_grad()(model.log_prob)


def theirs(train: Tensor, inputs: tuple[Any, ...]) -> Candidates:
    """Rows in a slice, and what to do about missing values; its own threshold of dependence."""
    if not is_installed("spflow"):
        return
    tables = {"": train.double()}
    if train.is_floating_point() and train.isnan().any():
        tables = {", filled in": filled_in(train, inputs), ", complete rows": complete(train)}
    for (name, table), rows in product(tables.items(), (200, 1000)):
        yield (
            f"{rows} rows{name}",
            lambda t=table, r=rows: spflow(t, inputs, r),  # type: ignore[misc]
        )


def spflow(train: Tensor, inputs: tuple[Any, ...], rows: int) -> Score:
    """Learn one of spflow's, the same families in its leaves."""
    from spflow.learn.learn_spn import learn_spn
    from spflow.utils.rdc import rdc

    def groups(table: Tensor) -> Tensor:
        graph: nx.Graph[int] = nx.empty_graph(table.shape[1])
        varied = [v for v, column in enumerate(table.t()) if len(column.unique()) > 1]
        for i, j in combinations(varied, 2):
            with contextlib.suppress(RuntimeError):
                if rdc(table[:, i].double(), table[:, j].double()) > THRESHOLD:
                    graph.add_edge(i, j)
        label = torch.zeros(table.shape[1], dtype=torch.long)
        for n, group in enumerate(nx.connected_components(graph)):
            label[list(group)] = n
        return label

    torch.manual_seed(0)
    with contextlib.redirect_stdout(io.StringIO()):  # it reports every k-means
        model = learn_spn(
            train.float(),
            spflow_leaves(inputs),
            min_instances_slice=rows,
            partitioning_method=groups,
        )
    score = torch.no_grad()(lambda x: model.log_likelihood(x.float()).reshape(len(x)))
    return score  # type: ignore[no-any-return]


def spflow_leaves(inputs: tuple[Any, ...]) -> list[Any]:
    """One module for every family."""
    from spflow.modules import leaves

    def categorical(size: int) -> type:
        """Its learner does not pass on how many values a leaf has."""

        def start(self: Any, scope: Any, out_channels: int = 1) -> None:
            leaves.Categorical.__init__(self, scope, out_channels, K=size)

        return type(f"Categorical{size}", (leaves.Categorical,), {"__init__": start})

    kinds = {
        pf.Bernoulli(): categorical(2),
        pf.Categorical(5): categorical(5),
        pf.Poisson(): leaves.Poisson,
        pf.Gaussian(): leaves.Normal,
        pf.LogNormal(): leaves.LogNormal,
    }
    scopes = {kind: [v for v, own in enumerate(inputs) if own == kind] for kind in kinds}
    return [kinds[kind](scope=scope) for kind, scope in scopes.items() if scope]


def filled_in(train: Tensor, inputs: tuple[Any, ...]) -> Tensor:
    """Mean of real columns, most frequent value of the others."""
    columns = []
    for column, family in zip(train.unbind(dim=1), inputs, strict=True):
        known = column[~column.isnan()]
        real = isinstance(family, pf.Gaussian | pf.LogNormal)
        columns.append(column.nan_to_num(float(known.mean() if real else known.mode().values)))
    return torch.stack(columns, dim=1)


def complete(train: Tensor) -> Tensor:
    """Rows without gaps."""
    return train[~train.isnan().any(dim=1)]


def mixed_sets() -> Splits:
    """Three draws of the mixed table."""
    return Splits(
        *(
            mixed_table(count, seed)
            for seed, count in enumerate(size((4000, 1000, 2000), (200, 50, 50)))
        )
    )


def mixed_table(count: int, seed: int) -> Tensor:
    """Rows of three hidden kinds, with dependence within a kind too, and gaps."""
    rng = np.random.default_rng(seed)
    kind, noise = rng.choice(3, count, p=[0.5, 0.3, 0.2]), rng.standard_normal((count, 5))
    binary = (rng.random(count) < np.array([0.1, 0.5, 0.9])[kind]).astype(float)
    five = np.where(rng.random(count) < 0.75, (2 * kind + binary) % 5, rng.integers(0, 5, count))
    height = np.array([0.0, 3.0, -3.0])[kind] + noise[:, 0]
    weight = 0.8 * height + 0.6 * noise[:, 1]
    columns = [
        np.ones(count),
        binary,
        five,
        rng.poisson(np.array([1.0, 4.0, 12.0])[kind]),
        height,
        weight,
        height**2 / 4 + 0.5 * noise[:, 2],
        np.exp(0.5 * weight + 0.3 * noise[:, 3]),
        1 + 2 * noise[:, 4],
    ]
    table = np.stack(columns, axis=1)
    table[rng.random(table.shape) < MISSING] = np.nan
    return torch.from_numpy(table)


if __name__ == "__main__":
    main()
