"""A frozen backbone's logits: computed once, kept in a folder, read from disk as they are needed.

A folder holds shards `00000.safetensors`, `00001.safetensors`, ... of equally many blocks, each
written in one step, so that an interrupted run goes on at the first shard that is missing.

Legend: N blocks, B batch, C context length, L positions of a block, V tokens, k listed tokens.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from math import ceil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import pcflow as pf
from pcflow_diffusion.checks import check_count, check_rows, check_tokens
from pcflow_diffusion.errors import LogitsError, ShapeMismatch, StoreError
from pcflow_diffusion.models import Backbone
from pcflow_diffusion.models.progress import bar
from pcflow_diffusion.train.blocks import Blocks, block_logits

FORMAT = "pcflow_diffusion.logits.1"
MOST = 1 << 62  # of anything: numbers that tensors can hold
MOST_TOKENS = 1 << 24  # of a vocabulary


@dataclass(frozen=True)
class _About:
    """What every shard says of the whole.

    Attributes:
        digest: of the blocks, their contexts and masks.
        rows: how many rows there are, N.
        shard_size: blocks in every shard but the last.
        vocabulary_size: how many tokens there are, V.
        top_k: k, or None where all logits are kept.
    """

    digest: str
    rows: int
    shard_size: int
    vocabulary_size: int
    top_k: int | None

    @property
    def shards(self) -> int:
        """How many."""
        return ceil(self.rows / self.shard_size)

    def rows_of(self, shard: int) -> int:
        """How many blocks a shard holds."""
        return min(self.shard_size, self.rows - shard * self.shard_size)


def store_logits(
    backbone: Backbone,
    folder: str | Path,
    rows: Tensor,
    x: Tensor,
    *,
    top_k: int | None = None,
    shard_size: int = 1024,
    batch_size: int = 64,
    progress: bool | None = None,
) -> StoredLogits:
    """Ask a backbone about blocks once and keep its logits in a folder.

    A run that was interrupted goes on at the first missing shard when it is started again. It is
    refused if the folder is about other blocks, masks or settings, or if the backbone does not
    say of the first block what it said.

    Args:
        backbone: maps tokens to logits.
        folder: made if it is not there.
        rows: context and block, [N, C + L].
        x: the blocks with masks, [N, L].
        top_k: keep the k largest logits of every position only, as all that is possible, and how
            much mass the others have together. None keeps all.
        shard_size: blocks per file; so many logits are held in memory.
        batch_size: rows per call of the backbone.
        progress: whether to show a bar, of blocks; by default if standard error is a terminal.

    Returns:
        The folder, opened for reading.

    Raises:
        ShapeMismatch: if shapes do not fit.
        SettingError: if a number is below 1.
        LogitsError: if some are NaN or +inf, of which nothing could be read again.
        StoreError: if the folder holds something else.
        OSError: if it cannot be written.

    Examples:
        >>> from tempfile import TemporaryDirectory
        >>> rows, uniform = torch.zeros(3, 6, dtype=torch.long), lambda x: torch.zeros(*x.shape, 5)
        >>> with TemporaryDirectory() as folder:
        ...     len(store_logits(uniform, folder, rows, rows[:, 2:], progress=False))
        3
    """
    _check(rows, x, {"top_k": top_k, "shard_size": shard_size, "batch_size": batch_size})
    folder, first = Path(folder), _ask(backbone, rows[:1], x[:1])
    vocabulary, digest = first.shape[-1], _digest(rows, x)
    kept = None if top_k is None or top_k >= vocabulary else top_k
    about = _About(digest, len(x), shard_size, vocabulary, kept)
    folder.mkdir(parents=True, exist_ok=True)
    done = _done(folder, about, first)
    with bar(None, progress, total=len(x), unit="block", desc="logits") as counted:
        for shard, (some, masked) in enumerate(
            zip(rows.split(shard_size), x.split(shard_size), strict=True)
        ):
            if shard not in done:
                batches = zip(some.split(batch_size), masked.split(batch_size), strict=True)
                told = _told(batches, counted, shard * shard_size)
                parts = [_listed(_ask(backbone, *batch), kept) for batch in told]
                tensors = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
                _write(folder, shard, tensors | _tokens(some, masked), about)
            else:
                counted.update(len(some))
    return StoredLogits(folder)


class StoredLogits:
    """Blocks whose logits lie on disk, and are read when they are asked for.

    Args:
        folder: what `store_logits` made.

    Attributes:
        x: tokens with masks, [N, L].
        vocabulary_size: how many tokens there are, V.
        top_k: how many logits per position are kept; None if all.

    Raises:
        StoreError: if a shard is missing, truncated, foreign or contradicts the others.
        TokenOutOfRange: if a block holds a token that is outside the vocabulary, one that stands
            for the mask apart.
        OSError: if a shard cannot be read.

    Examples:
        >>> from tempfile import TemporaryDirectory
        >>> rows, uniform = torch.zeros(3, 6, dtype=torch.long), lambda x: torch.zeros(*x.shape, 5)
        >>> with TemporaryDirectory() as folder:
        ...     stored = store_logits(uniform, folder, rows, rows[:, 2:], progress=False)
        ...     [tuple(part.logits.shape) for part in stored.batches(2)]
        [(2, 4, 5), (1, 4, 5)]
    """

    def __init__(self, folder: str | Path) -> None:
        """Look at every shard, without reading its logits."""
        paths = _shards(Path(folder))
        if not paths:
            raise StoreError(f"{folder} holds no logits")
        self._about = about = _look(paths[0])[1]
        missing = {_name(shard) for shard in range(min(about.shards, len(paths) + 1))}
        missing -= {path.name for path in paths}
        if missing or len(paths) != about.shards:
            raise StoreError(
                f"{folder} holds {len(paths)} of {about.shards} shards; run store_logits again to "
                f"make the others"
            )
        self._shards = [_open(path, shard, about) for shard, path in enumerate(paths)]
        self.vocabulary_size, self.top_k = about.vocabulary_size, about.top_k
        self.x = torch.cat([_read(shard, "x") for shard in self._shards]).long()
        self._x0 = torch.cat([_read(shard, "x0") for shard in self._shards]).long()
        check_tokens("x0", self._x0, self.vocabulary_size)
        mask = self.x.max().clamp(min=0)  # if it is no token, it is the one id beyond them
        check_tokens("x", self.x.masked_fill(self.x == mask, 0), self.vocabulary_size)

    def __len__(self) -> int:
        """How many blocks, N."""
        return self._about.rows

    def __getitem__(self, rows: Tensor | Sequence[int] | slice) -> Blocks:
        """Those with the given numbers [B]: in memory, logits [B, L, V], or of k listed tokens.

        Raises:
            IndexError: if there are no such blocks.
            StoreError: if a shard was changed since it was opened, a logit is NaN or +inf, or a
                listed token is outside the vocabulary.
            OSError: if a shard cannot be read.
        """
        wanted = rows.cpu() if isinstance(rows, Tensor) else rows
        numbers = torch.arange(len(self))[wanted]  # [B]
        return Blocks(self._logits(numbers), self.x[numbers], self._x0[numbers])

    @property
    def left_out(self) -> float:
        """The mean mass of the tokens that are not listed, at masked positions."""
        if self.top_k is None:
            return 0.0
        masked, total = self.x == self.x.max(), 0.0
        for rows in torch.arange(len(self)).split(self._about.shard_size):
            top, rest = (self._gather(name, rows).double() for name in ("logits", "rest"))
            mass = (rest - top.logsumexp(dim=-1)).sigmoid()  # [B, L]
            total += float(mass[masked[rows]].sum())
        return total / int(masked.sum())

    def batches(
        self, batch_size: int, *, shuffle: bool = False, generator: torch.Generator | None = None
    ) -> Iterator[Blocks]:
        """All blocks once, in order or shuffled.

        Args:
            batch_size: blocks at a time.
            shuffle: whether to draw another order.
            generator: source of the order; torch's global one by default.
        """
        order = torch.arange(len(self))
        if shuffle:
            where = None if generator is None else generator.device
            order = torch.randperm(len(self), generator=generator, device=where).cpu()
        for rows in order.split(batch_size):
            yield self[rows]

    def _logits(self, numbers: Tensor) -> Tensor | pf.Potentials:
        if self.top_k is None:
            return self._gather("logits", numbers)
        listed = self._gather("categories", numbers).long()  # [B, L, k]
        if bool(((listed < 0) | (listed >= self.vocabulary_size)).any()):
            raise StoreError(f"a listed token is outside [0, {self.vocabulary_size})")
        return pf.Potentials.of(self._gather("logits", numbers), listed)

    def _gather(self, name: str, numbers: Tensor) -> Tensor:
        """Those rows of a tensor that is cut into shards."""
        first = self._shards[0]
        found = torch.empty(len(numbers), *first.shapes[name][1:], dtype=first.dtypes[name])
        shard, place = numbers // self._about.shard_size, numbers % self._about.shard_size
        for number in shard.unique().tolist():
            here = shard == number
            found[here] = _read(self._shards[number], name, place[here])
        return found


def _check(rows: Tensor, x: Tensor, numbers: dict[str, int | None]) -> None:
    check_rows("rows", rows)
    check_rows("x", x)
    if len(x) != len(rows) or x.shape[1] > rows.shape[1]:
        raise ShapeMismatch(
            f"rows must be [N, C + L] and x [N, L], got {tuple(rows.shape)} and {tuple(x.shape)}"
        )
    if x.numel() == 0:
        raise ShapeMismatch("there are no blocks to ask about")
    for name, number in numbers.items():
        if number is not None:
            check_count(name, number)


@torch.no_grad()
def _ask(backbone: Backbone, rows: Tensor, x: Tensor, first: int = 0) -> Tensor:
    """The backbone's logits [B, L, V] as they are kept, of rows from the `first` on."""
    logits = block_logits(backbone, rows, x).cpu()
    wrong = ~(logits.amax(dim=-1) < torch.inf)  # [B, L]; NaN is not below either
    if bool(wrong.any()):
        row, position = wrong.nonzero()[0].tolist()
        raise LogitsError(first + row, position, "are NaN or +inf")
    return logits


