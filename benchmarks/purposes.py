"""Couplings for likelihood and for drawing, on text that the denoiser was trained on, or not.

    python benchmarks/purposes.py [--text FILE] [--rankings random low_confidence]

The shipped denoiser knows the text that comes with it; of another one, such as plays, it is too
sure. A hidden Markov model of the text couples it. Couplings are chosen on some held-out blocks;
prompts from others are continued in few steps per block, and a model of counts reads what was
written, with the entropy of its tokens beside it. Prints Markdown.

Legend: N rows, T tokens of a text, V tokens of the vocabulary, K tokens that are read together.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from toy import arguments, size

from pcflow_diffusion import CircuitHead, Decoding, load_denoiser
from pcflow_diffusion.evaluate.counting import CountingReader
from pcflow_diffusion.evaluate.few_step import FACTORISED, Decoder, judge_rows, ladder, markdown
from pcflow_diffusion.evaluate.setting import CHECKPOINT, Material, fit_circuit
from pcflow_diffusion.head import Ranking
from pcflow_diffusion.models import BLOCK, CONTEXT, blocks, load_text, windows
from pcflow_diffusion.models.progress import say

STATES = size(128, 4)
TRAINED = size(6_000, 50)  # blocks for the circuit
JUDGED = size(128, 2)
STEPS = size((1, 2, 4, 8), (1, 2))
RANKINGS: tuple[Ranking, ...] = ("random", "low_confidence")


def main() -> None:
    """Choose couplings, write, and print tables."""
    given = _parse()
    material, text = material_of(given.text)
    torch.manual_seed(given.seed)
    circuit = fit_circuit(material, given.states, TRAINED)
    generator = torch.Generator().manual_seed(given.seed)
    fresh = material.examples(material.calibration, generator)
    mask = material.tokenizer.mask_token_id
    heads = {name: CircuitHead(circuit, mask, name) for name in ("product", "ratio", "projection")}
    likelihood, drawing = CircuitHead(circuit, mask), CircuitHead(circuit, mask)
    likelihood.choose_coupling(fresh.logits, fresh.x, fresh.x0)
    drawing.choose_coupling(fresh.logits, fresh.x, fresh.x0, for_="drawing")
    heads |= {"chosen for likelihood": likelihood, "chosen for drawing": drawing}
    for name, head in heads.items():
        print(f"{name}: {head.coupling}", flush=True)
    judge = CountingReader(text, material.tokenizer.vocabulary_size)
    for ranking in given.rankings:
        say(f"{len(material.judged)} prompts, ranking {ranking}, temperature 1\n")
        few_steps(material, heads, judge, ranking, given.steps, generator)


def material_of(path: Path | None) -> tuple[Material, Tensor]:
    """A text as the shipped denoiser reads it, and all of its training part [T]."""
    denoiser, tokenizer = load_denoiser(CHECKPOINT)
    text = load_text(path)
    train, held_out = tokenizer.encode(text.train), blocks(tokenizer.encode(text.held_out))
    judged, calibration = held_out[::2][:JUDGED], held_out[1::2][: 2 * JUDGED]
    rows = windows(train, CONTEXT + BLOCK, 1)
    return Material(tokenizer, denoiser, rows, judged, calibration), train


def few_steps(
    material: Material,
    heads: dict[str, CircuitHead],
    judge: CountingReader,
    ranking: Ranking,
    steps: Sequence[int],
    generator: torch.Generator,
) -> None:
    """Print what decoders write in few steps per block."""
    decoders = {FACTORISED: Decoder()} | {name: Decoder(head) for name, head in heads.items()}
    rows = material.judged.long()
    found = ladder(
        material.denoiser,
        decoders,
        rows[:, :CONTEXT],
        judge,
        steps,
        decoding=Decoding(temperature=1.0, ranking=ranking),
        generator=generator,
        progress=False,
    )
    print(markdown(found, judge_rows(judge, rows, CONTEXT, BLOCK)), flush=True)


def _parse() -> argparse.Namespace:
    parser = arguments(__doc__)
    parser.add_argument("--text", type=Path, help="UTF-8 text (default: the shipped one)")
    parser.add_argument("--states", type=int, default=STATES, help="of the HMM (%(default)s)")
    parser.add_argument("--rankings", nargs="+", choices=RANKINGS, default=RANKINGS)
    parser.add_argument("--steps", type=int, nargs="+", default=STEPS, help="per block")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
