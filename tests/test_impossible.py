"""One impossible row does not stop a batch: errors name all of them, and `fit` can skip them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from device import DEVICE
from torch import Tensor
from torch.utils.data import DataLoader

import pcflow as pf
from pcflow.learn import Learner

ONWARDS = {"initial": [1, 0], "transition": [[0.5, 0.5], [0, 1]]}
SAYS = {"emission": [[0.5, 0.5, 0], [0, 0.5, 0.5]]}  # 2 is never followed by 0


def model(**more: Any) -> pf.CompiledCircuit:
    chain = pf.hmm(4, 2, pf.Categorical(3), **ONWARDS, **SAYS)
    return pf.compile(chain, DEVICE, torch.float64, **more)


def rows() -> tuple[Tensor, Tensor]:
    """Possible rows, and some with others among them."""
    good = model().sample(12, generator=torch.Generator(DEVICE).manual_seed(0)).cpu().double()
    good[3, 1] = torch.nan
    bad = torch.tensor([[0.0, 2, 0, 0], [2, 2, 2, 2]], dtype=torch.float64)
    return good, torch.cat([good[:2], bad[:1], good[2:9], bad[1:], good[9:], bad])


BAD = (2, 10, 14, 15)
QUERIES: dict[str, Callable[[pf.CompiledCircuit, Any], Any]] = {
    "marginals": lambda m, x: m.marginals(x),
    "mean": lambda m, x: m.mean(x),
    "sample": lambda m, x: m.sample(1, x).movedim(0, 1),
    "mpe": lambda m, x: m.mpe(x).values,
    "project": lambda m, x: m.project(x, torch.zeros(len(x), 4, 3).double()).log_potentials,
    "draws": lambda m, x: m.sample_with_marginals(1, x).values.movedim(0, 1),
}


@pytest.mark.parametrize("query", QUERIES)
@pytest.mark.parametrize("more", [{}, {"memory": 2000}], ids=["whole", "in parts"])
def test_an_error_names_every_impossible_row(query: str, more: dict[str, int]) -> None:
    asked, (good, mixed) = model(**more), rows()
    assert len(asked.engine.parts(asked.evidence(mixed))) == 1 or more
    with pytest.raises(pf.NoMassError) as refused:
        QUERIES[query](asked, mixed)
    assert refused.value.rows == BAD
    left = np.delete(mixed.numpy(), refused.value.rows, axis=0)
    np.testing.assert_array_equal(left, good.numpy())
    np.testing.assert_array_equal(left, mixed[model().log_prob(mixed).cpu() > -torch.inf].numpy())
    assert len(QUERIES[query](asked, left)) == len(good)


@pytest.mark.parametrize("query", QUERIES)
@pytest.mark.parametrize("more", [{}, {"memory": 2000}], ids=["whole", "in parts"])
def test_an_error_names_a_value_that_never_occurs(query: str, more: dict[str, int]) -> None:
    """2 never comes first; that 0 follows it is impossible too, but by both values together."""
    gap, good = torch.nan, rows()[0]
    alone = torch.tensor([[gap, 1, 1, 1], [2, 2, gap, 2]])
    for bad, never in ((alone, (0, 2.0)), (torch.tensor([[0.0, 2, 0, 0]]), None)):
        with pytest.raises(pf.NoMassError) as refused:
            QUERIES[query](model(**more), torch.cat([good, bad]))
        assert refused.value.never == never
        told = "variable 0 never has the value 2: learn with a pseudocount, or take"
        assert (told in str(refused.value)) == (never is not None)


def test_a_large_value_is_named_to_the_last_digit() -> None:
    size = 1_234_568
    logits = torch.zeros(size, 1)
    logits[-1] = -torch.inf
    emit = {"logits": pf.Parameter(logits)}
    one = pf.Circuit(pf.SumLayer.random([pf.InputLayer(0, pf.Categorical(size), 1, emit)], 1))
    with pytest.raises(pf.NoMassError, match="never has the value 1234567:"):
        pf.compile(one, DEVICE).marginals(torch.tensor([[size - 1]]), variables=[0])


def test_learners_name_it_too() -> None:
    bad = torch.tensor([[1.0, 1, 1, 1], [2, 2, 2, 2]])
    for learner in (pf.EM(), pf.MiniBatchEM(), pf.Anemone()):
        with pytest.raises(pf.NoMassError, match="row 1; variable 0 never has the value 2"):
            pf.fit(model(), bad, learner, epochs=1, progress=False)


LEARNERS: dict[str, Learner] = {
    "em": pf.EM(),
    "anemone": pf.Anemone(),
    "mini-batch": pf.MiniBatchEM(),
    "gradient": pf.Gradient(lambda p: torch.optim.SGD(p, lr=0.1)),
}
every = pytest.mark.parametrize("learner", LEARNERS.values(), ids=LEARNERS)


class Made:
    """Evidence that is made when it is asked for, checked beforehand or not."""

    def __init__(self, x: Tensor, check: bool) -> None:
        self.x, self.check = x, check

    def __len__(self) -> int:
        return len(self.x)

    def take(self, chosen: Tensor) -> pf.Batch:
        x = self.x[chosen]
        about = model().evidence(x) if self.check else pf.Evidence(x.nan_to_num(0), x.isnan())
        return pf.Batch(about, weight=torch.full((len(x),), 2.0))


@every
@pytest.mark.parametrize("kind", ["tensor", "array", "loader", "made", "checked"])
def test_fit_refuses_or_skips(learner: Learner, kind: str) -> None:
    good, mixed = rows()
    make: dict[str, Callable[[Tensor], Any]] = {
        "tensor": lambda x: x,
        "array": lambda x: x.numpy(),
        "loader": lambda x: DataLoader(list(x), batch_size=99),
        "made": lambda x: Made(x, check=False),
        "checked": lambda x: Made(x, check=True),
    }
    refused, skipping, alone = model(), model(), model()
    how = {"learner": learner, "epochs": 3, "batch_size": 99, "progress": False}
    with pytest.raises(pf.NoMassError, match="row 2, 10, 14, 15") as error:
        ordered = DataLoader(list(mixed), batch_size=99)
        pf.fit(refused, ordered if kind != "loader" else make[kind](mixed), **how)
    assert error.value.rows == BAD
    judge = make[kind](mixed)
    ours = pf.fit(skipping, make[kind](mixed), validation=judge, impossible="skip", **how)
    its = pf.fit(alone, make[kind](good), validation=make[kind](good), **how)
    assert (ours.skipped, its.skipped) == ([4, 4, 4], [])
    assert ours.train == pytest.approx(its.train)
    assert ours.validation == pytest.approx(its.validation)
    for mine, other in zip(skipping.banks, alone.banks, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-8, atol=1e-8)


@every
def test_batches_may_hold_nothing_possible(learner: Learner) -> None:
    _, mixed = rows()
    asked = model()
    found = pf.fit(asked, mixed, learner, epochs=2, batch_size=1, impossible="skip", progress=False)
    assert found.skipped == [4, 4]
    assert all(bank.detach().softmax(-1).isfinite().all() for bank in asked.banks)
    with pytest.raises(pf.EvidenceError, match="train holds no row that the model gives any"):
        pf.fit(model(), mixed[list(BAD)], learner, impossible="skip", progress=False)


def test_a_fit_that_skips_is_resumed(tmp_path: Path) -> None:
    _, mixed = rows()
    how: dict[str, Any] = {"impossible": "skip", "checkpoint": tmp_path / "fit", "progress": False}
    pf.fit(model(), mixed, pf.Anemone(), epochs=2, **how)
    assert pf.fit(model(), mixed, pf.Anemone(), epochs=3, **how).skipped == [4, 4, 4]
    with pytest.raises(pf.FileFormatError, match="skip is True there and False here"):
        pf.fit(model(), mixed, pf.Anemone(), **how | {"impossible": "refuse"})
    with pytest.raises(pf.SettingError, match='impossible must be "refuse" or "skip"'):
        pf.fit(model(), mixed, impossible="ignore")  # type: ignore[arg-type]
