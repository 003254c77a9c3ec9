"""Columns of a table as variables: which family they get, and that nothing is lost on the way."""

import json
import math
from datetime import date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import pcflow as pf
from pcflow.data import Array, Encoding, Form, Wish, columns_of, known
from pcflow.data.choice import MOST_CODES, MOST_WHOLE
from pcflow.data.kinds import Codes, Moments, Scale, days_since
from pcflow.errors import EvidenceError, SettingError, TypeMismatch

NAN = math.nan
REALS = st.sampled_from([0.0, 0.0, 1.5, 4.0, -2.5, 1e6]) | st.floats(-1e3, 1e3)
WHOLE = st.sampled_from([0, 0, 0, 7, 99_999]) | st.integers(-300, 300)
DAYS = st.dates(date(1950, 1, 1), date(2050, 1, 1))
TIMES = st.datetimes(datetime(1950, 1, 1), datetime(2050, 1, 1)).map(
    lambda moment: moment.replace(microsecond=0)
)
SPANS = st.integers(-(10**6), 10**6).map(lambda hours: timedelta(hours=hours))
LABELS = st.sampled_from(["", "a", "b", "nurse", "1"]) | st.sampled_from([1, 2.5, True])
KINDS: list[st.SearchStrategy[Any]] = [
    REALS,
    WHOLE,
    DAYS,
    TIMES,
    SPANS,
    LABELS,
    st.booleans(),
    st.floats(1e-3, 1e6),
]


@st.composite
def tables(draw: st.DrawFn) -> dict[str, list[Any]]:
    """Columns of any kinds, with a value in each."""
    rows = draw(st.integers(1, 40))
    kinds = draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=4))
    table = {}
    for place, kind in enumerate(kinds):
        values = st.lists(st.none() | kind, min_size=rows, max_size=rows)
        table[f"c{place}"] = [draw(kind), *draw(values)]
    return table


def encoded(table: Any, wish: Wish | None = None) -> Encoding:
    columns = columns_of(table)
    return Encoding.of(columns, {} if wish is None else dict.fromkeys(range(len(columns)), wish))


def column(values: Any, wish: Wish | None = None) -> Any:
    return encoded({"x": values}, wish).each[0]


def assert_same(found: Array, wanted: Array) -> None:
    """Equal; real numbers up to rounding."""
    if wanted.dtype.kind == "f":
        near = 1e-9 * np.abs(wanted).max(initial=1.0)
        np.testing.assert_allclose(found, wanted, rtol=0, atol=near)
    else:
        assert found.tolist() == wanted.tolist()


@given(tables())
def test_decoding_undoes_encoding(table: dict[str, list[Any]]) -> None:
    columns = columns_of(table)
    encoding = Encoding.of(columns)
    values = encoding.encode(columns)
    there = np.stack([known(c.values) for c in columns], axis=1)
    assert (np.isfinite(values) == there).all() and (np.isnan(values) == ~there).all()
    decoded = encoding.decode(np.nan_to_num(values))
    for v, given_column in enumerate(columns):
        assert_same(decoded[v][there[:, v]], given_column.values[there[:, v]])
    assert np.isfinite(encoding.log_gains(values)).all()


