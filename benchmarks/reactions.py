"""Couplings under a public masked language model of chemical reactions that nobody here trained.

    python benchmarks/reactions.py --model DIR --data DIR [--reactions 100] [--states 128]

The share of reactions that RDKit can read after half of a window was masked and drawn again, by
ranking, coupling and steps per window, and nats per masked token by share masked. The window holds
visible tokens on both sides of the masks. Independent draws are a peer in every table, and at as
many steps as there are masks they are the sequential one. Couplings are chosen on other reactions
than those that are judged. Prints Markdown.

Legend: B batch, N tokens of a reaction, L positions of a window, V tokens.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from toy import TOY, arguments, is_installed, size

import pcflow as pf
from pcflow_diffusion import CircuitHead, Decoding, Denoiser, DenoiserConfig, infill, sample_times
from pcflow_diffusion.evaluate import gap_table, markdown
from pcflow_diffusion.evaluate.gap import make_examples
from pcflow_diffusion.evaluate.setting import say
from pcflow_diffusion.head import Ranking
from pcflow_diffusion.train import block_logits

LENGTH, HIDDEN = size((32, 16), (8, 4))
LONGEST = 112  # tokens of a reaction: longer ones take more time and show nothing else
RATIOS = size([0.15, 0.5, 1.0], [0.5])
RANKINGS: tuple[Ranking, ...] = ("random", "low_confidence")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
TOKEN = re.compile(r"\[[^\]]*\]|Br|Cl|>>|%\d\d|.")  # atom, bond, ring, arrow
WHERE = """Needs transformers, rdkit, and two folders:
--model DIR with config.json, vocab.txt and pytorch_model.bin of a BERT that reads reactions: in the
  wheel of rxnfp 0.1.0 (pip download --no-deps rxnfp), rxnfp/models/transformers/bert_pretrained
--data DIR or PCFLOW_DATA with rxn/reactions.train.txt and rxn/reactions.test.txt, on every line one
  "precursors>>product" without atom maps: USPTO-50k, https://github.com/vsomnath/graphretro"""

