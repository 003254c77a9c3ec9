"""Windows of documents at any offset, as rows for `pcflow.fit`.

Every epoch cuts all documents anew: each begins with a part of a window, of a length drawn for it,
so that in the long run a token stands at every position alike. What a window holds of no document
is missing, which the circuit sums out: there is no token for it.

Legend: B batch, D documents, L positions, N windows, V tokens of the vocabulary.
"""

from __future__ import annotations

import copy

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

import pcflow as pf
from pcflow_diffusion.checks import check_count
from pcflow_diffusion.train.tokens import TokenStore

Wholes = npt.NDArray[np.int64]

SHARD = 256
"""So many windows that follow one another are drawn together, and then shuffled with others."""


class Windows:
    """All windows of the documents of a store, or of those that are held out.

    In every epoch each token is in exactly one of them. `pcflow.fit` goes over `parts` of them, one
    after the other, each of which is spread over the whole text: it judges and keeps its checkpoint
    after a part, and `parts` of its epochs are one of the text.

    Args:
        store: the tokens.
        length: how many positions there are, L.
        held_out: which documents.
        batch_size: rows at a time, to which parts are measured.
        steps: how many batches a part has, at least about.
        seed: of offsets and of the order.

    Attributes:
        parts: how many there are.
        chosen: the numbers of those windows that these are; None for all.
        first: how long the first window of every document is, [D].
        ends: how many windows there are up to the end of every document, [D].

    Raises:
        SettingError: if a number is too small.

    Examples:
        >>> from tempfile import TemporaryDirectory
        >>> letters = lambda texts: [[ord(c) - 97 for c in text] for text in texts]
        >>> with TemporaryDirectory() as folder:
        ...     store = TokenStore.write(f"{folder}/tokens", ["abcab", "ba"] * 20, letters, 3)
        ...     batch = Windows(store, 4).take(torch.arange(3))
        >>> batch.evidence.values.shape
        torch.Size([3, 4])
    """

    def __init__(
        self,
        store: TokenStore,
        length: int,
        *,
        held_out: bool = False,
        batch_size: int = 512,
        steps: int = 100,
        seed: int = 0,
    ) -> None:
        """Cut the documents for the first epoch."""
        check_count("length", length)
        check_count("batch_size", batch_size)
        check_count("steps", steps)
        self.store, self.length, self.seed = store, length, seed
        self._documents = store.documents(held_out)
        self._sizes = np.diff(store.starts)[self._documents]
        self.chosen: Tensor | None = None
        self.first, self.ends = self._cut(0)
        least = int((-(-self._sizes // length)).sum())  # windows of the epoch that has fewest
        self.parts = max(1, round(least / (batch_size * steps)))

    def __len__(self) -> int:
        """How many, N."""
        return int(self.ends[-1]) if self.chosen is None else len(self.chosen)

    def take(self, rows: Tensor) -> pf.Batch:
        """Those with the given numbers [B].

        Args:
            rows: the numbers [B].
        """
        tokens, missing = self._read(rows)
        return pf.Batch(pf.Evidence(tokens, missing))

    def tokens_of(self, rows: Tensor) -> Tensor:
        """Tokens of some windows [B, L], -1 where there is none.

        Args:
            rows: their numbers [B].
        """
        tokens, missing = self._read(rows)
        return tokens.masked_fill(missing, -1)

    def of_epoch(self, number: int) -> Windows:
        """A part of all windows: the epochs of `pcflow.fit` count parts.

        Args:
            number: of the epoch, from 0.
        """
        epoch, part = divmod(number, self.parts)
        found = copy.copy(self)
        found.first, found.ends = self._cut(epoch)
        shard = max(1, min(SHARD, len(found) // (8 * self.parts)))
        generator = torch.Generator().manual_seed(_mixed(self.seed, epoch))
        strata = -(-len(found) // (shard * self.parts))  # each part has a shard of every one
        order = torch.rand(strata, self.parts, generator=generator).argsort(dim=1)
        first = (torch.arange(strata) * self.parts + order[:, part]) * shard
        rows = (first.unsqueeze(-1) + torch.arange(shard)).flatten()
        found.chosen = rows[rows < len(found)]
        return found

    def at_most(self, count: int) -> Windows:
        """Some of them, spread evenly; all if there are no more.

        Args:
            count: how many at most.
        """
        if len(self) <= count:
            return self
        found = copy.copy(self)
        found.chosen = torch.arange(count) * len(self) // count
        return found

    def fingerprint(self) -> list[Tensor]:
        """What tells these windows from others."""
        digest = torch.tensor(list(bytes.fromhex(self.store.digest)))
        return [digest, torch.tensor([self.length, self.seed, self.parts, len(self)])]

    def _cut(self, epoch: int) -> tuple[Wholes, Wholes]:
        """Where windows lie in an epoch: first ones and ends, see the attributes."""
        generator = torch.Generator().manual_seed(_mixed(self.seed, epoch))
        drawn = torch.randint(1, self.length + 1, (len(self._sizes),), generator=generator)
        first = drawn.numpy()
        rest = np.maximum(self._sizes - first, 0)
        return first, (1 + -(-rest // self.length)).cumsum()

    def _read(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens [B, L], and where there is none."""
        numbers = (rows if self.chosen is None else self.chosen[rows]).numpy()
        document = np.searchsorted(self.ends, numbers, side="right")
        before = np.where(document > 0, self.ends[document - 1], 0)
        begin = self.first[document] + (numbers - before - 1) * self.length  # [B]
        places = begin[:, None] + np.arange(self.length)  # [B, L]
        last = self._sizes[document][:, None] - 1
        starts = self.store.starts[self._documents[document]][:, None]
        tokens = self.store.tokens[starts + places.clip(0, last)].astype(np.int64)
        return torch.from_numpy(tokens), torch.from_numpy((places < 0) | (places > last))


def _mixed(seed: int, epoch: int) -> int:
    """A seed for an epoch of its own."""
    return (seed * 1_000_003 + epoch) % (1 << 63)
