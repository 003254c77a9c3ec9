"""The plan: what is folded, what is stored once, what it says of itself."""

from itertools import pairwise

import pytest
import torch
from device import DEVICE
from hypothesis import given
from hypothesis import strategies as st

import pcflow as pf
from pcflow.circuit import Fixed, InputLayer, Layer, Parameter, SumLayer
from pcflow.engine import SumStep, make_plan
from pcflow.engine.rows import _Arena, assign_rows


@pytest.mark.parametrize("side", [2, 4, 8, 16])
def test_folding_makes_steps_logarithmic(side: int) -> None:
    circuit = pf.build_circuit(pf.structure.quad_tree((side, side)), pf.Bernoulli(), units=2)
    levels = side.bit_length() - 1
    # per level one step of sums and one of products; the inputs and the root
    assert len(make_plan(circuit).steps) == 2 * levels + 2
    assert len(make_plan(circuit, fold=False).steps) == len(circuit.layers)


def test_a_tree_reads_by_views_only() -> None:
    circuit = pf.build_circuit(pf.structure.quad_tree((8, 8)), pf.Categorical(3), units=4)
    for step in make_plan(circuit).steps:
        reads = getattr(step, "inputs", ())
        assert all(isinstance(read.rows, slice) for read in reads)


def test_every_parameter_is_stored_once() -> None:
    circuit = pf.hmm(50, states=4, inputs=pf.Categorical(7))
    model = pf.compile(circuit)
    stored = [p for bank in model.plan.banks for p in bank]
    assert sorted(map(id, stored)) == sorted(map(id, circuit.parameters))
    assert sum(p.numel() for p in model.parameters()) == 4 + 16 + 28
    assert model.plan.parameter_count == 4 + 16 + 28


def test_costs_by_hand() -> None:
    circuit = pf.build_circuit(pf.structure.chain(2), pf.Bernoulli(), units=3)
    plan = make_plan(circuit)
    # two 3 x 3 sums, three products of two, one sum of three; a multiply-add counts two
    assert plan.flops == 2 * 2 * 9 + 3 * 2 + 2 * 3
    # inputs 2 x 3, sums 2 x 3, products 3, root 1; the scale of every input, and with a product its
    # smallest unit and a factor
    assert plan.numbers_per_row == 6 + 6 + 3 + 1 + 2 + 2
    # lean: no more than inputs and sums at a time, and the root; the others as they were
    assert plan.lean.numbers_per_row == 6 + 6 + 1 + 2 + 2


def test_the_plan_prints_itself() -> None:
    model = pf.compile(pf.build_circuit(pf.structure.quad_graph((2, 2)), pf.Bernoulli(), units=2))
    model.log_prob(torch.zeros(7, 4))
    shown = str(model.plan)
    for what in ("input Bernoulli", "product hadamard", "mixing sum", "4 variables"):
        assert what in shown
    assert str(model.rows) == "rows: 7 seen, 0 of them in log space"
    long = str(make_plan(pf.hmm(100, 2, pf.Bernoulli())))
    assert "more steps" in long
    assert len(long.splitlines()) < 60


@pytest.mark.parametrize(("length", "told"), [(13, "37  "), (14, "... 1 more"), (15, "... 4 more")])
def test_a_printed_plan_tells_how_many_steps_it_leaves_out(length: int, told: str) -> None:
    plan = make_plan(pf.hmm(length, 2, pf.Bernoulli()), fold=False)
    _, *lines, _ = str(plan).splitlines()
    assert len(lines) == min(len(plan.steps), 41)
    assert lines[-1].strip().startswith(told)


def test_a_moved_plan_reads_where_it_was_moved() -> None:
    """Also what it makes of slices, which are nowhere."""
    circuit = pf.build_circuit(pf.structure.quad_graph((2, 2)), pf.Bernoulli(), units=2)
    moved = make_plan(circuit).to(torch.device("meta"), pf.Machine())
    sums = [step for step in moved.steps if isinstance(step, SumStep) and step.mixing]
    assert sums and all(step.rows.device.type == "meta" for step in sums)
    reads = [read for step in moved.steps for read in getattr(step, "inputs", ())]
    assert all(read.index.device.type == "meta" for read in reads)


def test_memory_is_used_again_and_does_not_pile_up() -> None:
    model = pf.compile(pf.hmm(8, states=16, inputs=pf.Categorical(5)))
    pool = model.engine.pool
    for rows in (50, 1, 7, 200, 3, 200, 50, 1) * 3:
        x = torch.randint(5, (rows, 8))
        model.log_prob(x).sum().backward()
        large = [sheet.batch for sheet in pool.free if sheet.batch > 1]
        assert len(large) == 2  # values and slopes
        assert len(pool.free) <= 4  # and those of single rows
        assert rows == 1 or set(large) == {rows}
    before = [id(sheet) for sheet in pool.free]
    model.log_prob(x).sum().backward()
    assert sorted(before) == sorted(id(sheet) for sheet in pool.free)
    held = model.log_prob(x[:1]), model.log_prob(x[:1]), model.log_prob(x[:1])
    sum(held).sum().backward()  # type: ignore[union-attr]
    assert len(pool.free) <= 4
    for rows in (50, 1):  # neither drives out the other
        model.log_prob(torch.randint(5, (rows, 8))).sum().backward()
    before = [id(sheet) for sheet in pool.free]
    for rows in (50, 1):
        model.log_prob(torch.randint(5, (rows, 8))).sum().backward()
    assert sorted(before) == sorted(id(sheet) for sheet in pool.free)


