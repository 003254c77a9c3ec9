"""What a backbone says of single positions: one value, which heads, couplings and decoders take.

Legend: B batch, L positions, V tokens, k listed tokens, W width of a window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import pad

from pcflow import Evidence, Potentials
from pcflow_diffusion.checks import (
    check_id,
    check_ids,
    check_logits,
    check_rows,
    check_tokens,
)
from pcflow_diffusion.errors import LogitsError
from pcflow_diffusion.head.listing import (
    LARGE,
    LOG2_E,
    MOST,
    TopK,
    check_top_k,
    log_sum,
    most_listed,
    needed,
)


@dataclass(frozen=True, eq=False)
class Marginals:
    """Tokens with masks, and a distribution of the token at every masked position.

    Made from logits by `Marginals.of`, the one place where these are checked, rid of tokens that
    cannot be, and normalised. What it says of visible positions means nothing.

    Attributes:
        tokens: [B, L], the visible ones; zero where masked.
        masked: which are not, bool [B, L].
        log_m: normalised log-probabilities, [B, L, V]; or [B, L, k] of the `listed` tokens.
        listed: the tokens that `log_m` is about, [B, L, k]; no other is possible. None for all.
        vocabulary_size: how many tokens there are, V.
        mask_token_id: the mask, which has no mass if it is one of the V.
        log_listed: log of the mass that what is listed has of all, [B, L]; zero where all are.

    Examples:
        >>> said = Marginals.of(torch.zeros(1, 2, 4), torch.tensor([[3, 9]]), mask_token_id=9)
        >>> said.masked, said.log_m[0, 1].exp()
        (tensor([[False,  True]]), tensor([0.2500, 0.2500, 0.2500, 0.2500]))
    """

    tokens: Tensor
    masked: Tensor
    log_m: Tensor
    listed: Tensor | None
    vocabulary_size: int
    mask_token_id: int
    log_listed: Tensor

    @classmethod
    def of(
        cls,
        logits: Tensor | Potentials,
        x: Tensor,
        mask_token_id: int,
        *,
        suppress: Sequence[int] = (),
        top_k: TopK = None,
        dtype: torch.dtype | None = None,
        vocabulary_size: int | None = None,
    ) -> Marginals:
        """What logits say; differentiable in them.

        Args:
            logits: the backbone's, [B, L, V]; or `pcflow.Potentials` of the only tokens that are
                possible, [B, L, k]. -inf is allowed. Not read where x is visible.
            x: tokens with masks, [B, L].
            mask_token_id: the mask, which may be one of the V tokens.
            suppress: other tokens that are impossible; those outside of the vocabulary always are.
            top_k: how many tokens to list at every position, the most probable ones; nothing but
                their choice and their share is then computed over all V. "auto" lists as many as
                it takes, where V is large (see `CircuitHead`). None for all.
            dtype: to compute in; that of the logits, or float32 if that is less.
            vocabulary_size: V, where tokens are listed; otherwise it is seen.

        Raises:
            TypeMismatch: if these are no logits of these tokens.
            ShapeMismatch: likewise.
            TokenOutOfRange: if one that is listed is outside the vocabulary.
            LogitsError: if a masked position has no distribution.
        """
        check_rows("x", x)
        log, listed, vocabulary = _parts(logits, x, vocabulary_size)
        mask_token_id = check_id("mask_token_id", mask_token_id)
        check_top_k(top_k)
        masked = x == mask_token_id
        never = _inside((mask_token_id, *check_ids("suppress", suppress)), vocabulary)
        dtype = dtype or torch.promote_types(log.dtype, torch.float32)
        never, most = never.to(log.device), most_listed(top_k, vocabulary)
        if listed is not None:
            scores = _some(log.to(dtype), listed, ~masked, never)
        elif most is None or most + len(never) >= vocabulary:
            scores = _all(log.to(dtype), ~masked, never)
        else:
            return cls._listing(log, x, masked, never, top_k, most, dtype, mask_token_id)
        log_m = scores.log_softmax(dim=-1)
        _refuse_empty(log_m, scores, masked)
        tokens, whole = x.masked_fill(masked, 0).long(), log_m.new_zeros(x.shape)
        said = cls(tokens, masked, log_m, listed, vocabulary, mask_token_id, whole)
        return said.few(top_k)

    @classmethod
    def _listing(
        cls,
        logits: Tensor,
        x: Tensor,
        masked: Tensor,
        never: Tensor,
        top_k: TopK,
        most: int,
        dtype: torch.dtype,
        mask_token_id: int,
    ) -> Marginals:
        """What logits of all tokens say of those that are listed."""
        best = _best(logits, most, never)
        best = best.like(best.log.to(dtype))
        peak = best.log.detach().amax(dim=-1)  # [B, L]
        total = log_sum(logits, masked, never, peak)
        lower = best.like(best.log - peak.unsqueeze(-1))
        few = needed(lower, total, masked) if top_k == "auto" else lower
        scores = few.log.masked_fill(~masked.unsqueeze(-1), 0.0)
        log_m = scores.log_softmax(dim=-1)
        _refuse_empty(log_m, best.log, masked)
        share = (scores.logsumexp(dim=-1) - total).clamp_max(0.0).masked_fill(~masked, 0.0)
        tokens, size = x.masked_fill(masked, 0).long(), logits.shape[-1]
        return cls(tokens, masked, log_m, few.categories, size, mask_token_id, share)

    @property
    def length(self) -> int:
        """How many positions there are, L."""
        return self.tokens.shape[1]

    @cached_property
    def potentials(self) -> Potentials:
        """The log-marginals as potentials, be they of all tokens or listed."""
        return Potentials.of(self.log_m, self.listed)

    @property
    def left_out(self) -> Tensor:
        """The mass of the tokens that are not listed, [B, L]; zero where visible."""
        return self.log_listed.expm1().abs()

    @property
    def log_shares(self) -> Tensor:
        """Log-probabilities among all tokens, as `log_m` is about them; to compare positions."""
        return self.log_m if self.listed is None else self.log_m + self.log_listed.unsqueeze(-1)

    def visible(self) -> Evidence:
        """The visible tokens as observations, and nothing else."""
        return Evidence(self.tokens, self.masked)

    def soft(self, log_potentials: Tensor) -> Evidence:
        """The visible tokens, and a say about the others.

        Args:
            log_potentials: about what `log_m` is about, in its shape.
        """
        return Evidence(self.tokens, self.masked, log_potentials, self.listed)

    def at(self, rows: Tensor, places: Tensor | slice = slice(None)) -> Marginals:
        """Some rows, or windows of them.

        Args:
            rows: which, [W]; or [W, 1] for windows.
            places: which positions, a slice; or [W, L] those of every window.
        """
        tokens, masked = self.tokens[rows, places], self.masked[rows, places]
        said, share = self.potentials[rows, places], self.log_listed[rows, places]
        return replace(
            self,
            tokens=tokens,
            masked=masked,
            log_m=said.log,
            listed=said.categories,
            log_listed=share,
        )

    def after(self, tokens: Tensor) -> Marginals:
        """The same behind visible tokens, of which nothing is said.

        Args:
            tokens: [B, C].

        Examples:
            >>> said = Marginals.of(torch.zeros(1, 1, 4), torch.tensor([[9]]), mask_token_id=9)
            >>> said.after(torch.tensor([[2, 3]])).masked
            tensor([[False, False,  True]])
        """
        before = tokens.shape[1]
        if not before:
            return self
        log_m, listed = pad(self.log_m, (0, 0, before, 0)), self.listed
        if listed is not None:
            listed = pad(listed, (0, 0, before, 0))
            listed[:, :before] = torch.arange(listed.shape[-1], device=listed.device)
        both = torch.cat([tokens, self.tokens], dim=1)
        masked, share = pad(self.masked, (before, 0)), pad(self.log_listed, (before, 0))
        return replace(
            self, tokens=both, masked=masked, log_m=log_m, listed=listed, log_listed=share
        )

    def top_k(self, k: int | None) -> Marginals:
        """The most probable tokens of every position alone, listed, as if they were all there is.

        Args:
            k: how many; None leaves it as it is.
        """
        few = self.few(k)
        return few if few is self else replace(few, log_listed=self.log_listed)

    def few(self, k: TopK) -> Marginals:
        """What a head lists of it, and which share that is.

        Args:
            k: how many tokens, or "auto"; see `CircuitHead`.
        """
        most = most_listed(k, self.vocabulary_size)
        if most is None or most >= self.log_m.shape[-1]:
            return self
        top = self.potentials.top_k(most)
        if k == "auto":
            top = needed(top, -self.log_listed, self.masked)
        share = top.log.logsumexp(dim=-1).clamp_max(0.0).masked_fill(~self.masked, 0.0)
        log_m = top.log.log_softmax(dim=-1)
        log_m = log_m.masked_fill(~self.masked.unsqueeze(-1), 0.0) if k == "auto" else log_m
        share = self.log_listed + share
        return replace(self, log_m=log_m, listed=top.categories, log_listed=share)

    def top_p(self, p: float | None) -> Marginals:
        """The fewest tokens that have enough mass alone.

        Of a large vocabulary these are listed, and no more of it is sorted than they are among.
        What a head lists already is taken as a whole if it holds less.

        Args:
            p: the mass, at least; None leaves it as it is.
        """
        if p is None:
            return self
        few = self._holding(p)
        ordered, place = few.log_m.sort(dim=-1, descending=True, stable=True)
        mass = (ordered + few.log_listed.unsqueeze(-1)).exp()
        gone = mass.cumsum(dim=-1) - mass >= p
        gone[..., 0] = False
        kept = ordered.masked_fill(gone, -torch.inf).log_softmax(dim=-1)
        return replace(few, log_m=torch.empty_like(kept).scatter(-1, place, kept))

    def _holding(self, p: float) -> Marginals:
        """As few tokens as are known to have mass p, where sorting all takes long."""
        few, count = self, self.log_m.shape[-1]
        if self.listed is not None or count < LARGE:
            return self
        k = MOST
        while k < count:
            few = self.few(k)
            if bool((few.log_listed.exp() >= p)[self.masked].all()):
                return few
            k *= 8
        return self

    def tempered(self, temperature: float) -> Marginals:
        """Every distribution to the power 1 / temperature.

        Args:
            temperature: zero leaves the most probable token.
        """
        if temperature == 1.0:
            return self
        return replace(self, log_m=temper(self.log_m, temperature).log_softmax(dim=-1))

    def log_prob(self, tokens: Tensor) -> Tensor:
        """Log-probability [B, L] (nats) of tokens where masked; -inf if not listed.

        Args:
            tokens: [B, L].
        """
        return self.potentials.at(tokens.unsqueeze(-1)).squeeze(-1)

    def lists(self, tokens: Tensor) -> Tensor:
        """Which tokens are listed, bool [B, L]; all where all are.

        Args:
            tokens: [B, L].
        """
        if self.listed is None:
            return torch.ones_like(self.masked)
        here = (self.listed == tokens.unsqueeze(-1)) & (self.log_m > -torch.inf)
        return here.any(dim=-1)

    def log_prob_unlisted(self, logits: Tensor | Potentials, tokens: Tensor) -> Tensor:
        """Log-probability [B, L] (nats) of tokens [B, L] that are not listed; -inf if they are.

        Args:
            logits: of which this was made.
            tokens: [B, L].
        """
        if self.listed is None:
            return torch.full_like(self.log_listed, -torch.inf)
        every = logits if isinstance(logits, Potentials) else Potentials.of(logits)
        best = self.log_m.detach().argmax(dim=-1, keepdim=True)  # [B, L, 1]
        known = every.at(self.listed.gather(-1, best)).to(self.log_m.dtype)
        beside = every.at(tokens.unsqueeze(-1)).to(self.log_m.dtype) - known
        found = (beside + self.log_m.gather(-1, best)).squeeze(-1) + self.log_listed
        never = self.lists(tokens) | (tokens == self.mask_token_id)
        return found.masked_fill(never, -torch.inf)

    def draw(self, temperature: float, generator: torch.Generator | None = None) -> Tensor:
        """Tokens [B, L], each drawn by itself.

        Args:
            temperature: zero takes the most probable ones.
            generator: randomness; torch's global one if not given.
        """
        if temperature == 0.0:
            place = self.log_m.argmax(dim=-1)
        else:
            weights = (self.tempered(temperature).log_m * LOG2_E).exp2_()  # faster than exp
            place = torch.multinomial(weights.flatten(0, 1), 1, generator=generator)
            place = place.view(self.tokens.shape)
        return self.potentials.category(place)


def without(logits: Tensor, tokens: Sequence[int]) -> Tensor:
    """Logits [..., V] with no mass on some tokens; ids outside of the vocabulary are no tokens.

    Args:
        logits: of any shape [..., V].
        tokens: ids.

    Returns:
        Logits [..., V].

    Examples:
        >>> without(torch.zeros(3), [1, 3, -1])
        tensor([0., -inf, 0.])
    """
    never = _inside(tokens, logits.shape[-1]).to(logits.device)
    return logits.index_fill(-1, never, -torch.inf) if len(never) else logits


def temper(log_p: Tensor, temperature: float) -> Tensor:
    """Log-probabilities to the power 1 / temperature, unnormalised; zero leaves only the best.

    Args:
        log_p: log-probabilities [..., V], in nats.
        temperature: from zero up.

    Returns:
        Numbers [..., V].

    Examples:
        >>> temper(torch.tensor([0.5, 0.25]).log(), 0.5).exp()
        tensor([0.2500, 0.0625])
    """
    if temperature == 0:
        first = log_p.argmax(dim=-1, keepdim=True)
        return torch.full_like(log_p, -torch.inf).scatter(-1, first, 0.0)
    return log_p / temperature


def _inside(tokens: Sequence[int], vocabulary: int) -> Tensor:
    """Those that are among the V, once each."""
    return torch.tensor(sorted({t for t in tokens if 0 <= t < vocabulary}), dtype=torch.long)


def _parts(
    logits: Tensor | Potentials, x: Tensor, vocabulary_size: int | None
) -> tuple[Tensor, Tensor | None, int]:
    """Numbers [B, L, V or k], which tokens they are about if not all [B, L, k], and V."""
    said = logits if isinstance(logits, Potentials) else Potentials.of(logits)
    check_logits("logits", said.log, x)
    if said.categories is None:
        return said.log, None, said.log.shape[-1]
    size = int(said.categories.max()) + 1 if vocabulary_size is None else vocabulary_size
    check_tokens("listed tokens", said.categories, size)
    return said.log, said.categories.long(), size


def _some(logits: Tensor, listed: Tensor, visible: Tensor, never: Tensor) -> Tensor:
    """Logits [B, L, k] of listed tokens with no mass on some, even ones where visible."""
    possible = logits.masked_fill(torch.isin(listed, never), -torch.inf)
    return possible.masked_fill(visible.unsqueeze(-1), 0.0)


def _all(logits: Tensor, visible: Tensor, never: Tensor) -> Tensor:
    """Logits [B, L, V] with no mass on some tokens, even ones where visible."""
    if bool(visible.any()):  # going over all logits takes its time
        logits = logits.masked_fill(visible.unsqueeze(-1), 0.0)
    return logits.index_fill(-1, never, -torch.inf) if len(never) else logits


def _best(logits: Tensor, k: int, never: Tensor) -> Potentials:
    """The k largest logits [B, L, k] of tokens that are possible."""
    best = Potentials.of(logits).top_k(k + len(never))
    if not len(never):
        return best
    assert best.categories is not None
    scores = best.log.masked_fill(torch.isin(best.categories, never), -torch.inf)
    order = scores.argsort(dim=-1, stable=True)[..., len(never) :]  # all but the lowest
    place = order.sort(dim=-1).values
    return Potentials.of(scores.gather(-1, place), best.categories.gather(-1, place))


def _refuse_empty(log_m: Tensor, scores: Tensor, masked: Tensor) -> None:
    """Refuse a masked position [B, L] without a distribution: all of its numbers are then NaN."""
    wrong = log_m.detach()[..., 0].isnan() & masked
    if bool(wrong.any()):
        row, position = wrong.nonzero()[0].tolist()
        found = float(scores[row, position].detach().amax())
        empty = found == -torch.inf
        raise LogitsError(row, position, "leave no token possible" if empty else f"hold {found}")
