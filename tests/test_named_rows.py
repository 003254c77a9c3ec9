"""Large tables are counted by the rows that a batch names, and learn the same as all at once.

Which tables are large is a size of the machine, which changes no answer: with `numbers=1` all are.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from device import DEVICE
from hypothesis import example, given, settings
from hypothesis import strategies as st
from laws import of_fifty
from torch import Tensor

import pcflow as pf
from pcflow.engine import InputStep
from pcflow.learn import Learner
from pcflow.learn.counts import Counts, Layout
from pcflow.testing import circuits

V = 40
LARGE, SMALL = pf.Machine(numbers=1, cached=64), pf.Machine(numbers=1 << 40)
LEARNERS: dict[str, Learner] = {
    "em": pf.EM(1e-3),
    "smoothed em": pf.EM(0.1),
    "anemone": pf.Anemone(),
    "unsmoothed anemone": pf.Anemone(pseudocount=0.0),
    "mini-batch em": pf.MiniBatchEM(),
}
CIRCUITS: dict[str, Callable[[], pf.Circuit]] = {
    "shared": lambda: pf.hmm(4, 20, pf.Categorical(V)),
    "apart": lambda: pf.hmm(4, 20, pf.Categorical(V), homogeneous=False),
    "crossed": lambda: crossed([torch.randn(V, 3) for _ in range(2)]),
    "few in a table": lambda: pf.hmm(4, 3, pf.Categorical(V)),
}


def crossed(logits: Sequence[Tensor]) -> pf.Circuit:
    """Variables 0 and 2 read one table, 1 and 3 another: folds that share parameters in part."""
    tables = [pf.Parameter(table) for table in logits]
    inputs = [pf.InputLayer(v, pf.Categorical(V), 3, {"logits": tables[v % 2]}) for v in range(4)]
    return pf.Circuit(pf.SumLayer.random([pf.ProductLayer(inputs)]))


def compiled(circuit: pf.Circuit, machine: pf.Machine) -> pf.CompiledCircuit:
    return pf.compile(circuit, DEVICE, torch.float64, machine=machine)


def both(circuit: pf.Circuit) -> tuple[pf.CompiledCircuit, pf.CompiledCircuit]:
    return compiled(circuit, LARGE), compiled(circuit, SMALL)


def batches(seed: int, rows: int = 5, steps: int = 6) -> list[pf.Batch]:
    """Weighted rows with gaps; in every other batch the gaps have listed potentials."""
    generator = torch.Generator().manual_seed(seed)

    def batch(step: int) -> pf.Batch:
        x = torch.randint(V, (rows, 4), generator=generator)
        hidden = torch.rand(rows, 4, generator=generator) < 0.3
        weight = torch.rand(rows, generator=generator)
        log = torch.randn(rows, 4, 3, generator=generator)
        listed = (x.unsqueeze(-1) + torch.tensor([0, 1, 7])) % V
        soft = (log, listed) if step % 2 else ()
        return pf.Batch(pf.Evidence(x, hidden, *soft), weight=weight)

    return [batch(step) for step in range(steps)]


def conditional(batch: pf.Batch) -> pf.Batch:
    """The same, given the potentials of all that is not observed."""
    evidence = batch.evidence
    assert isinstance(evidence, pf.Evidence)
    listed = torch.arange(V).expand(len(batch), 4, V)[..., ::3]
    flat = pf.Evidence(evidence.values, None, torch.zeros(listed.shape), listed)
    return pf.Batch(evidence, flat, weight=batch.weight)


def learn(model: pf.CompiledCircuit, learner: Learner, some: Sequence[pf.Batch]) -> list[Tensor]:
    run = learner.start(model)
    for batch in some:
        run.step([batch])
    return values(model)


def values(model: pf.CompiledCircuit) -> list[Tensor]:
    return [p.detach().cpu().clone() for p in model.parameters()]


def assert_alike(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> None:
    for mine, its in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", CIRCUITS)
@pytest.mark.parametrize("learner", LEARNERS)
def test_by_rows_or_all_at_once_learns_the_same(name: str, learner: str) -> None:
    circuit = CIRCUITS[name]()
    large, small = (learn(model, LEARNERS[learner], batches(0)) for model in both(circuit))
    assert_alike(large, small)


@pytest.mark.parametrize("used", [True, False])
@pytest.mark.parametrize("learner", LEARNERS)
def test_so_do_hard_zeros_and_units_that_nothing_uses(learner: str, used: bool) -> None:
    models = both(CIRCUITS["shared"]())
    for model in models:
        start, move, table = sorted(model.parameters(), key=Tensor.numel)
        with torch.no_grad():
            table[:, :5, 1:] = -torch.inf
            if not used:
                start[..., 1] = move[..., 1] = -torch.inf
            before = table[..., 1].softmax(dim=1).cpu()
    large, small = (learn(model, LEARNERS[learner], batches(3, steps=3)) for model in models)
    assert_alike(large, small)
    after = max(large, key=Tensor.numel)
    assert bool((after[:, :5, 1:] == -torch.inf).all())
    assert torch.allclose(after[..., 1].softmax(dim=1), before, rtol=1e-3) is not used


@pytest.mark.parametrize("name", CIRCUITS)
def test_so_do_conditional_likelihoods(name: str) -> None:
    some = [conditional(batch) for batch in batches(6)]
    assert_alike(*(learn(model, pf.Anemone(), some) for model in both(CIRCUITS[name]())))


@given(st.integers(1, 9), st.integers(0, 9), st.integers(1, 30))
@settings(max_examples=of_fifty(30))
def test_rows_are_named_by_what_is_missing(rows: int, hidden: int, listed: int) -> None:
    """What is observed has lists that nobody reads: they do not make a batch name many."""
    missing = (torch.arange(rows * 4) < min(hidden, rows * 4)).view(rows, 4)
    categories = torch.arange(listed).expand(rows, 4, -1)
    soft = (torch.zeros(rows, 4, listed), categories)
    model = compiled(pf.hmm(4, 20, pf.Categorical(V)), LARGE)
    counts = Counts(Layout(model.engine.counting))
    counts.add(pf.Batch(pf.Evidence(torch.zeros(rows, 4).long(), missing, *soft)))
    few = 4 * rows < V and int(missing.sum()) * listed < 4 * V
    assert bool(counts.categories.named) == few


@pytest.mark.parametrize("name", CIRCUITS)
def test_so_do_many_batches_of_one_step(name: str) -> None:
    """More rows are named than half of a table has: then all are added to."""
    large, small = both(CIRCUITS[name]())
    for model in (large, small):
        pf.EM().start(model).step(batches(1, rows=3, steps=30))
    assert_alike(values(large), values(small))


@settings(max_examples=of_fifty(30))
@given(circuits(max_variables=4), st.integers(0, 999))
def test_so_does_any_circuit(circuit: pf.Circuit, seed: int) -> None:
    models = both(circuit)
    x = models[0].sample(6, generator=torch.Generator(DEVICE).manual_seed(seed)).cpu()
    rows = [pf.Batch(row.unsqueeze(0)) for row in x]
    assert_alike(*(learn(model, pf.Anemone(), rows) for model in models))


def tree(variables: int, seed: int) -> pf.Circuit:
    """One hidden tree, of which every variable has a table of its own."""
    generator = torch.Generator().manual_seed(seed)
    return pf.hclt(torch.randint(2, (30, variables), generator=generator), 3, pf.Categorical(V))


def between(circuit: pf.Circuit, strip: int) -> list[pf.Machine]:
    """Machines to which some steps of a circuit have large tables, and others small ones."""
    plan = compiled(circuit, pf.Machine(strip=strip)).engine.plan
    leaves = [step for step in plan.steps if isinstance(step, InputStep)]
    sizes = sorted({step.folds * step.units * V for step in leaves})
    return [pf.Machine(strip=strip, numbers=size) for size in sizes[:-1]]


@contextmanager
def new_memory_of_nan() -> Iterator[None]:
    """Whoever reads numbers that nobody wrote meets NaN."""
    torch.use_deterministic_algorithms(DEVICE.type == "cpu")
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("learner", LEARNERS)
@settings(max_examples=of_fifty(10))
@example(7, 12, 0, 3, 20)  # many steps
@given(st.integers(4, 9), st.integers(6, 15), st.integers(0, 999), st.integers(1, 9), st.just(3))
def test_so_do_banks_of_which_some_steps_are_large(
    learner: str, variables: int, strip: int, seed: int, rows: int, steps: int
) -> None:
    """A bank is then counted by name in part, and in part all at once."""
    circuit, generator = tree(variables, seed), torch.Generator().manual_seed(seed)
    x = torch.randint(V, (steps, rows, variables), generator=generator)
    some = [pf.Batch(batch) for batch in x]
    small = replace(SMALL, strip=strip)
    wanted = learn(compiled(circuit, small), LEARNERS[learner], some)
    for machine in between(circuit, strip):
        with new_memory_of_nan():
            found = learn(compiled(circuit, machine), LEARNERS[learner], some)
        assert_alike(found, wanted)
        for logits in (p for p in found if p.shape[1] == V):
            torch.testing.assert_close(logits.exp().sum(dim=1), torch.ones_like(logits[:, 0]))


def test_some_steps_of_a_bank_are_large() -> None:
    """Both ways meet in one bank."""
    circuit = tree(7, 0)
    model = compiled(circuit, between(circuit, 12)[0])
    counts = Counts(Layout(model.engine.counting))
    with torch.no_grad():
        counts.add(pf.Batch(torch.zeros(3, 7).long()))
    assert counts.categories.named.keys() == counts.categories.dense.found.keys() != set()


def test_so_do_rows_that_underflow() -> None:
    """One table likes even values and the other odd ones, by 800 nats, and units differ."""
    odd = (torch.arange(V).unsqueeze(-1) + torch.arange(3)) % 2
    noise = torch.randn(V, 3)
    models = both(crossed([noise - 800.0 * odd, noise - 800.0 * (1 - odd)]))
    assert_alike(*(learn(model, pf.Anemone(), batches(2)) for model in models))
    assert all(model.rows.log_space > 0 for model in models)


@pytest.mark.parametrize("name", CIRCUITS)
def test_a_batch_makes_no_table(name: str) -> None:
    """Nor sums as large as one."""
    model = compiled(CIRCUITS[name](), LARGE)
    for batch in batches(3, rows=1):
        counts = Counts(Layout(model.engine.counting))
        with torch.no_grad():
            counts.add(batch)
        kept = {kind for kind in model.memory.tables if "table" in kind}
        assert counts.categories.named and not counts.categories.dense.found and not kept


@pytest.mark.parametrize("stop", [0, 1, 4])
def test_a_run_goes_on_from_what_it_remembered(stop: int) -> None:
    """From a state, and though it went on itself since."""
    some, circuit = batches(4), CIRCUITS["apart"]()
    model = compiled(circuit, LARGE)
    run = pf.Anemone().start(model)
    for batch in some[:stop]:
        run.step([batch])
    state, start = run.state(), values(model)
    for batch in some[stop:]:
        run.step([batch])
    other = compiled(circuit, LARGE)
    with torch.no_grad():
        for p, value in zip(other.parameters(), start, strict=True):
            p.copy_(value)
    again = pf.Anemone().start(other)
    again.restore(state)
    for batch in some[stop:]:
        again.step([batch])
    for mine, its in zip(values(model), values(other), strict=True):
        assert torch.equal(mine, its)


def test_parameters_that_change_behind_its_back_are_seen() -> None:
    """Between two steps, through `.data`, which torch does not count."""
    models = both(CIRCUITS["shared"]())
    first, second = batches(5, steps=2)
    for model in models:
        seed, run = torch.Generator().manual_seed(0), pf.Anemone().start(model)
        run.step([first])
        with torch.no_grad():
            for p in model.parameters():
                p.data.add_(torch.randn(p.shape, generator=seed).to(p.device))
        run.step([second])
    assert_alike(*map(values, models))


@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize("name", CIRCUITS)
def test_soft_tables_need_no_others(name: str, listed: bool) -> None:
    """Where products read a table of their own, what is observed is read by rows."""
    circuit, generator = CIRCUITS[name](), torch.Generator().manual_seed(0)
    x = torch.randint(V, (3, 4), generator=generator)
    hidden = torch.tensor([[True, False, True, True]]).expand(3, -1)
    soft = pf.Evidence(x, hidden, torch.randn(3, 4, V, generator=generator))
    soft = soft.top_k(5) if listed else soft
    found = []
    for machine in (LARGE, SMALL):
        model = pf.compile(
            circuit, DEVICE, torch.float64, soft_dtype=torch.bfloat16, machine=machine
        )
        log_prob = model.log_prob(soft)
        drawn = model.sample(4, soft, torch.Generator(DEVICE).manual_seed(0))
        if DEVICE.type != "cpu":  # where other numbers come if fewer are asked for at once
            drawn = drawn[:0]
        if machine == LARGE:
            assert "table" not in model.memory.tables
        assert any(kind.startswith("soft") for kind in model.memory.tables)  # and lists read it
        log_prob.sum().backward()
        marginals = model.marginals(soft).exp()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        found.append([t.detach().cpu() for t in (log_prob, drawn, marginals, *gradients)])
    assert_alike(*found)
