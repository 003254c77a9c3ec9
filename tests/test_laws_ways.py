"""Every query answers alike, whichever way it goes: what is fast, small or exact changes no answer.

Which way is quick depends on sizes of the machine, on memory, on what underflows and on who learns.
Circuits that are generated are small, so each way is taken here because a law says so.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from functools import partial
from unittest.mock import patch

import torch
from device import DEVICE
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import of_fifty
from torch import Tensor

import pcflow as pf
from pcflow.engine import Engine, evaluate
from pcflow.engine.descent import TreeDescent
from pcflow.engine.log_semiring import LogSumProduct
from pcflow.engine.tape import Tape
from pcflow.evidence import CheckedEvidence
from pcflow.testing import circuits, evidence, intervals, mixed_families

SIZES = [field.name for field in fields(pf.Machine) if field.name != "records"]
IN_TURN = {"strip": 1 << 12, "weights": 1 << 24}
"""Sizes that say in which order draws take random numbers, and parameters stand in banks."""

Answers = dict[str, Tensor]
Case = tuple[pf.Circuit, pf.Evidence]
Ask = Callable[[pf.CompiledCircuit, pf.Evidence], Answers]


@st.composite
def asked(draw: st.DrawFn) -> Case:
    """A circuit and possible rows: observed, missing, soft, listed or in intervals."""
    if draw(st.booleans()):
        circuit = draw(circuits(max_variables=3, families=mixed_families()))
        return circuit, draw(intervals(circuit))
    circuit = draw(circuits(max_variables=3))
    about = draw(evidence(circuit))
    if about.log_potentials is not None and draw(st.booleans()):
        order = torch.rand(about.log_potentials.shape).argsort(dim=-1)
        about = pf.Evidence(
            about.values, about.missing, about.log_potentials.gather(-1, order), order
        )
    rows = (compiled(circuit).log_prob(about) > -torch.inf).nonzero().squeeze(-1)
    return circuit, about.rows(rows)


def compiled(circuit: pf.Circuit, **options: object) -> pf.CompiledCircuit:
    return pf.compile(circuit, DEVICE, torch.float64, **options)  # type: ignore[arg-type]


def answers(model: pf.CompiledCircuit, about: pf.Evidence) -> Answers:
    """What every query says, draws apart, and what a step of EM makes of the parameters."""
    found = {
        "log_prob": model.log_prob(about).detach(),
        "mean": model.mean(about),
        "mpe": model.mpe(about).log_value,
    }
    if None not in model.num_categories:
        few = torch.arange(2).expand(*model.evidence(about).values.shape, 2)
        found["marginals"] = model.marginals(about)
        found["some"] = model.marginals(about, few)
        found["conditionals"] = model.conditionals(model.mpe(about).values)
    return found


def drawn(model: pf.CompiledCircuit, about: pf.Evidence) -> Answers:
    """Draws with a seed; those of real numbers take as many random ones as they need."""
    if None in model.num_categories:
        return {}
    found = {"sample": model.sample(3, about, torch.Generator(DEVICE).manual_seed(0))}
    cold = model.sample(2, about, torch.Generator(DEVICE).manual_seed(0), temperature=0.5)
    return found | {"cold": cold}


def learned(model: pf.CompiledCircuit, about: pf.Evidence) -> Answers:
    """Gradients of parameters and potentials, and what a step of EM makes of the parameters."""
    if about.log_potentials is not None:
        about = about.with_potentials(
            about.potentials.like(about.log_potentials.clone().requires_grad_())
        )
    weight = torch.arange(1.0, 1.0 + about.batch_size, device=DEVICE).double()
    model.log_prob(about).mul(weight).sum().backward()
    found = {f"slope {n}": bank.grad for n, bank in enumerate(model.banks)}
    found["potentials"] = None if about.log_potentials is None else about.log_potentials.grad
    told = pf.EM(0.1).start(model).step([pf.Batch(about, weight=weight)])
    found |= {f"bank {n}": bank.detach() for n, bank in enumerate(model.banks)}
    return {n: t for n, t in found.items() if t is not None} | {"told": told}


def assert_same(found: Answers, wanted: Answers) -> None:
    assert found.keys() == wanted.keys()
    for name, numbers in found.items():
        close = partial(torch.testing.assert_close, rtol=1e-8, atol=1e-8, equal_nan=True)
        close(numbers, wanted[name], msg=lambda text, name=name: f"{name}: {text}")


def everything(ask: Ask, circuit: pf.Circuit, about: pf.Evidence, **options: object) -> Answers:
    return ask(compiled(circuit, **options), about)


@contextmanager
def rows_doubted() -> Iterator[None]:
    """Some rows go through log space."""

    def doubted(_: Engine, tape: Tape) -> tuple[Tensor, None]:
        return torch.rand(tape.log_value.shape) < 0.5, None

    def exactly(_: Engine, tape: Tape, about: CheckedEvidence, low: Tensor) -> Tensor:
        return low.nonzero().squeeze(-1).to(tape.log_value.device)

    with patch.object(Engine, "_certified", doubted), patch.object(Engine, "_doubtful", exactly):
        yield


@contextmanager
def nothing_skipped() -> Iterator[None]:
    """Draws choose units of what is missing one by one, as in log space: so seeds mean the same."""
    never = property(lambda _: False, lambda _, __: None)
    with patch.object(TreeDescent, "may_skip", never, create=True):
        yield


@settings(max_examples=of_fifty(6))
@given(asked(), st.data())
def test_sizes_of_the_machine(case: Case, data: st.DataObject) -> None:
    small = {name: data.draw(st.sampled_from([1, 2, 3, 5]), name) for name in SIZES}
    asks = [answers, learned]
    if DEVICE.type == "cpu":  # elsewhere other numbers come if fewer are asked for at once
        asks.append(drawn)
    for ask in asks:
        sizes = small | ({} if ask is answers else IN_TURN)
        found = everything(ask, *case, machine=pf.Machine(**sizes))
        assert_same(found, everything(ask, *case))


@settings(max_examples=of_fifty(6))
@given(asked())
def test_log_space(case: Case) -> None:
    for ask in (answers, drawn, learned):
        with nothing_skipped():
            wanted = everything(ask, *case)
        with patch.object(evaluate, "Scaled", LogSumProduct):
            assert_same(everything(ask, *case), wanted)
        with rows_doubted():
            if ask is not drawn:
                assert_same(everything(ask, *case), wanted)


@settings(max_examples=of_fifty(6))
@given(asked())
def test_parts_of_a_row(case: Case) -> None:
    for ask in (answers, learned):
        assert_same(everything(ask, *case, memory=1), everything(ask, *case))


@settings(max_examples=of_fifty(6))
@given(asked())
def test_row_by_row(case: Case) -> None:
    circuit, about = case
    model = compiled(circuit)
    each = [answers(model, about.rows(row)) for row in torch.arange(about.batch_size).split(1)]
    whole = answers(model, about)
    assert_same({n: torch.cat([one[n] for one in each]) for n in whole if each}, whole)


@settings(max_examples=of_fifty(6))
@given(asked())
def test_answers_are_nobody_elses(case: Case) -> None:
    """Who writes over an answer changes neither the next one nor what was asked."""
    circuit, about = case
    before = [None if t is None else t.clone() for t in vars(about).values()]
    for model in (compiled(circuit), compiled(circuit).requires_grad_(False)):
        for ask in (answers, drawn):
            first = ask(model, about)
            kept = {name: numbers.clone() for name, numbers in first.items()}
            for numbers in first.values():
                numbers.fill_(-7)
            assert_same(ask(model, about), kept)
    for old, new in zip(before, vars(about).values(), strict=True):
        assert old is new is None or (
            new is not None and torch.equal(old.nan_to_num(9.0), new.nan_to_num(9.0))
        )
