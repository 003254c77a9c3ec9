"""Rows that count more or less: whole weights are repeated rows, weight zero is no row."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from device import DEVICE
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import of_fifty
from torch import Tensor
from torch.utils.data import DataLoader

import pcflow as pf
from pcflow.learn import Learner
from pcflow.testing import circuits, mixed_families, row_weights

LEARNERS: dict[str, Learner] = {
    "em": pf.EM(pseudocount=0.0),
    "smoothed em": pf.EM(0.5),
    "anemone": pf.Anemone(),
    "mini-batch": pf.MiniBatchEM(),
    "gradient": pf.Gradient(lambda p: torch.optim.SGD(p, lr=0.1)),
}
every = pytest.mark.parametrize("learner", LEARNERS.values(), ids=LEARNERS)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def fitted(
    circuit: pf.Circuit, rows: object, learner: Learner, **more: object
) -> tuple[pf.CompiledCircuit, pf.FitResult]:
    model = pf.compile(circuit, DEVICE, torch.float64)
    how = {"epochs": 3, "batch_size": 999, "progress": False, "generator": seeded()} | more
    return model, pf.fit(model, rows, learner, **how)  # type: ignore[arg-type]


def same(
    ours: tuple[pf.CompiledCircuit, pf.FitResult], its: tuple[pf.CompiledCircuit, pf.FitResult]
) -> None:
    """Up to rounding; of what a search finds up to its root, as a likelihood is flat at the top."""
    layers = [layer for layer in ours[0].circuit.layers if isinstance(layer, pf.InputLayer)]
    searched = any(isinstance(layer.family, pf.DiscretizedLogistic) for layer in layers)
    close, level = (1e-6, 1e-7) if searched else (1e-8, 1e-9)
    for mine, other in zip(ours[0].banks, its[0].banks, strict=True):
        torch.testing.assert_close(mine, other, rtol=close, atol=close)
    assert ours[1].train == pytest.approx(its[1].train, rel=level)
    assert ours[1].validation == pytest.approx(its[1].validation, rel=level)


def drawn(circuit: pf.Circuit, seed: int, rows: int) -> Tensor:
    """Possible rows, some values missing."""
    x = pf.compile(circuit, dtype=torch.float64).sample(rows, generator=seeded(seed)).double()
    return x.masked_fill(torch.rand(x.shape, generator=seeded(seed)) < 0.2, torch.nan)


@every
@settings(max_examples=of_fifty(15))
@given(st.data(), circuits(families=mixed_families(), max_variables=4), st.integers(0, 999))
def test_whole_weights_are_repeated_rows(
    learner: Learner, data: st.DataObject, circuit: pf.Circuit, seed: int
) -> None:
    x = drawn(circuit, seed, 6)
    weights = data.draw(row_weights(6, whole=True))
    repeated = x.repeat_interleave(weights.long(), dim=0)
    if repeated.isnan().all():
        return
    about = {"weights": weights, "validation": x, "validation_weights": weights}
    ours = fitted(circuit, x, learner, epochs=2, **about)
    same(ours, fitted(circuit, repeated, learner, epochs=2, validation=repeated))


CHAIN = pf.hmm(3, 2, pf.Categorical(4), generator=seeded())


def some(rows: int = 40) -> tuple[Tensor, Tensor]:
    """Rows with gaps, and weights, some of which are zero."""
    x = drawn(CHAIN, 1, rows)
    return x, (torch.arange(rows) % 4) * torch.rand(rows, generator=seeded()).double()


@every
def test_a_row_of_weight_zero_is_not_there(learner: Learner) -> None:
    """Nor in the order of rows: mini-batches are the same, and so are the numbers of rows."""
    x, weights = some()
    there = weights > 0
    assert 0 < there.sum() < len(x)
    ours = fitted(CHAIN, x, learner, weights=weights, batch_size=7)
    alone = fitted(CHAIN, x[there], learner, weights=weights[there], batch_size=7)
    assert all(torch.equal(a, b) for a, b in zip(ours[0].banks, alone[0].banks, strict=True))
    assert ours[1].train == alone[1].train


@every
def test_only_the_ratios_of_weights_count(learner: Learner) -> None:
    """But a pseudocount of EM is measured in rows."""
    x, weights = some()
    one, other = (
        fitted(CHAIN, x, learner, weights=w, batch_size=7) for w in (weights, 8 * weights)
    )
    if learner == pf.EM(0.5):
        assert one[1].train != pytest.approx(other[1].train, rel=1e-6)
    else:
        same(one, other)


@every
def test_rows_of_every_kind_have_weights(learner: Learner, tmp_path: Path) -> None:
    x, weights = some()
    weights += 0.1
    wanted = fitted(CHAIN, x, learner, weights=weights, batch_size=8)
    mapped = np.memmap(tmp_path / "rows", np.float32, "w+", shape=x.shape)
    mapped[:] = x.numpy()
    for rows, weighed in (
        (x.numpy(), weights.numpy()),
        (mapped, weights.tolist()),
        (x.tolist(), weights),
        (Made(x), weights / 3),
        (pf.Evidence(x), weights),
        (pf.compile(CHAIN, DEVICE, torch.float64).evidence(x), weights),
    ):
        same(fitted(CHAIN, rows, learner, weights=weighed, batch_size=8), wanted)


class Made:
    """Rows that are made when they are asked for, of weight three each."""

    def __init__(self, x: Tensor) -> None:
        self.x = x

    def __len__(self) -> int:
        return len(self.x)

    def take(self, rows: Tensor) -> pf.Batch:
        return pf.Batch(self.x[rows], weight=torch.full((len(rows),), 3.0))


def test_loaders_load_weights_as_batches() -> None:
    x, weights = some()
    pairs = list(zip(x, weights, strict=True))

    def collate(some: list[tuple[Tensor, Tensor]]) -> pf.Batch:
        rows, weight = zip(*some, strict=True)
        return pf.Batch(torch.stack(rows), weight=torch.stack(weight))

    loader: DataLoader[object] = DataLoader(pairs, batch_size=99, collate_fn=collate)  # type: ignore[arg-type]
    for learner in LEARNERS.values():
        ours = fitted(CHAIN, loader, learner, validation=loader)
        its = fitted(CHAIN, x, learner, weights=weights, validation=x, validation_weights=weights)
        same(ours, its)
    with pytest.raises(pf.TypeMismatch, match="weights of train must be None for a loader"):
        fitted(CHAIN, loader, pf.EM(), weights=weights)


@every
def test_a_weighted_fit_is_resumed_and_no_other(learner: Learner, tmp_path: Path) -> None:
    x, weights = some()
    weights += 0.1
    about = {"weights": weights, "batch_size": 7, "checkpoint": tmp_path / "fit"}
    fitted(CHAIN, x, learner, epochs=2, **about)
    resumed = fitted(CHAIN, x, learner, epochs=4, **about)
    whole = fitted(CHAIN, x, learner, epochs=4, batch_size=7, weights=weights)
    assert all(torch.equal(a, b) for a, b in zip(resumed[0].banks, whole[0].banks, strict=True))
    for other in (None, 2 * weights):
        with pytest.raises(pf.FileFormatError, match=r"is of another fit, train\.weights"):
            fitted(CHAIN, x, learner, **about | {"weights": other})


COLUMNS = [pf.LogNormal(), pf.Categorical(2), pf.Poisson(), pf.Exponential(), pf.Gaussian()]


@every
def test_rows_that_do_not_count_may_be_impossible(learner: Learner) -> None:
    """By a weight of zero, to `fit` or in a batch."""
    circuit = pf.naive_bayes(COLUMNS, 2, generator=seeded())
    x = torch.tensor([[1.5, 0, 2, 0.5, 0.1], [0.2, 1, 0, 3.0, -4]] * 3, dtype=torch.float64)
    never = torch.tensor([[-1.5, 0, -2, -0.5, 1]], dtype=torch.float64)
    rows, weights = torch.cat([x, never, never]), torch.tensor([1.0] * 6 + [0, 0])
    wanted = fitted(circuit, x, learner)
    same(fitted(circuit, rows, learner, weights=weights), wanted)
    model = pf.compile(circuit, DEVICE, torch.float64)
    run = learner.start(model)
    for _ in range(3):
        run.step([pf.Batch(rows, weight=weights)])
    for mine, its in zip(model.banks, wanted[0].banks, strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-8, atol=1e-8)


def test_weights_that_are_none_are_refused() -> None:
    x, weights = some()
    wrong: dict[str, object] = {
        r"must be \[40\], one for each row, got \(39,\)": weights[1:],
        r"must be \[40\], one for each row, got \(40, 1\)": weights[:, None],
        "row 0 is nan": weights / weights,
        "row 2 is -1.0": torch.ones(40).index_fill(0, torch.tensor([2]), -1.0),
        "row 1 is inf": torch.tensor([0.0, torch.inf] * 20),
        "are all zero": torch.zeros(40),
        r"is 4e\+37, but must be between": torch.full((40,), 1e36),
        "is inf, but must be between": torch.full((40,), 1e308, dtype=torch.float64),
        "is 4e-39, but must be between": torch.full((40,), 1e-40, dtype=torch.float64),
        "must be numbers": "heavy",
    }
    for told, heavy in wrong.items():
        with pytest.raises(pf.EvidenceError, match=f"weights of train.*{told}"):
            fitted(CHAIN, x, pf.EM(), weights=heavy)
        with pytest.raises(pf.EvidenceError, match=f"weights of validation.*{told}"):
            fitted(CHAIN, x, pf.EM(), validation=x, validation_weights=heavy)
    with pytest.raises(pf.SettingError, match="validation_weights must be None where"):
        fitted(CHAIN, x, pf.EM(), validation_weights=weights)


@pytest.mark.parametrize("learner", [pf.EM(), pf.Anemone(), pf.MiniBatchEM(), pf.Gradient()])
def test_rows_lighter_than_single_precision_holds_are_not_there(learner: pf.Learner) -> None:
    x = some()[0][:6]
    found = []
    for light in (0.0, 1e-60):
        model, weights = pf.compile(CHAIN, DEVICE), [1.0, 2.0, *[light] * 4]
        more = {"weights": weights, "epochs": 2, "batch_size": 1, "generator": seeded()}
        found.append(pf.fit(model, x, learner, progress=False, **more).train)  # type: ignore[arg-type]
    assert found[0] == found[1]


STARTS: dict[str, Callable[..., pf.Circuit]] = {
    "chow_liu": pf.chow_liu,
    "initialize": lambda x, **more: pf.initialize(CHAIN, x, seeded(), **more),
    "hclt": lambda x, **more: pf.hclt(x, 2, pf.Categorical(4), generator=seeded(), **more),
}


@pytest.mark.parametrize("start", STARTS.values(), ids=STARTS)
@given(st.data(), st.integers(0, 999))
@settings(max_examples=of_fifty(15))
def test_what_starts_from_data_weighs_rows_too(
    start: Callable[..., pf.Circuit], data: st.DataObject, seed: int
) -> None:
    x = drawn(CHAIN, seed, 12)
    x[-1] = 3  # whatever the weights, every value and column is there
    weights = data.draw(row_weights(12, whole=True))
    weights[-1] += 1
    ours = start(x, weights=weights)
    its = start(x.repeat_interleave(weights.long(), dim=0))
    for mine, other in zip(ours.parameters, its.parameters, strict=True):
        torch.testing.assert_close(mine.value, other.value, rtol=1e-9, atol=1e-9)
    with pytest.raises(pf.EvidenceError, match=r"weights: row 3 is -2\.0"):
        start(x, weights=weights.index_fill(0, torch.tensor([3]), -2.0))


def test_trees_of_real_columns_weigh_rows_too() -> None:
    x = torch.randn(40, 3, generator=seeded()).double()
    weights = torch.cat([torch.ones(20), torch.zeros(20)])
    for trees in (1, 2):
        ours, its = (
            pf.hclt(rows, 2, pf.Gaussian(), trees, seeded(), **more)  # type: ignore[arg-type]
            for rows, more in ((x, {"weights": weights}), (x[:20], {}))
        )
        for mine, other in zip(ours.parameters, its.parameters, strict=True):
            torch.testing.assert_close(mine.value, other.value)
