"""Make `pydoc.safetensors`: a denoiser for characters of Python's own documentation.

    python -m pcflow_diffusion.models.checkpoints.make_pydoc --minutes 25

Topics that `models.text.is_held_out` names, and every paragraph that they share with other topics,
are not in its training text.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from pcflow_diffusion.models.denoiser import Denoiser, DenoiserConfig, save_denoiser
from pcflow_diffusion.models.text import CharacterTokenizer, blocks, load_text
from pcflow_diffusion.models.training import block_loss, train_denoiser

PATH = Path(__file__).with_name("pydoc.safetensors")


def make(
    path: Path = PATH, minutes: float | None = None, steps: int | None = None, seed: int = 0
) -> Denoiser:
    """Train on the default text, write the checkpoint every few minutes, return the denoiser."""
    text = load_text()
    tokenizer = CharacterTokenizer.fit(text.train)

    def write(model: Denoiser) -> None:
        save_denoiser(model, path, tokenizer)

    return train_denoiser(
        tokenizer.encode(text.train),
        DenoiserConfig(tokenizer.vocabulary_size),
        held_out=tokenizer.encode(text.held_out),
        minutes=minutes,
        steps=steps,
        seed=seed,
        checkpoint=write,
    )


def report(model: Denoiser) -> str:
    """Held-out loss of the block by mask ratio, in nats per masked character."""
    text = load_text()
    rows = blocks(CharacterTokenizer.fit(text.train).encode(text.held_out))
    shown = (
        f"{ratio:.0%} {block_loss(model, rows, ratio):.3f}" for ratio in (0.15, 0.3, 0.5, 0.7, 1.0)
    )
    return "held-out nats per masked character: " + ", ".join(shown)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line, train, and print the held-out losses."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument("--minutes", type=float, help="wall-clock budget (default 25)")
    budget.add_argument("--steps", type=int, help="number of steps instead")
    parser.add_argument("--out", type=Path, default=PATH, help="file to write (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    minutes = 25.0 if given.minutes is None and given.steps is None else given.minutes
    print(report(make(given.out, minutes, given.steps, given.seed)))


if __name__ == "__main__":
    main()
