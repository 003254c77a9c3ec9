"""The gap that every coupling closes on a text: a table per seed, their mean, and a picture.

    python -m pcflow_diffusion.evaluate gap [--text FILE] [--seeds 3]
    python -m pcflow_diffusion.evaluate gap --text FILE --denoiser FILE [--head FILE]
    python -m pcflow_diffusion.evaluate gap --model FOLDER [--head FILE]

One denoiser, or a masked language model of `transformers`; every seed has masks, a circuit (unless
it is that of a saved head) and training draws of its own.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from pcflow_diffusion.checks import Command
from pcflow_diffusion.evaluate.figure import draw_gap
from pcflow_diffusion.evaluate.gap import RATIOS, Table, gap_table, markdown, mean_and_spread
from pcflow_diffusion.evaluate.setting import (
    add_arguments,
    asked,
    circuit_and_heads,
)
from pcflow_diffusion.models.progress import say


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line, run every seed, print the table, draw the picture."""
    given = _parse(arguments)
    material, saved = asked(given)
    runs: list[Table] = []
    for seed in range(given.seed, given.seed + given.seeds):
        say(f"Seed {seed}: a circuit of the text, and couplings.")
        torch.manual_seed(seed)
        draws = torch.Generator().manual_seed(seed)
        circuit, heads = circuit_and_heads(saved, material, given.states, draws)
        masks = torch.Generator().manual_seed(seed)
        judged = material.judged
        runs.append(gap_table(material.denoiser, circuit, heads, judged, RATIOS, generator=masks))
    table, spread = mean_and_spread(runs)
    print(f"\n{markdown(table, RATIOS, spread)}")
    draw_gap(given.out, table, RATIOS, spread)
    say(f"Picture: {given.out}")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Command("pcflow_diffusion.evaluate gap", __doc__)
    add_arguments(parser)
    parser.add_argument("--out", type=Path, default=Path("pcflow_gap.png"), help="(%(default)s)")
    return parser.parse_args(arguments)
