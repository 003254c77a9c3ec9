"""Generation: block diffusion, with a circuit or with factorised draws.

Legend: B batch, L positions of a block, V tokens.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from pcflow_diffusion.backbones import Backbone
from pcflow_diffusion.errors import GenerationError
from pcflow_diffusion.head import CircuitHead

Ranking = Literal["random", "low_confidence", "margin", "entropy"]


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
) -> Tensor:
    """Generate text block by block, each block in several steps (CoDD, Algorithm 1).

    A step draws every masked token of the block, jointly through the head or independently from
    the backbone's marginals, and commits the draws at the positions that the ranking prefers; the
    others stay masked. Blocks to the right are not shown to the backbone.

    Args:
        backbone: maps tokens [B, n] to logits [B, n, V].
        prompt: tokens [B, P]; P may be 0.
        head: a `CircuitHead` over `block_length` positions; None draws independently.
        steps: backbone calls in all, spread evenly over the blocks.
        gen_length: number of tokens to generate.
        block_length: tokens per block, L.
        mask_token_id: the backbone's mask; by default the head's, or `backbone.mask_token_id`.
        ranking: which positions to commit first: "low_confidence" those whose drawn token is the
            most probable, "margin" the largest distance between the two best tokens, "entropy" the
            lowest entropy, "random" any.
        temperature: of the tokens; zero takes the most probable ones.
        context: how many tokens before the block the backbone sees; None shows all.
        generator: source of randomness; torch's global one by default.

    Returns:
        Prompt and generated tokens, [B, P + gen_length].

    Raises:
        GenerationError: if the lengths, steps or the ranking do not fit together.

    Examples:
        >>> backbone = lambda tokens: torch.zeros(*tokens.shape, 4)
        >>> prompt = torch.zeros(2, 3, dtype=torch.long)
        >>> settings = dict(steps=2, gen_length=4, block_length=2, mask_token_id=4)
        >>> generate(backbone, prompt, **settings).shape
        torch.Size([2, 7])
    """
    blocks = _blocks(steps, gen_length, block_length, ranking, head)
    mask = _mask_id(mask_token_id, head, backbone)
    tokens = prompt
    for _ in range(blocks):
        block = prompt.new_full((len(prompt), block_length), mask)
        seen = tokens if context is None else tokens[:, max(0, tokens.shape[1] - context) :]
        for step in range(steps // blocks):
            shown = torch.cat([seen, block], dim=1)
            logits = backbone(shown)[:, -block_length:]  # [B, L, V]
            if head is None:
                drawn, log_q = _independent(logits, temperature, generator)
            else:
                drawn, log_q = head.draw(logits, block, temperature, generator)
            score = _scores(ranking, log_q, drawn, generator)
            commit = _best(score, block == mask, steps // blocks - step)
            block = torch.where(commit, drawn, block)
        tokens = torch.cat([tokens, block], dim=1)
    return tokens


def _blocks(
    steps: int, gen_length: int, block_length: int, ranking: str, head: CircuitHead | None
) -> int:
    """The number of blocks, once everything fits."""
    if block_length < 1 or gen_length < 1 or gen_length % block_length:
        raise GenerationError(f"{gen_length=} must be a positive multiple of {block_length=}")
    blocks = gen_length // block_length
    if steps < blocks or steps % blocks or steps // blocks > block_length:
        raise GenerationError(
            f"{steps=} must be a multiple of the {blocks} blocks, at most {block_length} for each"
        )
    if ranking not in get_args(Ranking):
        raise GenerationError(f"ranking must be one of {get_args(Ranking)}, got {ranking!r}")
    if head is not None and head.model.num_variables != block_length:
        raise GenerationError(
            f"the head covers {head.model.num_variables} positions, but {block_length=}"
        )
    return blocks


def _mask_id(given: int | None, head: CircuitHead | None, backbone: Backbone) -> int:
    found = given if given is not None or head is None else head.mask_token_id
    found = getattr(backbone, "mask_token_id", None) if found is None else found
    if not isinstance(found, int):
        raise GenerationError("mask_token_id is needed: neither head nor backbone has one")
    return found


def _independent(
    logits: Tensor, temperature: float, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Tokens [B, L] drawn position by position, and the log-marginals [B, L, V]."""
    log_m = logits.float().log_softmax(dim=-1)
    if temperature == 0.0:
        return log_m.argmax(dim=-1), log_m
    weights = (log_m / temperature).softmax(dim=-1).flatten(0, 1)
    drawn = torch.multinomial(weights, 1, generator=generator)
    return drawn.view(logits.shape[:-1]), log_m


def _scores(
    ranking: Ranking, log_q: Tensor, drawn: Tensor, generator: torch.Generator | None
) -> Tensor:
    """How much each position [B, L] is preferred."""
    match ranking:
        case "random":
            return torch.rand(drawn.shape, generator=generator, device=drawn.device)
        case "low_confidence":
            return log_q.gather(-1, drawn.unsqueeze(-1)).squeeze(-1)
        case "margin":
            best = log_q.exp().topk(2, dim=-1).values  # [B, L, 2]
            return best[..., 0] - best[..., 1]
        case "entropy":
            entropy: Tensor = torch.special.entr(log_q.exp()).sum(dim=-1)
            return -entropy


def _best(score: Tensor, masked: Tensor, steps_left: int) -> Tensor:
    """The positions [B, L] to commit now: an equal share of those that are still masked."""
    count = (masked.sum(dim=-1, keepdim=True) + steps_left - 1) // steps_left  # [B, 1]
    order = score.masked_fill(~masked, -torch.inf).argsort(dim=-1, descending=True)
    return order.argsort(dim=-1) < count
