"""Solved sudoku, a strongly coupled task, by decoder and number of steps: a table and a picture.

    python -m pcflow_diffusion.evaluate sudoku [--puzzles FILE]

A denoiser fills the empty cells, several in a step; drawn independently, digits of one step may
contradict each other. Circuits over the 16 cells couple them: hidden Markov models in row order and
a quad graph, whose patches are the boxes, all learned from grids; and the rules themselves,
compiled: knowledge in place of data, which cannot fail. Every circuit is also shown alone.

A quarter of the 288 grids is held out, from denoiser and circuits alike, and puzzles are made from
those, or read from a file; there, puzzles whose solution was trained on are left out. But renamed
copies of nearly every held-out grid were trained on, so the figures compare decoders, and do not
tell how well a network learns rules. Standard errors are over puzzles as if these were independent
(many share a grid), and not over splits and trainings: vary `--seed` for that.

Legend: C cells, V digits; see `sudoku`.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor

import pcflow as pf
from pcflow_diffusion.checks import Command, as_count, as_not_negative, as_seed
from pcflow_diffusion.decode import Decoding, infill
from pcflow_diffusion.evaluate.figure import save_figure
from pcflow_diffusion.evaluate.sudoku import (
    CELLS,
    DIGITS,
    EMPTY,
    grids,
    is_solved,
    make_puzzles,
    read_puzzles,
    rule_circuit,
    unseen,
)
from pcflow_diffusion.head import CircuitHead
from pcflow_diffusion.models import Backbone, DenoiserConfig, TrainingConfig, train_denoiser
from pcflow_diffusion.models.progress import bar

FACTORISED = "factorised"
STEPS = (1, 2, 4, 8, 12)

Table = Mapping[str, Sequence[float]]


def learn_circuits(
    train: Tensor, states: Sequence[int], generator: torch.Generator | None = None
) -> dict[str, pf.CompiledCircuit]:
    """Circuits of grids by name: learned ones, by expectation maximisation, and the rules.

    Args:
        train: the training grids, [number of grids, C].
        states: of the hidden Markov models, one for each number.
        generator: source of randomness; torch's global one by default.
    """
    digit = pf.Categorical(DIGITS)
    blank = {f"HMM-{n}": pf.hmm(CELLS, n, digit, False, generator) for n in states}
    quarters = pf.structure.quad_graph((4, 4))
    blank["quad graph"] = pf.build_circuit(quarters, digit, 8, "tucker", generator)
    found = {name: pf.compile(circuit) for name, circuit in blank.items()}
    for model in found.values():
        how = pf.EM(pseudocount=1e-3)
        pf.fit(model, train, how, epochs=150, progress=False, generator=generator)
    return found | {"rules": pf.compile(rule_circuit())}


class Decoder(NamedTuple):
    """Who fills in cells.

    Attributes:
        backbone: tokens to logits.
        head: couples its draws; None draws independently.
    """

    backbone: Backbone
    head: CircuitHead | None = None


def decoders(denoiser: Backbone, circuits: Mapping[str, pf.CompiledCircuit]) -> dict[str, Decoder]:
    """The denoiser, and every circuit alone and coupled with it, named "coupling; circuit"."""
    found = {FACTORISED: Decoder(denoiser)}
    for name, model in circuits.items():
        product = CircuitHead(model, EMPTY, "product")
        found[f"no denoiser; {name}"] = Decoder(_knows_nothing, product)
        found[f"product; {name}"] = Decoder(denoiser, product)
        found[f"projection; {name}"] = Decoder(denoiser, CircuitHead(model, EMPTY, "projection"))
    return found


def _knows_nothing(tokens: Tensor) -> Tensor:
    return torch.zeros(*tokens.shape, DIGITS)


def solved_share(
    decoder: Decoder,
    puzzles: Tensor,
    steps: int,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
) -> float:
    """The share of puzzles that a decoder solves in so many steps, the surest cells first.

    Args:
        decoder: who fills in cells.
        puzzles: cells, some of them empty, [N, C].
        steps: backbone calls at most.
        temperature: of the digits; zero takes the most probable ones.
        generator: source of randomness; torch's global one by default.

    Examples:
        >>> rules_alone = decoders(_knows_nothing, {"rules": pf.compile(rule_circuit())})
        >>> solved_share(rules_alone["product; rules"], make_puzzles(grids(), 5).cells, steps=1)
        1.0
    """
    filled = infill(
        decoder.backbone,
        puzzles,
        decoder.head,
        steps=steps,
        mask_token_id=EMPTY,
        decoding=Decoding(temperature),
        generator=generator,
    )
    return float(is_solved(puzzles, filled).double().mean())


def standard_error(share: float, count: int) -> float:
    """Of a share of `count` independent puzzles.

    Examples:
        >>> standard_error(0.5, 100)
        0.05
    """
    return math.sqrt(share * (1 - share) / count)


def markdown(table: Table, steps: Sequence[int], count: int) -> str:
    """Shares of `count` puzzles by decoder and number of steps, with standard errors.

    Examples:
        >>> print(markdown({"factorised": [0.5]}, [4], 100))
        | share solved, by steps | 4 |
        |---|---|
        | factorised | 0.500 ± 0.050 |
    """
    lines = [f"| share solved, by steps | {' | '.join(map(str, steps))} |"]
    lines.append("|---|" + "---|" * len(steps))
    for name, shares in table.items():
        cells = (f"{share:.3f} ± {standard_error(share, count):.3f}" for share in shares)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw_solved(
    path: str | os.PathLike[str], table: Table, steps: Sequence[int], count: int
) -> None:
    """Draw shares by number of steps; an old file is replaced when the PNG is done.

    Args:
        path: where to.
        table: by decoder, named as by `decoders`, the share solved at every number of steps.
        steps: these numbers.
        count: how many puzzles, for the error bars.

    Raises:
        OSError: if the file cannot be written.
    """
    figure = Figure(figsize=(9.0, 5.0), layout="constrained")
    axes = figure.subplots()
    lines = {"no denoiser": ":", "projection": "--"}
    circuits = list(dict.fromkeys(name.partition("; ")[2] for name in table))
    for name, shares in table.items():
        coupling, _, circuit = name.partition("; ")
        colour = f"C{circuits.index(circuit) - 1}" if circuit else "black"
        errors = [standard_error(share, count) for share in shares]
        line = lines.get(coupling, "-")
        axes.errorbar(steps, shares, errors, label=name, marker=".", color=colour, linestyle=line)
    axes.set_title("Sudoku of 4 x 4 cells")
    axes.set_xscale("log", base=2)
    axes.set_xticks(steps, [str(number) for number in steps])
    axes.set_xlabel("steps")
    axes.set_ylabel("share of puzzles that is solved")
    figure.legend(loc="outside right upper", fontsize="small", handlelength=4)
    save_figure(figure, path)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line, train, solve, print the table, draw the picture."""
    given = _parse(arguments)
    generator = torch.Generator().manual_seed(given.seed)
    every = grids()[torch.randperm(288, generator=generator)]
    held_out, train = every[:72], every[72:]
    puzzles = make_puzzles(held_out, given.count, generator)
    if given.puzzles is not None:
        read = read_puzzles(given.puzzles)
        puzzles = unseen(read, train)
        print(f"{len(puzzles.cells)} of {len(read.cells)} puzzles have held-out solutions.")
    denoiser = train_denoiser(
        train,
        DenoiserConfig(DIGITS, width=64, depth=3),
        steps=given.training_steps,
        seed=given.seed,
        training=TrainingConfig(batch_size=64, context=0, block=CELLS),
    )
    judged = decoders(denoiser, learn_circuits(train, given.states, generator))
    table: dict[str, list[float]] = {name: [] for name in judged}
    with bar(total=len(judged) * len(STEPS), unit="cell") as told:
        for name, decoder in judged.items():
            for steps in STEPS:
                share = solved_share(decoder, puzzles.cells, steps, given.temperature, generator)
                table[name].append(share)
                told.update()
    print(f"\n{markdown(table, STEPS, len(puzzles.cells))}")
    draw_solved(given.out, table, STEPS, len(puzzles.cells))
    print(f"\nPicture: {given.out}")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Command("pcflow_diffusion.evaluate sudoku", __doc__)
    parser.add_argument("--puzzles", type=Path, help="CSV with columns Puzzle and Solution")
    parser.add_argument("--count", type=as_count, default=500, help="puzzles to make (%(default)s)")
    parser.add_argument(
        "--training-steps", type=as_count, default=1500, help="of the denoiser (%(default)s)"
    )
    parser.add_argument(
        "--states", type=as_count, nargs="+", default=[64, 256], help="of the HMMs (64 256)"
    )
    parser.add_argument("--temperature", type=as_not_negative, default=1.0, help="(%(default)g)")
    parser.add_argument("--out", type=Path, default=Path("pcflow_sudoku.png"), help="(%(default)s)")
    parser.add_argument("--seed", type=as_seed, default=0)
    return parser.parse_args(arguments)
