"""Few steps per block on a text: a judge for it, what every decoder writes, tables and a picture.

python -m pcflow_diffusion.evaluate few-step [--text FILE] [--ranking low_confidence]
python -m pcflow_diffusion.evaluate few-step --text FILE --denoiser FILE [--head FILE]
python -m pcflow_diffusion.evaluate few-step --model FOLDER [--head FILE]

Every seed has a circuit (unless it is that of a saved head), couplings and draws of its own.
Ranking and temperature are the same for all decoders. With the ranking low_confidence, the default
of `generate`, all of them write too many frequent tokens: look at the entropy.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import get_args

import torch

import pcflow as pf
from pcflow_diffusion.checks import Command, as_count, as_not_negative
from pcflow_diffusion.decode import Decoding
from pcflow_diffusion.evaluate.counting import CountingReader
from pcflow_diffusion.evaluate.few_step import (
    FACTORISED,
    STEPS,
    Decoder,
    Ladder,
    Reader,
    draw_few_step,
    half_the_steps,
    judge_rows,
    ladder,
    markdown,
    samples,
    together,
)
from pcflow_diffusion.evaluate.gap import LeftToRight
from pcflow_diffusion.evaluate.setting import (
    SAVED,
    Material,
    add_arguments,
    asked,
    block_of,
    circuit_and_heads,
    with_context,
)
from pcflow_diffusion.head import CircuitHead, Ranking
from pcflow_diffusion.models import CONTEXT, TransformerConfig, train_judge
from pcflow_diffusion.models.progress import say


def decoders_of(heads: Mapping[str, CircuitHead]) -> dict[str, Decoder]:
    """Factorised draws, the couplings that are compared, with context too, and the ablation."""
    compared = (SAVED, "product, circuit of Eq. 7", "projection, 2 sweeps", "log-linear, fitted")
    jointly = [name for name in compared if name in heads]
    best = jointly[-1]
    found = {FACTORISED: Decoder()} | {name: Decoder(heads[name]) for name in jointly}
    with suppress(pf.NotAChain, pf.SettingError):  # as a saved one may be
        found[f"{best}, context in the window"] = Decoder(with_context(heads[best]))
    return found | {f"{best}, drawn independently": Decoder(heads[best], jointly=False)}


def judge_of(material: Material, minutes: float, seed: int) -> Reader:
    """A model of counts of the training text, or a transformer that reads it for some minutes."""
    vocabulary = material.tokenizer.vocabulary_size
    if minutes == 0:
        return CountingReader(torch.cat([material.train[:, 0], material.train[-1, 1:]]), vocabulary)
    say(f"A judge, in {minutes:g} minutes.")
    config = TransformerConfig(vocabulary)
    held_out = material.calibration
    return train_judge(material.train, config, held_out=held_out, minutes=minutes, seed=seed)


def strength(judge: Reader, material: Material) -> str:
    """How well judge and denoiser know held-out text, left to right."""
    denoiser = LeftToRight(material.denoiser, material.tokenizer.mask_token_id)
    readers: tuple[Reader, ...] = (judge, denoiser)
    last = material.block
    judged, own = (float(who.nats(material.judged, last).mean()) for who in readers)
    return f"Held-out text, nats per token left to right: judge {judged:.3f}, denoiser {own:.3f}."


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line, train what is needed, write, print the tables, draw the picture."""
    given = _parse(arguments)
    material, saved = asked(given)
    judge = judge_of(material, given.judge_minutes, given.seed)
    say(strength(judge, material))
    seeds = range(given.seed, given.seed + given.seeds)
    found = together([run(given, material, saved, judge, seed) for seed in seeds])
    reference = judge_rows(judge, material.judged, CONTEXT, material.block)
    print(f"\n{samples(found, material.tokenizer.decode)}\n\n{markdown(found, reference)}")
    if any(2 * count in given.steps for count in given.steps):
        print(f"\n{half_the_steps(found)}")
    draw_few_step(given.out, found, reference)
    say(f"Picture: {given.out}")


def run(
    given: argparse.Namespace,
    material: Material,
    saved: CircuitHead | None,
    judge: Reader,
    seed: int,
) -> Ladder:
    """What all decoders of a seed write."""
    say(f"Seed {seed}: a circuit of the text, and couplings.")
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    _, heads = circuit_and_heads(saved, material, given.states, generator)
    say(f"Text in few steps: ranking {given.ranking}, temperature {given.temperature:g}.")
    rows = material.judged.repeat(given.repeats, 1)
    return ladder(
        material.denoiser,
        decoders_of(heads),
        rows[:, :CONTEXT],
        judge,
        given.steps,
        block_length=material.block,
        mask_token_id=material.tokenizer.mask_token_id,
        decoding=Decoding(given.temperature, ranking=given.ranking),
        generator=generator,
    )


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Command("pcflow_diffusion.evaluate few-step", __doc__)
    add_arguments(parser)
    parser.add_argument("--judge-minutes", type=as_not_negative, default=0.0, help="(0: it counts)")
    parser.add_argument(
        "--steps", type=as_count, nargs="+", default=STEPS, help="per block (%(default)s)"
    )
    parser.add_argument(
        "--ranking",
        choices=get_args(Ranking),
        default="random",
        help="which tokens first (%(default)s)",
    )
    parser.add_argument("--temperature", type=as_not_negative, default=1.0, help="(%(default)g)")
    parser.add_argument("--repeats", type=as_count, default=2, help="of every prompt (%(default)s)")
    parser.add_argument(
        "--out", type=Path, default=Path("pcflow_few_step.png"), help="(%(default)s)"
    )
    given = parser.parse_args(arguments)
    block = block_of(given)
    if max(given.steps) > block:
        parser.error(f"--steps must lie in 1 to {block}, the length of a block")
    return given