def _told(
    batches: Iterable[tuple[Tensor, Tensor]], counted: Any, first: int
) -> Iterator[tuple[Tensor, Tensor, int]]:
    """Batches, each with the number of its first row."""
    for rows, x in batches:
        yield rows, x, first
        first += len(rows)
        counted.update(len(rows))


def _listed(logits: Tensor, top_k: int | None) -> dict[str, Tensor]:
    """Logits as they are kept."""
    if top_k is None:
        return {"logits": logits.contiguous()}
    top = logits.topk(top_k, dim=-1)
    rest = logits.float().scatter(-1, top.indices, -torch.inf).logsumexp(dim=-1)  # [B, L]
    return {"logits": top.values, "categories": top.indices.int(), "rest": rest}


def _tokens(rows: Tensor, x: Tensor) -> dict[str, Tensor]:
    """Tokens as they are kept."""
    x0 = rows[:, rows.shape[1] - x.shape[1] :]
    return {"x": x.int().cpu().contiguous(), "x0": x0.int().cpu().contiguous()}


def _digest(rows: Tensor, x: Tensor) -> str:
    """Of the blocks, their contexts and masks."""
    found = hashlib.sha256(repr((rows.shape, x.shape)).encode())
    for tensor in (rows, x):
        found.update(tensor.cpu().long().contiguous().numpy().tobytes())
    return found.hexdigest()


