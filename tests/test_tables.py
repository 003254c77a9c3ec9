"""Tables as people have them through the estimator: dicts and DataFrames, every kind of column.

Legend: N rows.
"""

import json
import math
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn")

from processes import ends, start
from safetensors.torch import load_file, save_file
from sklearn.model_selection import GridSearchCV
from without import without_pandas

import pcflow as pf
from pcflow.estimator import CircuitDensity

Table = dict[str, Any]
QUICK: dict[str, Any] = {"units": 4, "epochs": 15, "random_state": 0}
NAMES = ["job", "age", "wage", "gain", "hired", "member", "income"]


def people(N: int = 300, gaps: float = 0.1, seed: int = 0) -> Table:
    """Labels, whole numbers, positive and zero-inflated amounts, dates, booleans; with gaps."""
    draw = np.random.default_rng(seed)
    rich = draw.random(N) < 0.4
    job = np.where(rich, "smith", "nurse").astype(object)
    job[draw.random(N) < 0.2] = "clerk"
    table: Table = {
        "job": job.tolist(),
        "age": (draw.integers(20, 50, N) + 15 * rich).tolist(),
        "wage": np.exp(draw.normal(2 + rich, 0.3)).tolist(),
        "gain": np.where(draw.random(N) < 0.8, 0, np.exp(draw.normal(8, 1, N))).tolist(),
        "hired": [date.fromordinal(int(d)) for d in draw.integers(730_000, 736_000, N)],
        "member": (draw.random(N) < 0.3).tolist(),
        "income": np.where(rich, ">50K", "<=50K").tolist(),
    }
    for name in NAMES[:-1]:
        hidden = draw.random(N) < gaps
        table[name] = [None if h else v for h, v in zip(hidden, table[name], strict=True)]
    return table


def rows(table: Table, count: int) -> Table:
    return {name: values[:count] for name, values in table.items()}


def frame(table: Table) -> Any:
    pandas = pytest.importorskip("pandas")
    found = pandas.DataFrame(table, index=np.arange(len(table["age"])) + 1000)
    return found.astype({"job": "category", "hired": "datetime64[s]", "age": "Int64"})


@pytest.fixture(scope="module")
def density() -> CircuitDensity:
    return CircuitDensity(**QUICK).fit(people())


def test_columns_have_the_families_that_they_look_like(density: CircuitDensity) -> None:
    kinds = [type(family).__name__ for family in density.encoding_.families]
    assert kinds == [
        "Categorical",
        "DiscretizedLogistic",
        "LogNormal",
        "Inflated",
        "Gaussian",
        "Categorical",
        "Categorical",
    ]
    assert density.n_features_in_ == 7 and density.feature_names_in_.tolist() == NAMES


def test_draws_are_what_the_columns_hold(density: CircuitDensity) -> None:
    drawn = density.sample(2000, random_state=0)
    assert list(drawn) == NAMES
    assert set(drawn["job"]) == {"smith", "nurse", "clerk"} and set(drawn["member"]) == {
        True,
        False,
    }
    assert (drawn["age"] == drawn["age"].round()).all() and drawn["age"].min() >= 20
    assert (drawn["wage"] > 0).all() and (drawn["gain"] >= 0).all()
    zeros = np.mean([g == 0 for g in people()["gain"] if g is not None])
    assert (drawn["gain"] == 0).mean() == pytest.approx(zeros, abs=0.05)
    assert drawn["hired"].dtype == np.dtype("M8[D]")
    logs = [np.log(g) for g in people()["gain"] if g]
    assert np.log(drawn["gain"][drawn["gain"] > 0]).mean() == pytest.approx(np.mean(logs), abs=0.4)


@pytest.mark.parametrize("how", ["mean", "mpe", "sample"])
def test_gaps_are_filled_and_all_else_is_kept(density: CircuitDensity, how: Any) -> None:
    table = people(seed=1)
    filled = density.impute(table, how, random_state=0)
    for name, values in table.items():
        there = [row for row, value in enumerate(values) if value is not None]
        assert [filled[name][row] for row in there] == [values[row] for row in there]
        assert all(value is not None and value == value for value in filled[name])


