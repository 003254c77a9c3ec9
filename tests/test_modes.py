"""Queries in inference mode, without gradients, under autocast, in any order: the same answers."""

from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from itertools import product

import pytest
import torch
from device import DEVICE
from torch import Tensor

import pcflow as pf

Mode = Callable[[], AbstractContextManager[object]]
MODES: dict[str, Mode] = {
    "plain": nullcontext,
    "inference": torch.inference_mode,
    "no_grad": torch.no_grad,
    "autocast": lambda: torch.autocast(DEVICE.type, torch.bfloat16),
}


def evidence() -> pf.Evidence:
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(3, (4, 3), generator=generator).float()
    hidden = torch.rand(x.shape, generator=generator) < 0.6
    soft = torch.randn(4, 3, 3, generator=generator)
    return pf.Evidence(x.masked_fill(hidden, torch.nan), log_potentials=soft)


def slopes(model: pf.CompiledCircuit, about: pf.Evidence) -> Tensor:
    """Gradients, where they are recorded; they are asked for in the mode of the moment too."""
    with torch.inference_mode(False), torch.enable_grad():
        assert about.log_potentials is not None
        soft = about.log_potentials.clone().requires_grad_()
        known = pf.Evidence(about.values, log_potentials=soft)
        value = model.log_prob(known).sum() + model.conditionals(known)[:, :2].sum()
    found = torch.autograd.grad(value, [soft, *model.banks])
    return torch.cat([gradient.flatten().to(DEVICE) for gradient in found])


QUERIES: dict[str, Callable[[pf.CompiledCircuit, pf.Evidence], Tensor]] = {
    "log_prob": lambda m, e: m.log_prob(e).detach(),
    "marginals": lambda m, e: m.marginals(e),
    "mean": lambda m, e: m.mean(e),
    "conditionals": lambda m, e: m.conditionals(e).detach(),
    "next_log_probs": lambda m, e: m.next_log_probs(e).detach(),
    "sample": lambda m, e: m.sample(3, e, torch.Generator(DEVICE).manual_seed(0)),
    "mpe": lambda m, e: m.mpe(e).values,
    "project": lambda m, e: m.marginals(m.project(e, torch.zeros(4, 3, 3), 20)),
    "slopes": slopes,
    "bound": lambda m, e: pf.mpe_upper_bound(m, e),
}


def made(**options: object) -> pf.CompiledCircuit:
    circuit = pf.hmm(3, 2, pf.Categorical(3), generator=torch.Generator().manual_seed(1))
    return pf.compile(circuit, DEVICE, **options)  # type: ignore[arg-type]


ABOUT = evidence()
WANTED = {name: query(made(), ABOUT) for name, query in QUERIES.items()}


def assert_right(name: str, found: Tensor) -> None:
    assert found.dtype == WANTED[name].dtype
    torch.testing.assert_close(found, WANTED[name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("first", "second"), list(product(MODES, MODES)))
def test_no_query_spoils_the_next_whatever_their_modes(first: str, second: str) -> None:
    """Each of four comes right after some of the others, and after those that come before it."""
    for turn, one in enumerate(QUERIES):
        model, others = made(), deque(("log_prob", "slopes", "sample", "mpe"))
        others.rotate(turn)
        for mode, name in ((first, one), *((second, two) for two in others)):
            with MODES[mode]():
                found = QUERIES[name](model, ABOUT)
            assert_right(name, found)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("where", MODES)
def test_a_model_that_is_made_or_moved_in_a_mode_answers_in_all(mode: str, where: str) -> None:
    with MODES[mode]():
        model, about = made(dtype=torch.float64).to(torch.float32), evidence()
    for name, query in QUERIES.items():
        with MODES[where]():
            assert_right(name, query(model, about))
    with MODES[mode]():
        assert_right("slopes", slopes(pf.compile(model.circuit, DEVICE), ABOUT))


@pytest.mark.parametrize("name", QUERIES)
def test_queries_answer_while_what_calls_them_is_compiled(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert_right(name, QUERIES[name](made(), ABOUT))


@pytest.mark.parametrize("mode", ["plain", "no_grad", "autocast"])
def test_fitting_is_the_same_under_autocast(mode: str) -> None:
    rows, models = torch.randint(3, (50, 3)), (made(), made())
    learners = [pf.EM(), pf.Anemone()]
    if mode != "no_grad":
        learners.append(pf.Gradient(lambda p: torch.optim.SGD(p, 0.1)))
    for learner in learners:
        torch.manual_seed(0)
        wanted = pf.fit(models[0], rows, learner, epochs=2, progress=False).train
        torch.manual_seed(0)
        with MODES[mode]():
            found = pf.fit(models[1], rows, learner, epochs=2, progress=False).train
        assert found == wanted
        for one, other in zip(*(model.parameters() for model in models), strict=True):
            assert torch.equal(one, other)
