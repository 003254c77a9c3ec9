"""No stale answer: whoever changes a parameter, and however, the next query knows."""

import copy
import multiprocessing
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch
from device import DEVICE
from torch import Tensor, nn
from torch.autograd.graph import increment_version

import pcflow as pf
from pcflow.engine.cache import Cache
from pcflow.engine.versions import FEW, Stamp

X = torch.randint(6, (20, 5), generator=torch.Generator().manual_seed(0))


def made() -> pf.CompiledCircuit:
    generator = torch.Generator().manual_seed(1)
    model = pf.compile(pf.hmm(5, states=4, inputs=pf.Categorical(6)), DEVICE)
    with torch.no_grad():
        for bank in model.banks:
            bank.copy_(torch.randn(bank.shape, generator=generator))
    return model


def step(make: Callable[[list[nn.Parameter]], torch.optim.Optimizer]) -> Callable[..., None]:
    def edit(model: pf.CompiledCircuit) -> None:
        optimizer = make(list(model.parameters()))
        model.log_prob(X).sum().neg().backward()
        optimizer.step()

    return edit


def by_vector(model: pf.CompiledCircuit) -> None:
    vector = nn.utils.parameters_to_vector(model.parameters())
    nn.utils.vector_to_parameters(torch.randn_like(vector), model.parameters())


def by_swap(model: pf.CompiledCircuit) -> None:
    for bank in model.banks:
        torch.utils.swap_tensors(bank, nn.Parameter(torch.randn_like(bank)))


def by_data(model: pf.CompiledCircuit) -> None:
    for bank in model.banks:
        bank.data = torch.randn_like(bank)


def twice_at_one_place(model: pf.CompiledCircuit) -> None:
    """Memory that is given back is handed out again."""
    for bank in model.banks:
        bank.data = torch.randn_like(bank)
        bank.data = torch.randn_like(bank)


def inside_data(model: pf.CompiledCircuit) -> None:
    for bank in model.banks:
        bank.data.copy_(torch.randn_like(bank))


def one_number(model: pf.CompiledCircuit) -> None:
    model.banks[0].data.view(-1)[0] += 1.0


def by_numpy(model: pf.CompiledCircuit) -> None:
    for bank in model.banks:
        bank.detach().numpy()[:] = torch.randn_like(bank).numpy()


def replaced(model: pf.CompiledCircuit) -> None:
    for number, bank in enumerate(model.banks):
        model.banks[number] = nn.Parameter(torch.randn_like(bank))


def loaded(model: pf.CompiledCircuit) -> None:
    other = {name: torch.randn_like(value) for name, value in model.state_dict().items()}
    model.load_state_dict(other, assign=True)


def shared_and_edited(model: pf.CompiledCircuit) -> None:
    model.share_memory()
    inside_data(model)


def no_grad(model: pf.CompiledCircuit) -> None:
    with torch.no_grad():
        torch._foreach_add_(list(model.parameters()), 1.0)
        model.banks[0].view(-1)[0] += 1.0


EDITS: dict[str, Callable[[pf.CompiledCircuit], None]] = {
    "Adam": step(lambda p: torch.optim.Adam(p, 0.1, foreach=False)),
    "foreach Adam": step(lambda p: torch.optim.Adam(p, 0.1, foreach=True)),
    "fused Adam": step(lambda p: torch.optim.Adam(p, 0.1, fused=True)),
    "fused AdamW": step(lambda p: torch.optim.AdamW(p, 0.1, fused=True)),
    "fused SGD": step(lambda p: torch.optim.SGD(p, 0.1, fused=True)),
    "fused Adagrad": step(lambda p: torch.optim.Adagrad(p, 0.1, fused=True)),
    "vector_to_parameters": by_vector,
    "swap_tensors": by_swap,
    "data replaced": by_data,
    "data replaced twice": twice_at_one_place,
    "data edited": inside_data,
    "one number": one_number,
    "numpy": by_numpy,
    "parameters replaced": replaced,
    "state assigned": loaded,
    "shared": shared_and_edited,
    "no_grad": no_grad,
}
if DEVICE.type != "cpu":
    del EDITS["numpy"]  # which writes on memory of the CPU alone
    del EDITS["fused Adagrad"]  # which not every torch has for a GPU
    del EDITS["shared"]  # memory of a GPU is not moved for it
BEHIND = [name for name in ("data edited", "numpy", "one number") if name in EDITS]
FROZEN = ["data replaced", "data replaced twice", "swap_tensors", "state assigned", "no_grad"]