def test_a_dict_may_lack_columns_and_is_filled_up(density: CircuitDensity) -> None:
    filled = density.impute({"income": [">50K", "<=50K"]})
    assert list(filled) == NAMES and filled["wage"][0] > filled["wage"][1] + 5
    with pytest.raises(pf.SettingError, match="column must be one of 'job', 'age'"):
        density.impute({"salary": [1.0]})


def test_the_mean_of_an_atom_and_a_density_is_that_of_many_draws(density: CircuitDensity) -> None:
    given = {"income": [">50K"] * 4000}
    found = density.impute(rows(given, 1))["gain"][0]
    drawn = density.impute(given, "sample", random_state=0)["gain"]
    assert abs(found - drawn.mean()) < 6 * drawn.std() / math.sqrt(4000)


@pytest.mark.parametrize("column", ["income", "job", "member", "age"])
def test_probabilities_are_shares_of_the_joint_density(
    density: CircuitDensity, column: str
) -> None:
    table = rows(people(seed=2), 20)
    found = density.predict_proba(table, column)
    joint = {}
    for value in found:
        scores = density.score_samples(table | {column: [value] * 20})
        joint[value] = np.exp(scores - density.score_samples({**table, column: [None] * 20}))
    seen = 1 - density.encoding_.each[NAMES.index(column)].unseen
    for value, share in joint.items():
        np.testing.assert_allclose(found[value], share / seen, rtol=1e-6)
    np.testing.assert_allclose(sum(found.values()), 1.0, rtol=1e-9)


def test_several_columns_are_asked_each_given_the_rest(density: CircuitDensity) -> None:
    table = rows(people(seed=2), 5)
    both = density.predict_proba(table, ["income", "job"])
    without = {name: values for name, values in table.items() if name not in ("income", "job")}
    np.testing.assert_array_equal(
        both["income", ">50K"], density.predict_proba(without, "income")[">50K"]
    )
    assert len(density.predict_proba(table)) == 2 + 2 + 3 + len(density.predict_proba(table, "age"))
    with pytest.raises(pf.SettingError, match="one of finitely many values, got 'wage'"):
        density.predict_proba(table, "wage")


def test_conditioning_is_division(density: CircuitDensity) -> None:
    table = rows(people(gaps=0.0, seed=3), 10)
    known = {"job": "smith", "wage": 20.0, "hired": date(2010, 3, 4)}
    given = density.condition(known)
    assert given.form_.names == ("age", "gain", "member", "income")
    whole = table | {name: [value] * 10 for name, value in known.items()}
    apart = density.score_samples({name: [value] for name, value in known.items()})
    rest = {name: table[name] for name in given.form_.names}
    np.testing.assert_allclose(given.score_samples(rest), density.score_samples(whole) - apart)
    assert list(given.sample(3, random_state=0)) == ["age", "gain", "member", "income"]
    assert "smith" not in str(given.predict_proba({"age": [30]}, "income"))


def test_what_cannot_be_conditioned_on_is_refused(density: CircuitDensity) -> None:
    with pytest.raises(pf.EvidenceError, match="missing or was never seen"):
        density.condition({"job": "astronaut"})
    with pytest.raises(pf.SettingError, match="one of"):
        density.condition({"planet": 3})


def test_nothing_to_condition_on_changes_nothing(density: CircuitDensity) -> None:
    table = rows(people(), 5)
    found = density.condition({}).score_samples(table)
    np.testing.assert_allclose(found, density.score_samples(table))


def test_evidence_is_in_the_units_of_the_data(density: CircuitDensity) -> None:
    table = rows(people(seed=4), 10)
    found = density.model_.log_prob(density.evidence(table)).detach().numpy()
    values = density.evidence(table).values.numpy()
    np.testing.assert_allclose(
        found + density.encoding_.log_gains(values), density.score_samples(table)
    )


