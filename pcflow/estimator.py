"""`CircuitDensity`: a circuit learned from a table, in scikit-learn's manner.

Install with `pip install 'pcflow[sklearn]'`. Legend: N rows, D columns.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pcflow import learn
from pcflow.construct import hclt
from pcflow.data import Coded, Encoding, Floats
from pcflow.errors import NoMassError, SettingError
from pcflow.learn import Learner
from pcflow.queries import compile

try:
    from sklearn.base import BaseEstimator, DensityMixin
    from sklearn.utils import check_random_state
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as error:
    raise ImportError(
        "pcflow.estimator needs scikit-learn 1.6 or newer: pip install 'pcflow[sklearn]'"
    ) from error

RandomState = int | np.random.RandomState | None


class CircuitDensity(DensityMixin, BaseEstimator):  # type: ignore[misc] # scikit-learn is untyped
    """Joint density of mixed columns with gaps: a hidden Chow-Liu tree learned by EM.

    NaN is a missing value, in `fit` and in every query, and is summed out. Columns of codes get a
    probability for every code, all others a mixture of normal densities; densities are per unit of
    the columns as they are given.

    Args:
        units: states of every hidden variable of the tree.
        categorical: columns that hold codes, by index; a mapping from indices also tells codes that
            may occur and are not in the data. "auto" takes columns with at most 20 different
            values, all of them whole numbers.
        learner: how parameters are learned; `EM(pseudocount=0.1)` by default. `Anemone()` wants
            fewer epochs where there are many batches.
        epochs: how often to go over the data, at most.
        batch_size: rows at a time.
        validation_fraction: share of the rows, in [0, 1), that only tells when to stop.
        patience: stop after this many epochs without improvement on those rows; not read if there
            are none.
        random_state: source of initial parameters and of the order of rows.
        verbose: whether to show a progress bar.

    Attributes:
        model_: the `CompiledCircuit` (float64), over standardised columns and places of codes.
        encoding_: how columns become variables of `model_`.
        result_: the `FitResult`, of standardised columns.
        n_features_in_: number of columns seen in `fit`, D.

    Examples:
        >>> X = [[0, 1.4], [1, 30.1], [0, 1.6], [1, float("nan")], [0, 1.5], [1, 29.9]]
        >>> density = CircuitDensity(units=2, validation_fraction=0, random_state=0).fit(X)
        >>> density.impute([[1, float("nan")]], how="mpe").round()
        array([[ 1., 30.]])
    """

    def __init__(
        self,
        units: int = 16,
        *,
        categorical: Coded = "auto",
        learner: Learner | None = None,
        epochs: int = 50,
        batch_size: int = 512,
        validation_fraction: float = 0.1,
        patience: int = 5,
        random_state: RandomState = None,
        verbose: bool = False,
    ) -> None:
        """Keep the settings; `fit` checks them."""
        self.units = units
        self.categorical = categorical
        self.learner = learner
        self.epochs = epochs
        self.batch_size = batch_size
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: npt.ArrayLike, y: object = None) -> CircuitDensity:
        """Learn the tree and its parameters from rows [N, D].

        Codes, scales and the tree are read off all rows; parameters are learned from those that are
        not kept to tell when to stop.

        Args:
            X: rows [N, D], two at least; NaN is a missing value.
            y: not read.

        Raises:
            ValueError: if a setting is out of range, or X does not hold numbers in every column.

        Examples:
            >>> result = CircuitDensity(epochs=3).fit([[0.1], [0.7], [float("nan")]]).result_
            >>> len(result.train), len(result.validation)
            (3, 3)
        """
        data = self._checked(X, reset=True)
        generator = _generator(self.random_state)
        self.encoding_ = Encoding.of(data, self.categorical)
        values = self.encoding_.encode(data)
        circuit = hclt(values, self.units, self.encoding_.families, generator=generator)
        self.model_ = compile(circuit, dtype=torch.float64)
        train, validation = self._split(torch.from_numpy(values), generator)
        self.result_ = learn.fit(
            self.model_,
            train,
            learn.EM(pseudocount=0.1) if self.learner is None else self.learner,
            epochs=self.epochs,
            batch_size=self.batch_size,
            validation=validation,
            patience=None if validation is None else self.patience,
            progress=self.verbose,
            generator=generator,
        )
        return self

    def score_samples(self, X: npt.ArrayLike) -> Floats:
        """Log-density [N] (nats) of what is observed in every row.

        It is per unit of every observed real column: a probability where there are only codes, and
        -inf in rows with a code that `fit` has neither seen nor been told of.

        Args:
            X: rows [N, D]; NaN is a missing value.

        Examples:
            >>> density = CircuitDensity(validation_fraction=0).fit([[0], [1], [1], [0]])
            >>> np.exp(density.score_samples([[0], [1], [2], [float("nan")]])).round(1)
            array([0.5, 0.5, 0. , 1. ])
        """
        data = self._known(X)
        values = self.encoding_.encode(data)
        never = np.isinf(values)
        with torch.no_grad():
            found = self.model_.log_prob(torch.from_numpy(np.where(never, np.nan, values)))
        log_scale = np.where(np.isnan(data), 0.0, self.encoding_.log_scales).sum(axis=1)
        return np.where(never.any(axis=1), -np.inf, found.numpy() - log_scale)

    def score(self, X: npt.ArrayLike, y: object = None) -> float:
        """Mean log-density (nats) of rows [N, D], as of `GaussianMixture`; higher is better.

        Args:
            X: rows [N, D]; NaN is a missing value.
            y: not read.

        Examples:
            >>> density = CircuitDensity(validation_fraction=0).fit([[0], [1], [1], [0]])
            >>> round(density.score([[0], [1]]), 1)
            -0.7
        """
        return float(self.score_samples(X).mean())

    def sample(self, n_samples: int = 1, random_state: RandomState = None) -> Floats:
        """Rows [n_samples, D] drawn from the density, as of `KernelDensity`.

        Args:
            n_samples: how many.
            random_state: source of randomness; numpy's global one by default.

        Raises:
            ValueError: if `n_samples` is negative.

        Examples:
            >>> CircuitDensity().fit([[5], [7], [7], [5]]).sample(3).shape
            (3, 1)
        """
        check_is_fitted(self)
        drawn = self.model_.sample(n_samples, generator=_generator(random_state))
        return self.encoding_.decode(drawn.numpy())

    def impute(
        self,
        X: npt.ArrayLike,
        how: Literal["mean", "mpe", "sample"] = "mean",
        random_state: RandomState = None,
    ) -> Floats:
        """Rows [N, D] with every NaN filled given the rest of its row; all else is kept.

        Args:
            X: rows [N, D]; NaN is a missing value.
            how: "mpe" fills in the most probable completion (of columns and hidden variables
                together, see `CompiledCircuit.mpe`), "mean" does so for codes and takes the
                posterior mean of real columns, "sample" draws a completion.
            random_state: source of draws; numpy's global one by default.

        Raises:
            NoMassError: if a row holds a code that `fit` has not seen, or is otherwise impossible.
            SettingError: if `how` is none of these.

        Examples:
            >>> density = CircuitDensity().fit([[0, 5], [1, 7], [0, 5], [1, 7]])
            >>> density.impute([[float("nan"), 5]], how="sample").shape
            (1, 2)
        """
        data = self._known(X)
        values = self.encoding_.encode(data)
        never = np.isinf(values).any(axis=1)
        if never.any():
            raise NoMassError(np.flatnonzero(never).tolist(), "impute")
        given = torch.from_numpy(values)
        if how == "sample":
            filled = self.model_.sample(1, given, _generator(random_state))[0]
        elif how in ("mean", "mpe"):
            filled = self.model_.mpe(given).values
        else:
            raise SettingError("how", how, '"mean", "mpe" or "sample"')
        if how == "mean":
            real = [family.num_categories is None for family in self.encoding_.families]
            filled = torch.where(torch.tensor(real), self.model_.mean(given), filled)
        return np.where(np.isnan(data), self.encoding_.decode(filled.numpy()), data)

    def __sklearn_tags__(self) -> Any:
        """NaN is welcome."""
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags

    def _checked(self, X: npt.ArrayLike, reset: bool) -> Floats:
        """X as scikit-learn wants it checked."""
        least = 2 if reset else 1  # of one row alone nothing can be learned
        data: Floats = validate_data(
            self,
            X,
            reset=reset,
            dtype=np.float64,
            ensure_all_finite="allow-nan",
            ensure_min_samples=least,
        )
        return data

    def _known(self, X: npt.ArrayLike) -> Floats:
        """X checked against what `fit` has seen."""
        check_is_fitted(self)
        return self._checked(X, reset=False)

    def _split(self, x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """Rows to learn from, and rows that tell when to stop."""
        share = self.validation_fraction
        if not 0 <= share < 1:
            raise SettingError("validation_fraction", share, "in [0, 1)")
        x = x[~x.isnan().all(dim=1)]  # the others teach nothing, and tell nothing
        kept = min(math.ceil(share * len(x)), len(x) - 1)
        if kept == 0:
            return x, None
        order = torch.randperm(len(x), generator=generator)
        return x[order[kept:]], x[order[:kept]]


def _generator(random_state: RandomState) -> torch.Generator:
    """Torch's kind of randomness from scikit-learn's."""
    seed = check_random_state(random_state).randint(2**31 - 1)
    return torch.Generator().manual_seed(int(seed))
