"""A model among the tools of torch: what works as usual, and what is refused by name."""

import copy
import io
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from processes import ends, start
from torch import Tensor, nn

import pcflow as pf
from pcflow.testing import circuits, evidence

X = torch.randint(3, (4, 5), generator=torch.Generator().manual_seed(0))


def made() -> pf.CompiledCircuit:
    return pf.compile(pf.hmm(5, states=2, inputs=pf.Categorical(3)))


def saved(model: pf.CompiledCircuit) -> pf.CompiledCircuit:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    loaded: pf.CompiledCircuit = torch.load(file, weights_only=False)
    return loaded


COPIES: list[Callable[[pf.CompiledCircuit], pf.CompiledCircuit]] = [
    lambda model: pickle.loads(pickle.dumps(model)),
    saved,
    copy.copy,
    copy.deepcopy,
]


@given(st.data(), circuits(max_variables=4), st.sampled_from(COPIES))
def test_a_copy_answers_as_the_model_does(
    data: st.DataObject,
    circuit: pf.Circuit,
    duplicate: Callable[[pf.CompiledCircuit], pf.CompiledCircuit],
) -> None:
    model, about = pf.compile(circuit, dtype=torch.float64), data.draw(evidence(circuit))
    model.log_prob(about)  # now something is kept
    with torch.no_grad():
        for bank in model.banks:
            bank.mul_(1.5)  # not what it was compiled from
    twin = duplicate(model)
    assert torch.equal(twin.log_prob(about), model.log_prob(about))
    wanted = pf.reference_log_prob(twin.circuit, about)  # what is tied is still tied
    torch.testing.assert_close(twin.log_prob(about).detach(), wanted, rtol=1e-6, atol=1e-9)
    assert [p.requires_grad for p in twin.parameters()] == [
        p.requires_grad for p in model.parameters()
    ]
    assert str(twin.plan) == str(model.plan)


def answer(told: Path) -> None:
    """In a file beside it, what a model says that comes as a file."""
    model, x = pickle.loads(told.read_bytes())
    told.with_suffix(".answer").write_bytes(pickle.dumps(model.log_prob(x)))


def test_a_model_travels_with_its_settings_and_into_another_process(tmp_path: Path) -> None:
    model = pf.compile(pf.hmm(5, 2, pf.Categorical(3)), memory=1000, soft_dtype=torch.bfloat16)
    twin = pickle.loads(pickle.dumps(model.requires_grad_(False)))
    assert (twin.engine.memory, twin.engine.tables.soft_dtype) == (1000, torch.bfloat16)
    told = tmp_path / "told"
    told.write_bytes(pickle.dumps((model, X)))
    assert ends([start(answer, told)]) == [0]
    found = pickle.loads(told.with_suffix(".answer").read_bytes())
    assert torch.equal(found, model.log_prob(X))


@pytest.mark.parametrize(
    ("move", "match"),
    [
        (lambda m: m.half(), "dtype must be float32 or float64, got torch.float16"),
        (lambda m: m.bfloat16(), "bfloat16"),
        (lambda m: m.to(torch.complex64), "complex64"),
        (lambda m: m.to("meta"), "device must be one that holds numbers, got 'meta'"),
        (lambda m: m.to_empty(device="meta"), "meta"),
        (lambda m: nn.Sequential(m).half(), "float16"),
    ],
)
def test_a_model_that_is_asked_to_be_what_it_cannot_stays_what_it_is(
    move: Callable[[pf.CompiledCircuit], object], match: str
) -> None:
    model = made()
    wanted = model.log_prob(X)
    with warnings.catch_warnings(), pytest.raises(pf.SettingError, match=match):
        warnings.simplefilter("ignore")  # torch warns of complex modules
        move(model)
    assert torch.equal(model.log_prob(X), wanted)


def test_parameters_of_another_precision_are_refused_until_the_model_follows() -> None:
    model = made()
    model.log_prob(X)
    double = {name: value.double() for name, value in model.state_dict().items()}
    model.load_state_dict(double, assign=True)
    for query in (model.log_prob, model.marginals, model.mpe, lambda x: model.sample(1, x)):
        with pytest.raises(pf.SettingError, match=r"banks\[0\] must be torch.float32 on cpu"):
            query(X.float())
    assert model.double().log_prob(X).dtype == torch.float64
    assert model.float().log_prob(X).dtype == torch.float32


def total(model: pf.CompiledCircuit, banks: dict[str, Tensor]) -> Tensor:
    found: Tensor = torch.func.functional_call(model, banks, (X,))
    return found.sum()


TRANSFORMS: dict[str, Callable[[pf.CompiledCircuit], object]] = {
    "vmap": lambda m: torch.vmap(lambda x: m.log_prob(x.unsqueeze(0)))(X),
    "vmap of marginals": lambda m: torch.vmap(m.marginals)(X.float().unsqueeze(1)),
    "grad": lambda m: torch.func.grad(lambda b: total(m, b))(dict(m.named_parameters())),
    "jacrev": lambda m: torch.func.jacrev(lambda b: total(m, b))(dict(m.named_parameters())),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms_are_refused(name: str) -> None:
    model = made()
    with pytest.raises(pf.Unsupported, match=r"torch\.func"):
        TRANSFORMS[name](model)
    assert model.log_prob(X).isfinite().all()


def test_a_functional_call_answers_by_the_parameters_that_it_is_given() -> None:
    model, other = made(), made()
    model.log_prob(X)
    banks = {name: value.detach().clone() for name, value in other.named_parameters()}
    for bank in banks.values():
        bank.requires_grad_()
    found, wanted = total(model, banks), other.log_prob(X).sum()
    torch.testing.assert_close(found, wanted)
    with pytest.raises(RuntimeError, match="edited between"):  # by then it has its own again
        found.backward()


def test_a_second_derivative_is_refused_and_a_first_one_may_be_part_of_a_graph() -> None:
    model = made()
    soft = torch.randn(4, 5, 3, requires_grad=True)
    about = pf.Evidence(missing=torch.ones(4, 5, dtype=torch.bool), log_potentials=soft)
    inputs = [soft, *model.parameters()]
    value = model.log_prob(about).sum()
    plain = torch.autograd.grad(value, inputs, retain_graph=True)
    found = torch.autograd.grad(value, inputs, create_graph=True)
    torch.testing.assert_close(found, plain)
    weight = torch.ones((), requires_grad=True)
    (weight * found[0].detach().sum()).backward()
    with pytest.raises(pf.Unsupported, match="once, not twice"):
        found[0].square().sum().backward()


def test_a_compiled_module_asks_the_model_as_it_is() -> None:
    """Warnings of Dynamo, of what it cannot trace, are errors here as in all tests."""
    made().log_prob(X).sum().backward()
    model = made()
    whole = torch.compile(nn.Sequential(model), backend="eager")
    torch.testing.assert_close(whole(X), model.log_prob(X))
    whole(X).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    with torch.no_grad():
        for rows in (1, 3, 2):
            torch.testing.assert_close(whole(X[:rows]), model.log_prob(X[:rows]))
