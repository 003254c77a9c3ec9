"""The estimator: scikit-learn's own checks, and what a density of columns with gaps must obey.

Legend: N rows, D columns.
"""

import pickle
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

pytest.importorskip("sklearn")

from processes import ends, start
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks
from without import without_scikit_learn

import pcflow as pf
from pcflow.estimator import CircuitDensity

Floats = npt.NDArray[np.float64]

NAN = np.nan
FIRST, SECOND = np.array([10.0, 25.0, 70.0]), np.array([-1.5, 2.0])
CODED, REAL = [0, 2], [1, 3]
QUICK: dict[str, Any] = {"units": 8, "epochs": 15, "categorical": CODED, "random_state": 0}


def mixed(rows: int = 200, gaps: float = 0.2, seed: int = 0) -> Floats:
    """Codes, a large real column, fractional codes, a small real column: all tell of the first."""
    draw = np.random.default_rng(seed)
    first = draw.integers(3, size=rows)
    second = (first == 2).astype(int)
    large, small = 1e4 * first + 500 * draw.normal(size=rows), 1e-3 * draw.normal(first)
    data = np.stack([FIRST[first], large, SECOND[second], small], axis=1)
    return np.where(draw.random(data.shape) < gaps, NAN, data)


@pytest.fixture(scope="module")
def density() -> CircuitDensity:
    return CircuitDensity(**QUICK).fit(mixed())


@parametrize_with_checks([CircuitDensity(units=2, epochs=3)])
def test_scikit_learn_accepts_it(estimator: CircuitDensity, check: Any) -> None:
    check(estimator)


@pytest.mark.parametrize("column", REAL)
def test_it_is_a_density_per_unit_of_the_columns(density: CircuitDensity, column: int) -> None:
    known = mixed()[:, column]
    centre, reach = np.nanmean(known), 10 * np.nanstd(known)
    grid = np.linspace(centre - reach, centre + reach, 4001)
    total = 0.0
    for code in FIRST:
        rows = np.full((len(grid), 4), NAN)
        rows[:, 0], rows[:, column] = code, grid
        total += np.exp(density.score_samples(rows)).sum() * (grid[1] - grid[0])
    unseen = density.encoding_.each[0].unseen
    assert total == pytest.approx(1 - unseen, abs=1e-3)


@pytest.mark.parametrize("scale, shift", [(3.7, 0.0), (1e-6, 5.0), (1e5, -1e7)])
def test_rescaling_a_real_column_moves_the_score_by_its_logarithm(
    density: CircuitDensity, scale: float, shift: float
) -> None:
    data = mixed()
    other = data.copy()
    other[:, 1] = scale * data[:, 1] + shift
    found = CircuitDensity(**QUICK).fit(other).score_samples(other)
    moved = np.where(np.isnan(data[:, 1]), 0.0, np.log(scale))
    np.testing.assert_allclose(found, density.score_samples(data) - moved, rtol=0, atol=1e-4)


def test_renaming_codes_in_order_changes_nothing(density: CircuitDensity) -> None:
    data = mixed()
    other = data.copy()
    other[:, 0] = np.where(np.isnan(data[:, 0]), NAN, np.searchsorted(FIRST, data[:, 0]) - 7.5)
    found = CircuitDensity(**QUICK).fit(other).score_samples(other)
    np.testing.assert_allclose(found, density.score_samples(data), rtol=1e-9)


def test_scores_are_the_model_s(density: CircuitDensity) -> None:
    x, nothing = mixed(), np.full((1, 4), NAN)
    assert density.score_samples(nothing)[0] == pytest.approx(0, abs=1e-9)
    assert density.score(x) == pytest.approx(density.score_samples(x).mean())
    assert density.score(x) > CircuitDensity(**QUICK | {"units": 1}).fit(x).score(x) + 0.5