def test_bounds_are_in_the_units_of_the_data(density: CircuitDensity) -> None:
    drawn = density.sample(20_000, random_state=0)
    bounds = {
        "age": ([30], [40]),
        "wage": ([8.0], [20.0]),
        "gain": ([-1.0], [100.0]),
        "hired": ([date(2005, 1, 1)], [date(2010, 1, 1)]),
    }
    inside = np.ones(20_000, dtype=bool)
    for name, (low, high) in bounds.items():
        values = drawn[name].astype(object) if name == "hired" else drawn[name]
        inside &= (values >= low[0]) & (values <= high[0])
    lower, upper = ({name: pair[side] for name, pair in bounds.items()} for side in (0, 1))
    found = density.model_.log_prob(density.evidence(lower=lower, upper=upper)).exp().item()
    share = inside.mean()
    assert abs(found - share) < 6 * math.sqrt(share / 20_000)
    with pytest.raises(pf.EvidenceError, match="holds labels, which have no bounds"):
        density.evidence(lower={"job": ["nurse"]})


@pytest.mark.parametrize("share", [0.0, 0.4])
def test_a_whole_number_is_an_event_if_the_column_holds_such(share: float) -> None:
    draw = np.random.default_rng(0)
    seconds = np.where(draw.random(500) < share, 0, draw.integers(-300, 600, 500))
    start = np.datetime64("2020-01-01")
    density = CircuitDensity(**QUICK).fit({"s": seconds, "day": start + seconds})
    drawn = density.sample(50_000, random_state=0)
    for low, high in [(0, 0), (-20, 20), (0.3, 7.2), (1, None), (0.2, 0.7)]:
        asked = density.evidence(lower={"s": [low]}, upper={"s": [high]})
        found = density.model_.log_prob(asked).exp().item()
        inside = (drawn["s"] >= low) & (drawn["s"] <= (math.inf if high is None else high))
        assert found == pytest.approx(inside.mean(), abs=0.01)
        assert (found > 0) == (low != 0.2)
    day = {"day": [start + 7]}
    found = density.model_.log_prob(density.evidence(lower=day, upper=day)).exp().item()
    density_there = math.exp(density.score_samples(day)[0])
    assert found == pytest.approx(density_there, rel=0.05)


def test_bounds_of_codes_are_of_the_numbers() -> None:
    density = CircuitDensity(**QUICK).fit({"stars": [1.0, 2.5, 2.5, 4.0] * 10})
    for low, high, share in [(1.5, 3, 0.5), (1, 2.5, 0.75), (3, None, 0.25)]:
        asked = density.evidence(lower={"stars": [low]}, upper={"stars": [high]})
        assert density.model_.log_prob(asked).exp().item() == pytest.approx(share, abs=0.04)
    for low, high in [(1.5, 2), (None, 0.9), (4.1, None)]:  # no code is there
        nowhere = density.evidence(lower={"stars": [low]}, upper={"stars": [high]})
        assert density.model_.log_prob(nowhere).item() == -math.inf
    for low, high in [(2, 1.5), (2.5, 1)]:
        with pytest.raises(pf.EvidenceError, match="has no number"):
            turned = density.evidence(lower={"stars": [low]}, upper={"stars": [high]})
            density.model_.log_prob(turned)


@pytest.mark.parametrize("unit", [1e-6, 0.3, 1e5])
def test_other_units_move_scores_by_the_logarithm_alone(
    density: CircuitDensity, unit: float
) -> None:
    def changed(table: Table) -> Table:
        amounts = {
            name: [None if v is None else unit * v for v in table[name]]
            for name in ("wage", "gain")
        }
        days = [
            None if v is None else date.fromordinal(v.toordinal() - 9000) for v in table["hired"]
        ]
        return table | amounts | {"hired": days}

    table = people()
    other = CircuitDensity(**QUICK).fit(changed(table))
    real = [sum(bool(v) for v in pair) for pair in zip(table["wage"], table["gain"], strict=True)]
    moved = density.score_samples(table) - np.array(real) * math.log(unit)
    np.testing.assert_allclose(other.score_samples(changed(table)), moved, rtol=0, atol=1e-4)


