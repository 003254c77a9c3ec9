"""Which of these words fits the hole? Answers of several tokens, jointly and slot by slot.

    python -m pcflow_diffusion.evaluate decisions [--text FILE] [--seeds 3]
    python -m pcflow_diffusion.evaluate decisions --model FOLDER [--head FILE]

From a held-out block a word of two tokens or more is taken out. To choose from are this word and
others of as many tokens, drawn from the text as often as they occur there. Every seed has words,
a circuit (unless it is that of a saved head) and training draws of its own.

Legend: C tokens of the context, L positions of a block, W tokens of a word, V tokens of the
vocabulary, N holes, n words to choose from.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from typing import get_args

import torch
from torch import Tensor
from tqdm import tqdm

from pcflow_diffusion.backbones import Backbone
from pcflow_diffusion.evaluate.gap import Table, mean_and_spread
from pcflow_diffusion.evaluate.setting import (
    Material,
    add_arguments,
    asked,
    circuit_and_heads,
    parse_with_model,
    say,
)
from pcflow_diffusion.evaluate.words import Hole, Kind, Lexicon
from pcflow_diffusion.head import CircuitHead, Marginals
from pcflow_diffusion.train import block_logits

OPTIONS = (2, 4, 16)
HOLES = 256  # at most
BINS = 10  # of confidence, for the calibration error
INDEPENDENT, ONE_BY_ONE = "independent slots", "one token after another"

Score = Callable[[Hole], Tensor]
"""Log-probabilities [n] of the words of a hole, up to a constant."""


@dataclass(frozen=True)
class Column:
    """Which holes are judged by how many words: those whose words have a certain length, or all."""

    name: str
    options: int
    tokens: range

    def of(self, holes: Sequence[Hole], scores: Tensor) -> Tensor:
        """Log-probabilities [N, n] of these, from scores [N, n] of more."""
        here = torch.tensor([len(hole.span) in self.tokens for hole in holes])
        return scores[here, : self.options].log_softmax(dim=-1)


BY_OPTIONS = [Column(f"{count} words", count, range(2, 1_000)) for count in OPTIONS]
BY_TOKENS = [
    Column(f"{name} tokens, {OPTIONS[-1]} words", OPTIONS[-1], tokens)
    for name, tokens in (("2", range(2, 3)), ("3", range(3, 4)), ("4 or more", range(4, 1_000)))
]


@dataclass(frozen=True, eq=False)
class Readers:
    """What gives the words of a hole probabilities, on blocks of one text."""

    backbone: Backbone
    mask_token_id: int
    block: int

    def by_name(self, heads: Mapping[str, CircuitHead]) -> dict[str, Score]:
        """Independent slots, the coupled joints, and the backbone one token after another."""
        coupled = {name: self._coupled(head) for name, head in heads.items()}
        return {INDEPENDENT: self.independent, **coupled, ONE_BY_ONE: self.one_by_one}

    def independent(self, hole: Hole) -> Tensor:
        """Every token of a word by itself."""
        log_m = self._marginals(hole, self._x(hole)).log_m[0, hole.span.start : hole.span.stop]
        return log_m.gather(1, hole.words.t()).sum(dim=0)

    def one_by_one(self, hole: Hole) -> Tensor:
        """The backbone's own joint, from left to right: a call for every beginning of a word."""
        found, x = torch.zeros(len(hole.words)), self._x(hole).repeat(len(hole.words), 1)
        for place, tokens in zip(hole.span, hole.words.t(), strict=True):
            different, which = x.unique(dim=0, return_inverse=True)
            log_m = self._marginals(hole, different).log_m[which, place]
            found += log_m.gather(1, tokens.unsqueeze(1)).squeeze(1)
            x[:, place] = tokens
        return found

    def _coupled(self, head: CircuitHead) -> Score:
        def score(hole: Hole) -> Tensor:
            x = self._x(hole)
            logits = block_logits(self.backbone, hole.row.unsqueeze(0), x)
            return head.probabilities(logits, x, {"word": hole.words.tolist()})["word"][0].log()

        return score

    def _x(self, hole: Hole) -> Tensor:
        x = hole.row[-self.block :].clone()
        x[hole.span.start : hole.span.stop] = self.mask_token_id
        return x.unsqueeze(0)

    def _marginals(self, hole: Hole, x: Tensor) -> Marginals:
        logits = block_logits(self.backbone, hole.row.expand(len(x), -1), x)
        return Marginals.of(logits, x, self.mask_token_id)


def figures(log_p: Tensor) -> list[float]:
    """Log-loss (nats), share right, and calibration error of [N, n], the first being right.

    The calibration error is the mean distance of confidence and share right, over ten bins of
    confidence, each counting by what it holds (Guo et al. 2017, Eq. 3).

    Examples:
        >>> figures(torch.tensor([[0.8, 0.2], [0.2, 0.8]]).log())
        [0.916..., 0.5, 0.300...]
    """
    confidence, best = log_p.double().exp().max(dim=1)
    right = (best == 0).double()
    label = (confidence * BINS).long().clamp_max(BINS - 1)
    off = torch.zeros(BINS, dtype=torch.float64).index_add(0, label, confidence - right)
    error = float(off.abs().sum() / len(log_p))
    return [float(-log_p[:, 0].double().mean()), float(right.mean()), error]


