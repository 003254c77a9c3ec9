"""What evaluations on text run on: a text, a denoiser for it, a circuit of it, and couplings.

The denoiser is the shipped one, that of a file, one that is trained for the text, or a masked
language model of `transformers`; the circuit is learned from the text, or that of a saved head.

Legend: N rows or tokens, L positions of a block, V tokens of the vocabulary.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeAlias, TypeVar

import torch
from torch import Tensor

import pcflow as pf
from pcflow_diffusion.checks import as_count, as_not_negative, as_seed, as_whole
from pcflow_diffusion.errors import (
    CheckpointError,
    CouplingError,
    ShapeMismatch,
    TextError,
    TokenizerMismatch,
)
from pcflow_diffusion.evaluate.gap import Examples, make_examples
from pcflow_diffusion.head import CircuitHead, fingerprint
from pcflow_diffusion.models import (
    BLOCK,
    CONTEXT,
    Backbone,
    CharacterTokenizer,
    DenoiserConfig,
    Text,
    Tokenizer,
    blocks,
    load_denoiser,
    load_pretrained,
    load_text,
    mask_exactly,
    sample_times,
    train_denoiser,
    windows,
)
from pcflow_diffusion.models.progress import say, shown
from pcflow_diffusion.train import Blocks, StoredLogits, fit_conditional, store_logits

CHECKPOINT = Path(__file__).parents[1] / "models" / "checkpoints" / "english.safetensors"
HELD = 1 << 27  # logits that are held at once; of larger vocabularies training has these alone:
LISTED = 256
BLOCKS = 4_096
"""Of training text, to fit a circuit to what the denoiser says."""
SAVED = "as it was saved"

Read = TypeVar("Read")
Model: TypeAlias = tuple[Backbone, Tokenizer]
"""What is coupled, and what makes tokens of text for it."""


@dataclass(frozen=True)
class Material:
    """What the experiment works with; a row is context and block, CONTEXT + L tokens.

    Attributes:
        tokenizer: text to tokens.
        denoiser: the backbone.
        train: all rows of the training text, [N, CONTEXT + L], which may overlap.
        judged: held-out rows that figures are about.
        calibration: other held-out rows, to fit the numbers of the log-linear coupling.
        block: how many tokens a block has, L.
    """

    tokenizer: Tokenizer
    denoiser: Backbone
    train: Tensor
    judged: Tensor
    calibration: Tensor
    block: int = BLOCK

    def some(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """So many training rows, drawn without repeats, or all if there are no more."""
        chosen = torch.randperm(len(self.train), generator=generator)[:count]
        return self.train[chosen].long()

    def examples(self, rows: Tensor, generator: torch.Generator) -> Examples:
        """Rows with every share of the block masked, and what the denoiser says of them."""
        times = sample_times(len(rows), generator)
        return make_examples(
            self.denoiser, rows, self.block, times, self.tokenizer.mask_token_id, generator
        )

    def stored(self, rows: Tensor, generator: torch.Generator, folder: str) -> StoredLogits:
        """The same in a folder, with the likeliest tokens alone."""
        times, mask = sample_times(len(rows), generator), self.tokenizer.mask_token_id
        x = mask_exactly(rows[:, -self.block :], times, mask, generator)
        return store_logits(self.denoiser, folder, rows, x, top_k=LISTED)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command line that say what to run on."""
    parser.add_argument("--text", type=Path, help="UTF-8 text (default: the shipped one)")
    parser.add_argument(
        "--minutes", type=as_not_negative, default=10.0, help="to train it (%(default)g)"
    )
    parser.add_argument("--states", type=as_count, default=256, help="of the HMM (%(default)s)")
    parser.add_argument("--seed", type=as_seed, default=0, help="the first (%(default)s)")
    parser.add_argument("--seeds", type=as_count, default=1, help="how many (%(default)s)")
    _add_models(parser)


def _add_models(parser: argparse.ArgumentParser) -> None:
    """The options that say which model is taken, and which circuit."""
    models = parser.add_mutually_exclusive_group()
    models.add_argument("--train", action="store_true", help="train a denoiser anew")
    models.add_argument("--denoiser", type=_given_denoiser, help="a file of save_denoiser")
    models.add_argument("--model", help="a masked language model of transformers: folder or name")
    parser.add_argument("--revision", help="of the model, where it is a name")
    parser.add_argument("--trust-remote-code", action="store_true", help="run code of the model")
    parser.add_argument(
        "--right-shift", action="store_true", help="logits are about the next token"
    )
    parser.add_argument("--mask-token-id", type=as_whole, help="where the model does not say it")
    parser.add_argument("--head", type=_given_head, help="made for it: a file, folder or name")


def block_of(given: argparse.Namespace) -> int:
    """L: as long as the circuit of the head, if there is one."""
    return BLOCK if given.head is None else int(given.head.length)


def asked(given: argparse.Namespace) -> tuple[Material, CircuitHead | None]:
    """What the command line asks for, and the head that it names, if it does.

    Raises:
        CouplingError: if that is modulated: no other coupling could take its circuit.
    """
    if given.head is not None and given.head.modulation is not None:
        raise CouplingError("a modulated head has no circuit that other couplings could take")
    model, block = given_model(given), block_of(given)
    material = prepare(given.text, given.train, given.minutes, given.seed, model, block)
    if given.head is not None:
        check_head(given.head, material.tokenizer)
    return material, given.head


def given_model(given: argparse.Namespace) -> Model | None:
    """The model or denoiser that the command line names, if it does."""
    if given.model is None:
        denoiser: Model | None = given.denoiser
        return denoiser
    return load_pretrained(
        given.model,
        mask_token_id=given.mask_token_id,
        right_shift=given.right_shift,
        revision=given.revision,
        trust_remote_code=given.trust_remote_code,
    )[:2]


