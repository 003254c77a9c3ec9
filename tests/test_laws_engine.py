"""Laws of what makes the engine fast: strips, rows used again, parts, listed categories, bfloat16.

None of it may change an answer. Generated circuits are small, so the sizes at which it sets in are
made small too.
"""

from collections.abc import Callable

import pytest
import torch
from device import DEVICE
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import pcflow as pf
from pcflow.engine import InputStep, Plan, make_plan
from pcflow.engine.rows import assign_rows
from pcflow.engine.schedule import make_schedule
from pcflow.evidence import CheckedEvidence
from pcflow.testing import (
    circuits,
    enumerate_log_prob,
    enumerate_marginals,
    enumerate_mpe,
    evidence,
    mixed_families,
)

STRIPS = st.sampled_from([1, 2, 4, 1 << 12])
MEMORY = st.sampled_from([1, 1000, 1 << 30])


def compiled(circuit: pf.Circuit, strip: int = 1 << 12, **options: object) -> pf.CompiledCircuit:
    machine = pf.Machine(strip=strip)
    return pf.compile(circuit, DEVICE, torch.float64, machine=machine, **options)  # type: ignore[arg-type]


def assert_close(
    found: Tensor, wanted: Tensor, tolerance: float = 1e-9, rounded: float = 0.0
) -> None:
    torch.testing.assert_close(
        found.detach().double().cpu(),
        wanted.detach().double().cpu(),
        rtol=tolerance,
        atol=tolerance + rounded,
        equal_nan=True,
    )


def possible(circuit: pf.Circuit, about: pf.Evidence) -> pf.Evidence | None:
    rows = (enumerate_log_prob(circuit, about) > -torch.inf).nonzero().squeeze(-1)
    fields = (about.values, about.missing, about.log_potentials)
    return pf.Evidence(*(None if t is None else t[rows] for t in fields)) if len(rows) else None


@given(circuits(), STRIPS)
def test_a_schedule_runs_every_layer_once_after_its_inputs(circuit: pf.Circuit, strip: int) -> None:
    strips = make_schedule(circuit, strip).strips
    layers = [layer for group in strips for layer in group]
    assert sorted(map(id, layers)) == sorted(map(id, circuit.layers))
    done: set[object] = set()
    for group in strips:
        assert all(child in done for layer in group for child in layer.inputs)
        done.update(group)


@given(circuits(), STRIPS)
def test_rows_are_used_again_only_when_nobody_reads_them(circuit: pf.Circuit, strip: int) -> None:
    strips = make_schedule(circuit, strip).strips
    rows = assign_rows(strips, reuse=True)
    holds: dict[tuple[int, int], object] = {}
    for group in strips:
        for child in (child for layer in group for child in layer.inputs):
            assert holds[child.units, rows.of[child]] is child
        for layer in group:
            holds[layer.units, rows.of[layer]] = layer
        places = [rows.of[layer] for layer in group]
        assert places == list(range(places[0], places[0] + len(group)))
        assert places[-1] < rows.counts[group[0].units]
        inputs = {(child.units, rows.of[child]) for layer in group for child in layer.inputs}
        assert not inputs & {(layer.units, rows.of[layer]) for layer in group}


@given(circuits(), STRIPS)
def test_a_lean_plan_is_the_plan_on_fewer_rows(circuit: pf.Circuit, strip: int) -> None:
    plan = make_plan(circuit, machine=pf.Machine(strip=strip))
    assert plan.lean.numbers_per_row <= plan.numbers_per_row
    for step, lean in zip(plan.steps, plan.lean.steps, strict=True):
        assert (type(step), step.folds, step.units) == (type(lean), lean.folds, lean.units)
        if isinstance(step, InputStep) and isinstance(lean, InputStep):
            assert step.parameters == lean.parameters


@given(st.data(), circuits(), STRIPS, MEMORY)
def test_strips_and_parts_change_no_answer(
    data: st.DataObject, circuit: pf.Circuit, strip: int, memory: int
) -> None:
    model = compiled(circuit, strip, memory=memory)
    about = data.draw(evidence(circuit))
    wanted = enumerate_log_prob(circuit, about)
    assert_close(model.log_prob(about), wanted)
    with torch.no_grad():
        assert_close(model.log_prob(about), wanted)
    some = possible(circuit, about)
    if some is not None:
        assert_close(model.marginals(some).exp(), enumerate_marginals(circuit, some).exp())
        drawn = model.sample(3, some)
        assert drawn.shape[:2] == (3, some.batch_size)
        for one in drawn:
            assert (enumerate_log_prob(circuit, pf.Evidence(one.cpu())) > -torch.inf).all()
        found = model.mpe(some)
        assert (found.log_value.cpu() <= enumerate_mpe(circuit, some)[1] + 1e-9).all()


