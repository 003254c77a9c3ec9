"""What `fit` writes after every epoch, from which it goes on after it was stopped.

A file of tensors and JSON: parameters, the best ones so far, the learner's memory, random states.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pcflow.errors import FileFormatError
from pcflow.io import pack, read_file, unpack, write_file
from pcflow.queries import CompiledCircuit

VERSION = 1

State = dict[str, Any]
"""A nest of dicts, lists, tuples, numbers, strings and tensors."""


class Memoryless:
    """A learner that remembers nothing between epochs."""

    def state(self, model: CompiledCircuit) -> State:
        """Nothing."""
        return {}

    def restore(self, model: CompiledCircuit, state: State) -> None:
        """Nothing."""


@dataclass(frozen=True)
class Checkpoint:
    """A file that belongs to one fit.

    Attributes:
        path: where it is, or will be.
        about: what must be the same when it goes on, by name.
    """

    path: Path
    about: dict[str, object]

    def write(self, state: State) -> None:
        """Replace the file."""
        tensors: dict[str, Tensor] = {}
        packed = pack(state, tensors)
        write_file(
            self.path, tensors, {"version": VERSION, "about": self.about, "checkpoint": packed}
        )

    def take_up(self, restore: Callable[[State], None]) -> None:
        """Restore what was written last; nothing if there is no file yet.

        Raises:
            FileFormatError: if it is no checkpoint, or that of another fit; says what differs.
        """
        if not self.path.exists():
            return
        described, tensors = read_file(self.path, VERSION)
        about = described.get("about")
        if not isinstance(about, dict) or "checkpoint" not in described:
            raise FileFormatError(f"{self.path}: not a checkpoint")
        for name, wanted in self.about.items():
            if about.get(name) != wanted:
                raise FileFormatError(
                    f"{self.path}: is of another fit, {name} is {about.get(name)!r} there and "
                    f"{wanted!r} here; name another file, or remove this one"
                )
        try:
            restore(unpack(described["checkpoint"], tensors))
        except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise FileFormatError(f"{self.path}: does not describe a fit ({error})") from error


def random_state(model: CompiledCircuit, generator: torch.Generator | None) -> State:
    """Of every source that learning may draw from."""
    device = next(model.parameters(), torch.empty(0)).device
    return {
        "global": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        "generator": None if generator is None else generator.get_state(),
    }


def restore_random_state(
    state: State, model: CompiledCircuit, generator: torch.Generator | None
) -> None:
    """Draw on from where `random_state` was taken."""
    torch.set_rng_state(state["global"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"], next(model.parameters()).device)
    if generator is not None:
        generator.set_state(state["generator"])


@torch.no_grad()
def put_values(model: CompiledCircuit, values: Sequence[Tensor]) -> None:
    """Give the model other parameter values, in place.

    Raises:
        ValueError: if their shapes differ; nothing has been changed then.
    """
    parameters = list(model.parameters())
    shapes = [tuple(p.shape) for p in parameters]
    if [tuple(v.shape) for v in values] != shapes:
        raise ValueError(f"it needs parameters of shapes {shapes}")
    for parameter, value in zip(parameters, values, strict=True):
        parameter.copy_(value)


def values_of(model: CompiledCircuit) -> list[Tensor]:
    """Copies of the model's parameter values."""
    return [p.detach().clone() for p in model.parameters()]
