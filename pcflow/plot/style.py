"""One look for all pictures: colours that colour-blind people tell apart, and that print as greys.

The colours are those of Okabe and Ito (2008, Color Universal Design). Nothing is told by colour
alone: kinds of nodes have words, lines have markers. matplotlib is imported when something is
drawn, and none of its settings is changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from pcflow.checks import as_iterable, check_kind
from pcflow.errors import SettingError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, GREY, PALE = "#222222", "#7a7a7a", "#e4e4e4"
BLUE, ORANGE, GREEN, VERMILLION = "#0072b2", "#e69f00", "#009e73", "#d55e00"
PURPLE, SKY, BLACK = "#cc79a7", "#56b4e9", "#000000"
HIDDEN = (0.96, 0.73, 0.42)  # what is missing of an image: an orange, as no grey is
SHADES = "Blues"  # of numbers from zero up: the more, the darker


class Box(NamedTuple):
    """How nodes of a kind look."""

    fill: str
    edge: str


BOXES = {
    "sum": Box("#d9e8f5", BLUE),
    "product": Box("#fdeccb", "#b87a00"),
    "input": Box("#d8f0e7", GREEN),
    "region": Box("#d9e8f5", BLUE),
    "partition": Box("#fdeccb", "#b87a00"),
    "several": Box("#efefef", GREY),
    "state": Box("#ffffff", INK),
    "end": Box("#d8f0e7", GREEN),
}


class Line(NamedTuple):
    """How a line looks: in colour, and without."""

    color: str
    marker: str
    linestyle: str


LINES = tuple(
    Line(color, marker, "-")
    for color, marker in zip(
        (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY), ("o", "s", "^", "D", "v", "P"), strict=True
    )
)
REFERENCES = tuple(
    Line(color, "", style)
    for color, style in ((BLACK, "-"), (BLACK, ":"), (GREY, "--"), (GREY, "-."))
)


def axes_of(axes: Axes | None, width: float, height: float) -> Axes:
    """The given axes; new ones of this size, in inches, if none are.

    Raises:
        TypeMismatch: if they are no axes of matplotlib.
    """
    if axes is None:
        from matplotlib import pyplot

        return pyplot.subplots(figsize=(width, height), layout="constrained")[1]
    check_axes(axes)
    return axes


def titled(axes: Axes, title: str) -> Axes:
    """The same axes under a title."""
    axes.set_title(title, fontsize=10, color=INK)
    return axes


def check_axes(axes: object) -> None:
    """Refuse what nothing can be drawn on.

    Raises:
        TypeMismatch: if it is neither None nor axes.
    """
    from matplotlib.axes import Axes

    check_kind("axes", axes, Axes | None, "matplotlib Axes, or None for new ones")


def names_of(name: str, names: object, count: int) -> list[str]:
    """Names as texts, be they letters of one; the numbers from 0 on if there are none.

    Raises:
        TypeMismatch: if they cannot be gone over.
        SettingError: if there are not as many.
    """
    if names is None:
        return [str(n) for n in range(count)]
    texts = list(map(str, names if isinstance(names, str) else as_iterable(name, names)))
    SettingError.check(name, texts, f"{count} names", lambda given: len(given) == count)
    return texts


def listed(variables: Sequence[int]) -> str:
    """Variables by their numbers, runs of which are told by their ends.

    Examples:
        >>> listed([0, 1, 2, 5, 7, 8])
        'x0-x2, x5, x7, x8'
    """
    runs: list[list[int]] = []
    for number in sorted(variables):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(
        f"x{run[0]}-x{run[-1]}" if len(run) > 2 else ", ".join(f"x{n}" for n in run) for run in runs
    )
