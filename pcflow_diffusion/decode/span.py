"""A span of text whose masks are filled step by step, with a circuit or with factorised draws.

Legend: B batch, P prompt, L positions of a span, W width of a window, V tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pcflow_diffusion.decode.decoding import Decoding
from pcflow_diffusion.decode.windows import minimum_cover
from pcflow_diffusion.errors import LogitsError
from pcflow_diffusion.head import CircuitHead, Draw, Marginals, best, rank


@dataclass(frozen=True)
class Span:
    """Decides which tokens stand where a span of text is masked."""

    head: CircuitHead | None
    mask: int
    how: Decoding
    generator: torch.Generator | None

    def step(
        self, span: Tensor, logits: Tensor, count: Tensor, rows: Tensor, start: int
    ) -> tuple[Tensor, Tensor]:
        """Tokens [B, L] for a span that stands at `start` of some rows, and which to commit."""
        return self.decide(self.read(logits, span, rows, start), count)

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
        late = self.deferred(found.tokens)
        commit = best(put_last(found.score, late), found.drawn, count)
        if self.how.threshold is not None:
            commit |= (found.confidence > self.how.threshold) & found.drawn & ~late
        return found.tokens, commit

    def deferred(self, tokens: Tensor) -> Tensor:
        """Which tokens [B, L] are not preferred, however sure they are."""
        return torch.isin(tokens, tokens.new_tensor(self.how.defer))

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
            order=how.drawing_order,
            ranking=how.ranking,
            count=count if how.threshold is None and not how.defer else None,
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
        late = self.deferred(likely.draw(0.0))
        commit = best(put_last(score, late), said.masked, count)
        if self.how.threshold is not None:
            sure = said.log_m.amax(dim=-1).exp() > self.how.threshold
            commit |= said.masked & sure & ~late
        rows, places = _windows(commit, head.length)
        tokens = said.tokens.clone()
        if len(rows):
            some, few = said.at(rows, places), likely.at(rows, places)
            drawn, _ = self.decide_together(head, some, few, some.masked.sum(dim=-1))
            for window in reversed(range(len(rows))):  # where two overlap, the first one decides
                tokens[rows[window], places[window]] = drawn[window]
        return tokens, commit


def put_last(score: Tensor, late: Tensor) -> Tensor:
    """Scores [B, L] of which some come after all the others.

    Examples:
        >>> put_last(torch.tensor([3.0, 1.0]), torch.tensor([True, False])).argmax()
        tensor(1)
    """
    return score.masked_fill(late, torch.finfo(score.dtype).min)


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
