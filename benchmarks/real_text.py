"""Couplings on real text: plays by characters, answers to sums by subwords; three seeds.

    python benchmarks/real_text.py gsm8k --data DIR --out FOLDER [--minutes 60] [--seeds 3]

One denoiser per corpus. Every seed has masks, a circuit and training blocks of its own, and all
methods of a seed see the same masks. What was trained is kept in FOLDER, and so is every finished
seed, so that an interrupted run goes on. Prints Markdown and draws a picture.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
from pathlib import Path

import corpora
import torch

import pcflow as pf
from pcflow_diffusion import (
    Blocks,
    CircuitHead,
    Coupling,
    Denoiser,
    DenoiserConfig,
    LogLinear,
    Projection,
    fit_conditional,
    load_denoiser,
    save_denoiser,
)
from pcflow_diffusion.evaluate import gap_table, markdown, mean_and_spread
from pcflow_diffusion.evaluate.figure import draw_gap
from pcflow_diffusion.evaluate.gap import RATIOS, Table
from pcflow_diffusion.evaluate.setting import Material, fit_circuit, say
from pcflow_diffusion.training import train_denoiser

DEPTH = {"tinyshakespeare": 5, "gsm8k": 6}
STATES = {"tinyshakespeare": 256, "gsm8k": 512}
BUCKETS = 4


def main() -> None:
    """Run the seeds that are not finished; print and draw all."""
    given = _parse()
    given.out.mkdir(parents=True, exist_ok=True)
    corpus = corpora.load(given.corpus, given.data)
    denoiser = denoiser_of(corpus, given.out, given.minutes)
    judged, calibration = corpus.parts(given.judged, 512)
    material = Material(corpus.tokenizer, denoiser, corpus.train, judged, calibration)
    runs = [run(material, corpus.name, seed, given) for seed in range(given.seeds)]
    table, spread = mean_and_spread(runs)
    parameters = sum(weight.numel() for weight in denoiser.parameters())
    print(f"\n{corpus.name}: {corpus.tokenizer.vocabulary_size} tokens, HMM with ", end="")
    print(
        f"{STATES[corpus.name]} states, denoiser with {parameters / 1e6:.1f} M parameters, ", end=""
    )
    print(f"{given.judged} held-out blocks, {given.seeds} seeds.\n")
    print(markdown(table, RATIOS, spread))
    picture = given.out / f"{corpus.name}.png"
    draw_gap(picture, table, RATIOS, spread)
    say(f"Picture: {picture}")


def denoiser_of(corpus: corpora.Corpus, folder: Path, minutes: float) -> Denoiser:
    """The denoiser in the folder, or a new one, which is kept there."""
    path = folder / f"{corpus.name}.safetensors"
    if path.exists():
        return load_denoiser(path)[0]
    tokenizer = corpus.tokenizer
    config = DenoiserConfig(tokenizer.vocabulary_size, width=256, depth=DEPTH[corpus.name], heads=4)
    return train_denoiser(
        corpus.train,
        config,
        minutes=minutes,
        checkpoint=lambda model: save_denoiser(model, path, tokenizer.vocabulary),
    )


def run(material: Material, name: str, seed: int, given: argparse.Namespace) -> Table:
    """One seed's table, from its file if it is finished."""
    path = given.out / f"{name}.{seed}.json"
    if not path.exists():
        say(f"{name}, seed {seed}")
        circuit = circuit_of(material, name, seed, given.out, given.rows)
        heads = couplings(circuit, material, given.blocks, torch.Generator().manual_seed(seed))
        for method, head in heads.items():
            print(f"{method}: {head.coupling}", flush=True)
        masks = torch.Generator().manual_seed(1_000 + seed)
        table = gap_table(
            material.denoiser, circuit, heads, material.judged, RATIOS, generator=masks
        )
        path.write_text(json.dumps(table), encoding="utf-8")
    found: Table = json.loads(path.read_text(encoding="utf-8"))
    return found


def circuit_of(
    material: Material, name: str, seed: int, folder: Path, rows: int
) -> pf.CompiledCircuit:
    """A hidden Markov model of the text, kept in the folder."""
    path = folder / f"{name}.{seed}.pc"
    if not path.exists():
        torch.manual_seed(seed)
        pf.save(fit_circuit(material, STATES[name], rows), path)
    return pf.load(path)


def couplings(
    circuit: pf.CompiledCircuit, material: Material, blocks: int, generator: torch.Generator
) -> dict[str, CircuitHead]:
    """Heads by coupling and what their circuit was trained on."""
    found = material.examples(material.some(blocks, generator), generator)
    seen = Blocks(found.logits, found.x, found.x0)
    fresh = material.examples(material.calibration, generator)
    mask = material.tokenizer.mask_token_id

    def head(model: pf.CompiledCircuit, coupling: Coupling | str) -> CircuitHead:
        return CircuitHead(model, mask, coupling)

    def fitted(model: pf.CompiledCircuit, buckets: int = 1) -> CircuitHead:
        made = head(model, "product")
        made.fit_coupling(fresh.logits, fresh.x, fresh.x0, buckets=buckets)
        return made

    def trained(coupling: Coupling | str, epochs: int) -> pf.CompiledCircuit:
        made = head(copy.deepcopy(circuit), coupling)
        fit_conditional(made, seen, epochs=epochs, batch_size=64, generator=generator)
        return made.model

    against = trained("product", 6)
    log_linear = fitted(circuit)
    powers = log_linear.coupling
    assert isinstance(powers, LogLinear)
    assert isinstance(powers.a, float) and isinstance(powers.b, float)
    pooled = Projection(pool=(powers.a, 1 - powers.b))
    return {
        "product; circuit trained on text": head(circuit, "product"),
        "product; Eq. 7": head(against, "product"),
        "ratio; text": head(circuit, "ratio"),
        "projection; text": head(circuit, "projection"),
        "log-linear; text": log_linear,
        f"log-linear in {BUCKETS} buckets; text": fitted(circuit, BUCKETS),
        "pooled projection; text": head(circuit, pooled),
        "log-linear; Eq. 7": fitted(against),
        "log-linear; Eq. 7 through log-linear": fitted(trained(powers, 3)),
        "projection; Eq. 7 through projection": head(trained("projection", 3), "projection"),
    }


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("corpus", choices=corpora.NAMES)
    parser.add_argument("--data", type=Path, default=os.environ.get("PCFLOW_DATA"))
    parser.add_argument("--out", type=Path, default=Path("real_text"), help="(%(default)s)")
    parser.add_argument("--minutes", type=float, default=60.0, help="to train the denoiser")
    parser.add_argument("--seeds", type=int, default=3, help="(%(default)s)")
    parser.add_argument("--judged", type=int, default=128, help="held-out blocks (%(default)s)")
    parser.add_argument("--rows", type=int, default=16_000, help="for the HMM (%(default)s)")
    parser.add_argument("--blocks", type=int, default=6_144, help="for Eq. 7 (%(default)s)")
    given = parser.parse_args()
    if given.data is None or not (Path(given.data) / "text").is_dir():
        parser.exit(0, f"{corpora.WHERE}\n")
    return given


if __name__ == "__main__":
    main()
