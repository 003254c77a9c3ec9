"""Any number of threads may query one model: no wrong value, no exception, nothing lost."""

import gc
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import FrameType

import pytest
import torch
from device import DEVICE
from torch import Tensor

import pcflow as pf
from pcflow.engine import evaluate, memory, tables

THREADS, TURNS, STATES, LENGTH = 8, 6, 3, 4  # every query and every evidence meet in 6
SHARED = {module.__file__ for module in (evaluate, memory, tables)}  # where threads meet


@pytest.fixture(autouse=True)
def eager_switches() -> Iterator[None]:
    """Threads take turns after a few bytecodes, and after every line where they meet."""

    def call(frame: FrameType, event: str, _: object) -> Callable[..., object] | None:
        return line if frame.f_code.co_filename in SHARED else None

    def line(*_: object) -> Callable[..., object]:
        time.sleep(0)
        return line

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    threading.settrace(call)
    yield
    threading.settrace(None)  # type: ignore[arg-type]
    sys.setswitchinterval(before)


def evidence(rows: int, seed: int) -> pf.Evidence:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(STATES, (rows, LENGTH), generator=generator).double()
    hidden = torch.rand(x.shape, generator=generator) < 0.5
    soft = torch.randn(*x.shape, STATES, generator=generator, dtype=torch.float64)
    return pf.Evidence(x.masked_fill(hidden, torch.nan), log_potentials=soft)


def on_device(seed: int) -> torch.Generator:
    return torch.Generator(DEVICE).manual_seed(seed)


def gradient(model: pf.CompiledCircuit, about: pf.Evidence) -> Tensor:
    return torch.cat(
        [g.flatten() for g in torch.autograd.grad(model.log_prob(about).sum(), model.banks)]
    )


QUERIES: dict[str, Callable[[pf.CompiledCircuit, pf.Evidence], Tensor]] = {
    "log_prob": lambda model, about: model.log_prob(about).detach(),
    "gradient": gradient,
    "marginals": lambda model, about: model.marginals(about),
    "sample": lambda model, about: model.sample(3, about, on_device(1)),
    "mpe": lambda model, about: model.mpe(about).values,
    "underflow": lambda model, about: model.log_prob(faint(about)).detach(),
}


def faint(about: pf.Evidence) -> pf.Evidence:
    """So small that rows are evaluated again, with raised units and in log space."""
    assert about.log_potentials is not None
    return pf.Evidence(about.values, log_potentials=400.0 * about.log_potentials)


def ask(model: pf.CompiledCircuit, turns: int, about: list[pf.Evidence]) -> list[list[Tensor]]:
    """What every thread is told, turn by turn."""

    def one(thread: int) -> list[Tensor]:
        kinds = list(QUERIES.values())
        return [kinds[(thread + n) % len(kinds)](model, about[n % 4]) for n in range(turns)]

    with ThreadPoolExecutor(THREADS) as threads:
        return list(threads.map(one, range(THREADS)))


def test_threads_are_told_what_one_alone_is_told() -> None:
    model = pf.compile(pf.hmm(LENGTH, STATES, pf.Categorical(STATES)), DEVICE)
    about = [evidence(1 + n % 3, n) for n in range(4)]
    wanted = {name: [query(model, e) for e in about] for name, query in QUERIES.items()}
    names = list(QUERIES)
    for thread, answers in enumerate(ask(model, TURNS, about)):
        for turn, answer in enumerate(answers):
            right = wanted[names[(thread + turn) % len(names)]][turn % 4]
            torch.testing.assert_close(answer, right, rtol=1e-5, atol=1e-5)


def test_every_row_is_counted_and_no_sheet_is_lost() -> None:
    model = pf.compile(pf.hmm(LENGTH, STATES, pf.Categorical(STATES)), DEVICE).requires_grad_(False)
    x = torch.zeros(2, LENGTH).long()
    with ThreadPoolExecutor(THREADS) as threads:
        list(threads.map(lambda _: model.log_prob(x), range(60)))
    gc.collect()
    assert model.rows.seen == 120
    assert not model.engine.pool.lent
    assert len(model.engine.pool.free) <= model.plan.machine.sheets


def test_threads_agree_on_parameters_that_one_of_them_moves() -> None:
    """What is computed from old numbers while they change is not kept for the new ones."""
    model = pf.compile(pf.hmm(LENGTH, STATES, pf.Categorical(STATES)), DEVICE)
    x = torch.zeros(2, LENGTH).long()

    def query(_: int) -> None:
        with torch.no_grad():
            model.log_prob(x)

    with ThreadPoolExecutor(THREADS) as threads:
        for _ in range(6):
            asked = threads.map(query, range(THREADS))
            with torch.no_grad():
                for bank in model.banks:
                    bank.add_(torch.randn_like(bank))
            list(asked)
            wanted = pf.reference_log_prob(model.circuit, x)
            found = model.log_prob(x).detach().double().cpu()
            torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def test_a_graph_that_is_kept_goes_back_in_many_threads() -> None:
    """What a step reads from here and there is copied to one place, which must not be shared."""
    regions = pf.structure.quad_graph((3, 3))
    model = pf.compile(pf.build_circuit(regions, pf.Bernoulli(), units=3), DEVICE)
    value = model.log_prob(torch.randint(2, (30, 9))).sum()

    def back(_: int) -> list[Tensor]:
        return list(torch.autograd.grad(value, model.banks, retain_graph=True))

    wanted = back(0)
    with ThreadPoolExecutor(THREADS) as threads:
        for found in threads.map(back, range(16)):
            torch.testing.assert_close(found, wanted)
