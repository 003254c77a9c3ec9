# %% [markdown]
# # Sequences
#
# A *hidden Markov model* is the simplest circuit over sequences: a state goes
# from position to position, and every position shows something of it,
#
# $$p(x) = \sum_{z_1, \dots, z_L} p(z_1) \prod_{t} p(x_t \mid z_t)
# \prod_{t > 1} p(z_t \mid z_{t-1}).$$
#
# The sum has $K^L$ terms; the circuit takes it in $L$ steps of $K^2$. This
# page goes from words of different lengths to a question that no sampler
# answers: how probable is it, exactly, that a text contains a pattern?
#
# ## Words as rows
#
# The words are the names of Python's own modules. Letters are numbers from 0
# to 25, and 26 is the end. Behind the end everything is missing: `nan` is
# summed out, so rows may have any length and padding teaches nothing.

# %%
import sys

import torch
from matplotlib import pyplot as plt

import pcflow as pf

torch.manual_seed(0)
END = 26
words = sorted(
    word
    for word in sys.stdlib_module_names
    if word.isalpha() and word.islower()
)
words = [words[i] for i in torch.randperm(len(words))]
longest = 1 + max(map(len, words))


def codes(word: str) -> list[int]:
    """Numbers of its letters."""
    return [ord(letter) - ord("a") for letter in word]


rows = torch.full((len(words), longest), torch.nan)
for row, word in zip(rows, words, strict=True):
    row[: len(word) + 1] = torch.tensor([*codes(word), END])
train, held_out = rows[:180], rows[180:]
print(len(words), "names, such as", ", ".join(words[:5]))

# %% [markdown]
# ## Learn
#
# `pf.hmm` makes the circuit, homogeneous as a hidden Markov model is: one
# transition, shared by all positions. `EM()` is then what the books call
# Baum-Welch. We compare with letters that do not depend on one another, which
# is the same model with one state.

# %%
smooth = pf.EM(pseudocount=0.05)
models = {}
for states in (1, 8):
    model = pf.compile(
        pf.hmm(longest, states, pf.Categorical(27)), dtype=torch.float64
    )
    pf.fit(model, train, smooth, epochs=40, progress=False)
    models[states] = model
    with torch.no_grad():
        nats = -model.log_prob(held_out).mean()
    print(f"states: {states}, held out: {nats:.2f} nats a name")
model = models[8]


def spelled(row: torch.Tensor) -> str:
    """The letters up to the end."""
    letters = row.int().tolist()
    if END in letters:
        letters = letters[: letters.index(END)]
    return "".join(chr(ord("a") + letter) for letter in letters)


print("drawn:", ", ".join(spelled(row) for row in model.sample(8)))

# %% [markdown]
# ## What the states have found out
#
# Nobody has said what a vowel is. The emission of every state, $p(x \mid z)$,
# is read off the circuit by asking it: `expose_latents` makes states
# variables, and a marginal given the state is a posterior like any other.
# Look along the rows: most states like either vowels or consonants, and the
# end belongs to few of them.

# %%
joint = pf.compile(pf.expose_latents(model.circuit), dtype=torch.float64)
about = torch.full((8, 2 * longest), torch.nan)
about[:, longest + 3] = torch.arange(8.0)  # the state at the fourth letter
emission = joint.marginals(about, variables=[3])[:, 0, :27].exp()  # [8, 27]

figure, axes = plt.subplots(figsize=(7, 2.6), layout="constrained")
picture = axes.imshow(emission, cmap="Blues", aspect="auto")
axes.set_xticks(range(27), [*"abcdefghijklmnopqrstuvwxyz", "end"])
axes.set(ylabel="state", xlabel="p(letter | state)")
_ = figure.colorbar(picture)
# %% [markdown]
# ## Paths, and one letter at a time
#
# `viterbi` is the most probable path of states. A `filter` reads letter by
# letter and keeps only how probable every state is, so a step costs the same
# after a million letters.

# %%
path = pf.viterbi(model, held_out[:1], lengths=[len(words[180])]).states[0]
print(f"states of {words[180]}: {path[: len(words[180])].tolist()}")

reading = model.filter(rows=1)
for letter in codes("hash"):
    reading.observe([letter])
likely = reading.next_log_probs()[0].exp().topk(4)
for p, letter in zip(*likely, strict=True):
    name = "the end" if letter == END else chr(ord("a") + letter)
    print(f"  after hash: {name} with probability {p:.2f}")

# %% [markdown]
# ## The surprise: probabilities of patterns
#
# How probable is it that a name has `re` *somewhere*? Draws estimate it, and
# never find what is rare. Here the answer is exact. A rule is a finite
# automaton, and the model given the rule is a circuit again: states of the
# chain times states of the automaton. Its mass is the probability that the
# rule holds, and its draws obey it without a single rejection. Rules combine
# by `&`, `|`, `~` and `+`.

# %%
letters = ~pf.Automaton.phrases([[END]], num_categories=27)
ended = pf.Automaton.template([{END}], num_categories=27)
rest = pf.Automaton.lengths(0, longest, num_categories=27)  # behind the end

drawn = [spelled(row) for row in model.sample(5000)]
for pattern in ("re", "th", "json"):
    holds = pf.Automaton.phrases([codes(pattern)], num_categories=27)
    given = model.given((holds & letters) + ended + rest)
    exact = given.log_probability.exp().item()
    share = sum(pattern in name for name in drawn) / len(drawn)
    some = ", ".join(spelled(row) for row in given.sample(4))
    print(f"P(has {pattern}) = {exact:.1e}, of 5,000 draws {share:.1e}: {some}")

# %% [markdown]
# Evidence and rule go together, too: a crossword clue is a row with gaps, and
# the rule says that the word has five letters. How long are names at all? One
# rule for each length, one exact number for each rule:

# %%
lengths = range(1, 14)
of_length = {
    n: model.given(
        pf.Automaton.template([set(range(26))] * n, num_categories=27)
        + ended
        + rest
    )
    for n in lengths
}
clue = torch.full((1, longest), torch.nan)
clue[0, 0], clue[0, 4] = codes("st")
found = of_length[5].sample(8, clue)[:, 0]
print("s???t:", ", ".join(spelled(row) for row in found))

chances = [given.log_probability.exp().item() for given in of_length.values()]
sizes = torch.tensor([len(word) for word in words])
counted = [(sizes == n).double().mean() for n in lengths]
figure, axes = plt.subplots(figsize=(6.5, 2.6), layout="constrained")
axes.bar(lengths, counted, color="#d0d7de", label="names of modules")
axes.plot(lengths, chances, "o-", color="#3949ab", label="the model, exactly")
axes.set(xlabel="letters", ylabel="probability")
_ = axes.legend(frameon=False)

# %% [markdown]
# ## What to read next
#
# * [Sequences](../sequences.md): several things at every position, labelled
#   states, matrices of your own, other lengths than learned.
# * [Rules](../constraints.md): what can be said as an automaton, and what it
#   costs.
# * The next tutorial: [Couple your language model](couple.py), where such a
#   chain keeps the tokens of a diffusion model together.
