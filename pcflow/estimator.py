"""`CircuitDensity`: a circuit learned from a table, in scikit-learn's manner.

Install with `pip install 'pcflow[sklearn]'`. Legend: N rows, D columns, V values of a column.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pcflow import io, learn
from pcflow.algebra import condition
from pcflow.circuit import InputLayer
from pcflow.construct import hclt
from pcflow.data import Column, Encoding, Floats, Form, Wish, columns_of, is_dict, is_frame
from pcflow.errors import EvidenceError, FileFormatError, SettingError
from pcflow.evidence import Evidence, as_tensor
from pcflow.inputs import Categorical, InputFamily
from pcflow.learn import Learner
from pcflow.queries import CompiledCircuit, compile

try:
    from sklearn.base import BaseEstimator, DensityMixin, clone
    from sklearn.utils import check_random_state
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as error:
    raise ImportError(
        "pcflow.estimator needs scikit-learn 1.6 or newer: pip install 'pcflow[sklearn]'"
    ) from error

Rows = npt.NDArray[np.intp]
RandomState = int | np.random.RandomState | None
Table = Any
"""A DataFrame, a dict of columns, an array [N, D] or lists of rows."""

TOLD = "table"
"""The text of a file that says what its columns are."""


class CircuitDensity(DensityMixin, BaseEstimator):  # type: ignore[misc] # scikit-learn is untyped
    """Joint density of a table of any columns, with gaps: a hidden Chow-Liu tree learned by EM.

    A table is a pandas DataFrame, a dict of columns (in queries of some of them, the others are
    missing then), an array [N, D] or a list of rows. None, NaN, NaT and NA are missing values, in
    `fit` and in every query, and are summed out.

    | a column of | is |
    |---|---|
    | strings, booleans, categories of pandas | a probability for each |
    | few different values, each of them often | likewise |
    | whole numbers, fewer than 256 apart | a `DiscretizedLogistic` |
    | other numbers, dates, durations | `Gaussian`, of the logarithm (`LogNormal`) if likelier |
    | the same, a tenth and more of one value | that value beside such a density: `Inflated` |

    Log-densities are per unit of the columns as they are given, per day of dates and durations, and
    probabilities where there is no unit. A value that `fit` has not seen and that cannot be of a
    column's family gets the share that Good and Turing would give it, and says nothing of others.

    Args:
        units: states of every hidden variable of the tree.
        categorical: columns that hold codes, by name or index; a mapping from them also tells codes
            that may occur and are not in the data. "auto" takes those of labels, of one value, of
            two whole numbers, and of at most 20 values each in five rows on average.
        families: input families of columns of numbers, by name or index, such as
            `{"wage": LogNormal()}`; the others are chosen as above.
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
        model_: the `CompiledCircuit` (float64), over encoded columns.
        encoding_: how columns become variables of `model_`.
        form_: names and types of the columns.
        result_: the `FitResult`, of encoded columns.
        n_features_in_: number of columns seen in `fit`, D.

    Examples:
        >>> people = {"job": ["nurse"] * 10 + ["smith"] * 10, "age": [*range(20, 40, 2)] * 2}
        >>> people["wage"] = [20.5 + age for age in range(10)] + [35.5 + age for age in range(10)]
        >>> density = CircuitDensity(units=2, random_state=0).fit(people)
        >>> density.impute({"job": ["nurse", None], "wage": [21.5, 43.0]})["job"]
        array(['nurse', 'smith'], dtype=object)
    """

    def __init__(
        self,
        units: int = 16,
        *,
        categorical: Sequence[Any] | Mapping[Any, Sequence[Any]] | str = "auto",
        families: Mapping[Any, InputFamily] | None = None,
        learner: Learner | None = None,
        epochs: int = 200,
        batch_size: int = 512,
        validation_fraction: float = 0.1,
        patience: int = 10,
        random_state: RandomState = None,
        verbose: bool = False,
    ) -> None:
        """Keep the settings; `fit` checks them."""
        self.units = units
        self.categorical = categorical
        self.families = families
        self.learner = learner
        self.epochs = epochs
        self.batch_size = batch_size
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: Table, y: object = None, sample_weight: Any = None) -> CircuitDensity:
        """Learn the tree and its parameters from the rows of a table.

        Codes and scales are read off all rows that weigh anything, the tree by their weights, and
        parameters are learned from those that are not kept to tell when to stop.

        Args:
            X: a table [N, D] of two rows at least.
            y: not read.
            sample_weight: how much every row counts [N], from zero up; a row of weight zero is as
                good as none.

        Raises:
            ValueError: if a setting is out of range, or a column holds no value or infinity.
            TypeError: if a value is nothing that a column may hold.

        Examples:
            >>> result = CircuitDensity(epochs=3).fit([[0.1], [0.7], [float("nan")]]).result_
            >>> len(result.train), len(result.validation)
            (3, 3)
        """
        columns, weights = _counting(self._columns(X, reset=True), sample_weight)
        generator = _generator(self.random_state)
        self.encoding_ = Encoding.of(columns, self._wishes())
        values = self.encoding_.encode(columns)
        families = self.encoding_.families
        circuit = hclt(values, self.units, families, generator=generator, weights=weights)
        self.model_ = compile(circuit, dtype=torch.float64)
        train, validation = self._split(values, generator)
        self.result_ = learn.fit(
            self.model_,
            values[train],
            learn.EM(pseudocount=0.1) if self.learner is None else self.learner,
            weights=weights[train],
            epochs=self.epochs,
            batch_size=self.batch_size,
            **self._judge(values[validation], weights[validation]),
            progress=self.verbose,
            generator=generator,
        )
        return self

    def score_samples(self, X: Table) -> Floats:
        """Log-density [N] (nats) of what is observed in every row, in the units of the columns.

        Args:
            X: a table [N, D].

        Examples:
            >>> density = CircuitDensity(validation_fraction=0).fit([[0], [1], [1], [0]] * 5)
            >>> np.exp(density.score_samples([[0], [1], [2], [float("nan")]])).round(2)
            array([0.49, 0.49, 0.02, 1.  ])
        """
        values = self._encoded(X)
        with torch.no_grad():
            found = self.model_.log_prob(_seen(values))
        return found.numpy() + self.encoding_.log_gains(values)

    def score(self, X: Table, y: object = None) -> float:
        """Mean log-density (nats) of the rows, as of `GaussianMixture`; higher is better.

        Args:
            X: a table [N, D].
            y: not read.

        Examples:
            >>> density = CircuitDensity(validation_fraction=0).fit([[0], [1], [1], [0]] * 5)
            >>> round(density.score([[0], [1]]), 1)
            -0.7
        """
        return float(self.score_samples(X).mean())

    def sample(self, n_samples: int = 1, random_state: RandomState = None) -> Table:
        """Rows drawn from the density, as of `KernelDensity`: a table like that of `fit`.

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
        return self.form_.table(self.encoding_.decode(drawn.numpy()))

    def impute(
        self,
        X: Table,
        how: Literal["mean", "mpe", "sample"] = "mean",
        random_state: RandomState = None,
    ) -> Table:
        """The same table with every gap filled given the rest of its row; all else is kept.

        Args:
            X: a table [N, D].
            how: "mpe" fills in the most probable completion (of columns and hidden variables
                together, see `CompiledCircuit.mpe`), "mean" does so for codes and takes the
                posterior mean of other columns, "sample" draws a completion.
            random_state: source of draws; numpy's global one by default.

        Raises:
            NoMassError: if a row is impossible.
            SettingError: if `how` is none of these.

        Examples:
            >>> density = CircuitDensity().fit([[0, 5], [1, 7], [0, 5], [1, 7]])
            >>> density.impute([[float("nan"), 5]], how="sample").shape
            (1, 2)
        """
        columns = self._columns(X)
        given = _seen(self.encoding_.encode(columns))
        if how == "sample":
            filled = self.model_.sample(1, given, _generator(random_state))[0]
        elif how in ("mean", "mpe"):
            filled = self.model_.mpe(given).values
        else:
            raise SettingError("how", how, '"mean", "mpe" or "sample"')
        if how == "mean":
            filled = torch.where(self._is_coded(), filled, self.model_.mean(given))
        return self.form_.answering(X).filled(X, columns, self.encoding_.decode(filled.numpy()))

    def predict_proba(self, X: Table, columns: Any = None) -> Table:
        """Probabilities of the values of some columns, given the rest of every row.

        What X holds in those columns is not looked at; a dict or DataFrame may lack them.

        Args:
            X: a table [N, D].
            columns: one, by name or index, or several, each by itself; by default all that have
                finitely many values.

        Returns:
            For every value of the column a column of probabilities: an array [N, V], or a dict or
            DataFrame whose columns are named by the values (by column and value if there are
            several).

        Raises:
            SettingError: if a column has no finite range.
            NoMassError: if a row is impossible.

        Examples:
            >>> people = {"job": ["nurse", "smith"] * 10, "rich": [False, True] * 10}
            >>> density = CircuitDensity(units=2, random_state=0).fit(people)
            >>> bool(density.predict_proba({"job": ["nurse"]}, "rich")[False][0] > 0.9)
            True
        """
        check_is_fitted(self)
        one = columns is not None and not isinstance(columns, list | tuple | np.ndarray)
        asked = self._finite() if columns is None else [columns] if one else list(columns)
        chosen = [self.form_.place(column) for column in asked]
        values = _seen(self._encoded(self.form_.with_gaps(X, chosen)))
        values[:, chosen] = torch.nan
        named = [(self.form_.names[v], value) for v in chosen for value in self._values(v)]
        found = self._probabilities(values, chosen)
        return self.form_.answering(X).named(
            X, [value for _, value in named] if one else named, found
        )

    def condition(self, values: Mapping[Any, Any]) -> CircuitDensity:
        """The density of the other columns, given values of some: a fitted estimator of them.

        Args:
            values: for each known column, by name or index, its value.

        Raises:
            EvidenceError: if a value is one that the column cannot have.
            SettingError: if there is no such column.
            NoMassError: if the values have probability zero together.
            StructureError: if no column is left.

        Examples:
            >>> people = {"job": ["nurse", "smith"] * 10, "age": [31, 55] * 10}
            >>> CircuitDensity(units=2).fit(people).condition({"job": "smith"}).form_.names
            ('age',)
        """
        check_is_fitted(self)
        gone = {self.form_.place(name): value for name, value in values.items()}
        row = columns_of({self.form_.names[v]: [value] for v, value in gone.items()})
        encoded = self.encoding_.only(list(gone)).encode(row)[0] if gone else np.empty(0)
        if not np.isfinite(encoded).all():
            raise EvidenceError(f"{dict(values)}: a value is missing or was never seen")
        known = dict(zip(gone, encoded.tolist(), strict=True))
        rest = clone(self)._take(
            compile(condition(self.model_, known), dtype=torch.float64),
            self.encoding_.only([v for v in range(len(self.form_.names)) if v not in gone]),
            self.form_.without(list(gone)),
        )
        return rest  # type: ignore[no-any-return]

    def evidence(self, X: Table = None, *, lower: Table = None, upper: Table = None) -> Evidence:
        """The rows of a table as evidence for `model_`; what was never seen is missing.

        Args:
            X: a table [N, D]; nothing is known by default.
            lower: a table [N, D] of numbers or dates that columns without a value do not fall
                below; it may lack columns as X may, like `upper`. Where a column is of whole
                numbers, they are those to which its density is rounded.
            upper: a table of those that they do not exceed.

        Raises:
            EvidenceError: if labels have bounds.

        Examples:
            >>> density = CircuitDensity(random_state=0).fit({"age": range(20, 60)})
            >>> old = density.evidence(lower={"age": [40]})
            >>> density.model_.log_prob(old).exp().item()
            0.4...
        """
        check_is_fitted(self)
        tables = {"values": X, "lower": lower, "upper": upper}
        columns = {
            name: self._columns(table) for name, table in tables.items() if table is not None
        }
        how = {"values": self.encoding_.encode, **self.encoding_.bounds}
        return Evidence(**{name: _seen(how[name](some)) for name, some in columns.items()})

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write what was learned to a file, never a pickle; `pf.load` reads its circuit.

        Settings of `fit` and `result_` are not kept.

        Args:
            path: the file, usually named *.safetensors.

        Raises:
            TypeMismatch: if a name or a label is neither a string, a boolean nor a number.
            OSError: if the file cannot be written; an existing one is left as it was.

        Examples:
            >>> import tempfile
            >>> density = CircuitDensity(random_state=0).fit([[0, 5], [1, 7], [0, 5], [1, 7]])
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     density.save(f"{folder}/density")
            ...     again = CircuitDensity.load(f"{folder}/density")
            >>> again.score([[0, 5]]) == density.score([[0, 5]])
            True
        """
        check_is_fitted(self)
        told = {"form": self.form_.told(), "columns": self.encoding_.told()}
        io.save(self.model_, path, {TOLD: json.dumps(told)})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> CircuitDensity:
        """A fitted estimator from a file that `save` wrote; its settings are the defaults.

        Args:
            path: the file.

        Raises:
            FileFormatError: if it is truncated, of another format, or contradicts itself.
            OSError: if it cannot be read.
        """
        model = io.load(path, dtype=torch.float64)
        told = io.Container(path).told(TOLD)
        try:
            form = Form.from_told(told["form"])
            encoding = Encoding.from_told(form.names, told["columns"], _families(model))
        except io.MALFORMED as error:
            raise FileFormatError(f"{path}: does not describe a table ({error})") from error
        return cls()._take(model, encoding, form)

    def __sklearn_tags__(self) -> Any:
        """Gaps and categories are welcome."""
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.categorical = True
        return tags

    def _columns(self, X: Table, reset: bool = False) -> list[Column]:
        """X as scikit-learn wants it checked, and as it is understood."""
        if not reset:
            check_is_fitted(self)
        if is_dict(X):
            return self._of_dict(X, reset)
        least = 2 if reset else 1  # of one row alone nothing can be learned
        checked = self._checked(X, reset, least)
        if reset:
            self.form_ = Form.of(checked)
        return _not_empty(columns_of(checked), least)

    def _checked(self, X: Table, reset: bool, least: int) -> Table:
        """An array or a frame of which scikit-learn has noted names and width."""
        if is_frame(X):
            Form.of(X)  # may be refused, with a better message
            return validate_data(self, X, reset=reset, skip_check_array=True)
        rows = np.array(X, dtype=object) if isinstance(X, list | tuple) else X
        finite = {"dtype": None, "ensure_all_finite": "allow-nan"}
        return validate_data(self, rows, reset=reset, ensure_min_samples=least, **finite)

    def _encoded(self, X: Table) -> Floats:
        """Values [N, D] of the variables of `model_`; infinite what was never seen."""
        columns = self._columns(X)
        return self.encoding_.encode(columns)

    def _of_dict(self, X: Mapping[Any, Any], reset: bool) -> list[Column]:
        """The columns of a dict; those that a query lacks are missing."""
        given = _not_empty(columns_of(X), 2 if reset else 1)
        if reset:
            self._name(Form.of(X))
            return given
        return self.form_.completed(given)

    def _name(self, form: Form) -> None:
        """What `validate_data` notes of arrays and frames."""
        self.form_, self.n_features_in_ = form, len(form.names)
        self.__dict__.pop("feature_names_in_", None)
        if form.kind != "array" and all(isinstance(name, str) for name in form.names):
            self.feature_names_in_ = np.array(form.names, dtype=object)

    def _take(self, model: CompiledCircuit, encoding: Encoding, form: Form) -> Self:
        """What was learned elsewhere."""
        self.model_, self.encoding_ = model, encoding
        self._name(form)
        return self

    def _wishes(self) -> dict[int, Wish]:
        """What the settings ask of columns."""
        place, some = self.form_.place, self.categorical
        families = {place(name): family for name, family in (self.families or {}).items()}
        auto = isinstance(some, str)
        if auto:
            SettingError.check("categorical", some, '"auto" or columns', lambda w: w == "auto")
            some = ()
        named = some if isinstance(some, Mapping) else dict.fromkeys(some, ())
        coded = {place(name): besides for name, besides in named.items()}
        return {v: Wish(families.get(v), coded.get(v), auto) for v in range(len(self.form_.names))}

    def _finite(self) -> list[Any]:
        """Columns of finitely many values."""
        pairs = zip(self.form_.names, self.encoding_.families, strict=True)
        return [name for name, family in pairs if family.num_categories is not None]

    def _values(self, column: int) -> list[Any]:
        """What a column may hold."""
        how = self.encoding_.each[column]
        size = how.family.num_categories
        wanted = "one of finitely many values"
        SettingError.check("columns", self.form_.names[column], wanted, lambda _: size is not None)
        found: list[Any] = how.decode(np.arange(size or 0, dtype=np.float64)).tolist()
        return found

    def _probabilities(self, values: Tensor, chosen: Sequence[int]) -> Floats:
        """Of the values of some columns, side by side [N, V], given rows [N, D]."""
        if not chosen:
            return np.empty((len(values), 0))
        found = self.model_.marginals(values, variables=chosen).exp().numpy()  # [N, W, V]
        sizes = [len(self._values(v)) for v in chosen]
        return np.concatenate([found[:, w, :size] for w, size in enumerate(sizes)], axis=1)

    def _is_coded(self) -> Tensor:
        """Which columns [D] have no mean."""
        return torch.tensor([isinstance(f, Categorical) for f in self.encoding_.families])

    def _split(self, values: Floats, generator: torch.Generator) -> tuple[Rows, Rows]:
        """Rows to learn from, and rows that tell when to stop."""
        share = self.validation_fraction
        if not 0 <= share < 1:
            raise SettingError("validation_fraction", share, "in [0, 1)")
        # the others teach nothing, and tell nothing
        some = np.flatnonzero(~np.isnan(values).all(axis=1))
        kept = min(math.ceil(share * len(some)), len(some) - 1)
        if kept == 0:
            return some, some[:0]
        some = some[torch.randperm(len(some), generator=generator).numpy()]
        return some[kept:], some[:kept]

    def _judge(self, values: Floats, weights: Floats) -> dict[str, Any]:
        """How `fit` is told when to stop, by rows if there are any."""
        if len(values) == 0:
            return {}
        return {"validation": values, "validation_weights": weights, "patience": self.patience}


def _counting(columns: list[Column], weight: Any) -> tuple[list[Column], Floats]:
    """The rows [N] that count, and how much."""
    rows = len(columns[0].values)
    if weight is None:
        return columns, np.ones(rows)
    weights = as_tensor("sample_weight", weight).double().numpy()
    if weights.shape != (rows,) or not (np.isfinite(weights) & (weights >= 0)).all():
        wanted = f"{rows} finite numbers from zero up"
        raise EvidenceError(f"sample_weight must be {wanted}, got shape {weights.shape}")
    if not weights.any():
        raise EvidenceError("sample_weight is zero in every row")
    some = weights > 0
    return [column._replace(values=column.values[some]) for column in columns], weights[some]


def _not_empty(columns: list[Column], least: int) -> list[Column]:
    """Columns of enough rows."""
    rows = len(columns[0].values) if columns else 0
    if rows < least:
        raise EvidenceError(f"a table needs columns, of {least} rows at least; got {rows}")
    return columns


def _families(model: CompiledCircuit) -> list[InputFamily]:
    """That of every variable."""
    layers = model.circuit.layers
    found = {layer.variable: layer.family for layer in layers if isinstance(layer, InputLayer)}
    return [found[v] for v in range(model.num_variables)]


def _seen(values: Floats) -> Tensor:
    """Rows [N, D] as evidence: of what was never seen nothing is known."""
    return torch.from_numpy(np.where(np.isinf(values), np.nan, values))


def _generator(random_state: RandomState) -> torch.Generator:
    """Torch's kind of randomness from scikit-learn's."""
    seed = check_random_state(random_state).randint(2**31 - 1)
    return torch.Generator().manual_seed(int(seed))
