"""Thirty regular expressions: does every text obey, and is the mass of a rule the share that does?

    python benchmarks/patterns.py [--toy] [--texts 100] [--draws 20000]

A denoiser and a circuit of characters learn texts of all thirty kinds, in equal parts, so that each
has some mass by itself. For every kind texts are then generated under its rule, in four blocks, in
1, 2, 4 and 8 steps per block. Whether a text obeys is told by Python's `re` from what it says. The
mass of the rule, under the circuit alone and under the joint coupled to what the denoiser says of
an empty text, is compared with the share of free draws that obey; z is the difference in standard
errors of that share, a dash if it is too rare.

Legend: N texts, T characters.
"""

from __future__ import annotations

import argparse
import re
import string
from collections.abc import Sequence
from math import nan, sqrt
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad
from toy import TOY, arguments, is_installed, size

import pcflow as pf
from pcflow_diffusion import (
    CharacterTokenizer,
    CircuitHead,
    Decoding,
    Denoiser,
    DenoiserConfig,
    Marginals,
    generate,
)
from pcflow_diffusion.models import TrainingConfig, train_denoiser
from pcflow_diffusion.models.text import REPLACEMENT

T, BLOCK = 32, 8
STEPS = size((1, 2, 4, 8), (1, 2))
END = "\n"
RARE = 5  # draws that are expected to obey: of fewer a standard error says little
WORDS = CharacterTokenizer(
    END + string.digits + string.ascii_letters + string.punctuation + " " + REPLACEMENT
)
ENDS = WORDS.characters.index(END)


def nested(inside: str, depth: int) -> str:
    """What brackets may hold that are closed, one in another to some depth."""
    found = f"{inside}*"
    for _ in range(depth):
        found = rf"(?:{inside}|\({found}\))*"
    return found


BYTE = r"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
ATOM = r"(?:(?:Br|Cl|C|N|O|S|F|c|n|o|\[nH\]|\[O-\]|\[N\+\])[=#]?)"
PATTERNS = {
    "version": r"\d{1,2}\.\d{1,2}\.\d{1,2}",
    "version, short or long": r"v?\d{1,2}(\.\d{1,3}){1,3}",
    "release candidate": r"\d\.\d{1,2}(a|b|rc)\d",
    "requirement": r"[a-z]+(==|>=|<)\d(\.\d){1,2}",
    "ISO date": r"(19|20)\d\d-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])",
    "ISO week": r"20\d\d-W(0[1-9]|[1-4]\d|5[0-3])-[1-7]",
    "date and time": r"20\d\d-(0[1-9]|1[0-2])-[0-2]\dT([01]\d|2[0-3]):[0-5]\dZ",
    "time": r"([01]\d|2[0-3]):[0-5]\d(:[0-5]\d)?",
    "e-mail": r"[a-z]+@[a-z]+\.(com|org|net)",
    "e-mail with dots": r"[a-z]+(\.[a-z]+)*@[a-z]+(\.[a-z]+)?\.[a-z]{2,3}",
    "e-mail of two hosts": r"[a-z0-9]{3,12}@(mail|post)\.[a-z]{2}",
    "JSON, number and truth": r'\{"id":\d+,"ok":(true|false)\}',
    "JSON, a point": r'\{"x":-?\d+,"y":-?\d+\}',
    "JSON, a name": r'\{"name":"[A-Z][a-z]+"\}',
    "JSON, null or text": r'\{"a":(null|"[a-z ]*")\}',
    "JSON, a list": r"\[\d+(,\d+)*\]",
    "0 to 255": BYTE,
    "an address of four bytes": rf"{BYTE}(\.{BYTE}){{3}}",
    "-180 to 180": r"-?(180|1[0-7]\d|[1-9]?\d)(\.\d{1,4})?",
    "percent": r"(100|[1-9]?\d)(\.\d)?%",
    "money": r"\$[1-9]\d{0,2}(,\d{3})*\.\d\d",
    "a phrase somewhere": r"[a-z ]*not at all[a-z ]*",
    "phrases in turn": r"(yes|no|maybe)( (yes|no|maybe))*",
    "phrase with holes": r"the [a-z]+ of (the|a) [a-z]+",
    "brackets to depth 4": nested("[a-z]", 4),
    "two kinds of brackets": rf"[a-z]*(\[{nested('[a-z]', 2)}\][a-z]*)+",
    "SMILES, brackets closed": rf"{ATOM}(?:{nested(ATOM, 3)}){ATOM}",
    "settings": r"[a-z]+=\d+(;[a-z]+=\d+)*",
    "colour": r"#([0-9a-f]{3}){1,2}",
    "path": r"(/[a-z0-9_]+)+(\.(py|txt|md))?",
}


def rule_of(pattern: str) -> pf.Automaton:
    """Texts of the pattern, without ends."""
    return pf.Automaton.regex(
        pattern, [c if c not in (END, REPLACEMENT) else None for c in WORDS.characters]
    )


