"""`CircuitLogits`: a backbone's logits to logits of which a sampler commits draws from the joint.

Legend: B batch, N positions of a text, C visible ones before it, W width of a window, V tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Literal, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from pcflow import Automaton, NoMassError, SettingError
from pcflow_diffusion.checks import (
    check_choice,
    check_count,
    check_flags,
    check_generator,
    check_ids,
    check_kind,
    check_logits,
    check_rows,
)
from pcflow_diffusion.decode import Course, Decoding, Look, Passage, constraint_of, looks, turns
from pcflow_diffusion.errors import GenerationError, LogitsError, ShapeMismatch
from pcflow_diffusion.head import CircuitHead, Draw, without
from pcflow_diffusion.plugs.ruled import lengths_of_prompts, outside, rule_of

Mode = Literal["drawn", "marginal"]
T = TypeVar("T")

SHOWN = 0.25
"""Share of a window that is kept for what is known before what is drawn in it."""

TWICE = (
    "would draw again what the circuit has drawn: leave it at 0 there and set the temperature of "
    "the circuit, or take confidence=False"
)


@dataclass(frozen=True, eq=False)
class CircuitLogits:
    """Logits of a backbone to logits that a sampler may take the best of, position by position.

    Log-marginals of a joint do not help such a sampler: tokens that it takes position by position
    are independent, whatever the circuit knows. So the tokens are drawn here, all together, and
    what is returned says so: at every masked position the drawn token has its probability under the
    joint, and the others share the rest equally. A greedy sampler takes the drawn token, ranks it
    by that probability, and whichever positions it commits are drawn from their joint.

    A text longer than the circuit is drawn window by window, from left to right; every window shows
    as much of what is visible or drawn before as it has room for. Visible tokens that the circuit
    does not know end its text; what it holds impossible is not shown to it.

    Args:
        head: the circuit.
        mode: "drawn", or "marginal" for samplers that draw or mix logits themselves: log-marginals
            of the joint, whose draws are independent.
        confidence: whether a drawn token has its own probability. Without it, it has all of the
            probability: right at every temperature of the sampler, which can no longer rank.
        temperature: of the circuit's draws, see `CircuitHead.sample`. Zero is greedy, the same for
            every seed: one token after another, each the most probable one given those before it,
            and as sure as all of these together.
        suppress: tokens that are never drawn. Those that logits have beyond the circuit's
            vocabulary must be among them.
        block_length: of the sampler: masks so far from the first one in a row are not drawn, and
            their logits are all zero. All masks are drawn by default.
        generator: source of randomness; torch's global one by default.
        constraint: a rule that texts obey, or one for every row, as in `Decoding`; the head's by
            default. Needs calls that show all of the text, and a sampler that takes no other
            tokens than the best ones.
        prompt_length: how many tokens of a row are given, or of every row [B], which no rule is
            about; zero by default.

    Raises:
        SettingError: if a setting is out of range.
        TypeMismatch: if `head` is none, or an id no whole number, or a constraint no rule.
        GenerationError: if marginals are wanted under a rule, which draws from them do not obey; or
            if the head has a rule, too.

    Examples:
        >>> import pcflow as pf
        >>> head = CircuitHead(pf.compile(pf.hmm(4, 2, pf.Categorical(5))), mask_token_id=5)
        >>> drawn = CircuitLogits(head)(torch.zeros(1, 3, 5), torch.tensor([[1, 5, 5]]))
        >>> drawn.shape, drawn[0, 0]
        (torch.Size([1, 3, 5]), tensor([0., 0., 0., 0., 0.]))
    """

    head: CircuitHead
    mode: Mode = "drawn"
    confidence: bool = True
    temperature: float = 1.0
    suppress: Sequence[int] = ()
    block_length: int | None = None
    generator: torch.Generator | None = None
    constraint: Automaton | Sequence[Automaton] | None = None
    prompt_length: int | Sequence[int] | None = None

    def __post_init__(self) -> None:
        """Check every setting."""
        check_kind("head", self.head, CircuitHead)
        check_choice("mode", self.mode, ("drawn", "marginal"))
        SettingError.check(
            "temperature", self.temperature, "finite and not negative", lambda t: 0 <= t < inf
        )
        check_generator(self.generator, self.head.model.device)
        object.__setattr__(self, "suppress", check_ids("suppress", self.suppress))
        if self.block_length is not None:
            check_count("block_length", self.block_length)
        _ = self.lengths  # which refuses what is none
        object.__setattr__(self, "constraint", rule_of(self.head, self.constraint))
        if self.constraint is not None and self.mode == "marginal":
            raise GenerationError('draws from marginals obey no rule: take mode="drawn"')

    @property
    def lengths(self) -> Sequence[int]:
        """Of the prompts, if they are said."""
        return lengths_of_prompts(self.prompt_length) or ()

    @torch.no_grad()
    def __call__(
        self,
        logits: Tensor,
        x: Tensor,
        *,
        left: Tensor | None = None,
        wanted: Tensor | None = None,
        attended: Tensor | None = None,
        right: Tensor | None = None,
    ) -> Tensor:
        """Logits [B, N, V] in at least single precision; the backbone's where tokens are visible.

        Args:
            logits: the backbone's, about these tokens, [B, N, V].
            x: tokens with masks, [B, N]; of any N.
            left: visible tokens that come before them, [B, C].
            wanted: which masks the sampler may commit, bool [B, N], in place of `block_length`.
            attended: which of `left` and `x` are no padding, bool [B, C + N]; all by default.
                Padding between tokens cuts a text for the circuit; a rule goes on behind it, and
                masks that are padding are not drawn under it.
            right: tokens and masks that come after them, [B, C'], which only a rule asks for. Then
                `left` must be all there is.

        Raises:
            ShapeMismatch: see `CircuitHead.couple`.
            TypeMismatch: likewise.
            TokenOutOfRange: likewise.
            LogitsError: likewise.
            NoMassError: if the backbone allows of nothing that circuit and rule do.
            EmptyLanguage: if no text obeys.
        """
        check_rows("x", x)
        check_logits("logits", logits, x)
        left = x[:, :0] if left is None else left
        check_rows("left", left)
        if len(left) != len(x):
            raise ShapeMismatch(f"left must be [{len(x)}, C], got {tuple(left.shape)}")
        masked = x == self.head.mask_token_id
        wanted = self.near(masked) if wanted is None else check_flags("wanted", wanted, x) & masked
        before = left.shape[1]
        logits, x = pad(logits, (0, 0, before, 0)), torch.cat([left, x], dim=1)
        if attended is not None:
            attended = check_flags("attended", attended, x)
        course = self._course(x, right, attended)
        try:
            return self._decided(logits, x, pad(wanted, (before, 0)), attended, course)[:, before:]
        except LogitsError as error:
            raise LogitsError(error.row, error.position - before, error.reason) from None

    def _course(self, x: Tensor, right: Tensor | None, attended: Tensor | None) -> Course | None:
        """Which rules texts [B, C + N] are under, whose last tokens stand on the right."""
        if self.constraint is None:
            return None
        size, mask = self.head.vocabulary_size, self.head.mask_token_id
        rules = constraint_of(self.constraint, len(x), size, (mask, *self.suppress), None)
        beyond = x[:, :0] if right is None else right
        check_rows("right", beyond)
        idle = outside(self.lengths, x, beyond, attended)
        text = torch.cat([x, beyond], dim=1)
        course = rules.course(torch.arange(len(x)), text, text == mask, idle)
        course.check()
        return course

    def near(self, masked: Tensor) -> Tensor:
        """The masks that are less than a block from the first one.

        Args:
            masked: bool [B, N].
        """
        if self.block_length is None or not masked.shape[1]:
            return masked
        first = masked.byte().argmax(dim=-1, keepdim=True)
        places = torch.arange(masked.shape[1], device=masked.device)
        return masked & (places < first + self.block_length)

    def check_temperature(self, temperature: float) -> None:
        """Refuse a sampler's temperature that undoes the draws.

        Args:
            temperature: the sampler's.

        Raises:
            GenerationError: saying what to do.
        """
        if temperature > 0 and self.mode == "drawn" and self.confidence:
            raise GenerationError(f"the sampler's temperature {temperature} {TWICE}")

    def check_mask(self, mask_token_id: int | None) -> None:
        """Refuse a sampler or a model with another mask.

        Args:
            mask_token_id: that of the sampler or model; None if it has none.

        Raises:
            GenerationError: naming both.
        """
        if mask_token_id != self.head.mask_token_id:
            own = self.head.mask_token_id
            raise GenerationError(f"the mask is {mask_token_id}, that of the head {own}")

    def _decided(
        self,
        logits: Tensor,
        x: Tensor,
        wanted: Tensor,
        attended: Tensor | None,
        course: Course | None,
    ) -> Tensor:
        """Logits [B, N, V], decided where wanted and zero at other masks."""
        if course is not None and attended is not None:  # masks that are padding obey nothing
            wanted = wanted & attended
        masked, vocabulary = x == self.head.mask_token_id, logits.shape[-1]
        strange = ~masked & ((x < 0) | (x >= self.head.vocabulary_size))
        visible = ~masked & ~strange if attended is None else ~masked & ~strange & attended
        dtype = torch.promote_types(logits.dtype, torch.float32)
        found = logits.to(dtype).masked_fill((masked & ~wanted).unsqueeze(-1), 0.0)
        needed, passage = wanted, None
        if course is not None:  # which must know the states before what is wanted
            passage = course.passage(0, x.shape[1])
            before = wanted.flip(-1).cumsum(dim=-1).flip(-1) > 0
            needed = masked & before if attended is None else masked & before & attended
        text = ~strange & _between(needed | visible)
        if attended is not None:  # padding between tokens cuts a text, as strange tokens do
            text &= attended | needed
        drawn = [needed] if passage is None else turns(needed, text)
        width = self.head.length
        seen = (look for part in drawn for look in looks(part, visible, text, width, shown=SHOWN))
        if self.mode == "drawn":
            tokens, sure = self._drawn(logits, x, seen, passage)
            found[wanted] = drawn_logits(tokens[wanted], sure[wanted], vocabulary).to(dtype)
            return found
        for look in seen:
            where = look.rows[look.decided.nonzero()[:, 0], 0], look.places[look.decided]
            found[where] = self._marginals(look, logits, x)[look.decided].to(dtype)
        return found

    def _drawn(
        self, logits: Tensor, x: Tensor, seen: Iterable[Look], passage: Passage | None
    ) -> tuple[Tensor, Tensor]:
        """Tokens [B, N] drawn window by window, and how sure of each the joint was [B, N].

        A token that was drawn given one that is only drawn is no surer than that.
        """
        sure = torch.ones_like(x, dtype=self.head.model.dtype)
        masked = x == self.head.mask_token_id
        for every in seen:
            for look, head in self._heads(every, x, masked, passage):
                where, before = (look.rows, look.places), sure[look.rows, look.before]  # [R, 1]
                draw = self._asked(head, look, logits[where], x[where], self._sampled)
                own = before * draw.confidence if self.confidence else torch.ones_like(before)
                sure = sure.index_put(where, torch.where(look.decided, own, sure[where]))
                tokens = draw.tokens.to(x.dtype)
                x = x.index_put(where, torch.where(look.decided, tokens, x[where]))
                masked = masked.index_put(where, masked[where] & ~look.decided)
        return x, sure

    def _heads(
        self, look: Look, x: Tensor, masked: Tensor, passage: Passage | None
    ) -> Iterable[tuple[Look, CircuitHead]]:
        """Windows that are drawn together, and by whom."""
        head = self.head.over(look.places.shape[1])
        return [(look, head)] if passage is None else passage.heads(head, look, x, masked)

    def _marginals(self, look: Look, logits: Tensor, x: Tensor) -> Tensor:
        """Log-marginals [R, W, V] in windows."""
        where = look.rows, look.places
        head = self.head.over(look.places.shape[1])
        log_q = self._asked(head, look, logits[where], x[where], CircuitHead.__call__)
        return pad(log_q, (0, logits.shape[-1] - log_q.shape[-1]), value=-inf)

    def _sampled(self, head: CircuitHead, logits: Tensor, x: Tensor) -> Draw:
        """Tokens of windows [R, W]; at temperature zero the same for every seed."""
        order = Decoding(temperature=self.temperature).drawing_order
        draw = head.sample(
            logits, x, temperature=self.temperature, order=order, generator=self.generator
        )
        return draw if order == "joint" else replace(draw, confidence=_together(draw))

    def _asked(
        self,
        head: CircuitHead,
        look: Look,
        logits: Tensor,
        x: Tensor,
        ask: Callable[[CircuitHead, Tensor, Tensor], T],
    ) -> T:
        """What a head says of windows [R, W]; of the masks alone where it holds them impossible.

        Not under a rule, of which visible tokens decide what may stand beside them.
        """
        logits = self._known(logits)
        try:
            return ask(head, logits, x)
        except NoMassError as error:
            hidden = torch.zeros_like(x, dtype=torch.bool)
            hidden[list(error.rows)] = x[list(error.rows)] != head.mask_token_id
            if not bool(hidden.any()) or head.constraint is not None:
                rows = look.rows[list(error.rows), 0].tolist()
                raise NoMassError(rows, "a window of the circuit") from error
            logits = logits.masked_fill(hidden.unsqueeze(-1), 0.0)
            return self._asked(head, look, logits, x.masked_fill(hidden, head.mask_token_id), ask)
        except LogitsError as error:
            row, place = look.rows[error.row, 0], look.places[error.row, error.position]
            raise LogitsError(int(row), int(place), error.reason) from None

    def _known(self, logits: Tensor) -> Tensor:
        """Logits of the tokens that the circuit knows, without those that are suppressed."""
        size = self.head.vocabulary_size
        never = {*self.suppress, self.head.mask_token_id}
        surplus = [token for token in range(size, logits.shape[-1]) if token not in never]
        if surplus:
            raise ShapeMismatch(
                f"logits are about {logits.shape[-1]} tokens, the circuit about {size}: if the "
                f"others are never to be drawn, suppress=range({size}, {logits.shape[-1]})"
            )
        return without(logits[..., :size], self.suppress)


def drawn_logits(tokens: Tensor, confidence: Tensor, vocabulary_size: int) -> Tensor:
    """Normalised logits [..., V] whose best token is the drawn one, with the probability given.

    A probability that is not larger than that of the others would be is raised to just above it.

    Examples:
        >>> drawn_logits(torch.tensor([2]), torch.tensor([0.7]), vocabulary_size=4).exp()
        tensor([[0.1000, 0.1000, 0.7000, 0.1000]])
    """
    p = confidence.clamp(1.01 / vocabulary_size, 1.0).unsqueeze(-1)
    rest = ((1 - p) / max(vocabulary_size - 1, 1)).log()
    return rest.expand(*tokens.shape, vocabulary_size).scatter(-1, tokens.unsqueeze(-1), p.log())


def _between(known: Tensor) -> Tensor:
    """From the first that is known of every row to the last, bool [B, N]: the rest is padding."""
    return (known.cumsum(dim=-1) > 0) & (known.flip(-1).cumsum(dim=-1).flip(-1) > 0)


def _together(draw: Draw) -> Tensor:
    """Probability [R, W] of every token and all that were drawn before it."""
    order = draw.score.argsort(dim=-1, descending=True, stable=True)
    sure = draw.confidence.gather(-1, order).cumprod(dim=-1)
    return torch.ones_like(sure).scatter(-1, order, sure).where(draw.drawn, draw.confidence)
