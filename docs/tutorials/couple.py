# %% [markdown]
# # Couple your language model
#
# A masked diffusion language model sees a text with holes and returns one
# distribution for each hole. To fill several holes at once it has to draw them
# *independently*, and then tokens that belong together are mixed up. A circuit
# on top draws them jointly, at the price of a few matrix products. First with
# four cities, where everything can be seen, then with a real model.
#
# ## The fault
#
# The text is `I live in [MASK] [MASK]`, and a city of two words is to fill it.
# This backbone is perfect: at each of the two places it knows the right
# distribution of the word.

# %%
import torch
from matplotlib import pyplot as plt

import pcflow as pf
from pcflow_diffusion import CircuitHead

torch.manual_seed(0)
WORDS = ["San", "Diego", "New", "York", "Los", "Angeles", "Las", "Vegas"]
MASK = len(WORDS)
CITIES = torch.arange(8).view(4, 2)  # words 0 1, 2 3, 4 5, 6 7
CHANCES = torch.tensor([0.3, 0.4, 0.2, 0.1])

logits = torch.full((1, 2, 8), -torch.inf)  # [rows, places, words]
logits[0, 0, CITIES[:, 0]] = CHANCES.log()
logits[0, 1, CITIES[:, 1]] = CHANCES.log()


def pairs(tokens: torch.Tensor) -> torch.Tensor:
    """How often a first word met a second one, [4, 4]."""
    table = torch.zeros(4, 4)
    for first, second in (tokens // 2).tolist():
        table[first, second] += 1 / len(tokens)
    return table


independent = torch.stack(
    [torch.multinomial(row.exp(), 2000, replacement=True) for row in logits[0]],
    dim=1,
)
wrong = 1 - pairs(independent).diagonal().sum()
print(f"drawn independently, {wrong:.0%} are no city")

# %% [markdown]
# Each word has the right frequency, and most pairs are nonsense: `San York`.
# No better training would help; a product of marginals *cannot* say what
# belongs together.
#
# ## The circuit
#
# A hidden Markov model of two words learns from text which go together: from a
# text in which all four cities are equally frequent, so it does not know what
# the backbone knows. The head puts both into one distribution. With the
# *projection*,
#
# $$q(x) = \frac1Z\, r(x) \prod_i \lambda_i(x_i), \qquad q_i = m_i,$$
#
# $r$ is the circuit and the factors $\lambda_i$ are such that every marginal
# $q_i$ is the backbone's $m_i$. Of all distributions with these marginals it
# is the closest to the circuit. It is a circuit with soft evidence, so
# normalisation, probabilities and draws stay exact.

# %%
text = CITIES[torch.randint(4, (500,))]
circuit = pf.compile(pf.hmm(length=2, states=16, inputs=pf.Categorical(8)))
pf.fit(circuit, text, pf.EM(pseudocount=1e-3), epochs=40, progress=False)
head = CircuitHead(circuit, mask_token_id=MASK, coupling="projection")

holes = torch.full((2000, 2), MASK)
coupled = head.sample(logits.expand(2000, 2, 8), holes).tokens
wrong = 1 - pairs(coupled).diagonal().sum()
print(f"drawn jointly, {wrong:.1%} are no city")
york = (coupled[:, 0] == 2).double().mean()
print(f"New York: {york:.1%}; the backbone says 40 %, the circuit 25 %")

figure, places = plt.subplots(1, 2, figsize=(7, 3), layout="constrained")
for place, name, tokens in (
    (places[0], "independent", independent),
    (places[1], "coupled", coupled),
):
    place.imshow(pairs(tokens), cmap="Blues", vmin=0, vmax=0.4)
    place.set_xticks(range(4), WORDS[1::2])
    place.set_yticks(range(4), WORDS[0::2])
    place.set_title(name)

# %% [markdown]
# ## A real model
#
# The package ships a small denoiser of English (2.9 million parameters, 1,024
# pieces of words, trained on the World English Bible). `windows` cuts texts
# into rows. The circuit is a hidden Markov model of 32 pieces with 64 states,
# learned here, in seconds.

# %%
from importlib.resources import files

from pcflow_diffusion.models import load_denoiser, load_text, windows

shipped = (
    files("pcflow_diffusion.models") / "checkpoints" / "english.safetensors"
)
denoiser, tokenizer = load_denoiser(str(shipped))
size = sum(parameter.numel() for parameter in denoiser.parameters())
text = load_text()
train = windows(tokenizer.encode(text.train[:800_000]), 32, 16)
train = train[torch.randperm(len(train))]
print(f"{size:,} parameters, {len(train):,} windows of 32 pieces")

V, MASK = tokenizer.vocabulary_size, tokenizer.mask_token_id
chain = pf.compile(pf.hmm(32, states=64, inputs=pf.Categorical(V)))
learner = pf.EM(pseudocount=0.1)
pf.fit(chain, train[:1000], learner, epochs=8, progress=False)
_ = pf.fit(chain, train[:6000], learner, epochs=6, progress=False)

# %% [markdown]
# ## What it is worth
#
# In held-out text 70 % of the last 32 tokens of each of 96 rows are hidden.
# How probable are the true tokens? In *nats per hidden token*, less is better;
# the exponential is a *perplexity*, among how many tokens it is as if one had
# to guess.

# %%
blocks = windows(tokenizer.encode(text.held_out), 128, 700)[:96]
truth = blocks[:, -32:]
seeded = torch.Generator().manual_seed(0)
hidden = torch.rand(truth.shape, generator=seeded) < 0.7
seen = torch.where(hidden, MASK, truth)
with torch.no_grad():
    logits = denoiser(torch.cat([blocks[:, :-32], seen], dim=1))[:, -32:]

log_m = logits[..., :V].log_softmax(-1)
each = log_m.gather(-1, truth.unsqueeze(-1)).squeeze(-1)
nats = {"independent": -(each * hidden).sum() / hidden.sum()}
known = truth.float().masked_fill(hidden, torch.nan)
with torch.no_grad():
    alone = chain.log_prob(truth) - chain.log_prob(
        known
    )  # log p(hidden | seen)
nats["circuit"] = -alone.sum() / hidden.sum()
for coupling in ("product", "ratio", "projection"):
    head = CircuitHead(chain, MASK, coupling)
    nats[coupling] = -head.log_prob(logits, seen, truth).sum() / hidden.sum()
for coupling, found in nats.items():
    print(f"{coupling:12s}{found:6.3f} nats  perplexity {found.exp():5.1f}")

# %% [markdown]
# Two things are worth a look. The circuit alone, which sees nothing but 32
# tokens, is no match for the backbone, and still takes a third off its
# perplexity: it knows which tokens go together, and the backbone, in one step,
# does not. And the naive product $m_i \cdot r$ counts twice what both know of
# single tokens: it is worse than no circuit at all. Dividing that out
# (`"ratio"`), or the projection, makes it work.
# [Couplings](../diffusion.md#couplings) tells how they differ.
#
# ## Write
#
# `generate` is LLaDA's loop with the head in it. In four steps for 32 tokens,
# eight tokens are decided at once. Read for yourself; the model is tiny, and
# what to look at is where words are cut from pieces that do not fit.

# %%
from pcflow_diffusion import Decoding, generate

prompt = blocks[:1, :64]
print("...", tokenizer.decode(prompt[0, -24:]).replace("\n", " "), "\n")
how = Decoding(temperature=0.8, ranking="random")
sizes = {"steps": 4, "gen_length": 32, "block_length": 32, "decoding": how}
for name, its_head in (("independent", None), ("coupled", head)):
    torch.manual_seed(1)
    found = generate(denoiser, prompt, its_head, mask_token_id=MASK, **sizes)
    print(f"{name}: {tokenizer.decode(found[0, 64:])}".replace("\n", " "), "\n")

# %% [markdown]
# ## Your model
#
# A backbone is any function from tokens `[B, L]` to logits `[B, L, V]`.
# `llada`, `dream` and `mdlm` adapt what those models do differently. To use
# the sampler of somebody else unmodified, hand it `CircuitLM(model, head)`: it
# commits joint draws without knowing.
#
# ## What to read next
#
# * [Masked diffusion](../diffusion.md): couplings, training against a
#   backbone, large vocabularies, windows.
# * [Train a head on text](../training.md): one command from a folder to a
#   head.
# * [Other people's samplers](../plugs.md) and measured
#   [results](../results.md).
# * The next tutorial: [Output that obeys](obey.py).
