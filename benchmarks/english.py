"""English by 8,192 subwords: a denoiser, and what couplings with a circuit of the same text do.

    python benchmarks/english.py --text english.txt --out FOLDER [--minutes 40]
    python -m pcflow_diffusion.train --text FOLDER/train.txt --tokenizer FOLDER/tokenizer.json \
        --out FOLDER/head.safetensors
    python benchmarks/english.py --text english.txt --out FOLDER [--seeds 0 1 2]

The first command trains the denoiser on all of the text but the tenth that evaluations hold out. It
goes on where it was stopped; what took its minutes goes on with more of them, from a copy of FOLDER
without denoiser.safetensors. Once there is a head, it prints the tables and some of what was
written; every seed has masks, blocks for Eq. 7, powers and draws of its own, and is kept in FOLDER.
`benchmarks/prose.py` makes such a text.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import log
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional
from toy import TOY, arguments, size

import pcflow as pf
from pcflow_diffusion import CircuitHead, Denoiser, DenoiserConfig, load_denoiser, save_denoiser
from pcflow_diffusion.evaluate import few_step as few
from pcflow_diffusion.evaluate import gap_table, ladder, markdown, mean_and_spread
from pcflow_diffusion.evaluate.few_step_of_text import decoders_of, judge_of
from pcflow_diffusion.evaluate.gap import Table
from pcflow_diffusion.evaluate.setting import Material, check_head, circuit_and_heads, prepare
from pcflow_diffusion.models import BLOCK, CONTEXT, Text, TrainingConfig, load_text, train_denoiser
from pcflow_diffusion.models.progress import say
from pcflow_diffusion.models.subwords import SubwordTokenizer

VOCABULARY = size(8_192, 300)
WIDTH, DEPTH = size((160, 4), (16, 1))
HOW = TrainingConfig(8, 1.5e-3, whole_window=0.6, short_window=0.1)
SPARED = size(2, 32)  # every so many of the texts that evaluations judge by
BLOCKS = size(1_024, 32)  # for Eq. 7
NEIGHBOURS = torch.tensor([0.2, 0.5, 0.0, 0.5, 0.2])  # what the first convolution adds up
RATIOS = size((0.15, 0.5, 1.0), (0.5,))
STEPS = size((1, 2, 4), (1, 2))
SHOWN = size(3, 1)  # texts of the first seed that are printed


def main() -> None:
    """Train what is not trained; with a head, evaluate."""
    given = _parse()
    given.out.mkdir(parents=True, exist_ok=True)
    text = load_text(given.text)
    tokenizer = tokenizer_of(text.train, given.out)
    path = given.out / "denoiser.safetensors"
    if not path.exists():
        train(text, tokenizer, path, given.minutes)
    head = given.out / "head.safetensors"
    if TOY and not head.exists():
        circuit = pf.compile(pf.hmm(BLOCK, 4, pf.Categorical(tokenizer.vocabulary_size)))
        CircuitHead(circuit, tokenizer.mask_token_id).save(head)
    if head.exists():
        tables(Trained(given.text, given.out), given.seeds)


def tokenizer_of(text: str, folder: Path) -> SubwordTokenizer:
    """The subwords in the folder, or those of the text, which is kept there with them."""
    path = folder / "tokenizer.json"
    if not path.exists():
        made = SubwordTokenizer.fit(text.split("\n\n"), VOCABULARY)
        pf.replace_file(folder / "train.txt", [text.encode()])
        pf.replace_file(path, [made.definition().encode()])
    return SubwordTokenizer.from_definition(path.read_text(encoding="utf-8"))


def train(text: Text, tokenizer: SubwordTokenizer, path: Path, minutes: float) -> None:
    """Write the denoiser, when all minutes are spent."""
    tokens = tokenizer.encode(text.train)
    config = DenoiserConfig(tokenizer.vocabulary_size, width=WIDTH, depth=DEPTH, dropout=0.0)
    say(f"{len(tokens):,} tokens to learn from")
    unfinished = path.with_name("training")
    denoiser = train_denoiser(
        tokens,
        config,
        minutes=minutes,
        training=HOW,
        start=None if unfinished.exists() else beginning(config, tokens),
        unfinished=unfinished,
    )
    save_denoiser(denoiser, path, tokenizer)


def beginning(config: DenoiserConfig, tokens: Tensor) -> Denoiser:
    """New weights that know how often tokens occur, and beside which others.

    Embeddings and head are a factorisation of pointwise mutual information (Levy and Goldberg
    2014); the first convolution adds up neighbours, all else begins as nothing. With 15 % masked
    that is 5.9 nats a token before anything is learned; frequencies alone have 6.8.
    """
    torch.manual_seed(0)
    denoiser = Denoiser(config)
    counts = torch.bincount(tokens, minlength=config.vocabulary_size) + 1
    left, right = factors(tokens, counts, config.width)
    with torch.no_grad():
        denoiser.embedding.weight.copy_(functional.pad(right / right.std() / 2, (0, 0, 0, 1)))
        denoiser.head.weight.copy_(left / left.std() / config.width**0.5 / 2)
        denoiser.head.bias.copy_((counts / len(tokens)).log())
        for block in denoiser.blocks:
            for update in (block.convolution, block.attended, block.mlp[-1]):
                update.weight.zero_()
        denoiser.blocks[0].convolution.weight.copy_(NEIGHBOURS)
    return denoiser


def factors(tokens: Tensor, counts: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Two matrices [V, width] whose product is about the positive information of neighbours."""
    V, pairs = len(counts), torch.stack([tokens[:-1], tokens[1:]])  # [2, N - 1]
    pairs = torch.cat([pairs, pairs.flip(0)], dim=1)  # whichever comes first
    ones = torch.ones(pairs.shape[1])
    met = torch.sparse_coo_tensor(pairs, ones, (V, V), check_invariants=True).coalesce()
    row, column = met.indices()
    expected = counts[row].log() + counts[column].log() - log(len(tokens) / 2)
    surprise = (met.values().log() - expected).clamp_min(0)
    known = torch.sparse_coo_tensor(met.indices(), surprise, (V, V), check_invariants=True)
    u, s, v = torch.svd_lowrank(known, width, niter=4)
    return u * s.sqrt(), v * s.sqrt()


