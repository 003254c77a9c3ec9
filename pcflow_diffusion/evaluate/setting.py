"""What evaluations on text run on: a text, a denoiser for it, a circuit of it, and couplings.

Legend: N rows or tokens, V tokens of the vocabulary.
"""

from __future__ import annotations

import argparse
import copy
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

import pcflow as pf
from pcflow_diffusion.errors import TextError
from pcflow_diffusion.evaluate.gap import Examples, make_examples
from pcflow_diffusion.head import CircuitHead
from pcflow_diffusion.models import (
    BLOCK,
    CONTEXT,
    CharacterTokenizer,
    Denoiser,
    DenoiserConfig,
    Tokenizer,
    blocks,
    load_denoiser,
    load_text,
    train_denoiser,
    windows,
)
from pcflow_diffusion.train import fit_conditional, sample_times

CHECKPOINT = Path(__file__).parents[1] / "models" / "checkpoints" / "pydoc.safetensors"


@dataclass(frozen=True)
class Material:
    """What the experiment works with; a row is context and block, CONTEXT + BLOCK tokens.

    Attributes:
        tokenizer: text to tokens.
        denoiser: the backbone.
        train: all rows of the training text, [N, CONTEXT + BLOCK], which may overlap.
        judged: held-out rows that figures are about.
        calibration: other held-out rows, to fit the numbers of the log-linear coupling.
    """

    tokenizer: Tokenizer
    denoiser: Denoiser
    train: Tensor
    judged: Tensor
    calibration: Tensor

    def some(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """So many training rows, drawn without repeats, or all if there are no more."""
        chosen = torch.randperm(len(self.train), generator=generator)[:count]
        return self.train[chosen].long()

    def examples(self, rows: Tensor, generator: torch.Generator) -> Examples:
        """Rows with every share of the block masked, and what the denoiser says of them."""
        times = sample_times(len(rows), generator)
        return make_examples(
            self.denoiser, rows, BLOCK, times, self.tokenizer.mask_token_id, generator
        )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command line that say what to run on."""
    parser.add_argument("--text", type=Path, help="UTF-8 text (default: Python's documentation)")
    parser.add_argument("--train", action="store_true", help="train a denoiser anew")
    parser.add_argument("--minutes", type=float, default=10.0, help="to train it (%(default)g)")
    parser.add_argument("--states", type=int, default=256, help="of the HMM (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)


def say(line: str) -> None:
    """Print what comes next."""
    print(f"\n{line}", flush=True)


def prepare(path: Path | None, train: bool, minutes: float, seed: int) -> Material:
    """Load the text, and the denoiser that was made for it or a new one.

    Raises:
        TextError: if the text is too short to be judged on.
    """
    text = load_text(path)
    least = CONTEXT + 32 * BLOCK
    if len(text.held_out) < least:
        raise TextError(f"the held-out tenth has {len(text.held_out)} characters, needs {least}")
    tokenizer: Tokenizer
    if path is None and not train:
        denoiser, tokenizer = load_denoiser(CHECKPOINT)
    else:
        say(f"A denoiser for this text, in {minutes:g} minutes.")
        tokenizer = CharacterTokenizer.fit(text.train)
        config = DenoiserConfig(tokenizer.vocabulary_size)
        tokens, held_out = tokenizer.encode(text.train), tokenizer.encode(text.held_out)
        denoiser = train_denoiser(tokens, config, held_out=held_out, minutes=minutes, seed=seed)
    held_out = blocks(tokenizer.encode(text.held_out))
    spread = torch.arange(min(256, len(held_out))) * len(held_out) // min(256, len(held_out))
    judged, calibration = held_out[spread[::2]], held_out[spread[1::2]]
    train_rows = windows(tokenizer.encode(text.train), CONTEXT + BLOCK, 1)
    return Material(tokenizer, denoiser, train_rows, judged, calibration)


def fit_circuit(material: Material, states: int, rows: int = 16_000) -> pf.CompiledCircuit:
    """A hidden Markov model of blocks of text: EM on a few of them first, then on many."""
    inputs = pf.Categorical(material.tokenizer.vocabulary_size)
    model = pf.compile(pf.hmm(BLOCK, states, inputs))
    for count, epochs in ((2_000, 12), (rows, 16)):
        blocks_only = material.some(count)[:, -BLOCK:]
        pf.fit(model, blocks_only, pf.EM(pseudocount=0.1), epochs=epochs)
    return model


def couple(
    circuit: pf.CompiledCircuit, material: Material, generator: torch.Generator
) -> dict[str, CircuitHead]:
    """Every coupling by name; all but one share the circuit that was trained on text."""
    mask = material.tokenizer.mask_token_id
    seen = material.examples(material.some(4_096, generator), generator)
    against = CircuitHead(copy.deepcopy(circuit), mask, "product")
    fit_conditional(against, seen, epochs=6, generator=generator)

    log_linear = CircuitHead(circuit, mask, "product")
    fresh = material.examples(material.calibration, generator)
    log_linear.fit_coupling(fresh.logits, fresh.x, fresh.x0)
    return {
        "product, circuit of the text": CircuitHead(circuit, mask, "product"),
        "product, circuit of Eq. 7": against,
        "ratio": CircuitHead(circuit, mask, "ratio"),
        "projection, 2 sweeps": CircuitHead(circuit, mask, "projection"),
        "log-linear, fitted": log_linear,
    }