@given(tables())
def test_an_encoding_is_the_same_after_a_file(table: dict[str, list[Any]]) -> None:
    columns = columns_of(table)
    encoding = Encoding.of(columns)
    told = json.loads(json.dumps(encoding.told(), allow_nan=False))
    again = Encoding.from_told(encoding.names, told, encoding.families)
    values = encoding.encode(columns)
    np.testing.assert_array_equal(again.encode(columns), values)
    np.testing.assert_array_equal(again.log_gains(values), encoding.log_gains(values))
    for one, other in zip(
        *(e.decode(np.nan_to_num(values)) for e in (again, encoding)), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    form = Form.of(table)
    assert Form.from_told(json.loads(json.dumps(form.told()))) == form


@given(
    st.lists(st.floats(0.01, 100.0), min_size=12, max_size=40, unique=True),
    st.sampled_from([0.1, 1000.0, 2.54]),
    st.integers(0, 12),
)
def test_other_units_move_the_density_by_their_logarithm(
    values: list[float], unit: float, zeros: int
) -> None:
    """An atom has a probability, which does not move."""
    amounts = np.array(values + [0.0] * zeros) + 1e-4 * (np.array(values + [0.0] * zeros) > 0)
    encodings = [encoded({"x": amounts * size}) for size in (1.0, unit)]
    found = [
        e.encode(columns_of({"x": amounts * s}))
        for e, s in zip(encodings, (1.0, unit), strict=True)
    ]
    np.testing.assert_allclose(found[0], found[1], rtol=0, atol=1e-9)
    moved = encodings[1].log_gains(found[1]) - encodings[0].log_gains(found[0])
    atoms = np.isin(amounts, 0.0) & (encodings[0].each[0].family != pf.Gaussian())
    wanted = np.where(atoms, 0.0, -math.log(unit))
    np.testing.assert_allclose(moved, wanted, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    "values, kind, family",
    [
        (np.repeat(np.arange(MOST_CODES), 5), Codes, pf.Categorical),
        (np.repeat(np.arange(MOST_CODES + 1), 5), Scale, pf.DiscretizedLogistic),
        (np.arange(MOST_CODES), Scale, pf.DiscretizedLogistic),
        (np.arange(MOST_WHOLE), Scale, pf.DiscretizedLogistic),
        ([0, *range(5, MOST_WHOLE + 2)], Scale, pf.Gaussian),
        ([0, 1, NAN], Codes, pf.Categorical),
        ([-7, 1e6], Codes, pf.Categorical),
        ([0.5, 0.5], Codes, pf.Categorical),
        ([0.5, 1.5] * 5, Codes, pf.Categorical),
        ([-0.5, 1], Scale, pf.Gaussian),
        (np.exp(np.linspace(-2, 2, 30)), Scale, pf.LogNormal),
        (np.linspace(1, 2, 30), Scale, pf.Gaussian),
        (-np.exp(np.linspace(-2, 2, 30)), Scale, pf.Gaussian),
        ([0.0] * 6 + [*np.exp(np.linspace(-2, 2, 30))], Scale, pf.Inflated),
        ([99_999] * 6 + [*range(0, 1000, 40)], Scale, pf.Inflated),
        ([0.0] * 4 + [*np.exp(np.linspace(-2, 2, 30))], Scale, pf.Gaussian),
        (["a", "b"], Codes, pf.Categorical),
        ([True, None], Codes, pf.Categorical),
        ([date(2020, 1, day) for day in range(1, 22)], Moments, pf.DiscretizedLogistic),
        ([date(year, 1, 1) for year in range(1990, 2011)], Moments, pf.Gaussian),
        ([timedelta(days=0.1 * days) for days in range(9)], Moments, pf.Gaussian),
    ],
)
def test_the_family_of_a_column_is_what_its_values_look_like(
    values: Any, kind: type, family: type
) -> None:
    found = column(values)
    assert isinstance(found, kind) and isinstance(found.family, family)


def test_codes_may_be_told() -> None:
    assert column([0.5, 2.0], Wish(besides=[1.0, 2.0])).values.tolist() == [0.5, 1.0, 2.0]
    assert column(["b", "a"], Wish(besides=["z", "b"])).values.tolist() == ["z", "b", "a"]
    assert column([True, True]).values.tolist() == [False, True]


def test_what_is_no_code_may_be_told() -> None:
    assert column([0.0, 1.0] * 9, Wish(may_be_coded=False)).family == pf.DiscretizedLogistic(2)


@pytest.mark.parametrize(
    "family, scale",
    [
        (pf.Gaussian(), 1.5),
        (pf.LogNormal(), 2.0),
        (pf.Exponential(), 2.5),
        (pf.Poisson(), 1.0),
        (pf.Binomial(4), 1.0),
        (pf.Histogram([0.0, 2.0, 5.0]), 1.0),
        (pf.Inflated(pf.Exponential(), at=4.0), 1.0),
    ],
    ids=str,
)
def test_a_family_may_be_told(family: pf.InputFamily, scale: float) -> None:
    found = column([1.0, 4.0, NAN], Wish(family))
    assert type(found.family) is type(family) and found.scale == pytest.approx(scale)
    values = found.encode(np.array([1.0, 4.0, -1.0, NAN]))
    assert np.isfinite(values[:2]).all() and np.isnan(values[3])
    assert np.isinf(values[2]) == (family != pf.Gaussian())
    np.testing.assert_allclose(found.decode(values[:2]), [1.0, 4.0], rtol=1e-15)


def test_the_unseen_have_a_share_by_what_was_seen_once() -> None:
    labels = column(["a", "a", "b", "c"])
    assert labels.unseen == 2.5 / 5
    assert np.isinf(labels.encode(np.array(["d"], dtype=object))).all()
    assert column([True, False]).unseen == column([-0.5, 1.0]).unseen == 0.0  # nothing is left


def test_atoms_are_exact_and_come_back_exactly() -> None:
    values = [0.1] * 10 + [*np.linspace(-7, 3, 20)]
    found = column(values)
    assert isinstance(found.family, pf.Inflated)
    assert (found.encode(np.array([0.1])) == found.family.at).all()
    assert found.decode(np.array([found.family.at]))[0] == 0.1


def test_dates_come_back_in_their_unit() -> None:
    for unit in ("D", "h", "s", "ms", "us", "ns"):
        moments = np.array(["2001-02-03", "2005-06-07", "NaT", "2010-11-12"], dtype=f"M8[{unit}]")
        found = column(moments)
        decoded = found.decode(found.encode(moments)[[0, 1, 3]])
        assert decoded.dtype == moments.dtype and (decoded == moments[[0, 1, 3]]).all()


@pytest.mark.parametrize(
    "values, wish, error, match",
    [
        ([NAN, None], None, EvidenceError, "column 'x' holds no value"),
        ([1.0, math.inf], None, EvidenceError, "column 'x' holds infinity in row 1"),
        (["a", ["b"]], None, TypeMismatch, "column 'x', row 1: .* got list"),
        (np.array([1j]), None, TypeMismatch, "column 'x'"),
        (["a", "b"], Wish(pf.Gaussian()), SettingError, "column 'x' holds labels"),
        ([1.0, 0.0], Wish(pf.LogNormal()), EvidenceError, "column 'x' holds 0, not for LogNormal"),
        ([1.0, 0.5], Wish(pf.Binomial(3)), EvidenceError, "column 'x' holds 0.5"),
    ],
)
def test_what_is_refused(
    values: Any, wish: Wish | None, error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        column(values, wish)


@pytest.mark.parametrize("was, now", [([0.5, 1.0], ["a"]), ([date(2020, 1, 1)], [1.0])])
def test_a_column_stays_of_its_kind(was: Any, now: Any) -> None:
    encoding = encoded({"x": was})
    with pytest.raises(EvidenceError, match="column 'x' held"):
        encoding.encode(columns_of({"x": now}))
    assert np.isnan(encoding.encode(columns_of({"x": [None]}))).all()


@pytest.mark.parametrize(
    "change",
    [
        {"unseen": 1.0},
        {"unseen": "much"},
        {"shift": math.inf},
        {"scale": 0.0},
        {"scale": -1.0},
        {"atom": NAN},
        {"wings": 2},
        {"labels": ["a"]},
        {"first": ["O", "D", 0]},
        {"first": ["M", "parsecs", 0]},
        {"first": ["M", "D", 1 << 80]},
        {"first": ["M", "D", 0], "step": "Y"},
    ],
)
def test_hostile_descriptions_are_refused(change: dict[str, Any]) -> None:
    encoding = encoded({"x": [0.5, 1.5, 3.5]})
    (told,) = encoding.told()
    Encoding.from_told(["x"], [told], encoding.families)
    with pytest.raises((ValueError, TypeError, OverflowError)):
        Encoding.from_told(["x"], [told | change], encoding.families)
    with pytest.raises(ValueError):
        Encoding.from_told(["x"], [told], [pf.Gaussian()] * 2)


def test_numbers_and_durations_of_other_kinds() -> None:
    spans = [np.timedelta64(1, "h"), np.timedelta64(90, "s"), None, timedelta(days=1)]
    prices = [Decimal("1.5"), None, 2, Fraction(1, 4)]
    durations, numbers = columns_of({"span": spans, "price": prices})
    hours = durations.values / np.timedelta64(1, "h")
    np.testing.assert_array_equal(hours, [1, 0.025, np.nan, 24])
    np.testing.assert_array_equal(numbers.values, [1.5, np.nan, 2, 0.25])


def test_labels_need_no_order() -> None:
    (codes,) = Encoding.of(columns_of({"kind": [str, int, None, str]})).each
    assert isinstance(codes, Codes) and set(codes.values) == {int, str}


def test_an_atom_may_be_all_there_is() -> None:
    told = {0: Wish(pf.Inflated(pf.Gaussian()))}
    (scale,) = Encoding.of(columns_of({"gain": [0.0, 0.0, 0.0]}), told).each
    assert scale.family == pf.Inflated(pf.Gaussian())


@pytest.mark.parametrize("kind", ["M8[ns]", "m8[ns]", "M8[us]", "m8[us]", "M8[D]"])
def test_draws_of_moments_are_such_that_numpy_has(kind: str) -> None:
    ends = np.array([-(2**62) + 2**21, 0, 2**62 - 2**21]).view(kind)
    (how,) = Encoding.of(columns_of({"day": ends}), {0: Wish(pf.Gaussian())}).each
    found = how.decode(np.array([-9.0, 0.0, 9.0]))
    assert found[0] < found[1] < found[2] and not np.isnat(found).any()


def test_labels_are_no_days() -> None:
    encoding = encoded({"x": [date(2020, 1, 1)] * 3})
    (told,) = encoding.told()
    assert Encoding.from_told(["x"], [told], encoding.families).told() == [told]
    with pytest.raises(ValueError, match="labels are no days"):
        Encoding.from_told(["x"], [told | {"labels": ["a"]}], encoding.families)


@given(
    st.lists(st.dates(date(1680, 1, 1), date(2260, 1, 1)), min_size=3, unique=True),
    st.dates(date(1680, 1, 1), date(2260, 1, 1)),
)
def test_days_do_not_turn_round_where_nanoseconds_do(days: list[date], other: date) -> None:
    moments = np.array([*days, other], "M8[D]")
    (fine,) = Encoding.of(columns_of({"t": moments[:-1].astype("M8[ns]")})).each
    assert isinstance(fine, Moments) and fine.step == "D"
    found = days_since(fine.first, moments.astype("M8[ns]"))
    wanted = (moments - fine.first.astype("M8[D]")).astype(float)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-9)
