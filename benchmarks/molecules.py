"""Reactions as tokens, and what reads them: a public masked language model, a circuit, and RDKit.

Legend: B batch, N tokens of a reaction, V tokens.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from toy import TOY, is_installed, size

import pcflow as pf
from pcflow_diffusion import Denoiser, DenoiserConfig, mask_exactly
from pcflow_diffusion.models.progress import say

LONGEST = size(112, 40)  # tokens of a reaction: longer ones take more time and show nothing else
SHORTEST = size(34, 10)
ENDS = ("[PAD]", "[CLS]", "[SEP]")
PAD = 0
TOKEN = re.compile(r"\[[^\]]*\]|Br|Cl|>>|%\d\d|.")  # atom, bond, ring, arrow
BATCH = 32  # reactions of about the same length per call
STREAM = size(128, 16)  # tokens of a row that the circuit learns from
HELD_OUT = size(300, 2)  # of these rows
LEARNER = pf.Anemone(pseudocount=1e-9, decay=True)
EPOCHS = size(12, 1)


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of some reactions, by number; the mask comes behind them."""

    names: tuple[str, ...]

    @classmethod
    def of(cls, reactions: Sequence[str]) -> Vocabulary:
        """What reactions are made of, and what stands at the ends of a text."""
        return cls((*ENDS, *sorted({name for r in reactions for name in TOKEN.findall(r)})))

    @property
    def mask(self) -> int:
        """The mask, V."""
        return len(self.names)

    def encode(self, reaction: str) -> list[int] | None:
        """Tokens between those that begin and end a text; None if one is unknown."""
        names = ("[CLS]", *TOKEN.findall(reaction), "[SEP]")
        known = {name: number for number, name in enumerate(self.names)}
        return [known[name] for name in names] if known.keys() >= set(names) else None

    def decode(self, tokens: Tensor) -> str:
        """A reaction of tokens [N]."""
        names = (self.names[token] for token in tokens.tolist())
        return "".join(name for name in names if name not in ENDS)

    def rows(self, reactions: Sequence[str]) -> Tensor:
        """Those of known tokens, neither short nor long: [B, N], padded on the right."""
        encoded = [self.encode(reaction) for reaction in reactions]
        fits = [r for r in encoded if r is not None and SHORTEST <= len(r) <= LONGEST]
        return torch.tensor([r + [PAD] * (LONGEST - len(r)) for r in fits])


def read(split: str, data: Path | None) -> list[str]:
    """Reactions, one on every line."""
    if data is None:
        return ["CC(=O)O.CCO>>CCOC(C)=O", "CC(=O)Cl.CN>>CNC(C)=O"] * 8
    return (data / "rxn" / f"reactions.{split}.txt").read_text(encoding="utf-8").split()


@dataclass(frozen=True)
class Reader:
    """A masked language model of its own vocabulary, asked in that of some reactions.

    Attributes:
        model: of tokens [B, N] and an attention mask; it says logits of all that it knows.
        ids: its numbers of our tokens, the mask behind them, [V + 1].
    """

    model: nn.Module
    ids: Tensor

    @torch.no_grad()
    def __call__(self, tokens: Tensor, /) -> Tensor:
        """Logits [B, N, V] in single precision; the model itself runs in bfloat16."""
        lengths = (tokens != PAD).sum(dim=1)
        logits = torch.zeros(*tokens.shape, len(self.ids) - 1)
        for rows in lengths.argsort().split(BATCH):
            used = int(lengths[rows].max())
            logits[rows, :used] = self.ask(tokens[rows, :used])
        logits[..., : len(ENDS)] = -torch.inf
        return logits

    def ask(self, tokens: Tensor) -> Tensor:
        """Logits [b, n, V] of tokens [b, n]."""
        attention = (tokens != PAD).long()
        with torch.autocast("cpu", torch.bfloat16):
            logits: Tensor = self.model(self.ids[tokens], attention_mask=attention).logits
        return logits[..., self.ids[:-1]].float()


