"""Documents as tokens on disk, of which only what is asked for is read.

Legend: N tokens, D documents, V tokens of the vocabulary.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from glob import escape
from itertools import islice
from pathlib import Path
from secrets import token_hex
from typing import Any

import numpy as np

import pcflow as pf
from pcflow_diffusion.checks import check_count
from pcflow_diffusion.errors import StoreError, TextError, TokenOutOfRange
from pcflow_diffusion.models.progress import bar

FORMAT = "pcflow_diffusion.tokens.1"
ABOUT = "about.json"
AT_ONCE = 256  # documents that are encoded together

Encode = Callable[[list[str]], Sequence[Sequence[int]]]
"""Texts to the ids of their tokens."""


class TokenStore:
    """A folder of documents as tokens, some of which are held out.

    Args:
        folder: what `TokenStore.write` made.

    Attributes:
        tokens: of all documents, one after the other, [N]; mapped from disk.
        starts: where each begins, and the end, [D + 1].
        held_out: which are not to be learned from, [D] bool.
        counts: how often every token occurs in the others, [V].
        digest: of all of this.

    Raises:
        StoreError: if the folder holds something else, or not what was written.

    Examples:
        >>> from tempfile import TemporaryDirectory
        >>> letters = lambda texts: [[ord(c) - 97 for c in text] for text in texts]
        >>> with TemporaryDirectory() as folder:
        ...     store = TokenStore.write(f"{folder}/tokens", ["abc", "ba"] * 20, letters, 3)
        ...     store.tokens[:5].tolist(), len(store.held_out), store.vocabulary_size
        ([0, 1, 2, 1, 0], 40, 3)
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        """Read all of it once, to see that it is whole."""
        self.folder = Path(folder)
        try:
            about = json.loads(pf.read_bytes(self.folder / ABOUT))
            if about["format"] != FORMAT:
                raise ValueError(f"format {about['format']!r}")
            self.vocabulary_size, self.told = int(about["vocabulary_size"]), str(about["told"])
            self.tokens = np.memmap(self.folder / "tokens.bin", _dtype(self.vocabulary_size), "r")
            lengths = np.fromfile(self.folder / "lengths.bin", np.int64)
            self.held_out = np.fromfile(self.folder / "held_out.bin", np.bool_)
            self.counts = np.fromfile(self.folder / "counts.bin", np.int64)
            self.digest = _digest(self.tokens, lengths, self.held_out, self.counts)
            whole = self.digest == about["digest"]
        except (FileNotFoundError, LookupError, TypeError, ValueError) as error:
            raise StoreError(f"{folder} does not hold tokens ({error}); remove it") from error
        if not whole:
            raise StoreError(f"{folder} does not hold what was written there; remove it")
        self.starts = np.concatenate([[0], lengths.cumsum()])

    @classmethod
    def write(
        cls,
        folder: str | os.PathLike[str],
        documents: Iterable[str],
        encode: Encode,
        vocabulary_size: int,
        *,
        validation: float = 0.05,
        told: str = "",
        progress: bool | None = None,
    ) -> TokenStore:
        """Encode documents one after the other into a folder, which is there when all is done.

        Which are held out is decided by their text alone, so that equal ones are on one side; if
        that holds none out, it is the last.

        Args:
            folder: must not be there.
            documents: the texts; those without tokens are left out.
            encode: the tokenizer.
            vocabulary_size: how many tokens there are, V.
            validation: the share of the documents to hold out.
            told: kept with the folder: what it is about, for its reader.
            progress: whether to show a bar; by default if standard error is a terminal.

        Raises:
            TokenOutOfRange: if the tokenizer has an id outside [0, V).
            TextError: if there are not two documents.
            SettingError: if the vocabulary is empty, or the share not in (0, 1).
            OSError: if it cannot be written, or is there.
        """
        check_count("vocabulary_size", vocabulary_size)
        pf.SettingError.check("validation", validation, "in (0, 1)", lambda share: 0 < share < 1)
        final = Path(folder)
        scratch = final.with_name(f"{final.name}.{token_hex(4)}.unfinished")
        scratch.mkdir(parents=True)
        try:
            writer = _Writer(scratch, vocabulary_size, validation)
            told_on = bar(documents, progress, desc="tokens", unit="document", unit_scale=True)
            with told_on, (scratch / "tokens.bin").open("wb") as file:
                texts = iter(told_on)
                while some := list(islice(texts, AT_ONCE)):
                    for text, ids in zip(some, encode(some), strict=True):
                        file.write(writer.bytes_of(text, ids))
                file.flush()
                os.fsync(file.fileno())
            writer.finish({"format": FORMAT, "vocabulary_size": vocabulary_size, "told": told})
            os.replace(scratch, final)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        for other in final.parent.glob(f"{escape(final.name)}.*.unfinished"):
            shutil.rmtree(other, ignore_errors=True)  # of runs that were killed, or came too late
        return cls(final)

    def documents(self, held_out: bool) -> np.ndarray[Any, Any]:
        """The numbers of those that are held out, or of the others, [N].

        Args:
            held_out: which.
        """
        return np.flatnonzero(self.held_out == held_out)

    def runs(self, held_out: bool, size: int = 1 << 20) -> Iterator[tuple[Any, Any]]:
        """Tokens of some documents piece by piece, and the number of the document of each.

        Args:
            held_out: whether of those held out, or of the others.
            size: how many tokens are looked at for a piece.
        """
        for start in range(0, len(self.tokens), size):
            tokens = np.asarray(self.tokens[start : start + size])
            places = np.arange(start, start + len(tokens))
            document = np.searchsorted(self.starts, places, side="right") - 1
            wanted = self.held_out[document] == held_out
            yield tokens[wanted], document[wanted]


