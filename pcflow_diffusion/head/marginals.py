"""What a backbone says of single positions: one value, which heads, couplings and decoders take.

Legend: B batch, L positions, V tokens, k listed tokens, W width of a window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import log

import torch
from torch import Tensor
from torch.nn.functional import pad

from pcflow import Evidence, Potentials
from pcflow_diffusion.checks import (
    check_count,
    check_id,
    check_ids,
    check_logits,
    check_rows,
    check_tokens,
)
from pcflow_diffusion.errors import LogitsError

LOG2_E = 1 / log(2)


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
        vocabulary_size: V.
        mask_token_id: the mask, which has no mass if it is one of the V.

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

    @classmethod
    def of(
        cls,
        logits: Tensor | Potentials,
        x: Tensor,
        mask_token_id: int,
        *,
        suppress: Sequence[int] = (),
        top_k: int | None = None,
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
            top_k: how many tokens to list at every position, the most probable ones; nothing else
                is then computed over all V. None for all.
            dtype: to compute in; that of the logits, or float32 if that is less.
            vocabulary_size: V, where tokens are listed; otherwise it is seen.

        Raises:
            TypeMismatch, ShapeMismatch: if these are no logits of these tokens.
            TokenOutOfRange: if one that is listed is outside the vocabulary.
            LogitsError: if a masked position has no distribution.
        """
        check_rows("x", x)
        log, listed, vocabulary = _parts(logits, x, vocabulary_size)
        mask_token_id = check_id("mask_token_id", mask_token_id)
        if top_k is not None:
            check_count("top_k", top_k)
        masked = x == mask_token_id
        never = _inside((mask_token_id, *check_ids("suppress", suppress)), vocabulary)
        dtype = dtype or torch.promote_types(log.dtype, torch.float32)
        never = never.to(log.device)
        if listed is not None:
            scores = _some(log.to(dtype), listed, ~masked, never)
        elif top_k is None or top_k + len(never) >= vocabulary:
            scores = _all(log.to(dtype), ~masked, never)
        else:
            scores, listed = _best(log, top_k, never)
            scores = scores.to(dtype).masked_fill(~masked.unsqueeze(-1), 0.0)
        tokens = x.masked_fill(masked, 0).long()
        log_m = scores.log_softmax(dim=-1)
        _refuse_empty(log_m, scores, masked)
        return cls(tokens, masked, log_m, listed, vocabulary, mask_token_id).top_k(top_k)

    @property
    def length(self) -> int:
        """L."""
        return self.tokens.shape[1]

    @cached_property
    def potentials(self) -> Potentials:
        """The log-marginals as potentials, be they of all tokens or listed."""
        return Potentials.of(self.log_m, self.listed)

    def visible(self) -> Evidence:
        """The visible tokens as observations, and nothing else."""
        return Evidence(self.tokens, self.masked)

    def soft(self, log_potentials: Tensor) -> Evidence:
        """The visible tokens, and log-potentials of the others, as `log_m` is about them."""
        return Evidence(self.tokens, self.masked, log_potentials, self.listed)

    def at(self, rows: Tensor, places: Tensor | slice = slice(None)) -> Marginals:
        """Some rows; or of rows [W, 1] the places [W, L]."""
        tokens, masked = self.tokens[rows, places], self.masked[rows, places]
        said = self.potentials[rows, places]
        return replace(self, tokens=tokens, masked=masked, log_m=said.log, listed=said.categories)

    def after(self, tokens: Tensor) -> Marginals:
        """The same behind visible tokens [B, C], of which nothing is said.

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
        masked = pad(self.masked, (before, 0))
        return replace(self, tokens=both, masked=masked, log_m=log_m, listed=listed)

    def top_k(self, k: int | None) -> Marginals:
        """The k most probable tokens of every position alone, listed; None leaves it as it is."""
        if k is None or k >= self.log_m.shape[-1]:
            return self
        top = self.potentials.top_k(k)
        return replace(self, log_m=top.log.log_softmax(dim=-1), listed=top.categories)

    def top_p(self, p: float | None) -> Marginals:
        """The fewest tokens whose mass is at least p alone; None leaves it as it is."""
        if p is None:
            return self
        ordered, place = self.log_m.sort(dim=-1, descending=True, stable=True)
        mass = ordered.exp()
        gone = mass.cumsum(dim=-1) - mass >= p
        gone[..., 0] = False
        kept = ordered.masked_fill(gone, -torch.inf).log_softmax(dim=-1)
        return replace(self, log_m=torch.empty_like(kept).scatter(-1, place, kept))

    def tempered(self, temperature: float) -> Marginals:
        """Every distribution to the power 1 / temperature; zero leaves the most probable token."""
        if temperature == 1.0:
            return self
        return replace(self, log_m=temper(self.log_m, temperature).log_softmax(dim=-1))

    def log_prob(self, tokens: Tensor) -> Tensor:
        """Log-probability [B, L] (nats) of tokens [B, L] where masked."""
        return self.potentials.at(tokens.unsqueeze(-1)).squeeze(-1)

    def draw(self, temperature: float, generator: torch.Generator | None = None) -> Tensor:
        """Tokens [B, L], each drawn by itself; at temperature zero the most probable ones."""
        if temperature == 0.0:
            place = self.log_m.argmax(dim=-1)
        else:
            weights = (self.tempered(temperature).log_m * LOG2_E).exp2_()  # faster than exp
            place = torch.multinomial(weights.flatten(0, 1), 1, generator=generator)
            place = place.view(self.tokens.shape)
        return self.potentials.category(place)


def without(logits: Tensor, tokens: Sequence[int]) -> Tensor:
    """Logits [..., V] with no mass on some tokens; ids outside of the vocabulary are no tokens.

    Examples:
        >>> without(torch.zeros(3), [1, 3, -1])
        tensor([0., -inf, 0.])
    """
    never = _inside(tokens, logits.shape[-1]).to(logits.device)
    return logits.index_fill(-1, never, -torch.inf) if len(never) else logits


def temper(log_p: Tensor, temperature: float) -> Tensor:
    """Log-probabilities to the power 1 / temperature, unnormalised; zero leaves only the best."""
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


def _best(logits: Tensor, k: int, never: Tensor) -> tuple[Tensor, Tensor]:
    """The k largest logits [B, L, k] of tokens that are possible, and which these are."""
    scores, listed = _largest(logits, k + len(never))
    if not len(never):
        return scores, listed
    scores = scores.masked_fill(torch.isin(listed, never), -torch.inf)
    order = scores.argsort(dim=-1, stable=True)[..., len(never) :]  # all but the lowest
    place = order.sort(dim=-1).values
    return scores.gather(-1, place), listed.gather(-1, place)


def _largest(numbers: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest [B, L, k] of numbers [B, L, V], and where they are, from the lowest up."""
    top = Potentials.of(numbers).top_k(k)
    assert top.categories is not None
    return top.log, top.categories


def _refuse_empty(log_m: Tensor, scores: Tensor, masked: Tensor) -> None:
    """Refuse a masked position [B, L] without a distribution: all of its numbers are then NaN."""
    wrong = log_m.detach()[..., 0].isnan() & masked
    if bool(wrong.any()):
        row, position = wrong.nonzero()[0].tolist()
        found = float(scores[row, position].detach().amax())
        empty = found == -torch.inf
        raise LogitsError(row, position, "leave no token possible" if empty else f"hold {found}")
