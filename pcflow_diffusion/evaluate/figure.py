"""Pictures: by share of masks, and by number of steps."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

import pcflow as pf
from pcflow_diffusion.evaluate.gap import CIRCUIT, FACTORISED, SEQUENTIAL

Curves = Mapping[str, Sequence[float]]

_REFERENCES = FACTORISED, SEQUENTIAL, CIRCUIT


def draw_demo(
    path: str | os.PathLike[str],
    table: Curves,
    ratios: Sequence[float],
    nats: Curves,
    words: Curves,
    steps: Sequence[int],
) -> None:
    """Draw the results of the demo side by side; an old file is replaced when the PNG is done.

    Args:
        path: where to.
        table: by method, nats per masked token at every mask ratio (see `gap_table`).
        ratios: mask ratios.
        nats: by decoder, nats per token of its text at every number of steps; a decoder that
            is a method of the table has that method's colour.
        words: by decoder, the share of its words that are known, likewise.
        steps: steps per block.

    Raises:
        OSError: if the file cannot be written.
    """
    figure = Figure(figsize=(14.0, 4.4), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    pf.plot.gap(table, ratios, references=_REFERENCES, axes=left)
    colours = {str(line.get_label()): str(line.get_color()) for line in left.lines}
    _draw_steps(middle, nats, steps, colours, "nats per token under the denoiser")
    _draw_steps(right, words, steps, colours, "share of words known from the training text")
    save_figure(figure, path)


def draw_exact_world(
    path: str | os.PathLike[str], shares: Curves, by_steps: Curves, steps: Sequence[int]
) -> None:
    """Draw the errors of an exact world side by side; an old file is replaced when it is done.

    Args:
        path: where to.
        shares: by method, the KL divergence (nats) of one step, for 1, 2, ... masks. Methods are
            named "coupling; circuit": one colour per coupling, one line style per circuit.
        by_steps: by method, that of whole sequences for every number of steps.
        steps: these numbers.

    Raises:
        OSError: if the file cannot be written.
    """
    figure = Figure(figsize=(13.0, 4.8), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    couplings, circuits = (
        list(dict.fromkeys(name.partition("; ")[place] for name in shares)) for place in (0, 2)
    )
    for name, values in shares.items():
        coupling, _, circuit = name.partition("; ")
        colour = f"C{couplings.index(coupling)}"
        line = ("-", "-", "--", ":")[min(circuits.index(circuit), 3)]
        look = {"label": name, "color": colour, "linestyle": line, "marker": "o"}
        left.plot(range(1, len(values) + 1), values, **look)
        right.plot(steps, by_steps[name], **look)
    left.set_yscale("symlog", linthresh=1e-3)
    left.set_title("One step")
    left.set_xlabel("masked positions")
    left.set_ylabel("KL divergence from the truth (nats)")
    right.set_title("Whole sequences")
    right.set_xlabel("steps")
    right.set_xticks(steps, [str(count) for count in steps])
    figure.legend(*left.get_legend_handles_labels(), loc="outside right upper", fontsize="small")
    save_figure(figure, path)


def draw_gap(
    path: str | os.PathLike[str],
    table: Curves,
    ratios: Sequence[float],
    spread: Curves | None = None,
) -> None:
    """Write the picture of `pf.plot.gap`; an old file is replaced when the PNG is done.

    Args:
        path: where to.
        table: by method, nats per masked token at every mask ratio (see `gap_table`).
        ratios: mask ratios.
        spread: standard deviations of the table, drawn as bars.

    Raises:
        OSError: if the file cannot be written.
    """
    figure = Figure(figsize=(7.5, 5.0), layout="constrained")
    pf.plot.gap(table, ratios, spread, _REFERENCES, figure.subplots())
    save_figure(figure, path)


def save_figure(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write a PNG in one step."""
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=150)
    pf.replace_file(path, [image.getvalue()])


def _draw_steps(
    axes: Axes, table: Curves, steps: Sequence[int], colours: Mapping[str, str], what: str
) -> None:
    for name, values in table.items():
        axes.plot(steps, values, label=name, color=colours.get(name, "black"), marker="o")
    axes.set_title("Text in few steps", fontsize=10)
    axes.set_xscale("log", base=2)
    axes.set_xticks(steps, [str(count) for count in steps])
    axes.set_xlabel("steps per block")
    axes.set_ylabel(what)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize="small")