def bert(folder: Path, words: Vocabulary) -> Reader:
    """A BERT in PyTorch's old format: a pickle, of which nothing but tensors is read."""
    from transformers import BertConfig, BertForMaskedLM

    names = (folder / "vocab.txt").read_text(encoding="utf-8").split()
    config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    weights = torch.load(folder / "pytorch_model.bin", map_location="cpu", weights_only=True)
    weights["cls.predictions.decoder.bias"] = weights["cls.predictions.bias"]
    model = BertForMaskedLM(BertConfig(**config))
    missing = model.load_state_dict(weights, strict=False).missing_keys
    if missing:
        sys.exit(f"{folder} lacks {', '.join(missing)}")
    ids = torch.tensor([names.index(name) for name in (*words.names, "[MASK]")])
    return Reader(model.eval(), ids)


def toy_model(words: Vocabulary) -> Denoiser:
    """Something that has never read anything."""
    torch.manual_seed(0)
    return Denoiser(DenoiserConfig(words.mask, width=16, depth=1, heads=2)).eval()


def circuit_of(
    reactions: Sequence[str], words: Vocabulary, states: int, folder: Path
) -> pf.CompiledCircuit:
    """A hidden Markov model of whole reactions, kept in a folder; says how probable others are.

    Text after text in one long stream, of which a row is any piece: so chains start anywhere, and
    learn from long reactions too.
    """
    generator, file = torch.Generator().manual_seed(0), folder / f"hmm_{states}.safetensors"
    turn = torch.randperm(len(reactions), generator=generator).tolist()
    encoded = [words.encode(reactions[place]) or [] for place in turn]
    texts = torch.tensor([token for text in encoded for token in (*text, PAD, PAD)])
    held_out, train = texts.unfold(0, STREAM, STREAM).tensor_split([HELD_OUT])
    if file.exists():
        model = pf.load(file)
    else:
        torch.manual_seed(0)
        model = pf.compile(pf.hmm(STREAM, states, pf.Categorical(words.mask)))
        pf.fit(model, train, LEARNER, epochs=EPOCHS, batch_size=64, validation=held_out)
        pf.save(model, file)
    with torch.no_grad():
        nats = -float(model.log_prob(held_out).mean()) / STREAM
    say(f"HMM with {states} states: {nats:.3f} nats per token of held-out reactions")
    return model


def over(circuit: pf.CompiledCircuit, length: int) -> pf.CompiledCircuit:
    """The chain over as many tokens, which begins anywhere."""
    return pf.compile(pf.stationary(pf.unroll(circuit, length)))


def masked_window(
    rows: Tensor, width: int, share: float | Tensor, words: Vocabulary, generator: torch.Generator
) -> Tensor:
    """Reactions [B, N] with a share masked of as many neighbouring tokens, anywhere."""
    stop = (rows != PAD).sum(dim=1, keepdim=True) - 1
    start = 1 + (torch.rand(stop.shape, generator=generator) * (stop - width)).long()
    place = start + torch.arange(width)
    return rows.scatter(1, place, mask_exactly(rows.gather(1, place), share, words.mask, generator))


def masked_product(rows: Tensor, words: Vocabulary) -> Tensor:
    """Reactions [B, N] of which all is masked that stands behind the arrow."""
    place, stop = torch.arange(rows.shape[1]), (rows != PAD).sum(dim=1, keepdim=True) - 1
    arrow = (rows == words.names.index(">>")).long().argmax(dim=1, keepdim=True)
    return rows.masked_fill((place > arrow) & (place < stop), words.mask)


def is_valid(reaction: str) -> bool:
    """Whether every molecule on both sides of one arrow can be read."""
    sides = reaction.split(">>")
    molecules = [molecule for side in sides for molecule in side.split(".")]
    read = (molecule and canonical(molecule) is not None for molecule in molecules)
    return len(sides) == 2 and all(read)


def canonical(molecule: str) -> str | None:
    """The one way to write a molecule, or a part of it; None if RDKit cannot read it."""
    if TOY and not is_installed("rdkit"):
        return molecule if molecule.count("(") == molecule.count(")") else None
    from rdkit import Chem, RDLogger

    RDLogger.DisableLog("rdApp.*")
    found = Chem.MolFromSmiles(molecule)
    return None if found is None else Chem.MolToSmiles(found)