def test_a_code_never_seen_has_the_share_of_the_unseen(density: CircuitDensity) -> None:
    rows = np.array([[26.0, NAN, NAN, NAN], [99.0, 1e4, NAN, NAN], [NAN, 1e4, NAN, NAN]])
    found, rows_seen = density.score_samples(rows), (~np.isnan(mixed()[:, 0])).sum()
    assert found[0] == pytest.approx(np.log(0.5 / (rows_seen + 1)))
    assert found[1] == pytest.approx(found[0] + found[2])  # it says nothing of the others
    filled = density.impute(rows, how="mpe")
    assert (filled[:2, 0] == rows[:2, 0]).all()
    np.testing.assert_array_equal(filled[1, 2:], filled[2, 2:])


def test_a_code_told_of_has_some_density() -> None:
    told = CircuitDensity(**QUICK | {"categorical": {0: [26.0], 2: []}}).fit(mixed())
    rows = np.array([[25.0, NAN, NAN, NAN], [26.0, NAN, NAN, NAN]])
    seen, unseen = told.score_samples(rows)
    assert -np.inf < unseen < seen - 3


def test_draws_look_like_the_data(density: CircuitDensity) -> None:
    data, drawn = mixed(), density.sample(2000, random_state=0)
    assert drawn.shape == (2000, 4)
    assert set(drawn[:, 0]) == set(FIRST) and set(drawn[:, 2]) == set(SECOND)
    for code in FIRST:
        share = np.nanmean(data[:, 0][~np.isnan(data[:, 0])] == code)
        assert np.mean(drawn[:, 0] == code) == pytest.approx(share, abs=0.06)
    spread = np.nanstd(data[:, REAL], axis=0)
    assert (np.abs(drawn[:, REAL].mean(0) - np.nanmean(data[:, REAL], axis=0)) < 0.2 * spread).all()
    np.testing.assert_allclose(drawn[:, REAL].std(0), spread, rtol=0.2)


@pytest.mark.parametrize("how", ["mean", "mpe", "sample"])
def test_imputing_fills_every_gap_and_keeps_the_rest(density: CircuitDensity, how: Any) -> None:
    data = mixed(seed=1)
    filled = density.impute(data, how, random_state=0)
    known = ~np.isnan(data)
    assert (filled[known] == data[known]).all()
    assert not np.isnan(filled).any()
    assert set(filled[:, 0]) <= set(FIRST) and set(filled[:, 2]) <= set(SECOND)


@pytest.mark.parametrize("how", ["mean", "mpe", "sample"])
def test_imputing_looks_at_the_rest_of_the_row(density: CircuitDensity, how: Any) -> None:
    given = np.array([[code, NAN, NAN, NAN] for code in FIRST for _ in range(20)])
    filled = density.impute(given, how, random_state=0)
    large = filled[:, 1].reshape(3, 20)
    assert (np.ptp(large, axis=1) > 0).all() == (how == "sample")
    assert all(b - a > 5e3 for a, b in pairwise(np.median(large, axis=1)))


def test_means_are_those_of_many_draws(density: CircuitDensity) -> None:
    given = np.array([[FIRST[0], NAN, NAN, NAN], [NAN, NAN, SECOND[0], NAN]])
    draws = density.impute(np.tile(given, (1_000, 1)), "sample", random_state=0)
    draws = draws.reshape(1_000, *given.shape)
    found, spread = density.impute(given, "mean"), np.std(draws, axis=0)
    off = np.abs(found - np.mean(draws, axis=0))[:, REAL]
    assert (off < 6 * spread[:, REAL] / np.sqrt(1_000)).all()


def test_one_random_state_one_result() -> None:
    x = mixed()
    a, b, other = (CircuitDensity(**QUICK | {"random_state": s}).fit(x) for s in (0, 0, 1))
    assert (a.score_samples(x) == b.score_samples(x)).all()
    assert a.score(x) != other.score(x)
    assert (a.sample(5, random_state=3) == b.sample(5, random_state=3)).all()
    assert (a.sample(5, random_state=3) != a.sample(5, random_state=4)).any()