Model = Callable[[Tensor], Tensor]  # padded reactions [B, N] to logits [B, N, V]


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of a reaction, by number."""

    names: list[str]

    def __getitem__(self, name: str) -> int:
        """The number of a token, or that of an unknown one."""
        return self.names.index(name if name in self.names else "[UNK]")

    def encode(self, reaction: str) -> list[int]:
        """Tokens between those that begin and end a text."""
        return [self[name] for name in ("[CLS]", *TOKEN.findall(reaction), "[SEP]")]

    def decode(self, tokens: Tensor) -> str:
        """A reaction of tokens [N]."""
        names = (self.names[token] for token in tokens.tolist())
        return "".join(name for name in names if name not in SPECIAL)

    def never(self) -> list[int]:
        """Tokens that a reaction has none of."""
        unused = [name for name in self.names if name.startswith("[unused")]
        return [self.names.index(name) for name in (*SPECIAL, *unused)]


@dataclass(frozen=True)
class Placed:
    """A backbone of rows [B, 1 + N + L]: where the window begins, a reaction, and the window."""

    model: Model
    padding: int
    never: list[int]

    @torch.no_grad()
    def __call__(self, rows: Tensor, /) -> Tensor:
        """Logits [B, 1 + N + L, V]: those of the window, and zero before it."""
        place = rows[:, :1] + torch.arange(LENGTH)
        reactions = rows[:, 1:-LENGTH].scatter(1, place, rows[:, -LENGTH:])
        used = int((reactions != self.padding).sum(dim=1).max())
        logits = self.model(reactions[:, :used])  # [B, N, V]
        logits = logits.gather(1, place.unsqueeze(-1).expand(-1, -1, logits.shape[-1]))
        logits[..., self.never] = -torch.inf
        return pad(logits, (0, 0, rows.shape[1] - LENGTH, 0))


def main() -> None:
    """Choose couplings on some reactions, and judge them on others."""
    given = _parse()
    names, model = _toy_model() if TOY else _bert(given.model)
    words, states, count = Vocabulary(names), given.states, given.reactions
    train, test = (_read(words, split, given.data) for split in ("train", "test"))
    generator = torch.Generator().manual_seed(given.seed)
    backbone = Placed(model, words["[PAD]"], words.never())
    fresh, judged = (placed(part, words, generator) for part in (test[count:], test[:count]))
    torch.manual_seed(given.seed)
    circuit = circuit_of(train, states, len(names), generator)
    heads = heads_of(circuit, backbone, fresh[: given.held_out], words["[MASK]"], generator)
    say(f"HMM with {states} states; {given.held_out} windows to choose by.")
    for name, head in heads.items():
        print(f"{name}: {head.coupling}", flush=True)
    for ranking in given.rankings:
        say(f"{len(judged)} reactions, {HIDDEN} tokens hidden, ranking {ranking}, temperature 1\n")
        validity(backbone, heads, judged, words, ranking, given.steps)
    rows = judged[: given.judged]
    if len(rows):
        table = gap_table(backbone, circuit, heads, rows, RATIOS, generator=generator)
        say(f"{len(rows)} windows\n\n{markdown(table, RATIOS)}")


def placed(reactions: list[list[int]], words: Vocabulary, generator: torch.Generator) -> Tensor:
    """Rows [B, 1 + N + L] with a window anywhere between the ends of every reaction."""
    longest = max(map(len, reactions))
    whole = torch.tensor([r + [words["[PAD]"]] * (longest - len(r)) for r in reactions])
    room = torch.tensor([len(r) - 1 - LENGTH for r in reactions])
    start = 1 + (torch.rand(len(room), generator=generator) * room).long().unsqueeze(1)
    window = whole.gather(1, start + torch.arange(LENGTH))
    return torch.cat([start, whole, window], dim=1)


def circuit_of(
    reactions: list[list[int]], states: int, vocabulary: int, generator: torch.Generator
) -> pf.CompiledCircuit:
    """A hidden Markov model of windows that begin anywhere."""
    windows = [torch.tensor(r[1:-1]).unfold(0, LENGTH, 1) for r in reactions]
    every = torch.cat([w[torch.randperm(len(w), generator=generator)[:5]] for w in windows])
    every = every[torch.randperm(len(every), generator=generator)]
    model = pf.compile(pf.hmm(LENGTH, states, pf.Categorical(vocabulary)))
    for count, epochs in ((3_000, 12), (len(every), 10)):
        pf.fit(model, every[:count], pf.EM(pseudocount=0.1), epochs=epochs, progress=False)
    return model


def heads_of(
    circuit: pf.CompiledCircuit,
    backbone: Placed,
    rows: Tensor,
    mask: int,
    generator: torch.Generator,
) -> dict[str, CircuitHead]:
    """Couplings by name; some are chosen on windows of which every share is masked."""
    shares = sample_times(len(rows), generator)
    seen = make_examples(backbone, rows, LENGTH, shares, mask, generator)
    names = ("product", "ratio", "projection")
    heads = {name: CircuitHead(circuit, mask, name) for name in names}
    likelihood, drawing = CircuitHead(circuit, mask), CircuitHead(circuit, mask)
    likelihood.choose_coupling(seen.logits, seen.x, seen.x0)
    drawing.choose_coupling(seen.logits, seen.x, seen.x0, for_="drawing")
    return heads | {"chosen for likelihood": likelihood, "chosen for drawing": drawing}


def validity(
    backbone: Placed,
    heads: Mapping[str, CircuitHead],
    rows: Tensor,
    words: Vocabulary,
    ranking: Ranking,
    steps: list[int],
) -> None:
    """Print the share of reactions that can be read, and in brackets that of those restored."""
    window, edge = rows[:, -LENGTH:].clone(), (LENGTH - HIDDEN) // 2
    window[:, edge : edge + HIDDEN] = words["[MASK]"]
    first = block_logits(backbone, rows, window)  # what all ask in their first step

    def in_place(x: Tensor) -> Tensor:
        return first if torch.equal(x, window) else block_logits(backbone, rows, x)

    print(f"| share valid (restored), by steps | {' | '.join(map(str, steps))} |")
    print("|---|" + "---|" * len(steps))
    for name, head in {"independent": None, **heads}.items():
        cells = []
        for count in steps:
            filled = infill(
                in_place,
                window,
                head,
                steps=count,
                decoding=Decoding(temperature=1.0, ranking=ranking),
                mask_token_id=words["[MASK]"],
                generator=torch.Generator().manual_seed(0),
            )
            cells.append(_cell(rows, filled, words))
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def _cell(rows: Tensor, filled: Tensor, words: Vocabulary) -> str:
    place = rows[:, :1] + torch.arange(LENGTH)
    reactions = rows[:, 1:-LENGTH].scatter(1, place, filled)
    valid = torch.tensor([is_valid(words.decode(reaction)) for reaction in reactions]).double()
    same = (filled == rows[:, -LENGTH:]).all(dim=1).double().mean()
    error = (valid.mean() * (1 - valid.mean()) / len(rows)).sqrt()
    return f"{valid.mean():.3f} ± {error:.3f} ({same:.3f})"


def is_valid(reaction: str) -> bool:
    """Whether every molecule on both sides of one arrow can be read."""
    sides = reaction.split(">>")
    molecules = [molecule for side in sides for molecule in side.split(".")]
    return len(sides) == 2 and all(molecule and _parses(molecule) for molecule in molecules)


def _parses(molecule: str) -> bool:
    if TOY and not is_installed("rdkit"):
        return molecule.count("(") == molecule.count(")")
    from rdkit import Chem, RDLogger

    RDLogger.DisableLog("rdApp.*")
    return Chem.MolFromSmiles(molecule) is not None


def _read(words: Vocabulary, split: str, data: Path | None) -> list[list[int]]:
    """Reactions of known tokens, neither too short for a window nor too long."""
    if data is None:
        lines = ["CC(=O)O.CCO>>CCOC(C)=O", "CC(=O)Cl.CN>>CNC(C)=O"] * 4
    else:
        path = data / "rxn" / f"reactions.{split}.txt"
        lines = path.read_text(encoding="utf-8").split()
    encoded = (words.encode(line) for line in lines)
    fits = (r for r in encoded if LENGTH + 2 <= len(r) <= LONGEST)
    return [r for r in fits if words["[UNK]"] not in r]


def _bert(folder: Path) -> tuple[list[str], Model]:
    """A BERT in PyTorch's old format: a pickle, of which nothing but tensors is read."""
    from transformers import BertConfig, BertForMaskedLM

    names = (folder / "vocab.txt").read_text(encoding="utf-8").split()
    config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    weights = torch.load(folder / "pytorch_model.bin", map_location="cpu", weights_only=True)
    weights["cls.predictions.decoder.bias"] = weights["cls.predictions.bias"]
    bert = BertForMaskedLM(BertConfig(**config))
    missing = bert.load_state_dict(weights, strict=False).missing_keys
    if missing:
        sys.exit(f"{folder} lacks {', '.join(missing)}")
    bert.eval()
    padding = names.index("[PAD]")
    return names, lambda tokens: bert(tokens, attention_mask=(tokens != padding).long()).logits


