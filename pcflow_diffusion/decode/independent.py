"""Independent tokens as a circuit: for draws under a rule where no head couples them."""

from __future__ import annotations

from functools import lru_cache

import torch

from pcflow import Categorical, compile, hmm
from pcflow_diffusion.head import CircuitHead, Marginals

LONGEST = 128
"""Tokens that are drawn together without a head; of a longer text, window after window."""


def independent_head(said: Marginals, length: int) -> CircuitHead:
    """A head of so many positions whose joint has the backbone's marginals, and nothing besides.

    Args:
        said: what it will be about, or what is like it.
        length: of its windows.

    Examples:
        >>> said = Marginals.of(torch.randn(1, 2, 3).double(), torch.tensor([[3, 3]]), 3)
        >>> draw = independent_head(said, length=2).draw(said)
        >>> torch.allclose(draw.confidence.log(), said.log_prob(draw.tokens))
        True
    """
    about = said.log_m
    return _head(length, said.vocabulary_size, said.mask_token_id, about.dtype, about.device)


@lru_cache(maxsize=4)
def _head(
    length: int, size: int, mask: int, dtype: torch.dtype, device: torch.device
) -> CircuitHead:
    even = torch.full((1, size), 1 / size, dtype=torch.float64)
    chain = hmm(length, 1, Categorical(size), transition=torch.ones(1, 1), emission=even)
    return CircuitHead(compile(chain, device, dtype), mask, coupling="product", top_k=None)
