"""A training run that goes on where it was stopped: all of a `Loop` in one safetensors file."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

import pcflow as pf
from pcflow_diffusion.errors import CheckpointError

if TYPE_CHECKING:
    from pcflow_diffusion.models.loop import Loop

FORMAT = "pcflow_diffusion.unfinished.1"


def keep(loop: Loop[Any], path: Path) -> None:
    """Write weights, their average and the best of them, moments, random state and counts."""
    parts = {
        "model": loop.model.state_dict(),
        "average": loop.average.state_dict(),
        "best": loop.best or {},
        "moments": _moments(loop),
        "run": {"random": torch.get_rng_state(), "counts": _counts(loop)},
    }
    tensors = {f"{part}/{name}": x for part, of in parts.items() for name, x in of.items()}
    pf.Container.write(path, tensors, {"format": FORMAT, "about": _about(loop)})


def take_up(loop: Loop[Any], path: Path) -> None:
    """Go on from a file, if there is one.

    Raises:
        CheckpointError: if it is no such file, or of a run with other settings.
        OSError: if it cannot be read.
    """
    if not path.exists():
        return
    try:
        file = pf.Container(path)
        told = file.texts.get("format"), file.texts.get("about")
        if told != (FORMAT, _about(loop)):
            raise CheckpointError(f"{path}: is of {told}, not {(FORMAT, _about(loop))}")
        _restore(loop, _by_part(file.tensors()))
    except (pf.FileFormatError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: {error}") from error


def _about(loop: Loop[Any]) -> str:
    """What must be the same when it goes on."""
    return f"{loop.model.config}, {loop.how}"


def _moments(loop: Loop[Any]) -> dict[str, Tensor]:
    """What the optimiser remembers, by parameter and kind."""
    states = loop.optimizer.state_dict()["state"]
    return {f"{n}/{kind}": x for n, state in states.items() for kind, x in state.items()}


def _counts(loop: Loop[Any]) -> Tensor:
    return torch.tensor([loop.steps, loop.seconds, loop.smoothed, loop.lowest], dtype=torch.double)


def _by_part(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    found: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for name, x in tensors.items():
        part, _, rest = name.partition("/")
        found[part][rest] = x
    return found


def _restore(loop: Loop[Any], found: Mapping[str, dict[str, Tensor]]) -> None:
    """Give a loop back what `keep` wrote."""
    states: dict[int, dict[str, Tensor]] = defaultdict(dict)
    for name, x in found["moments"].items():
        number, _, kind = name.partition("/")
        states[int(number)][kind] = x
    loop.model.load_state_dict(found["model"])
    loop.average.load_state_dict(found["average"])
    loop.optimizer.load_state_dict(loop.optimizer.state_dict() | {"state": dict(states)})
    loop.best = found["best"] or None
    steps, loop.seconds, loop.smoothed, loop.lowest = found["run"]["counts"].tolist()
    loop.steps = int(steps)
    torch.set_rng_state(found["run"]["random"])
