"""The main job: does a circuit help a masked diffusion language model?

    python -m pcflow_diffusion.demo [--text FILE] [--quick]

A denoiser and a hidden Markov model of the same text are put together in every way
that `pcflow_diffusion` knows, and judged on held-out text: how many nats per masked token each way
costs in one step, and what text it writes in few steps, read by the denoiser itself. Prints both
and draws them.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pcflow_diffusion.checks import Command
from pcflow_diffusion.evaluate import setting
from pcflow_diffusion.evaluate.few_step import FACTORISED, Decoder, Ladder, Written, ladder, samples
from pcflow_diffusion.evaluate.few_step import markdown as few_step_markdown
from pcflow_diffusion.evaluate.figure import draw_demo
from pcflow_diffusion.evaluate.gap import LeftToRight, gap_table, markdown
from pcflow_diffusion.evaluate.setting import (
    Material,
    add_arguments,
    couple,
    fit_circuit,
    prepare,
)
from pcflow_diffusion.head import CircuitHead
from pcflow_diffusion.models import BLOCK, CONTEXT
from pcflow_diffusion.models.progress import interruptible, quietly, say

RATIOS = [0.15, 0.3, 0.5, 0.7, 0.85]
STEPS = [1, 2, 4, 8, 32]
BEST = "log-linear, fitted"
BLOCKS = 2  # written after every prompt
SHOWN = 24  # tokens of a prompt


@dataclass(frozen=True)
class Size:
    """How much the demo does.

    Attributes:
        states: of the HMM; None for as many as the command line says.
        rows: of the training text, to fit the circuit to.
        blocks: of training text, to fit the circuit of Eq. 7 to.
        judged: held-out rows.
        rest: how long all else takes, in multiples of the time that the circuit takes.
    """

    states: int | None
    rows: int
    blocks: int
    judged: int
    rest: float


WHOLE = Size(None, 16_000, setting.BLOCKS, 128, 7.0)
QUICK = Size(64, 4_000, 256, 32, 2.5)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line, run the experiment, print its tables, draw its picture."""
    given = _parse(arguments)
    with interruptible(), quietly(given.quiet):
        run(given, QUICK if given.quick else WHOLE)


def run(given: argparse.Namespace, size: Size) -> None:
    """The experiment."""
    torch.manual_seed(given.seed)
    generator = torch.Generator().manual_seed(given.seed)
    material = prepare(given.text, given.train, given.minutes, given.seed)

    say("A hidden Markov model of the text, by expectation maximisation.")
    begun = time.monotonic()
    circuit = fit_circuit(material, size.states or given.states, size.rows)
    minutes = size.rest * (time.monotonic() - begun) / 60
    say(f"The rest will take about {minutes:.0f} minutes on this machine.")
    say("A copy of it against the denoiser (Eq. 7), and the two numbers of log-linear.")
    heads = couple(circuit, material, generator, size.blocks)
    print(heads[BEST].coupling)
    say("Held-out text in one step.")
    masks = torch.Generator().manual_seed(given.seed)  # whatever training drew
    judged = material.judged[: size.judged]
    table = gap_table(material.denoiser, circuit, heads, judged, RATIOS, generator=masks)
    print(f"\n{markdown(table, RATIOS)}")
    say("Text in few steps.")
    found = write(material, heads[BEST], masks)
    words = known_words(material, found)
    decode = material.tokenizer.decode
    prompts = prompts_of(material)
    print(f"\nAfter `{' '.join(decode(prompts[len(prompts) // 2, -SHOWN:]).split())}`, by steps:\n")
    print(f"{samples(found, decode)}\n\n{few_step_markdown(found)}")
    print(f"\n{report(words)}")

    nats = {name: [text.nats for text in row.values()] for name, row in found.items()}
    draw_demo(given.out, table, RATIOS, nats, words, STEPS)
    say(f"Picture: {given.out}")


def prompts_of(material: Material) -> Tensor:
    """Sixteen held-out prompts, [16, CONTEXT]."""
    apart = len(material.judged) // 16
    return material.judged[: 16 * apart : apart, :CONTEXT]


def write(material: Material, head: CircuitHead, generator: torch.Generator) -> Ladder:
    """What is written after 16 held-out prompts, drawn independently and coupled."""
    return ladder(
        material.denoiser,
        {FACTORISED: Decoder(), BEST: Decoder(head)},
        prompts_of(material),
        LeftToRight(material.denoiser, material.tokenizer.mask_token_id),
        STEPS,
        gen_length=BLOCK * BLOCKS,
        generator=generator,
    )


def known_words(material: Material, found: Ladder) -> dict[str, list[float]]:
    """By decoder and steps, the share of its words that occur in the training text."""
    decode = material.tokenizer.decode
    known = set(decode(material.train[:: CONTEXT + BLOCK].flatten()).split())

    def share(written: Written) -> float:
        # the first and the last word of a row may be cut
        words = [word for row in written.tokens for word in decode(row).split()[1:-1]]
        return sum(word in known for word in words) / max(1, len(words))

    return {name: [share(text) for text in row.values()] for name, row in found.items()}


def report(words: dict[str, list[float]]) -> str:
    """The shares in Markdown."""
    lines = [f"| words known, by steps per block | {' | '.join(map(str, STEPS))} |"]
    lines.append("|---|" + "---|" * len(STEPS))
    for name, shares in words.items():
        lines.append(f"| {name} | {' | '.join(f'{share:.0%}' for share in shares)} |")
    return "\n".join(lines)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Command("pcflow_diffusion.demo", __doc__)
    add_arguments(parser)
    parser.add_argument("--quick", action="store_true", help="less of everything, other figures")
    parser.add_argument("--out", type=Path, default=Path("pcflow_demo.png"), help="(%(default)s)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