@torch.no_grad()
def judge(holes: Sequence[Hole], readers: Mapping[str, Score], columns: Iterable[Column]) -> Table:
    """By reader the figures of every column, and how much less its log-loss is than the first's."""
    found: dict[str, list[float]] = {}
    parts: list[Tensor] = []
    for name, score in readers.items():
        scores = torch.stack([score(hole) for hole in tqdm(holes, name, leave=False)])
        log_p = [column.of(holes, scores) for column in columns]
        parts = parts or log_p
        found[name] = []
        for own, first in zip(log_p, parts, strict=True):
            less = float((own[:, 0] - first[:, 0]).double().mean())
            found[name] += [*figures(own), less]
    return found


def markdown(table: Table, spread: Table | None, columns: Sequence[Column]) -> str:
    """The figures in Markdown, and the spread, if given, of what is less.

    Examples:
        >>> table = {INDEPENDENT: [0.5, 0.7, 0.02, 0.0], "ours": [0.4, 0.8, 0.03, 0.1]}
        >>> print(markdown(table, None, BY_OPTIONS[:1]))
        | log-loss (less than independent); right; calibration error | 2 words |
        |---|---|
        | independent slots | 0.500; 70.0 %; 2.0 % |
        | ours | 0.400 (0.100); 80.0 %; 3.0 % |
    """
    titles = " | ".join(column.name for column in columns)
    lines = [f"| log-loss (less than independent); right; calibration error | {titles} |"]
    lines.append("|---|" + "---|" * len(columns))
    for name, row in table.items():
        cells = " | ".join(_cells(row, None if spread is None else spread[name]))
        lines.append(f"| {name} | {cells} |")
    return "\n".join(lines)


def _cells(row: Sequence[float], spread: Sequence[float] | None) -> Iterator[str]:
    """What stands in every column, from four figures each."""
    for start in range(0, len(row), 4):
        loss, right, error, less = row[start : start + 4]
        off = "" if spread is None else f" ± {spread[start + 3]:.3f}"
        beside = f" ({less:.3f}{off})" if less else ""
        yield f"{loss:.3f}{beside}; {right * 100:.1f} %; {error * 100:.1f} %"


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line, run every seed, print the tables."""
    given = _parse(arguments)
    material, saved = asked(given)
    lexicon = lexicon_of(material)
    columns = BY_OPTIONS + BY_TOKENS
    runs: dict[Kind, list[Table]] = {kind: [] for kind in get_args(Kind)}
    for seed in range(given.seed, given.seed + given.seeds):
        say(f"Seed {seed}: a circuit of the text, and couplings.")
        torch.manual_seed(seed)
        draws = torch.Generator().manual_seed(seed)
        _, heads = circuit_and_heads(saved, material, given.states, draws)
        readers = Readers(material.denoiser, material.tokenizer.mask_token_id, material.block)
        for kind, found in runs.items():
            holes = some_holes(lexicon, material, kind, draws)
            counts = [sum(len(hole.span) in c.tokens for hole in holes) for c in BY_TOKENS]
            say(f"{len(holes)} holes, {kind}; of 2, 3, more tokens: {counts}")
            found.append(judge(holes, readers.by_name(heads), columns))
    for kind, tables in runs.items():
        print(f"\n{kind}\n\n{_tables(tables)}")


def some_holes(
    lexicon: Lexicon, material: Material, kind: Kind, generator: torch.Generator
) -> list[Hole]:
    """So many of the words of the held-out blocks, or all if there are no more."""
    every = list(lexicon.holes(material.judged, material.block, kind, OPTIONS[-1], generator))
    return [every[i] for i in torch.randperm(len(every), generator=generator)[:HOLES].tolist()]


def lexicon_of(material: Material) -> Lexicon:
    """The words of the training text."""
    train = torch.cat([material.train[:, 0], material.train[-1, 1:]])
    return Lexicon(train, material.tokenizer.vocabulary)


def _tables(runs: Sequence[Table]) -> str:
    """A table by options and one by tokens, of what every seed has holes for."""
    shown, start = [], 0
    for columns in (BY_OPTIONS, BY_TOKENS):
        places = [(column, start + 4 * place) for place, column in enumerate(columns)]
        there = [(c, at) for c, at in places if not any(isnan(r[INDEPENDENT][at]) for r in runs)]
        cells = [cell for _, at in there for cell in range(at, at + 4)]
        some = [{name: [row[cell] for cell in cells] for name, row in run.items()} for run in runs]
        shown.append(markdown(*mean_and_spread(some), [column for column, _ in there]))
        start += 4 * len(columns)
    return "\n\n".join(shown)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "pcflow_diffusion.evaluate decisions", description=(__doc__ or "").splitlines()[0]
    )
    add_arguments(parser)
    parser.add_argument("--seeds", type=int, default=1, help="how many (%(default)s)")
    return parse_with_model(parser, arguments)
