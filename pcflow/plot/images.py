"""Rows as images: draws, what was hidden, and how it was filled in.

Legend: N rows, n draws, B rows that were given, D variables.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, prod, sqrt
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pcflow.checks import as_reals, as_wholes
from pcflow.errors import SettingError
from pcflow.evidence import Numbers, as_tensor
from pcflow.plot.style import HIDDEN, axes_of, names_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Floats = npt.NDArray[np.float64]


def images(
    values: Numbers,
    shape: Sequence[int],
    given: Numbers | None = None,
    labels: Sequence[str] | None = None,
    limits: tuple[float, float] | None = None,
    axes: Axes | None = None,
) -> Axes:
    """Draw rows as images: those of a set side by side, or completions beside what was given.

    Args:
        values: rows [N, D], laid out as a square; or several images of each of B rows [n, B, D], a
            line for each row, as `model.sample(n, x)` gives them. What is NaN is orange.
        shape: height and width of an image, and 3 if it has red, green and blue; D is the product.
        given: rows [B, D] of which the values are completions: the first image of each line.
        labels: of the images of a line, the given one too; their numbers by default.
        limits: the values that are black and white; by default the least and the largest of all.
        axes: matplotlib axes to draw on; those of a new figure by default.

    Returns:
        The axes, with all images as one.

    Raises:
        TypeMismatch: if `axes` are none, or the shape is not of whole numbers.
        EvidenceError: if what is given are no numbers.
        SettingError: if values, shape, labels and what was given do not fit each other.

    Examples:
        >>> import pcflow as pf
        >>> import torch
        >>> model = pf.compile(pf.build_circuit(pf.structure.quad_tree((4, 4)), pf.Bernoulli(), 2))
        >>> x = torch.full((2, 16), torch.nan)
        >>> axes = images(model.sample(3, x), (4, 4), given=x)
        >>> [label.get_text() for label in axes.get_xticklabels()]
        ['given', '1', '2', '3']
    """
    size = tuple(as_wholes("shape", shape))
    good = len(size) in (2, 3) and min(size, default=0) > 0 and size[2:] in ((), (3,))
    SettingError.check("shape", size, "(height, width) or (height, width, 3)", lambda _: good)
    lines, beside = _lines(values, given, prod(size))
    known = lines[~np.isnan(lines)]
    black, white = _limits(limits, known)
    shades = np.clip((lines - black) / max(white - black, 1e-12), 0.0, 1.0)
    picture = _mosaic(shades.reshape(*lines.shape[:2], *size))
    high, wide = picture.shape[:2]
    inches = min(10.0, max(2.5, 0.8 * lines.shape[1]))
    axes = axes_of(axes, inches + 0.2, inches * high / wide + 0.4)
    axes.imshow(picture, interpolation="nearest")
    axes.spines[:].set_visible(False)
    axes.set(xticks=[], yticks=[])
    if beside or labels is not None:
        numbers = [*["given"][: given is not None], *map(str, range(1, lines.shape[1] + 1))]
        told = numbers[: lines.shape[1]] if labels is None else labels
        step = wide / lines.shape[1]
        at = [step * (n + 0.5) - 0.5 for n in range(lines.shape[1])]
        axes.set_xticks(at, names_of("labels", told, lines.shape[1]))
        axes.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
    return axes


def _lines(values: Numbers, given: Numbers | None, pixels: int) -> tuple[Floats, bool]:
    """Images in lines [lines, columns, D], and whether those of a line belong to one row."""
    array = _array("values", values)
    wanted = f"[N, {pixels}] or [n, B, {pixels}]"
    fits = array.ndim in (2, 3) and array.size > 0 and array.shape[-1] == pixels
    SettingError.check("values", array.shape, wanted, lambda _: fits)
    if given is not None:
        array = array[None] if array.ndim == 2 else array
        first = _array("given", given)
        told = f"[{array.shape[1]}, {pixels}], as the values"
        SettingError.check("given", first.shape, told, lambda shape: shape == array.shape[1:])
        array = np.concatenate([first[None], array])
    if array.ndim == 3:
        return array.swapaxes(0, 1), True
    columns = ceil(sqrt(len(array)))
    empty = np.full((-len(array) % columns, pixels), np.inf)  # places of no image
    return np.concatenate([array, empty]).reshape(-1, columns, pixels), False


def _array(name: str, numbers: Numbers) -> Floats:
    array: Floats = as_tensor(name, numbers).detach().cpu().double().numpy()
    return array


def _limits(limits: tuple[float, float] | None, known: Floats) -> tuple[float, float]:
    if limits is not None:
        ends = as_reals("limits", limits)
        wanted = "two numbers, the value that is black below the one that is white"
        SettingError.check("limits", ends, wanted, lambda e: len(e) == 2 and e[0] < e[1])
        return ends[0], ends[1]
    some = known[np.isfinite(known)]
    return (float(some.min()), float(some.max())) if some.size else (0.0, 1.0)


def _mosaic(shades: Floats) -> Floats:
    """All images as one, in colours, with white between: [lines, columns, H, W, ...] of 0 to 1."""
    colours = shades if shades.ndim == 5 else np.repeat(shades[..., None], 3, axis=-1)
    hidden = np.isnan(colours).any(axis=-1, keepdims=True)
    colours = np.where(hidden, np.array(HIDDEN), colours)
    gap = max(1, max(colours.shape[2:4]) // 16)
    framed = np.pad(colours, [(0, 0), (0, 0), (0, gap), (0, gap), (0, 0)], constant_values=1.0)
    lines, columns, high, wide, _ = framed.shape
    return framed.swapaxes(1, 2).reshape(lines * high, columns * wide, 3)[:-gap, :-gap]
