# %% [markdown]
# # Output that obeys
#
# A model that writes JSON, dates or one of five answers should not be *likely*
# to keep the format, it should keep it. Constrained decoders forbid tokens
# that break the rule one by one. Two things go wrong: independent tokens each
# keep it and say nonsense together, and cutting off what is forbidden changes
# what is left, because it forgets how probable it is that the *rest* can still
# be completed well. A circuit given a rule is the exact distribution of texts
# that obey, so nothing is cut off and nothing is rejected.
#
# ## A rule
#
# A rule is a finite automaton over tokens. Ours: a version and a date, such as
# `{"version":"3.9.0","date":"2020-10-05"}`. Tokens are letters here; with `pip
# install 'pcflow[constraints]'` the same is said by a regular expression or a
# JSON schema, over any vocabulary (`pf.Automaton.regex`,
# `pf.Automaton.json_schema`).

# %%
import math

import torch

import pcflow as pf
from pcflow_diffusion import CircuitHead, Decoding, generate, infill

torch.manual_seed(0)
RELEASES = {  # of Python
    "3.8.0": "2019-10-14",
    "3.9.0": "2020-10-05",
    "3.10.0": "2021-10-04",
    "3.11.0": "2022-10-24",
    "3.12.0": "2023-10-02",
    "3.13.0": "2024-10-07",
}
texts = [f'{{"version":"{v}","date":"{d}"}}' for v, d in RELEASES.items()]
LONGEST = max(map(len, texts))
LETTERS = sorted(set(" 0123456789" + "".join(texts)))
V, MASK, BLANK = len(LETTERS), len(LETTERS), LETTERS.index(" ")


def spelled(text: str) -> list[int]:
    """The numbers of its letters."""
    return [LETTERS.index(letter) for letter in text]


def read(row: torch.Tensor) -> str:
    """The text of numbers."""
    return "".join("?" if n == MASK else LETTERS[n] for n in row.tolist())


digits = spelled("0123456789")
number = pf.Automaton.numbers(0, 99, digits, V)
year = pf.Automaton.numbers(1991, 2030, digits, V)
month, day = (
    pf.Automaton.options([spelled(f"{n:02}") for n in range(1, last + 1)], V)
    for last in (12, 31)
)
dot, dash = spelled(".-")
version = [*spelled('{"version":"'), number, dot, number, dot, number]
date = [*spelled('","date":"'), year, dash, month, dash, day, *spelled('"}')]
rule = pf.Automaton.template([*version, *date], V).padded(BLANK)

print(rule)
print(
    f"{math.exp(rule.log_count(LONGEST)):,.0f} texts of {LONGEST} letters obey"
)
print(
    rule.accepts([spelled(texts[2]), spelled(texts[2].replace("-10-", "-13-"))])
)

# %% [markdown]
# The automaton is minimal: letters that no state tells apart are one class. It
# counts its strings exactly, and it is a value: `rule & other`, `rule |
# other`, `~rule`.
#
# ## A model
#
# The backbone is a denoiser that has read the six texts: at each hole it says
# which letters stand there in the texts that fit what is seen, and a
# thousandth of everything besides. The circuit is a hidden Markov chain of the
# same texts.

# %%
rows = torch.tensor([spelled(text.ljust(LONGEST)) for text in texts])


def backbone(tokens: torch.Tensor) -> torch.Tensor:
    """Logits [B, L, V] of letters in texts that fit."""
    fits = (tokens[:, None] == rows) | (tokens[:, None] == MASK)
    weight = (40 * fits.double().mean(dim=-1)).softmax(dim=-1).float()  # [B, 6]
    letters = torch.nn.functional.one_hot(rows, V).float()
    return (torch.einsum("br,rlv->blv", weight, letters) + 1e-3).log()


K = 16
stay = (0.9 * torch.eye(K) + 0.1 / K).expand(LONGEST - 1, K, K)
chain = pf.hmm(
    LONGEST, K, pf.Categorical(V), homogeneous=False, transition=stay
)
circuit = pf.compile(chain)
pf.fit(
    circuit,
    rows.repeat(50, 1),
    pf.EM(pseudocount=0.01),
    epochs=40,
    progress=False,
)
head = CircuitHead(circuit, mask_token_id=MASK)
share = circuit.given(rule).log_probability.exp().item()
print(f"by itself the circuit obeys with probability {share:.3f}, exactly")

# %% [markdown]
# ## Write, all letters at once
#
# One step, so every letter is decided at the same time: the hardest case. A
# text is *valid* if it obeys the rule, *right* if that version came out on
# that day. The rule is one setting of `Decoding`.

# %%
true = {text.ljust(LONGEST) for text in texts}
nothing = torch.empty(200, 0, dtype=torch.long)
size = {"steps": 1, "gen_length": LONGEST, "block_length": LONGEST}
for name, its_head in (("independent", None), ("coupled", head)):
    for what, its_rule in (("", None), ("+ rule", rule)):
        how = Decoding(temperature=1.0, constraint=its_rule)
        found = generate(
            backbone,
            nothing,
            its_head,
            decoding=how,
            mask_token_id=MASK,
            **size,
        )
        valid = rule.accepts(found).double().mean()
        right = sum(read(row) in true for row in found) / len(found)
        label = f"{name} {what}"
        print(
            f"{label:19s} valid {valid:4.0%} right {right:4.0%}",
            read(found[0]),
        )

# %% [markdown]
# The rule alone makes every text valid, and most of them lies: a version of
# one release and the date of another. The circuit alone knows which belong
# together, and slips in a letter now and then. Together they are valid without
# exception, and two in three are right, more than of either alone, in a single
# step.
#
# ## Fill in, with anything known
#
# Holes may be anywhere. What is known moves the automaton's state, and only
# what can still be completed is drawn; a dead end cannot come about. Here the
# *date* is known, and the version is asked for.

# %%
hole = rows[3:4].clone()  # 3.11.0
hole[0, 12:18] = MASK
print(read(hole[0]))
found = infill(
    backbone, hole, head, steps=1, decoding=Decoding(constraint=rule)
)
print(read(found[0]))

# %% [markdown]
# ## The surprise: how probable is obedience?
#
# A constrained decoder can force a rule. It cannot say what forcing costs.
# Here is the exact probability of some rules under the circuit: how much of
# its mass they keep. Rejection sampling needs one over that many tries. The
# last one asks for a release in February, which no text of the training data
# has.

# %%
first, second = spelled("3.1"), spelled("-10-")
rules = {
    "the format": rule,
    "... and a version 3.1x": rule & pf.Automaton.phrases([first], V),
    "... and in October": rule & pf.Automaton.phrases([second], V),
    "... and not in October": rule & ~pf.Automaton.phrases([second], V),
    "... and in February": rule & pf.Automaton.phrases([spelled("-02-")], V),
}
for name, its_rule in rules.items():
    given = circuit.given(its_rule)
    text = read(given.sample(1)[0])
    p = given.log_probability.exp().item()
    print(f"{name:23s} {p:.1e}  {text}")

# %% [markdown]
# ## What to read next
#
# * [Rules](../constraints.md): regular expressions, JSON schemas, rules row by
#   row, texts of several blocks, what it costs at 126,464 tokens.
# * [Results](../results.md): rules measured on tasks.
# * The next tutorial: [Test your own library](testing.py).
