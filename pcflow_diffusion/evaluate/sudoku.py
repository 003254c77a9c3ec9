"""Sudoku of 4 x 4 cells: grids, rules, and puzzles that are made or read from a file.

There are only 288 grids, and the 24 ways to rename the digits make all of them from 12.

Legend: N puzzles, C cells (16, in row order), V digits. Token v is the digit v + 1, token 4 an
empty cell.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterator, Sequence
from io import StringIO
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

import pcflow as pf
from pcflow_diffusion.errors import PuzzleError, ShapeMismatch
from pcflow_diffusion.models import mask_exactly

CELLS, DIGITS, EMPTY = 16, 4, 4
HIDDEN = (8, 10, 12)  # cells that are empty in the puzzles that are made

_ROWS = [[4 * row + column for column in range(4)] for row in range(4)]
_COLUMNS = [list(column) for column in zip(*_ROWS, strict=True)]
_BOXES = [[first + step for step in (0, 1, 4, 5)] for first in (0, 2, 8, 10)]
LINES = (*_ROWS, *_COLUMNS, *_BOXES)  # sets of cells that hold every digit once


def grids() -> Tensor:
    """All grids [288, C] that obey the rules, found cell by cell.

    Examples:
        >>> grids().shape
        torch.Size([288, 16])
    """
    found = torch.full((1, CELLS), EMPTY)
    for cell in range(CELLS):
        found = found.repeat_interleave(DIGITS, dim=0)
        found[:, cell] = torch.arange(DIGITS).repeat(len(found) // DIGITS)
        found = found[(_occurrences(found) <= 1).all(dim=(1, 2))]
    return found


def is_solved(puzzles: Tensor, filled: Tensor) -> Tensor:
    """Which puzzles are solved [N]: clues are kept, and every line has every digit once.

    A puzzle may have several solutions; any of them counts.

    Args:
        puzzles: cells, some of them empty, [N, C].
        filled: cells, [N, C].

    Raises:
        ShapeMismatch: if the two are not both [N, C].

    Examples:
        >>> grid = grids()[:1]
        >>> is_solved(torch.full((1, 16), EMPTY), grid), is_solved(3 - grid, grid)
        (tensor([True]), tensor([False]))
    """
    if puzzles.shape != filled.shape or puzzles.shape[1:] != (CELLS,):
        raise ShapeMismatch(
            f"puzzles must both be [N, {CELLS}]: {tuple(puzzles.shape)}, {tuple(filled.shape)}"
        )
    kept = (puzzles == EMPTY) | (puzzles == filled)  # [N, C]
    return kept.all(dim=1) & (_occurrences(filled) == 1).all(dim=(1, 2))


def _occurrences(cells: Tensor) -> Tensor:
    """How often every line has every digit, [N, number of lines, V]."""
    is_digit = cells.unsqueeze(-1) == torch.arange(DIGITS)  # [N, C, V]
    return is_digit[:, torch.tensor(LINES)].sum(dim=2)


def rules() -> pf.CNF:
    """The rules as a formula: variable 4 c + v says that cell c has digit v.

    Examples:
        >>> pf.model_count(rules())
        288
    """
    in_cell = _variables()
    in_line = [[in_cell[cell][v] for cell in line] for line in LINES for v in range(DIGITS)]
    once = [[variable + 1 for variable in group] for group in (*in_cell, *in_line)]
    return pf.CNF(once + [[-a, -b] for group in once for a, b in combinations(group, 2)])


def rule_circuit() -> pf.Circuit:
    """The uniform distribution over all grids, as a deterministic circuit over the 16 cells.

    It runs along the cells in their order, like a hidden Markov model: larger than a circuit that
    may split them as it likes, but its layers are run in fewer steps.

    Examples:
        >>> model = pf.compile(rule_circuit())
        >>> round(model.log_prob(grids()[:1]).exp().item() * 288, 3)
        1.0
    """
    return pf.from_one_hot(pf.compile_cnf(rules(), ordered=True).circuit, _variables())


def _variables() -> list[list[int]]:
    """The variable of `rules` for every cell and digit."""
    return [[DIGITS * cell + v for v in range(DIGITS)] for cell in range(CELLS)]


class Puzzles(NamedTuple):
    """Puzzles, and for each a grid that solves it; there may be others.

    Attributes:
        cells: [N, C], some of them empty.
        solutions: [N, C].
    """

    cells: Tensor
    solutions: Tensor


def make_puzzles(
    solutions: Tensor, count: int, generator: torch.Generator | None = None
) -> Puzzles:
    """Hide 8, 10 and 12 cells of grids, drawn with replacement.

    Args:
        solutions: the grids, [number of grids, C].
        count: how many puzzles, N.
        generator: source of randomness; torch's global one by default.

    Examples:
        >>> (make_puzzles(grids(), 3).cells == EMPTY).sum(dim=1)
        tensor([ 8, 10, 12])
    """
    rows = solutions[torch.randint(len(solutions), (count,), generator=generator)]
    hidden = torch.tensor(HIDDEN)[torch.arange(count) % len(HIDDEN)]
    return Puzzles(mask_exactly(rows, hidden / CELLS, EMPTY, generator), rows)


def read_puzzles(path: str | os.PathLike[str]) -> Puzzles:
    r"""Read puzzles from a file with columns `Puzzle` and `Solution`, 16 digits each, 0 for empty.

    The format of https://github.com/dllm-reasoning/d1 (Zhao et al. 2025).

    Args:
        path: the file, CSV in UTF-8.

    Raises:
        PuzzleError: if a column is missing, a row malformed, a solution breaks a rule or does not
            fit its puzzle, or there is no puzzle; the message names the line.
        OSError: if it cannot be read.

    Examples:
        >>> import tempfile
        >>> with tempfile.NamedTemporaryFile("w", suffix=".csv") as file:
        ...     print("Puzzle,Solution", file=file)
        ...     print("0204341221434321,1234341221434321", file=file, flush=True)
        ...     read_puzzles(file.name).cells[0, :4]
        tensor([4, 1, 4, 3])
    """
    cells, solutions = [], []
    for number, puzzle, solution in _rows(Path(path)):
        if not is_solved(_tokens([puzzle]), _tokens([solution])):
            raise PuzzleError(f"{path}, line {number}: {solution} does not solve {puzzle}")
        cells.append(puzzle)
        solutions.append(solution)
    if not cells:
        raise PuzzleError(f"{path}, line 1: no puzzle follows")
    return Puzzles(_tokens(cells), _tokens(solutions))


def _rows(path: Path) -> Iterator[tuple[int, str, str]]:
    """Line number, puzzle and solution of every row."""
    text = pf.read_bytes(path).decode("utf-8-sig", errors="replace")
    reader = csv.DictReader(StringIO(text, newline=""), strict=True)
    try:
        if not {"Puzzle", "Solution"} <= set(reader.fieldnames or ()):
            raise PuzzleError(f"{path}, line 1: needs columns Puzzle and Solution")
        for row in reader:
            puzzle, solution = row["Puzzle"] or "", row["Solution"] or ""
            if not re.fullmatch("[0-4]{16}", puzzle) or not re.fullmatch("[1-4]{16}", solution):
                wrong = f"{puzzle[:20]!r} and {solution[:20]!r}"
                raise PuzzleError(
                    f"{path}, line {reader.line_num}: needs 16 digits 0 to 4 and 16 digits "
                    f"1 to 4, got {wrong}"
                )
            yield reader.line_num, puzzle, solution
    except csv.Error as error:
        raise PuzzleError(f"{path}, line {reader.line_num}: {error}") from None


def _tokens(texts: Sequence[str]) -> Tensor:
    """Cells [N, C] of digits, 0 for empty."""
    digits = torch.tensor([[int(digit) for digit in text] for text in texts])
    return torch.where(digits == 0, EMPTY, digits - 1)


def unseen(puzzles: Puzzles, train: Tensor) -> Puzzles:
    """The puzzles whose solution is not among the training grids.

    Raises:
        PuzzleError: if there is none.

    Examples:
        >>> len(unseen(make_puzzles(grids(), 3), grids()[:0]).cells)
        3
    """
    known = (puzzles.solutions.unsqueeze(1) == train).all(dim=-1).any(dim=-1)  # [N]
    if bool(known.all()):
        raise PuzzleError(f"all {len(known)} puzzles have solutions that were trained on")
    return Puzzles(puzzles.cells[~known], puzzles.solutions[~known])
