"""Marginals of chosen categories, and of drawn values, against those of all by enumeration.

Legend: B batch, D variables, V categories, C chosen categories.
"""

import pytest
import torch
from device import DEVICE
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import of_fifty
from torch import Tensor

import pcflow as pf
from pcflow.testing import circuits, enumerate_log_prob, enumerate_marginals, evidence

DTYPES = st.sampled_from([torch.float64, torch.float32])


@st.composite
def listing(draw: st.DrawFn, circuit: pf.Circuit) -> tuple[pf.Evidence, pf.Evidence]:
    """Evidence whose potentials are those of listed categories; and the same of all categories."""
    about = draw(evidence(circuit))
    size = max(int(n or 0) for n in circuit.num_categories)
    if about.log_potentials is None or draw(st.booleans()):
        return about, about
    listed = about.top_k(draw(st.integers(1, size)))
    assert listed.categories is not None and listed.log_potentials is not None
    spread = torch.full_like(about.log_potentials, -torch.inf)
    spread.scatter_(-1, listed.categories, listed.log_potentials)
    return listed, pf.Evidence(about.values, about.missing, spread)


def possible(circuit: pf.Circuit, given: pf.Evidence, spread: pf.Evidence) -> Tensor:
    """The rows [N] that have any mass."""
    return (enumerate_log_prob(circuit, spread) > -torch.inf).nonzero().squeeze(-1)


def rows_of(about: pf.Evidence, rows: Tensor) -> pf.Evidence:
    fields = (about.values, about.missing, about.log_potentials, about.categories)
    return pf.Evidence(*(None if t is None else t[rows] for t in fields))


def assert_close(found: Tensor, wanted: Tensor) -> None:
    tolerance = 1e-9 if found.dtype == torch.float64 else 1e-5
    torch.testing.assert_close(found.double().cpu(), wanted, rtol=tolerance, atol=tolerance)


@given(st.data(), circuits(), DTYPES)
def test_marginals_of_chosen_categories_are_those_of_all(
    data: st.DataObject, circuit: pf.Circuit, dtype: torch.dtype
) -> None:
    listed, spread = data.draw(listing(circuit))
    rows = possible(circuit, listed, spread)
    if len(rows) == 0:
        return
    listed, spread = rows_of(listed, rows), rows_of(spread, rows)
    size = max(int(n or 0) for n in circuit.num_categories)
    shape = (len(rows), circuit.num_variables, data.draw(st.integers(0, size + 1)))
    chosen = torch.randint(size, shape)  # some twice, and the last one on and on
    again = data.draw(st.integers(0, size))
    if again and shape[-1]:
        chosen[0, :, -again:] = chosen[0, :, -1:]
    if listed.categories is not None and data.draw(st.booleans()):
        chosen = listed.categories
    memory = data.draw(st.sampled_from([1, 1 << 30]))
    machine = data.draw(st.sampled_from([pf.Machine(), pf.Machine(numbers=1)]))
    model = pf.compile(circuit, DEVICE, dtype, memory=memory, machine=machine)
    found = model.marginals(listed, chosen)
    assert_close(found.exp(), enumerate_marginals(circuit, spread).gather(-1, chosen).exp())


@given(st.data(), circuits())
def test_unlikely_categories_are_as_accurate(data: st.DataObject, circuit: pf.Circuit) -> None:
    listed, spread = data.draw(listing(circuit))
    rows = possible(circuit, listed, spread)
    if len(rows):
        size = max(int(n or 0) for n in circuit.num_categories)
        every = torch.arange(size).expand(len(rows), circuit.num_variables, -1)
        found = pf.compile(circuit, DEVICE, torch.float64).marginals(rows_of(listed, rows), every)
        assert_close(found, enumerate_marginals(circuit, rows_of(spread, rows)))


@given(st.data(), circuits(), st.sampled_from([0.0, 0.5, 1.0]))
def test_draws_with_marginals_are_the_same_draws(
    data: st.DataObject, circuit: pf.Circuit, temperature: float
) -> None:
    listed, spread = data.draw(listing(circuit))
    rows = possible(circuit, listed, spread)
    if len(rows) == 0:
        return
    about, count = rows_of(listed, rows), data.draw(st.integers(0, 3))
    memory = data.draw(st.sampled_from([1, 1 << 30]))
    model = pf.compile(circuit, DEVICE, torch.float64, memory=memory)
    values, log_marginals, drawn = model.sample_with_marginals(
        count, about, torch.Generator(DEVICE).manual_seed(0), temperature=temperature
    )
    alone = torch.Generator(DEVICE).manual_seed(0)
    assert torch.equal(values, model.sample(count, about, alone, temperature=temperature))
    log_q = enumerate_marginals(circuit, rows_of(spread, rows))  # [B, D, V]
    wanted = log_q.gather(-1, values.cpu().movedim(0, -1)).movedim(-1, 0)
    assert_close(log_marginals, wanted)
    assert (log_marginals[:, ~drawn] == 0).all()
    assert torch.equal(drawn.cpu(), absent(about))


