"""A judge of text that counts: how often does a token follow those before it?

Legend: N rows, T tokens of a text, V tokens of the vocabulary, K tokens that are read together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

TOGETHER = 6


@dataclass(frozen=True)
class _Counts:
    """How often runs of K tokens follow one another: codes in order, and for each its numbers.

    Attributes:
        runs: codes of runs of K tokens.
        times: how often each was met.
        before: codes of the K - 1 tokens before the last one.
        follow: how often each of these was met.
        kinds: by how many different tokens it was followed.
    """

    runs: Tensor
    times: Tensor
    before: Tensor
    follow: Tensor
    kinds: Tensor

    @classmethod
    def of(cls, runs: Tensor, V: int) -> _Counts:
        """Of the codes of all runs in a text."""
        found, times = runs.unique(return_counts=True)
        before, place, kinds = (found // V).unique(return_inverse=True, return_counts=True)
        follow = torch.zeros_like(before).index_add(0, place, times)
        return cls(found, times, before, follow, kinds)

    def share(self, runs: Tensor, V: int, otherwise: Tensor) -> Tensor:
        """Of each last token after those before it, a share of a shorter run's counted in."""
        met = _at(self.runs, self.times, runs)
        follow, kinds = (_at(self.before, n, runs // V) for n in (self.follow, self.kinds))
        mixed = (met + kinds * otherwise) / (follow + kinds).clamp_min(1)
        return torch.where(follow > 0, mixed, otherwise)


class CountingReader:
    """A judge: shares of runs of up to six tokens, interpolated (Witten and Bell 1991).

    Of a few million tokens it knows more than a transformer that reads them for some minutes, and
    it is there at once. It sees no further than runs go, which is as far as a chain sees, too.

    Args:
        text: what it has read, [T].
        vocabulary: V; of large ones, runs are as long as 63 bits can number.

    Examples:
        >>> reader = CountingReader(torch.arange(600) % 3, vocabulary=3)
        >>> reader.nats(torch.tensor([[0, 1, 2, 0, 1]]), last=1).exp().round(decimals=1).tolist()
        [[1.0]]
    """

    def __init__(self, text: Tensor, vocabulary: int) -> None:
        """Count runs of every length."""
        self.V = vocabulary
        lengths = range(1, min(TOGETHER, int(63 / math.log2(max(2, vocabulary)))) + 1)
        self.counts = [_Counts.of(self._codes(text.unfold(0, K, 1)), vocabulary) for K in lengths]

    def nats(self, rows: Tensor, last: int) -> Tensor:
        """Nats [N, last] of each of the last tokens of every row, given those before it.

        Runs are no longer than what stands before the first of them, and itself.
        """
        found = torch.full((len(rows), last), 1 / self.V, dtype=torch.float64)
        for K, counts in enumerate(self.counts[: rows.shape[1] - last + 1], start=1):
            runs = self._codes(rows.unfold(1, K, 1)[:, -last:])
            found = counts.share(runs, self.V, found)
        return -found.log()

    def _codes(self, runs: Tensor) -> Tensor:
        """One number for each run [..., K]."""
        powers = self.V ** torch.arange(runs.shape[-1] - 1, -1, -1)
        return (runs.long() * powers).sum(dim=-1)


def _at(codes: Tensor, numbers: Tensor, wanted: Tensor) -> Tensor:
    """The numbers of wanted codes; 0 for those that are not there."""
    place = torch.searchsorted(codes, wanted).clamp_max(len(codes) - 1)
    return torch.where(codes[place] == wanted, numbers[place], 0).double()
