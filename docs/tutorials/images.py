# %% [markdown]
# # Images
#
# A circuit over pixels is a generative model like a diffusion model or an
# autoencoder, with one difference: it adds up and integrates *exactly*. So it
# can tell how probable a *half* of an image is, fill in the other half from
# the true conditional distribution, and classify what it sees only a tenth of.
# None of this is trained for: it is the same model, asked differently.
#
# The images are the handwritten digits of scikit-learn, 8 by 8 pixels of 17
# grey levels. The label is one more variable, the 65th. Variables are columns,
# images are rows.

# %%
import torch
from matplotlib import pyplot as plt
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

import pcflow as pf

torch.manual_seed(0)
digits = load_digits()
rows = torch.tensor(digits.data)  # [1797, 64]
rows = torch.cat([rows, torch.tensor(digits.target)[:, None]], dim=1)
rows = rows[torch.randperm(len(rows))]
train, held_out = rows[:1300], rows[1300:]
LABEL = 64

# %% [markdown]
# ## Structure and parameters
#
# `hclt` learns a *hidden Chow-Liu tree*: it finds the tree that joins pixels
# which tell most about each other, and puts a hidden variable of `units`
# states above each. Ten trees, one for each cluster of images, are mixed. A
# grey level is a `Binomial(16)`, the label a `Categorical(10)`.
#
# `fit` then goes over the data by expectation maximisation. It never lowers
# the likelihood of the training images; `validation` says when to stop.

# %%
families = [pf.Binomial(16)] * 64 + [pf.Categorical(10)]
circuit = pf.hclt(train, units=4, inputs=families, trees=10)
model = pf.compile(circuit)
result = pf.fit(
    model,
    train,
    pf.EM(pseudocount=0.1),
    epochs=8,
    validation=held_out,
    patience=3,
    progress=False,
)
best = result.validation[result.best_epoch]
print(circuit)
print(f"held out: {best:.1f} nats an image, label included")
_ = result.plot()
# %% [markdown]
# A *nat* is a unit of information, $1 / \log(2) \approx 1.44$ bits. An image of
# $-\log p(x) = 93$ nats takes 134 bits to write down with the best code that
# the model knows, about 2 bits a pixel.
# ([compress_digits.py](../examples/compress_digits.py) does write such files.)
#
# ## Draw
#
# Sampling goes down the circuit once: at every sum it chooses one input by its
# weight, at every leaf it draws a value. There are no steps to tune and
# nothing to wait for.

# %%
drawn = model.sample(10)
print("labels drawn with them:", drawn[:, LABEL].int().tolist())
_ = pf.plot.images(drawn[:, :LABEL], (8, 8), limits=(0, 16))

# %% [markdown]
# ## Fill in
#
# `nan` means "not known". Given the upper half, `sample` draws lower halves
# from the exact conditional distribution,
#
# $$p(\text{lower} \mid \text{upper}) = \frac{p(\text{lower}, \text{upper})}
# {\sum_{v} p(\text{lower} = v, \text{upper})},$$
#
# whose denominator is a sum over $17^{32} \cdot 10$ terms that the circuit
# takes in one pass. The mean is exact too; it is grey where draws differ.

# %%
seen = held_out[:4].clone()
seen[:, 32:] = torch.nan  # the lower half, and the label
fills = torch.cat(
    [held_out[None, :4], model.sample(2, seen), model.mean(seen)[None]]
)  # [4, 4, 65]
_ = pf.plot.images(
    fills[..., :LABEL],
    (8, 8),
    given=seen[:, :LABEL],
    labels=["seen", "truth", "draw", "another", "mean"],
    limits=(0, 16),
)

# %% [markdown]
# ## Classify what is hardly there
#
# The label is a variable, so its posterior is a marginal like any other: $p(y
# \mid \text{what is seen})$. Pixels that are not seen are summed out, which is
# what "not seen" means. A discriminative classifier has no way to leave an
# input out; it must be given *some* number. Here is one, trained on the same
# complete images, given the mean of each missing pixel.

# %%
classifier = LogisticRegression(C=0.01, max_iter=300)
classifier.fit(train[:, :LABEL], train[:, LABEL])
average = train[:, :LABEL].mean(0)
shares = [0.0, 0.5, 0.7, 0.8, 0.9, 0.95]
by_circuit, by_classifier = [], []
for share in shares:
    asked = held_out.clone()
    asked[torch.rand(asked.shape) < share] = torch.nan
    asked[:, LABEL] = torch.nan
    posterior = model.marginals(asked, variables=[LABEL])[:, 0]  # [N, 10], logs
    right = posterior.argmax(-1) == held_out[:, LABEL]
    by_circuit.append(right.double().mean())
    pixels = asked[:, :LABEL]
    filled = torch.where(pixels.isnan(), average, pixels)
    by_classifier.append(classifier.score(filled, held_out[:, LABEL]))

figure, axes = plt.subplots(figsize=(6.5, 2.8), layout="constrained")
axes.plot(shares, by_circuit, "o-", color="#3949ab", label="circuit")
axes.plot(
    shares, by_classifier, "s--", color="#e8743b", label="logistic regression"
)
axes.set(xlabel="share of pixels hidden", ylabel="labels right", ylim=(0, 1))
_ = axes.legend(frameon=False)
for share, ours, theirs in zip(shares, by_circuit, by_classifier, strict=True):
    print(f"hidden {share:4.0%}: circuit {ours:.0%}, regression {theirs:.0%}")

# %% [markdown]
# ## Ask by an interval
#
# Evidence may be a mixture of kinds, pixel by pixel. What do images look like
# whose ink in the four middle pixels is *at most 2*, whatever their label? An
# interval has no gradient to follow and no label to condition on, and is one
# more leaf evaluated differently. The circuit also says how rare that is.

# %%
middle = [27, 28, 35, 36]
upper = torch.full((1, 65), torch.nan)
upper[:, middle] = 2.0
hollow = pf.Evidence(torch.full((1, 65), torch.nan), upper=upper)
share = model.log_prob(hollow).exp().item()
counted = (held_out[:, middle] <= 2).all(dim=1).double().mean()
print(f"P(hollow) = {share:.3f}; of the held-out images {counted:.3f} are")
draws = model.sample(10, hollow)[:, 0]
print("their labels:", draws[:, LABEL].int().tolist())
_ = pf.plot.images(draws[:, :LABEL], (8, 8), limits=(0, 16))

# %% [markdown]
# ## What to read next
#
# * [Learn from your own data](../learning.md): larger circuits, `pf.grow`,
#   mini-batches, other structures for images (`quad_graph`, `poon_domingos`).
# * [What is guaranteed](../guarantees.md): smooth, decomposable, and why sums
#   are exact.
# * [inpaint_digits.py](../examples/inpaint_digits.py) and
#   [compress_digits.py](../examples/compress_digits.py): inpainting, and
#   lossless compression.
# * The next tutorial: [Sequences](sequences.py).
