"""What a run of a plan takes, step by step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from pcflow.checks import check_kind
from pcflow.plot.style import BOXES, GREY, axes_of, titled

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST = 24
"""Of steps, the slowest of which have a bar of their own; the others share one."""


class Timed(Protocol):
    """A step, and how long it took."""

    @property
    def kind(self) -> str:
        """Input, sum or product."""

    @property
    def label(self) -> str:
        """What it does, in a few words."""

    @property
    def seconds(self) -> float:
        """How long it took."""


@runtime_checkable
class Times(Protocol):
    """What `model.time_steps` returns."""

    @property
    def steps(self) -> Sequence[Timed]:
        """In the order in which they run."""

    @property
    def rows(self) -> int:
        """How many rows were run."""


def plan(times: Times, axes: Axes | None = None) -> Axes:
    """Draw how long every step of a plan takes, from the inputs to the root.

    Args:
        times: what `model.time_steps(x)` measured.
        axes: matplotlib axes to draw on; those of a new figure by default.

    Returns:
        The axes: a bar per step from the first at the bottom to the root on top, in the colour of
        its kind. Of more than 24 those that take least are added up, in a grey bar below.

    Raises:
        TypeMismatch: if these are no times of steps, or `axes` are none.

    Examples:
        >>> import torch
        >>> import pcflow as pf
        >>> model = pf.compile(pf.hmm(3, states=2, inputs=pf.Bernoulli()))
        >>> times = model.time_steps(torch.zeros(8, 3))
        >>> len(plan(times).patches) == len(times.steps)
        True
    """
    check_kind("times", times, Times, "what model.time_steps(x) returns")
    slowest = sorted(range(len(times.steps)), key=lambda n: -times.steps[n].seconds)[:MOST]
    shown = [(n, times.steps[n]) for n in sorted(slowest)]
    bars = [(f"{n}  {step.label}", step.seconds, BOXES[step.kind].edge) for n, step in shown]
    total = sum(step.seconds for step in times.steps)
    if len(shown) < len(times.steps):
        rest = total - sum(step.seconds for _, step in shown)
        bars.insert(0, (f"{len(times.steps) - len(shown)} others", rest, GREY))
    labels, seconds, colors = zip(*bars, strict=True)
    axes = axes_of(axes, 7.0, 1.2 + 0.24 * len(labels))
    axes.barh(range(len(labels)), [1e3 * s for s in seconds], color=colors, height=0.72)
    axes.set_yticks(range(len(labels)), labels, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.margins(y=0.01)
    axes.set_xlabel(f"milliseconds for {times.rows:,} rows")
    return titled(axes, f"{len(times.steps)} steps in {1e3 * total:.3g} ms, the root on top")