@pytest.mark.parametrize("unit", [1e-290, 1e-200, 1e200, 1e290])
@pytest.mark.parametrize("positive", [False, True])
def test_squares_of_the_data_need_not_be_numbers(unit: float, positive: bool) -> None:
    values = np.random.default_rng(0).normal(size=60)
    values = np.exp(values) if positive else values
    one, other = (CircuitDensity(**QUICK).fit({"x": u * values}) for u in (1.0, unit))
    moved = one.score_samples({"x": values}) - math.log(unit)
    np.testing.assert_allclose(other.score_samples({"x": unit * values}), moved, rtol=1e-9)


def test_rare_and_unseen_values_do_not_spoil_a_search() -> None:
    draw = np.random.default_rng(0)
    X = np.c_[draw.integers(0, 3, 300), draw.normal(size=300)]
    X[0, 0] = 3
    search = GridSearchCV(CircuitDensity(epochs=3, random_state=0), {"units": [2, 8]}, cv=5).fit(X)
    scores = search.cv_results_["mean_test_score"]
    assert np.isfinite(scores).all() and scores[0] != scores[1]


@pytest.mark.parametrize(
    "change",
    [{"job": "astronaut"}, {"age": 17}, {"age": 30.5}, {"wage": -1.0}, {"gain": -5.0}],
    ids=str,
)
def test_what_was_never_seen_has_a_finite_score(density: CircuitDensity, change: Table) -> None:
    (column,) = change
    table = rows(people(gaps=0.0), 1)
    found = density.score_samples(table | {column: [change[column]]})
    without = density.score_samples(table | {column: [None]})
    share = density.encoding_.each[NAMES.index(column)].unseen
    np.testing.assert_allclose(found, without + math.log(share))


def test_small_tables_are_not_taken_for_codes() -> None:
    table = {
        "age": [31, 35, 29, 58, 44, 40, 62, 23],
        "size": [1.5, 2.5, 1.0, 3.0, 2.0, 1.75, 2.2, 3.1],
    }
    found = CircuitDensity(units=2, epochs=5, random_state=0).fit(table)
    assert isinstance(found.encoding_.families[0], pf.DiscretizedLogistic)
    assert isinstance(found.encoding_.families[1], pf.Gaussian | pf.LogNormal)
    assert np.isfinite(found.score({"age": [36]}))


def test_a_family_and_codes_may_be_told_by_name() -> None:
    settings = {
        "families": {"wage": pf.Gaussian(), "gain": pf.Inflated(pf.Exponential())},
        "categorical": {"job": ["astronaut"]},
    }
    found = CircuitDensity(**QUICK | settings).fit(people())
    assert isinstance(found.encoding_.families[2], pf.Gaussian)
    assert (found.sample(500, random_state=0)["wage"] < 0).sum() < 20
    astronaut = found.predict_proba({"age": [30]}, "job")["astronaut"]
    assert 0 < astronaut[0] < 0.01
    assert not isinstance(found.encoding_.families[6], pf.Gaussian)