@given(st.data(), circuits())
def test_what_goes_back_through_listed_categories_is_what_goes_through_all(
    data: st.DataObject, circuit: pf.Circuit
) -> None:
    """Gradients of parameters and potentials, and what EM learns."""
    listed, spread = data.draw(listing(circuit))
    rows = possible(circuit, listed, spread)
    if listed.categories is None or len(rows) == 0:
        return
    listed, spread = rows_of(listed, rows), rows_of(spread, rows)
    (found, by_k), (wanted, by_v) = (gone_back(circuit, about) for about in (listed, spread))
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)
    assert listed.categories is not None
    torch.testing.assert_close(
        by_k, by_v.gather(-1, listed.categories.to(by_v.device)), rtol=1e-9, atol=1e-9
    )


def gone_back(
    circuit: pf.Circuit, about: pf.Evidence, dtype: torch.dtype = torch.float64
) -> tuple[list[Tensor], Tensor]:
    """Gradients of parameters, and parameters after a step of EM; gradients of potentials."""
    assert about.log_potentials is not None
    model = pf.compile(circuit, DEVICE, dtype)
    log = about.log_potentials.to(dtype).to(DEVICE).requires_grad_()
    listed = None if about.categories is None else about.categories.to(DEVICE)
    soft = pf.Evidence(about.values, about.missing, log, listed)
    banks = [bank for bank in model.banks if bank.requires_grad]
    total = model.log_prob(soft).sum()
    *found, slope = torch.autograd.grad(total, [*banks, log], materialize_grads=True)
    pf.fit(model, about, pf.EM(pseudocount=1e-3), epochs=1, progress=False)
    return [*found, *(bank.detach() for bank in banks)], slope


def absent(about: pf.Evidence) -> Tensor:
    """What has no value [B, D]."""
    if about.values is None:
        shape = next(t for t in (about.missing, about.log_potentials) if t is not None).shape[:2]
        return torch.ones(shape, dtype=torch.bool)
    missing = about.values.isnan()
    return missing if about.missing is None else missing | about.missing


