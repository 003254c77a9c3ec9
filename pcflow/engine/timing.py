"""How long the steps of a plan take.

Legend: B batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter
from typing import NamedTuple

import torch

from pcflow.engine.evaluate import Engine
from pcflow.engine.leaves import make_leaf
from pcflow.engine.passes import climb
from pcflow.engine.plan import InputStep, Step, kind_of, told
from pcflow.engine.row_tables import tables_of
from pcflow.engine.semiring import Scaled
from pcflow.evidence import CheckedEvidence
from pcflow.plot import counted

LINES = 40


class StepTime(NamedTuple):
    """A step of a plan, and how long it took.

    Attributes:
        kind: "input", "sum" or "product".
        label: what it does, in a few words.
        seconds: the least of several runs.
    """

    kind: str
    label: str
    seconds: float


@dataclass(frozen=True)
class StepTimes:
    """How long every step of an upward pass took; print it, or draw it by `pf.plot.plan`.

    Attributes:
        steps: in the order in which they run, those of the inputs first.
        rows: how many rows of evidence they ran on.
    """

    steps: tuple[StepTime, ...]
    rows: int

    @property
    def seconds(self) -> float:
        """All steps together."""
        return sum(step.seconds for step in self.steps)

    def __str__(self) -> str:
        """A table of the steps, with the share of each."""
        whole = max(self.seconds, 1e-12)
        lines = [f"{'step':>4}  {'what':<48}{'ms':>10}{'share':>8}"]
        lines += [
            f"{n:>4}  {step.label:<48}{1e3 * step.seconds:>10.3f}{step.seconds / whole:>8.1%}"
            for n, step in enumerate(self.steps[:LINES])
        ]
        if len(self.steps) > LINES:
            lines.append(f"      ... {len(self.steps) - LINES} more steps")
        return "\n".join([*lines, f"{self.rows:,} rows in {1e3 * self.seconds:.3f} ms"])


def time_steps(engine: Engine, evidence: CheckedEvidence, repeats: int) -> StepTimes:
    """The least time that each step of an upward pass took in some runs, after one to warm up."""
    plan = engine.plan.lean
    total = [0.0] * len(plan.steps)
    for part in engine.parts(evidence, lean=True):
        runs = [_run(engine, part) for _ in range(1 + repeats)][1:]
        total = [t + min(some) for t, some in zip(total, zip(*runs, strict=True), strict=True)]
    steps = zip(plan.steps, total, strict=True)
    found = tuple(StepTime(kind_of(step), _label(step), seconds) for step, seconds in steps)
    return StepTimes(found, len(evidence.values))


def _run(engine: Engine, evidence: CheckedEvidence) -> list[float]:
    """Seconds of every step of a pass as `up` makes it, but step by step and never recorded."""
    plan, semiring = engine.plan.lean, Scaled(engine.plan.machine)
    engine.tables.cache.refresh()
    tables = tables_of(engine.tables, evidence)
    weights = tables.weights(False)
    found = []
    with engine.pool.lend(plan, len(evidence.values), tables.like) as sheet:
        sheet.in_log_space = False
        for number, step in enumerate(plan.steps):
            begun = _now(tables.like.device)
            if isinstance(step, InputStep):
                leaf = make_leaf(step, tables, evidence, semiring, keep=False)
                leaf.up(sheet.outs[number])
            else:
                climb(range(number, number + 1), sheet, semiring, weights, zeros=not plan.one_scale)
            found.append(_now(tables.like.device) - begun)
    return found


def _now(device: torch.device) -> float:
    """The time when all that was asked of a device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return perf_counter()


def _label(step: Step) -> str:
    return f"{told(step)}: {counted(step.folds, 'fold')} of {counted(step.units, 'unit')}"
