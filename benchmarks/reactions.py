"""Couplings under a public masked language model of chemical reactions that nobody here trained.

    python benchmarks/reactions.py --model DIR --data DIR [--out FOLDER]

Tokens of whole reactions are masked and drawn again; RDKit says which results can be read. Every
cell of a table is about the same reactions, masks and seeds; independent draws are a peer in all of
them, and in as many steps as there are masks they are the model's own sequential ones. The circuit,
and the couplings that are chosen, come from other reactions than those that are judged. Circuit and
finished cells are kept in FOLDER, so that an interrupted run goes on; other settings need another.
Several processes may do a seed each (`--seeds`), and the last one prints. Prints Markdown.

Legend: B batch, N tokens of a reaction, V tokens.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from math import sqrt
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

import torch
from molecules import (
    LONGEST,
    Vocabulary,
    bert,
    circuit_of,
    is_valid,
    masked_product,
    masked_window,
    over,
    read,
    toy_model,
)
from torch import Tensor
from toy import TOY, arguments, is_installed, size

import pcflow as pf
from pcflow_diffusion import Backbone, CircuitHead, Decoding, infill, sample_times
from pcflow_diffusion.evaluate import Examples, gap, markdown, mean_and_spread
from pcflow_diffusion.head import Ranking
from pcflow_diffusion.models.progress import say

T = TypeVar("T")

FRESH = size(200, 4)  # reactions to choose couplings by
WINDOW = size(32, 8)  # tokens among which some are masked, for nats and choices
STATES = size([128, 256, 512], [2, 3])  # of circuits; all but one table are about the last
WINDOWS = size([24, 32, 64], [8])  # tokens that are all that a circuit covers
RATIOS = size([0.15, 0.5, 1.0], [0.5])  # of a window, for nats
JUDGED = size(48, 2)  # reactions of a seed, for nats
INDEPENDENT, PRODUCT, PROJECTION = "independent", "product", "projection"
LIKELIHOOD, DRAWING = "chosen for likelihood", "chosen for drawing"
COUPLINGS = (PRODUCT, "ratio", PROJECTION, LIKELIHOOD, DRAWING)
BOTH = (INDEPENDENT, DRAWING)
WHERE = """Needs transformers, rdkit, and two folders:
--model DIR with config.json, vocab.txt and pytorch_model.bin of a BERT that reads reactions: in the
  wheel of rxnfp 0.1.0 (pip download --no-deps rxnfp), rxnfp/models/transformers/bert_pretrained
--data DIR or PCFLOW_DATA with rxn/reactions.train.txt and rxn/reactions.test.txt, on every line one
  "precursors>>product" without atom maps: USPTO-50k, https://github.com/vsomnath/graphretro"""


@dataclass(frozen=True)
class Table:
    """Shares of valid and of restored reactions by decoder and number of steps.

    Attributes:
        hidden: how many neighbouring tokens are masked, or None for the whole product.
        names: of the decoders.
        steps: how many, one column each.
        ranking: which positions first.
        temperature: of the draws.
    """

    hidden: int | None
    names: Sequence[str]
    steps: Sequence[int]
    ranking: Ranking = "random"
    temperature: float = 1.0

    @property
    def title(self) -> str:
        """What all its cells share."""
        masked = "the whole product" if self.hidden is None else f"{self.hidden} tokens"
        order = "random order" if self.ranking == "random" else "surest positions first"
        return f"{masked} masked, {order}, temperature {self.temperature:g}"

    @property
    def cells(self) -> list[tuple[str, int]]:
        """Decoders and steps; in as many as there are masks, two decoders are enough."""
        every = [(name, steps) for name in self.names for steps in self.steps]
        return [(name, steps) for name, steps in every if steps != self.hidden or name in BOTH]


def tables() -> list[Table]:
    """All that are printed."""
    steps, half, whole = size([1, 2, 4, 8, 16], [1, 2]), size(16, 4), size(32, 8)
    few, every = steps[:4], (INDEPENDENT, PRODUCT, PROJECTION, LIKELIHOOD, DRAWING)
    less = [of_less(count, "tokens") for count in WINDOWS]
    less += [of_less(count, "states") for count in STATES[:-1]]
    return [
        Table(half, every, steps),
        Table(half, every, steps, "low_confidence"),
        Table(half, [*less, DRAWING], few[:3]),
        Table(half, BOTH, few, "low_confidence", temperature=0.5),
        Table(whole, BOTH, few),
        Table(whole, BOTH, few, "low_confidence"),
        Table(None, BOTH, few, "low_confidence"),
    ]


def of_less(count: int, what: str) -> str:
    """The name of a decoder whose circuit has fewer states or covers fewer tokens than others."""
    return f"{DRAWING}, {count} {what}"