@dataclass(frozen=True)
class Trained:
    """What is in the folder, and what is found with it."""

    text: Path
    folder: Path

    @cached_property
    def material(self) -> Material:
        """The denoiser and its text."""
        trained = load_denoiser(self.folder / "denoiser.safetensors")
        found = prepare(self.text, train=False, minutes=0.0, seed=0, model=trained)
        spared = {name: getattr(found, name)[::SPARED] for name in ("judged", "calibration")}
        return replace(found, **spared)

    @cached_property
    def tokenizer(self) -> SubwordTokenizer:
        """Its subwords."""
        text = (self.folder / "tokenizer.json").read_text(encoding="utf-8")
        return SubwordTokenizer.from_definition(text)

    @cached_property
    def head(self) -> CircuitHead:
        """A circuit of the text."""
        found = CircuitHead.load(self.folder / "head.safetensors")
        check_head(found, self.material.tokenizer)
        return found

    @cached_property
    def judge(self) -> few.Reader:
        """Counts of what the denoiser learned from."""
        return judge_of(self.material, minutes=0.0, seed=0)

    def seed(self, number: int) -> Seed:
        """What a seed finds, from its file if it is there."""
        path = self.folder / f"{number}.json"
        if not path.exists():
            say(f"Seed {number}")
            pf.replace_file(path, [json.dumps(self.measured(number)).encode()])
        return Seed(**json.loads(path.read_text(encoding="utf-8")))

    def measured(self, number: int) -> dict[str, object]:
        """All figures of a seed, and what was written."""
        torch.manual_seed(number)
        draws, masks = (torch.Generator().manual_seed(number) for _ in range(2))
        material, rows = self.material, self.material.judged
        circuit, heads = circuit_and_heads(self.head, material, 0, draws, BLOCKS)
        gap = gap_table(material.denoiser, circuit, heads, rows, RATIOS, generator=masks)
        found = ladder(
            material.denoiser,
            decoders_of(heads),
            rows[:, :CONTEXT],
            self.judge,
            STEPS,
            generator=draws,
        )
        real = few.judge_rows(self.judge, rows, CONTEXT, BLOCK)
        steps = {name: {n: _told(text) for n, text in row.items()} for name, row in found.items()}
        powers = repr(heads["log-linear, fitted"].coupling)
        return {"gap": gap, "steps": steps, "real": _told(real), "powers": powers}


@dataclass(frozen=True)
class Seed:
    """What a seed found: the gap, what was written in few steps, real text, and powers."""

    gap: Table
    steps: Mapping[str, Mapping[str, Sequence[Sequence[float]]]]
    real: Sequence[Sequence[float]]
    powers: str

    @property
    def ladder(self) -> few.Ladder:
        """What was written."""
        return {
            name: {int(count): _written(told) for count, told in row.items()}
            for name, row in self.steps.items()
        }


def _told(text: few.Written) -> list[list[float]]:
    return [text.tokens.tolist(), text.row_nats.tolist()]


def _written(told: Sequence[Sequence[float]]) -> few.Written:
    tokens, nats = told
    return few.Written(torch.tensor(tokens).long(), torch.tensor(nats))


def tables(trained: Trained, numbers: Sequence[int]) -> None:
    """Print what the seeds found."""
    seeds = [trained.seed(number) for number in numbers]
    table, spread = mean_and_spread([seed.gap for seed in seeds])
    real = _written(seeds[0].real)
    say(f"{len(real.tokens)} texts, {len(seeds)} seeds; {', '.join(seed.powers for seed in seeds)}")
    print(f"\n{markdown(table, RATIOS, spread)}")
    found = few.together([seed.ladder for seed in seeds])
    print(f"\n{few.markdown(found, real)}\n\n{few.half_the_steps(found)}")
    for row in range(SHOWN):
        written = of_row(seeds[0].ladder, row)
        print(f"\n{few.samples(written, trained.tokenizer.decode)}")


def of_row(found: few.Ladder, row: int) -> few.Ladder:
    """What all wrote behind one prompt."""
    return {
        name: {
            count: few.Written(text.tokens[[row]], text.row_nats[[row]])
            for count, text in steps.items()
        }
        for name, steps in found.items()
    }


def _parse() -> argparse.Namespace:
    parser = arguments(__doc__)
    parser.add_argument("--text", type=Path, required=not TOY, help="UTF-8")
    parser.add_argument("--out", type=Path, default=Path(size("english", "english_toy")))
    parser.add_argument("--minutes", type=float, default=size(40.0, 0.02), help="(%(default)g)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="(%(default)s)")
    given = parser.parse_args()
    if TOY:
        given.text = Path("english.txt")
        words = (f"word {number} of {number % 7} words, as it goes." for number in range(2_000))
        given.text.write_text("\n\n".join(words), encoding="utf-8")
    return given


if __name__ == "__main__":
    main()
