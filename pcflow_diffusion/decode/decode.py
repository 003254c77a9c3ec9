"""Generation: block and full diffusion and infilling, with a circuit or with factorised draws.

Legend: B batch, P prompt, L positions of a span, W width of a window, V tokens.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pcflow import SettingError
from pcflow_diffusion.backbones import Backbone, logits_of
from pcflow_diffusion.checks import (
    check_count,
    check_generator,
    check_id,
    check_ids,
    check_kind,
    check_rows,
)
from pcflow_diffusion.decode.windows import minimum_cover
from pcflow_diffusion.errors import GenerationError, LogitsError
from pcflow_diffusion.head import (
    CircuitHead,
    Draw,
    Marginals,
    Order,
    Ranking,
    best,
    check_order,
    check_ranking,
    rank,
)


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


@torch.no_grad()
def generate(
    backbone: Backbone,
    prompt: Tensor,
    head: CircuitHead | None = None,
    *,
    steps: int,
    gen_length: int,
    block_length: int,
    decoding: Decoding | None = None,
    context: int | None = None,
    mask_token_id: int | None = None,
    pad_token_id: int | None = None,
    generator: torch.Generator | None = None,
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
        decoding: how tokens are decided; `Decoding()` by default.
        context: how many tokens before the block the backbone sees; None shows all.
        mask_token_id: the backbone's mask; by default the head's, or `backbone.mask_token_id`.
        pad_token_id: what fills shorter prompts up on the left; the backbone never sees it. Rows of
            different lengths are generated after one another.
        generator: source of randomness; torch's global one by default.

    Returns:
        Prompt and generated tokens, [B, P + gen_length].

    Raises:
        GenerationError: if lengths, steps or settings do not fit together, or ids of the mask
            contradict one another.
        SettingError: if a number is out of range.
        BackboneError: if the backbone does not return [B, n, V].
        LogitsError: if the logits are no distribution at a masked position.
        ShapeMismatch, TypeMismatch: if the prompt is not tokens [B, P], or no number is an id.

    Examples:
        >>> backbone = lambda tokens: torch.zeros(*tokens.shape, 4)
        >>> prompt = torch.zeros(2, 3, dtype=torch.long)
        >>> how = Decoding(temperature=1.0)
        >>> settings = dict(steps=2, gen_length=4, block_length=2, mask_token_id=4)
        >>> generate(backbone, prompt, **settings, decoding=how).shape
        torch.Size([2, 7])
    """
    check_rows("prompt", prompt)
    blocks = _blocks(steps, gen_length, block_length)
    if context is not None:
        check_count("context", context, least=0)
    if pad_token_id is not None:
        check_id("pad_token_id", pad_token_id)
    check_generator(generator, prompt.device)
    span = _span(backbone, head, mask_token_id, decoding, generator)
    tokens = torch.cat([prompt, prompt.new_full((len(prompt), gen_length), span.mask)], dim=1)
    for rows in _by_length(prompt, pad_token_id):
        padding = 0 if pad_token_id is None else _padding(prompt[rows[0]], pad_token_id)
        for block in range(blocks):
            start = prompt.shape[1] + block * block_length
            stop = start + block_length
            first = padding if context is None else max(padding, start - context)
            so_far = tokens[:, :stop]
            tokens[rows, start:stop] = span.fill(so_far, rows, first, start, steps // blocks)
            rows = _unfinished(tokens, rows, start, span.how.end_token_id)
            if len(rows) == 0:
                break
    return _ended(tokens, prompt.shape[1], span.how.end_token_id)


@torch.no_grad()
def infill(
    backbone: Backbone,
    tokens: Tensor,
    head: CircuitHead | None = None,
    *,
    steps: int,
    decoding: Decoding | None = None,
    mask_token_id: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Fill every mask of a text, wherever it is; the backbone sees all of it.

    Args:
        backbone: maps tokens [B, n] to logits [B, n, V].
        tokens: text with masks, [B, n]; rows may have different ones.
        head: a `CircuitHead`, whose windows are laid over the masks; None draws independently.
        steps: backbone calls at most.
        decoding: how tokens are decided; `Decoding()` by default.
        mask_token_id: the backbone's mask; by default the head's, or `backbone.mask_token_id`.
        generator: source of randomness; torch's global one by default.

    Returns:
        Tokens without masks, [B, n].

    Raises:
        GenerationError: if there is an end, nobody says what a mask is or two contradict one
            another.
        SettingError: if `steps` is below 1.
        BackboneError: if the backbone does not return [B, n, V].
        LogitsError: if the logits are no distribution at a masked position.
        ShapeMismatch, TypeMismatch: if the text is not tokens [B, n], or no number is an id.

    Examples:
        >>> backbone = lambda tokens: torch.eye(4)[:3].repeat(len(tokens), 1, 1)
        >>> infill(backbone, torch.tensor([[0, 4, 2]]), steps=1, mask_token_id=4)
        tensor([[0, 1, 2]])
    """
    check_rows("tokens", tokens)
    check_count("steps", steps)
    check_generator(generator, tokens.device)
    span = _span(backbone, head, mask_token_id, decoding, generator)
    if span.how.end_token_id is not None:
        raise GenerationError("infill fills every mask: decoding.end_token_id is for generate")
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
            said = self.read(logits[:, start - first :], span, rows, start)
            left = masked.sum(dim=-1)  # [B]
            count = (left + steps - step - 1) // (steps - step)
            drawn, commit = self.decide(said, count)
            span = torch.where(commit, drawn, span)
        return span

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
        commit = best(found.score, found.drawn, count)
        if self.how.threshold is not None:
            commit |= (found.confidence > self.how.threshold) & found.drawn
        return found.tokens, commit

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
            order=how.order,
            ranking=how.ranking,
            count=count,
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
        commit = best(score, said.masked, count)
        if self.how.threshold is not None:
            commit |= said.masked & (said.log_m.amax(dim=-1).exp() > self.how.threshold)
        rows, places = _windows(commit, head.length)
        tokens = said.tokens.clone()
        if len(rows):
            some, few = said.at(rows, places), likely.at(rows, places)
            drawn, _ = self.decide_together(head, some, few, some.masked.sum(dim=-1))
            for window in reversed(range(len(rows))):  # where two overlap, the first one decides
                tokens[rows[window], places[window]] = drawn[window]
        return tokens, commit


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


def _blocks(steps: int, gen_length: int, block_length: int) -> int:
    """The number of blocks, once everything fits."""
    for name, count in (("gen_length", gen_length), ("block_length", block_length)):
        check_count(name, count)
    check_count("steps", steps)
    if gen_length % block_length:
        raise GenerationError(f"{gen_length=} must be a multiple of {block_length=}")
    blocks = gen_length // block_length
    if steps < blocks or steps % blocks or steps // blocks > block_length:
        raise GenerationError(
            f"{steps=} must be a multiple of the {blocks} blocks, at most {block_length} for each"
        )
    return blocks


def _span(
    backbone: Backbone,
    head: CircuitHead | None,
    mask_token_id: int | None,
    decoding: Decoding | None,
    generator: torch.Generator | None,
) -> _Span:
    """What fills masks, once those who say how agree."""
    how = Decoding() if decoding is None else decoding
    check_kind("decoding", how, Decoding)
    if head is not None:
        check_kind("head", head, CircuitHead)
    mask = _mask_id(mask_token_id, head, backbone)
    if head is not None and how.top_k is not None:
        raise GenerationError("decoding.top_k is for draws without a head: set the head's top_k")
    if how.end_token_id == mask:
        raise GenerationError(f"end_token_id is the mask, {mask}")
    return _Span(backbone, head, mask, how, generator)


def _mask_id(given: int | None, head: CircuitHead | None, backbone: Backbone) -> int:
    """The id on which all agree who have one."""
    said = {
        "argument": given,
        "head": None if head is None else head.mask_token_id,
        "backbone": getattr(backbone, "mask_token_id", None),
    }
    ids = {who: check_id("mask_token_id", i) for who, i in said.items() if i is not None}
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
