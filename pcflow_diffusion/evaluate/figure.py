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

_PLAIN = {FACTORISED: ("black", "-"), SEQUENTIAL: ("black", ":"), CIRCUIT: ("grey", "--")}


def draw_demo(
    path: str | os.PathLike[str],
    table: Curves,
    ratios: Sequence[float],
    nats: Curves,
    words: Curves,
    steps: Sequence[int],
) -> None:
    """Draw both results of the demo side by side; an old file is replaced when the PNG is done.

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
    coupled = [name for name in table if name not in _PLAIN]
    colours = {name: f"C{number}" for number, name in enumerate(coupled)}
    figure = Figure(figsize=(11.0, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw_gap(left, table, ratios, colours)
    _draw_text(right, nats, words, steps, colours)
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
    """Draw nats per masked token by mask ratio; an old file is replaced when the PNG is done.

    Args:
        path: where to.
        table: by method, nats per masked token at every mask ratio (see `gap_table`).
        ratios: mask ratios.
        spread: standard deviations of the table, drawn as bars.

    Raises:
        OSError: if the file cannot be written.
    """
    figure = Figure(figsize=(7.5, 5.0), layout="constrained")
    coupled = [name for name in table if name not in _PLAIN]
    colours = {name: f"C{number}" for number, name in enumerate(coupled)}
    _draw_gap(figure.subplots(), table, ratios, colours, spread)
    save_figure(figure, path)


def save_figure(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write a PNG in one step."""
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=150)
    pf.replace_file(path, [image.getvalue()])


def _draw_gap(
    axes: Axes,
    table: Curves,
    ratios: Sequence[float],
    colours: Mapping[str, str],
    spread: Curves | None = None,
) -> None:
    for name, values in table.items():
        colour, line = _PLAIN.get(name) or (colours[name], "-")
        marker = "" if name in _PLAIN else "o"
        axes.plot(ratios, values, label=name, color=colour, linestyle=line, marker=marker)
        if spread is not None:
            axes.errorbar(ratios, values, yerr=spread[name], color=colour, linestyle="", capsize=2)
    axes.set_title("Held-out text in one step")
    axes.set_xlabel("share of the block that is masked")
    axes.set_ylabel("nats per masked token")
    axes.set_xticks(ratios, [f"{ratio:.0%}" for ratio in ratios])
    axes.legend(fontsize="small")


def _draw_text(
    axes: Axes, nats: Curves, words: Curves, steps: Sequence[int], colours: Mapping[str, str]
) -> None:
    known = axes.twinx()
    for name, values in nats.items():
        colour = colours.get(name, "black")
        axes.plot(steps, values, label=f"{name}: nats", color=colour, marker="o")
        label = f"{name}: words"
        known.plot(steps, words[name], label=label, color=colour, linestyle="--", marker="s")
    axes.set_title("Text in few steps")
    axes.set_xscale("log", base=2)
    axes.set_xticks(steps, [str(count) for count in steps])
    axes.set_xlabel("steps per block")
    axes.set_ylabel("nats per token under the denoiser")
    known.set_ylabel("share of words known from the training text")
    lines = [*axes.lines, *known.lines]
    axes.legend(lines, [str(line.get_label()) for line in lines], fontsize="small", loc="right")
