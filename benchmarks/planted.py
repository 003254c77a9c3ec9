"""Mistakes planted in densities of other libraries: which of them `check_density` finds.

    python benchmarks/planted.py --right 1000

Every object is checked as it is, and with one mistake at a time in one of its queries; libraries
that are not installed are left out. Right objects are checked again and again, with parameters of
their own every time, and blamed ones are counted. Prints Markdown: law or not found, and seconds of
processor time.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.stats import beta, multivariate_normal
from toy import arguments, is_installed, size

from pcflow.testing import LawBroken, check_density

Array = Any
Queries = dict[str, Callable[..., Any]]
WRONG = {
    "right": "as it is",
    "twice": "twice the density",
    "half": "half the density",
    "marginal": "wrong marginal",
    "stuck": "sampler stuck",
    "shifted": "sampler shifted",
    "deaf": "sampler ignores evidence",
    "mpe": "wrong completion",
    "other": "off by one, or a floor",
}


@dataclass(frozen=True)
class Thing:
    """An object of some library.

    Attributes:
        sizes: number of values of every variable, None if real.
        queries: what it answers, by the names of `check_density`.
    """

    sizes: list[int | None]
    queries: Queries

    def checked(self) -> str:
        """The first law that does not hold; empty if all do."""
        queries = dict(self.queries)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                check_density(queries.pop("log_prob"), self.sizes, **queries)
            except LawBroken as error:
                return error.laws[0]
        return ""


def mixture(seed: int) -> Thing:
    """Two products of tables over 2 x 3 x 4 states, in numpy, with every query."""
    rng = np.random.default_rng(seed)
    weight = rng.dirichlet([3, 3])
    tables = [rng.dirichlet(np.full(n, 2.0), 2) for n in (2, 3, 4)]  # [2, V]
    grid = np.stack(np.meshgrid(*map(np.arange, (2, 3, 4)), indexing="ij"), -1).reshape(-1, 3)
    share = sum(
        w * np.prod([t[k][c] for t, c in zip(tables, grid.T, strict=True)], 0)
        for k, w in enumerate(weight)
    )

    def agree(x: Array) -> Array:
        x = np.asarray(x)[:, None]
        return (np.isnan(x) | (x == grid)).all(-1) * share  # [B, 24]

    def given(n: int, row: Array) -> Array:
        mass = agree(row[None])[0]
        return grid[rng.choice(len(grid), n, p=mass / mass.sum())]

    def log_marginal(x: Array) -> Array:
        with np.errstate(divide="ignore"):
            return np.log(agree(x).sum(-1))

    queries = {
        "log_prob": log_marginal,
        "log_marginal": log_marginal,
        "sample": lambda n: given(n, np.full(3, np.nan)),
        "sample_given": given,
        "mpe": lambda x: grid[agree(x).argmax(-1)],
    }
    return Thing([2, 3, 4], queries)


def normal(seed: int) -> Thing:
    """A multivariate normal of scipy over three variables, with every query."""
    rng = np.random.default_rng(seed)
    mean, root = rng.normal(size=3) * 3, rng.normal(size=(3, 3))
    cov = root @ root.T + 0.3 * np.eye(3)

    def log_marginal(x: Array) -> Array:
        x = np.asarray(x)
        out = np.zeros(len(x))
        known = ~np.isnan(x)
        for pattern in np.unique(known, axis=0):
            rows = (known == pattern).all(-1)
            if pattern.any():
                law = multivariate_normal(mean[pattern], cov[np.ix_(pattern, pattern)])
                out[rows] = law.logpdf(x[rows][:, pattern])
        return out

    def posterior(row: Array) -> tuple[Array, Array, Array]:
        gone = np.isnan(row)
        gain = cov[np.ix_(gone, ~gone)] @ np.linalg.inv(cov[np.ix_(~gone, ~gone)])
        center = mean[gone] + gain @ (row[~gone] - mean[~gone])
        return gone, center, cov[np.ix_(gone, gone)] - gain @ cov[np.ix_(~gone, gone)]

    def given(n: int, row: Array) -> Array:
        row = np.asarray(row)
        gone, center, spread = posterior(row)
        out = np.tile(row, (n, 1))
        out[:, gone] = rng.multivariate_normal(center, spread, n)
        return out

    def mpe(x: Array) -> Array:
        out = np.array(x)
        for row in out:
            gone, center, _ = posterior(row)
            row[gone] = center
        return out

    law = multivariate_normal(mean, cov, seed=rng)
    queries = {
        "log_prob": lambda x: np.atleast_1d(law.logpdf(np.asarray(x))),
        "log_marginal": log_marginal,
        "sample": lambda n: law.rvs(n).reshape(n, 3),
        "sample_given": given,
        "mpe": mpe,
    }
    return Thing([None] * 3, queries)


def gaussians(seed: int) -> Thing:
    """A Gaussian mixture of sklearn, fitted to two variables: no marginals."""
    from sklearn.mixture import GaussianMixture

    rng = np.random.RandomState(seed)
    x = np.concatenate([rng.randn(200, 2) @ rng.randn(2, 2) + 4 * rng.randn(2) for _ in range(3)])
    model = GaussianMixture(3, random_state=rng).fit(x)
    queries = {
        "log_prob": lambda x: model.score_samples(np.asarray(x)),
        "sample": lambda n: rng.permutation(model.sample(n)[0]),
    }
    return Thing([None] * 2, queries)


def bayes(seed: int) -> Thing:
    """Naive Bayes of sklearn, of a class and four bits: a joint log-probability, and draws."""
    from sklearn.naive_bayes import BernoulliNB

    rng = np.random.default_rng(seed)
    y = rng.integers(2, size=200)
    model = BernoulliNB().fit(rng.random((200, 4)) < 0.2 + 0.5 * y[:, None], y)

    def log_prob(x: Array) -> Array:
        x = np.asarray(x)
        joint = model.predict_joint_log_proba(x[:, 1:])
        return joint[np.arange(len(x)), x[:, 0].astype(int)]

    def sample(n: int) -> Array:
        kind = (rng.random(n) < np.exp(model.class_log_prior_[1])).astype(int)
        bits = rng.random((n, 4)) < np.exp(model.feature_log_prob_[kind])
        return np.column_stack([kind, bits])

    return Thing([2] * 5, {"log_prob": log_prob, "sample": sample})


def markov(seed: int) -> Thing:
    """A categorical hidden Markov model of hmmlearn over four steps."""
    from hmmlearn.hmm import CategoricalHMM

    rng = np.random.RandomState(seed)
    model = CategoricalHMM(2, random_state=rng)
    model.startprob_ = rng.dirichlet([2, 2])
    model.transmat_ = rng.dirichlet([2, 2], 2)
    model.emissionprob_ = rng.dirichlet([2] * 3, 2)
    model.n_features = 3

    def log_prob(x: Array) -> Array:
        return np.array([model.score(row[:, None]) for row in np.asarray(x).astype(int)])

    def sample(n: int) -> Array:
        return np.stack([model.sample(4, rng)[0][:, 0] for _ in range(n)])

    return Thing([3] * 4, {"log_prob": log_prob, "sample": sample})


def bits(seed: int) -> Thing:
    """Twenty independent bits: a million states, and no marginals."""
    rng = np.random.default_rng(seed)
    odds = rng.uniform(0.2, 0.8, 20)

    def log_prob(x: Array) -> Array:
        return np.log(np.where(np.asarray(x) == 1, odds, 1 - odds)).sum(-1)

    return Thing([2] * 20, {"log_prob": log_prob, "sample": lambda n: rng.random((n, 20)) < odds})


THINGS: dict[str, tuple[str, Callable[[int], Thing]]] = {
    "numpy mixture, 24 states": ("numpy", mixture),
    "scipy multivariate normal": ("scipy", normal),
    "sklearn GaussianMixture": ("sklearn", gaussians),
    "sklearn BernoulliNB": ("sklearn", bayes),
    "hmmlearn CategoricalHMM": ("hmmlearn", markov),
    "20 bits, numpy": ("numpy", bits),
}


def planted(thing: Thing) -> Iterator[tuple[str, Thing]]:
    """The same with one mistake, for every mistake that it has a query for."""
    q, sizes = thing.queries, thing.sizes
    real, top = None in sizes, np.array([(n or 2) - 1 for n in sizes])

    def shift(x: Array) -> Array:
        x = np.asarray(x)
        return x + 1 if real else np.where(x == top, 0, x + 1)

    def other(x: Array) -> Array:
        return np.maximum(q["log_prob"](x), -20.0) if real else q["log_prob"](shift(x))

    changed: dict[str, Queries] = {
        "twice": {"log_prob": lambda x: q["log_prob"](x) + np.log(2)},
        "half": {"log_prob": lambda x: q["log_prob"](x) - np.log(2)},
        "other": {"log_prob": other},
    }
    if "log_marginal" in q:
        changed["marginal"] = {"log_marginal": lambda x: q["log_marginal"](np.nan_to_num(x))}
    if "sample" in q:
        changed["stuck"] = {"sample": lambda n: np.zeros((n, len(sizes)))}
        changed["shifted"] = {"sample": lambda n: shift(q["sample"](n))}
    if "sample_given" in q:
        changed["deaf"] = {
            "sample_given": lambda n, row: np.where(np.isnan(row), q["sample"](n), row)
        }
    if "mpe" in q:
        changed["mpe"] = {"mpe": lambda x: np.where(np.isnan(x), 0.0, x)}
    for name, queries in changed.items():
        yield name, Thing(sizes, {**q, **queries})


def timed(thing: Thing) -> tuple[str, float]:
    """What is found, and how long it took."""
    started = time.process_time()
    return thing.checked(), time.process_time() - started


def row(make: Callable[[int], Thing]) -> list[str]:
    """A cell per mistake."""
    thing = make(0)
    cells = {"right": thing, **dict(planted(thing))}
    told = dict.fromkeys(WRONG, "-")
    for name, one in cells.items():
        law, seconds = timed(one)
        if name == "right":
            told[name] = f"**blamed**: {law}" if law else f"holds, {seconds:.1f} s"
        else:
            told[name] = f"found, {seconds:.1f} s" if law else f"**not found**, {seconds:.1f} s"
    return list(told.values())


def blamed(makers: list[Callable[[int], Thing]], runs: int) -> str:
    """How many right objects, each with parameters of its own, are blamed."""
    laws = [law for seed in range(runs) if (law := makers[seed % len(makers)](seed + 1).checked())]
    most = beta.ppf(0.95, len(laws) + 1, runs - len(laws))
    return (
        f"{len(laws)} of {runs} right objects blamed, less than {most:.2%} by 95 % {sorted(laws)}"
    )


def main() -> None:
    """Print the table, and the count."""
    parser = arguments(__doc__)
    parser.add_argument("--right", type=int, default=size(1_000, 6), help="(%(default)s)")
    given = parser.parse_args()
    torch.manual_seed(0)
    things = {name: make for name, (of, make) in THINGS.items() if is_installed(of)}
    print("| object |", " | ".join(WRONG.values()), "|")
    print("|---" * (len(WRONG) + 1) + "|")
    for name, make in things.items():
        print(f"| {name} |", " | ".join(row(make)), "|", flush=True)
    print(f"\n{blamed(list(things.values()), given.right)}")


if __name__ == "__main__":
    main()
