"""What a row says nothing about teaches nothing: neither padding nor missing parts of a circuit."""

from itertools import pairwise
from math import prod

import pytest
import torch
from device import DEVICE
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import pcflow as pf
from pcflow.learn import Learner
from pcflow.learn.counts import Counts
from pcflow.testing import circuits, mixed_families

LEARNERS: dict[str, Learner] = {
    "em": pf.EM(),
    "smoothed em": pf.EM(0.1),
    "anemone": pf.Anemone(),
    "mini-batch": pf.MiniBatchEM(),
    "gradient": pf.Gradient(lambda p: torch.optim.SGD(p, lr=0.1)),
}
NAMES = ["ada", "alan", "barbara", "edsger", "grace", "john", "kurt", "leslie", "tim"]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def names(padding: int) -> Tensor:
    """Letters of names of different lengths, NaN behind the end of each."""
    longest = max(map(len, NAMES)) + padding
    rows = [[float(ord(c) - 97) for c in n] + [torch.nan] * (longest - len(n)) for n in NAMES]
    return torch.tensor(rows, dtype=torch.float64)


def words(padding: int) -> Tensor:
    """As many letters in each."""
    return torch.cat([names(0)[:, :3], torch.full((len(NAMES), padding), torch.nan).double()], 1)


def curve(x: Tensor, learner: Learner, machine: pf.Machine | None = None) -> list[float]:
    chain = pf.hmm(x.shape[1], 3, pf.Categorical(26), generator=seeded())
    model = pf.compile(chain, DEVICE, torch.float64, machine=machine)
    more = {"epochs": 6, "batch_size": 4, "progress": False, "generator": seeded()}
    return pf.fit(model, x, learner, **more).train  # type: ignore[arg-type]


@pytest.mark.parametrize("learner", LEARNERS.values(), ids=LEARNERS)
@pytest.mark.parametrize("rows", [names, words])
def test_padding_changes_no_curve(learner: Learner, rows: object) -> None:
    assert callable(rows)
    short = curve(rows(0), learner)
    for padding in (12, 60):
        assert curve(rows(padding), learner) == pytest.approx(short, rel=1e-9)


def test_padding_changes_nothing_that_is_recorded() -> None:
    records = pf.Machine(records=True, sheets=6)
    for learner in (pf.EM(), pf.Anemone()):
        wanted = curve(names(0), learner)
        assert curve(names(9), learner, records) == pytest.approx(wanted, rel=1e-9)


def test_names_of_one_length_count_as_they_would_alone() -> None:
    """Relative counts by hand: a chain of one state is a bag of letters."""
    x = names(4)
    model = pf.compile(pf.hmm(x.shape[1], 1, pf.Categorical(26)), DEVICE, torch.float64)
    pf.fit(model, x, pf.EM(), epochs=1, progress=False)
    letters = x[~x.isnan()].long().bincount(minlength=26).double()
    found = model.log_prob(torch.cat([torch.arange(26.0).unsqueeze(1), x[:1, :1] * torch.nan * torch.ones(26, x.shape[1] - 1)], 1))
    torch.testing.assert_close(found.detach().cpu().exp(), letters / letters.sum())