@pytest.mark.parametrize("wide", [1, 2, 3])
def test_rows_that_nobody_reads_any_more_are_taken_again(wide: int) -> None:
    bits = [pf.InputLayer.random(0, pf.Bernoulli(), units=4) for _ in range(wide)]
    strips: list[list[Layer]] = [[*bits]]
    for _ in range(6):  # each reads the one before, as a whole
        strips.append([pf.SumLayer.random(strips[-1], 4) for _ in range(wide)])
    assert assign_rows(strips, reuse=True).counts == {4: 2 * wide}
    assert assign_rows(strips, reuse=False).counts == {4: 7 * wide}


@given(st.lists(st.tuples(st.integers(1, 5), st.sets(st.integers(0, 11)))))
def test_rows_are_of_one_owner_and_an_arena_grows_by_what_it_lacks(
    turns: list[tuple[int, set[int]]],
) -> None:
    arena, owned = _Arena(), set[int]()
    for count, given_back in turns:
        free, before = set(range(arena.size)) - owned, arena.size
        gaps = [range(*ends) for ends in zip(arena.starts, arena.stops, strict=True)]
        assert [row for gap in gaps for row in gap] == sorted(free)
        assert all(a.stop < b.start for a, b in pairwise(gaps))  # no wider ones could be made
        start = arena.take(count)
        taken = set(range(start, start + count))
        assert not taken & owned
        if arena.size > before:  # no gap was wide enough: what is free at the end is used first
            places = [set(range(n, n + count)) for n in range(before - count + 1)]
            assert not any(place <= free for place in places)
            assert start == max(owned, default=-1) + 1
        owned |= taken
        back = owned & given_back
        arena.give(list(back))
        owned -= back


def test_circuits_of_one_unit_never_underflow() -> None:
    """Each of them is e^-600 or so: in float32 that is zero, its logarithm is not."""

    def coins(odds: float) -> pf.ProductLayer:
        logits = {"logits": pf.Parameter(torch.tensor([odds]))}
        return pf.ProductLayer([pf.InputLayer(v, pf.Bernoulli(), 1, logits) for v in range(20)])

    weight = pf.Parameter.from_probs([[0.25, 0.75]])
    circuit = pf.Circuit(pf.SumLayer([coins(-30.0), coins(-30.5)], weight))
    model = pf.compile(circuit, dtype=torch.float32)
    assert model.plan.of_one_unit
    ones = torch.ones(1, 20)
    wanted = pf.reference_log_prob(circuit, ones).float()
    torch.testing.assert_close(model.log_prob(ones), wanted)
    only_one = torch.tensor([-torch.inf, 0.0]).expand(1, 20, 2)
    soft = pf.Evidence(None, torch.ones(1, 20, dtype=torch.bool), only_one)
    torch.testing.assert_close(model.log_prob(soft), wanted)
    assert not pf.compile(pf.hmm(3, 2, pf.Bernoulli())).plan.of_one_unit


def test_sizes_of_a_machine_are_positive() -> None:
    for wrong in (0, -1, 1.5, "1"):
        with pytest.raises(pf.SettingError, match="strip must be a whole number"):
            pf.Machine(strip=wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("mixing", [False, True])
def test_fixed_weights_are_read_as_they_are(mixing: bool) -> None:
    """Only sums whose fixed weights are all one add up what they read, as under a rule."""
    likely = torch.tensor([[0.2, 0.5], [0.9, 0.4]], dtype=torch.float64)
    odds = [{"logits": Parameter(torch.logit(units))} for units in likely]
    inputs = [InputLayer(0, pf.Bernoulli(), 2, named) for named in odds]
    weights = [[0.3, 0.6], [0.5, 0.1]] if mixing else [[0.1, 0.2, 0.3, 0.2], [0.4, 0.1, 0.1, 0.1]]
    fixed = SumLayer(inputs, Fixed(torch.tensor(weights).log()), mixing=mixing)
    model = pf.compile(
        pf.Circuit(SumLayer([fixed], Parameter.from_probs([[0.5, 0.5]]))), DEVICE, torch.float64
    )
    units = [0.3 * 0.2 + 0.6 * 0.9, 0.5 * 0.5 + 0.1 * 0.4]
    if not mixing:
        units = [0.02 + 0.1 + 0.27 + 0.08, 0.08 + 0.05 + 0.09 + 0.04]
    assert model.log_prob([[1]]).exp().item() == pytest.approx(sum(units) / 2)
    mass = 1.5 / 2
    assert model.log_prob([[torch.nan]]).exp().item() == pytest.approx(mass)
    both = model.marginals([[torch.nan]])[0, 0].exp().tolist()
    assert both[1] == pytest.approx(sum(units) / 2 / mass)
