"""What is recorded answers as what is launched. A CPU makes the recorded calls again: same memory,
same order, nothing looked at; a GPU plays CUDA graphs."""

from collections.abc import Callable
from itertools import permutations

import pytest
import torch
from device import DEVICE
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import of_fifty
from torch import Tensor

import pcflow as pf
from pcflow.engine.recording import Recordings
from pcflow.testing import circuits, evidence

RECORDS = pf.Machine(records=True, sheets=6)


def twins(circuit: pf.Circuit) -> list[pf.CompiledCircuit]:
    """Launched, and recorded."""
    machines = pf.Machine(), RECORDS
    return [pf.compile(circuit, DEVICE, torch.float64, machine=machine) for machine in machines]


def edit(model: pf.CompiledCircuit, by: float) -> None:
    with torch.no_grad():
        for bank in model.banks:
            bank += torch.linspace(-by, by, bank.numel(), dtype=bank.dtype).view_as(bank).to(bank)


def gradients(model: pf.CompiledCircuit, x: pf.Evidence) -> list[Tensor]:
    model.zero_grad()
    model.log_prob(x).exp().sum().backward()
    return [bank.grad for bank in model.banks if bank.grad is not None]


@settings(max_examples=of_fifty(20))
@given(st.data())
def test_recorded_passes_answer_as_launched_ones(data: st.DataObject) -> None:
    circuit = data.draw(circuits())
    batch = data.draw(evidence(circuit))
    launched, recorded = twins(circuit)
    for turn in range(4):
        if turn == 3:  # the weights change, and stay where they are
            edit(launched, 0.5)
            edit(recorded, 0.5)
        assert torch.equal(launched.log_prob(batch), recorded.log_prob(batch))
        for ours, its in zip(
            *(gradients(model, batch) for model in (launched, recorded)), strict=True
        ):
            torch.testing.assert_close(ours, its, rtol=1e-9, atol=1e-12)
        possible = recorded.log_prob(batch) > -torch.inf
        if possible.all():
            assert torch.equal(launched.mpe(batch).log_value, recorded.mpe(batch).log_value)


def test_a_recording_is_made_the_second_time_and_played_from_then_on() -> None:
    recordings, made = Recordings(torch.device("cpu"), on=True, most=9), []

    def launch(number: int) -> int:
        made.append(number)
        return number

    weights = {}
    found = [recordings.run("up", (weights,), lambda n=n: launch(n)) for n in range(4)]
    assert found == [0, 1, 1, 1]  # the second is made again and again
    assert recordings.run("up", ({},), lambda: launch(9)) == 9  # other memory is read
    assert recordings.run("down", (weights,), lambda: launch(7)) == 7


def test_what_was_recorded_in_one_precision_is_not_played_in_another() -> None:
    recordings = Recordings(torch.device("cpu"), on=True, most=9)
    before = torch.get_float32_matmul_precision()
    try:
        found = []
        for number, precision in enumerate(["highest", "highest", "high", "high", "highest"]):
            torch.set_float32_matmul_precision(precision)
            found.append(recordings.run("up", (), lambda n=number: n))  # type: ignore[misc]
    finally:
        torch.set_float32_matmul_precision(before)
    assert found == [0, 1, 2, 3, 1]


def test_nothing_is_recorded_unless_the_machine_says_so() -> None:
    recordings = Recordings(torch.device("cpu"), on=False, most=9)
    assert [recordings.run("up", (), lambda n=n: n) for n in range(3)] == [0, 1, 2]
    one, two = (recordings.memory("here", lambda: torch.zeros(1)) for _ in range(2))
    assert one is not two
    assert not pf.Machine().records and pf.Machine.of("cuda").records


@pytest.mark.parametrize("inputs", [pf.Categorical(4), pf.Gaussian()])
def test_weights_stay_where_recordings_read_them(inputs: pf.Categorical) -> None:
    model = pf.compile(pf.hmm(5, 3, inputs), DEVICE, machine=RECORDS)
    x = torch.ones(4, 5)
    model.log_prob(x)
    tables = model.engine.tables
    places = {n: w.tensor.data_ptr() for n, w in tables.weights(False).items()}
    for _ in range(2):  # changed twice before anybody asks
        edit(model, 1.0)
        tables.cache.refresh()
    fresh = pf.compile(model.circuit, DEVICE)
    torch.testing.assert_close(model.log_prob(x), fresh.log_prob(x))
    assert {n: w.tensor.data_ptr() for n, w in tables.weights(False).items()} == places


def counts(model: pf.CompiledCircuit, x: Tensor) -> list[Tensor]:
    """What a step of EM makes of the parameters, which are then as they were."""
    kept = [bank.detach().clone() for bank in model.banks]
    pf.fit(model, x, pf.EM(0.1), epochs=1, progress=False)
    found = [bank.detach().clone() for bank in model.banks]
    with torch.no_grad():
        for bank, old in zip(model.banks, kept, strict=True):
            bank.copy_(old)
    return found


