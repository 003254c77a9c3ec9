"""The fewest windows, against trying all; and windows that show as much as any."""

from itertools import combinations, pairwise

import pytest
import torch
from device import DEVICE
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import of_fifty
from torch import Tensor

from pcflow import SettingError
from pcflow_diffusion import minimum_cover
from pcflow_diffusion.decode import looks
from pcflow_diffusion.decode.windows import bridges, window_starts
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


def reach(start: int, width: int, wanted: list[bool], visible: list[bool]) -> tuple[int, int]:
    """How far to the left and to the right of what is wanted a window shows a token."""
    first, last = wanted.index(True), len(wanted) - 1 - wanted[::-1].index(True)
    seen = [place for place in range(start, start + width) if visible[place]]
    left = max((first - place for place in seen if place < first), default=0)
    return left, max((place - last for place in seen if place > last), default=0)


@given(st.integers(1, 12), st.data())
def test_no_window_that_holds_the_same_shows_more_on_one_side_and_no_less_on_the_other(
    length: int, data: st.DataObject
) -> None:
    width = data.draw(st.integers(1, length))
    flags = st.lists(st.booleans(), min_size=length, max_size=length)
    within = data.draw(st.integers(0, length - width))
    rows = []
    for _ in range(3):
        some = data.draw(flags)
        wanted = [flag and within <= n < within + width for n, flag in enumerate(some)]
        wanted[within] |= not any(wanted)
        visible = [flag and not held for flag, held in zip(data.draw(flags), wanted, strict=True)]
        rows.append((wanted, visible))
    given_ = [torch.tensor(column).to(DEVICE) for column in zip(*rows, strict=True)]
    for start, (wanted, visible) in zip(window_starts(*given_, width).tolist(), rows, strict=True):
        held = [n for n, flag in enumerate(wanted) if flag]
        others = range(max(0, held[-1] + 1 - width), min(held[0], length - width) + 1)
        assert start in others
        left, right = reach(start, width, wanted, visible)
        for other in others:
            farther = reach(other, width, wanted, visible)
            assert farther == (left, right) or farther[0] < left or farther[1] < right


def test_windows_lie_amid_text_that_is_known_on_both_sides() -> None:
    text = torch.tensor([[0, 0, 0, 1, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 1]])
    masked = text.bool().to(DEVICE)
    assert window_starts(masked, ~masked, 5).tolist() == [1, 0, 2]
    assert window_starts(masked, ~masked, 4).tolist() == [1, 0, 3]
    far = torch.tensor([[True, False, True, False, False, False, False, False, True]]).to(DEVICE)
    wanted = torch.arange(9).to(DEVICE).eq(4).unsqueeze(0)
    assert window_starts(wanted, far, 7).tolist() == [2]  # the nearest of both sides
    assert window_starts(wanted, far, 6).tolist() == [0]
    nothing = torch.zeros_like(masked)
    assert window_starts(masked, nothing, 3).tolist() == [3, 0, 4]


def test_windows_that_cannot_hold_what_is_wanted_are_refused() -> None:
    wanted = torch.tensor([[True, False, True], [False, True, False]]).to(DEVICE)
    assert window_starts(wanted, ~wanted, 3).tolist() == [0, 0]
    for wrong, width in ((wanted, 2), (torch.zeros_like(wanted), 2)):
        with pytest.raises(WindowError, match="window of 2"):
            window_starts(wrong, ~wrong, width)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=16), st.integers(1, 6))
def test_what_hangs_together_is_bridged_in_each_text_by_itself(row: list[int], width: int) -> None:
    """0 is masked, 1 visible, 2 to be committed, 3 a cut."""
    flags = torch.tensor([row]).to(DEVICE)

    def bridged(part: Tensor) -> Tensor:
        return bridges(part == 2, part == 1, part != 3, width)

    found = bridged(flags)
    assert not bool((found & (flags != 0)).any())
    cuts = [-1, *(place for place, flag in enumerate(row) if flag == 3), len(row)]
    for before, after in pairwise(cuts):
        piece = slice(before + 1, after)
        if after > before + 1:
            assert torch.equal(found[:, piece], bridged(flags[:, piece]))


def test_bridges_lie_between_what_no_window_holds_together() -> None:
    texts = {
        "20002": "01110",  # committed, and too far from one another for a window of four
        "2002": "0000",
        "10002": "01110",
        "10001": "00000",  # nobody asks
        "10201": "01010",  # both of what is visible around it belongs with it
        "1201": "0000",
        "00200": "00000",
    }
    for given_, wanted in texts.items():
        row = torch.tensor([[int(flag) for flag in given_]]).to(DEVICE)
        found = bridges(row == 2, row == 1, row == row, width=4)
        assert found.int().tolist()[0] == [int(flag) for flag in wanted]


@settings(deadline=None, max_examples=of_fifty(60))
@given(
    st.lists(st.lists(st.integers(0, 3), min_size=9, max_size=9), min_size=1, max_size=3),
    st.integers(1, 9),
    st.sampled_from([0.0, 0.25, 0.5]),
)
def test_windows_decide_everything_once_and_see_what_they_can(
    rows: list[list[int]], width: int, shown: float
) -> None:
    """0 is masked and not wanted, 1 visible, 2 wanted, 3 a cut."""
    text = torch.tensor(rows)
    wanted, visible = text == 2, text == 1
    times, known = torch.zeros_like(text), visible.clone()
    for look in looks(wanted, visible, text != 3, width, shown=shown):
        assert look.places.shape[1] <= width
        assert not bool((text == 3)[look.rows, look.places].any())
        for row, places, decided in zip(look.rows, look.places, look.decided, strict=True):
            first = places[decided][0]
            if width > 1 and first > 0 and known[row[0], first - 1]:
                assert places[0] < first
            times[row[0], places[decided]] += 1
            known[row[0], places[decided]] = True
    assert torch.equal(times, wanted.long())


def test_what_is_left_of_a_block_is_seen_wherever_there_is_room() -> None:
    text = torch.tensor([[1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2]])
    for look in looks(text == 2, text == 1, text > 0, width=8, shown=0.25):
        first = int(look.places[look.decided][0])
        assert int(look.places[0, 0]) < first
