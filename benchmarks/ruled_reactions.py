"""Products of reactions under a rule for SMILES, by a public model that nobody here trained.

    python benchmarks/ruled_reactions.py --model DIR --data DIR [--out FOLDER]

What reacts is given, and the product is written, 32 tokens in two blocks. The rule is as much of
SMILES as an automaton can tell, up to a depth: brackets and ring bonds do not dangle, and bonds
lead to atoms. RDKit says which products can be read, and whether one is the product that was found.
Writers and judge are those of `python -m pcflow_diffusion.evaluate constraints`; "valid" is what
RDKit reads, which is also what rejection asks for. Model and data: see `reactions.py`.

Legend: B batch, N tokens of a reaction, T of a product, V tokens.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import and_
from pathlib import Path

import torch
from molecules import (
    ENDS,
    LONGEST,
    PAD,
    SHORTEST,
    TOKEN,
    Vocabulary,
    bert,
    canonical,
    circuit_of,
    masked_window,
    over,
    read,
    toy_model,
)
from reactions import FRESH, WHERE, WINDOW, keep
from torch import Tensor
from torch.nn.functional import pad
from toy import TOY, arguments, is_installed, size

import pcflow as pf
from pcflow_diffusion import Backbone, CircuitHead, sample_times
from pcflow_diffusion.evaluate.constraints import markdown, measure, writers
from pcflow_diffusion.evaluate.counting import CountingReader
from pcflow_diffusion.evaluate.ruled import Task
from pcflow_diffusion.models.progress import say

T, BLOCK = size(32, 8), size(16, 4)
SEEN = size(48, 8)  # tokens before a block that the circuit sees
STEPS = size([1, 2, 4, 8], [1, 2])
STATES = size(128, 3)
DEPTH, RINGS = 3, "1234"  # brackets in brackets, and numbers of ring bonds: nine in ten have fewer
ATOM, BOND, RING, OPEN, CLOSE, OTHER = range(6)
KINDS = dict.fromkeys("-=#/\\", BOND) | dict.fromkeys(RINGS, RING) | {"(": OPEN, ")": CLOSE}
KINDS |= dict.fromkeys([*ENDS, ".", ">>", *"056789"], OTHER)
AFTER = [  # the start, what opens, what may end, a bond: an atom, bond, ring, open, close, other
    [2, -1, -1, -1, -1, -1],
    [2, 3, -1, -1, -1, -1],
    [2, 3, 2, 1, 2, -1],
    [2, -1, 2, -1, -1, -1],
]


def smiles(names: Sequence[str]) -> pf.Automaton:
    """Molecules of one part, of tokens with these names.

    Examples:
        >>> rule = smiles(["C", "(", ")", "1", "="])
        >>> rule.accepts([[0, 1, 4, 0, 2, 0], [0, 3, 0, 0, 0, 0], [0, 1, 4, 2, 0, 0]])
        tensor([ True, False, False])
    """
    kinds = [KINDS.get(name, OTHER if name.startswith("%") else ATOM) for name in names]
    grammar = pf.Automaton(kinds, AFTER, start=0, accept=[False, False, True, False])
    paired = [twice([name == ring for name in names]) for ring in RINGS]
    return reduce(and_, [grammar, closed(names), *paired])


def closed(names: Sequence[str]) -> pf.Automaton:
    """Texts in which brackets are closed, one in another to some depth."""
    kinds = [1 if name == "(" else 2 if name == ")" else 0 for name in names]
    after = [[d, d + 1 if d < DEPTH else -1, d - 1] for d in range(DEPTH + 1)]
    return pf.Automaton(kinds, after, start=0, accept=[not d for d in range(DEPTH + 1)])


def twice(flags: Sequence[bool]) -> pf.Automaton:
    """Texts with an even number of what is marked."""
    return pf.Automaton([int(flag) for flag in flags], [[0, 1], [1, 0]], 0, [True, False])


@dataclass(frozen=True)
class Aligned:
    """A model of texts that begin at the first place and have an end, asked of others.

    Attributes:
        model: maps tokens [B, N] with padding on the right to logits [B, N, V].
        end: the token behind every text.
    """

    model: Backbone
    end: int

    def __call__(self, tokens: Tensor, /) -> Tensor:
        """Logits [B, N, V] of texts with padding on the left, and nothing behind them."""
        text = pad(tokens, (0, 1), value=self.end)
        spare = (text == PAD).sum(dim=1, keepdim=True)
        place, count = torch.arange(text.shape[1]), text.shape[1]
        said = self.model(text.gather(1, (place + spare) % count))
        back = ((place - spare) % count).unsqueeze(-1).expand_as(said)
        return said.gather(1, back)[:, :-1]


def products(words: Vocabulary, reactions: Sequence[str], count: int) -> Tensor:
    """The first of some reactions [B, N], padded on the left, without end."""
    encoded = [words.encode(reaction) for reaction in reactions]
    fits = [text[:-1] for text in encoded if text and SHORTEST <= len(text) <= LONGEST][:count]
    widest = max(map(len, fits))
    return torch.tensor([[PAD] * (widest - len(text)) + text for text in fits])


def length(reaction: str) -> int:
    """How many tokens its product has."""
    return len(TOKEN.findall(reaction.partition(">>")[2]))


def task_of(words: Vocabulary, backbone: Backbone, rows: Tensor, judged: Tensor) -> Task:
    """Products to write, of reactions [B, N]; the judge has read other ones."""

    def said(texts: Tensor) -> list[str | None]:
        return [canonical(words.decode(text)) for text in texts]

    prompts, found = rows[:, :-T], rows[:, -T:]
    wanted = dict(zip(map(words.decode, prompts), said(found), strict=True))

    def are_valid(texts: Tensor) -> Tensor:
        return torch.tensor([text is not None for text in said(texts)])

    def share_right(asked: Tensor, texts: Tensor) -> Tensor:
        pairs = zip(map(words.decode, asked), said(texts), strict=True)
        right = [text is not None and wanted[prompt] == text for prompt, text in pairs]
        return torch.tensor(right).float()

    return Task(
        Aligned(backbone, ENDS.index("[SEP]")),
        prompts,
        smiles(words.names),
        are_valid,
        CountingReader(judged[judged != PAD], words.mask),
        gen_length=T,
        block_length=BLOCK,
        mask_token_id=words.mask,
        share_right=share_right,
    )


def head_of(
    circuit: pf.CompiledCircuit, backbone: Backbone, words: Vocabulary, fresh: Tensor
) -> CircuitHead:
    """A head for a block and what is before it; its coupling is chosen for drawing."""
    generator = torch.Generator().manual_seed(0)
    x = masked_window(fresh, WINDOW, sample_times(len(fresh), generator), words, generator)
    whole = CircuitHead(over(circuit, LONGEST), words.mask)
    coupling = whole.choose_coupling(backbone(x), x, fresh, for_="drawing")
    print(coupling, flush=True)
    return CircuitHead(over(circuit, SEEN + BLOCK), words.mask, coupling)


def main() -> None:
    """Keep the circuit in the folder that is given, or nowhere."""
    keep(_parse(), run)


def run(given: argparse.Namespace, folder: Path) -> None:
    """Learn a circuit, choose a coupling, write products, print the tables."""
    train, test = (read(split, given.data) for split in ("train", "test"))
    words = Vocabulary.of(train)
    circuit = circuit_of(train, words, STATES, folder)
    backbone = toy_model(words) if TOY else bert(given.model, words)
    rows = products(words, [reaction for reaction in test if length(reaction) == T], given.count)
    others = words.rows([reaction for reaction in test if length(reaction) != T])
    judged, fresh = others.tensor_split([-FRESH])
    head = head_of(circuit, backbone, words, fresh)
    task = task_of(words, backbone, rows, judged)
    found = measure(task, writers(head), given.steps, range(given.seeds), progress=not TOY)
    about = f"{len(task.prompts)} products for each of {given.seeds} seeds"
    say(f"SMILES under {task.rule}, {about}\n\n{markdown(found)}")


def _parse() -> argparse.Namespace:
    parser = arguments(__doc__)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--data", type=Path, default=size(os.environ.get("PCFLOW_DATA"), None))
    parser.add_argument("--out", type=Path, help="for the circuit; it is not kept without it")
    parser.add_argument("--steps", type=int, nargs="+", default=STEPS, help="per block")
    parser.add_argument("--count", type=int, default=size(48, 3), help="products (%(default)s)")
    parser.add_argument("--seeds", type=int, default=size(2, 1), help="of draws (%(default)s)")
    given = parser.parse_args()
    peers = is_installed("transformers") and is_installed("rdkit")
    if not TOY and not (given.model and given.data and peers):
        parser.exit(0, f"{WHERE}\n")
    return given


if __name__ == "__main__":
    main()
