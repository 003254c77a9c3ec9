"""Names by a hidden Markov model: learn, spell, decode, and guess the next letter.

    python examples/names.py            # the names of Python's own modules
    python examples/names.py FILE       # a word a line

With hmmlearn installed, it learns from the same start, for comparison.
"""

import sys
from importlib.util import find_spec
from pathlib import Path

import torch

import pcflow as pf

END, STATES, EPOCHS = 26, 12, 30
seeded = torch.Generator().manual_seed(0)


def letters(word: str) -> list[int]:
    """Codes of the letters and, once, of the end."""
    return [*(ord(letter) - ord("a") for letter in word), END]


given = Path(sys.argv[1]).read_text().split() if len(sys.argv) > 1 else sys.stdlib_module_names
words = sorted({w.lower() for w in given if w.isascii() and w.isalpha()})
words = [words[i] for i in torch.randperm(len(words), generator=seeded)]
longest = 1 + max(map(len, words))

# One row a word; behind the end everything is missing, which teaches nothing.
rows = torch.full((len(words), longest), torch.nan)
for row, word in zip(rows, words, strict=True):
    row[: len(word) + 1] = torch.tensor(letters(word))
train, held_out = rows.split([len(rows) * 4 // 5, len(rows) - len(rows) * 4 // 5])

start = pf.hmm(longest, STATES, pf.Categorical(27), generator=seeded)
model = pf.compile(start, dtype=torch.float64)
smooth = pf.EM(pseudocount=0.01)
pf.fit(model, train, smooth, epochs=EPOCHS, progress=False)
print(f"{len(train)} names to learn from, {len(held_out)} held out")
print(f"held out, nats per name: {model.log_prob(held_out).mean():.3f}")

if find_spec("hmmlearn"):
    from hmmlearn.hmm import CategoricalHMM

    emit, move, first = (p.value.double() for p in start.parameters)
    prior = {f"{what}_prior": 1.01 for what in ("startprob", "transmat", "emissionprob")}
    peer = CategoricalHMM(STATES, n_iter=EPOCHS, tol=-float("inf"), init_params="", **prior)
    peer.n_features, peer.startprob_ = 27, first.softmax(dim=-1)[0].numpy()
    peer.transmat_ = move.softmax(dim=-1).numpy()
    peer.emissionprob_ = emit.softmax(dim=0).t().numpy()
    ragged = [row[~row.isnan()].long().unsqueeze(1) for row in rows]
    learned, others = ragged[: len(train)], ragged[len(train) :]
    peer.fit(torch.cat(learned).numpy(), [len(row) for row in learned])
    score = peer.score(torch.cat(others).numpy(), [len(row) for row in others])
    print(f"hmmlearn, the same:      {score / len(others):.3f}")

drawn = model.sample(8, generator=seeded).tolist()
ends = [row.index(END) if END in row else longest for row in drawn]
names = ["".join(chr(ord("a") + c) for c in row[:n]) for row, n in zip(drawn, ends, strict=True)]
print("drawn:", ", ".join(names))

lengths = (~held_out.isnan()).sum(dim=1)
states, _ = pf.viterbi(model, held_out[:3], lengths[:3])
for word, path in zip(words[len(train) :], states.tolist(), strict=False):
    print(f"{word:>12s}  {' '.join(str(state) for state in path if state >= 0)}")

seen = model.filter(rows=1)
for letter in letters("str")[:-1]:
    seen.observe([letter])
likely = seen.next_log_probs()[0].topk(3).indices.tolist()
print("after str:", ", ".join("the end" if c == END else chr(ord("a") + c) for c in likely))
