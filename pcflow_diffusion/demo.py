"""The main job: does a circuit help a masked diffusion language model?

    python -m pcflow_diffusion.demo [--text FILE]

A denoiser for characters and a hidden Markov model of the same text are put together in every way
that `pcflow_diffusion` knows, and judged on held-out text: how many nats per masked token each way
costs in one step, and what text it writes in few steps. Prints both and draws them.

Legend: N rows or tokens, V tokens of the vocabulary.
"""

from __future__ import annotations

import argparse
import copy
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import log
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

import pcflow as pf
from pcflow_diffusion.backbones import Denoiser, DenoiserConfig, load_denoiser
from pcflow_diffusion.blocks import Blocks
from pcflow_diffusion.conditional import fit_conditional
from pcflow_diffusion.decode import generate
from pcflow_diffusion.errors import TextError
from pcflow_diffusion.evaluate import Examples, gap_table, make_examples, markdown, sequential_nats
from pcflow_diffusion.figure import draw_demo
from pcflow_diffusion.head import CircuitHead
from pcflow_diffusion.objective import sample_times
from pcflow_diffusion.text import BLOCK, CONTEXT, CharacterTokenizer, blocks, load_text, windows
from pcflow_diffusion.training import train_denoiser

CHECKPOINT = Path(__file__).parent / "checkpoints" / "pydoc.safetensors"
RATIOS = [0.15, 0.3, 0.5, 0.7, 0.85]
STEPS = [1, 2, 4, 8, 32]
BLOCKS = 2  # written after every prompt


@dataclass(frozen=True)
class Material:
    """What the experiment works with.

    Attributes:
        tokenizer: characters to tokens.
        denoiser: the backbone.
        train: training text, [N].
        judged: rows of held-out context and block, [N, CONTEXT + BLOCK], that figures are about.
        calibration: other such rows, to fit the two numbers of the log-linear coupling.
    """

    tokenizer: CharacterTokenizer
    denoiser: Denoiser
    train: Tensor
    judged: Tensor
    calibration: Tensor

    def examples(self, rows: Tensor, generator: torch.Generator) -> Examples:
        """Rows with every share of the block masked, and what the denoiser says of them."""
        times = sample_times(len(rows), generator)
        return make_examples(
            self.denoiser, rows, BLOCK, times, self.tokenizer.mask_token_id, generator
        )


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

    _say("A hidden Markov model of the text, by expectation maximisation.")
    circuit = fit_circuit(material, given.states)
    _say("A copy of it against the denoiser (Eq. 7), and the two numbers of log-linear.")
    heads = couple(circuit, material, generator)
    _say("Held-out text in one step.")
    masks = torch.Generator().manual_seed(given.seed)  # whatever training drew
    table = gap_table(material.denoiser, circuit, heads, material.judged, RATIOS, generator=masks)
    print(f"\n{markdown(table, RATIOS)}")
    _say("Text in few steps.")
    best = next(name for name in heads if name.startswith("log-linear"))
    written = write(material, {"factorised": None, best: heads[best]}, masks)
    print(f"\n{report(written)}")

    nats = {name: [text.nats for text in texts] for name, texts in written.items()}
    words = {name: [text.words for text in texts] for name, texts in written.items()}
    draw_demo(given.out, table, RATIOS, nats, words, STEPS)
    _say(f"Picture: {given.out}")


def prepare(path: Path | None, train: bool, minutes: float, seed: int) -> Material:
    """Load the text, and the denoiser that was made for it or a new one.

    Raises:
        TextError: if the text is too short to be judged on.
    """
    text = load_text(path)
    least = CONTEXT + 32 * BLOCK
    if len(text.held_out) < least:
        raise TextError(f"the held-out tenth has {len(text.held_out)} characters, needs {least}")
    if path is None and not train:
        denoiser, vocabulary = load_denoiser(CHECKPOINT)
        tokenizer = CharacterTokenizer("".join(vocabulary))
    else:
        _say(f"A denoiser for this text, in {minutes:g} minutes.")
        tokenizer = CharacterTokenizer.fit(text.train)
        config = DenoiserConfig(tokenizer.vocabulary_size)
        tokens, held_out = tokenizer.encode(text.train), tokenizer.encode(text.held_out)
        denoiser = train_denoiser(tokens, config, held_out=held_out, minutes=minutes, seed=seed)
    held_out = blocks(tokenizer.encode(text.held_out))
    spread = torch.arange(min(256, len(held_out))) * len(held_out) // min(256, len(held_out))
    judged, calibration = held_out[spread[::2]], held_out[spread[1::2]]
    return Material(tokenizer, denoiser, tokenizer.encode(text.train), judged, calibration)


def fit_circuit(material: Material, states: int) -> pf.CompiledCircuit:
    """A hidden Markov model of blocks of text: EM on a few of them first, then on many."""
    inputs = pf.Categorical(material.tokenizer.vocabulary_size)
    model = pf.compile(pf.hmm(BLOCK, states, inputs))
    every = windows(material.train, BLOCK, 1)
    for count, epochs in ((2_000, 12), (16_000, 16)):
        rows = every[torch.randperm(len(every))[:count]]
        pf.fit(model, rows, pf.EM(pseudocount=0.1), epochs=epochs)
    return model


def couple(
    circuit: pf.CompiledCircuit, material: Material, generator: torch.Generator
) -> dict[str, CircuitHead]:
    """Every coupling by name; all but one share the circuit that was trained on text."""
    mask = material.tokenizer.mask_token_id
    every = windows(material.train, CONTEXT + BLOCK, 1)
    rows = every[torch.randint(len(every), (4_096,), generator=generator)]
    seen = material.examples(rows, generator)
    against = CircuitHead(copy.deepcopy(circuit), mask, "product")
    fit_conditional(against, Blocks(seen.logits, seen.x, seen.x0), epochs=6, generator=generator)

    log_linear = CircuitHead(circuit, mask, "product")
    fresh = material.examples(material.calibration, generator)
    powers = log_linear.fit_coupling(fresh.logits, fresh.x, fresh.x0)
    return {
        "product, circuit of the text": CircuitHead(circuit, mask, "product"),
        "product, circuit of Eq. 7": against,
        "ratio": CircuitHead(circuit, mask, "ratio"),
        "projection, 2 sweeps": CircuitHead(circuit, mask, "projection"),
        f"log-linear ({powers.a:.2f}, {powers.b:.2f})": log_linear,
    }


def write(
    material: Material, heads: dict[str, CircuitHead | None], generator: torch.Generator
) -> dict[str, list[Written]]:
    """By decoder, what it writes after 16 held-out prompts for every number of steps per block."""
    prompts = material.judged[: len(material.judged) // 16 * 16 : len(material.judged) // 16]
    known = set(material.tokenizer.decode(material.train).split())
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
    parser.add_argument("--text", type=Path, help="UTF-8 text (default: Python's documentation)")
    parser.add_argument("--train", action="store_true", help="train a denoiser anew")
    parser.add_argument("--minutes", type=float, default=10.0, help="to train it (%(default)g)")
    parser.add_argument("--states", type=int, default=256, help="of the HMM (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("pcflow_demo.png"), help="(%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(arguments)


def _say(line: str) -> None:
    print(f"\n{line}", flush=True)


if __name__ == "__main__":
    main()
