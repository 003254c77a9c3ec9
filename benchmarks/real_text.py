"""Couplings on real text: plays by characters, sums by subwords; three seeds.

    python benchmarks/real_text.py gsm8k --data DIR --out FOLDER [--minutes 60] [--seeds 3]

One denoiser per corpus. Every seed has masks, a circuit and training blocks of its own, and all
methods of a seed see the same masks. Then text in few steps per block, with the circuits of the
first seed, read by a causal model of the same text. What was trained is kept in FOLDER, and so is
every finished seed, so that an interrupted run goes on, in the middle of the denoiser's training
too; another run with other settings needs another FOLDER. Prints Markdown and draws pictures.
"""

from __future__ import annotations

import argparse
import json
import os
from functools import cached_property
from pathlib import Path

import corpora
import torch
from toy import TOY, arguments, size

import pcflow as pf
from pcflow_diffusion import (
    Blocks,
    CircuitHead,
    Coupling,
    Decoding,
    Denoiser,
    DenoiserConfig,
    LogLinear,
    Projection,
    fit_conditional,
    load_denoiser,
    save_denoiser,
)
from pcflow_diffusion.evaluate import gap, gap_table, markdown, mean_and_spread
from pcflow_diffusion.evaluate.few_step import (
    FACTORISED,
    STEPS,
    Decoder,
    draw_few_step,
    half_the_steps,
    judge_rows,
    ladder,
)
from pcflow_diffusion.evaluate.few_step import markdown as markdown_of_ladder
from pcflow_diffusion.evaluate.few_step_of_text import strength
from pcflow_diffusion.evaluate.figure import draw_gap
from pcflow_diffusion.evaluate.setting import Material, fit_circuit, with_context
from pcflow_diffusion.head import Ranking
from pcflow_diffusion.models import (
    BLOCK,
    CONTEXT,
    Judge,
    TransformerConfig,
    load_judge,
    save_judge,
    train_denoiser,
    train_judge,
)
from pcflow_diffusion.models.progress import say

DEPTH = size({"tinyshakespeare": 5, "gsm8k": 6}, dict.fromkeys(corpora.NAMES, 1))
STATES = size({"tinyshakespeare": 256, "gsm8k": 512}, dict.fromkeys(corpora.NAMES, 4))
WIDTH, JUDGE_DEPTH = size((256, 4), (16, 1))
RATIOS = size(gap.RATIOS, [0.5])
BUCKETS = 4
PAPER, FITTED, CHOSEN = "product; Eq. 7", "log-linear; text", "chosen; text"
RANKINGS: tuple[Ranking, ...] = ("low_confidence", "random")


def main() -> None:
    """Run what is not finished; print and draw all."""
    given = _parse()
    given.out.mkdir(parents=True, exist_ok=True)
    check_settings(given)
    corpus = corpora.load(given.corpus, given.data)
    denoiser = denoiser_of(corpus, given.out, given.minutes)
    judged, calibration = corpus.parts(given.judged, 512)
    material = Material(corpus.tokenizer, denoiser, corpus.train, judged, calibration)
    seeds = [Seed(number, material, corpus.name, given) for number in range(given.seeds)]
    table, spread = mean_and_spread([seed.gap() for seed in seeds])
    weights = sum(weight.numel() for weight in denoiser.parameters()) / 1e6
    print(f"\n{corpus.name}: {corpus.tokenizer.vocabulary_size} tokens, HMM with", end=" ")
    print(f"{STATES[corpus.name]} states, denoiser with {weights:.1f} M parameters,", end=" ")
    print(f"{given.judged} held-out blocks, {given.seeds} seeds.\n")
    print(markdown(table, RATIOS, spread))
    picture = given.out / f"{corpus.name}.png"
    draw_gap(picture, table, RATIOS, spread)
    say(f"Picture: {picture}")
    if given.judge_minutes > 0:
        judge = judge_of(corpus, given.out, given.judge_minutes)
        say(strength(judge, material))
        few_step(seeds[0], judge, given.out / f"{corpus.name}_few_step.png")


def check_settings(given: argparse.Namespace) -> None:
    """Refuse a folder that was begun with other settings; a new one remembers these.

    So does a folder from before there was such a file: what it holds is taken to be made like this.
    """
    path: Path = given.out / f"{given.corpus}.settings.json"
    now = {name: getattr(given, name) for name in ("rows", "blocks", "judged")}
    now["states"] = STATES[given.corpus]
    if not path.exists():
        pf.replace_file(path, [json.dumps(now).encode()])
    before = json.loads(path.read_text(encoding="utf-8"))
    if before != now:
        raise SystemExit(f"{path} has {before}, this run {now}: give another --out, or the same")


