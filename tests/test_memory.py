"""What a model keeps from query to query: no more than it may, counted to the byte, printed."""

import torch
from device import DEVICE
from hypothesis import given
from hypothesis import strategies as st

import pcflow as pf
from pcflow.engine.cache import Cache
from pcflow.engine.memory import Pool
from pcflow.testing import circuits, enumerate_log_prob, evidence

NOTHING = torch.full((2, 3), torch.nan)
WIDTH, STATES = 40, 5


def made(memory: int = 1 << 30) -> pf.CompiledCircuit:
    circuit = pf.hmm(3, STATES, pf.Categorical(WIDTH), generator=torch.Generator().manual_seed(0))
    return pf.compile(circuit, DEVICE, memory=memory).requires_grad_(False)


def ask_all(model: pf.CompiledCircuit) -> list[torch.Tensor]:
    soft = pf.Evidence(missing=NOTHING.isnan(), log_potentials=torch.zeros(2, 3, WIDTH))
    return [
        model.log_prob(NOTHING),
        model.marginals(soft),
        model.sample(3, NOTHING, torch.Generator(DEVICE).manual_seed(0)),
        model.mpe(NOTHING).values,
        model.sample(2, soft, torch.Generator(DEVICE).manual_seed(0), temperature=0.5),
    ]


@given(st.data(), circuits(max_variables=4), st.sampled_from([1, 100, 1000, 1 << 30]))
def test_no_budget_is_exceeded_and_none_changes_an_answer(
    data: st.DataObject, circuit: pf.Circuit, memory: int
) -> None:
    model, about = (
        pf.compile(circuit, DEVICE, torch.float64, memory=memory),
        data.draw(evidence(circuit)),
    )
    for _ in range(2):
        found = model.log_prob(about).cpu()
        torch.testing.assert_close(found, enumerate_log_prob(circuit, about), rtol=1e-9, atol=1e-9)
        assert sum(model.memory.tables.values()) <= memory


def test_small_budgets_change_no_number() -> None:
    wanted = ask_all(made())
    for memory in (1, 500, 2000, 10_000):
        model = made(memory)
        # rows are drawn one after the other where they do not fit, so draws may differ
        for found, right in zip(ask_all(model)[:2], wanted, strict=False):
            torch.testing.assert_close(found, right, rtol=1e-6, atol=1e-6)
        assert sum(model.memory.tables.values()) <= memory


def test_what_is_kept_is_counted_to_the_byte() -> None:
    model = made()
    ask_all(model)
    told, size = model.memory, 4 * WIDTH * STATES
    assert told.parameters == size + 4 * STATES * STATES + 4 * STATES
    assert {told.tables[kind] for kind in ("table", "log table")} == {size}
    assert told.tables["weights"] == 2 * 4 * (STATES * STATES + STATES)  # linear and logarithms
    assert "weight" not in told.tables  # the same memory, counted once
    assert told.sheets == sum(sheet.size for sheet in model.engine.pool.free) > 0
    *lines, last = str(told).splitlines()
    held = {"parameters": told.parameters, **told.tables, "sheets": told.sheets, "gradients": 0}
    assert [line.rsplit(maxsplit=2) for line in lines] == [
        [what, f"{size:,}", "bytes"] for what, size in held.items()
    ]
    kept = sum(told.tables.values())
    assert last == f"computed from parameters: {kept:,} of at most {1 << 30:,} bytes"
    model.to(torch.float64)
    assert not model.memory.tables and not model.memory.sheets


def test_the_oldest_goes_first() -> None:
    bank = torch.zeros(3)
    cache, made = Cache([bank], bank, room=100), []

    def ask(kind: str, size: int) -> None:
        def make() -> torch.Tensor:
            made.append(kind)
            return torch.zeros(size, dtype=torch.uint8)

        assert len(cache.keep(kind, None, [0], make)) == size

    for kind, size in (("a", 40), ("b", 50), ("a", 40)):
        ask(kind, size)
    assert made == ["a", "b"]
    ask("c", 30)
    assert cache.sizes == {"b": 50, "c": 30}
    ask("much", 101)
    assert cache.sizes == {"b": 50, "c": 30}  # what does not fit drives nothing out
    assert made == ["a", "b", "c", "much"]


def test_sheets_count_what_is_written_on() -> None:
    """All but the second half of scales, which are doubles."""
    model = made()
    model.log_prob(NOTHING.repeat(50, 1))
    for sheet in model.engine.pool.free:
        values = [*sheet.arenas.values(), *sheet._copies.values()]
        held = sum(value.units.nbytes + value.scale.nbytes for value in values)
        once = (sheet.lowest, sheet.factors, sheet.scales)
        assert 0.8 * held < sheet.size <= held + sum(tensor.nbytes for tensor in once)


def budgeted(memory: int) -> tuple[pf.CompiledCircuit, torch.Tensor]:
    circuit = pf.hmm(8, 4, pf.Categorical(3), generator=torch.Generator().manual_seed(0))
    return pf.compile(circuit, DEVICE, memory=memory), torch.zeros(60, 8, dtype=torch.long)


def test_a_budget_is_used() -> None:
    """Of what answers alone write on, nothing is held free for a way down that nobody goes."""
    plan = budgeted(1)[0].engine.plan.lean
    row = plan.numbers_per_row * 4
    model, x = budgeted(10 * row)
    model.log_prob(x)
    assert {sheet.batch for sheet in model.engine.pool.free} == {10}


def test_a_few_draws_make_no_table_for_many() -> None:
    model = pf.compile(pf.hmm(3, STATES, pf.Categorical(WIDTH), homogeneous=False), DEVICE)
    model.sample(1, NOTHING[:1])
    assert "cumulative" not in model.memory.tables
    model.sample(500, NOTHING[:1])
    assert "cumulative" in model.memory.tables


def test_single_rows_drive_out_no_batch() -> None:
    """Free sheets are kept: as many of batches as of single rows, each of them once."""
    model, pool = made(), Pool(2)
    like = model.banks[0].detach()
    batches, singles = ([pool.take(model.plan, n, like) for _ in range(2)] for n in (5, 1))
    for sheet in (*batches, *singles):
        pool.give(sheet)
    for _ in range(3):
        pool.give(pool.take(model.plan, 1, like))
        assert set(batches) | set(singles) == set(pool.free) and len(pool.free) == 4
