"""Columns of a table as variables: which hold codes, and that nothing is lost on the way."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pcflow.data import Encoding
from pcflow.data.encoding import MOST_CODES, Codes, Scale
from pcflow.errors import EvidenceError, SettingError

VALUES = st.sampled_from([np.nan, 0.0, 1.0, 4.0, -2.5, 1e6]) | st.floats(-1e3, 1e3)


@st.composite
def tables(draw: st.DrawFn) -> npt.NDArray[np.float64]:
    """Rows [N, D] with a value in every column."""
    shape = draw(st.tuples(st.integers(1, 6), st.integers(1, 4)))
    data = draw(hnp.arrays(np.float64, shape, elements=VALUES))
    data[0] = np.nan_to_num(data[0])
    return data


@given(tables(), st.sampled_from(["auto", [], [0]]))
def test_decoding_undoes_encoding(data: npt.NDArray[np.float64], categorical: Any) -> None:
    columns = Encoding.of(data, categorical)
    missing = np.isnan(data)
    encoded = columns.encode(data)
    assert (np.isnan(encoded) == missing).all()
    assert np.isfinite(encoded[~missing]).all()
    decoded = columns.decode(np.nan_to_num(encoded))
    near = 1e-9 * np.nanmax(np.abs(data), initial=1.0)
    np.testing.assert_allclose(decoded[~missing], data[~missing], rtol=0, atol=near)


@pytest.mark.parametrize(
    "column, kind",
    [
        (np.arange(MOST_CODES), Codes),
        (np.arange(MOST_CODES + 1), Scale),
        ([0, 1, np.nan], Codes),
        ([-7, 1e6], Codes),
        ([0.5, 1], Scale),
        ([0.5, 0.5], Scale),
    ],
)
def test_few_whole_numbers_are_codes(column: Any, kind: type) -> None:
    data = np.asarray(column, dtype=np.float64)[:, None]
    assert isinstance(Encoding.of(data).each[0], kind)


def test_codes_may_be_told() -> None:
    (codes,) = Encoding.of(np.array([[0.5], [2.0]]), {0: [1.0, 2.0]}).each
    assert isinstance(codes, Codes)
    assert codes.values.tolist() == [0.5, 1.0, 2.0]


def test_a_constant_is_not_stretched() -> None:
    assert Encoding.of(np.full((3, 1), 0.1)).each == (Scale(mean=pytest.approx(0.1), std=1.0),)


@pytest.mark.parametrize(
    "data, categorical, error, match",
    [
        ([[0.0, np.nan]], "auto", EvidenceError, "column 1 holds no value"),
        ([[0.0, 1.0]], "all", SettingError, "'all'"),
        ([[0.0, 1.0]], [2], SettingError, r"columns 0 to 1, got \[2\]"),
        ([[0.0, 1.0]], {-1: [0]}, SettingError, "columns 0 to 1, got {-1"),
        ([[0.0, 1.0]], 3, SettingError, "columns 0 to 1, got 3"),
    ],
)
def test_what_is_refused(data: Any, categorical: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        Encoding.of(np.array(data), categorical)
