"""How probable an answer is: a lower bound of its log-likelihood, by random orders of unmasking.

A masked diffusion model writes an answer in some order, some tokens at a time, and every way of
writing it has a probability that can be computed. What the model gives the answer is the mean over
all ways; the mean of the logarithms is below its logarithm, by Jensen's inequality, and needs no
more than a few ways drawn at random, of which one step each is looked at.

Legend: N samples, P tokens of the context, T tokens of the answer, L positions of a block, W width
of the circuit's window, V tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pcflow import NoMassError, SettingError
from pcflow_diffusion.checks import check_count, check_kind, check_rows
from pcflow_diffusion.head import CircuitHead, Marginals
from pcflow_diffusion.models import Backbone, logits_of


@torch.no_grad()
def likelihood_bound(
    backbone: Backbone,
    context: Tensor,
    answer: Tensor,
    mask_token_id: int,
    head: CircuitHead | None = None,
    *,
    steps: int | None = None,
    block_length: int | None = None,
    samples: int = 128,
    batch_size: int = 32,
    generator: torch.Generator | None = None,
) -> float:
    """An unbiased estimate of a lower bound of log p(answer | context) (nats).

    The answer is written block by block, as by `generate`; of blocks to the right the backbone sees
    the masks. Within a block positions come in a random order: one by one, or `steps` times some of
    them together. What is drawn together has the probability of the coupled joint under a head,
    and of independent draws without one. In a single step the bound is the log-likelihood itself.
    Without a head and one by one, LLaDA is evaluated by it (Nie et al. 2025, Eq. 6).

    Args:
        backbone: maps tokens [N, n] to logits [N, n, V].
        context: tokens [P], which may be none.
        answer: tokens [T].
        mask_token_id: the mask.
        head: couples what is drawn together; its circuit sees as much context as it has room for.
        steps: in which a block is written, as many tokens in each, up to one; by default one by
            one, where all masked tokens of a sample are counted.
        block_length: tokens of a block, L, not above the circuit's length; by default this, or that
            of the answer where there is no head. The last block may be shorter.
        samples: how many to draw for every block, N.
        batch_size: how many of them the backbone is asked about at once.
        generator: source of the orders.

    Returns:
        -inf where the circuit holds context and answer impossible.

    Raises:
        SettingError: if a number is below 1, or a block longer than the circuit.
        ShapeMismatch: if context and answer are not rows of tokens.
        TypeMismatch: likewise.
        BackboneError: if the backbone says nothing of the answer.
        LogitsError: likewise.
        TokenOutOfRange: likewise.

    Examples:
        >>> flat = lambda tokens: torch.zeros(*tokens.shape, 5)
        >>> likelihood_bound(flat, torch.tensor([1, 2]), torch.tensor([3, 0, 4]), 5)  # 3 log 1/5
        -4.828...
    """
    _check_tokens(context=context, answer=answer)
    for name, count in (
        ("samples", samples),
        ("batch_size", batch_size),
        ("steps", 1 if steps is None else steps),
    ):
        check_count(name, count)
    longest = max(1, len(answer)) if head is None else head.length
    L = longest if block_length is None else block_length
    SettingError.check("block_length", L, f"in 1..{longest}", lambda length: 1 <= length <= longest)
    row, total = torch.cat([context, answer]), 0.0
    for start in range(len(context), len(row), L):
        block = _Block(backbone, row, range(start, min(start + L, len(row))), mask_token_id, head)
        plan = _plan(len(block.span), steps, samples, generator, row.device)
        parts = zip(*(part.split(batch_size) for part in plan), strict=True)
        found = [block.log_prob(masked, decided, steps is None) * w for masked, decided, w in parts]
        total += float(torch.cat(found).double().mean())
    return total


def _check_tokens(**rows: Tensor) -> None:
    for name, tokens in rows.items():
        check_kind(name, tokens, Tensor)
        check_rows(name, tokens[None])


def _plan(
    length: int,
    steps: int | None,
    samples: int,
    generator: torch.Generator | None,
    device: torch.device,
) -> tuple[Tensor, Tensor, Tensor]:
    """Which positions are masked and which are decided, bool [N, L], and how much it counts [N].

    Every step comes as often as any other, or once more, beginning with a random one.
    """
    ways = length if steps is None else min(steps, length)
    samples = 1 if length == 1 or steps == 1 else samples
    rank = torch.rand(samples, length, generator=generator, device=device).argsort(dim=1)
    first = torch.randint(ways, (1,), generator=generator, device=device)
    step = ((first + torch.arange(samples, device=device)) % ways).unsqueeze(1)  # [N, 1]
    if steps is None:
        masked = rank >= step
        return masked, masked, length / masked.sum(dim=1)
    turn = rank * ways // length
    return turn >= step, turn == step, torch.full((samples,), float(ways), device=device)


@dataclass(frozen=True, eq=False)
class _Block:
    """A part of a row that is written, after what is before it."""

    backbone: Backbone
    row: Tensor  # [P + T]
    span: range
    mask_token_id: int
    head: CircuitHead | None

    def log_prob(self, masked: Tensor, decided: Tensor, alone: bool) -> Tensor:
        """Log-probability [N] of the decided tokens, where others are masked, both bool [N, L].

        Together, or the sum of those that each of them has alone.
        """
        x = self.row.repeat(len(masked), 1)
        x[:, self.span.start :] = self.mask_token_id
        block = self.row[self.span.start : self.span.stop].expand_as(masked)
        x[:, self.span.start : self.span.stop] = block.where(~masked, self.mask_token_id)
        logits = logits_of(self.backbone, x)
        width = len(self.span) if self.head is None else min(self.head.length, self.span.stop)
        window = slice(self.span.stop - width, self.span.stop)
        logits, x, x0 = logits[:, window], x[:, window], self.row[window].expand(len(x), -1)
        at = torch.zeros_like(x, dtype=torch.bool)
        at[:, -len(self.span) :] = decided
        if self.head is None:
            return _each(Marginals.of(logits, x, self.mask_token_id).log_prob(x0), at)
        head = self.head.over(width)
        if not alone:
            return head.log_prob(logits, x, x0, at)
        try:
            log_q = head(logits, x).gather(-1, x0.unsqueeze(-1)).squeeze(-1)
        except NoMassError:  # what was written so far is impossible, and so is the answer
            return torch.full_like(at[:, 0], -torch.inf, dtype=logits.dtype)
        return _each(log_q, at)


def _each(log_q: Tensor, at: Tensor) -> Tensor:
    return log_q.where(at, 0.0).sum(dim=1)
