"""How tokens of a text are drawn: in windows of a circuit that see what is known around them.

Legend: B batch, N positions of a text, C of them before a span, R rows of a window, W its width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from pcflow import NoMassError
from pcflow_diffusion.decode.course import Course, Passage, turns
from pcflow_diffusion.decode.decoding import Decoding
from pcflow_diffusion.decode.independent import independent_head
from pcflow_diffusion.decode.places import Look, looks
from pcflow_diffusion.decode.windows import bridges
from pcflow_diffusion.head import CircuitHead, Draw, Marginals, rank


@dataclass(frozen=True, eq=False)
class Scene:
    """A span of text with masks, and as much of the text before it as a circuit may see.

    Attributes:
        said: what the backbone says of masked tokens, [B, N].
        likely: the same, of tokens that are considered.
        text: where a circuit may look, bool [B, N]; gaps in it cut a row into texts of their own.
        before: C, how many of the N positions stand before the span.
        passage: which states of its rules it goes through, if it is under any.
    """

    said: Marginals
    likely: Marginals
    text: Tensor
    before: int
    passage: Passage | None = None

    @property
    def visible(self) -> Tensor:
        """Which tokens are known, bool [B, N]."""
        return self.text & ~self.likely.masked

    def showing(self, found: Draw) -> Scene:
        """The same where tokens [B, N] that were drawn are known."""
        masked = self.likely.masked & ~found.drawn
        tokens = torch.where(found.drawn, found.tokens, self.likely.tokens)
        said, likely = (replace(m, tokens=tokens, masked=masked) for m in (self.said, self.likely))
        return replace(self, said=said, likely=likely)

    def hiding(self, look: Look) -> Scene:
        """The same where some windows see nothing before what is decided in them."""
        text, where = self.text.clone(), (look.rows, look.places)
        text[where] &= look.decided.cumsum(dim=-1) > 0
        return replace(self, text=text)


@dataclass(frozen=True)
class Drawer:
    """Draws tokens of a scene, coupled by a head; under the rules of a course, if there is one.

    The span stands at `start` of the course.
    """

    head: CircuitHead
    how: Decoding
    circuit_context: int | None
    generator: torch.Generator | None
    course: Course | None = None
    start: int = 0

    @property
    def context(self) -> int:
        """How many tokens a window shows at most of what is before."""
        most = self.head.length - 1
        return most if self.circuit_context is None else min(most, self.circuit_context)

    def scene(self, said: Marginals, likely: Marginals, before: Tensor) -> Scene:
        """A span behind as many known tokens as there is room for.

        A circuit looks neither at tokens that it does not know, nor at masks before the span.
        """
        spare = self.head.length - said.length
        most = self.context if spare < 0 else min(self.context, spare)
        before = before[:, max(0, before.shape[1] - most) :]  # [B, C]
        passage = None
        if self.course is not None:
            first = self.start - before.shape[1]
            passage = self.course.passage(first, self.start + said.length)
            said, likely = said.after(before), likely.after(before)
        elif self.how.gamma is None:  # nobody asks for more than what the head takes
            likely = said = likely.few(self.head.top_k).after(before)
        else:
            said, likely = said.after(before), likely.after(before)
        token, size = likely.tokens, self.head.vocabulary_size
        known = (token >= 0) & (token < size) & (token != said.mask_token_id)
        return Scene(said, likely, likely.masked | known, before.shape[1], passage)

    def draw(self, scene: Scene, wanted: Tensor, count: Tensor | None = None) -> Draw:
        """Masked tokens of the span that are wanted [B, L], or `count` [B] of each text.

        Window after window, from the left: each sees what was drawn in those before it, and between
        what no window holds together more is drawn than is wanted.
        """
        wanted = pad(wanted, (scene.before, 0))
        if self.context:
            wanted = wanted | bridges(wanted, scene.visible, scene.text, self.head.length)
        tokens, nothing = scene.likely.tokens, scene.likely.log_m.new_zeros(wanted.shape)
        found = Draw(tokens.clone(), nothing.clone(), torch.zeros_like(wanted), nothing)
        self.walk(scene, wanted, count, found)
        return Draw(*(field[:, scene.before :] for field in vars(found).values()))

    def walk(self, scene: Scene, wanted: Tensor, count: Tensor | None, found: Draw) -> None:
        """Write what is wanted [B, N] into what has been found."""
        parts = [wanted] if scene.passage is None else turns(wanted, scene.text)
        for part in parts:
            for look in looks(part, scene.visible, scene.text, self.head.length, self.context):
                coupled = self.coupled(scene.likely.masked[look.rows, look.places])
                for some, draw in ((~coupled, self.alone), (coupled, self.jointly)):
                    if bool(some.any()):
                        draw(scene, look.of(some), count, found)
                scene = scene.showing(found)

    def coupled(self, masked: Tensor) -> Tensor:
        """The windows [R] that the head couples, by what is masked in them [R, W]."""
        if self.how.gamma is None:
            return masked.new_ones(len(masked))
        return masked.double().mean(dim=-1) < self.how.gamma

    def number(self, scene: Scene, look: Look, count: Tensor | None) -> Tensor | None:
        """How many masked tokens of every window [R] are drawn in any order; None for all.

        Under rules all, if there are more to the right: these begin in the state behind them.
        """
        if count is None or self.how.threshold is not None or self.how.defer:
            return None
        rows = look.rows[:, 0]
        masked = scene.likely.masked[look.rows, look.places].sum(dim=-1)
        few = torch.minimum(count[rows], masked)
        if scene.passage is None:
            return few
        return few.where(scene.likely.masked[rows].sum(dim=-1) == masked, masked)

    def alone(self, scene: Scene, look: Look, count: Tensor | None, found: Draw) -> None:
        """Tokens of windows, each by itself as far as rules allow."""
        said, likely = _window(scene.said, look), _window(scene.likely, look)
        if scene.passage is None:
            _write(found, look, independent(said, likely, self.how, self.generator))
            return
        self.under(independent_head(likely, likely.length), scene, look, count, found)

    def jointly(self, scene: Scene, look: Look, count: Tensor | None, found: Draw) -> None:
        """Tokens of windows, drawn from the coupled joint."""
        self.under(self.head.over(look.places.shape[1]), scene, look, count, found)

    def under(
        self, head: CircuitHead, scene: Scene, look: Look, count: Tensor | None, found: Draw
    ) -> None:
        """Tokens of windows, drawn by a head under the rules that there are."""
        if scene.passage is None:
            self.asked(head, scene, look, count, found)
            return
        known = scene.likely.tokens, scene.likely.masked
        for part, ruled in scene.passage.heads(head, look, *known):
            self.asked(ruled, scene, part, count, found)

    def asked(
        self, head: CircuitHead, scene: Scene, look: Look, count: Tensor | None, found: Draw
    ) -> None:
        """Tokens of windows, drawn by a head.

        Where the circuit holds what is known impossible, nothing is shown before what is decided.

        Raises:
            NoMassError: if it is impossible even so.
        """
        likely, how = _window(scene.likely, look), self.how
        try:
            part = head.draw(
                likely,
                temperature=how.temperature,
                order=how.drawing_order,
                ranking=how.ranking,
                count=self.number(scene, look, count),
                generator=self.generator,
            )
        except NoMassError as error:
            wrong = look.of(list(error.rows))
            blind = scene.hiding(wrong)
            if torch.equal(blind.text, scene.text):
                start = int(wrong.places[0, 0]) - scene.before
                raise renamed(error, wrong.rows[:, 0], start) from None
            self.walk(blind, look.spread(scene.text), count, found)
        else:
            _write(found, look, part)


def independent(
    said: Marginals, likely: Marginals, how: Decoding, generator: torch.Generator | None
) -> Draw:
    """Tokens drawn position by position; confidence is that before truncation."""
    tokens = likely.draw(how.temperature, generator)
    score = rank(how.ranking, likely.log_m, likely.log_prob(tokens), generator)
    return Draw(tokens, said.log_prob(tokens).exp(), said.masked, score)


def renamed(error: NoMassError, rows: Tensor, start: int) -> NoMassError:
    """The same as others count: rows by their numbers, variables from a place on."""
    never = None if error.never is None else (error.never[0] + start, error.never[1])
    return NoMassError(rows.tolist(), "a window of the circuit", never)


def _window(said: Marginals, look: Look) -> Marginals:
    """What is said in windows, which nobody copies if they are all of it."""
    whole = look.places.shape == said.tokens.shape
    return said if whole else said.at(look.rows, look.places)


def _write(found: Draw, look: Look, part: Draw) -> None:
    """Put into a draw [B, N] what was drawn in windows [R, W], as far as it is decided there."""
    own = look.decided & part.drawn
    where = look.rows.expand(own.shape)[own], look.places[own]
    for whole, field in zip(vars(found).values(), vars(part).values(), strict=True):
        whole[where] = field[own].to(whole.dtype)
