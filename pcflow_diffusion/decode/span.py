"""A span of text whose masks are filled step by step, with a circuit or with factorised draws.

Legend: B batch, P prompt, L positions of a span, W width of a window, V tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pcflow_diffusion.backbones import Backbone, logits_of
from pcflow_diffusion.checks import check_count, check_id, check_kind
from pcflow_diffusion.decode.decoding import Decoding
from pcflow_diffusion.decode.drawing import Drawer, independent
from pcflow_diffusion.errors import GenerationError, LogitsError
from pcflow_diffusion.head import CircuitHead, Draw, Marginals, best, rank


@dataclass(frozen=True)
class Span:
    """Fills the masks of a span of text."""

    backbone: Backbone
    head: CircuitHead | None
    mask: int
    how: Decoding
    circuit_context: int | None
    generator: torch.Generator | None

    def fill(self, tokens: Tensor, rows: Tensor, first: int, start: int, steps: int) -> Tensor:
        """Tokens [B, L] of some rows from `start` on, filled; the backbone sees those from `first`.

        In so many steps at most; `tokens` stay as they are.
        """
        before, span = tokens[rows, first:start], tokens[rows, start:]
        for step in range(steps):
            masked = span == self.mask
            if not masked.any():
                break
            logits = logits_of(self.backbone, torch.cat([before, span], dim=1))
            said = self.read(logits[:, start - first :], span, rows, start)
            left = masked.sum(dim=-1)  # [B]
            count = (left + steps - step - 1) // (steps - step)
            drawn, commit = self.decide(said, before, count)
            span = torch.where(commit, drawn, span)
        return span

    def read(self, logits: Tensor, span: Tensor, rows: Tensor, start: int) -> Marginals:
        """What the backbone says of what may be generated, in the precision of the circuit."""
        dtype = None if self.head is None else self.head.model.dtype
        never = self.how.suppress
        try:
            return Marginals.of(logits, span, self.mask, suppress=never, dtype=dtype)
        except LogitsError as error:
            row, position = int(rows[error.row]), start + error.position
            raise LogitsError(row, position, error.reason) from None

    def decide(self, said: Marginals, before: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens [B, L], and which of them to commit; those `before` the span [B, C] are known."""
        likely = said.top_k(self.how.top_k).top_p(self.how.top_p)
        if self.head is None:
            return self.chosen(independent(said, likely, self.how, self.generator), count)
        drawer = Drawer(self.head, self.how, self.circuit_context, self.generator)
        scene = drawer.scene(said, likely, before)
        if said.length <= self.head.length:
            return self.chosen(drawer.together(scene, count), count)
        commit = self.ranked(said, likely, count)
        return drawer.in_windows(scene, commit), commit

    def chosen(self, found: Draw, count: Tensor) -> tuple[Tensor, Tensor]:
        """Draw first, then rank what was drawn."""
        commit = best(found.score, found.drawn, count)
        if self.how.threshold is not None:
            commit |= (found.confidence > self.how.threshold) & found.drawn
        return found.tokens, commit

    def ranked(self, said: Marginals, likely: Marginals, count: Tensor) -> Tensor:
        """Rank positions by the backbone, before anything is drawn."""
        score = rank(self.how.ranking, likely.log_m, generator=self.generator)
        commit = best(score, said.masked, count)
        if self.how.threshold is not None:
            commit |= said.masked & (said.log_m.amax(dim=-1).exp() > self.how.threshold)
        return commit


def span_of(
    backbone: Backbone,
    head: CircuitHead | None,
    mask_token_id: int | None,
    decoding: Decoding | None,
    generator: torch.Generator | None,
    circuit_context: int | None,
) -> Span:
    """What fills masks, once those who say how agree."""
    how = Decoding() if decoding is None else decoding
    check_kind("decoding", how, Decoding)
    if circuit_context is not None:
        check_count("circuit_context", circuit_context, least=0)
    if head is not None:
        check_kind("head", head, CircuitHead)
    mask = _mask_id(mask_token_id, head, backbone)
    if head is not None and how.top_k is not None:
        raise GenerationError("decoding.top_k is for draws without a head: set the head's top_k")
    if how.end_token_id == mask:
        raise GenerationError(f"end_token_id is the mask, {mask}")
    return Span(backbone, head, mask, how, circuit_context, generator)


def _mask_id(given: int | None, head: CircuitHead | None, backbone: Backbone) -> int:
    """The id on which all agree who have one."""
    said = {
        "argument": given,
        "head": None if head is None else head.mask_token_id,
        "backbone": getattr(backbone, "mask_token_id", None),
    }
    ids = {who: check_id("mask_token_id", i) for who, i in said.items() if i is not None}
    if not ids:
        raise GenerationError("mask_token_id is needed: neither head nor backbone has one")
    if len(set(ids.values())) > 1:
        named = ", ".join(f"{who} {found}" for who, found in ids.items())
        raise GenerationError(f"different ids of the mask: {named}")
    return next(iter(ids.values()))
