"""What `fit` writes after every epoch, from which it goes on after it was stopped.

A file of tensors and JSON: parameters, the best ones so far, the learner's memory, random states;
and what it is about, data and settings. All of it is checked before any of it is believed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pcflow.errors import FileFormatError
from pcflow.io import pack, read_file, unpack, write_file
from pcflow.learn.learner import Run, State

VERSION = 1

BROKEN = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What code raises that takes a broken description for a whole one."""


@dataclass(frozen=True)
class Checkpoint:
    """A file that belongs to one fit.

    Attributes:
        path: where it is, or will be.
        about: what must be the same when it goes on, by name; as JSON knows it.
    """

    path: Path
    about: dict[str, Any]

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
        other = difference(about, self.about)
        if other is not None:
            raise FileFormatError(
                f"{self.path}: is of another fit, {other}; name another file, or remove this one"
            )
        try:
            restore(unpack(described["checkpoint"], tensors))
        except BROKEN as error:
            raise FileFormatError(f"{self.path}: does not describe a fit ({error})") from error


def about_learner(learner: Any, run: Run) -> dict[str, Any]:
    """What tells a learner from others: its settings, and those that its run begins with."""
    names = [field.name for field in fields(learner)] if is_dataclass(learner) else []
    settings = {name: getattr(learner, name) for name in names}
    plain = {n: v for n, v in settings.items() if isinstance(v, int | float | str | None)}
    return {"kind": type(learner).__name__, **plain, "start": as_json(run.state())}


def as_json(value: object) -> Any:
    """A nest as JSON keeps it; anything but numbers and strings by its type only."""
    return json.loads(json.dumps(value, default=lambda other: type(other).__name__))


def difference(there: object, here: object, name: str = "") -> str | None:
    """Where two nests of JSON first differ, in words; None if they do not."""
    if isinstance(there, dict) and isinstance(here, dict):
        pairs = [(f"{name}.{key}", there.get(key), here.get(key)) for key in here | there]
    elif isinstance(there, list) and isinstance(here, list) and len(there) == len(here):
        pairs = [(f"{name}.{n}", *pair) for n, pair in enumerate(zip(there, here, strict=True))]
    else:
        same = there == here
        return None if same else f"{name.lstrip('.')} is {there!r} there and {here!r} here"
    return next((d for key, a, b in pairs if (d := difference(a, b, key)) is not None), None)


def must_be_like(found: Any, like: Any, name: str) -> None:
    """Check the form of a nest against that of another.

    Keys, lengths, types and shapes must be the same. Numbers must be neither NaN nor +inf, and
    single ones not negative where those of the other are not.

    Raises:
        FileFormatError: if they are not; says where.
    """
    _same(_kind(found), _kind(like), f"the type of {name}")
    match like:
        case Tensor():
            _must_be_like_tensor(found, like, name)
        case dict():
            _same(found.keys(), like.keys(), f"what {name} holds")
            for key in like:
                must_be_like(found[key], like[key], f"{name}.{key}")
        case list() | tuple():
            _same(len(found), len(like), f"the length of {name}")
            for number, (one, other) in enumerate(zip(found, like, strict=True)):
                must_be_like(one, other, f"{name}.{number}")
        case int() | float():
            _must_be_like_number(found, like, name)


def _kind(value: object) -> str:
    return "Tensor" if isinstance(value, Tensor) else type(value).__name__


def _same(found: object, wanted: object, what: str) -> None:
    if found != wanted:
        raise FileFormatError(f"{what} is {found}, not {wanted}")


def _must_be_like_tensor(found: Tensor, like: Tensor, name: str) -> None:
    _same(found.dtype, like.dtype, f"the type of {name}")
    _same(tuple(found.shape), tuple(like.shape), f"the shape of {name}")
    if found.dim() == 0:
        _must_be_like_number(found.item(), like.item(), name)
    elif not bool((found < torch.inf).all()):  # NaN is not, either
        raise FileFormatError(f"{name} holds NaN or +inf")


def _must_be_like_number(found: float, like: float, name: str) -> None:
    if not found < math.inf or (found < 0 and not like < 0):
        raise FileFormatError(f"{name} cannot be {found}")
