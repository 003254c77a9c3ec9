"""Which of these words fits the hole? Answers of several tokens, jointly and slot by slot.

    python -m pcflow_diffusion.evaluate decisions [--text FILE] [--seeds 3]
    python -m pcflow_diffusion.evaluate decisions --model FOLDER [--head FILE]

From a held-out block a word of two tokens or more is taken out. To choose from are this word and
others of as many tokens that occur in the training text: any, or those that begin or end with the
same token. Every seed has words and a circuit (unless it is that of a saved head) of its own.

Legend: C tokens of the context, L positions of a block, W tokens of a word, V tokens of the
vocabulary, N holes, n words to choose from.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from typing import get_args

import torch
from torch import Tensor

from pcflow_diffusion.checks import Command
from pcflow_diffusion.errors import TextError
from pcflow_diffusion.evaluate.gap import Table, mean_and_spread
from pcflow_diffusion.evaluate.setting import (
    SAVED,
    Material,
    add_arguments,
    asked,
    fit_circuit,
)
from pcflow_diffusion.evaluate.words import Hole, Kind, Lexicon
from pcflow_diffusion.head import CircuitHead, Marginals
from pcflow_diffusion.models import Backbone
from pcflow_diffusion.models.progress import bar, say
from pcflow_diffusion.train import block_logits

OPTIONS = (2, 4, 8)
HOLES = 128  # at most
BATCH = 64  # rows per call of the backbone
BINS = 10  # of confidence, for the calibration error
INDEPENDENT, ONE_BY_ONE = "independent slots", "one token after another"


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
class Reader:
    """What a backbone says of blocks with holes, [N, L, V].

    Args:
        backbone: maps tokens to logits.
        mask_token_id: the mask.
    """

    backbone: Backbone
    mask_token_id: int

    @torch.no_grad()
    def logits(self, holes: Sequence[Hole]) -> tuple[Tensor, Tensor]:
        """Logits [N, L, V] and the blocks with masks [N, L]."""
        rows = torch.stack([hole.row for hole in holes])
        x = torch.stack([hole.masked(self.mask_token_id) for hole in holes])
        parts = zip(rows.split(BATCH), x.split(BATCH), strict=True)
        return torch.cat([block_logits(self.backbone, *part) for part in parts]), x

    def scores(self, holes: Sequence[Hole], heads: Mapping[str, CircuitHead]) -> dict[str, Tensor]:
        """Log-probabilities [N, n] of the words, up to a constant for every hole.

        By independent slots, by the coupled joints, and by the backbone one token after another.
        """
        found: dict[str, list[Tensor]] = {n: [] for n in (INDEPENDENT, *heads, ONE_BY_ONE)}
        for hole, *seen in zip(bar(holes, unit="hole"), *self.logits(holes), strict=True):
            logits, x = (part.unsqueeze(0) for part in seen)
            said = Marginals.of(logits, x, self.mask_token_id)
            found[INDEPENDENT].append(hole.product(said))
            for name, head in heads.items():
                answers = {"word": hole.words.tolist()}
                found[name].append(head.probabilities(logits, x, answers)["word"][0].log())
            found[ONE_BY_ONE].append(self._one_by_one(hole))
        return {name: torch.stack(scores) for name, scores in found.items()}

    @torch.no_grad()
    def _one_by_one(self, hole: Hole) -> Tensor:
        """From left to right, with a row for every beginning of a word."""
        found = torch.zeros(len(hole.words))
        x = hole.masked(self.mask_token_id).repeat(len(found), 1)
        for place, tokens in zip(hole.span, hole.words.t(), strict=True):
            different, which = x.unique(dim=0, return_inverse=True)
            logits = block_logits(self.backbone, hole.row.expand(len(different), -1), different)
            log_m = Marginals.of(logits, different, self.mask_token_id).log_m[which, place]
            found += log_m.gather(1, tokens.unsqueeze(1)).squeeze(1)
            x[:, place] = tokens
        return found


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


def judge(
    holes: Sequence[Hole], scores: Mapping[str, Tensor], columns: Iterable[Column]
) -> dict[str, list[float]]:
    """The figures of every column, and how much less its log-loss is than by independent slots."""
    found: dict[str, list[float]] = {name: [] for name in scores}
    for column in columns:
        first = column.of(holes, scores[INDEPENDENT])
        for name, row in found.items():
            log_p = column.of(holes, scores[name])
            row += [*figures(log_p), float((log_p - first)[:, 0].double().mean())]
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
    reader = Reader(material.denoiser, material.tokenizer.mask_token_id)
    runs: dict[Kind, list[Table]] = {kind: [] for kind in get_args(Kind)}
    for seed in range(given.seed, given.seed + given.seeds):
        say(f"Seed {seed}: a circuit of the text, and couplings.")
        torch.manual_seed(seed)
        draws = torch.Generator().manual_seed(seed)
        fitted_to = some_holes(lexicon, material.calibration, material.block, "any words", draws)
        heads = heads_of(saved, material, given.states, reader, fitted_to)
        for kind, tables in runs.items():
            holes = some_holes(lexicon, material.judged, material.block, kind, draws)
            counts = [sum(len(hole.span) in c.tokens for hole in holes) for c in BY_TOKENS]
            say(f"{len(holes)} holes, {kind}; of 2, 3 and more tokens: {counts}.")
            scores = reader.scores(holes, heads)
            tables.append(judge(holes, scores, BY_OPTIONS + BY_TOKENS))
    for kind, tables in runs.items():
        print(f"\n{kind}\n\n{_tables(tables)}")


def heads_of(
    saved: CircuitHead | None,
    material: Material,
    states: int,
    reader: Reader,
    holes: Sequence[Hole],
) -> dict[str, CircuitHead]:
    """Couplings of a circuit of the text, or of a saved head's, one of them fitted to holes."""
    circuit = fit_circuit(material, states) if saved is None else saved.model
    mask = material.tokenizer.mask_token_id
    fitted = CircuitHead(circuit, mask, "product")
    logits, x = reader.logits(holes)
    fitted.fit_coupling(logits, x, torch.stack([hole.row for hole in holes])[:, -x.shape[1] :])
    return ({} if saved is None else {SAVED: saved}) | {
        "product": CircuitHead(circuit, mask, "product"),
        "projection, 2 sweeps": CircuitHead(circuit, mask, "projection"),
        "log-linear, fitted": fitted,
    }


def some_holes(
    lexicon: Lexicon, rows: Tensor, block: int, kind: Kind, generator: torch.Generator
) -> list[Hole]:
    """So many of the words in the blocks of rows [N, C + L], or all if there are no more.

    Raises:
        TextError: if there is none that enough others are known for.
    """
    every = list(lexicon.holes(rows, block, kind, OPTIONS[-1], generator))
    if not every:
        raise TextError(f"of no held-out word {OPTIONS[-1] - 1} others are known: {kind}")
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
    parser = Command("pcflow_diffusion.evaluate decisions", __doc__)
    add_arguments(parser)
    return parser.parse_args(arguments)
