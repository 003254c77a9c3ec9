"""Learners are plain values; what they remember is in their runs, and ends with them."""

import copy
import pickle
from collections.abc import Callable
from functools import partial

import pytest
import torch
from device import DEVICE
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from laws import of_fifty
from torch import Tensor

import pcflow as pf
from pcflow.testing import circuits, mixed_families

STEPS = st.floats(0.01, 1.0)
COUNTS = st.floats(0.0, 2.0)
LEARNERS = st.one_of(
    st.builds(pf.EM, COUNTS),
    st.builds(pf.MiniBatchEM, STEPS, COUNTS),
    st.builds(pf.Anemone, STEPS, st.floats(0.0, 0.99), COUNTS, st.booleans()),
    st.builds(pf.Gradient, decay=st.booleans()),
)
MAKE: dict[str, Callable[[], pf.Learner]] = {
    "EM": partial(pf.EM, 0.1),
    "MiniBatchEM": pf.MiniBatchEM,
    "Anemone": pf.Anemone,
    "Adam": pf.Gradient,
    "momentum": lambda: pf.Gradient(partial(torch.optim.SGD, lr=0.1, momentum=0.9)),
}
every_learner = pytest.mark.parametrize("name", MAKE)


def model_of(circuit: pf.Circuit | None = None) -> pf.CompiledCircuit:
    if circuit is None:
        generator = torch.Generator().manual_seed(0)
        circuit = pf.hmm(3, 2, pf.Categorical(3), generator=generator)
    return pf.compile(circuit, DEVICE, torch.float64)


def rows(seed: int = 0, count: int = 24) -> Tensor:
    return torch.randint(3, (count, 3), generator=torch.Generator().manual_seed(seed))


def values(model: pf.CompiledCircuit) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def steps(run: pf.Run, first: int, last: int) -> list[Tensor]:
    """What some steps meet, each on rows of its own."""
    return [run.step([pf.Batch(rows(seed))], seed / 10) for seed in range(first, last)]


@given(LEARNERS, LEARNERS)
def test_learners_compare_copy_hash_and_pickle(one: pf.Learner, other: pf.Learner) -> None:
    for same in (copy.copy(one), copy.deepcopy(one), pickle.loads(pickle.dumps(one))):
        assert same == one
        assert hash(same) == hash(one)
        assert repr(same) == repr(one)
    assert (one == other) == (repr(one) == repr(other))


@given(LEARNERS, st.booleans())
@settings(max_examples=of_fifty(20))
def test_equal_learners_do_the_same_whatever_either_did_before(
    learner: pf.Learner, pickled: bool
) -> None:
    twin = pickle.loads(pickle.dumps(learner)) if pickled else copy.copy(learner)
    fresh, used = model_of(), model_of()
    pf.fit(used, rows(5), learner, epochs=2, batch_size=7, progress=False)
    used.load_state_dict(fresh.state_dict())
    ends = []
    for model, same in ((fresh, twin), (used, learner)):
        torch.manual_seed(0)
        result = pf.fit(model, rows(), same, epochs=2, batch_size=7, progress=False)
        ends.append((result, values(model)))
    assert ends[0][0] == ends[1][0]
    assert torch.equal(ends[0][1], ends[1][1])


def test_a_lambda_makes_an_optimizer_but_no_pickle() -> None:
    learner = pf.Gradient(lambda parameters: torch.optim.SGD(parameters, lr=0.1))
    assert copy.deepcopy(learner) == learner
    steps(learner.start(model_of()), 0, 2)
    with pytest.raises((pickle.PicklingError, AttributeError)):
        pickle.dumps(learner)


@every_learner
def test_a_run_goes_on_from_the_state_of_another(name: str) -> None:
    """To the same parameters, by the same numbers."""
    model, learner = model_of(), MAKE[name]()
    run = learner.start(model)
    other = learner.start(model_of())
    other.restore(run.state())  # of a run that has not begun
    steps(run, 0, 3)
    kept = copy.deepcopy(run.state())
    twin = copy.deepcopy(model)
    wanted = steps(run, 3, 6)
    resumed = learner.start(twin)
    resumed.restore(kept)
    assert all(torch.equal(*pair) for pair in zip(steps(resumed, 3, 6), wanted, strict=True))
    assert torch.equal(values(twin), values(model))
    assert repr(resumed.state()) == repr(run.state())