def _name(shard: int) -> str:
    return f"{shard:05d}.safetensors"


def _shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def _write(folder: Path, shard: int, tensors: dict[str, Tensor], about: _About) -> None:
    texts = {"format": FORMAT, "shard": str(shard), "about": json.dumps(asdict(about))}
    pf.Container.write(folder / _name(shard), tensors, texts)


def _done(folder: Path, about: _About, first: Tensor) -> set[int]:
    """The shards that are there already.

    Raises:
        StoreError: if one of them is about something else, or the backbone is another, or says it
            in another dtype.
    """
    for path in _shards(folder):
        for name, theirs in asdict(_look(path)[1]).items():
            if theirs != getattr(about, name):
                what = "other blocks or masks" if name == "digest" else f"{name}={theirs}"
                raise StoreError(f"{path} is about {what}; name another folder, or remove it")
    done = {shard for shard in range(about.shards) if (folder / _name(shard)).exists()}
    shards = {shard: _open(folder / _name(shard), shard, about) for shard in done}
    if 0 in done:
        ours, theirs = first.dtype, shards[0].dtypes["logits"]
        if ours != theirs:
            raise StoreError(f"{folder} has logits in {theirs}, not {ours}; name another folder")
        if not _says(first, shards[0]):
            raise StoreError(f"{folder} has logits of another backbone; name another folder")
    return done


