"""`generate`: text block by block, after a prompt.

Legend: B batch, P prompt, L positions of a span, W width of a window, V tokens.
"""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor

from pcflow_diffusion.backbones import Backbone
from pcflow_diffusion.checks import check_count, check_generator, check_id, check_rows
from pcflow_diffusion.decode.decoding import Decoding
from pcflow_diffusion.decode.span import span_of
from pcflow_diffusion.errors import GenerationError
from pcflow_diffusion.head import CircuitHead


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
    circuit_context: int | None = None,
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
        circuit_context: how many tokens before what it decides the circuit sees at most, of those
            that the backbone sees. None shows as many as a circuit that is longer than the block
            has room for; 0 suits one that knows only how texts begin (see `pcflow.stationary`).
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
    span = span_of(backbone, head, mask_token_id, decoding, generator, circuit_context)
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


def _by_length(prompt: Tensor, pad: int | None) -> list[Tensor]:
    """Rows of equal length of the prompt, in the order in which lengths are met."""
    if pad is None:
        return [torch.arange(len(prompt), device=prompt.device)]
    groups: dict[int, list[int]] = defaultdict(list)
    for number, row in enumerate(prompt):
        groups[_padding(row, pad)].append(number)
    return [torch.tensor(rows, device=prompt.device) for rows in groups.values()]


def _padding(row: Tensor, pad: int) -> int:
    """How many tokens on the left are padding."""
    other = (row != pad).nonzero()
    return int(other[0]) if len(other) else len(row)


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
