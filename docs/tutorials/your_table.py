# %% [markdown]
# # Your table
#
# A regression answers one question: the column it was trained for, given all
# the others. A *density* over the whole table answers every question, because
# each of them is a sum or an integral over that one function. A probabilistic
# circuit takes these sums exactly, in one pass. Here is the road from a table
# to such answers.
#
# The table comes with scikit-learn: 442 people with diabetes, measured once.
# `target` says how far the disease went in the year after. Real tables have
# gaps, so a tenth of all cells is blanked out.

# %%
import numpy as np
import torch
from matplotlib import pyplot as plt
from sklearn.datasets import load_diabetes

from pcflow.estimator import CircuitDensity

patients = load_diabetes(as_frame=True, scaled=False).frame.astype(float)
patients["sex"] = patients["sex"].map(
    {1.0: "A", 2.0: "B"}
)  # the file does not say which is which
patients = patients.rename(columns={"s5": "log_fat", "s6": "sugar"})
table = patients.mask(np.random.default_rng(0).random(patients.shape) < 0.1)
table.head(4)

# %% [markdown]
# ## Learn it
#
# `fit` finds out what kind of column each is and which ones go together, puts
# hidden variables above them, and trains the numbers by expectation
# maximisation. What is missing is summed out, so nothing has to be filled in
# before.

# %%
train, held_out = table[:350], table[350:]
density = CircuitDensity(units=8, random_state=0).fit(train)
for name, family in zip(
    density.encoding_.names, density.encoding_.families, strict=True
):
    print(f"{name:8s} {type(family).__name__}")

# %% [markdown]
# Ages are whole numbers (`DiscretizedLogistic`), blood pressure is positive
# and skewed (`LogNormal`), one ratio is a round number for many people
# (`Inflated`: that number beside a density). All of it can be [chosen by
# hand](../tables.md#what-a-column-becomes).
#
# `score` is the mean log-density of a row, in *nats* (natural logarithms): how
# unsurprising rows are that it has never seen. Only differences mean
# something. One nat more is $e \approx 2.7$ times the density, for every row.
# So we compare with the same thing with one hidden state, in which columns are
# independent.

# %%
independent = CircuitDensity(units=1, random_state=0).fit(train)
gain = density.score(held_out) - independent.score(held_out)
print(f"held out: {density.score(held_out):.2f} nats a row")
print(f"columns apart: {independent.score(held_out):.2f} nats a row")
print(f"so what belongs together is worth {gain:.2f}")

# %% [markdown]
# ## Ask about intervals
#
# How probable is it that the disease goes far, `target >= 200`, for a
# body-mass index between 25 and 30? Both are intervals, nine other columns are
# unknown. By the definition of conditional probability it is a quotient of two
# masses, and each is one pass upward:
#
# $$P(\text{target} \ge 200 \mid 25 \le \text{bmi} \le 30) =
# \frac{P(\text{target} \ge 200,\; 25 \le \text{bmi} \le 30)}
# {P(25 \le \text{bmi} \le 30)}$$
#
# `evidence` takes bounds in the units of the columns. The bars are counts in
# the full table.

# %%
lows = np.arange(18.0, 40.0, 2.0)
far = {"target": np.full(len(lows), 200.0)}
both = density.evidence(lower={"bmi": lows, **far}, upper={"bmi": lows + 2})
alone = density.evidence(lower={"bmi": lows}, upper={"bmi": lows + 2})
with torch.no_grad():
    chance = (
        density.model_.log_prob(both) - density.model_.log_prob(alone)
    ).exp()

within = [patients[patients.bmi.between(low, low + 2)] for low in lows]
figure, axes = plt.subplots(figsize=(6.5, 2.8), layout="constrained")
counted = [(group.target >= 200).mean() for group in within]
axes.bar(
    lows + 1, counted, width=1.8, color="#d0d7de", label="counted in the table"
)
axes.plot(lows + 1, chance, "o-", color="#3949ab", label="the circuit")
axes.set(xlabel="body-mass index, in steps of 2", ylabel="P(target ≥ 200)")
_ = axes.legend(frameon=False)
# %% [markdown]
# ## Two answers that agree
#
# Train one classifier for a high `target` given sex, and another for sex given
# a high `target`, and they will contradict each other: nothing makes $P(a \mid
# b)\,P(b)$ of the one equal $P(b \mid a)\,P(a)$ of the other. Answers that
# come from one density cannot contradict each other. Here are both ways round,
# by sums that have nothing in common:

