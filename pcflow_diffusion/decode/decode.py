"""Generation: block and full diffusion and infilling, with a circuit or with factorised draws.

Legend: B batch, P prompt, L positions of a span, W width of a window, V tokens.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from operator import index

import torch
from torch import Tensor

from pcflow_diffusion.backbones import Backbone, logits_of
from pcflow_diffusion.decode.windows import minimum_cover
from pcflow_diffusion.errors import GenerationError
from pcflow_diffusion.head import (
    CircuitHead,
    Order,
    Ranking,
    best,
    check_order,
    check_ranking,
    rank,
    temper,
    truncate,
    without,
)


@dataclass(frozen=True)
class Decoding:
    """How the tokens of a span are decided, step by step.

    Args:
        temperature: of the tokens; zero takes the most probable ones. In the order "joint" these
            are the most probable given a latent path, which a head draws at temperature 1 whatever
            this is (CoDD, Sec. 5.1), so that texts differ between seeds even at zero.
        order: how a head draws: "joint", "any_order", "sharpened" or "mpe" (see `sampling.draw`);
            "mpe" is the deterministic one.
        ranking: which positions to commit first: "low_confidence" those whose token is the most
            probable, "margin" the largest distance between the two best tokens, "entropy" the
            lowest entropy, "random" any.
        gamma: couple a row only while a smaller share of its window is masked than this (CoDD,
            Sec. 5.3); always by default.
        threshold: also commit every token whose probability, before temperature, is above this:
            the backbone's before `top_k` and `top_p`. Of tokens that a head draws together, in a
            block no longer than its circuit, it is `sampling.Draw.confidence` under the coupled
            joint, whose potentials are the marginals after `top_k` and `top_p`.
        top_k: consider only so many tokens at every position, by the backbone.
        top_p: consider only the most probable tokens that together have this mass.
        suppress: tokens that are never generated; those outside the vocabulary never are.
        end_token_id: rows stop after the block in which they end; the rest is filled with it.

    Raises:
        GenerationError: if a setting is out of range.
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
        if self.gamma is not None and not self.gamma >= 0:
            raise GenerationError(f"gamma must not be negative, got {self.gamma}")
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise GenerationError(f"threshold must be a probability, got {self.threshold}")
        if self.top_k is not None and self.top_k < 1:
            raise GenerationError(f"top_k must be at least 1, got {self.top_k}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise GenerationError(f"top_p must be in (0, 1], got {self.top_p}")
        if any(token < 0 for token in self.suppress):
            raise GenerationError(f"suppress must hold ids of tokens, got {tuple(self.suppress)}")


@torch.no_grad()
def generate(
    backbone: Backbone,
    prompt: Tensor,
    head: CircuitHead | None = None,
    *,
    steps: int,
    gen_length: int,
    block_length: int,
    mask_token_id: int | None = None,
    ranking: Ranking = "low_confidence",
    temperature: float = 0.0,
    context: int | None = None,
    generator: torch.Generator | None = None,
    pad_token_id: int | None = None,
    order: Order = "joint",
    gamma: float | None = None,
    threshold: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    suppress: Sequence[int] = (),
    end_token_id: int | None = None,
) -> Tensor:
    """Generate text block by block, each block in several steps (CoDD, Algorithms 1 and 2).

    A step asks the backbone once, draws masked tokens of the block, jointly through the head or
    independently from the backbone's marginals, and commits those that the ranking prefers. Blocks
    to the right are not shown to the backbone. In a block no longer than the circuit, all masked
    tokens are drawn together, and the drawn ones are ranked (block diffusion). In a longer one, up
    to `gen_length`, the backbone's marginals rank positions, the fewest windows hold those to
    commit, and each window is drawn jointly (full diffusion).

    Args:
        backbone: maps tokens [B, n] to logits [B, n, V].
        prompt: tokens [B, P]; P may be 0.
        head: a `CircuitHead`; None draws independently.
        steps: backbone calls at most, spread evenly over the blocks.
        gen_length: number of tokens to generate.
        block_length: tokens per block, L.
        mask_token_id: the backbone's mask; by default the head's, or `backbone.mask_token_id`.
        ranking: see `Decoding`, like what follows.
        temperature: of the tokens; zero takes the most probable ones, but of a latent path that a
            head draws at temperature 1 in the order "joint"; "mpe" is the deterministic order.
        context: how many tokens before the block the backbone sees; None shows all.
        generator: source of randomness; torch's global one by default.
        pad_token_id: what fills shorter prompts up on the left; the backbone never sees it. Rows of
            different lengths are generated after one another.
        order: how the head draws.
        gamma: share of masked tokens from which a row is not coupled.
        threshold: also commit what is surer than this, see `Decoding` for of what.
        top_k: consider only so many tokens.
        top_p: consider only the tokens of this mass.
        suppress: tokens that are never generated.
        end_token_id: where rows may stop early.

    Returns:
        Prompt and generated tokens, [B, P + gen_length].

    Raises:
        GenerationError: if lengths, steps or settings do not fit together, ids of the mask
            contradict one another, or the logits are no distribution at a masked position.
        BackboneError: if the backbone does not return [B, n, V].

    Examples:
        >>> backbone = lambda tokens: torch.zeros(*tokens.shape, 4)
        >>> prompt = torch.zeros(2, 3, dtype=torch.long)
        >>> settings = dict(steps=2, gen_length=4, block_length=2, mask_token_id=4)
        >>> generate(backbone, prompt, **settings).shape
        torch.Size([2, 7])
    """
    blocks = _blocks(steps, gen_length, block_length)
    how = Decoding(
        temperature, order, ranking, gamma, threshold, top_k, top_p, suppress, end_token_id
    )
    if context is not None and context < 0:
        raise GenerationError(f"context must not be negative, got {context}")
    span = _Span(backbone, head, _mask_id(mask_token_id, head, backbone), how, generator)
    tokens = torch.cat([prompt, prompt.new_full((len(prompt), gen_length), span.mask)], dim=1)
    for rows in _by_length(prompt, pad_token_id):
        padding = 0 if pad_token_id is None else _padding(prompt[rows[0]], pad_token_id)
        for block in range(blocks):
            start = prompt.shape[1] + block * block_length
            stop = start + block_length
            first = padding if context is None else max(padding, start - context)
            so_far = tokens[:, :stop]
            tokens[rows, start:stop] = span.fill(so_far, rows, first, start, steps // blocks)
            rows = _unfinished(tokens, rows, start, how.end_token_id)
            if len(rows) == 0:
                break
    return _ended(tokens, prompt.shape[1], how.end_token_id)


@torch.no_grad()
def infill(
    backbone: Backbone,
    tokens: Tensor,
    head: CircuitHead | None = None,
    *,
    steps: int,
    mask_token_id: int | None = None,
    decoding: Decoding | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Fill every mask of a text, wherever it is; the backbone sees all of it.

    Args:
        backbone: maps tokens [B, n] to logits [B, n, V].
        tokens: text with masks, [B, n]; rows may have different ones.
        head: a `CircuitHead`, whose windows are laid over the masks; None draws independently.
        steps: backbone calls at most.
        mask_token_id: the backbone's mask; by default the head's, or `backbone.mask_token_id`.
        decoding: how tokens are decided.
        generator: source of randomness; torch's global one by default.

    Returns:
        Tokens without masks, [B, n].

    Raises:
        GenerationError: if `steps` is below 1, nobody says what a mask is or two contradict one
            another, or the logits are no distribution at a masked position.
        BackboneError: if the backbone does not return [B, n, V].

    Examples:
        >>> backbone = lambda tokens: torch.eye(4)[:3].repeat(len(tokens), 1, 1)
        >>> infill(backbone, torch.tensor([[0, 4, 2]]), steps=1, mask_token_id=4)
        tensor([[0, 1, 2]])
    """
    if steps < 1:
        raise GenerationError(f"steps must be at least 1, got {steps}")
    mask = _mask_id(mask_token_id, head, backbone)
    span = _Span(backbone, head, mask, decoding or Decoding(), generator)
    return span.fill(tokens, torch.arange(len(tokens), device=tokens.device), 0, 0, steps)


@dataclass(frozen=True)
class _Span:
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
            log_m = self.marginals(logits[:, start - first :], masked, rows, start)
            left = masked.sum(dim=-1)  # [B]
            count = (left + steps - step - 1) // (steps - step)
            drawn, commit = self.decide(log_m, span, masked, count)
            span = torch.where(commit, drawn, span)
        return span

    def marginals(self, logits: Tensor, masked: Tensor, rows: Tensor, start: int) -> Tensor:
        """The backbone's log-marginals [B, L, V] of what may be generated, even where visible."""
        log_m = logits.float() if logits.dtype != torch.float64 else logits
        log_m = without(log_m, (*self.how.suppress, self.mask))
        log_m = log_m.masked_fill(~masked.unsqueeze(-1), 0.0)
        highest = log_m.amax(dim=-1)  # NaN if there is one
        wrong = ~highest.isfinite()
        if bool(wrong.any()):
            row, place = (int(i) for i in wrong.nonzero()[0])
            found = float(highest[row, place])
            what = "leave no token possible" if found == -torch.inf else f"hold {found}"
            where = f"row {int(rows[row])}, position {start + place}"
            raise GenerationError(f"{where}: the backbone's logits {what}")
        return log_m.log_softmax(dim=-1)

    def decide(
        self, log_m: Tensor, span: Tensor, masked: Tensor, count: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Tokens [B, L], and which of them to commit."""
        if self.head is not None and span.shape[1] > self.head.length:
            return self.decide_in_windows(self.head, log_m, span, masked, count)
        head = None if self.head is None else self.head.over(span.shape[1])
        return self.decide_together(head, log_m, span, masked, count)

    def decide_together(
        self,
        head: CircuitHead | None,
        log_m: Tensor,
        span: Tensor,
        masked: Tensor,
        count: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Draw first, then rank what was drawn."""
        how, considered = self.how, self.considered(log_m)
        coupled = torch.full_like(count, head is not None, dtype=torch.bool)  # [B]
        if how.gamma is not None:
            coupled &= masked.double().mean(dim=-1) < how.gamma
        tokens, among = self.independent(considered), masked
        score = rank(how.ranking, considered, tokens, self.generator)  # [B, L]
        confidence = log_m.gather(-1, tokens.unsqueeze(-1)).squeeze(-1).exp()
        if head is not None and bool(coupled.any()):
            found = head.draw(
                considered[coupled],
                span[coupled],
                how.temperature,
                how.order,
                how.ranking,
                count[coupled],
                self.generator,
            )
            tokens, among = tokens.clone(), masked.clone()
            tokens[coupled], among[coupled] = found.tokens, found.drawn
            score[coupled] = found.score.to(score.dtype)
            confidence[coupled] = found.confidence.to(confidence.dtype)
        commit = best(score, among, count)
        if how.threshold is not None:
            commit |= (confidence > how.threshold) & among
        return tokens, commit

    def decide_in_windows(
        self, head: CircuitHead, log_m: Tensor, span: Tensor, masked: Tensor, count: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Rank positions by the backbone, then draw in the fewest windows that hold the best."""
        how, width, considered = self.how, head.length, self.considered(log_m)
        commit = best(rank(how.ranking, considered, generator=self.generator), masked, count)
        if how.threshold is not None:
            commit |= masked & (log_m.amax(dim=-1).exp() > how.threshold)
        covers = [
            minimum_cover(row.nonzero().flatten().tolist(), width, 0, span.shape[1])
            for row in commit.cpu()
        ]
        tokens = self.independent(considered)
        placed = [(row, window.start) for row, cover in enumerate(covers) for window in cover]
        if not placed:
            return tokens, commit
        rows = torch.tensor([row for row, _ in placed], device=span.device).unsqueeze(-1)
        places = torch.tensor([start for _, start in placed], device=span.device).unsqueeze(-1)
        places = places + torch.arange(width, device=span.device)  # [windows, W]
        x = span[rows, places]
        inside = (x == self.mask).sum(dim=-1)
        drawn, _ = self.decide_together(head, log_m[rows, places], x, x == self.mask, inside)
        for window in reversed(range(len(placed))):  # where windows overlap, the first one decides
            tokens[rows[window], places[window]] = drawn[window]
        return tokens, commit

    def considered(self, log_m: Tensor) -> Tensor:
        """Log-marginals [B, L, V] of the most probable tokens alone."""
        return truncate(log_m, self.how.top_k, self.how.top_p)

    def independent(self, log_m: Tensor) -> Tensor:
        """Tokens [B, L] drawn position by position."""
        if self.how.temperature == 0.0:
            return log_m.argmax(dim=-1)
        weights = temper(log_m, self.how.temperature).softmax(dim=-1)
        drawn = torch.multinomial(weights.flatten(0, 1), 1, generator=self.generator)
        return drawn.view(log_m.shape[:-1])


def _blocks(steps: int, gen_length: int, block_length: int) -> int:
    """The number of blocks, once everything fits."""
    if block_length < 1 or gen_length < 1 or gen_length % block_length:
        raise GenerationError(f"{gen_length=} must be a positive multiple of {block_length=}")
    blocks = gen_length // block_length
    if steps < blocks or steps % blocks or steps // blocks > block_length:
        raise GenerationError(
            f"{steps=} must be a multiple of the {blocks} blocks, at most {block_length} for each"
        )
    return blocks


def _mask_id(given: int | None, head: CircuitHead | None, backbone: Backbone) -> int:
    """The id on which all agree who have one."""
    said = {
        "argument": None if given is None else index(given),
        "head": None if head is None else head.mask_token_id,
        "backbone": getattr(backbone, "mask_token_id", None),
    }
    ids = {who: found for who, found in said.items() if isinstance(found, int)}
    if not ids:
        raise GenerationError("mask_token_id is needed: neither head nor backbone has one")
    if len(set(ids.values())) > 1:
        named = ", ".join(f"{who} {found}" for who, found in ids.items())
        raise GenerationError(f"different ids of the mask: {named}")
    return next(iter(ids.values()))


def _padding(row: Tensor, pad: int) -> int:
    """How many tokens on the left are padding."""
    other = (row != pad).nonzero()
    return int(other[0]) if len(other) else len(row)


def _by_length(prompt: Tensor, pad: int | None) -> list[Tensor]:
    """Rows of equal length of the prompt, in the order in which lengths are met."""
    if pad is None:
        return [torch.arange(len(prompt), device=prompt.device)]
    groups: dict[int, list[int]] = defaultdict(list)
    for number, row in enumerate(prompt):
        groups[_padding(row, pad)].append(number)
    return [torch.tensor(rows, device=prompt.device) for rows in groups.values()]


def _unfinished(tokens: Tensor, rows: Tensor, start: int, end: int | None) -> Tensor:
    """The rows that have not ended since `start`."""
    if end is None:
        return rows
    return rows[~(tokens[rows, start:] == end).any(dim=-1)]


def _ended(tokens: Tensor, start: int, end: int | None) -> Tensor:
    """Nothing but the end after the end."""
    if end is None:
        return tokens
    generated = tokens[:, start:]
    over = (generated == end).cumsum(dim=-1) > 0
    return torch.cat([tokens[:, :start], generated.masked_fill(over, end)], dim=1)
