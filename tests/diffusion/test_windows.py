"""The fewest windows, against trying all."""

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcflow import SettingError
from pcflow_diffusion import minimum_cover
from pcflow_diffusion.errors import WindowError


def fewest(positions: list[int], width: int, start: int, stop: int) -> int:
    """The size of the smallest cover, by trying all sets of windows."""
    width = min(width, stop - start)
    windows = [set(range(first, first + width)) for first in range(start, stop - width + 1)]
    for count in range(len(positions) + 1):
        for some in combinations(windows, count):
            if set(positions) <= set().union(*some):
                return count
    raise AssertionError("every position lies in some window")


@pytest.mark.parametrize("width", [1, 2, 3, 5, 13])
def test_no_cover_of_any_set_of_twelve_positions_is_smaller(width: int) -> None:
    for mask in range(1 << 12):
        positions = [3 + n for n in range(12) if mask >> n & 1]
        found = minimum_cover(positions, width, 3, 15)
        assert set(positions) <= set().union(*map(set, found))
        assert all(3 <= w.start < w.stop <= 15 and len(w) == min(width, 12) for w in found)
        if mask % 7 == 0 or mask.bit_count() <= 3:
            assert len(found) == fewest(positions, width, 3, 15)


@given(st.sets(st.integers(4, 40)), st.integers(1, 50), st.integers(0, 4), st.integers(41, 60))
def test_windows_hold_all_positions_and_stay_inside(
    positions: set[int], width: int, start: int, stop: int
) -> None:
    found = minimum_cover(positions, width, start, stop)
    assert positions <= set().union(*map(set, found))
    assert all(start <= w.start < w.stop <= stop for w in found)
    assert all(len(w) == min(width, stop - start) for w in found)
    assert found == sorted(found, key=lambda w: w.start)


def test_bad_positions_and_widths_are_refused() -> None:
    with pytest.raises(SettingError, match="width must be a whole number of at least 1"):
        minimum_cover([1], 0, 0, 4)
    with pytest.raises(WindowError, match=r"\[2, 4\)"):
        minimum_cover([1], 2, 2, 4)
