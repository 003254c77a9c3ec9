"""Rows that count more or less: whole weights are repeated rows, weight zero is no row."""


import pytest
import torch
from device import DEVICE
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import pcflow as pf
from pcflow.learn import Learner
from pcflow.testing import circuits, mixed_families, row_weights

LEARNERS: dict[str, Learner] = {
    "em": pf.EM(),
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
    for mine, other in zip(ours[0].banks, its[0].banks, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-8, atol=1e-8)
    assert ours[1].train == pytest.approx(its[1].train, rel=1e-9)
    assert ours[1].validation == pytest.approx(its[1].validation, rel=1e-9)


def drawn(circuit: pf.Circuit, seed: int, rows: int) -> Tensor:
    """Possible rows, some values missing."""
    x = pf.compile(circuit, dtype=torch.float64).sample(rows, generator=seeded(seed)).double()
    return x.masked_fill(torch.rand(x.shape, generator=seeded(seed)) < 0.2, torch.nan)


@every
@settings(max_examples=15)
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
    ours = fitted(circuit, x, learner, **about)
    same(ours, fitted(circuit, repeated, learner, validation=repeated))