def steep(length: int) -> tuple[pf.CompiledCircuit, pf.Evidence]:
    """An HMM in float32, and values of which each is e^-60 as likely in one state as in the other.

    Their products underflow, and the last value makes just the unlikelier state matter.
    """
    logits = torch.tensor([[0.0, -60.0], [-60.0, 0.0]])
    emit = {"logits": pf.Parameter(logits)}
    inputs = [pf.InputLayer(v, pf.Categorical(2), 2, emit) for v in range(length)]
    root = pf.SumLayer([pf.ProductLayer(inputs)], pf.Parameter.from_probs([[0.5, 0.5]]))
    values = torch.zeros(3, length)
    values[::2, length // 2 :] = 1.0
    values[:, -1] = torch.nan
    return pf.compile(pf.Circuit(root), DEVICE, torch.float32), pf.Evidence(values)


def test_rows_that_go_through_log_space() -> None:
    model, about = steep(6)
    every = torch.arange(2).expand(3, 6, 2)
    found = model.marginals(about, every)
    assert model.rows.log_space == 2
    assert_close(found, model.marginals(about).double().cpu())
    assert found[0, -1].exp().tolist() == pytest.approx([1.0, 0.0], abs=1e-6)


def test_potentials_in_log_space_after_others_were_scaled() -> None:
    """Scales of earlier passes are still in memory, and mean nothing there."""
    model, about = steep(6)
    every = torch.arange(2).expand(3, 6, 2)
    soft = torch.full((3, 6, 2), 7.0)
    soft[..., 1] += 1.0
    assert about.values is not None
    model.marginals(pf.Evidence(about.values[1:2], log_potentials=soft[1:2]), every[1:2])
    assert model.rows.log_space == 0
    now = pf.Evidence(about.values, log_potentials=soft)
    assert_close(model.marginals(now, every), model.marginals(now).double().cpu())
    assert model.rows.log_space > 0


@pytest.mark.parametrize("k", [1, 2])
def test_what_goes_back_through_log_space(k: int) -> None:
    model, about = steep(6)
    soft = pf.Evidence(about.values, log_potentials=torch.tensor([7.0, 8.0]).repeat(3, 6, 1))
    listed = soft.top_k(k)
    assert listed.categories is not None and listed.log_potentials is not None
    spread = torch.full((3, 6, 2), -torch.inf)
    spread.scatter_(-1, listed.categories, listed.log_potentials)
    found, by_k = gone_back(model.circuit, listed, torch.float32)
    wanted, by_v = gone_back(model.circuit, pf.Evidence(about.values, None, spread), torch.float32)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(by_k.cpu(), by_v.cpu().gather(-1, listed.categories))
    model.log_prob(listed)
    assert model.rows.log_space > 0


def test_by_hand() -> None:
    """One state: 0.2 and 0.8, potentials 3 and 1: odds 0.6 to 0.8."""
    emit = {"logits": pf.Parameter(torch.tensor([[0.2], [0.8]]).log())}
    circuit = pf.Circuit(pf.SumLayer.random([pf.InputLayer(0, pf.Categorical(2), 1, emit)], 1))
    about = pf.Evidence(log_potentials=torch.tensor([[[3.0, 1.0]]]).log())
    found = pf.compile(circuit, DEVICE).marginals(about, torch.tensor([[[1, 0, 1]]])).exp()
    torch.testing.assert_close(found.cpu(), torch.tensor([[[8 / 14, 6 / 14, 8 / 14]]]))


@settings(max_examples=of_fifty(10))
@given(st.data())
def test_a_table_of_low_precision_is_read_throughout(data: st.DataObject) -> None:
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 10**6)))
    circuit = pf.hmm(4, 3, pf.Categorical(50), generator=generator)
    model = pf.compile(circuit, DEVICE, torch.float32, soft_dtype=torch.bfloat16)
    soft = pf.Evidence(log_potentials=torch.randn(2, 4, 50, generator=generator))
    every = torch.arange(50).expand(2, 4, 50)
    for known, asked in ((soft, every), (few := soft.top_k(9), few.categories)):
        total = model.marginals(known, asked).logsumexp(-1)
        torch.testing.assert_close(total, torch.zeros_like(total), rtol=0, atol=0.02)


@settings(max_examples=of_fifty(10))
@given(st.data())
def test_lists_read_a_table_of_low_precision_as_well(data: st.DataObject) -> None:
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 10**6)))
    circuit = pf.hmm(4, 2, pf.Categorical(50), generator=generator)
    listed = pf.Evidence(log_potentials=torch.randn(2, 4, 50, generator=generator)).top_k(6)
    models = [pf.compile(circuit, DEVICE, soft_dtype=dtype) for dtype in (None, torch.bfloat16)]
    for ask in (lambda m: m.log_prob(listed), lambda m: m.marginals(listed, listed.categories)):
        exact, rounded = map(ask, models)
        torch.testing.assert_close(rounded.exp(), exact.exp(), rtol=0.05, atol=1e-6)
        assert not torch.equal(rounded, exact)


def test_what_does_not_fit_is_refused() -> None:
    model = pf.compile(pf.hmm(3, 2, pf.Categorical(4)), DEVICE)
    x = torch.tensor([[0.0, torch.nan, 1.0]])
    for wrong in (torch.zeros(1, 2, 1).long(), torch.zeros(2, 3, 1).long(), torch.zeros(1, 3, 1)):
        with pytest.raises(pf.EvidenceError, match=r"categories must be integers \[1, 3, C\]"):
            model.marginals(x, wrong)
    for value in (-1, 4):
        beyond = torch.zeros(1, 3, 2).long()
        beyond[0, 1, 1] = value
        with pytest.raises(pf.EvidenceError, match=r"row 0, variable 1 must be in 0\.\.3"):
            model.marginals(x, beyond)
    with pytest.raises(ValueError, match=r"n must be .* got -1"):
        model.sample_with_marginals(-1, x)
    with pytest.raises(ValueError, match="temperature must be at least 0"):
        model.sample_with_marginals(1, x, temperature=-1.0)
    real = pf.compile(pf.hmm(3, 2, pf.Gaussian()), DEVICE)
    with pytest.raises(pf.PropertyRequired, match="finite range"):
        real.marginals(x, torch.zeros(1, 3, 1).long())
    with pytest.raises(pf.PropertyRequired, match="finite range"):
        real.sample_with_marginals(1, x)
