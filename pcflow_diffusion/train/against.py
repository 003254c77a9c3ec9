"""From a circuit of a text to the head of a backbone: stored logits, Eq. 7, and a coupling.

Legend: N rows, C context length, L positions of a block.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import pcflow as pf
from pcflow_diffusion.errors import TextError
from pcflow_diffusion.head import CircuitHead
from pcflow_diffusion.models import Backbone, mask_exactly, sample_times
from pcflow_diffusion.train.blocks import Blocks
from pcflow_diffusion.train.stored import StoredLogits, store_logits
from pcflow_diffusion.train.tokens import TokenStore

FEWEST = 16  # blocks that anything could be learned from, or judged by


def store_text(
    backbone: Backbone,
    folder: Path,
    store: TokenStore,
    head: CircuitHead,
    count: int,
    *,
    context: int,
    held_out: bool,
    top_k: int | None,
    seed: int = 0,
    progress: bool | None = None,
) -> StoredLogits:
    """What a backbone says of blocks of a text, with every share of them masked.

    Args:
        backbone: maps tokens to logits.
        folder: where to; a run that was interrupted goes on.
        store: the text.
        head: whose length and mask the blocks have.
        count: how many blocks at most, spread over the text.
        context: visible tokens before each, C.
        held_out: of which documents.
        top_k: how many logits to keep at a position.
        seed: of windows, times and masks.
        progress: whether to show a bar; by default if standard error is a terminal.

    Raises:
        TextError: if fewer than 16 such rows lie within documents.
        StoreError: if the folder holds something else.
    """
    rows = whole_rows(store, context + head.length, count, held_out, seed)
    draws = torch.Generator().manual_seed(seed)
    times = sample_times(len(rows), draws)
    x = mask_exactly(rows[:, -head.length :], times, head.mask_token_id, draws)
    device = head.model.device
    return store_logits(
        lambda tokens: backbone(tokens.to(device)),
        folder,
        rows,
        x,
        top_k=top_k,
        progress=progress,
    )


def whole_rows(store: TokenStore, length: int, count: int, held_out: bool, seed: int) -> Tensor:
    """At most so many windows that lie within documents [N, length], spread over the text.

    As many as fit lie one after the other in a document, from an offset on that is drawn for it.
    """
    documents, sizes = store.documents(held_out), rooms(store, length, held_out)
    fit = sizes // length
    total = int(fit.sum())
    draws = torch.rand(len(sizes), generator=torch.Generator().manual_seed(seed)).numpy()
    first = store.starts[documents] + (draws * (sizes - fit * length + 1)).astype(np.int64)
    chosen = np.arange(min(count, total)) * total // min(count, total)
    document = np.searchsorted(fit.cumsum(), chosen, side="right")
    begin = first[document] + (chosen - (fit.cumsum() - fit)[document]) * length
    tokens = store.tokens[begin[:, None] + np.arange(length)]  # [N, length]
    return torch.from_numpy(tokens.astype(np.int64))


def rooms(store: TokenStore, length: int, held_out: bool) -> NDArray[np.int64]:
    """How many tokens the documents have.

    Raises:
        TextError: if fewer than 16 windows of that length lie within one.
    """
    sizes: NDArray[np.int64] = np.diff(store.starts)[store.documents(held_out)]
    total = int((sizes // length).sum())
    if total < FEWEST:
        wrong = f"{'held-out ' if held_out else ''}documents hold {length} tokens in a row"
        raise TextError(f"{total} times {wrong}, not {FEWEST} times: ask for less --context")
    return sizes


@torch.no_grad()
def coupled_nats(head: CircuitHead, blocks: StoredLogits) -> float:
    """Nats per masked token of what a head says of blocks, jointly; of tokens that are listed."""
    total, count, device = 0.0, 0, head.model.device
    for some in blocks.batches(64):
        some = _on(device, some)
        listed = told_of(some) & (some.x == head.mask_token_id)
        total -= float(head.log_prob(some.logits, some.x, some.x0, at=listed).double().sum())
        count += int(listed.sum())
    return total / count if count else torch.nan


def unlisted(blocks: StoredLogits, mask_token_id: int) -> float:
    """Which share of the masked tokens is not among those whose logits were kept."""
    masked, missed = 0, 0
    for some in blocks.batches(64):
        here = some.x == mask_token_id
        masked += int(here.sum())
        missed += int((here & ~told_of(some)).sum())
    return missed / masked


def told_of(blocks: Blocks) -> Tensor:
    """Of which tokens there is a logit, bool [N, L]."""
    logits = blocks.logits
    every = logits if isinstance(logits, pf.Potentials) else pf.Potentials.of(logits)
    return every.at(blocks.x0.unsqueeze(-1)).squeeze(-1) > -torch.inf


def choose(head: CircuitHead, blocks: StoredLogits, purpose: str) -> None:
    """Give a head the coupling that suits blocks best; see `CircuitHead.choose_coupling`."""
    some = _on(head.model.device, blocks[:])
    head.choose_coupling(some.logits, some.x, some.x0, for_=purpose)  # type: ignore[arg-type]


def _on(device: torch.device, blocks: Blocks) -> Blocks:
    return Blocks(blocks.logits.to(device), blocks.x.to(device), blocks.x0.to(device))