def _says(first: Tensor, shard: pf.Container) -> bool:
    """Whether logits [1, L, V] are those of the first block of a shard, but for rounding."""
    before, now = _read(shard, "logits", [0]), first
    if "categories" in shard.shapes:  # which are listed may differ where logits are nearly the same
        listed = _read(shard, "categories", [0]).long()
        if bool(((listed < 0) | (listed >= first.shape[-1])).any()):
            return False
        now = first.gather(-1, listed)
    return torch.allclose(now, before, rtol=1e-2, atol=1e-2)


def _look(path: Path) -> tuple[pf.Container, _About]:
    """A shard, and what it says of the whole.

    Raises:
        StoreError: if it is truncated or of another format.
    """
    try:
        file = pf.Container(path)
        about = _About(**file.told("about"))
        numbers = [about.rows, about.shard_size, about.vocabulary_size, about.top_k or 1]
        if not all(map(_is_whole, numbers)) or file.texts["format"] != FORMAT:
            raise ValueError(f"{about}")
        if not 1 <= min(numbers) <= max(numbers) < MOST or about.vocabulary_size > MOST_TOKENS:
            raise ValueError(f"{about}")
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(f"{path} does not hold logits ({error})") from error
    return file, about


def _is_whole(number: object) -> bool:
    return isinstance(number, int) and not isinstance(number, bool)


def _read(shard: pf.Container, name: str, rows: Tensor | Sequence[int] | None = None) -> Tensor:
    """Rows of a tensor of a shard.

    Raises:
        StoreError: if the shard was changed since it was opened, or a number is NaN or +inf.
    """
    try:
        return shard.read(name, rows, infinite=(-torch.inf,))
    except pf.FileFormatError as error:
        raise StoreError(str(error)) from error


def _open(path: Path, shard: int, about: _About) -> pf.Container:
    """A shard, opened to be read.

    Raises:
        StoreError: if it is not the shard that it should be.
    """
    file, found = _look(path)
    if found != about or file.texts.get("shard") != str(shard):
        raise StoreError(f"{path} is not shard {shard} of {about.shards} of the same logits")
    rows, kept = about.rows_of(shard), about.top_k or about.vocabulary_size
    wanted = {"logits": 3, "x": 2, "x0": 2}
    if about.top_k is not None:
        wanted |= {"categories": 3, "rest": 2}
    length = (*file.shapes.get("x", ()), 0, 0)[1]
    shapes = {name: (rows, length, kept)[:axes] for name, axes in wanted.items()}
    whole = {name for name, dtype in file.dtypes.items() if not dtype.is_floating_point}
    if file.shapes != shapes or length == 0 or whole != {"x", "x0", "categories"} & wanted.keys():
        raise StoreError(f"{path} holds {file.shapes}, not {shapes}")
    return file