@given(st.data(), circuits(families=mixed_families()), STRIPS, MEMORY)
def test_gradients_are_those_of_the_reference(
    data: st.DataObject, circuit: pf.Circuit, strip: int, memory: int
) -> None:
    model = compiled(circuit, strip, memory=memory)
    seed = data.draw(st.integers(0, 2**31 - 1))
    generator = torch.Generator().manual_seed(seed)
    x = torch.stack(
        [
            torch.randint(1, 5, (3,), generator=generator).double()
            if n is None
            else torch.randint(n, (3,), generator=generator).double()
            for n in circuit.num_categories
        ],
        dim=1,
    ).masked_fill(torch.rand(3, circuit.num_variables, generator=generator) < 0.3, torch.nan)
    x = x[pf.reference_log_prob(circuit, x) > -torch.inf]
    weight = torch.randn(len(x), generator=generator, dtype=torch.float64)
    model.log_prob(x).mul(weight.to(DEVICE)).sum().backward()
    values = {p: p.value.double().requires_grad_() for p in circuit.parameters}
    pf.reference_log_prob(circuit, x, values).mul(weight).sum().backward()
    for bank, members in zip(model.banks, model.plan.banks, strict=True):
        for row, parameter in enumerate(members):
            slope = values[parameter].grad
            wanted = torch.zeros_like(values[parameter]) if slope is None else slope
            found = torch.zeros_like(wanted) if bank.grad is None else bank.grad[row].cpu()
            finite = parameter.value.isfinite()
            assert_close(found[finite], wanted[finite], 1e-9)


@given(st.data(), circuits(), st.integers(1, 3), MEMORY)
def test_listed_categories_are_all_that_is_possible(
    data: st.DataObject, circuit: pf.Circuit, k: int, memory: int
) -> None:
    about = data.draw(evidence(circuit))
    largest = max(n or 0 for n in circuit.num_categories)
    soft = torch.randn(about.batch_size, circuit.num_variables, largest, dtype=torch.float64)
    few = pf.Evidence(about.values, about.missing, soft.requires_grad_()).top_k(k)
    assert few.categories is not None and few.log_potentials is not None
    dense = torch.full_like(soft, -torch.inf).scatter(-1, few.categories, few.log_potentials)
    same = pf.Evidence(about.values, about.missing, dense)
    model = compiled(circuit, memory=memory).requires_grad_(False)
    assert_close(model.log_prob(few), enumerate_log_prob(circuit, same))
    rows = (enumerate_log_prob(circuit, same) > -torch.inf).nonzero().squeeze(-1)
    if len(rows) == 0:
        return
    few, same = (_rows(e, rows) for e in (few, same))
    (slope,) = torch.autograd.grad(model.log_prob(few).sum(), [soft], retain_graph=True)
    (wanted,) = torch.autograd.grad(model.log_prob(same).sum(), [soft], retain_graph=True)
    assert_close(slope, wanted)
    assert_close(model.marginals(few).exp(), model.marginals(same).exp())
    assert_close(model.mpe(few).log_value, model.mpe(same).log_value)
    drawn = model.sample(5, few)
    for one in drawn:
        again = pf.Evidence(one, None, None)
        assert (model.log_prob(again) > -torch.inf).all()
        allowed = dense[rows].gather(-1, one.long().cpu().unsqueeze(-1)).squeeze(-1) > -torch.inf
        assert (allowed | ~_missing(same)).all()


def _rows(about: pf.Evidence, rows: Tensor) -> pf.Evidence:
    fields = (about.values, about.missing, about.log_potentials, about.categories)
    return pf.Evidence(*(None if t is None else t[rows] for t in fields))


def _missing(about: pf.Evidence) -> Tensor:
    assert about.values is not None
    absent = about.values.isnan() if about.values.is_floating_point() else about.values < 0
    return absent if about.missing is None else absent | about.missing


@given(st.data(), circuits(max_variables=4), st.sampled_from([1.0, 30.0, 100.0, 300.0]))
def test_the_certificate_is_never_optimistic(
    data: st.DataObject, circuit: pf.Circuit, contrast: float
) -> None:
    """Weights down to 1e-130 and beyond: what float32 cannot hold must go through log space."""
    sharp = circuit.replace({p: (contrast * p.value).double() for p in circuit.parameters})
    about = data.draw(evidence(sharp))
    if about.log_potentials is not None:
        about = pf.Evidence(about.values, about.missing, contrast * about.log_potentials)
    wanted = pf.reference_log_prob(sharp, about)
    model = pf.compile(sharp, DEVICE, torch.float32)
    summands = torch.zeros(1) if about.log_potentials is None else about.log_potentials
    # float32 rounds every summand of a row by 2^-24 of it, whatever they add up to
    rounded = 2 * 2**-24 * circuit.num_variables * float(summands.abs().max())
    assert_close(model.log_prob(about), wanted, 1e-5, rounded)
    with torch.no_grad():
        assert_close(model.log_prob(about), wanted, 1e-5, rounded)