def main() -> None:
    """Keep what is found in the folder that is given, or nowhere."""
    keep(_parse(), run)


def keep(given: argparse.Namespace, run: Callable[[argparse.Namespace, Path], None]) -> None:
    """Run with the folder that is given, or with one that goes."""
    with TemporaryDirectory() as passing:
        folder = given.out or Path(passing)
        folder.mkdir(parents=True, exist_ok=True)
        run(given, folder)


def run(given: argparse.Namespace, folder: Path) -> None:
    """Learn a circuit, choose couplings, fill every cell that is missing, and print all."""
    train, test = (read(split, given.data) for split in ("train", "test"))
    words = Vocabulary.of(train)
    circuits = {states: circuit_of(train, words, states, folder) for states in STATES}
    backbone = toy_model(words) if TOY else bert(given.model, words)
    rows = words.rows(test)
    heads = heads_of(circuits, backbone, words, rows[-FRESH:])
    parts = rows.split(given.reactions)
    bench = Bench(words, backbone, heads, {seed: parts[seed] for seed in given.seeds}, folder)
    for table in tables():
        say(f"{table.title}, {given.reactions} reactions for each of {len(given.seeds)} seeds\n")
        cells = bench.cells(table)
        print(shares(table, cells), flush=True)
        if INDEPENDENT in table.names:
            print(f"\n{differences(table, cells)}", flush=True)
    means, spread = mean_and_spread([bench.nats(seed) for seed in given.seeds])
    say(f"Windows of {WINDOW} tokens\n\n{markdown(means, RATIOS, spread)}")


def heads_of(
    circuits: Mapping[int, pf.CompiledCircuit],
    backbone: Backbone,
    words: Vocabulary,
    fresh: Tensor,
) -> dict[str, CircuitHead]:
    """Decoders by name: couplings of the largest circuit, and one of less circuit.

    Circuits cover whole reactions, but for some windows. Two couplings are chosen on fresh ones.
    """
    circuit, mask = circuits[STATES[-1]], words.mask
    whole = over(circuit, LONGEST)
    generator = torch.Generator().manual_seed(0)
    x = masked_window(fresh, WINDOW, sample_times(len(fresh), generator), words, generator)
    said = backbone(x)
    heads = {name: CircuitHead(whole, mask, name) for name in ("product", "ratio", "projection")}
    for name, purpose in ((LIKELIHOOD, "likelihood"), (DRAWING, "drawing")):
        heads[name] = CircuitHead(whole, mask)
        print(f"{name}: {heads[name].choose_coupling(said, x, fresh, for_=purpose)}", flush=True)
    coupling = heads[DRAWING].coupling
    for length in WINDOWS:
        heads[of_less(length, "tokens")] = CircuitHead(over(circuit, length), mask, coupling)
    for states in STATES[:-1]:
        smaller = over(circuits[states], LONGEST)
        heads[of_less(states, "states")] = CircuitHead(smaller, mask, coupling)
    return heads


@dataclass(frozen=True)
class Remembering:
    """A backbone that is asked about one text again and again."""

    backbone: Backbone
    text: Tensor

    @cached_property
    def said(self) -> Tensor:
        """What it says of that text."""
        return self.backbone(self.text)

    def __call__(self, tokens: Tensor, /) -> Tensor:
        """Logits [B, N, V]."""
        return self.said if torch.equal(tokens, self.text) else self.backbone(tokens)


Cells = Mapping[tuple[str, int], Tensor]
"""By decoder and number of steps, which reactions are valid and which restored, [seeds, 2, B]."""


