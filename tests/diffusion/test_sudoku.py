"""Sudoku: rules by hand and over all grids, solved shares against sums, hostile files."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import pcflow as pf
from pcflow_diffusion import CircuitHead, DiffusionError
from pcflow_diffusion.errors import PuzzleError, ShapeMismatch
from pcflow_diffusion.evaluate import exact_backbone, sudoku_by_steps
from pcflow_diffusion.evaluate.__main__ import main as command_line
from pcflow_diffusion.evaluate.sudoku import (
    EMPTY,
    Puzzles,
    grids,
    is_solved,
    make_puzzles,
    read_puzzles,
    rule_circuit,
    rules,
    unseen,
)
from pcflow_diffusion.evaluate.sudoku_by_steps import (
    Decoder,
    decoders,
    draw_solved,
    solved_share,
    standard_error,
)

GRIDS = grids()
BLANK = torch.full((1, 16), EMPTY)


@cache
def ruled() -> pf.CompiledCircuit:
    """The circuit of the rules, made when it is asked for: that takes two seconds."""
    return pf.compile(rule_circuit(), dtype=torch.float64)


def cells(digits: str) -> Tensor:
    return torch.tensor([[int(digit) - 1 for digit in digits.replace(" ", "")]])


def agree(puzzles: Tensor) -> Tensor:
    """Which grids keep the clues of which puzzles [N, 288]."""
    clues = puzzles.unsqueeze(1)
    return ((clues == EMPTY) | (clues == GRIDS)).all(dim=-1)


# rules


def test_there_are_288_grids_and_each_obeys_the_rules() -> None:
    assert len({tuple(grid) for grid in GRIDS.tolist()}) == 288
    square = GRIDS.view(-1, 4, 4)
    boxes = square.view(-1, 2, 2, 2, 2).transpose(2, 3).reshape(-1, 4, 4)
    for lines in (square, square.transpose(1, 2), boxes):
        assert (lines.sort(dim=-1).values == torch.arange(4)).all()
    assert is_solved(BLANK.expand(288, -1), GRIDS).all()


@pytest.mark.parametrize(
    ("digits", "wanted"),
    [
        ("1234 3412 2143 4321", True),
        ("1234 2341 3412 4123", False),  # rows and columns, but boxes 1223
        ("1234 3412 1234 3412", False),  # rows and boxes
        ("1313 2424 3131 4242", False),  # columns and boxes
        ("1234 3412 2143 4322", False),
    ],
)
def test_rules_by_hand(digits: str, wanted: bool) -> None:
    assert is_solved(BLANK, cells(digits)).item() is wanted


def test_a_solution_keeps_the_clues_and_leaves_nothing_empty() -> None:
    grid, other = cells("1234 3412 2143 4321"), cells("1234 3412 4321 2143")
    puzzle = torch.where(torch.arange(16) < 8, grid, EMPTY)
    for filled, wanted in ((grid, True), (other, True), (3 - grid, False), (puzzle, False)):
        assert is_solved(puzzle, filled).item() is wanted
    for odd in (-1, 5):  # no digit at all
        assert not is_solved(BLANK, grid.masked_fill(grid == 0, odd))


@given(st.data())
def test_solved_is_to_be_a_grid_that_keeps_the_clues(data: st.DataObject) -> None:
    grid = data.draw(st.sampled_from(GRIDS.tolist()))
    filled = torch.tensor([grid])
    for place in data.draw(st.lists(st.integers(0, 15), max_size=4)):
        filled[0, place] = data.draw(st.integers(0, 4))
    hidden = torch.tensor([data.draw(st.lists(st.booleans(), min_size=16, max_size=16))])
    puzzle = torch.tensor([grid]).masked_fill(hidden, EMPTY)
    wanted = agree(puzzle)[0] & (filled == GRIDS).all(dim=-1)
    assert bool(is_solved(puzzle, filled)) == bool(wanted.any())
    on_circuit = ruled().log_prob(filled).exp() if bool((filled < 4).all()) else torch.zeros(1)
    assert bool(on_circuit > 0) == bool((filled == GRIDS).all(dim=-1).any())


def test_shapes_that_do_not_fit_are_refused() -> None:
    for puzzles, filled in ((BLANK, GRIDS), (BLANK[:, :9], BLANK[:, :9]), (BLANK[0], BLANK[0])):
        with pytest.raises(ShapeMismatch, match=r"\[N, 16\]"):
            is_solved(puzzles, filled)


def test_the_circuit_of_the_rules_is_uniform_over_grids_and_counts_solutions() -> None:
    assert pf.model_count(rules()) == 288
    assert pf.is_deterministic(ruled().circuit)
    assert ruled().num_categories == (4,) * 16
    assert ruled().log_prob(GRIDS).tolist() == pytest.approx([-math.log(288)] * 288)
    puzzles = make_puzzles(GRIDS, 200, torch.Generator().manual_seed(0)).cells
    masked = puzzles == EMPTY
    found = ruled().log_prob(pf.Evidence(puzzles.masked_fill(masked, 0), masked)).exp() * 288
    torch.testing.assert_close(found.detach(), agree(puzzles).sum(1).double())


# puzzles


def test_puzzles_show_their_grid_with_8_10_or_12_cells_hidden() -> None:
    few, before = GRIDS[:3].clone(), GRIDS[:3].clone()
    puzzles, solutions = make_puzzles(few, 300, torch.Generator().manual_seed(1))
    hidden = puzzles == EMPTY
    assert hidden.sum(1).tolist() == [8, 10, 12] * 100
    assert torch.equal(puzzles[~hidden], solutions[~hidden])
    which = (solutions.unsqueeze(1) == few).all(dim=-1).long().argmax(dim=1)
    assert torch.equal(few[which], solutions)
    assert len(set(zip(which.tolist(), hidden.sum(1).tolist(), strict=True))) == 9
    assert hidden.double().mean(0).min() > 0.45  # no cell is spared
    assert torch.equal(few, before)
    again = make_puzzles(few, 300, torch.Generator().manual_seed(1))
    assert torch.equal(again.cells, puzzles)


def test_puzzles_with_known_solutions_are_left_out() -> None:
    puzzles = Puzzles(torch.stack([BLANK[0], GRIDS[1]]), GRIDS[:2])
    left = unseen(puzzles, GRIDS[[0, 2]])
    assert torch.equal(left.cells, GRIDS[1:2])
    assert torch.equal(left.solutions, GRIDS[1:2])
    with pytest.raises(PuzzleError, match="all 2 puzzles"):
        unseen(puzzles, GRIDS)


GOOD = "1034341221434320,1234341221434321"


def test_files_are_read(tmp_path: Path) -> None:
    path = tmp_path / "puzzles.csv"
    text = f"\ufeffPuzzle,Solution,Name\r\n{GOOD},one\r\n{'0' * 16},{GOOD[17:]},two\r\n"
    path.write_text(text, encoding="utf-8", newline="")
    found = read_puzzles(path)
    assert found.cells[0].tolist() == [0, 4, 2, 3, 2, 3, 0, 1, 1, 0, 3, 2, 3, 2, 1, 4]
    assert (found.cells[1] == EMPTY).all()
    assert torch.equal(found.solutions, cells(GOOD[17:]).repeat(2, 1))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: needs columns"),
        ("Puzzle,solution\n" + GOOD, "line 1: needs columns"),
        ("Puzzle,Solution\n", "line 1: no puzzle"),
        (f"Puzzle,Solution\n{GOOD}\n{GOOD[1:]}\n", "line 3: needs 16 digits .* got '0343"),
        (f"Puzzle,Solution\n5{GOOD[1:]}\n", "line 2: needs 16 digits"),
        (f"Puzzle,Solution\n{GOOD[:-1]}0\n", "line 2: needs 16 digits"),
        (f"Puzzle,Solution\n{GOOD[:16]}\n", "line 2: needs 16 digits"),
        (f"Puzzle,Solution\n\n{GOOD[:16]}\u0664,\n", "line 3: needs 16 digits"),
        (
            f"Puzzle,Solution\n{GOOD}\n{GOOD[:-1]}2\n",
            "line 3: 1234341221434322 does not solve 1034",
        ),
        (f"Puzzle,Solution\n2{GOOD[1:]}\n", "line 2: 1234341221434321 does not solve 2034"),
        (f'Puzzle,Solution\n"{GOOD}\n', "line 1: unexpected end"),
    ],
)
def test_bad_files_are_refused_by_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "puzzles.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(PuzzleError, match=message) as caught:
        read_puzzles(path)
    assert str(path) in str(caught.value)
    assert isinstance(caught.value, DiffusionError)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "puzzles.csv"
    path.write_bytes(b"Puzzle,Solution\n\xff\xfe\x00,1\n")
    with pytest.raises(PuzzleError, match="line 2"):
        read_puzzles(path)


# decoders


def test_one_factorised_step_solves_as_many_as_the_sum_over_solutions_says() -> None:
    backbone = exact_backbone(ruled())
    generator = torch.Generator().manual_seed(2)
    puzzles = make_puzzles(GRIDS, 40, generator).cells
    log_m = backbone(puzzles).masked_fill(
        puzzles.unsqueeze(-1) != EMPTY, 0.0
    )  # [N, C, V]; clues are certain
    each = log_m.unsqueeze(1).expand(-1, 288, -1, -1)
    chosen = each.gather(-1, GRIDS.view(1, 288, 16, 1).expand(40, -1, -1, -1)).squeeze(-1)
    wanted = (chosen.sum(-1).exp() * agree(puzzles)).sum(1)  # [N]
    assert 0.1 < wanted.mean() < 0.9
    repeats = 50
    found = solved_share(
        Decoder(backbone), puzzles.repeat(repeats, 1), steps=1, generator=generator
    )
    error = (wanted * (1 - wanted)).sum().sqrt() / (40 * math.sqrt(repeats))
    assert abs(found - wanted.mean()) < 5 * error
    assert solved_share(Decoder(backbone), puzzles, steps=16, generator=generator) == 1.0


def test_the_rules_solve_everything_in_one_step_whatever_the_denoiser_says() -> None:
    generator = torch.Generator().manual_seed(3)
    puzzles = make_puzzles(GRIDS, 30, generator).cells

    def wrong(tokens: Tensor) -> Tensor:
        return 4.0 * torch.randn(*tokens.shape, 4, generator=generator)

    judged = decoders(wrong, {"rules": pf.compile(rule_circuit())})
    assert list(judged) == [
        "factorised", "no denoiser; rules", "product; rules", "projection; rules"
    ]  # fmt: skip
    shares = {
        name: solved_share(decoder, puzzles, 1, generator=generator)
        for name, decoder in judged.items()
    }
    assert shares.pop("factorised") < 0.1
    assert set(shares.values()) == {1.0}


def test_decoders_differ_in_backbone_and_coupling() -> None:
    denoiser = exact_backbone(ruled())
    factorised, alone, product, projection = decoders(denoiser, {"rules": ruled()}).values()
    assert factorised.head is None
    assert torch.equal(alone.backbone(BLANK), torch.zeros(1, 16, 4))
    assert factorised.backbone is product.backbone is projection.backbone is denoiser
    heads = [decoder.head for decoder in (alone, product, projection)]
    potentials = []
    for head in heads:
        assert isinstance(head, CircuitHead)
        assert head.model is ruled()
        potentials.append(str(head.coupling))
    assert potentials[0] == potentials[1] == "LogLinear(a=1.0, b=0.0)"
    assert potentials[2].startswith("Projection(")


def test_zero_temperature_takes_the_most_probable_digits() -> None:
    grid = GRIDS[:1]
    likely = torch.where(torch.nn.functional.one_hot(grid, 4) == 1, 0.4, 0.2).log()
    decoder = Decoder(lambda tokens: likely.expand(len(tokens), -1, -1))
    assert solved_share(decoder, BLANK, 1, temperature=0.0) == 1.0
    blanks = BLANK.expand(200, -1)
    assert solved_share(decoder, blanks, 1, generator=torch.Generator().manual_seed(0)) < 0.5


def test_the_standard_error_of_a_share() -> None:
    assert standard_error(0.2, 400) == pytest.approx(0.02)
    assert standard_error(1.0, 400) == 0.0


# the command


def test_the_command_ends_in_a_table_and_a_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sudoku_by_steps, "STEPS", (1, 2))
    puzzles, picture = tmp_path / "puzzles.csv", tmp_path / "sudoku.png"
    rows = [f"{'0' * 16},{''.join(str(v + 1) for v in grid)}" for grid in GRIDS.tolist()]
    puzzles.write_text("\n".join(["Puzzle,Solution", *rows]), encoding="utf-8")
    options = ["--training-steps", 3, "--states", 3, 5, "--puzzles", puzzles, "--out", picture]
    command_line(["sudoku", *map(str, options)])
    out = capsys.readouterr().out
    assert "72 of 288 puzzles have held-out solutions." in out
    table = [line for line in out.splitlines() if line.startswith("| ")]
    assert table[0] == "| share solved, by steps | 1 | 2 |"
    assert len(table) == 2 + 3 * len(["HMM-3", "HMM-5", "quad graph", "rules"])
    assert "| projection; rules | 1.000 ± 0.000 | 1.000 ± 0.000 |" in table
    assert picture.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_nothing_is_trained_on_held_out_grids(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Tensor] = {}

    def denoise(rows: Tensor, *_: object, **__: object) -> object:
        seen["denoiser"] = rows
        return lambda tokens: torch.zeros(*tokens.shape, 4)

    def learn(rows: Tensor, *_: object) -> dict[str, pf.CompiledCircuit]:
        seen["circuits"] = rows
        return {}

    def make(rows: Tensor, *given: object) -> Puzzles:
        seen["puzzles"] = rows
        return make_puzzles(rows, 4)

    monkeypatch.setattr(sudoku_by_steps, "train_denoiser", denoise)
    monkeypatch.setattr(sudoku_by_steps, "learn_circuits", learn)
    monkeypatch.setattr(sudoku_by_steps, "make_puzzles", make)
    splits = []
    for seed in (0, 1):
        sudoku_by_steps.main(["--out", str(tmp_path / "a.png"), "--seed", str(seed)])
        assert torch.equal(seen["denoiser"], seen["circuits"])
        train, held_out = ({tuple(g) for g in seen[n].tolist()} for n in ("denoiser", "puzzles"))
        assert len(train) == 216
        assert len(held_out) == 72
        assert not train & held_out
        splits.append(held_out)
    assert splits[0] != splits[1]


def test_a_count_below_one_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        sudoku_by_steps.main(["--count", "0"])
    assert "argument --count: 0 is below 1" in capsys.readouterr().err


def test_pictures_have_a_line_for_every_decoder(tmp_path: Path) -> None:
    path = tmp_path / "solved.png"
    table = {
        "factorised": [0.1, 0.5],
        "product; rules": [1.0, 1.0],
        "projection; rules": [1.0, 1.0],
    }
    draw_solved(path, table, (1, 2), 10)
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