@pytest.mark.parametrize(
    "settings, change, match",
    [
        ({"families": {"salary": pf.Gaussian()}}, {}, "column must be one of 'job'"),
        ({"families": {"job": pf.Gaussian()}}, {}, "column 'job' holds labels"),
        ({"families": {"gain": pf.LogNormal()}}, {}, "column 'gain' holds 0, not for LogNormal"),
        ({"categorical": "all"}, {}, "\"auto\" or columns, got 'all'"),
        ({"categorical": ["salary"]}, {}, "column must be one of 'job'"),
        ({}, {"age": [1.0]}, "equally many rows"),
        ({}, {"wage": [math.inf] * 300}, "column 'wage' holds infinity in row 0"),
        ({}, {"job": [["nurse"]] * 300}, "column 'job', row 0"),
        ({}, {"age": np.zeros((300, 2))}, r"column 'age' must be \[N\], got \(300, 2\)"),
        ({"families": {"age": 3}}, {}, "families must be input families, got int"),
        ({"categorical": {"age": ["old"]}}, {}, "categorical.0. must be numbers"),
        ({}, {"job": [None] * 300}, "column 'job' holds no value"),
    ],
)
def test_refusals_name_the_column(settings: Table, change: Table, match: str) -> None:
    with pytest.raises((ValueError, TypeError), match=match):
        CircuitDensity(**QUICK | settings).fit(people() | change)


def test_rows_of_weight_zero_are_none() -> None:
    table, weights = people(), np.arange(300) % 3
    some = {
        name: [v for v, w in zip(values, weights, strict=True) if w]
        for name, values in table.items()
    }
    found = CircuitDensity(**QUICK).fit(table, sample_weight=weights)
    wanted = CircuitDensity(**QUICK).fit(some, sample_weight=weights[weights > 0])
    assert found.score(people(seed=1)) == wanted.score(people(seed=1))


def test_weights_count() -> None:
    table = people(gaps=0.0)
    weights = np.where(np.array(table["income"]) == ">50K", 10.0, 0.5)
    found = CircuitDensity(**QUICK).fit(table, sample_weight=weights)
    share = found.predict_proba({"age": [None]}, "income")[">50K"][0]
    wanted = weights[np.array(table["income"]) == ">50K"].sum() / weights.sum()
    assert share == pytest.approx(wanted, abs=0.02)


@pytest.mark.parametrize("weights", [[1.0], [-1.0] * 300, [math.nan] * 300, [0.0] * 300])
def test_wrong_weights_are_refused(weights: list[float]) -> None:
    with pytest.raises(pf.EvidenceError, match="sample_weight"):
        CircuitDensity(**QUICK).fit(people(), sample_weight=weights)


# DataFrames


def test_a_frame_is_a_table(density: CircuitDensity) -> None:
    table = people()
    found = CircuitDensity(**QUICK).fit(frame(table))
    np.testing.assert_allclose(found.score_samples(frame(table)), density.score_samples(table))
    np.testing.assert_allclose(found.score_samples(table), density.score_samples(table))


def test_frames_come_back_with_their_names_types_and_index() -> None:
    pandas = pytest.importorskip("pandas")
    table = frame(people())
    table["zone"] = table["hired"].dt.tz_localize("Europe/Berlin")
    table["span"] = pandas.to_timedelta(table["age"].astype("float64"), unit="h")
    table["grade"] = pandas.Categorical(["b", "a", None] * 100, ["c", "b", "a"], ordered=True)
    density = CircuitDensity(**QUICK).fit(table)
    for how in ("mean", "mpe", "sample"):
        filled = density.impute(table, how, random_state=0)
        assert (filled.dtypes == table.dtypes).all() and filled.index.equals(table.index)
        assert not filled.isna().any().any()
        for name in table:
            there = table[name].notna()
            assert filled[name][there].tolist() == table[name][there].tolist()
    drawn = density.sample(50, random_state=0)
    assert drawn.columns.equals(table.columns) and (drawn.dtypes == table.dtypes).all()
    assert drawn["hired"].dt.normalize().equals(drawn["hired"])
    told = density.predict_proba(table[:3], ["grade"])
    assert told.columns.tolist() == [("grade", "c"), ("grade", "b"), ("grade", "a")]
    assert told.index.equals(table.index[:3])
    assert (told["grade", "c"] > 0).all()  # told of, and not in the data


def test_a_frame_may_lack_what_is_asked_and_nothing_else() -> None:
    table = frame(people())
    density = CircuitDensity(**QUICK).fit(table)
    with_it = density.predict_proba(table, "income")
    assert with_it.equals(density.predict_proba(table.drop(columns="income"), "income"))
    with pytest.raises(ValueError, match="now missing"):
        density.predict_proba(table.drop(columns="wage"), "income")
    with pytest.raises(ValueError, match="same order"):
        density.score_samples(table[NAMES[::-1]])


