"""A span of text whose masks are filled step by step, with a circuit or with factorised draws.

Legend: B batch, P prompt, L positions of a span, W width of a window, V tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pcflow import NoMassError
from pcflow_diffusion.decode.course import Course
from pcflow_diffusion.decode.decoding import Decoding
from pcflow_diffusion.decode.drawing import Drawer, independent, renamed
from pcflow_diffusion.decode.independent import LONGEST, independent_head
from pcflow_diffusion.errors import LogitsError
from pcflow_diffusion.head import CircuitHead, Draw, Marginals, best, rank


@dataclass(frozen=True)
class Span:
    """Decides which tokens stand where a span of text is masked."""

    head: CircuitHead | None
    mask: int
    how: Decoding
    circuit_context: int | None
    generator: torch.Generator | None

    def step(
        self,
        span: Tensor,
        logits: Tensor,
        count: Tensor,
        rows: Tensor,
        start: int,
        before: Tensor,
        course: Course | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Tokens [B, L] for a span that stands at `start` of some rows, and which to commit.

        The circuit may see the tokens `before` it, [B, C], behind the last mask among them. With a
        course, the texts obey its rules.
        """
        said = self.read(logits, span, rows, start, course is not None)
        try:
            return self.decide(said, before, count, course, start)
        except NoMassError as error:
            raise renamed(error, rows[list(error.rows)], start) from None

    def read(
        self, logits: Tensor, span: Tensor, rows: Tensor, start: int, ruled: bool
    ) -> Marginals:
        """What the backbone says of what may be generated, in the precision of the circuit.

        Where all is drawn by a head, only of what it lists, unless rules need more.
        """
        head, never = self.head, self.how.suppress
        dtype = None if head is None else head.model.dtype
        top_k = None if head is None or self.how.gamma is not None or ruled else head.top_k
        try:
            return Marginals.of(logits, span, self.mask, suppress=never, top_k=top_k, dtype=dtype)
        except LogitsError as error:
            row, position = int(rows[error.row]), start + error.position
            raise LogitsError(row, position, error.reason) from None

    def decide(
        self, said: Marginals, before: Tensor, count: Tensor, course: Course | None, start: int
    ) -> tuple[Tensor, Tensor]:
        """Tokens [B, L], and which of them to commit."""
        likely = said.top_k(self.how.top_k).top_p(self.how.top_p)
        if course is not None:
            likely = course.widened(likely, said)
        elif self.head is None:
            return self.chosen(independent(said, likely, self.how, self.generator), count)
        drawer = self.drawer(said, course, start)
        scene = drawer.scene(said, likely, before)
        if said.length <= drawer.head.length:
            return self.chosen(drawer.draw(scene, said.masked, count), count)
        commit = self.ranked(said, likely, count)
        wanted = commit
        if course is not None:  # which must know the states before what is drawn
            wanted = said.masked & (commit.flip(-1).cumsum(dim=-1).flip(-1) > 0)
        return drawer.draw(scene, wanted).tokens, commit

    def drawer(self, said: Marginals, course: Course | None, start: int) -> Drawer:
        """Who draws; under rules without a head, independent variables."""
        if self.head is not None:
            context = self.circuit_context
            return Drawer(self.head, self.how, context, self.generator, course, start)
        alone = independent_head(said, min(LONGEST, said.length))
        return Drawer(alone, self.how, 0, self.generator, course, start)

    def chosen(self, found: Draw, count: Tensor) -> tuple[Tensor, Tensor]:
        """Draw first, then rank what was drawn."""
        late = self.deferred(found.tokens)
        commit = best(put_last(found.score, late), found.drawn, count)
        if self.how.threshold is not None:
            commit |= (found.confidence > self.how.threshold) & found.drawn & ~late
        return found.tokens, commit

    def ranked(self, said: Marginals, likely: Marginals, count: Tensor) -> Tensor:
        """Rank positions by the backbone, before anything is drawn."""
        score = rank(self.how.ranking, likely.log_shares, generator=self.generator)
        late = self.deferred(likely.draw(0.0)) if self.how.defer else ~said.masked
        commit = best(put_last(score, late), said.masked, count)
        if self.how.threshold is not None:
            sure = said.log_shares.amax(dim=-1).exp() > self.how.threshold
            commit |= said.masked & sure & ~late
        return commit

    def deferred(self, tokens: Tensor) -> Tensor:
        """Which tokens [B, L] are not preferred, however sure they are."""
        return torch.isin(tokens, tokens.new_tensor(self.how.defer))


def put_last(score: Tensor, late: Tensor) -> Tensor:
    """Scores [B, L] of which some come after all the others.

    Examples:
        >>> put_last(torch.tensor([3.0, 1.0]), torch.tensor([True, False])).argmax()
        tensor(1)
    """
    return score.masked_fill(late, torch.finfo(score.dtype).min)
