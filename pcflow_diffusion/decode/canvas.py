"""A text that is written step by step: the one loop behind `generate` and `infill`.

Legend: B batch, N positions of a text, b some rows, L positions of a block, V tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from pcflow_diffusion.checks import check_count, check_generator, check_id, check_kind
from pcflow_diffusion.decode.course import Constraint, Course, constraint_of
from pcflow_diffusion.decode.decoding import Decoding
from pcflow_diffusion.decode.prefix import Prefix
from pcflow_diffusion.decode.prompts import Text, bounds, check_known
from pcflow_diffusion.decode.remasking import (
    least_probable,
    log_prob_under_backbone,
    log_prob_under_circuit,
)
from pcflow_diffusion.decode.span import Span
from pcflow_diffusion.decode.view import View
from pcflow_diffusion.errors import BackboneError, GenerationError
from pcflow_diffusion.head import CircuitHead
from pcflow_diffusion.models import PAST, Backbone, mask_of, past_argument, takes, vocabulary_of


@dataclass(frozen=True, eq=False)
class Step:
    """What a step has done, for a callback.

    Attributes:
        number: of the step, counted from 0 over all blocks and rows.
        tokens: all texts as they are now, [B, N], masks among them.
        committed: which tokens were committed in this step, bool [B, N].

    Examples:
        >>> step = Step(0, torch.tensor([[3, 1, 4]]), torch.tensor([[False, True, False]]))
        >>> step.tokens[step.committed]  # what a callback may print
        tensor([1])
    """

    number: int
    tokens: Tensor
    committed: Tensor


Callback = Callable[[Step], object]
"""Is told of every step, and stops there by returning True."""


@dataclass(eq=False)
class Canvas:
    """Texts whose masks are filled, block by block.

    Attributes:
        tokens: [B, N], its own; what is written is written here.
        real: which are no padding, bool [B, N].
        view: who is asked.
        span: who decides.
        callback: who is told of every step.
        constraint: which rules the texts obey, if any.
        ruled: what these are about, bool [B, N].
        steps: how many there have been.
        stopped: whether the callback has said so.
    """

    tokens: Tensor
    real: Tensor
    view: View
    span: Span
    callback: Callback | None
    constraint: Constraint | None
    ruled: Tensor
    steps: int = 0
    stopped: bool = False

    def fill(self, rows: Tensor, seen: slice, block: slice, steps: int, final: int = 0) -> None:
        """Fill a block of some rows in so many steps at most; the backbone sees what is `seen`.

        It may keep what it computes of what is before `final`.
        """
        for left in range(steps, 0, -1):
            masked = self.masked(rows, block)
            if self.stopped or not bool(masked.any()):
                return
            logits = self.view.logits(self.tokens[rows, seen], rows, seen, final)
            self.check(logits.shape[-1])
            logits = logits[:, block.start - seen.start : block.stop - seen.start]
            count = (masked.sum(dim=-1) + left - 1) // left
            self.commit(rows, seen.start, block, logits, count)
            if left > 1 and self.span.how.remask:
                self.remask(rows, block, logits)

    def check(self, vocabulary_size: int) -> None:
        """Refuse ids in a text that the backbone says nothing of, once it has said something."""
        if self.steps == 0 and vocabulary_of(self.view.backbone) is None:
            text = Text(self.tokens, self.real, False)
            check_known("the text", text, self.view.mask, vocabulary_size)
            if self.constraint is not None:
                self.constraint.check_known(vocabulary_size)

    def masked(self, rows: Tensor, places: slice) -> Tensor:
        """Which tokens are to be written, bool [b, L]."""
        return (self.tokens[rows, places] == self.view.mask) & self.real[rows, places]

    def commit(self, rows: Tensor, first: int, block: slice, logits: Tensor, count: Tensor) -> None:
        """Draw masked tokens of a block, commit so many [b] of them, and tell who wants to know.

        A circuit sees what the backbone sees before the block, from the `first` token on.
        """
        committed = torch.zeros_like(self.real)
        for some, part in self.alike(rows, block):
            own = rows[some]
            tokens, said = self.tokens[own, part], _some(logits, some, _within(part, block))
            before = self.known(own, slice(first, part.start))
            course = self.course(own)
            drawn, chosen = self.span.step(
                tokens, said, count[some], own, part.start, before, course
            )
            self.tokens[own, part] = torch.where(chosen, drawn.to(tokens.dtype), tokens)
            committed[own, part] = chosen
        if self.callback is not None:
            self.stopped = self.callback(Step(self.steps, self.tokens.clone(), committed)) is True
        self.steps += 1

    def course(self, rows: Tensor) -> Course | None:
        """Which rules some rows are under, and what is known of their texts."""
        if self.constraint is None:
            return None
        every = slice(None)
        known = self.tokens[rows], self.masked(rows, every), ~self.ruled[rows]
        return self.constraint.course(rows, *known)

    def known(self, rows: Tensor, places: slice) -> Tensor:
        """Tokens [b, C], with masks where there is padding."""
        return self.tokens[rows, places].masked_fill(~self.real[rows, places], self.view.mask)

    def remask(self, rows: Tensor, block: slice, logits: Tensor) -> None:
        """Mask again the tokens written in a block that are least probable."""
        for some, text in self.alike(rows, slice(0, block.stop)):
            own, part = rows[some], slice(max(text.start, block.start), text.stop)
            written = ~self.view.given[own, part] & ~self.masked(own, part)
            log_prob = self.log_prob(own, text, part, logits[some, _within(part, block)], written)
            again = least_probable(log_prob, written, self.span.how.remask)
            self.tokens[own, part] = self.tokens[own, part].masked_fill(again, self.view.mask)

    def log_prob(
        self, rows: Tensor, text: slice, part: slice, logits: Tensor, wanted: Tensor
    ) -> Tensor:
        """Log-probability (nats) [b, L] of wanted tokens in the last part of a text."""
        head, before = self.span.head, part.start - text.start
        if head is None:
            return log_prob_under_backbone(logits, self.tokens[rows, part])
        tokens, masked = self.tokens[rows, text], self.masked(rows, text)
        return log_prob_under_circuit(head, tokens, masked, pad(wanted, (before, 0)))[:, before:]

    def alike(self, rows: Tensor, places: slice) -> Iterator[tuple[Tensor, slice]]:
        """Which of some rows have text at the same of some places, and at which."""
        found = torch.stack(bounds(self.real[rows, places]), dim=-1) + places.start  # [b, 2]
        for one in found.unique(dim=0):
            yield (found == one).all(dim=-1).nonzero().squeeze(-1), slice(*one.tolist())


def _some(logits: Tensor, rows: Tensor, places: slice) -> Tensor:
    """Logits of some rows, of which nobody makes a copy if they are all."""
    return logits[:, places] if len(rows) == len(logits) else logits[rows, places]


def _within(inner: slice, outer: slice) -> slice:
    """One slice, counted from where another begins."""
    return slice(inner.start - outer.start, inner.stop - outer.start)


def canvas_of(
    backbone: Backbone,
    head: CircuitHead | None,
    text: Text,
    ruled: Tensor,
    mask: int,
    how: Decoding,
    circuit_context: int | None,
    generator: torch.Generator | None,
    callback: Callback | None,
    cache: bool = False,
) -> Canvas:
    """What fills the masks of a text, once those who have a say agree.

    Rules, if there are any, are about what is `ruled`, bool [B, N].
    """
    check_generator(generator, text.tokens.device)
    if circuit_context is not None:
        check_count("circuit_context", circuit_context, least=0)
    if callback is not None and not callable(callback):
        raise GenerationError(f"callback must be a function of a Step, got {callback!r}")
    name = past_argument(backbone)
    if cache and name is None:
        raise BackboneError(f"cache=True is for a backbone that takes {' or '.join(PAST)}")
    attention = text.real.long() if text.attended and takes("attention_mask", backbone) else None
    prefix = Prefix(backbone, name) if cache and name else None
    view = View(backbone, mask, text.tokens != mask, attention, how.guidance, prefix)
    span = Span(head, mask, how, circuit_context, generator)
    rules = _constraint(backbone, head, len(text.tokens), mask, how)
    canvas = Canvas(text.tokens, text.real, view, span, callback, rules, ruled)
    course = canvas.course(torch.arange(len(text.tokens), device=text.tokens.device))
    if course is not None:
        course.check()
    return canvas


def _constraint(
    backbone: Backbone, head: CircuitHead | None, rows: int, mask: int, how: Decoding
) -> Constraint | None:
    """The rules of a batch, if its circuit can be asked under one."""
    given = how.constraint
    if given is None and head is not None:
        given = head.constraint
    if given is None:
        return None
    if how.order == "sharpened" and how.temperature == 0:
        what = "leaves the best tokens alone, which may not obey"
        raise GenerationError(f'order "sharpened" at temperature 0 {what}: take "mpe"')
    size = vocabulary_of(backbone) if head is None else head.vocabulary_size
    if head is not None:
        head.check_takes_rules()
    return constraint_of(given, rows, size, (mask, *how.suppress), how.end_token_id)


def settled(
    backbone: Backbone,
    head: CircuitHead | None,
    decoding: Decoding | None,
    mask_token_id: int | None,
) -> tuple[Decoding, int]:
    """How tokens are decided, and the id of the mask on which all agree who have one.

    Raises:
        TypeMismatch: if these are no head and no decoding.
        GenerationError: if they contradict one another.
    """
    how = Decoding() if decoding is None else decoding
    check_kind("decoding", how, Decoding)
    if head is not None:
        check_kind("head", head, CircuitHead)
    if head is not None and head.constraint is not None and how.constraint is not None:
        raise GenerationError("head and decoding have a constraint each: a & b is both")
    if head is not None and how.top_k is not None:
        raise GenerationError("decoding.top_k is for draws without a head: set the head's top_k")
    mask = _mask_id(mask_token_id, head, backbone)
    if how.end_token_id == mask:
        raise GenerationError(f"end_token_id is the mask, {mask}")
    return how, mask


def _mask_id(given: int | None, head: CircuitHead | None, backbone: Backbone) -> int:
    """The id on which all agree who have one."""
    said = {
        "argument": given,
        "head": None if head is None else head.mask_token_id,
        "backbone": mask_of(backbone),
    }
    ids = {who: check_id("mask_token_id", i) for who, i in said.items() if i is not None}
    if not ids:
        raise GenerationError("mask_token_id is needed: neither head nor backbone has one")
    if len(set(ids.values())) > 1:
        named = ", ".join(f"{who} {found}" for who, found in ids.items())
        raise GenerationError(f"different ids of the mask: {named}")
    return next(iter(ids.values()))
