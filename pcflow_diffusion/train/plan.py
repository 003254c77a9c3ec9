"""How long it will take: measured before it starts, and kept, so that a second start has the same.

Legend: L positions, V tokens of the vocabulary.
"""

from __future__ import annotations

import copy
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median

import torch

import pcflow as pf
from pcflow_diffusion.errors import CheckpointError
from pcflow_diffusion.train.windows import Windows

MOST_EPOCHS = 100
SLOWER = 1.25
"""A part that takes so many times as long as planned is one of too many."""

WARM = 3
"""Parts until it is known how long one takes."""

Settings = dict[str, object]


@dataclass(frozen=True)
class Plan:
    """What a run will do.

    Attributes:
        parts: how many parts of the text are gone over.
        per_epoch: how many of them are all of it.
        part_seconds: how long one takes, with a look at the held-out windows.
        step_seconds: how long a batch takes.
        memory: bytes at the most; None where nobody knows.
    """

    parts: int
    per_epoch: int
    part_seconds: float
    step_seconds: float
    memory: int | None

    @property
    def epochs(self) -> float:
        """How often the text is gone over."""
        return self.parts / self.per_epoch

    @property
    def minutes(self) -> float:
        """How long all of it takes."""
        return self.parts * self.part_seconds / 60

    def kept_to(self, begun: int, done: int, seconds: float) -> Plan:
        """A plan with the same end, if parts take much longer than was planned; or this one.

        Args:
            begun: how many parts were done when the clock was started.
            done: how many are done.
            seconds: what the clock says.

        Examples:
            >>> plan = Plan(100, per_epoch=10, part_seconds=1.0, step_seconds=0.1, memory=None)
            >>> plan.kept_to(0, 10, seconds=12.0).parts, plan.kept_to(0, 10, seconds=40.0).parts
            (100, 25)
        """
        each = seconds / (done - begun)
        if done - begun < WARM or each < SLOWER * self.part_seconds:
            return self
        left = (self.parts - begun) * self.part_seconds - seconds
        parts = done + max(1, round(left / each))
        return replace(self, parts=parts, part_seconds=each) if parts < self.parts else self


def make_plan(
    model: pf.CompiledCircuit,
    learner: pf.Learner,
    train: Windows,
    held_out: Windows,
    batch_size: int,
    *,
    epochs: float | None,
    seconds: float,
) -> Plan:
    """Take some steps with a copy of the model to see how long they take.

    Args:
        model: the circuit.
        learner: how it will learn.
        train: what from.
        held_out: what it will be judged by.
        batch_size: windows per step.
        epochs: how often to go over the text; by default as often as `seconds` allow, but not more
            than 100 times.
        seconds: which is not read if epochs are given.
    """
    other = copy.deepcopy(model)
    run = learner.start(other)
    batch = train.take(torch.arange(min(batch_size, len(train))))
    step = _seconds(lambda: run.step([batch]))
    look = _seconds(lambda: other.log_prob(batch.evidence)) * len(held_out) / batch_size
    part = step * max(1, round(len(train) / train.parts / batch_size)) + look
    in_time = min(seconds / part, MOST_EPOCHS * train.parts)
    parts = max(1, round(in_time if epochs is None else epochs * train.parts))
    return Plan(parts, train.parts, part, step, _memory(model.device))


@torch.no_grad()
def _seconds(call: Callable[[], object]) -> float:
    """How long a call takes, when it is warm."""
    times = []
    for _ in range(4):
        start = time.perf_counter()
        call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return median(times[1:])


def _memory(device: torch.device) -> int | None:
    """The most that was in use so far: on the device, or by this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def kept_plan(path: Path, settings: Settings) -> Plan | None:
    """The plan of a run that was begun with the same settings; None if there is none.

    Raises:
        CheckpointError: if it was begun with others, or the file is none of a plan.
    """
    if not path.exists():
        return None
    try:
        told = json.loads(pf.read_bytes(path))
        before, plan = dict(told["settings"]), Plan(**told["plan"])
    except (LookupError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is no plan ({error}); remove it") from error
    differ = [name for name in settings if before.get(name) != settings[name]]
    if differ:
        name = differ[0]
        wrong = f"{path} was begun with {name} {before.get(name)!r}, not {settings[name]!r}"
        ways = "give another --out, or remove that file, .checkpoint and head"
        raise CheckpointError(f"{wrong}: ask for the same, {ways}")
    return plan


def keep_plan(path: Path, settings: Settings, plan: Plan) -> None:
    """Write a plan and what it is for."""
    told = {"settings": settings, "plan": asdict(plan)}
    pf.replace_file(path, [json.dumps(told, indent=1).encode()])
