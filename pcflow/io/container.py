"""Files of tensors and short texts: safetensors, written in one step, never a pickle.

A file begins with the length of its header (8 bytes), then the header (JSON: the texts, and for
every tensor its dtype, shape and place), then the tensors. Nothing is mapped into memory: what is
mapped dies when somebody writes into the file.

Source: https://github.com/huggingface/safetensors, whose library reads and writes the same files.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BufferedReader
from math import inf, isfinite, prod
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pcflow.errors import FileFormatError
from pcflow.io.files import StrPath, open_file, replace_file

Json = dict[str, Any]
Stack = Tensor | Sequence[Tensor]  # of one shape and dtype, which are one tensor in the file alone

LONGEST_HEADER = 100_000_000
MOST_AXES = 64
INFINITE = (-inf, inf)

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


class _Entry(NamedTuple):
    """Where a tensor is: bytes start to stop of the file."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    stop: int


class Container:
    """A file of tensors, with texts that say what they are; looked at here, read when asked.

    Args:
        path: the file.

    Raises:
        FileFormatError: if it is truncated, of another format, or contradicts itself.
        OSError: if it cannot be read, or is a folder, a pipe or a device.

    Attributes:
        path: the file.
        texts: by name.
        shapes: of every tensor, by name.
        dtypes: likewise.

    Examples:
        >>> import tempfile, torch, pcflow as pf
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     tensors, texts = {"a": torch.arange(6).view(3, 2)}, {"about": '["rows", 3]'}
        ...     pf.Container.write(f"{folder}/file", tensors, texts)
        ...     found = pf.Container(f"{folder}/file")
        ...     found.told("about"), found.shapes, found.read("a", rows=[2, 0]).tolist()
        (['rows', 3], {'a': (3, 2)}, [[4, 5], [0, 1]])
    """

    def __init__(self, path: StrPath) -> None:
        """Read the header."""
        self.path = Path(path)
        with open_file(path) as file:
            self._stamp = _stamp(file)
            try:
                self.texts, self._entries = _header(file, os.fstat(file.fileno()).st_size)
            except (AttributeError, LookupError, TypeError, ValueError, RecursionError) as error:
                raise self._refusal(f"truncated or not a safetensors file ({error})") from error
        self.shapes = {name: entry.shape for name, entry in self._entries.items()}
        self.dtypes = {name: entry.dtype for name, entry in self._entries.items()}

    @staticmethod
    def write(path: StrPath, tensors: Mapping[str, Stack], texts: Mapping[str, str]) -> None:
        """Write a file in one step, see `replace_file`.

        Args:
            path: the file; its folder must exist.
            tensors: by name; several of one shape and dtype are stacked as they are written.
            texts: what is told of them, by name.

        Raises:
            TypeError: if a tensor is of a dtype that has no place in such files.
            OSError: if it cannot be written; an old file is left as it was.
        """
        replace_file(path, _parts(tensors, texts))

    def told(self, name: str) -> Any:
        """A text that is JSON, as what it stands for.

        Args:
            name: of the text.

        Raises:
            FileFormatError: if there is no such text, or it is not JSON.
        """
        if name not in self.texts:
            raise self._refusal(f"says nothing of {name!r}")
        try:
            return json.loads(self.texts[name])
        except (ValueError, RecursionError) as error:
            raise self._refusal(f"what it says of {name!r} is not JSON ({error})") from error

    def read(
        self,
        name: str,
        rows: Sequence[int] | Tensor | None = None,
        *,
        infinite: Collection[float] = (),
    ) -> Tensor:
        """A tensor, or some of its rows [B, ...], in memory.

        Args:
            name: which one.
            rows: their numbers [B]; all by default.
            infinite: which infinities may be in it: -inf is the logarithm of zero.

        Raises:
            FileFormatError: if there is no such tensor, the file was changed since it was opened,
                or a number is NaN, or infinite where it may not be.
            OSError: if it cannot be read.
        """
        if name not in self._entries:
            raise self._refusal(f"holds no tensor {name!r}")
        with self._unchanged() as file:
            found = _read(file, self._entries[name], rows)
        if not _are_numbers(found, infinite):
            raise self._refusal(f"NaN or an infinity is in {name!r}")
        return found

    def tensors(self, *, infinite: Collection[float] = ()) -> dict[str, Tensor]:
        """All of them, by name; see `read`.

        Args:
            infinite: which infinities may be among the numbers.
        """
        return {name: self.read(name, infinite=infinite) for name in self._entries}

    @contextmanager
    def _unchanged(self) -> Iterator[BufferedReader]:
        """The file, to be read; refused if it is not what it was."""
        with open_file(self.path) as file:
            if _stamp(file) == self._stamp:
                yield file
            if _stamp(file) != self._stamp:
                raise self._refusal("was changed since it was opened")

    def _refusal(self, reason: str) -> FileFormatError:
        return FileFormatError(f"{self.path}: {reason}")


def _stamp(file: BufferedReader) -> tuple[int, int]:
    found = os.fstat(file.fileno())
    return found.st_size, found.st_mtime_ns


