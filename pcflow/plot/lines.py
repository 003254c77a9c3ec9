"""Curves: how learning went, and the gap that a joint distribution closes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from pcflow.checks import as_iterable, as_reals, check_kind
from pcflow.errors import SettingError
from pcflow.plot.style import GREY, LINES, REFERENCES, Line, axes_of, titled

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@runtime_checkable
class Trained(Protocol):
    """What happened during `fit`."""

    train: list[float]
    validation: list[float]
    best_epoch: int


ROOM = 0.035
"""Height of a line of a legend, in heights of what is drawn below it."""


def training(result: Trained, axes: Axes | None = None) -> Axes:
    """Draw log-likelihood by epoch, with the best epoch marked; `result.plot()` is the same.

    Args:
        result: what `fit` returned, a `FitResult`.
        axes: matplotlib axes to draw on; those of a new figure by default.

    Returns:
        The axes: a line for training, one for validation if there was any.

    Raises:
        TypeMismatch: if it is no `FitResult`, or `axes` are none.

    Examples:
        >>> import pcflow as pf
        >>> training(pf.FitResult([-2.0, -1.5], [-2.1, -1.7], best_epoch=1)).get_xlabel()
        'epoch'
    """
    check_kind("result", result, Trained, "a FitResult")
    axes = axes_of(axes, 6.0, 3.8)
    curves = {"train": result.train, "validation": result.validation}
    shown = {name: values for name, values in curves.items() if values}
    for look, (name, values) in zip(LINES, shown.items(), strict=False):
        every = max(1, len(values) // 20)
        epochs = range(1, len(values) + 1)
        axes.plot(epochs, values, label=name, markersize=4.0, markevery=every, **look._asdict())
    best = f"best epoch, {result.best_epoch + 1}"
    axes.axvline(result.best_epoch + 1, color=GREY, linewidth=1.0, linestyle=":", label=best)
    axes.locator_params(axis="x", integer=True)
    axes.set(xlabel="epoch", ylabel="log-likelihood (nats per row)")
    axes.legend(frameon=False)
    _open(axes)
    return titled(axes, "Training")


def gap(
    table: Mapping[str, Sequence[float]],
    ratios: Sequence[float],
    spread: Mapping[str, Sequence[float]] | None = None,
    references: Collection[str] = (),
    axes: Axes | None = None,
) -> Axes:
    """Draw nats per masked token by share of masks: the gap between one step and many.

    Args:
        table: by method, nats per masked token at every share.
        ratios: shares of tokens that are masked, from 0 to 1.
        spread: standard deviations of the table, drawn as bars.
        references: methods that others are measured by, in black and grey without markers.
        axes: matplotlib axes to draw on; those of a new figure by default.

    Returns:
        The axes: a line for every method.

    Raises:
        TypeMismatch: if there is no table of numbers, or `axes` are none.
        SettingError: if a method has not as many numbers as there are ratios, or a reference or
            spread is of no method.

    Examples:
        >>> axes = gap({"independent": [2.0, 3.0], "joint": [1.8, 2.2]}, [0.5, 1.0])
        >>> [line.get_label() for line in axes.lines]
        ['independent', 'joint']
    """
    shares = as_reals("ratios", ratios)
    rows = _numbers("table", table, len(shares))
    bars = {} if spread is None else _numbers("spread", spread, len(shares))
    methods = f"some of the methods {', '.join(map(repr, rows))}"
    SettingError.check("spread", list(bars), f"of {methods}", lambda _: bars.keys() <= rows.keys())
    plain = {str(name) for name in as_iterable("references", references)}
    SettingError.check("references", references, methods, lambda _: plain <= rows.keys())
    axes = axes_of(axes, 6.8, 4.6)
    for name, look in _looks(rows, plain).items():
        axes.plot(shares, rows[name], label=name, markersize=5.0, **look._asdict())
        if name in bars:
            axes.errorbar(shares, rows[name], bars[name], color=look.color, linestyle="", capsize=2)
    axes.set_xticks(shares, [f"{share:.0%}" for share in shares])
    axes.set(xlabel="share of tokens that is masked", ylabel="nats per masked token")
    low, high = axes.get_ylim()
    axes.set_ylim(low, high + ROOM * len(rows) * (high - low))
    axes.legend(frameon=False, fontsize="small", loc="upper left")
    _open(axes)
    return titled(axes, "Held-out text in one step")


def _looks(names: Collection[str], references: Collection[str]) -> dict[str, Line]:
    plain, coloured = cycle(REFERENCES), cycle(LINES)
    return {name: next(plain if name in references else coloured) for name in names}


def _numbers(name: str, table: Mapping[str, Sequence[float]], count: int) -> dict[str, list[float]]:
    check_kind(name, table, Mapping, "a mapping from methods to numbers")
    SettingError.check(name, table, "of at least one method", bool)
    rows = {str(method): as_reals(f"{name}[{method!r}]", row) for method, row in table.items()}
    wanted = f"{count} numbers for every method, one per ratio"
    SettingError.check(name, rows, wanted, lambda _: all(len(r) == count for r in rows.values()))
    return rows


def _open(axes: Axes) -> None:
    """No lines at the top and to the right, a faint one at every tick."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3)