def test_frames_keep_what_is_known_as_it_is() -> None:
    pandas = pytest.importorskip("pandas")
    days = [date.fromordinal(date.max.toordinal() - 30 * k) for k in range(40)]
    frame = pandas.DataFrame({"day": days, "job": ["nurse", "smith"] * 20})
    frame["number"] = pandas.array([*range(2**60, 2**60 + 39), None], dtype="Int64")
    frame["ordered"] = pandas.Categorical([1, 2] * 20, [1, 2])
    density = CircuitDensity(**QUICK).fit(frame)
    gaps = frame.copy()
    gaps.loc[5, ["day", "job", "ordered"]] = None
    filled = density.impute(gaps)
    for name in frame:
        there = gaps[name].notna()
        assert filled[name].dtype == frame[name].dtype and filled[name].notna().all()
        assert filled[name][there].tolist() == gaps[name][there].tolist()
    assert all(type(day) is date for day in filled["day"])
    assert all(type(day) is date for day in density.sample(200, random_state=0)["day"])


def test_columns_of_gaps_alone_are_filled() -> None:
    pandas = pytest.importorskip("pandas")
    days = pandas.date_range("2020-01-01", periods=40, freq="17h")
    frame = pandas.DataFrame({"day": days, "job": ["nurse", "smith"] * 20, "age": range(40)})
    density = CircuitDensity(**QUICK).fit(frame)
    filled = density.impute(pandas.DataFrame({name: [math.nan] for name in frame}))
    assert filled["job"][0] in ("nurse", "smith")
    assert days[0].year <= filled["day"][0].year <= 2021
    assert 0 <= filled["age"][0] < 40


@pytest.mark.parametrize("dtype", ["uint16", "int32", "Int32", "int64", "uint64"])
def test_draws_of_whole_numbers_stay_within_their_type(dtype: str) -> None:
    pandas = pytest.importorskip("pandas")
    kind = np.dtype(dtype.lower())
    ends = np.iinfo(kind)
    values = np.linspace(ends.min, ends.max, 102)[1:-1].astype(kind)
    density = CircuitDensity(**QUICK).fit(pandas.DataFrame({"x": values}).astype(dtype))
    drawn = density.sample(500, random_state=0)["x"]
    assert str(drawn.dtype) == dtype
    # a normal density exceeds both ends, and each as often
    least, most = ((drawn == end).mean() for end in (ends.min, ends.max))
    assert least > 0.01 and most > 0.01


def test_new_categories_of_a_frame_are_unseen() -> None:
    table = frame(people())
    density = CircuitDensity(**QUICK).fit(table)
    other = frame(people() | {"job": ["astronaut"] * 299 + [None]})
    assert np.isfinite(density.score_samples(other)).all()
    assert set(density.impute(other)["job"]) - {"astronaut"} <= {"smith", "nurse", "clerk"}


def test_columns_of_one_name_are_refused() -> None:
    table = frame(people())[["age", "wage", "age"]]
    with pytest.raises(pf.EvidenceError, match="same name"):
        CircuitDensity(**QUICK).fit(table)


def test_arrays_of_objects_come_back_as_such() -> None:
    X = np.array([[a, b] for a, b in zip(people()["job"], people()["age"], strict=True)], object)
    density = CircuitDensity(**QUICK).fit(X)
    drawn = density.sample(20, random_state=0)
    assert drawn.dtype == object and set(drawn[:, 0]) <= {"smith", "nurse", "clerk"}
    assert density.predict_proba(X[:3], 0).shape == (3, 3)
    assert CircuitDensity(**QUICK).fit(X.tolist()).score(X) == density.score(X)


# files


