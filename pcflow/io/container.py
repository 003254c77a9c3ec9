"""Files of tensors with a description in JSON: safetensors, written in one step, never a pickle."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pcflow.errors import FileFormatError

Json = dict[str, Any]


def write_file(
    path: str | os.PathLike[str], tensors: Mapping[str, Tensor], description: Json
) -> None:
    """Write beside `path`, then move there: a reader sees the old file or the new one.

    Raises:
        OSError: if it cannot be written; an existing file is left as it was.
    """
    header = {"pcflow": json.dumps(description)}  # one entry: safetensors keeps no order of several
    replace_file(path, lambda scratch: save_file(dict(tensors), scratch, metadata=header))


def replace_file(path: str | os.PathLike[str], write: Callable[[str], object]) -> None:
    """Let `write` make a file beside `path`, then move it there.

    Raises:
        OSError: if it cannot be written; an existing file is left as it was.
    """
    target = Path(path)
    handle, scratch = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    os.close(handle)
    try:
        write(scratch)
        os.chmod(scratch, 0o644)  # a temporary file starts private
        os.replace(scratch, target)
    except BaseException:
        os.unlink(scratch)
        raise


def read_file(path: str | os.PathLike[str], version: int) -> tuple[Json, dict[str, Tensor]]:
    """The description and the tensors of a file.

    Raises:
        FileFormatError: if it is truncated, of another format or another version.
        OSError: if it cannot be read.
    """
    source = Path(path)
    with source.open("rb") as file:
        start = file.read(9)
    is_safetensors = start[8:] == b"{"  # after eight bytes of length, which may look like anything
    if not is_safetensors and start.startswith((b"PK", b"\x80")):
        raise FileFormatError(f"{path}: looks like a pickle or a zip archive, which is never read")
    try:
        with safe_open(source, framework="pt") as file:
            header = file.metadata() or {}
            # copies: what is mapped from a file dies when somebody writes into the file
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise FileFormatError(f"{path}: truncated or not a safetensors file ({error})") from error
    return _describe(source, header, version), tensors


def _describe(path: Path, header: Mapping[str, str], version: int) -> Json:
    """The JSON of the header, of the version that is read here."""
    if "pcflow" not in header:
        raise FileFormatError(f"{path}: not a pcflow file")
    try:
        described = json.loads(header["pcflow"])
    except (ValueError, RecursionError) as error:
        raise FileFormatError(f"{path}: its description is not JSON ({error})") from error
    found = described.get("version") if isinstance(described, dict) else None
    if found != version:
        raise FileFormatError(f"{path}: has version {found!r}, not {version}")
    return dict(described)


def pack(state: object, tensors: dict[str, Tensor]) -> Any:
    """A nest of dicts, lists, tuples, numbers, strings and tensors as JSON; tensors go aside.

    Raises:
        TypeError: if there is anything else in it.
    """
    match state:
        case None | bool() | int() | float() | str():
            return state
        case Tensor():
            name = str(len(tensors))
            tensors[name] = state.detach().cpu().clone(memory_format=torch.contiguous_format)
            return {"tensor": name}
        case dict():
            return {"dict": [[pack(k, tensors), pack(v, tensors)] for k, v in state.items()]}
        case tuple():
            return {"tuple": [pack(item, tensors) for item in state]}
        case list():
            return [pack(item, tensors) for item in state]
    raise TypeError(f"{type(state).__name__} cannot be kept in a file")


def unpack(packed: Any, tensors: Mapping[str, Tensor]) -> Any:
    """What `pack` was given."""
    match packed:
        case {"tensor": name}:
            return tensors[name]
        case {"dict": items}:
            return {unpack(key, tensors): unpack(value, tensors) for key, value in items}
        case {"tuple": items}:
            return tuple(unpack(item, tensors) for item in items)
        case list():
            return [unpack(item, tensors) for item in packed]
    return packed