def head_of(name: str) -> CircuitHead:
    """The head of a file, a folder or a repository."""
    return CircuitHead.load(name) if Path(name).is_file() else CircuitHead.from_pretrained(name)


def _given_head(name: str) -> CircuitHead:
    """The same on the command line."""
    return _given(head_of, name)


def _given_denoiser(name: str) -> Model:
    """That of a file."""
    return _given(load_denoiser, name)


def _given(read: Callable[[str], Read], name: str) -> Read:
    """What is read from a file that the command line names, which says why it is not."""
    try:
        return read(name)
    except (CheckpointError, ImportError, OSError) as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def check_head(head: CircuitHead, tokenizer: Tokenizer) -> None:
    """Refuse a head that is about other tokens.

    Raises:
        ShapeMismatch: if its vocabulary or mask are others.
        TokenizerMismatch: if it says that its tokenizer is another one.
    """
    found = head.vocabulary_size, head.mask_token_id
    wanted = tokenizer.vocabulary_size, tokenizer.mask_token_id
    if found != wanted:
        raise ShapeMismatch(f"the head has (tokens, mask) {found}, the model {wanted}")
    if head.tokenizer not in (None, fingerprint(tokenizer)):
        raise TokenizerMismatch(head.tokenizer, fingerprint(tokenizer))


def prepare(
    path: Path | None,
    train: bool,
    minutes: float,
    seed: int,
    model: Model | None = None,
    block: int = BLOCK,
) -> Material:
    """Load the text, and the denoiser that was made for it, or a new one, or the given model.

    Raises:
        TextError: if the text is too short to be judged on.
    """
    text = load_text(path)
    _check_length(len(text.held_out), "characters", block)
    denoiser, tokenizer = model or _denoiser(text, path, train, minutes, seed)
    tokens, held_out = tokenizer.encode(text.train), tokenizer.encode(text.held_out)
    _check_length(len(held_out), "tokens", block)
    rows = blocks(held_out, block=block)
    most = max(64, HELD // (block * tokenizer.vocabulary_size))
    count = min(256, most, len(rows))
    spread = torch.arange(count) * len(rows) // count
    judged, calibration = rows[spread[::2]], rows[spread[1::2]]
    train_rows = windows(tokens, CONTEXT + block, 1)
    return Material(tokenizer, denoiser, train_rows, judged, calibration, block)


def _check_length(found: int, what: str, block: int) -> None:
    least = CONTEXT + 32 * block
    if found < least:
        raise TextError(f"the held-out tenth has {found} {what}, needs {least}")


def _denoiser(text: Text, path: Path | None, train: bool, minutes: float, seed: int) -> Model:
    """The shipped denoiser for the shipped text, else a new one."""
    if path is None and not train:
        return load_denoiser(CHECKPOINT)
    say(f"A denoiser for this text, in {minutes:g} minutes.")
    tokenizer = CharacterTokenizer.fit(text.train)
    config = DenoiserConfig(tokenizer.vocabulary_size)
    tokens, held_out = tokenizer.encode(text.train), tokenizer.encode(text.held_out)
    denoiser = train_denoiser(tokens, config, held_out=held_out, minutes=minutes, seed=seed)
    return denoiser, tokenizer


def fit_circuit(material: Material, states: int, rows: int = 16_000) -> pf.CompiledCircuit:
    """A hidden Markov model of blocks of text: EM on a few of them first, then on many."""
    inputs = pf.Categorical(material.tokenizer.vocabulary_size)
    model = pf.compile(pf.hmm(material.block, states, inputs))
    for count, epochs in ((2_000, 12), (rows, 16)):
        blocks_only = material.some(count)[:, -material.block :]
        pf.fit(model, blocks_only, pf.EM(pseudocount=0.1), epochs=epochs, progress=shown())
    return model


def circuit_and_heads(
    saved: CircuitHead | None,
    material: Material,
    states: int,
    generator: torch.Generator,
    blocks: int = BLOCKS,
) -> tuple[pf.CompiledCircuit, dict[str, CircuitHead]]:
    """The circuit of a saved head, or of the text, and every coupling by name.

    The saved head is one of them, unless it is coupled like one that is there anyway.
    """
    circuit = fit_circuit(material, states) if saved is None else saved.model
    heads = couple(circuit, material, generator, blocks)
    known = [head.coupling for head in heads.values() if head.model is circuit]
    if saved is None or saved.coupling in known:
        return circuit, heads
    return circuit, {SAVED: saved} | heads


def couple(
    circuit: pf.CompiledCircuit,
    material: Material,
    generator: torch.Generator,
    count: int = BLOCKS,
) -> dict[str, CircuitHead]:
    """Every coupling by name; all but one share the circuit that was trained on text."""
    mask = material.tokenizer.mask_token_id
    against = CircuitHead(copy.deepcopy(circuit), mask, "product")
    with TemporaryDirectory() as folder:
        seen = _seen(material, count, generator, folder)
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


def with_context(head: CircuitHead) -> CircuitHead:
    """The head with a window twice as long, half of which is what stands before a block.

    Raises:
        NotAChain: if its circuit is no hidden Markov model.
        SettingError: if that cannot go on, as its positions differ.
    """
    circuit = pf.compile(pf.unroll(head.model, 2 * head.length))
    return CircuitHead(circuit, head.mask_token_id, head.coupling)


def _seen(
    material: Material, count: int, generator: torch.Generator, folder: str
) -> Blocks | StoredLogits:
    """Training blocks with the denoiser's logits: in memory, or in a folder if they are many."""
    rows = material.some(count, generator)
    few = len(rows) * material.block * material.tokenizer.vocabulary_size <= HELD
    return material.examples(rows, generator) if few else material.stored(rows, generator, folder)