class _Writer:
    """What is known of the documents so far."""

    def __init__(self, folder: Path, vocabulary_size: int, validation: float) -> None:
        self.folder, self.validation = folder, validation
        self.dtype = _dtype(vocabulary_size)
        self.lengths, self.held_out = array("q"), bytearray()
        self.counts = np.zeros(vocabulary_size, np.int64)
        self.last = np.zeros_like(self.counts)

    def bytes_of(self, text: str, ids: Sequence[int]) -> bytes:
        """Note a document, and give what is to be written of it."""
        if len(ids) == 0:
            return b""
        tokens, size = np.asarray(ids, np.int64), len(self.counts)
        outside = tokens[(tokens < 0) | (tokens >= size)]
        if len(outside):
            raise TokenOutOfRange("the text", int(outside[0]), size)
        self.lengths.append(len(tokens))
        self.held_out.append(zlib.crc32(text.encode("utf-8", "replace")) < self.validation * 2**32)
        self.last = tokens
        if not self.held_out[-1]:
            np.add.at(self.counts, tokens, 1)
        return tokens.astype(self.dtype).tobytes()

    def finish(self, about: dict[str, object]) -> None:
        """Write the rest."""
        if len(self.lengths) < 2:
            raise TextError(f"{len(self.lengths)} documents cannot be split in two parts")
        if not any(self.held_out):
            self.held_out[-1] = True
            np.subtract.at(self.counts, self.last, 1)
        if all(self.held_out):
            raise TextError("every document is held out: ask for a smaller share")
        lengths = np.asarray(self.lengths, np.int64)
        held_out = np.frombuffer(self.held_out, np.bool_)
        for name, part in (("lengths", lengths), ("held_out", held_out), ("counts", self.counts)):
            pf.replace_file(self.folder / f"{name}.bin", [part.tobytes()])
        tokens = np.memmap(self.folder / "tokens.bin", self.dtype, "r")
        about = about | {"digest": _digest(tokens, lengths, held_out, self.counts)}
        pf.replace_file(self.folder / ABOUT, [json.dumps(about).encode()])


def _dtype(vocabulary_size: int) -> np.dtype[Any]:
    return np.dtype("<u2" if vocabulary_size <= 1 << 16 else "<u4")


def _digest(*parts: Any) -> str:
    found = hashlib.blake2b(digest_size=16)
    for part in parts:
        found.update(str(part.shape).encode())
        for start in range(0, len(part), 1 << 22):
            found.update(np.ascontiguousarray(part[start : start + (1 << 22)]).tobytes())
    return found.hexdigest()
