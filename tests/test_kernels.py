"""The products that take the time, at sizes where their special cases set in."""

import pytest
import torch
from device import DEVICE
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import pcflow as pf
from pcflow.engine import kernels
from pcflow.engine.semiring import Scaled

SMALL = pf.Machine(block=8, large=2, columns=4)  # small pieces


@pytest.fixture(autouse=True)
def two_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)  # one thread takes all the columns


def rand(*shape: int) -> Tensor:
    return torch.rand(*shape, dtype=torch.float64, device=DEVICE)


@pytest.mark.parametrize("rows", [0, 1, 3, 4, 9])
@pytest.mark.parametrize("categories", [5, 8, 16, 27])
@pytest.mark.parametrize("units", [1, 4, 8, 11, 12])
def test_tables_are_multiplied_by_pieces(rows: int, categories: int, units: int) -> None:
    wide, narrow, table = rand(rows, categories), rand(rows, units), rand(categories, units)
    torch.testing.assert_close(SMALL.rows_times_table(wide, table), wide @ table)
    torch.testing.assert_close(SMALL.rows_times_transposed(narrow, table), narrow @ table.t())
    coarse = table.bfloat16()
    found = SMALL.rows_times_table(wide, coarse)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, wide @ table, rtol=0.02, atol=0.0)
    found = SMALL.rows_times_transposed(narrow, coarse)
    torch.testing.assert_close(found, narrow @ table.t(), rtol=0.02, atol=0.0)


@pytest.mark.parametrize("folds", [1, 3])
@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("units", [1, 8, 11, 12])
def test_folds_are_multiplied_each_by_its_weights(folds: int, rows: int, units: int) -> None:
    x, weight, out = rand(folds, rows, 5), rand(folds, 5, units), rand(folds, rows, units)
    for right in (weight, rand(folds, units, 5).transpose(1, 2), weight[:1]):
        SMALL.matmul(x, right, out)
        torch.testing.assert_close(out, torch.einsum("fbj,fjk->fbk", x, right.expand_as(weight)))


def test_exponentials_over_the_whole_range() -> None:
    x = torch.tensor([-torch.inf, -745.0, -700.0, -1.0, 0.0, 1e-9, 5.0, 700.0], device=DEVICE)
    x = x.double()
    torch.testing.assert_close(kernels.exp_(x.clone()), x.exp(), rtol=1e-12, atol=5e-324)


def test_normalizers_are_log_sum_exp() -> None:
    logits = 40.0 * torch.randn(3, 7, 2, dtype=torch.float64, device=DEVICE)
    logits[0, 2:4] = -torch.inf
    total, lowest, _ = SMALL.log_normalizer(logits)
    torch.testing.assert_close(total, logits.logsumexp(dim=1, keepdim=True))
    assert lowest.item() == -torch.inf


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shift", [-1e4, -100.0, 0.0, 100.0, 1e4])
@pytest.mark.parametrize("spread", [1.0, 40.0, 1000.0])
def test_normalizers_of_any_size(spread: float, shift: float, dtype: torch.dtype) -> None:
    logits = (spread * torch.randn(3, 7, 2, device=DEVICE) + shift).to(dtype)
    total, lowest, moderate = SMALL.log_normalizer(logits)
    torch.testing.assert_close(total, logits.logsumexp(dim=1, keepdim=True))
    smallest = float(logits.log_softmax(dim=1).min())
    assert lowest.item() <= smallest + 1e-4 * abs(smallest)
    if moderate:
        assert torch.isfinite(logits.exp()).all() and (logits.exp() > 0).all()


@pytest.mark.parametrize("rows", [50, 5000])  # those that are searched, and those counted
@pytest.mark.parametrize("width", [1, 5, 64, 65, 200])
def test_the_first_sum_that_reaches_a_point(width: int, rows: int) -> None:
    sums = rand(rows, width).cumsum(-1)
    points = rand(rows, 1) * sums[:, -1:]
    wanted = (sums < points).sum(dim=-1)
    assert torch.equal(kernels.first_at_least(sums.clone(), points), wanted)
    nothing = torch.full_like(sums, torch.nan)
    assert (kernels.first_at_least(nothing, points) < width).all()


@given(st.integers(1, 6), st.integers(0, 300), st.integers(0, 2**31))
def test_rows_are_added_where_the_index_says(targets: int, count: int, seed: int) -> None:
    torch.manual_seed(seed)
    start, rows = rand(targets, 3), rand(count, 3)
    index = torch.randint(targets, (count,), device=DEVICE)
    wanted = start + torch.nn.functional.one_hot(index, targets).t().double() @ rows
    for add in (kernels.add_rows, kernels.add_sorted):
        found, across = start.clone(), start.t().clone()
        add(found, index, rows)
        add(across.t(), index, rows)
        torch.testing.assert_close(found, wanted)
        assert torch.equal(across.t(), found)


@pytest.mark.parametrize("targets", [1, 3, 1000])
def test_rows_are_added_in_the_same_order_each_time(targets: int) -> None:
    rows, index = rand(50_000, 4).float(), torch.randint(targets, (50_000,), device=DEVICE)
    sums = torch.zeros(11, targets, 4, device=DEVICE)
    for some in sums:
        kernels.add_rows(some, index, rows)
    assert (sums == sums[0]).all()


@pytest.mark.parametrize("shape", [(100_000,), (1, 100_000), (2, 50_000), (1, 0), (0, 3)])
def test_running_sums_are_the_same_each_time(shape: tuple[int, ...]) -> None:
    x = rand(*shape)
    found = [kernels.running_sums(x.float()) for _ in range(11)]
    assert all(torch.equal(found[0], other) for other in found)
    torch.testing.assert_close(kernels.running_sums(x, out=x.clone()), x.cumsum(dim=-1))


@given(st.integers(0, 10**6))
def test_units_of_several_scales_are_brought_to_the_largest(seed: int) -> None:
    torch.manual_seed(seed)
    units, scale = rand(6, 3), 5 * torch.randn(6, 3, dtype=torch.float64, device=DEVICE)
    scale[:3, 0] = -torch.inf  # an exact zero
    wanted = units.log() + scale - scale.amax(dim=-1, keepdim=True)
    torch.testing.assert_close(Scaled(SMALL).aligned(units, scale).log(), wanted)


def test_places_are_those_of_the_flags_that_are_set() -> None:
    flags = rand(7, 9) < 0.3
    assert torch.equal(kernels.places_of(flags), flags.flatten().nonzero().squeeze(-1))
    assert kernels.places_of(flags[:0]).shape == (0,)