@dataclass(frozen=True)
class Bench:
    """Judges decoders on the same reactions, and keeps what it has found in a folder.

    Attributes:
        words: what reactions are made of.
        backbone: says logits [B, N, V].
        heads: by name.
        rows: the reactions [B, N] of every seed.
        folder: where files of cells are.
    """

    words: Vocabulary
    backbone: Backbone
    heads: Mapping[str, CircuitHead]
    rows: Mapping[int, Tensor]
    folder: Path

    def cells(self, table: Table) -> Cells:
        """All of a table."""
        parts = [self.of_seed(table, seed) for seed in self.rows]
        return {cell: torch.stack([part[cell] for part in parts]) for cell in parts[0]}

    def of_seed(self, table: Table, seed: int) -> dict[tuple[str, int], Tensor]:
        """Cells of one seed."""
        backbone = Remembering(self.backbone, self.masked(table.hidden, seed))

        def cell(name: str, steps: int) -> Tensor:
            return torch.tensor(
                self.kept(
                    f"{table.title}, {name}, {steps} steps, seed {seed}",
                    lambda: self.judged(backbone, table, name, steps, seed),
                )
            )

        return {(name, steps): cell(name, steps) for name, steps in table.cells}

    def kept(self, title: str, find: Callable[[], T]) -> T:
        """What is on file, or is found now and put there."""
        file = self.folder / f"{title}.json"
        if not file.exists():
            pf.replace_file(file, [json.dumps(find()).encode()])
        found: T = json.loads(file.read_bytes())
        return found

    def masked(self, hidden: int | None, seed: int) -> Tensor:
        """Reactions [B, N] with masks."""
        if hidden is None:
            return masked_product(self.rows[seed], self.words)
        generator = torch.Generator().manual_seed(seed)
        return masked_window(self.rows[seed], hidden, 1.0, self.words, generator)

    def judged(
        self, backbone: Remembering, table: Table, name: str, steps: int, seed: int
    ) -> list[list[bool]]:
        """Which reactions are valid once they are filled, and which are the same as before."""
        filled = infill(
            backbone,
            backbone.text,
            self.heads.get(name),
            steps=steps,
            decoding=Decoding(temperature=table.temperature, ranking=table.ranking),
            mask_token_id=self.words.mask,
            generator=torch.Generator().manual_seed(seed),
        )
        valid = [is_valid(self.words.decode(reaction)) for reaction in filled]
        return [valid, (filled == self.rows[seed]).all(dim=1).tolist()]

    def nats(self, seed: int) -> dict[str, list[float]]:
        """Nats per masked token of every method by share of a window that is masked."""
        parts = [
            self.kept(f"nats at {s:.2f}, seed {seed}", partial(self.nats_at, s, seed))
            for s in RATIOS
        ]
        return {name: [part[name] for part in parts] for name in parts[0]}

    @torch.no_grad()
    def nats_at(self, share: float, seed: int) -> dict[str, float]:
        """One column."""
        generator, rows = torch.Generator().manual_seed(seed), self.rows[seed][:JUDGED]
        x = masked_window(rows, WINDOW, share, self.words, generator)
        seen = Examples(self.backbone(x), x, rows, rows, self.words.mask)
        return {
            gap.FACTORISED: gap.factorised_nats(seen),
            gap.SEQUENTIAL: gap.sequential_nats(self.backbone, seen, generator),
            gap.CIRCUIT: gap.circuit_nats(self.heads[PRODUCT].model, seen),
            **{name: gap.coupled_nats(self.heads[name], seen) for name in COUPLINGS},
        }


def shares(table: Table, cells: Cells) -> str:
    """Means over seeds and their standard deviation, in brackets the share of those restored."""
    return _markdown(
        "share valid (restored), by steps",
        table.steps,
        {
            name: [_share(cells[name, n]) if (name, n) in cells else "" for n in table.steps]
            for name in table.names
        },
    )


def _share(found: Tensor) -> str:
    valid, restored = found.double().mean(dim=-1).unbind(dim=1)  # [seeds] each
    return f"{valid.mean():.3f} ± {valid.std():.3f} ({restored.mean():.3f})"


def differences(table: Table, cells: Cells) -> str:
    """Couplings against independent draws of the same reactions, in as many steps or in more."""
    pairs = [(n, n * times) for times in (1, 2, 4) for n in table.steps if n > 1]
    pairs = [pair for pair in pairs if pair[1] in table.steps]
    return _markdown(
        "share valid above independent, by steps for steps",
        [f"{ours} for {theirs}" for ours, theirs in pairs],
        {
            name: [
                _difference(cells[name, ours], cells[INDEPENDENT, theirs])
                if (name, ours) in cells
                else ""
                for ours, theirs in pairs
            ]
            for name in table.names
            if name != INDEPENDENT
        },
    )


def _difference(ours: Tensor, theirs: Tensor) -> str:
    more = (ours.double() - theirs.double())[:, 0].flatten()
    return f"{more.mean():+.3f} ± {more.std() / sqrt(len(more)):.3f}"


def _markdown(about: str, columns: Sequence[object], rows: Mapping[str, Sequence[str]]) -> str:
    lines = [[about, *map(str, columns)], ["---"] * (1 + len(columns))]
    lines += [[name, *cells] for name, cells in rows.items()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _parse() -> argparse.Namespace:
    parser = arguments(__doc__)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--data", type=Path, default=size(os.environ.get("PCFLOW_DATA"), None))
    parser.add_argument("--out", type=Path, help="for what is found; nothing is kept without it")
    parser.add_argument(
        "--reactions", type=int, default=size(100, 4), help="per seed (%(default)s)"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=size([0, 1, 2], [0, 1]))
    given = parser.parse_args()
    peers = is_installed("transformers") and is_installed("rdkit")
    if not TOY and not (given.model and given.data and peers):
        parser.exit(0, f"{WHERE}\n")
    return given


if __name__ == "__main__":
    main()
