"""What is learned, and what is written to files and read again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

import pcflow as pf
from cases.given import Cases, asked, circuits, codes, conditional, gaps, seeded


def learned(
    circuit: pf.Circuit, data: Any, learner: pf.Learner, dtype: Any = None, **settings: Any
) -> object:
    """What `fit` reports, and the parameters that it ends with."""
    model = pf.compile(circuit, dtype=dtype)
    settings = {"epochs": 3, "batch_size": 32, "progress": False, "generator": seeded()} | settings
    return pf.fit(model, data, learner, **settings), model


def learners() -> dict[str, Callable[[], pf.Learner]]:
    """Every learner, made anew."""
    return {
        "EM": lambda: pf.EM(0.1),
        "EM, unsmoothed": lambda: pf.EM(0.0),
        "MiniBatchEM": pf.MiniBatchEM,
        "MiniBatchEM, unsmoothed": lambda: pf.MiniBatchEM(pseudocount=0.0),
        "Anemone": pf.Anemone,
        "Anemone, decaying": lambda: pf.Anemone(0.5, momentum=0.3, decay=True),
        "Gradient": pf.Gradient,
        "SGD": lambda: pf.Gradient(lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), decay=True),
    }


class Discriminative:
    """The first variable is to be told from the others."""

    def __init__(self, x: Tensor) -> None:
        """Rows [N, D]."""
        self.x = x

    def __len__(self) -> int:
        """N."""
        return len(self.x)

    def take(self, rows: Tensor) -> Any:
        """Those rows, weighted."""
        x = self.x[rows]
        hidden = torch.zeros_like(x, dtype=torch.bool)
        hidden[:, 0] = True
        return conditional(x, pf.Evidence(x, hidden), weight=1.0 + 0.1 * (rows % 3))


def learning() -> Cases:
    """Every learner on complete rows, on rows with gaps, and on conditional ones."""
    x, tested = codes(150, seed=5), codes(50, seed=6)
    for name in ("hmm", "hclt", "Poon-Domingos, cp", "by hand", "LearnSPN"):
        circuit = circuits()[name]
        for kind, make in learners().items():
            yield f"{name}, {kind}", learned(circuit, x, make())
            yield f"{name}, {kind}, gaps", learned(circuit, gaps(x), make(), torch.float64)
            if "EM" not in kind:
                yield f"{name}, {kind}, conditional", learned(circuit, Discriminative(x), make())
    judged = {"validation": tested, "patience": 2, "epochs": 8}
    yield "validation", learned(circuits()["hclt"], x.numpy(), pf.Anemone(), **judged)
    batches = DataLoader(TensorDataset(gaps(x)), batch_size=40)
    yield "batches", learned(circuits()["hmm"], batches, pf.Anemone())
    for kind, make in learners().items():
        yield f"{kind}, resumed", resumed(circuits()["hmm"], x, make)


def resumed(circuit: pf.Circuit, x: Tensor, make: Callable[[], pf.Learner]) -> object:
    """Two epochs, and two more from the checkpoint."""
    with TemporaryDirectory() as folder:
        settings = {"checkpoint": Path(folder) / "fit.safetensors", "validation": x[:20]}
        first = learned(circuit, x, make(), epochs=2, **settings)
        return first, learned(circuit, x, make(), epochs=4, generator=seeded(1), **settings)


def growing_and_pruning() -> Cases:
    """More units, fewer units."""
    x = codes(100)
    for name in ("hmm", "hclt, two trees", "quad graph, tucker", "LearnSPN", "by hand"):
        circuit = circuits()[name]
        yield f"{name}, grown", asked(pf.grow(circuit, 2, 0.3, seeded()), x[:8])
        yield f"{name}, initialized", pf.initialize(circuit, gaps(x), seeded())
        for keep in (1.0, 0.6):
            yield f"{name}, pruned to {keep}", asked(pf.prune(pf.compile(circuit), x, keep), x[:8])


def files() -> Cases:
    """What is written, read again."""
    with TemporaryDirectory() as folder:
        for number, (name, circuit) in enumerate(circuits().items()):
            path = Path(folder) / f"{number}.safetensors"
            pf.save(pf.compile(circuit, dtype=torch.float64), path)
            model = pf.load(path)
            yield name, [model, model.log_prob(codes(8))]
        path, vtree = Path(folder) / "tree.psdd", Path(folder) / "tree.vtree"
        tree = pf.chow_liu(codes(200, categories=2))
        pf.write_psdd(tree, path, vtree)
        yield "PSDD", [asked(pf.read_psdd(path), codes(8, categories=2)), pf.read_psdd(path, vtree)]


def estimator() -> Cases:
    """The scikit-learn estimator, if that is installed."""
    try:
        from pcflow.estimator import CircuitDensity
    except ImportError:
        return
    real = torch.randn(200, 2, generator=seeded(), dtype=torch.float64).cumsum(dim=1)
    table = gaps(torch.cat([codes(200, 3).double(), real], dim=1), 0.1).numpy()
    for name, settings in {"EM": {}, "Anemone": {"learner": pf.Anemone()}}.items():
        density = CircuitDensity(4, epochs=6, random_state=0, **settings).fit(table)
        yield f"{name}, scores", density.score_samples(table)
        yield f"{name}, draws", density.sample(5, random_state=1)
        for how in ("mean", "mpe", "sample"):
            yield f"{name}, imputed, {how}", density.impute(table[:20], how, random_state=2)