# %%
model = density.model_
high = density.evidence(lower={"target": [200.0]})
is_b = density.evidence({"sex": ["B"]})
both = density.evidence({"sex": ["B"]}, lower={"target": [200.0]})
place = list(table.columns).index("sex")
with torch.no_grad():
    b_given_high = model.marginals(high, variables=[place]).exp()[0, 0, 1]
    high_given_b = (model.log_prob(both) - model.log_prob(is_b)).exp()[0]
    left = high_given_b * model.log_prob(is_b).exp()[0]
    right = b_given_high * model.log_prob(high).exp()[0]
print(f"P(high | B) = {high_given_b:.4f}")
print(f"P(B | high) = {b_given_high:.4f}")
print(f"P(high | B) P(B) - P(B | high) P(high) = {abs(left - right):.1e}")

# %% [markdown]
# ## Fill the gaps
#
# `impute` fills a gap by its posterior mean, given all that is known of the
# row; `how="sample"` draws from the posterior instead, which shows how much a
# mean hides. To see how good it is, one column after another is hidden from
# all held-out rows, gaps of others staying. The error is the root of the mean
# squared difference, in standard deviations of the column.

# %%
truth = patients[350:]
for name in ("bmi", "bp", "s1", "s2", "s3", "s4", "log_fat", "sugar", "target"):
    filled = density.impute(held_out.assign(**{name: np.nan}))
    spread = train[name].std()
    error = (((filled[name] - truth[name]) / spread) ** 2).mean() ** 0.5
    plain = (((train[name].mean() - truth[name]) / spread) ** 2).mean() ** 0.5
    print(f"{name:8s} imputed {error:.2f}   mean of column {plain:.2f}")

# %% [markdown]
# ## Find what is odd
#
# A row of low density is an odd one. `s4` is the ratio of cholesterol in all
# (`s1`) to the good one (`s3`). Nobody has told the circuit. We take a person
# from the held-out rows and write down a ratio of 7, which is high, but not
# unheard of. It contradicts the other numbers, and only a density that knows
# what belongs together can notice.

# %%
person = truth[(truth.s1 / truth.s3 < 3)][:1]
planted = person.assign(s4=7.0)
print(f"s1 / s3 = {(person.s1 / person.s3).item():.1f}, but s4 = 7")
print(f"{(patients.s4 >= 7).mean():.1%} of all people have an s4 of 7 or more")
for name, judge in (("columns apart", independent), ("the circuit", density)):
    rank = (
        judge.score_samples(patients) < judge.score_samples(planted)[0]
    ).mean()
    print(f"{name:14s}{rank:6.1%} of all people are odder")

# %% [markdown]
# ## A density of the rest
#
# `condition` makes a density of the other columns given some: an estimator
# like the first one, with all of its queries. `sample` draws from it. Here are
# people of 30 and of 70 years, group A, who never existed:

# %%
figure, axes = plt.subplots(figsize=(6.5, 2.8), layout="constrained")
for age, colour in ((30.0, "#3949ab"), (70.0, "#e8743b")):
    drawn = density.condition({"sex": "A", "age": age}).sample(
        400, random_state=0
    )
    axes.scatter(
        drawn["bmi"],
        drawn["bp"],
        s=8,
        alpha=0.6,
        color=colour,
        label=f"age {age:.0f}",
    )
axes.set(xlabel="body-mass index", ylabel="blood pressure")
_ = axes.legend(frameon=False)

# %% [markdown]
# ## What to read next
#
# * [Tables](../tables.md): every kind of column, and what was never seen.
# * [Learn from your own data](../learning.md): which structure, which learner,
#   how good it gets.
# * [What is guaranteed](../guarantees.md): which query needs which structure.
# * The next tutorial: [Images](images.py), where the variables are pixels.