def _toy_model() -> tuple[list[str], Model]:
    names = [*SPECIAL, *"CON()=.", "Cl", ">>"]
    torch.manual_seed(0)
    return names, Denoiser(DenoiserConfig(len(names), width=16, depth=1, heads=2)).eval()


def _parse() -> argparse.Namespace:
    parser = arguments(__doc__)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--data", type=Path, default=size(os.environ.get("PCFLOW_DATA"), None))
    parser.add_argument("--states", type=int, default=size(128, 2), help="of the HMM (%(default)s)")
    parser.add_argument("--reactions", type=int, default=size(100, 4), help="(%(default)s)")
    parser.add_argument(
        "--judged", type=int, default=size(48, 2), help="of them, for nats; 0: none (%(default)s)"
    )
    parser.add_argument(
        "--held-out", type=int, default=size(200, 4), help="to choose by (%(default)s)"
    )
    parser.add_argument("--steps", type=int, nargs="+", default=size([1, 2, 4, 8, 16], [1, 2]))
    parser.add_argument("--rankings", nargs="+", choices=RANKINGS, default=RANKINGS)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    peers = is_installed("transformers") and is_installed("rdkit")
    if not TOY and not (given.model and given.data and peers):
        parser.exit(0, f"{WHERE}\n")
    return given


if __name__ == "__main__":
    main()