@given(st.data(), circuits())
def test_bfloat16_tables_are_right_to_three_digits(
    data: st.DataObject, circuit: pf.Circuit
) -> None:
    about = data.draw(evidence(circuit))
    found = compiled(circuit, soft_dtype=torch.bfloat16).log_prob(about)
    wanted = enumerate_log_prob(circuit, about)
    # each factor is off by at most 2^-8 for its potential and as much for its table, and what it
    # comes to is rounded once more where categories are listed
    assert_close(found, wanted, 3 * 2**-8 * circuit.num_variables)
    assert_close(
        compiled(circuit, soft_dtype=torch.bfloat16).log_prob(_observed(about)),
        enumerate_log_prob(circuit, _observed(about)),
    )


def _observed(about: pf.Evidence) -> pf.Evidence:
    assert about.values is not None
    return pf.Evidence(
        about.values.nan_to_num(nan=0.0) if about.values.is_floating_point() else about.values
    )


def test_parts_are_as_many_as_the_plan_says() -> None:
    model = pf.compile(pf.hmm(4, 3, pf.Categorical(5)), DEVICE, torch.float64, memory=10_000)
    plan: Plan = model.plan
    per_row = 8 * (plan.numbers_per_row + plan.lean.numbers_per_row)
    evidence_of = model.engine.check(torch.randint(5, (1000, 4)))
    parts: list[CheckedEvidence] = model.engine.parts(evidence_of)
    assert {len(part.values) for part in parts[:-1]} == {10_000 // per_row}
    assert torch.equal(torch.cat([part.values for part in parts]), evidence_of.values)


def test_doubtful_rows_find_their_place_in_parts() -> None:
    """In float32 the only path that is possible underflows: 1e-60 of its vector, then all of it."""
    tiny = pf.Parameter(torch.tensor([[0.0, -138.0], [-138.0, 0.0]]))  # [V, K]
    one = pf.Parameter(torch.tensor([[0.0, -torch.inf], [-torch.inf, 0.0]]))
    inputs = [
        pf.InputLayer(0, pf.Categorical(2), 2, {"logits": tiny}),
        pf.InputLayer(1, pf.Categorical(2), 2, {"logits": one}),
        pf.InputLayer(2, pf.Categorical(2), 2, {"logits": tiny}),
    ]
    circuit = pf.Circuit(pf.SumLayer([pf.ProductLayer(inputs)], pf.Parameter(torch.zeros(1, 2))))
    x = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    x = torch.cat([x, torch.full((5, 1), torch.nan)], dim=1)
    for memory in (1, 1 << 30):
        model = pf.compile(circuit, DEVICE, torch.float32, memory=memory)
        assert_close(model.log_prob(x), pf.reference_log_prob(circuit, x), 1e-5)
        assert model.rows.log_space == 3
        third = model.marginals(x)[:, 2].argmax(dim=-1)
        assert third.tolist() == [0, 1, 0, 1, 1]  # it goes with the second
        assert (model.sample(4, x)[..., 2].cpu() == x[:, 1]).all()
        model.zero_grad()
        model.log_prob(x).sum().backward()
        slopes = [bank.grad for bank in model.banks if bank.shape[-2:] == (1, 2)]
        assert slopes[0] is not None
        assert_close(slopes[0].flatten(), torch.tensor([-0.5, 0.5]), 1e-5)  # 2 and 3, of 2.5 each


def two_chains() -> pf.Circuit:
    """Their transitions are a parameter each, in one bank."""
    return pf.Circuit(pf.SumLayer.random([pf.hmm(5, 2, pf.Categorical(3)).root for _ in "ab"], 1))


def two_sums() -> pf.Circuit:
    """They have one weight, and are one step."""
    inputs = [pf.InputLayer.random(v, pf.Categorical(3), 2) for v in range(2)]
    weight = pf.Parameter(torch.randn(2, 2))
    sums = [pf.SumLayer([layer], weight) for layer in inputs]
    return pf.Circuit(pf.SumLayer.random([pf.ProductLayer(sums)]))


@pytest.mark.parametrize("made", [two_chains, two_sums])
def test_tied_weights_have_the_slopes_of_all_who_read_them(made: Callable[[], pf.Circuit]) -> None:
    circuit = made()
    model, x = compiled(circuit), torch.randint(3, (4, circuit.num_variables)).double()
    model.log_prob(x).sum().backward()
    values = {p: p.value.double().requires_grad_() for p in circuit.parameters}
    pf.reference_log_prob(circuit, x, values).sum().backward()
    for bank, members in zip(model.banks, model.plan.banks, strict=True):
        for row, parameter in enumerate(members):
            assert bank.grad is not None and values[parameter].grad is not None
            assert_close(bank.grad[row], values[parameter].grad)