def examples(rule: pf.Automaton, count: int, generator: torch.Generator) -> Tensor:
    """Texts [N, T] with ends behind them, of all lengths about equally often."""
    lengths = [n for n in range(1, T + 1) if rule.log_count(n) > -torch.inf]
    each = -(-count // len(lengths))
    texts = [rule.sample(each, n, generator) for n in lengths]
    return torch.cat([pad(text, (0, T - text.shape[1]), value=ENDS) for text in texts])


def share_of(pattern: str, texts: Sequence[str]) -> float:
    """Which share of texts match; ends behind them are no text."""
    fits = re.compile(f"(?:{pattern}){END}*").fullmatch
    return sum(fits(text) is not None for text in texts) / len(texts)


def said(rows: Tensor) -> list[str]:
    """The texts of rows [N, T]."""
    return ["".join(WORDS.characters[n] for n in row) for row in rows.long().tolist()]


def learned(texts: Tensor, generator: torch.Generator) -> tuple[Denoiser, CircuitHead]:
    """A denoiser and a circuit of texts [N, T] of all kinds."""
    denoiser = train_denoiser(
        texts,
        DenoiserConfig(WORDS.vocabulary_size, width=size(64, 16), depth=size(2, 1), heads=2),
        steps=size(200, 2),
        training=TrainingConfig(batch_size=32, context=0, block=T),
        progress=not TOY,
    )
    states = size(48, 4)
    circuit = pf.compile(pf.hmm(T, states, pf.Categorical(len(WORDS.characters)), False, generator))
    pf.fit(
        circuit,
        texts,
        pf.EM(pseudocount=1e-3),
        epochs=size(20, 1),
        generator=generator,
        progress=not TOY,
    )
    return denoiser, CircuitHead(circuit, WORDS.mask_token_id)


def share_valid(
    pattern: str, rule: pf.Automaton, denoiser: Denoiser, head: CircuitHead, texts: int, steps: int
) -> float:
    """Of texts that are generated under the rule, in so many steps per block."""
    rows = generate(
        denoiser,
        torch.empty(texts, 0, dtype=torch.long),
        head,
        steps=steps * (T // BLOCK),
        gen_length=T,
        block_length=BLOCK,
        decoding=Decoding(temperature=1.0, constraint=rule),
        generator=torch.Generator().manual_seed(steps),
    )
    return share_of(pattern, said(rows))


class Joint(NamedTuple):
    """A distribution of texts of which rules have some mass.

    Attributes:
        model: the circuit.
        evidence: what couples it, one row.
        draws: texts from it, free of any rule.
    """

    model: pf.CompiledCircuit
    evidence: pf.Evidence
    draws: list[str]

    def compared(self, pattern: str, rule: pf.Automaton) -> list[str]:
        """The mass of a rule, the share of draws that obey, and by how much they differ."""
        given, draws = self.model.given(rule), len(self.draws)
        mass = float((given.log_mass(self.evidence) - self.model.log_prob(self.evidence)).exp())
        share = share_of(pattern, self.draws)
        rare = mass * draws < RARE
        z = nan if rare else (share - mass) / sqrt(mass * (1 - mass) / draws)
        return [f"{mass:.5f}", f"{share:.5f}", "\N{EN DASH}" if rare else f"{z:+.1f}"]


def joint(model: pf.CompiledCircuit, evidence: pf.Evidence, draws: int) -> Joint:
    """With so many draws."""
    generator = torch.Generator().manual_seed(0)
    return Joint(model, evidence, said(model.sample(draws, evidence, generator)[:, 0]))


@torch.no_grad()
def main() -> None:
    """Print a table."""
    given = _parse()
    kinds = dict(list(PATTERNS.items())[:: size(1, 7)])
    generator = torch.Generator().manual_seed(0)
    rules = {name: rule_of(pattern) for name, pattern in kinds.items()}
    texts = torch.cat([examples(rule, size(200, 20), generator) for rule in rules.values()])
    with torch.enable_grad():
        denoiser, head = learned(texts, generator)
    blank = torch.full((1, T), WORDS.mask_token_id)
    marginals = Marginals.of(denoiser(blank), blank, WORDS.mask_token_id)
    nothing = pf.Evidence(torch.full((1, T), torch.nan))
    joints = [
        joint(head.model, e, given.draws)
        for e in (nothing, head.coupling.couple(head.model, marginals))
    ]
    columns = [f"{count} step{'s' * (count > 1)}" for count in STEPS]
    columns += ["mass", "share", "z", "mass, coupled", "share", "z"]
    print(f"| kind | states | {' | '.join(columns)} |\n|---|---|{'---|' * len(columns)}")
    for name, pattern in kinds.items():
        rule = rules[name].padded(ENDS)
        valid = [share_valid(pattern, rule, denoiser, head, given.texts, count) for count in STEPS]
        cells = [f"{share:.2f}" for share in valid]
        for one in joints:
            cells += one.compared(pattern, rule)
        print(f"| {name} | {len(rule.next)} | {' | '.join(cells)} |", flush=True)


def _parse() -> argparse.Namespace:
    parser = arguments(__doc__)
    parser.add_argument("--texts", type=int, default=size(100, 4), help="of a kind (%(default)s)")
    parser.add_argument("--draws", type=int, default=size(20_000, 200), help="(%(default)s)")
    given = parser.parse_args()
    if not is_installed("outlines_core"):
        parser.exit(0, "Needs outlines-core: pip install 'pcflow[constraints]'\n")
    return given


if __name__ == "__main__":
    main()
