"""No stale answer: whoever changes a parameter, and however, the next query knows."""

import copy
import multiprocessing
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import increment_version

import pcflow as pf
from pcflow.engine.versions import SMALL, Stamp

X = torch.randint(6, (20, 5), generator=torch.Generator().manual_seed(0))


def made() -> pf.CompiledCircuit:
    generator = torch.Generator().manual_seed(1)
    model = pf.compile(pf.hmm(5, states=4, inputs=pf.Categorical(6)))
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
FROZEN = ["data replaced", "data replaced twice", "swap_tensors", "state assigned", "no_grad"]


def assert_answers_by_its_parameters(model: pf.CompiledCircuit) -> None:
    fresh = pf.compile(copy.deepcopy(model).circuit)  # which has computed nothing yet
    nothing = torch.full((1, 5), torch.nan)
    torch.testing.assert_close(model.log_prob(X), fresh.log_prob(X))
    torch.testing.assert_close(model.marginals(X[:, :0] if False else nothing), fresh.marginals(nothing))
    assert torch.equal(model.mpe(nothing).values, fresh.mpe(nothing).values)
    draws = [m.sample(50, generator=torch.Generator().manual_seed(0)) for m in (model, fresh)]
    assert torch.equal(*draws)
    wanted = pf.reference_log_prob(model.circuit, X)
    torch.testing.assert_close(model.log_prob(X).double(), wanted, rtol=1e-5, atol=1e-5)
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
