"""Make `english.safetensors`: a denoiser for pieces of words of the World English Bible.

    python -m pcflow_diffusion.models.checkpoints.make_english --minutes 60 --out FIRST
    python -m pcflow_diffusion.models.checkpoints.make_english --minutes 22 --start FIRST --seed 1

The second run begins with what the first one made, at a lower learning rate. Chapters that
`models.text.is_held_out` names, and every paragraph that they share with other chapters, are not in
the training text.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from pcflow_diffusion.models.denoiser import (
    Denoiser,
    DenoiserConfig,
    load_denoiser,
    save_denoiser,
)
from pcflow_diffusion.models.pieces import PieceTokenizer
from pcflow_diffusion.models.text import blocks, load_text
from pcflow_diffusion.models.training import TrainingConfig, block_loss, train_denoiser

PATH = Path(__file__).with_name("english.safetensors")
VOCABULARY, WIDTH, JUDGED = 1_024, 224, 1_024
FIRST, AGAIN = 3e-3, 2e-3  # learning rates


def make(
    path: Path = PATH,
    minutes: float | None = None,
    steps: int | None = None,
    seed: int = 0,
    start: Denoiser | None = None,
) -> Denoiser:
    """Train on the default text, write the checkpoint every few minutes, return the denoiser."""
    rate = FIRST if start is None else AGAIN
    text = load_text()
    tokenizer = PieceTokenizer.fit(text.train, VOCABULARY)

    def write(model: Denoiser) -> None:
        save_denoiser(model, path, tokenizer)

    return train_denoiser(
        tokenizer.encode(text.train),
        DenoiserConfig(tokenizer.vocabulary_size, width=WIDTH, dropout=0.0),
        held_out=tokenizer.encode(text.held_out),
        minutes=minutes,
        steps=steps,
        seed=seed,
        training=TrainingConfig(24, rate, whole_window=0.6, short_window=0.1),
        start=start,
        checkpoint=write,
    )


def report(path: Path) -> str:
    """Held-out loss of the block by mask ratio, in nats per masked token."""
    model, tokenizer = load_denoiser(path)
    rows = blocks(tokenizer.encode(load_text().held_out), JUDGED)
    shown = (
        f"{ratio:.0%} {block_loss(model, rows, ratio):.3f}" for ratio in (0.15, 0.3, 0.5, 0.7, 1.0)
    )
    return "held-out nats per masked token: " + ", ".join(shown)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line, train, and print the held-out losses."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument("--minutes", type=float, help="wall-clock budget (default 60)")
    budget.add_argument("--steps", type=int, help="number of steps instead")
    parser.add_argument("--out", type=Path, default=PATH, help="file to write (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", type=Path, help="a checkpoint to begin with")
    given = parser.parse_args(arguments)
    minutes = 60.0 if given.minutes is None and given.steps is None else given.minutes
    start = None if given.start is None else load_denoiser(given.start)[0]
    make(given.out, minutes, given.steps, given.seed, start)
    print(report(given.out))


if __name__ == "__main__":
    main()
