"""`Decoding`: how tokens are decided, checked where it is made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pcflow import SettingError
from pcflow_diffusion.checks import check_count, check_id, check_ids
from pcflow_diffusion.head import Order, Ranking, check_order, check_ranking


@dataclass(frozen=True)
class Decoding:
    """How the tokens of a span are decided, step by step.

    Args:
        temperature: of the tokens; zero takes the most probable ones. In the order "joint" these
            are the most probable given a latent path, which a head draws at temperature 1 whatever
            this is (CoDD, Sec. 5.1), so that texts differ between seeds even at zero.
        order: how a head draws: "joint", "any_order", "sharpened" or "mpe" (see
            `CircuitHead.sample`); "mpe" is the deterministic one.
        ranking: which positions to commit first: "low_confidence" those whose token is the most
            probable, "margin" the largest distance between the two best tokens, "entropy" the
            lowest entropy, "random" any.
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

    Raises:
        SettingError: if a setting is out of range.
        TypeMismatch: if what should be the id of a token is no whole number.

    Examples:
        >>> Decoding(temperature=0.7, suppress=[3]).suppress
        (3,)
    """

    temperature: float = 0.0
    order: Order = "joint"
    ranking: Ranking = "low_confidence"
    gamma: float | None = None
    threshold: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    suppress: Sequence[int] = ()
    end_token_id: int | None = None

    def __post_init__(self) -> None:
        """Check every setting."""
        check_order(self.order, self.temperature)
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
        object.__setattr__(self, "suppress", check_ids("suppress", self.suppress))
        wanted, ids = "ids of tokens", self.suppress
        SettingError.check("suppress", ids, wanted, lambda _: min(ids, default=0) >= 0)
