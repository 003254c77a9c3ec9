"""The file from which a training run goes on: tensors by part and name, and what it is about."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

from torch import Tensor

import pcflow as pf
from pcflow_diffusion.errors import CheckpointError

FORMAT = "pcflow_diffusion.unfinished.1"

Parts: TypeAlias = Mapping[str, Mapping[str, Tensor]]
"""By part, such as the weights or their average, the tensors by name."""


def write_unfinished(path: Path, parts: Parts, about: str) -> None:
    """Replace the file."""
    tensors = {f"{part}/{name}": x for part, of in parts.items() for name, x in of.items()}
    pf.Container.write(path, tensors, {"format": FORMAT, "about": about})


def read_unfinished(path: Path, about: str) -> Parts:
    """What was written.

    Raises:
        CheckpointError: if it is no such file, or about something else.
        OSError: if it cannot be read.
    """
    try:
        file = pf.Container(path)
        tensors = file.tensors()
    except pf.FileFormatError as error:
        raise CheckpointError(str(error)) from error
    told = file.texts.get("format"), file.texts.get("about")
    if told != (FORMAT, about):
        raise CheckpointError(f"{path}: is of {told}, not {(FORMAT, about)}")
    parts: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for name, x in tensors.items():
        part, _, rest = name.partition("/")
        parts[part][rest] = x
    return parts