def denoiser_of(corpus: corpora.Corpus, folder: Path, minutes: float) -> Denoiser:
    """The denoiser in the folder, or a new one, which is kept there."""
    path = folder / f"{corpus.name}.safetensors"
    if not path.exists():
        unfinished, tokenizer = path.with_suffix(".unfinished"), corpus.tokenizer
        vocabulary, depth = tokenizer.vocabulary_size, DEPTH[corpus.name]
        train_denoiser(
            corpus.train,
            DenoiserConfig(vocabulary, width=WIDTH, depth=depth, heads=4),
            minutes=minutes,
            checkpoint=lambda model: save_denoiser(model, unfinished, tokenizer),
            unfinished=path.with_suffix(".training"),
        )
        unfinished.replace(path)  # the last checkpoint is the finished denoiser
    return load_denoiser(path)[0]  # rounded, like that of a run that goes on


def judge_of(corpus: corpora.Corpus, folder: Path, minutes: float) -> Judge:
    """The causal model in the folder, or a new one, which is kept there."""
    path = folder / f"{corpus.name}.judge.safetensors"
    if not path.exists():
        vocabulary = corpus.tokenizer.vocabulary_size
        config = TransformerConfig(vocabulary, width=WIDTH, depth=JUDGE_DEPTH, heads=4)
        judge = train_judge(corpus.train, config, minutes=minutes)
        save_judge(judge, path, corpus.tokenizer)
    return load_judge(path)[0]


class Seed:
    """Circuits, couplings and masks of one seed; what it trains and finds is kept in files."""

    def __init__(
        self, number: int, material: Material, name: str, given: argparse.Namespace
    ) -> None:
        """Remember the settings."""
        self.number, self.material, self.name, self.given = number, material, name, given

    def path(self, kind: str) -> Path:
        """Where something of this seed is kept."""
        folder: Path = self.given.out
        return folder / f"{self.name}.{self.number}.{kind}"

    def gap(self) -> gap.Table:
        """The seed's table."""
        path = self.path("json")
        if not path.exists():
            say(f"{self.name}, seed {self.number}")
            heads = self.heads()
            for method, head in heads.items():
                print(f"{method}: {head.coupling}", flush=True)
            masks = torch.Generator().manual_seed(1_000 + self.number)
            material, circuit = self.material, self.circuit()
            rows = material.judged
            table = gap_table(material.denoiser, circuit, heads, rows, RATIOS, generator=masks)
            pf.replace_file(path, [json.dumps(table).encode()])
        found: gap.Table = json.loads(path.read_text(encoding="utf-8"))
        return found

    def circuit(self) -> pf.CompiledCircuit:
        """A hidden Markov model of the text."""
        path = self.path("pc")
        if not path.exists():
            torch.manual_seed(self.number)
            pf.save(fit_circuit(self.material, STATES[self.name], self.given.rows), path)
        return pf.load(path)

    def trained(self, kind: str, coupling: Coupling | str, epochs: int) -> pf.CompiledCircuit:
        """The circuit, trained through a coupling on what the denoiser says (Eq. 7)."""
        path = self.path(f"{kind}.pc")
        if not path.exists():
            say(f"Eq. 7 through {kind}")
            made = self.head(self.circuit(), coupling)
            fit_conditional(made, self.seen, epochs=epochs, generator=self.generator(1))
            pf.save(made.model, path)
        return pf.load(path)

    @cached_property
    def seen(self) -> Blocks:
        """Training blocks with masks, and what the denoiser says."""
        generator = self.generator(2)
        return self.material.examples(self.material.some(self.given.blocks, generator), generator)

    @cached_property
    def fresh(self) -> Blocks:
        """Held-out blocks to fit couplings with."""
        return self.material.examples(self.material.calibration, self.generator(3))

    def heads(self) -> dict[str, CircuitHead]:
        """By coupling, and what the circuit was trained on."""
        circuit, against = self.circuit(), self.trained("product", "product", 6)
        log_linear = self.fitted(circuit)
        powers = log_linear.coupling
        assert isinstance(powers, LogLinear)
        assert isinstance(powers.a, float) and isinstance(powers.b, float)
        through = self.trained("log-linear", powers, 3)
        projected = self.trained("projection", "projection", 3)
        return {
            "product; text": self.head(circuit, "product"),
            PAPER: self.head(against, "product"),
            "ratio; text": self.head(circuit, "ratio"),
            "projection; text": self.head(circuit, "projection"),
            FITTED: log_linear,
            f"log-linear in {BUCKETS} buckets; text": self.fitted(circuit, BUCKETS),
            "pooled projection; text": self.head(
                circuit, Projection(pool=(powers.a, 1 - powers.b))
            ),
            CHOSEN: self.chosen(circuit),
            "log-linear; Eq. 7": self.fitted(against),
            "log-linear; Eq. 7 through log-linear": self.fitted(through),
            "projection; Eq. 7 through projection": self.head(projected, "projection"),
        }

    def head(self, model: pf.CompiledCircuit, coupling: Coupling | str) -> CircuitHead:
        """A circuit under a coupling."""
        return CircuitHead(model, self.material.tokenizer.mask_token_id, coupling)

    def fitted(self, model: pf.CompiledCircuit, buckets: int = 1) -> CircuitHead:
        """A circuit under the log-linear coupling that suits it best."""
        made = self.head(model, "product")
        made.fit_coupling(self.fresh.logits, self.fresh.x, self.fresh.x0, buckets=buckets)
        return made

    def chosen(self, model: pf.CompiledCircuit) -> CircuitHead:
        """A circuit under whichever coupling suits it best."""
        made = self.head(model, "product")
        made.choose_coupling(self.fresh.logits, self.fresh.x, self.fresh.x0)
        return made

    def generator(self, purpose: int) -> torch.Generator:
        """Draws that depend on the seed and on what they are for, and on nothing drawn before."""
        return torch.Generator().manual_seed(100 * self.number + purpose)


