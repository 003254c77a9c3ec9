"""JSON with a version and a date out of a model that fills in characters: valid, and right."""

import json
import re

import torch

import pcflow as pf
from pcflow_diffusion import CircuitHead, Decoding, generate

torch.manual_seed(0)

RELEASES = {  # of Python
    "3.8.0": "2019-10-14",
    "3.9.0": "2020-10-05",
    "3.10.0": "2021-10-04",
    "3.11.0": "2022-10-24",
    "3.12.0": "2023-10-02",
    "3.13.0": "2024-10-07",
}
TEXTS = [f'{{"version":"{v}","date":"{d}"}}' for v, d in RELEASES.items()]
LONGEST = max(map(len, TEXTS))
LETTERS = sorted(set(" 0123456789" + "".join(TEXTS)))
V, MASK, BLANK = len(LETTERS), len(LETTERS), LETTERS.index(" ")


def spelled(text: str) -> list[int]:
    """The numbers of its letters."""
    return [LETTERS.index(letter) for letter in text]


rows = torch.tensor([spelled(text.ljust(LONGEST)) for text in TEXTS])  # [6, LONGEST]


def backbone(tokens: torch.Tensor) -> torch.Tensor:
    """A denoiser that has read the texts: shares of letters in those that fit, [B, L, V]."""
    fits = ((tokens[:, None] == rows) | (tokens[:, None] == MASK)).double().mean(dim=-1)
    weight = (40 * fits).softmax(dim=-1).float()  # [B, 6]; of none that fits, those that nearly do
    letters = torch.nn.functional.one_hot(rows, V).float()  # [6, L, V]
    return (torch.einsum("br,rlv->blv", weight, letters) + 1e-3).log()


# The rule: {"version":"<number>.<number>.<number>","date":"<year>-<month>-<day>"}, then blanks.
# With outlines-core: pf.Automaton.regex(pattern, list(LETTERS)), or .json_schema of a schema.
digits = spelled("0123456789")
number, year = (pf.Automaton.numbers(*ends, digits, V) for ends in ((0, 99), (1991, 2030)))
month, day = (
    pf.Automaton.options([spelled(f"{n:02}") for n in range(1, last + 1)], V) for last in (12, 31)
)
dot, dash = spelled(".-")
date = [*spelled('","date":"'), year, dash, month, dash, day, *spelled('"}')]
version = [*spelled('{"version":"'), number, dot, number, dot, number]
rule = pf.Automaton.template([*version, *date], V).padded(BLANK)

# A hidden Markov model learns which letters go together. At first its states like to stay, so that
# from the version to the date it remembers which text it is.
K = 16
stay = (0.9 * torch.eye(K) + 0.1 / K).expand(LONGEST - 1, K, K)
chain = pf.hmm(LONGEST, K, pf.Categorical(V), homogeneous=False, transition=stay)
circuit = pf.compile(chain)
pf.fit(circuit, rows.repeat(50, 1), pf.EM(pseudocount=0.01), epochs=40, progress=False)
head = CircuitHead(circuit, mask_token_id=MASK)


def written(head: CircuitHead | None, rule: pf.Automaton | None) -> list[str]:
    """200 texts, all letters at once."""
    how = Decoding(temperature=1.0, constraint=rule)
    size = {"steps": 1, "gen_length": LONGEST, "block_length": LONGEST}
    nothing = torch.empty(200, 0, dtype=torch.long)
    found = generate(backbone, nothing, head, **size, decoding=how, mask_token_id=MASK)
    return ["".join(LETTERS[n] for n in row).rstrip() for row in found]


def is_valid(text: str) -> bool:
    """Whether it is JSON of the schema, told without the automaton."""
    ten = r"\d{1,2}"
    return (
        re.fullmatch(rf'{{"version":"{ten}\.{ten}\.{ten}","date":"\d{{4}}-\d\d-\d\d"}}', text)
        is not None
    )


def is_right(text: str) -> bool:
    """Whether that version came out on that day."""
    if not is_valid(text):
        return False
    said = json.loads(text)
    return RELEASES.get(said["version"]) == said["date"]


for name, its_head in (("independent", None), ("coupled", head)):
    for what, its_rule in (("no rule", None), ("rule", rule)):
        texts = written(its_head, its_rule)
        valid, right = (sum(map(test, texts)) / len(texts) for test in (is_valid, is_right))
        print(f"{name + ', ' + what:22s} valid {valid:4.0%}  right {right:4.0%}  {texts[0]}")
