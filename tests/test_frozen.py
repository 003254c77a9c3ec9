"""Frozen means frozen: what does not require a gradient is kept by every learner, tied or not."""

from contextlib import suppress
from itertools import pairwise

import pytest
import torch
from device import DEVICE
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import of_fifty
from torch import Tensor

import pcflow as pf
from pcflow.learn import Learner
from pcflow.testing import circuits, mixed_families, partly_frozen

LEARNERS: dict[str, Learner] = {
    "em": pf.EM(),
    "smoothed em": pf.EM(0.1),
    "anemone": pf.Anemone(),
    "mini-batch": pf.MiniBatchEM(),
    "adam": pf.Gradient(),
    "decayed": pf.Gradient(lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.1)),
    "momentum": pf.Gradient(lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.1)),
}
every = pytest.mark.parametrize("learner", LEARNERS.values(), ids=LEARNERS)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@every
@settings(max_examples=of_fifty(12))
@given(st.data(), circuits(families=mixed_families()), st.integers(0, 999))
def test_frozen_parameters_are_kept_over_epochs(
    learner: Learner, data: st.DataObject, circuit: pf.Circuit, seed: int
) -> None:
    model = data.draw(partly_frozen(circuit))
    x = model.sample(9, generator=seeded(seed)).double()
    before = [bank.detach().clone() for bank in model.banks]
    for bank in model.banks:  # of an earlier backward
        bank.grad = torch.ones_like(bank)
    with suppress(pf.StructureError, pf.NoMassError, pf.NotANumber):  # or steps are too large
        pf.fit(model, x, learner, epochs=2, batch_size=4, validation=x, progress=False)
    for bank, value in zip(model.banks, before, strict=True):
        assert bank.requires_grad or torch.equal(bank, value)


@settings(max_examples=of_fifty(30))
@given(st.data(), circuits(families=mixed_families()), st.integers(0, 999))
def test_em_never_lowers_the_likelihood_beside_frozen_parameters(
    data: st.DataObject, circuit: pf.Circuit, seed: int
) -> None:
    elsewhere = circuit.replace({p: 0.7 * p.value for p in circuit.parameters})
    model = data.draw(partly_frozen(elsewhere))
    x = pf.compile(circuit, dtype=torch.float64).sample(15, generator=seeded(seed)).double()
    x = x[model.log_prob(x) > -torch.inf]
    if len(x) == 0:
        return
    try:
        found = pf.fit(model, x, pf.EM(pseudocount=0.0), epochs=5, progress=False).train
    except pf.StructureError:
        return
    for before, after in pairwise(found):
        assert after >= before - 1e-9 * max(1.0, abs(before))


@every
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("which", ["emission", "transition", "initial"])
def test_a_matrix_of_a_chain_is_kept_and_the_others_are_learned(
    learner: Learner, tied: bool, which: str
) -> None:
    chain = pf.hmm(5, 3, pf.Categorical(4), homogeneous=tied, generator=seeded())
    model = pf.compile(chain, DEVICE)
    shapes = {"emission": (4, 3), "transition": (3, 3), "initial": (1, 3)}
    for bank in model.banks:
        bank.requires_grad_(bank.shape[1:] != shapes[which])
    before = [bank.detach().clone() for bank in model.banks]
    x = torch.randint(4, (50, 5), generator=seeded())
    pf.fit(model, x, learner, epochs=2, progress=False)
    for bank, value in zip(model.banks, before, strict=True):
        assert torch.equal(bank, value) == (bank.shape[1:] == shapes[which])


def gaussians(frozen: str) -> tuple[pf.CompiledCircuit, Tensor]:
    model = pf.compile(pf.naive_bayes([pf.Gaussian()] * 2, 1), DEVICE, torch.float64)
    step = next(s for s in model.plan.steps if "mean" in getattr(s, "parameters", {}))
    model.banks[step.parameters[frozen].bank].requires_grad_(False)  # type: ignore[union-attr]
    return model, 3 + 2 * torch.randn(100, 2, generator=seeded()).double()


def test_half_of_an_input_family_is_frozen_where_that_can_be_counted() -> None:
    """The likeliest mean is the same whatever the width; the likeliest width is not."""
    model, x = gaussians("log_std")
    pf.fit(model, x, pf.EM(pseudocount=0.0), epochs=1, progress=False)
    missing = torch.full((1, 2), torch.nan)
    torch.testing.assert_close(model.mean(missing)[0].cpu(), x.mean(dim=0))
    model, x = gaussians("mean")
    for learner in (pf.EM(), pf.Anemone(), pf.MiniBatchEM()):
        with pytest.raises(pf.StructureError, match=r"log_std of Gaussian.*mean is frozen"):
            pf.fit(model, x, learner, epochs=1, progress=False)
    pf.fit(model, x, pf.Gradient(), epochs=1, progress=False)


def test_all_may_be_frozen() -> None:
    model = pf.compile(pf.hmm(3, 2, pf.Categorical(2)), DEVICE).requires_grad_(False)
    before = [bank.clone() for bank in model.banks]
    for learner in LEARNERS.values():
        pf.fit(model, torch.zeros(4, 3), learner, epochs=1, progress=False)
    assert all(torch.equal(a, b) for a, b in zip(before, model.banks, strict=True))