def assert_answers_by_its_parameters(model: pf.CompiledCircuit) -> None:
    fresh = pf.compile(copy.deepcopy(model).circuit, DEVICE)  # which has computed nothing yet
    nothing = torch.full((1, 5), torch.nan)
    torch.testing.assert_close(model.log_prob(X), fresh.log_prob(X))
    torch.testing.assert_close(model.marginals(nothing), fresh.marginals(nothing))
    assert torch.equal(model.mpe(nothing).values, fresh.mpe(nothing).values)
    draws = [m.sample(50, generator=torch.Generator(DEVICE).manual_seed(0)) for m in (model, fresh)]
    assert torch.equal(*draws)
    wanted = pf.reference_log_prob(model.circuit, X)
    torch.testing.assert_close(model.log_prob(X).double().cpu(), wanted, rtol=1e-5, atol=1e-5)
    found = [torch.autograd.grad(m.log_prob(X).sum(), list(m.parameters())) for m in (model, fresh)]
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("name", EDITS)
def test_every_answer_is_that_of_the_present_parameters(name: str) -> None:
    model = made()
    assert_answers_by_its_parameters(model)  # now everything is kept
    before = model.log_prob(X).detach()
    EDITS[name](model)
    assert not torch.allclose(model.log_prob(X), before)
    assert_answers_by_its_parameters(model)


