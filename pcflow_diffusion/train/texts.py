"""Documents of files and folders, read as they are needed: .txt, .md and .jsonl, .gz of each."""

from __future__ import annotations

import codecs
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from pcflow_diffusion.checks import did_you_mean
from pcflow_diffusion.errors import TextError

PIECE = 1 << 14
"""Characters: a longer text is read as several documents, cut where lines end."""

CHUNK = 1 << 20
HALF = re.compile("[\ud800-\udfff]")  # of a pair: no text, although JSON can say it
SUFFIXES = (".txt", ".md", ".jsonl")


@dataclass(frozen=True)
class Texts:
    r"""Documents of files and folders, in the order of their names.

    A file is one document, or one per line where it is called .jsonl. A document of more than
    16,384 characters counts as several, cut at empty lines, at line ends or between words.

    Args:
        paths: files, which may be called as they like, and folders, of which all files are read
            that are called .txt, .md or .jsonl, or .gz after that; hidden ones are not.
        field: of the objects in a .jsonl file, which has the text.
        encoding: of all files.
        end: what stands behind every document, such as the text of a token that ends one.

    Raises:
        TextError: if there is no such file or folder, no text in it, or no such encoding.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "a.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n')
        ...     list(Texts([folder]))
        ['one', 'two']
    """

    paths: Sequence[str | Path]
    field: str = "text"
    encoding: str = "utf-8"
    end: str = ""

    def __post_init__(self) -> None:
        """Look whether there is anything to read."""
        try:
            io.TextIOWrapper(io.BytesIO(), self.encoding)
        except LookupError as error:
            raise TextError(str(error)) from error
        if not self.files:
            wanted = ", ".join(SUFFIXES)
            raise TextError(f"no {wanted} (or .gz of these) in {', '.join(map(str, self.paths))}")

    @property
    def files(self) -> list[Path]:
        """Every file that is read."""
        return [file for path in self.paths for file in _files(Path(path))]

    @property
    def told(self) -> list[list[object]]:
        """What tells these texts from others without reading them: names, sizes and times."""
        found = [(file.resolve(), file.stat()) for file in self.files]
        return [[str(path), stat.st_size, stat.st_mtime_ns] for path, stat in found]

    def __iter__(self) -> Iterator[str]:
        """The documents, none of which is empty.

        Raises:
            TextError: if a file is not of the encoding, naming the byte; or a line of .jsonl no
                object with text in the field.
            OSError: if a file cannot be read.
        """
        for file in self.files:
            for document in self._documents(file):
                pieces = (piece for piece in _pieces(document) if piece.strip())
                yield from _ended(pieces, self.end)

    def _documents(self, file: Path) -> Iterator[Iterable[str]]:
        """Each as the chunks in which it is read."""
        name = file.name.lower().removesuffix(".gz")
        with gzip.open(file) if file.suffix.lower() == ".gz" else file.open("rb") as content:
            chunks = _decoded(cast(IO[bytes], content), self.encoding, file)
            if not name.endswith(".jsonl"):
                yield chunks
                return
            for number, line in enumerate(_lines(chunks), 1):
                if line.strip():
                    yield [_field(line, self.field, f"{file}, line {number}")]


def _files(path: Path) -> list[Path]:
    """That file, or those of the folder."""
    if path.is_dir():
        found = sorted(file for file in path.rglob("*") if file.is_file())
        return [file for file in found if _is_text(file.relative_to(path))]
    if not path.exists():
        near = [str(other) for other in path.parent.iterdir()] if path.parent.is_dir() else []
        raise TextError(f"there is no {path}{did_you_mean(str(path), near)}")
    return [path]


def _is_text(file: Path) -> bool:
    hidden = any(part.startswith(".") for part in file.parts)
    return not hidden and file.name.lower().removesuffix(".gz").endswith(SUFFIXES)


def _decoded(content: IO[bytes], encoding: str, path: Path) -> Iterator[str]:
    """Text by chunks, with universal newlines and without a mark of the order of bytes."""
    decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder(encoding)(), True)
    done, chunk = 0, b"more"
    while chunk:
        held = len(decoder.getstate()[0])
        try:
            chunk = content.read(CHUNK)
            text = decoder.decode(chunk, not chunk)
        except UnicodeError as error:
            place = done - held + getattr(error, "start", 0)
            wrong = f"{path} is not {encoding} text: byte {place}; say --encoding"
            raise TextError(wrong) from error
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise TextError(f"{path} is not gzip, or truncated: {error}") from error
        yield text.removeprefix("\ufeff") if done == 0 else text
        done += len(chunk)


def _lines(chunks: Iterable[str]) -> Iterator[str]:
    rest = ""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split("\n")
        yield from whole
    yield rest


def _field(line: str, name: str, where: str) -> str:
    """The text in a line of .jsonl."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise TextError(f"{where}: no JSON ({error})") from error
    if not isinstance(row, dict):
        raise TextError(f"{where}: no object with a field {name!r}")
    if not isinstance(row.get(name), str):
        there = [key for key, value in row.items() if isinstance(value, str)]
        told = f"no text in a field {name!r}, but in {there}{did_you_mean(name, there)}"
        raise TextError(f"{where}: {told}")
    found: str = row[name]
    return HALF.sub("\ufffd", found)


def _pieces(chunks: Iterable[str]) -> Iterator[str]:
    """A document in pieces that do not depend on how it was cut into chunks."""
    rest = ""
    for chunk in chunks:
        rest, start = rest + chunk, 0
        while len(rest) - start > PIECE:
            stop = _cut(rest, start, start + PIECE)
            yield rest[start:stop]
            start = stop
        rest = rest[start:]
    yield rest


def _ended(pieces: Iterable[str], end: str) -> Iterator[str]:
    """The same, with something behind the last one."""
    last: str | None = None
    for piece in pieces:
        if last is not None:
            yield last
        last = piece
    if last is not None:
        yield last + end


def _cut(text: str, start: int, stop: int) -> int:
    """Where to cut at or before a place, in the second half of what is before it if possible."""
    half = (start + stop) // 2
    for end in ("\n\n", "\n", " "):
        found = text.rfind(end, half, stop)
        if found >= 0:
            return found + len(end)
    return stop
