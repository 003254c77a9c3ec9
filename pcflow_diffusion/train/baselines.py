"""What a circuit of text is compared with: how often tokens and pairs of them occur.

Legend: N windows, L positions, V tokens of the vocabulary, C pairs.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

import pcflow as pf
from pcflow_diffusion.errors import TextError
from pcflow_diffusion.train.tokens import TokenStore
from pcflow_diffusion.train.windows import Windows

STRENGTHS = [10.0**power for power in range(-1, 6)]
MOST = 1 << 26  # tokens that pairs are counted in


def token_nats(store: TokenStore, rows: Tensor) -> tuple[float, float]:
    """Nats per token of windows, by the frequency of tokens, and of tokens after others.

    Both are smoothed as suits these very windows best, so they are a little better than they
    would be on other ones. Pairs are counted in the first 67 million tokens.

    Args:
        store: where counts come from: the documents that are not held out.
        rows: windows [N, L], -1 where there is no token.

    Returns:
        Of single tokens (unigram), and of each after the one before it in its window (bigram).

    Raises:
        TextError: if no window holds a token.

    Examples:
        >>> from tempfile import TemporaryDirectory
        >>> letters = lambda texts: [[ord(c) - 97 for c in text] for text in texts]
        >>> with TemporaryDirectory() as folder:
        ...     store = TokenStore.write(f"{folder}/tokens", ["abab", "ababab"] * 20, letters, 2)
        ...     single, pairs = token_nats(store, torch.tensor([[0, 1, 0, 1]]))
        >>> pairs < single
        True
    """
    x = rows.numpy()
    there = x >= 0
    if not there.any():
        raise TextError("there is no token to judge by")
    counts, size = store.counts.astype(np.float64), store.vocabulary_size
    single, unigram = _best(counts[x[there]], counts.sum(), np.full(1, 1 / size))
    paired = there[:, 1:] & there[:, :-1]
    first, second = x[:, :-1][paired], x[:, 1:][paired]
    of_pairs, of_first = _counts(store, first, second)
    alone = there & ~np.pad(paired, ((0, 0), (1, 0)))  # nothing is known before these
    probability = dict(zip(x[there].tolist(), single.tolist(), strict=True))
    prior = np.array([probability[token] for token in second.tolist()])
    _, pairs = _best(of_pairs, of_first, prior)
    begins = sum(-np.log(probability[token]) for token in x[alone].tolist())
    return unigram, float((pairs * len(second) + begins) / there.sum())


def _best(count: np.ndarray, total: np.ndarray, prior: np.ndarray) -> tuple[np.ndarray, float]:
    """Smoothed shares, with the strength that is best for them, and their mean nats."""
    if len(count) == 0:
        return count, 0.0
    shares = [(count + s * prior) / (total + s) for s in STRENGTHS]
    nats = [float(-np.log(share).mean()) for share in shares]
    least = int(np.argmin(nats))
    return shares[least], nats[least]


def _counts(
    store: TokenStore, first: np.ndarray, second: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """How often each pair [C] occurs in documents that are learned from, and its first token."""
    size = store.vocabulary_size
    wanted = first.astype(np.int64) * size + second
    keys = np.unique(wanted)
    found, before, seen = np.zeros(len(keys)), np.zeros(size), 0
    for tokens, document in store.runs(held_out=False):
        if seen < MOST and len(keys):
            together = document[1:] == document[:-1]
            a, b = (part.astype(np.int64)[together] for part in (tokens[:-1], tokens[1:]))
            codes = a * size + b
            place = np.searchsorted(keys, codes).clip(0, len(keys) - 1)
            found += np.bincount(place[keys[place] == codes], minlength=len(keys))
            before += np.bincount(a, minlength=size)
            seen += len(tokens)
    return found[np.searchsorted(keys, wanted)], before[first]


@torch.no_grad()
def circuit_nats(model: pf.CompiledCircuit, windows: Windows, batch_size: int = 512) -> float:
    """The same of a circuit; what a window does not hold is summed out."""
    total, tokens = 0.0, 0
    for rows in torch.arange(len(windows)).split(batch_size):
        evidence = windows.take(rows).evidence
        total -= float(model.log_prob(evidence).double().sum())
        tokens += int((windows.tokens_of(rows) >= 0).sum())
    return total / tokens
