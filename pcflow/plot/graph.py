"""Circuits, region graphs and automata as boxes and lines: on axes of matplotlib, or as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from pcflow.errors import TypeMismatch
from pcflow.plot.diagram import Diagram, Drawable
from pcflow.plot.layout import SIZE, SMALL, Curve, Layout, Placed, lay_out
from pcflow.plot.style import BOXES, GREY, INK, check_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TITLE = 20.0  # points
WANTED = "a Circuit, a CompiledCircuit, a RegionGraph or an Automaton"
FONT = "Helvetica, Arial, DejaVu Sans, sans-serif"


def graph(
    of: Drawable,
    names: Sequence[str] | None = None,
    most: int = 40,
    axes: Axes | None = None,
) -> Axes:
    """Draw a circuit, a region graph or an automaton, the root on top.

    Up to `most` layers (or regions and partitions) are drawn one by one, each with its kind, its
    scope and its number of units; of more, how many there are on every level. States of an
    automaton stand by their distance from the first, and edges have the first categories on them.

    Args:
        of: a `Circuit`, a `CompiledCircuit`, a `RegionGraph` or an `Automaton`.
        names: of the variables, or of an automaton's categories; their numbers by default.
        most: how many boxes there may be at most, before they are drawn by level.
        axes: matplotlib axes to draw on; by default those of a new figure, as large as it takes.

    Returns:
        The axes, in points of the drawing, which has one patch per box and one per line.

    Raises:
        TypeMismatch: if it is of nothing that can be drawn, or `axes` are none.
        SettingError: if there are not as many names, or `most` is no whole number.

    Examples:
        >>> import pcflow as pf
        >>> axes = graph(pf.hmm(3, states=2, inputs=pf.Bernoulli()))
        >>> axes.get_title()
        'Circuit: 3 variables, 8 layers, 8 parameters'
    """
    layout = lay_out(_diagram(of, names, most))
    check_axes(axes)
    if axes is None:
        axes = _axes_for(layout)
    axes.set_title(layout.title, fontsize=10, color=INK)
    axes.set_axis_off()
    axes.set_aspect("equal")
    axes.set(xlim=(0, layout.width), ylim=(layout.height, 0))
    scale = _scale(axes, layout)
    for curve in layout.curves:
        _draw_curve(axes, curve, scale)
    for box in layout.boxes:
        _draw_box(axes, box, scale)
    return axes


def svg(of: Drawable, names: Sequence[str] | None = None, most: int = 40) -> str:
    """The same picture as the text of an SVG file, made without matplotlib; notebooks show it.

    Args:
        of: a `Circuit`, a `CompiledCircuit`, a `RegionGraph` or an `Automaton`.
        names: of the variables, or of an automaton's categories; their numbers by default.
        most: how many boxes there may be at most, before they are drawn by level.

    Returns:
        The text; every box is a group of class `node`, every line a path of class `edge`.

    Raises:
        TypeMismatch: if it is of nothing that can be drawn.
        SettingError: if there are not as many names, or `most` is no whole number.

    Examples:
        >>> import pcflow as pf
        >>> svg(pf.hmm(3, states=2, inputs=pf.Bernoulli())).count('class="node"')
        8
    """
    layout = lay_out(_diagram(of, names, most))
    size = f'width="{layout.width:.0f}" height="{layout.height:.0f}"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} '
        f'viewBox="0 0 {layout.width:.1f} {layout.height:.1f}" font-family="{FONT}" '
        f'text-anchor="middle" fill="{INK}">',
        f"<title>{escape(layout.title)}</title>",
        *map(_svg_curve, layout.curves),
        *map(_svg_box, layout.boxes),
        "</svg>",
    ]
    return "\n".join(lines)


def _diagram(of: Drawable, names: Sequence[str] | None, most: int) -> Diagram:
    if isinstance(of, type) or not isinstance(of, Drawable):  # a class has the method too
        raise TypeMismatch("of", of, WANTED)
    return of.diagram(names, most)


def _axes_for(layout: Layout) -> Axes:
    """Axes on which a point of the drawing is a point of the figure."""
    from matplotlib import pyplot

    height = layout.height + TITLE
    wide = max(layout.width, 6.0 * len(layout.title))
    figure = pyplot.figure(figsize=(wide / 72, height / 72))
    return figure.add_axes((0.0, 0.0, 1.0, layout.height / height))


def _scale(axes: Axes, layout: Layout) -> float:
    """How large a point of the drawing is: text has to shrink with the boxes."""
    room = axes.get_window_extent()
    points = 72.0 / axes.figure.dpi
    return min(room.width * points / layout.width, room.height * points / layout.height)


def _draw_curve(axes: Axes, curve: Curve, scale: float) -> None:
    from matplotlib.patches import PathPatch, Polygon
    from matplotlib.path import Path

    codes = [Path.MOVETO, Path.CURVE4, Path.CURVE4, Path.CURVE4]
    path = Path([curve.start, *curve.bends, curve.end], codes)
    axes.add_patch(
        PathPatch(path, fill=False, edgecolor=GREY, linewidth=0.9 * scale, gid="edge", zorder=1)
    )
    if curve.head:
        axes.add_patch(Polygon(curve.head, facecolor=GREY, linewidth=0.0, gid="head", zorder=3))
    if curve.label:
        told = axes.text(*curve.written, curve.label, fontsize=SMALL * scale, color=GREY)
        told.set_parse_math(False)


def _draw_box(axes: Axes, box: Placed, scale: float) -> None:
    from matplotlib.patches import FancyBboxPatch

    look = BOXES[box.node.kind]
    corner = box.x - box.width / 2, box.y - box.height / 2
    axes.add_patch(
        FancyBboxPatch(
            corner, box.width, box.height, boxstyle=f"round,pad=0,rounding_size={_rounding(box)}",
            facecolor=look.fill, edgecolor=look.edge, linewidth=1.2 * scale, gid="node", zorder=2,
        )
    )  # fmt: skip
    for text, y, size in _texts(box):
        told = axes.text(box.x, y, text, fontsize=size * scale, color=INK, zorder=3)
        told.set(ha="center", va="center", parse_math=False)


def _svg_curve(curve: Curve) -> str:
    (a, b), ((c, d), (e, f)), (g, h) = curve.start, curve.bends, curve.end
    path = f"M{a:.1f} {b:.1f}C{c:.1f} {d:.1f} {e:.1f} {f:.1f} {g:.1f} {h:.1f}"
    line = f'<path class="edge" d="{path}" fill="none" stroke="{GREY}" stroke-width="0.9"/>'
    if curve.head:
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in curve.head)
        line += f'<polygon class="head" points="{points}" fill="{GREY}"/>'
    if curve.label:
        x, y = curve.written
        place = f'x="{x:.1f}" y="{y:.1f}" font-size="{SMALL}"'
        line += f'<text {place} fill="{GREY}" text-anchor="start">{escape(curve.label)}</text>'
    return line


def _svg_box(box: Placed) -> str:
    look = BOXES[box.node.kind]
    place = f'x="{box.x - box.width / 2:.1f}" y="{box.y - box.height / 2:.1f}"'
    size = f'width="{box.width:.1f}" height="{box.height:.1f}" rx="{_rounding(box):.1f}"'
    texts = [
        f'<text x="{box.x:.1f}" y="{y + 0.35 * points:.1f}" font-size="{points}">'
        f"{escape(text)}</text>"
        for text, y, points in _texts(box)
    ]
    rect = f'<rect {place} {size} fill="{look.fill}" stroke="{look.edge}" stroke-width="1.2"/>'
    return f'<g class="node">{rect}{"".join(texts)}</g>'


def _rounding(box: Placed) -> float:
    """How round corners are: sums and products as round as can be, inputs hardly."""
    return 3.0 if box.node.kind in ("input", "region") else min(10.0, box.height / 2)


def _texts(box: Placed) -> list[tuple[str, float, float]]:
    """Every line of a box, where it stands, and how large it is."""
    lines = box.node.lines
    sizes = [SIZE, *[SMALL] * (len(lines) - 1)]
    y = box.y - 1.3 * sum(sizes[: len(lines)]) / 2
    found = []
    for text, size in zip(lines, sizes, strict=False):
        found.append((text, y + 0.65 * size, size))
        y += 1.3 * size
    return found