@pytest.mark.parametrize("name", FROZEN)
def test_a_frozen_model_knows_what_torch_counts_and_what_moves(name: str) -> None:
    model = made().requires_grad_(False)
    before = model.log_prob(X)
    EDITS[name](model)
    model.requires_grad_(False)
    wanted = pf.reference_log_prob(model.circuit, X)
    torch.testing.assert_close(model.log_prob(X).double().cpu(), wanted, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(model.log_prob(X), before)


@pytest.mark.parametrize("name", BEHIND)
def test_edits_of_a_frozen_model_behind_the_back_of_torch_can_be_told(name: str) -> None:
    model = made().requires_grad_(False)
    model.log_prob(X)
    EDITS[name](model)
    for bank in model.banks:
        increment_version(bank)
    wanted = pf.reference_log_prob(model.circuit, X)
    torch.testing.assert_close(model.log_prob(X).double().cpu(), wanted, rtol=1e-5, atol=1e-5)


def test_what_changed_while_a_model_was_frozen_is_known_when_it_learns_again() -> None:
    model = made().requires_grad_(False)
    model.log_prob(X)
    inside_data(model)
    model.requires_grad_(True)
    assert_answers_by_its_parameters(model)


@pytest.mark.skipif(DEVICE.type != "cpu", reason="processes share memory of the CPU")
def test_what_another_process_writes_is_seen() -> None:
    model = made()
    model.share_memory()
    before = model.log_prob(X).detach()
    arrays = [bank.detach().numpy() for bank in model.banks]
    other = multiprocessing.get_context("fork").Process(target=_shake, args=(arrays,))
    other.start()
    other.join()
    assert not torch.allclose(model.log_prob(X), before)
    assert_answers_by_its_parameters(model)


def _shake(arrays: list[npt.NDArray[np.float32]]) -> None:
    for array in arrays:
        array.flat[0] += 1.0


def test_fit_learns_with_a_fused_optimizer() -> None:
    curves = []
    for fused in (False, True):
        model = made()
        learner = pf.Gradient(lambda p, fused=fused: torch.optim.Adam(p, 0.1, fused=fused))  # type: ignore[misc]
        torch.manual_seed(0)
        curves.append(pf.fit(model, X, learner, epochs=4, progress=False).train)
    assert curves[1] == pytest.approx(curves[0], abs=1e-5)
    assert curves[1][-1] > curves[1][0] + 0.1


@pytest.mark.parametrize("memory", [1, 1 << 30])
@pytest.mark.parametrize("name", EDITS)
def test_no_gradient_mixes_old_values_with_new_parameters(name: str, memory: int) -> None:
    model = pf.compile(made().circuit, DEVICE, memory=memory)
    value = model.log_prob(X).sum()
    with torch.no_grad():
        model.log_prob(X)
    EDITS[name](model)
    with torch.no_grad():
        model.log_prob(X)
    with pytest.raises(RuntimeError, match="edited between"):
        value.backward()


BANKS = {
    "small": torch.zeros(7, 3),
    "large": torch.zeros(3 * FEW // 4 + 1, 1),
    "large, double": torch.zeros(FEW, 1, dtype=torch.float64),
    "transposed": torch.zeros(300, 60).t(),
}


@pytest.mark.parametrize("name", BANKS)
def test_any_number_that_changes_is_seen_and_any_two_that_change_places(name: str) -> None:
    parameter = nn.Parameter(BANKS[name].to(DEVICE, copy=True))
    numbers = parameter.data
    numbers.copy_(torch.randn(numbers.shape, dtype=numbers.dtype))
    stamp, generator = Stamp(parameter), torch.Generator().manual_seed(0)
    assert stamp.is_of(parameter)
    stamp.watch()
    assert stamp.is_of(parameter)

    def place() -> tuple[Tensor, ...]:
        return tuple(torch.randint(size, (1,), generator=generator) for size in numbers.shape)

    for _ in range(100):
        one, two = place(), place()
        was, other = numbers[one].clone(), numbers[two].clone()
        numbers[one] = torch.nextafter(was, torch.full_like(was, torch.inf))
        assert not stamp.is_of(parameter)
        numbers[one], numbers[two] = other, was
        assert stamp.is_of(parameter) == torch.equal(was, other)
        numbers[one], numbers[two] = was, other
        assert stamp.is_of(parameter)
    rows = numbers.roll(1, 0)
    numbers.copy_(rows)
    assert not stamp.is_of(parameter)
    parameter.requires_grad_(False)
    assert stamp.is_of(parameter)  # nobody looks at what is frozen


@pytest.mark.parametrize("name", BANKS)
def test_without_a_gradient_a_sample_of_many_numbers_is_looked_at(name: str) -> None:
    parameter = nn.Parameter(BANKS[name].to(DEVICE, copy=True))
    stamp = Stamp(parameter)
    parameter.data.add_(1.0)
    assert not stamp.is_of(parameter)
    stamp = Stamp(parameter)
    parameter.data[-1, -1] = 0.0
    assert stamp.is_of(parameter) == (name == "large" or name == "large, double")
    increment_version(parameter)
    assert not stamp.is_of(parameter)


@pytest.mark.parametrize("fused", [True, False])
def test_a_step_that_moves_few_of_many_numbers_is_seen(fused: bool) -> None:
    """A step of SGD that is small, after one row: most numbers stay what they were."""
    model = pf.compile(pf.hmm(2, states=2, inputs=pf.Categorical(1 << 14)), DEVICE)
    x = torch.tensor([[3, 5]])
    (table,) = [bank for bank in model.banks if bank.nbytes > FEW]
    before, numbers = model.log_prob(x).item(), table.detach().clone()
    optimizer = torch.optim.SGD([table], 1e-5, fused=fused)
    model.log_prob(x).sum().neg().backward()
    with torch.no_grad():
        assert model.log_prob(x).item() == before  # asked in between
    optimizer.step()
    assert 0 < (table != numbers).sum() < table.numel() / 100
    with torch.no_grad():
        found = model.log_prob(x).item()
    wanted = pf.reference_log_prob(model.circuit, x).item()
    assert found == pytest.approx(wanted, rel=1e-6) and found > before


def test_once_a_gradient_was_taken_any_number_is_looked_at() -> None:
    model = pf.compile(pf.hmm(2, states=2, inputs=pf.Categorical(1 << 14)), DEVICE)
    (table,) = [bank for bank in model.banks if bank.nbytes > FEW]
    generator = torch.Generator().manual_seed(0)
    for _ in range(10):
        category = int(torch.randint(1 << 14, (1,), generator=generator))
        x = torch.tensor([[category, 0]])
        model.log_prob(x).sum().backward()
        with torch.no_grad():
            before = model.log_prob(x).item()
            table.data[0, category] += 1.0
            found = model.log_prob(x).item()
        wanted = pf.reference_log_prob(model.circuit, x).item()
        assert found == pytest.approx(wanted, rel=1e-6) and found > before + 0.9


def test_what_was_computed_of_numbers_that_changed_meanwhile_is_not_kept() -> None:
    bank = torch.zeros(1)
    cache = Cache([bank], bank, room=100)
    cache.refresh()

    def make() -> Tensor:
        old = bank.clone()
        bank.add_(1.0)
        cache.refresh()  # as another thread may
        return old

    assert cache.keep("number", None, [0], make) == 0.0
    assert cache.keep("number", None, [0], bank.clone) == 1.0
