"""A span of text whose masks are filled step by step, with a circuit or with factorised draws.

Legend: B batch, P prompt, L positions of a span, W width of a window, V tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pcflow_diffusion.backbones import Backbone, logits_of
from pcflow_diffusion.checks import check_id, check_kind
from pcflow_diffusion.decode.decoding import Decoding
from pcflow_diffusion.decode.windows import minimum_cover
from pcflow_diffusion.errors import GenerationError, LogitsError
from pcflow_diffusion.head import CircuitHead, Draw, Marginals, best, rank


@dataclass(frozen=True)
class Span:
    """Fills the masks of a span of text."""

    backbone: Backbone
    head: CircuitHead | None
    mask: int
    how: Decoding
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
            drawn, commit = self.decide(said, count)
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

    def decide(self, said: Marginals, count: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens [B, L], and which of them to commit."""
        likely = said.top_k(self.how.top_k).top_p(self.how.top_p)
        if self.head is not None and said.length > self.head.length:
            return self.decide_in_windows(self.head, said, likely, count)
        head = None if self.head is None else self.head.over(said.length)
        return self.decide_together(head, said, likely, count)

    def decide_together(
        self, head: CircuitHead | None, said: Marginals, likely: Marginals, count: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Draw first, then rank what was drawn."""
        found = self.draw(head, said, likely, count)
        commit = best(found.score, found.drawn, count)
        if self.how.threshold is not None:
            commit |= (found.confidence > self.how.threshold) & found.drawn
        return found.tokens, commit

    def draw(
        self, head: CircuitHead | None, said: Marginals, likely: Marginals, count: Tensor
    ) -> Draw:
        """Every row coupled or by itself, and only that."""
        coupled = self.coupled(head, said)
        if head is None or not bool(coupled.any()):
            return self.independent(said, likely)
        if bool(coupled.all()):
            return self.jointly(head, likely, count)
        alone = self.independent(said.at(~coupled), likely.at(~coupled))
        together = self.jointly(head, likely.at(coupled), count[coupled])
        return _merged(coupled, together, alone)

    def coupled(self, head: CircuitHead | None, said: Marginals) -> Tensor:
        """The rows [B] that the head couples."""
        if head is None or self.how.gamma is None:
            return said.masked.new_full((len(said.masked),), head is not None)
        return said.masked.double().mean(dim=-1) < self.how.gamma

    def jointly(self, head: CircuitHead, likely: Marginals, count: Tensor) -> Draw:
        """Tokens drawn from the coupled joint."""
        how = self.how
        return head.draw(
            likely,
            temperature=how.temperature,
            order=how.order,
            ranking=how.ranking,
            count=count,
            generator=self.generator,
        )

    def independent(self, said: Marginals, likely: Marginals) -> Draw:
        """Tokens drawn position by position; confidence is that before truncation."""
        tokens = likely.draw(self.how.temperature, self.generator)
        score = rank(self.how.ranking, likely.log_m, likely.log_prob(tokens), self.generator)
        return Draw(tokens, said.log_prob(tokens).exp(), said.masked, score)

    def decide_in_windows(
        self, head: CircuitHead, said: Marginals, likely: Marginals, count: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Rank positions by the backbone, then draw in the fewest windows that hold the best."""
        score = rank(self.how.ranking, likely.log_m, generator=self.generator)
        commit = best(score, said.masked, count)
        if self.how.threshold is not None:
            commit |= said.masked & (said.log_m.amax(dim=-1).exp() > self.how.threshold)
        rows, places = _windows(commit, head.length)
        tokens = said.tokens.clone()
        if len(rows):
            some, few = said.at(rows, places), likely.at(rows, places)
            drawn, _ = self.decide_together(head, some, few, some.masked.sum(dim=-1))
            for window in reversed(range(len(rows))):  # where two overlap, the first one decides
                tokens[rows[window], places[window]] = drawn[window]
        return tokens, commit


def span_of(
    backbone: Backbone,
    head: CircuitHead | None,
    mask_token_id: int | None,
    decoding: Decoding | None,
    generator: torch.Generator | None,
) -> Span:
    """What fills masks, once those who say how agree."""
    how = Decoding() if decoding is None else decoding
    check_kind("decoding", how, Decoding)
    if head is not None:
        check_kind("head", head, CircuitHead)
    mask = _mask_id(mask_token_id, head, backbone)
    if head is not None and how.top_k is not None:
        raise GenerationError("decoding.top_k is for draws without a head: set the head's top_k")
    if how.end_token_id == mask:
        raise GenerationError(f"end_token_id is the mask, {mask}")
    return Span(backbone, head, mask, how, generator)


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


def _windows(commit: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Rows [windows, 1] and places [windows, W] that hold what is committed [B, L]."""
    covers = [
        minimum_cover(row.nonzero().flatten().tolist(), width, 0, len(row)) for row in commit.cpu()
    ]
    placed = [(row, window.start) for row, cover in enumerate(covers) for window in cover]
    found = torch.tensor(placed, dtype=torch.long, device=commit.device).view(-1, 2)
    rows, starts = found[:, :1], found[:, 1:]
    return rows, starts + torch.arange(width, device=commit.device)


def _merged(coupled: Tensor, together: Draw, alone: Draw) -> Draw:
    """One draw of rows, of which some [B] are in one and the others in another."""
    fields = []
    for ours, theirs in zip(vars(together).values(), vars(alone).values(), strict=True):
        both = theirs.new_empty(len(coupled), theirs.shape[1])
        both[coupled], both[~coupled] = ours.to(both.dtype), theirs
        fields.append(both)
    return Draw(*fields)
