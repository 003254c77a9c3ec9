"""A denoiser of English by 8,192 subwords: all of a text but the tenth that evaluations hold out.

    python benchmarks/english.py --text english.txt --out FOLDER [--minutes 40]

Writes FOLDER/denoiser.safetensors, FOLDER/tokenizer.json and FOLDER/train.txt, what it learned
from, of which a circuit is made next. A run that was stopped goes on when it is started again; what
took its minutes goes on with more of them, from a copy of FOLDER without denoiser.safetensors.
`benchmarks/prose.py` makes such a text; docs/results.md has all commands.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor
from toy import TOY, arguments, size

import pcflow as pf
from pcflow_diffusion import Denoiser, DenoiserConfig, load_denoiser, save_denoiser
from pcflow_diffusion.models import TrainingConfig, blocks, load_text, train_denoiser
from pcflow_diffusion.models.subwords import SubwordTokenizer
from pcflow_diffusion.models.training import block_loss

VOCABULARY = size(8_192, 300)
WIDTH, DEPTH = size((192, 4), (16, 1))
HOW = TrainingConfig(whole_window=0.6, short_window=0.1)  # as the shipped denoiser
JUDGED = size(512, 2)
RATIOS = (0.15, 0.5, 1.0)


def main() -> None:
    """Train what is not trained, and say what it knows of the held-out text."""
    given = _parse()
    given.out.mkdir(parents=True, exist_ok=True)
    text = load_text(given.text)
    if not (learned := given.out / "train.txt").exists():
        pf.replace_file(learned, [text.train.encode()])
    tokenizer = tokenizer_of(text.train, given.out / "tokenizer.json")
    path = given.out / "denoiser.safetensors"
    if not path.exists():
        train(text.train, tokenizer, path, given.minutes)
    denoiser = load_denoiser(path)[0]  # rounded, as evaluations have it
    rows = blocks(tokenizer.encode(text.held_out), JUDGED)
    nats = (f"{ratio:.0%} {block_loss(denoiser, rows, ratio):.3f}" for ratio in RATIOS)
    print(f"{tokenizer.vocabulary_size} tokens, {_size(denoiser):.1f} M parameters;", end=" ")
    print(f"held-out nats per masked token: {', '.join(nats)}")


def tokenizer_of(text: str, path: Path) -> SubwordTokenizer:
    """The subwords in the folder, or those of the text, which are kept there."""
    if not path.exists():
        made = SubwordTokenizer.fit(text.split("\n\n"), VOCABULARY)
        pf.replace_file(path, [made.definition().encode()])
    return SubwordTokenizer.from_definition(path.read_text(encoding="utf-8"))


def train(text: str, tokenizer: SubwordTokenizer, path: Path, minutes: float) -> None:
    """Write the denoiser, when all minutes are spent."""
    tokens = tokenizer.encode(text)
    config = DenoiserConfig(tokenizer.vocabulary_size, width=WIDTH, depth=DEPTH, dropout=0.0)
    print(f"{len(tokens):,} tokens to learn from", flush=True)
    denoiser = train_denoiser(
        tokens,
        config,
        minutes=minutes,
        training=HOW,
        start=beginning(config, tokens),
        unfinished=path.with_name("training"),
    )
    save_denoiser(denoiser, path, tokenizer)


def beginning(config: DenoiserConfig, tokens: Tensor) -> Denoiser:
    """New weights that know how often tokens occur, which would take hundreds of steps to learn."""
    torch.manual_seed(0)
    denoiser = Denoiser(config)
    counts = torch.bincount(tokens, minlength=config.vocabulary_size)
    denoiser.head.bias.data = ((counts + 1) / len(tokens)).log()
    return denoiser


def _size(denoiser: Denoiser) -> float:
    """Millions of parameters."""
    return sum(weight.numel() for weight in denoiser.parameters()) / 1e6


def _parse() -> argparse.Namespace:
    parser = arguments(__doc__)
    parser.add_argument("--text", type=Path, required=not TOY, help="UTF-8")
    parser.add_argument("--out", type=Path, default=Path(size("english", "english_toy")))
    parser.add_argument("--minutes", type=float, default=size(40.0, 0.02), help="(%(default)g)")
    given = parser.parse_args()
    if TOY:
        given.text = Path("english.txt")
        words = (f"word {number} of {number % 7} words, as it goes." for number in range(2_000))
        given.text.write_text("\n\n".join(words), encoding="utf-8")
    return given


if __name__ == "__main__":
    main()