def few_step(seed: Seed, judge: Judge, picture: Path) -> None:
    """What decoders write in few steps per block, in both rankings."""
    heads = {
        PAPER: seed.head(seed.trained("product", "product", 6), "product"),
        "projection; text": seed.head(seed.circuit(), "projection"),
        FITTED: seed.fitted(seed.circuit()),
        CHOSEN: seed.chosen(seed.circuit()),
    }
    decoders = {FACTORISED: Decoder()} | {name: Decoder(head) for name, head in heads.items()}
    decoders[f"{CHOSEN}, context in the window"] = Decoder(with_context(heads[CHOSEN]))
    decoders[f"{CHOSEN}, drawn independently"] = Decoder(heads[CHOSEN], jointly=False)
    rows = seed.material.judged
    reference = judge_rows(judge, rows, CONTEXT, BLOCK)
    for ranking in RANKINGS:
        found = ladder(
            seed.material.denoiser,
            decoders,
            rows[:, :CONTEXT],
            judge,
            size(STEPS, (1, 2)),
            decoding=Decoding(temperature=1.0, ranking=ranking),
            generator=seed.generator(4),
        )
        say(f"Few steps per block, ranking {ranking}, temperature 1")
        print(f"\n{markdown_of_ladder(found, reference)}")
        print(f"\n{half_the_steps(found)}", flush=True)
        draw_few_step(picture.with_stem(f"{picture.stem}_{ranking}"), found, reference)


def _parse() -> argparse.Namespace:
    parser = arguments(__doc__)
    parser.add_argument(
        "corpus", choices=corpora.NAMES, **size({}, {"nargs": "?", "default": "gsm8k"})
    )
    parser.add_argument("--data", type=Path, default=size(os.environ.get("PCFLOW_DATA"), None))
    parser.add_argument("--out", type=Path, default=Path(size("real_text", "real_text_toy")))
    parser.add_argument(
        "--minutes", type=float, default=size(60.0, 0.02), help="to train the denoiser"
    )
    parser.add_argument(
        "--judge-minutes", type=float, default=size(8.0, 0.02), help="0: no few steps"
    )
    parser.add_argument("--seeds", type=int, default=size(3, 2), help="(%(default)s)")
    parser.add_argument(
        "--judged", type=int, default=size(128, 2), help="held-out blocks (%(default)s)"
    )
    parser.add_argument(
        "--rows", type=int, default=size(16_000, 100), help="for the HMM (%(default)s)"
    )
    parser.add_argument(
        "--blocks", type=int, default=size(6_144, 32), help="for Eq. 7 (%(default)s)"
    )
    given = parser.parse_args()
    if given.data is None and TOY:
        given.data = corpora.draw(given.out)
    if given.data is None or not (Path(given.data) / "text").is_dir():
        parser.exit(0, f"{corpora.WHERE}\n")
    return given


if __name__ == "__main__":
    main()