def _header(file: BufferedReader, size: int) -> tuple[dict[str, str], dict[str, _Entry]]:
    """Texts, and where the tensors are.

    Raises:
        ValueError: if it is no header, like others that bad JSON ends in.
    """
    start = file.read(9)
    if start[8:] != b"{" and start.startswith((b"PK", b"\x80")):  # a length may look like anything
        raise ValueError("it looks like a pickle or a zip archive, which is never read")
    length = int.from_bytes(start[:8], "little")
    if len(start) < 9 or length > min(size - 8, LONGEST_HEADER):
        raise ValueError("the header is cut off")
    told = json.loads(start[8:] + file.read(length - 1))
    texts = told.pop("__metadata__", {})
    if not all(isinstance(text, str) for text in texts.values()):
        raise ValueError("a text is none")
    entries = {name: _entry(entry, 8 + length) for name, entry in told.items()}
    end = 8 + length
    for entry in sorted(entries.values(), key=lambda entry: (entry.start, entry.stop)):
        if entry.start != end:
            raise ValueError("tensors overlap, or something is between them")
        end = entry.stop
    if end != size:
        raise ValueError(f"has {size} bytes, not {end}")
    return dict(texts), entries


def _entry(told: Json, base: int) -> _Entry:
    """What a header tells of a tensor, checked."""
    start, stop = told["data_offsets"]
    dtype, shape = DTYPES[told["dtype"]], tuple(told["shape"])
    whole = all(type(number) is int and number >= 0 for number in (start, stop, *shape))
    if not whole or len(shape) > MOST_AXES or prod(shape) * dtype.itemsize != stop - start:
        raise ValueError("places and shapes of tensors do not fit")
    return _Entry(dtype, shape, base + start, base + stop)


def _read(file: BufferedReader, entry: _Entry, rows: Sequence[int] | Tensor | None) -> Tensor:
    if rows is None:
        found = torch.empty(entry.shape, dtype=entry.dtype)
        _fill(file, _bytes(found), entry.start)
        return found
    numbers = torch.as_tensor(rows, dtype=torch.long).tolist()
    found = torch.empty(len(numbers), *entry.shape[1:], dtype=entry.dtype)
    each = (entry.stop - entry.start) // max(entry.shape[0], 1)  # bytes per row
    content = _bytes(found)
    for place, number in enumerate(numbers):
        if not 0 <= number < entry.shape[0]:
            raise IndexError(f"there is no row {number}, only {entry.shape[0]}")
        _fill(file, content[place * each : (place + 1) * each], entry.start + number * each)
    return found


def _fill(file: BufferedReader, content: memoryview, start: int) -> None:
    file.seek(start)
    if file.readinto(content) != len(content):
        raise FileFormatError(f"{file.name}: was cut off while it was read")


def _bytes(tensor: Tensor) -> memoryview:
    """The bytes of a contiguous tensor, not copied."""
    return tensor.view(-1).view(torch.uint8).numpy().data


def _are_numbers(tensor: Tensor, infinite: Collection[float]) -> bool:
    """Whether none is NaN, or infinite unless that is allowed."""
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return True
    ends = (end.item() for end in tensor.aminmax())  # NaN both, if there is one
    return all(isfinite(end) or end in infinite for end in ends)


def _parts(tensors: Mapping[str, Stack], texts: Mapping[str, str]) -> Iterator[bytes | memoryview]:
    """A file, piece by piece; wide dtypes come first, so that every tensor is aligned."""
    header: Json = {"__metadata__": dict(texts)}
    rows = {name: [t] if isinstance(t, Tensor) else t for name, t in tensors.items()}
    names = sorted(tensors, key=lambda name: (-rows[name][0].element_size(), name))
    end = 0
    for name in names:
        one, start = rows[name][0], end
        end += len(rows[name]) * one.numel() * one.element_size()
        stacked = () if isinstance(tensors[name], Tensor) else (len(rows[name]),)
        header[name] = {
            "dtype": _name(one.dtype),
            "shape": [*stacked, *one.shape],
            "data_offsets": [start, end],
        }
    told = json.dumps(header, separators=(",", ":")).encode()
    told += b" " * (-len(told) % 8)
    yield len(told).to_bytes(8, "little") + told
    for row in (row for name in names for row in rows[name]):
        yield _bytes(row.detach().cpu().contiguous())


def _name(dtype: torch.dtype) -> str:
    if dtype not in _NAMES:
        raise TypeError(f"tensors of {dtype} cannot be kept in a file")
    return _NAMES[dtype]


def write_file(
    path: StrPath,
    tensors: Mapping[str, Stack],
    description: Json,
    texts: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Write tensors, what they are as JSON, and other texts.

    Raises:
        OSError: if it cannot be written; an old file is left as it was.
    """
    Container.write(path, tensors, {**texts, "pcflow": json.dumps(description)})


def read_file(path: StrPath, version: int) -> tuple[Json, dict[str, Tensor]]:
    """The description and the tensors of a file that `write_file` wrote.

    Raises:
        FileFormatError: if it is truncated, of another format or another version.
        OSError: if it cannot be read.
    """
    container = Container(path)
    return description_of(container, version), container.tensors(infinite=INFINITE)


def description_of(container: Container, version: int) -> Json:
    """The description that `write_file` wrote.

    Raises:
        FileFormatError: if it is of another format or another version.
    """
    if "pcflow" not in container.texts:
        raise FileFormatError(f"{container.path}: not a pcflow file")
    described = container.told("pcflow")
    found = described.get("version") if isinstance(described, dict) else None
    if found != version:
        raise FileFormatError(f"{container.path}: has version {found!r}, not {version}")
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
