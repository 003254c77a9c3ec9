# %% [markdown]
# # Test your own library
#
# You have an object that answers probabilistic queries: a mixture, a flow, a
# network of tables, somebody else's circuit. Does it keep the laws of
# probability? The kit that pcflow is tested with takes any object, knows
# nothing of pcflow's classes, and raises `LawBroken` with the smallest witness
# it found. Here it meets three objects: a right one, the same with four
# planted mistakes, and a normal distribution of scipy.
#
# ## An object
#
# A mixture of products over three variables with 2, 3 and 4 values, in numpy.
# It answers what a user of it would ask.

# %%
import numpy as np
import torch

from pcflow.testing import LawBroken, check_density

SIZES = [2, 3, 4]
rng = np.random.default_rng(0)


class Mixture:
    """A mixture of two products."""

    weights = np.array([0.3, 0.7])
    tables = [rng.dirichlet(np.ones(size), 2) for size in SIZES]  # [2, size]

    def log_marginal(self, x):
        """Log-probability [B] of what is not NaN in rows [B, 3]."""
        components = np.tile(self.weights, (len(x), 1))  # [B, 2]
        for table, value in zip(self.tables, np.asarray(x).T, strict=True):
            seen = ~np.isnan(value)
            components[seen] *= table[:, value[seen].astype(int)].T
        return np.log(components.sum(1))

    def sample(self, n):
        """Rows [n, 3]: a component first, then every variable."""
        z = rng.choice(2, n, p=self.weights)
        below = [table.cumsum(1)[z] for table in self.tables]  # [n, size]
        return np.stack(
            [(rng.random((n, 1)) > b[:, :-1]).sum(1) for b in below], axis=1
        )

    def mpe(self, x):
        """Most probable completions [B, 3], by trying all."""
        states = np.stack(np.meshgrid(*map(range, SIZES), indexing="ij"), -1)
        states = states.reshape(-1, 3).astype(float)  # [24, 3]
        x = np.asarray(x)[:, None]
        fits = (np.isnan(x) | (states == x)).all(2)  # [B, 24]
        scores = np.where(fits, self.log_marginal(states), -np.inf)
        return states[scores.argmax(1)]


def check(mixture):
    """All laws that its answers can be held to."""
    return check_density(
        mixture.log_marginal,
        SIZES,
        log_marginal=mixture.log_marginal,
        sample=mixture.sample,
        mpe=mixture.mpe,
    )


torch.manual_seed(0)
report = check(Mixture())
print(report)

# %% [markdown]
# With 24 states everything is enumerated: probabilities sum to one, a marginal
# is the sum over completions, a batch is answered like its rows, no completion
# beats the most probable one, draws follow the distribution (chi-square, at a
# level at which less than one check in 100,000 fails by chance). The last line
# of the report says what was *not* asked: three laws are about draws given
# evidence, of which this object has none.
#
# ## Four planted mistakes
#
# Slips of one line each. The second, `Independent`, is what a published
# library answers.


# %%
class Twice(Mixture):
    """Not normalised."""

    def log_marginal(self, x):
        """Twice as much."""
        return super().log_marginal(x) + np.log(2)


class Independent(Mixture):
    """The marginal of several variables as the product of single ones."""

    def log_marginal(self, x):
        """Right for rows with one value."""
        x = np.asarray(x)
        total = np.zeros(len(x))
        for variable in range(3):
            alone = np.full_like(x, np.nan)
            alone[:, variable] = x[:, variable]
            total += super().log_marginal(alone)
        return total


class LargestComponent(Mixture):
    """MPE as the mode of the component of largest weight."""

    def mpe(self, x):
        """Ignores that many components can agree."""
        modes = [table[self.weights.argmax()].argmax() for table in self.tables]
        x = np.asarray(x)
        return np.where(np.isnan(x), modes, x)


class Shifted(Mixture):
    """Draws off by one category, in one variable."""

    def sample(self, n):
        """Wrong in the last column."""
        rows = super().sample(n)
        rows[:, 2] = (rows[:, 2] + 1) % 4
        return rows


for wrong in (Twice, LargestComponent, Shifted, Independent):
    try:
        check(wrong())
        print(f"--- {wrong.__name__}: nothing found")
    except LawBroken as found:
        print(f"--- {wrong.__name__}: {found}\n")

# %% [markdown]
# `Independent` deserves a second look. It *is* normalised, and its single
# marginals are right; its marginals are consistent with one another. It is a
# perfectly good density, only not the one that its draws come from, and that
# is the law which finds it.
#
# ## Objects of other libraries
#
# Real variables have no list of states: say `None` for them, and give rows.
# Then an integral over one more variable must be the marginal. A Gaussian of
# scipy, its marginals written by hand:

# %%
from scipy.stats import multivariate_normal

mean, covariance = np.array([1.0, -1.0]), np.array([[2.0, 0.8], [0.8, 1.0]])


def gaussian(x, of_one=lambda variance: variance):
    """Log-density of what is seen, for rows [B, 2] in which any values miss."""
    x = np.asarray(x)
    found = np.zeros(len(x))
    both = ~np.isnan(x).any(1)
    found[both] = multivariate_normal(mean, covariance).logpdf(x[both])
    for variable in range(2):
        alone = ~np.isnan(x[:, variable]) & ~both
        variance = of_one(covariance[variable, variable])
        normal = multivariate_normal(mean[variable], variance)
        found[alone] = normal.logpdf(x[alone, variable])
    return found


def slip(x):
    """A usual one: the standard deviation where the variance belongs."""
    return gaussian(x, of_one=np.sqrt)


rows = rng.multivariate_normal(mean, covariance, 200)
for name, marginal in (("right", gaussian), ("slip", slip)):
    try:
        check_density(
            gaussian,
            [None, None],
            log_marginal=marginal,
            rows=torch.tensor(rows),
        )
        print(f"--- {name}: no law is broken")
    except LawBroken as found:
        print(f"--- {name}: {found}")

# %% [markdown]
# ## In a test suite
#
# `LawBroken` is an `AssertionError`, so a call is a test. To try *all*
# mixtures and have the smallest bad one shrunk for you, let
# [Hypothesis](https://hypothesis.readthedocs.io) invent them:
#
# ```python
# from hypothesis import given, strategies as st
# from hypothesis.extra.numpy import arrays
# from pcflow.testing import register_profile
#
# register_profile(report_multiple_bugs=False)
#
#
# @given(arrays(float, 2, elements=st.floats(0.1, 1)))
# def test_mixture(weights):
#     mixture = Mixture()
#     mixture.weights = weights / weights.sum()
#     check(mixture)
# ```
#
# `register_profile` tells Hypothesis to set no deadline and to seed torch and
# numpy.
#
# ## What to read next
#
# * [Test your own circuit](../testing.md): structures, input families,
#   learners, queries, and what the kit has found elsewhere.
# * [check_another_library.py](../examples/check_another_library.py): against
#   three libraries.
# * The next tutorial: [Logic and counting](logic.py).
