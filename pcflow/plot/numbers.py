"""What circuits answer: marginals of rows, and how variables depend on one another.

Legend: B rows, D variables, V categories.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pcflow.errors import SettingError
from pcflow.evidence import Evidence, Numbers, as_tensor
from pcflow.plot.style import BLUE, GREY, INK, PALE, SHADES, axes_of, names_of, titled

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HIGH = 0.86  # of the line of a row, taken by a probability of one
WRITTEN = 12
"""Up to so many variables, numbers are written into a heat map."""


def marginals(
    log_marginals: Numbers,
    evidence: Evidence | Numbers | None = None,
    names: Sequence[str] | None = None,
    rows: Sequence[str] | None = None,
    axes: Axes | None = None,
) -> Axes:
    """Draw how probable values are: for every row and variable a bar for each of its values.

    Args:
        log_marginals: of every value (nats), [B, D, V], as `model.marginals` gives them; of one row
            [D, V] will do.
        evidence: what was given of the rows, values [B, D] with NaN where missing, or `Evidence`:
            what was observed is drawn in grey.
        names: of the variables; their numbers by default.
        rows: names of the rows; their numbers by default.
        axes: matplotlib axes to draw on; those of a new figure by default.

    Returns:
        The axes: variables from left to right, rows from top to bottom. In each cell values go from
        left to right, and a bar of full height stands for a probability of one.

    Raises:
        TypeMismatch: if `axes` are none.
        EvidenceError: if what is given are no numbers.
        SettingError: if they are no log-probabilities or one is NaN, evidence does not fit them, or
            there are not as many names.

    Examples:
        >>> import pcflow as pf
        >>> model = pf.compile(pf.hmm(4, states=2, inputs=pf.Categorical(3)))
        >>> x = torch.tensor([[0.0, torch.nan, torch.nan, 2.0]])
        >>> len(marginals(model.marginals(x), x).patches)
        12
    """
    probs = _probabilities(log_marginals)
    seen = _observed(evidence, probs)
    count, width, values = probs.shape
    columns, lines = names_of("names", names, width), names_of("rows", rows, count)
    axes = axes_of(axes, min(14.0, 1.2 + 0.8 * width), 1.1 + 0.7 * count)
    bar = 0.84 / values
    left = torch.arange(width).unsqueeze(-1) - 0.42 + bar * (0.5 + torch.arange(values))  # [D, V]
    left = left.expand(probs.shape)
    bottom = torch.arange(count).flip(0).view(-1, 1, 1).expand(probs.shape)
    for chosen, color in ((~seen, BLUE), (seen, GREY)):
        axes.bar(left[chosen].flatten().tolist(), (HIGH * probs[chosen]).flatten().tolist(), bar,
                 bottom=bottom[chosen].flatten().tolist(), color=color, edgecolor="white",
                 linewidth=0.5 if values <= 16 else 0.0)  # fmt: skip
    for line in range(count):
        axes.axhline(line, color=PALE, linewidth=0.8, zorder=0)
    axes.set_xticks(range(width), columns)
    axes.set_yticks([count - 1 - row + HIGH / 2 for row in range(count)], lines)
    axes.set(xlim=(-0.6, width - 0.4), ylim=(-0.05, count), xlabel="variable", ylabel="row")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    grey = ", grey where observed" if bool(seen.any()) else ""
    return titled(axes, f"Probability of each of {values} values{grey}")


def dependence(
    information: Numbers,
    names: Sequence[str] | None = None,
    axes: Axes | None = None,
) -> Axes:
    """Draw how much every variable says about every other, as a heat map.

    Args:
        information: mutual information of every pair (nats), [D, D], as
            `pairwise_mutual_information` gives it. What a variable says of itself, its entropy, is
            left out, because it would outshine the rest.
        names: of the variables; their numbers by default.
        axes: matplotlib axes to draw on; those of a new figure by default.

    Returns:
        The axes: the darker a cell, the more one variable says about the other. Numbers are written
        into the cells of up to 12 variables.

    Raises:
        TypeMismatch: if `axes` are none.
        EvidenceError: if what is given are no numbers.
        SettingError: if they are not [D, D], one is NaN, or there are not as many names.

    Examples:
        >>> import pcflow as pf
        >>> circuit = pf.hmm(5, states=2, inputs=pf.Bernoulli())
        >>> dependence(pf.pairwise_mutual_information(circuit)).images[0].get_array().shape
        (5, 5)
    """
    given = as_tensor("information", information).detach().cpu().double()
    wanted = "of shape [D, D]"
    fits = given.dim() == 2 and 0 < given.shape[0] == given.shape[1]
    SettingError.check("information", tuple(given.shape), wanted, lambda _: fits)
    _refuse_nan("information", given.clone().fill_diagonal_(0.0))
    count = len(given)
    labels = names_of("names", names, count)
    off = given.clone().fill_diagonal_(torch.nan)
    side = min(9.0, 2.4 + 0.42 * count)
    axes = axes_of(axes, side + 0.8, side)
    top = max(float(off.nan_to_num(nan=0.0).max()), 1e-12)
    image = axes.imshow(off.numpy(), cmap=SHADES, vmin=0.0, vmax=top)
    if count <= WRITTEN:
        _write(axes, off, top)
    every = max(1, count // 20)
    axes.set_xticks(range(0, count, every), labels[::every], rotation=45 if _long(labels) else 0)
    axes.set_yticks(range(0, count, every), labels[::every])
    axes.set_facecolor(PALE)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    bar = axes.figure.colorbar(image, ax=axes, shrink=0.8)
    bar.set_label("mutual information (nats)")
    bar.outline.set_visible(False)
    return titled(axes, "What variables say about each other")


def _write(axes: Axes, numbers: Tensor, top: float) -> None:
    """Numbers in their cells, white on dark ones."""
    for i, row in enumerate(numbers.tolist()):
        for j, number in enumerate(row):
            if i != j:
                color = "white" if number > 0.6 * top else INK
                told = f"{number:.2f}" if top >= 0.1 else f"{number:.1g}"
                axes.text(j, i, told, ha="center", va="center", fontsize=8, color=color)


def _long(labels: Sequence[str]) -> bool:
    return max(map(len, labels)) > 3


def _probabilities(log_marginals: Numbers) -> Tensor:
    """As they are drawn, [B, D, V]."""
    logs = as_tensor("log_marginals", log_marginals).detach().cpu().double()
    logs = logs.unsqueeze(0) if logs.dim() == 2 else logs
    wanted = "of shape [B, D, V], as model.marginals gives them"
    fits = logs.dim() == 3 and logs.numel() > 0
    SettingError.check("log_marginals", tuple(logs.shape), wanted, lambda _: fits)
    _refuse_nan("log_marginals", logs)
    wanted = "logarithms of probabilities, none above 0"
    SettingError.check("log_marginals", float(logs.max()), wanted, lambda most: most <= 1e-3)
    return logs.exp()


def _refuse_nan(name: str, numbers: Tensor) -> None:
    """Raise where there is no number to be drawn.

    Raises:
        SettingError: saying where.
    """
    for place in numbers.isnan().nonzero()[:1].tolist():
        raise SettingError(f"{name}{place}", torch.nan, "a number")


def _observed(evidence: Evidence | Numbers | None, probs: Tensor) -> Tensor:
    """Which variables of which rows are observed, [B, D]."""
    shape = probs.shape[:2]
    if evidence is None:
        return torch.zeros(shape, dtype=torch.bool)
    given = evidence if isinstance(evidence, Evidence) else Evidence(evidence)
    seen = torch.zeros(shape, dtype=torch.bool)
    if given.values is not None:
        seen = ~given.values.cpu().isnan()
    if given.missing is not None:
        seen = seen & ~given.missing.cpu().bool()
    seen = seen.unsqueeze(0) if seen.dim() == 1 else seen
    wanted = f"about {shape[0]} rows of {shape[1]} variables, as the marginals are"
    SettingError.check("evidence", tuple(seen.shape), wanted, lambda given: given == shape)
    return seen