def test_kept_rows_tell_when_to_stop() -> None:
    x = mixed()
    settings = QUICK | {"epochs": 60, "units": 16}
    stopped = CircuitDensity(**settings, patience=2).fit(x).result_
    assert len(stopped.train) == len(stopped.validation) == stopped.best_epoch + 3 < 60
    every = CircuitDensity(**settings, patience=2, validation_fraction=0).fit(x).result_
    assert len(every.train) == 60 and not every.validation


def test_rows_of_which_nothing_is_known_change_nothing() -> None:
    nothing = np.full((9, 1), NAN)
    for rows, seed in [(1, 0), (2, 0), (2, 1), (2, 2)]:
        x = np.concatenate([nothing, np.linspace(0, 1.5, rows)[:, None]])
        found = CircuitDensity(random_state=seed).fit(x)
        assert len(found.result_.validation) == (0 if rows == 1 else len(found.result_.train))


def test_another_learner_goes_by_batches(capfd: pytest.CaptureFixture[str]) -> None:
    learner = pf.Anemone()
    settings = QUICK | {"learner": learner, "epochs": 1}
    x = mixed()
    many, one = (CircuitDensity(**settings, batch_size=size).fit(x) for size in (20, 200))
    assert many.score(x) > one.score(x)
    assert not capfd.readouterr().err
    CircuitDensity(**settings, verbose=True).fit(x)
    assert "epoch" in capfd.readouterr().err


def test_it_works_in_a_pipeline_and_a_search() -> None:
    x = mixed()[:, REAL]
    whole = make_pipeline(StandardScaler(), CircuitDensity(epochs=5, random_state=0))
    search = GridSearchCV(whole, {"circuitdensity__units": [1, 8]}, cv=2).fit(x)
    assert search.best_params_ == {"circuitdensity__units": 8}
    assert search.score(x) == pytest.approx(search.best_estimator_.score_samples(x).mean())


def test_a_clone_forgets_and_a_pickle_remembers() -> None:
    x = mixed()
    fitted = CircuitDensity(**QUICK | {"learner": pf.Anemone(momentum=0.5)}).fit(x)
    fresh, again = clone(fitted), pickle.loads(pickle.dumps(fitted))
    with pytest.raises(NotFittedError):
        fresh.score(x)
    assert fresh.learner == again.learner == fitted.learner
    assert (fresh.fit(x).score_samples(x) == fitted.score_samples(x)).all()
    assert (again.score_samples(x) == fitted.score_samples(x)).all()
    assert (again.sample(9, random_state=0) == fitted.sample(9, random_state=0)).all()


@pytest.mark.parametrize(
    "setting, match",
    [
        ({"validation_fraction": 1.0}, "validation_fraction must be in"),
        ({"validation_fraction": -0.1}, "validation_fraction must be in"),
        ({"categorical": [4]}, r"one of 0, 1, 2, 3, got 4"),
        ({"units": 0}, "must be a whole number, at least 1, got 0"),
        ({"patience": 0}, "patience must be a whole number, at least 1, got 0"),
        ({"epochs": 0}, "epochs must be a whole number, at least 1, got 0"),
    ],
)
def test_wrong_settings_are_refused(setting: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        CircuitDensity(**QUICK | setting).fit(mixed())


def test_wrong_requests_are_refused(density: CircuitDensity) -> None:
    x = mixed()
    with pytest.raises(ValueError, match="how must be"):
        density.impute(x, "median")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="n must be"):
        density.sample(-1)
    with pytest.raises(ValueError, match="2 features"):
        density.score_samples(x[:, :2])
    with pytest.raises(ValueError, match="infinity"):
        density.score_samples(np.where(np.isnan(x), np.inf, x))


@pytest.mark.parametrize("query", ["score_samples", "score", "impute", "sample"])
def test_queries_wait_for_fit(query: str) -> None:
    with pytest.raises(NotFittedError):
        getattr(CircuitDensity(), query)(1 if query == "sample" else mixed())


def test_without_scikit_learn_only_the_estimator_is_missing() -> None:
    assert ends([start(without_scikit_learn)]) == [0]
