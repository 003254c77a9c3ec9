"""The main job: does a circuit help a masked diffusion language model?

    python -m pcflow_diffusion.demo [--text FILE]

A denoiser for characters and a hidden Markov model of the same text are put together in every way
that `pcflow_diffusion` knows, and judged on held-out text: how many nats per masked token each way
costs in one step, and what text it writes in few steps. Prints both and draws them.

Legend: N rows or tokens, V tokens of the vocabulary.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import log
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from pcflow_diffusion.decode import generate
from pcflow_diffusion.evaluate.figure import draw_demo
from pcflow_diffusion.evaluate.gap import (
    gap_table,
    make_examples,
    markdown,
    sequential_nats,
)
from pcflow_diffusion.evaluate.setting import (
    Material,
    add_arguments,
    couple,
    fit_circuit,
    prepare,
    say,
)
from pcflow_diffusion.head import CircuitHead
from pcflow_diffusion.text import BLOCK, CONTEXT

RATIOS = [0.15, 0.3, 0.5, 0.7, 0.85]
STEPS = [1, 2, 4, 8, 32]
BEST = "log-linear, fitted"
BLOCKS = 2  # written after every prompt


@dataclass(frozen=True)
class Written:
    """Text from one decoder with one number of steps.

    Attributes:
        sample: the first row, after its prompt.
        nats: per character, under the denoiser's own left-to-right joint.
        entropy: of the frequencies of characters (nats); low if the text repeats itself.
        words: the share of its words that occur in the training text.
    """

    sample: str
    nats: float
    entropy: float
    words: float


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line, run the experiment, print its tables, draw its picture."""
    given = _parse(arguments)
    torch.manual_seed(given.seed)
    generator = torch.Generator().manual_seed(given.seed)
    material = prepare(given.text, given.train, given.minutes, given.seed)

    say("A hidden Markov model of the text, by expectation maximisation.")
    circuit = fit_circuit(material, given.states)
    say("A copy of it against the denoiser (Eq. 7), and the two numbers of log-linear.")
    heads = couple(circuit, material, generator)
    print(heads[BEST].coupling)
    say("Held-out text in one step.")
    masks = torch.Generator().manual_seed(given.seed)  # whatever training drew
    table = gap_table(material.denoiser, circuit, heads, material.judged, RATIOS, generator=masks)
    print(f"\n{markdown(table, RATIOS)}")
    say("Text in few steps.")
    written = write(material, {"factorised": None, BEST: heads[BEST]}, masks)
    print(f"\n{report(written)}")

    nats = {name: [text.nats for text in texts] for name, texts in written.items()}
    words = {name: [text.words for text in texts] for name, texts in written.items()}
    draw_demo(given.out, table, RATIOS, nats, words, STEPS)
    say(f"Picture: {given.out}")


def write(
    material: Material, heads: dict[str, CircuitHead | None], generator: torch.Generator
) -> dict[str, list[Written]]:
    """By decoder, what it writes after 16 held-out prompts for every number of steps per block."""
    prompts = material.judged[: len(material.judged) // 16 * 16 : len(material.judged) // 16]
    text = material.train[:: CONTEXT + BLOCK].flatten()
    known = set(material.tokenizer.decode(text).split())
    written: dict[str, list[Written]] = {name: [] for name in heads}
    runs = [(name, head, steps) for name, head in heads.items() for steps in STEPS]
    for name, head, steps in tqdm(runs, desc="writing", unit="run"):
        tokens = generate(
            material.denoiser,
            prompts[:, :CONTEXT],
            head,
            steps=steps * BLOCKS,
            gen_length=BLOCK * BLOCKS,
            block_length=BLOCK,
            temperature=1.0,
            context=CONTEXT,
            generator=generator,
        )
        written[name].append(_judge(material, tokens, known))
    return written


def report(written: dict[str, list[Written]]) -> str:
    """The numbers and one sample of every run, in Markdown."""
    lines = ["| steps per block | decoder | nats per character | entropy | words known | sample |"]
    lines.append("|---|---|---|---|---|---|")
    for place, steps in enumerate(STEPS):
        for name, texts in written.items():
            text = texts[place]
            sample = " ".join(text.sample.split()).replace("|", "\\|")
            lines.append(
                f"| {steps} | {name} | {text.nats:.2f} | {text.entropy:.2f} | {text.words:.0%} "
                f"| `{sample}` |"
            )
    return "\n".join(lines)


def _judge(material: Material, tokens: Tensor, known: set[str]) -> Written:
    """Judge what follows the prompts in rows [N, CONTEXT + BLOCKS * BLOCK]."""
    rows = tokens.unfold(1, CONTEXT + BLOCK, BLOCK).flatten(0, 1)
    mask = material.tokenizer.mask_token_id
    hidden = make_examples(material.denoiser, rows, BLOCK, 1.0, mask)
    nats = sequential_nats(material.denoiser, hidden, left_to_right=True)
    texts = [material.tokenizer.decode(row) for row in tokens[:, CONTEXT:]]
    counts = Counter("".join(texts))
    shares = [count / counts.total() for count in counts.values()]
    # the first and the last word of a row may be cut
    words = [word for text in texts for word in text.split()[1:-1]]
    entropy = -sum(share * log(share) for share in shares)
    return Written(texts[0], nats, entropy, sum(w in known for w in words) / max(1, len(words)))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_arguments(parser)
    parser.add_argument("--out", type=Path, default=Path("pcflow_demo.png"), help="(%(default)s)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
