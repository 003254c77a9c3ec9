"""The cost table: sizes as asked, figures that follow from the seconds, and the command line."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pcflow_diffusion import Denoiser
from pcflow_diffusion.evaluate.__main__ import main as command_line
from pcflow_diffusion.evaluate.cost import (
    IN_ALL,
    AnyOrderCost,
    HeadCost,
    Setting,
    any_order_table,
    denoiser_shape,
    draw_cost,
    head_table,
    measure_any_order,
)
from pcflow_diffusion.evaluate.learning_cost import LearningCost, measure_learning
from pcflow_diffusion.evaluate.timing import Rates, interleaved

SIZES = Setting(length=4, vocabulary=1000, states=100, top_k=10)
COST = HeadCost(
    SIZES,
    {IN_ALL: 0.2, "other": 0.4},
    {IN_ALL: 100_000_000, "other": 99_000_000},
    {("product", 10): 0.01, ("product", None): 0.03},
    bandwidth=4e7,
    flops=1e8,
    listed=20.0,
)


def test_floors_by_hand() -> None:
    """A table of 100,000 numbers: 10 ms to read; 4 products with it: 8 ms to multiply."""
    assert COST.floor(None) == pytest.approx(0.01)
    assert COST.floor(10) == pytest.approx(0.0004)  # 4 x 10 rows of 100 numbers, each once
    slow = HeadCost(SIZES, COST.backbones, COST.counted, COST.draws, 4e7, flops=1e7, listed=20.0)
    assert COST.floor("auto") == pytest.approx(0.0008)
    assert slow.floor(None) == pytest.approx(0.08)
    assert slow.floor(10) == pytest.approx(0.0008)
    halves = replace(COST, setting=replace(SIZES, bfloat16=True))
    assert halves.floor(None) == pytest.approx(0.008)
    assert halves.floor(10) == pytest.approx(0.0002)


def test_draws_are_compared_with_the_quickest_backbone() -> None:
    table = head_table(COST).splitlines()
    assert table[2].startswith("| backbone, vocabulary counted: 100 M, 256 positions | 200.0 |")
    assert table[4] == "| product, top 10 | 10.0 | 5.0% | 25.0 x |"
    assert table[5] == "| product, all tokens | 30.0 | 15.0% | 3.0 x |"


def test_any_order_is_compared_with_a_draw_and_its_queries() -> None:
    assert AnyOrderCost(256, 1000, None, 1.3, 0.5, 0.5).ratio == pytest.approx(1.3)
    assert any_order_table([AnyOrderCost(8, 9, 3, 1.3, 0.5, 0.5)]).endswith("| 500 | 500 | 1.30 |")


@pytest.mark.parametrize("in_all", [True, False])
def test_backbones_have_about_as_many_parameters_as_asked(in_all: bool) -> None:
    with torch.device("meta"):
        model = Denoiser(denoiser_shape(100_000_000, 126_464, in_all))
    counted = model if in_all else model.blocks
    assert sum(p.numel() for p in counted.parameters()) == pytest.approx(1e8, rel=0.03)


def test_sides_run_by_turns_and_medians_leave_warming_up_out() -> None:
    order: list[str] = []
    sides = {name: lambda name=name: order.append(name) for name in "ab"}  # type: ignore[misc]
    found = interleaved(sides, repeats=2)
    assert order == ["a", "b"] * 4
    assert all(0 <= seconds < 1 for seconds in found.values())


@pytest.mark.parametrize("top_k", [None, 3])
def test_any_order_is_timed(top_k: int | None) -> None:
    cost = measure_any_order(4, 3, 7, top_k, repeats=1)
    assert min(cost.any_order, cost.latent, cost.queries) > 0


def test_the_floor_of_a_step_by_hand() -> None:
    """10 x 3 + 9 parameters, read and written; 6 x 2 x 4 x 9 operations."""
    cost = LearningCost(4, 3, 10, 2, 5, plain=3.0, conditional=6.0, rates=Rates(312.0, 432.0))
    assert cost.floor == pytest.approx(2.0) and cost.ratio == 2.0


def test_steps_are_timed() -> None:
    cost = measure_learning(4, 3, 50, 5, 6, repeats=1)
    assert min(cost.plain, cost.conditional, *cost.rates) > 0


@pytest.mark.parametrize("flags", [[], ["--bfloat16"]])
def test_the_command_line_ends_in_tables_and_a_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str]
) -> None:
    picture = tmp_path / "cost.png"
    sizes = {"length": 4, "vocabulary": 60, "states": 8, "top-k": 5, "seen": 8, "blocks": 3}
    options = {**sizes, "parameters": 50_000, "repeats": 1, "out": picture}
    given = (str(part) for name in options for part in (f"--{name}", options[name]))
    command_line(["cost", *flags, *given])
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("| backbone") for line in lines) == 3
    assert (
        sum(line.startswith(("| product", "| log-linear", "| projection")) for line in lines) == 9
    )
    assert sum(" blocks of 4, 60 tokens, 8 states, top 5" in line for line in lines) == 1
    assert sum(line.startswith("| 8 states") for line in lines) == 2
    assert picture.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    draw_cost(picture, COST)
    assert picture.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