def test_a_file_holds_all_that_queries_need(density: CircuitDensity, tmp_path: Path) -> None:
    path, table = tmp_path / "density.safetensors", people(seed=5)
    density.save(path)
    again = CircuitDensity.load(path)
    assert (again.score_samples(table) == density.score_samples(table)).all()
    drawn, wanted = again.sample(9, random_state=0), density.sample(9, random_state=0)
    assert list(drawn) == NAMES
    assert all((drawn[name] == wanted[name]).all() for name in NAMES)
    assert again.feature_names_in_.tolist() == NAMES and again.n_features_in_ == 7
    assert pf.load(path).num_variables == 7


def test_what_was_conditioned_on_stays_so_in_a_file(
    density: CircuitDensity, tmp_path: Path
) -> None:
    given = density.condition({"job": "smith"})
    given.save(tmp_path / "density")
    again = CircuitDensity.load(tmp_path / "density")
    table = {name: values for name, values in people(seed=5).items() if name != "job"}
    assert (again.score_samples(table) == given.score_samples(table)).all()


def test_names_are_those_of_the_last_fit() -> None:
    found = CircuitDensity(**QUICK).fit({"a": [1.5, 2.5, 0.5]})
    assert found.feature_names_in_.tolist() == ["a"]
    for table in ({0: [1.5, 2.5, 0.5]}, [[1.5], [2.5], [0.5]]):
        assert not hasattr(found.fit(table), "feature_names_in_")


def test_a_file_keeps_the_types_of_a_frame(tmp_path: Path) -> None:
    density = CircuitDensity(**QUICK).fit(frame(people()))
    density.save(tmp_path / "density")
    drawn = CircuitDensity.load(tmp_path / "density").sample(9, random_state=0)
    assert drawn.equals(density.sample(9, random_state=0))
    assert (drawn.dtypes == frame(people()).dtypes).all()


def test_labels_that_files_cannot_keep_are_refused(tmp_path: Path) -> None:
    density = CircuitDensity(**QUICK).fit({"pair": [(1, 2), (3, 4)] * 5})
    with pytest.raises(pf.TypeMismatch, match="a label must be a string"):
        density.save(tmp_path / "density")
    assert not (tmp_path / "density").exists()


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"form": {}},
        {"columns": []},
        {"form": {"kind": "pickle", "names": NAMES, "types": []}},
        {"form": {"kind": "dict", "names": NAMES[:-1], "types": []}},
        {"form": {"kind": "frame", "names": NAMES, "types": []}},
        {"form": {"kind": "dict", "names": [[]] * 7, "types": []}},
        {"columns": [{"labels": ["a"], "unseen": 0.1}] * 7},
        {"columns": [{"codes": [1e999], "unseen": 0.1}] * 7},
    ],
    ids=str,
)
def test_hostile_files_are_refused(density: CircuitDensity, tmp_path: Path, change: Table) -> None:
    path = tmp_path / "density"
    density.save(path)
    texts, tensors = pf.Container(path).texts, load_file(path)
    told = json.loads(texts["table"]) | change if change else 3
    save_file(tensors, path, texts | {"table": json.dumps(told)})
    with pytest.raises(pf.FileFormatError):
        CircuitDensity.load(path)


def test_files_of_something_else_are_refused(density: CircuitDensity, tmp_path: Path) -> None:
    path = tmp_path / "model"
    pf.save(density.model_, path)
    with pytest.raises(pf.FileFormatError, match="says nothing of 'table'"):
        CircuitDensity.load(path)
    density.save(path)
    content = path.read_bytes()
    for size in (0, 8, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:size])
        with pytest.raises(pf.FileFormatError):
            CircuitDensity.load(path)


def test_without_pandas_all_but_frames_works() -> None:
    assert ends([start(without_pandas)]) == [0]


def test_a_table_needs_rows_and_columns() -> None:
    for table in ({}, {"a": [1.0]}, {"a": []}):
        with pytest.raises(pf.EvidenceError, match="a table needs columns"):
            CircuitDensity().fit(table)
