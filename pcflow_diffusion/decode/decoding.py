"""`Decoding`: how tokens are decided, checked where it is made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

from pcflow import Automaton, SettingError
from pcflow_diffusion.checks import check_count, check_id, check_ids, check_kind
from pcflow_diffusion.head import Order, Ranking, check_order, check_ranking


@dataclass(frozen=True)
class Decoding:
    """How the tokens of a span are decided, step by step.

    Args:
        temperature: of the tokens; zero takes the most probable ones.
        order: how a head draws: "joint", "any_order", "sharpened" or "mpe" (see
            `CircuitHead.sample`). None, the default, is "joint" above temperature zero and at zero
            "any_order", which is greedy: one token after another, each the most probable one given
            those before it, the same with every seed. "joint" at zero draws a latent path at
            temperature 1 and takes the best tokens of that path (CoDD, Sec. 5.1).
        ranking: which positions to commit first: "low_confidence" those whose token is the most
            probable, "margin" the largest distance between the two best tokens, "entropy" the
            lowest entropy, "random" any. With sure positions first, the default, most is right in
            few steps (docs/results.md), and what is committed is no longer distributed as the model
            has it: frequent tokens become more so with every step. "random" with temperature 1
            leaves frequencies alone.
        gamma: couple a row only while a smaller share of its window is masked than this (CoDD,
            Sec. 5.3); always by default.
        threshold: also commit every token whose probability, before temperature, is above this:
            the backbone's before `top_k` and `top_p`. Of tokens that a head draws together, in a
            block no longer than its circuit, it is `Draw.confidence` under the coupled joint, whose
            potentials are the marginals after `top_p`.
        top_k: consider only so many tokens at every position, by the backbone. For draws without a
            head, which has a `top_k` of its own.
        top_p: consider only the most probable tokens that together have this mass.
        suppress: tokens that are never generated; those outside the vocabulary never are.
        end_token_id: rows stop after the block in which they end; the rest is filled with it.
            `generate` alone takes it.
        defer: tokens that may be drawn and are not preferred: a position at which one stands is
            committed after all others, and never for its confidence. For ends of texts, which a
            model is sure of too early.
        guidance: how far to go beyond what the backbone says, away from what it would say if all
            that was there before were masked: logits u + (guidance + 1)(c - u), before anything
            else is done with them (classifier-free guidance). Every call is of twice as many rows.
        remask: share of the tokens committed in a block, the least probable ones, that are masked
            again after every step but the last. With a head probable given all the others, under
            its circuit; without one as the backbone says it of visible tokens, if it does.
        constraint: a rule that texts obey, or one for every row: what `generate` writes, and all of
            the text that `infill` completes. Each window is drawn from the joint given the rule,
            from the state that the text before it leads to, and such that the rest can be
            completed. After an end token nothing but it follows, and what is before it obeys.
            Confidence is that under the rule, after `top_k` and `top_p`, which leave the best token
            of every class of the rule in.

    Raises:
        SettingError: if a setting is out of range.
        TypeMismatch: if what should be the id of a token is no whole number, or a constraint no
            `pcflow.Automaton`.

    Examples:
        >>> Decoding(temperature=0.7, suppress=[3]).suppress
        (3,)
    """

    temperature: float = 0.0
    order: Order | None = None
    ranking: Ranking = "low_confidence"
    gamma: float | None = None
    threshold: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    suppress: Sequence[int] = ()
    end_token_id: int | None = None
    defer: Sequence[int] = ()
    guidance: float = 0.0
    remask: float = 0.0
    constraint: Automaton | Sequence[Automaton] | None = None

    def __post_init__(self) -> None:
        """Check every setting."""
        check_order("joint" if self.order is None else self.order, self.temperature)
        check_ranking(self.ranking)
        if self.gamma is not None:
            SettingError.check("gamma", self.gamma, "not negative", lambda share: share >= 0)
        if self.threshold is not None:
            SettingError.check("threshold", self.threshold, "a probability", lambda p: 0 <= p <= 1)
        if self.top_k is not None:
            check_count("top_k", self.top_k)
        if self.top_p is not None:
            SettingError.check("top_p", self.top_p, "in (0, 1]", lambda p: 0 < p <= 1)
        if self.end_token_id is not None:
            check_id("end_token_id", self.end_token_id)
        finite = "finite and not negative"
        SettingError.check("guidance", self.guidance, finite, lambda scale: 0 <= scale < inf)
        SettingError.check("remask", self.remask, "in [0, 1)", lambda share: 0 <= share < 1)
        for name in ("suppress", "defer"):
            object.__setattr__(self, name, _tokens(name, getattr(self, name)))
        if self.constraint is not None:
            object.__setattr__(self, "constraint", _rules(self.constraint))

    @property
    def drawing_order(self) -> Order:
        """How a head draws: as `order` says, or as suits the temperature.

        Examples:
            >>> Decoding().drawing_order, Decoding(temperature=1.0).drawing_order
            ('any_order', 'joint')
        """
        if self.order is not None:
            return self.order
        return "any_order" if self.temperature == 0 else "joint"


def _rules(given: Automaton | Sequence[Automaton]) -> Automaton | tuple[Automaton, ...]:
    """A rule, or one for every row."""
    if isinstance(given, Sequence):
        for rule in given:
            check_kind("a constraint of a row", rule, Automaton)
        return tuple(given)
    check_kind("constraint", given, Automaton)
    return given


def _tokens(name: str, given: Sequence[int]) -> tuple[int, ...]:
    """Ids of tokens, none of them negative."""
    ids = check_ids(name, given)
    SettingError.check(name, ids, "ids of tokens", lambda _: min(ids, default=0) >= 0)
    return ids