@pytest.mark.parametrize("learner", [pf.Anemone(decay=True), pf.Gradient(decay=True)])
def test_nothing_is_done_when_nobody_says_how_much_is(learner: pf.Learner) -> None:
    models = [model_of() for _ in range(2)]
    learner.start(models[0]).step([pf.Batch(rows())])
    learner.start(models[1]).step([pf.Batch(rows())], 0.0)
    assert torch.equal(*map(values, models))


@every_learner
def test_a_run_takes_up_no_other_state(name: str) -> None:
    run = MAKE[name]().start(model_of())
    with pytest.raises(pf.FileFormatError):
        run.restore(run.state() | {"seven": 7})


@every_learner
@pytest.mark.parametrize("size", [5, 24])
def test_a_step_by_several_batches_is_one_by_all_their_rows(name: str, size: int) -> None:
    one, other = model_of(), model_of()
    met = MAKE[name]().start(one).step([pf.Batch(rows())])
    parts = (pf.Batch(some) for some in rows().split(size))
    torch.testing.assert_close(MAKE[name]().start(other).step(parts), met)
    torch.testing.assert_close(values(other), values(one), rtol=1e-6, atol=1e-6)


@every_learner
def test_a_row_of_weight_two_counts_as_two_rows(name: str) -> None:
    weight = torch.arange(24) % 3
    one, other = model_of(), model_of()
    met = MAKE[name]().start(one).step([pf.Batch(rows(), weight=weight)])
    again = rows().repeat_interleave(weight, dim=0)
    torch.testing.assert_close(MAKE[name]().start(other).step([pf.Batch(again)]), met)
    torch.testing.assert_close(values(other), values(one), rtol=1e-6, atol=1e-6)


@every_learner
@given(st.data(), circuits(families=mixed_families()), st.integers(0, 999))
@settings(max_examples=of_fifty(10))
def test_frozen_parameters_are_kept_and_others_move(
    name: str, data: st.DataObject, circuit: pf.Circuit, seed: int
) -> None:
    """What is free moves in a first step as if nothing were frozen, or counting refuses."""
    model, free = model_of(circuit), model_of(circuit)
    assume(len(model.banks) > 0)
    batch = pf.Batch(model.sample(10, generator=torch.Generator(DEVICE).manual_seed(seed)))
    frozen = data.draw(st.sets(st.sampled_from(range(len(model.banks)))))
    for bank in frozen:
        model.banks[bank].requires_grad_(False)
    before = [bank.detach().clone() for bank in model.banks]
    try:
        for learns in (model, free):
            MAKE[name]().start(learns).step([batch])
    except pf.StructureError:
        assume(False)
    for number, (bank, start) in enumerate(zip(model.banks, before, strict=True)):
        if number in frozen:
            assert torch.equal(bank, start)
        else:
            torch.testing.assert_close(bank, free.banks[number], rtol=1e-9, atol=1e-9)


def test_batches_are_named_by_the_rows_of_the_data() -> None:
    model = pf.compile(pf.Circuit(pf.InputLayer(0, pf.Indicator(1))), DEVICE)
    batch = pf.Batch(torch.tensor([[1], [0], [1], [0]]), rows=torch.tensor([9, 7, 5, 3]))
    with pytest.raises(pf.NoMassError, match="row 7, 3") as refused:
        pf.EM().start(model).step([batch])
    assert refused.value.rows == (7, 3)


def test_what_makes_no_optimizer_and_what_makes_no_batch_is_refused() -> None:
    with pytest.raises(pf.TypeMismatch, match=r"optimizer must be what makes .*, got str"):
        pf.Gradient("adam")  # type: ignore[arg-type]
    with pytest.raises(pf.TypeMismatch, match=r"must be a torch.optim.Optimizer, got list"):
        pf.Gradient(list).start(model_of())  # type: ignore[arg-type]

    class Wrong:
        def __len__(self) -> int:
            return 3

        def take(self, rows: Tensor) -> str:
            return "abc"

    class Table(Wrong):  # as those of pandas
        def __array__(self) -> None: ...

    with pytest.raises(pf.TypeMismatch, match=r"what train makes must be a tensor .*, got str"):
        pf.fit(model_of(), Wrong(), progress=False)  # type: ignore[arg-type]
    with pytest.raises(pf.EvidenceError, match=r"train must be numbers .*, got Table"):
        pf.fit(model_of(), Table(), progress=False)  # type: ignore[arg-type]