def test_no_way_down_is_taken_for_another() -> None:
    """Those that ask for nothing but inputs, for weights, and for a share of their flow."""
    x = torch.tensor([[0.0, 1, 2, 0], [1, 1, torch.nan, torch.nan]])
    circuit = pf.hmm(4, 3, pf.Categorical(3), generator=torch.Generator().manual_seed(0))
    ways: list[Callable[[pf.CompiledCircuit], list[Tensor]]] = [
        lambda model: [model.marginals(x)],
        lambda model: counts(model, x.nan_to_num(1.0)),
        lambda model: counts(model, x),
        lambda model: gradients(model, pf.Evidence(x)),
    ]
    for order in permutations(ways, 2):
        launched, recorded = twins(circuit)
        for way in order * 3:
            torch.testing.assert_close(way(recorded), way(launched), rtol=1e-9, atol=1e-12)


def test_draws_of_a_seed_are_the_same_whether_recorded_or_not_yet() -> None:
    circuit = pf.build_circuit(pf.structure.quad_tree((3, 3)), pf.Categorical(4), units=3)
    model = pf.compile(circuit, DEVICE, machine=RECORDS)
    x = torch.full((2, 9), torch.nan)
    x[:, ::2] = 1
    draws = [model.sample(6, x, torch.Generator(DEVICE).manual_seed(seed)) for seed in (1, 1, 1, 2)]
    assert torch.equal(draws[0], draws[1]) and torch.equal(draws[0], draws[2])
    assert not torch.equal(draws[0], draws[3])


def test_recorded_draws_have_the_right_frequencies() -> None:
    model = pf.compile(pf.hmm(4, 3, pf.Categorical(3)), DEVICE, torch.float64, machine=RECORDS)
    x = torch.tensor([[1.0, torch.nan, torch.nan, 2.0]])
    drawn = torch.cat([model.sample(5000, x)[:, 0] for _ in range(4)])
    pairs = torch.bincount(drawn[:, 1].long() * 3 + drawn[:, 2].long(), minlength=9) / len(drawn)
    every = torch.cartesian_prod(torch.tensor([1]), *[torch.arange(3)] * 2, torch.tensor([2]))
    exact = model.log_prob(every.to(DEVICE)).softmax(0).detach()
    assert (pairs.to(exact) - exact).abs().max() < 0.02


@pytest.mark.parametrize("tolerance", [0.0, 1e-3])
@pytest.mark.parametrize("listed", [False, True])
def test_a_recorded_projection_fits_the_same_potentials(listed: bool, tolerance: float) -> None:
    launched, recorded = twins(pf.hmm(5, 3, pf.Categorical(4)))
    earlier: list[tuple[Tensor, Tensor]] = []  # what was returned is not written over
    for turn in range(4):
        x = torch.full((3, 5), torch.nan)
        x[turn % 3, turn] = 1
        said = torch.randn(3, 5, 4, dtype=torch.float64).log_softmax(-1)
        places = torch.tensor([3, 0]).expand(3, 5, 2) if listed else None
        target = said[..., [3, 0]].log_softmax(-1) if listed else said
        about = pf.Evidence(x, None, torch.zeros_like(target), places)
        fitted = [
            model.project(about, target, 5, tolerance=tolerance) for model in (launched, recorded)
        ]
        for name in ("log_potentials", "mismatch"):
            ours, its = (getattr(one, name) for one in fitted)
            torch.testing.assert_close(ours, its, rtol=1e-12, atol=1e-12)
            earlier.append((its, its.clone()))
    assert all(torch.equal(now, then) for now, then in earlier)


@pytest.mark.parametrize("listed", [False, True])
def test_a_projection_is_recorded_the_second_time(listed: bool) -> None:
    model = pf.compile(pf.hmm(5, 3, pf.Categorical(4)), DEVICE, machine=RECORDS)
    said = pf.Potentials.of(torch.randn(3, 5, 4).log_softmax(-1))
    target = said.top_k(2) if listed else said
    about = pf.Evidence(torch.full((3, 5), torch.nan), None, *(target.log * 0, target.categories))
    made = []
    for _ in range(4):
        model.project(about, target, 2)
        known = [s.recordings._known for s in model.engine.pool.free]
        (played,) = [p for some in known for (_, key), (_, p) in some.items() if "project" in key]
        made.append(played)
    assert made[0] is None and made[1] is made[2] is made[3] is not None


def test_any_number_of_draws_leaves_bounded_memory_behind() -> None:
    model = pf.compile(pf.hmm(4, 3, pf.Categorical(3)), DEVICE, machine=RECORDS)
    sizes = []
    for n in range(1, 120):
        assert model.sample(n).shape == (n, 4)
        sizes.append(model.memory.sheets)
    assert sizes[0] < sizes[1] < sizes[2]  # what stays is counted
    known = [len(sheet.recordings._known) for sheet in model.engine.pool.free]
    assert max(known) <= 16 * len(model.plan.runs) + len(model.plan.runs)
    seeded = [model.sample(7, generator=torch.Generator(DEVICE).manual_seed(0)) for _ in range(4)]
    assert all(torch.equal(one, seeded[0]) for one in seeded)
