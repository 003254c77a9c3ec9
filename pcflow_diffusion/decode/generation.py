"""`generate`: text block by block, after a prompt.

Legend: B batch, P prompt, L positions of a block, W width of a window, V tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import pad

from pcflow_diffusion.checks import (
    check_choice,
    check_count,
    check_id,
    check_kind,
    check_rows,
)
from pcflow_diffusion.decode.canvas import Callback, canvas_of, settled
from pcflow_diffusion.decode.decoding import Decoding
from pcflow_diffusion.decode.prompts import (
    Text,
    Tokens,
    bounds,
    check_known,
    check_prompt,
    device_of,
    padded_with,
    read_text,
)
from pcflow_diffusion.errors import GenerationError
from pcflow_diffusion.head import CircuitHead
from pcflow_diffusion.models import Backbone, vocabulary_of

Show = Literal["all", "blocks"]


@torch.no_grad()
def generate(
    backbone: Backbone,
    prompt: Tokens,
    head: CircuitHead | None = None,
    *,
    steps: int,
    gen_length: int,
    block_length: int,
    decoding: Decoding | None = None,
    show: Show = "all",
    context: int | None = None,
    circuit_context: int | None = None,
    align: bool = False,
    attention_mask: Tensor | None = None,
    mask_token_id: int | None = None,
    pad_token_id: int | None = None,
    callback: Callback | None = None,
    cache: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Generate text block by block, each block in several steps (CoDD, Algorithms 1 and 2).

    A step asks the backbone once, draws masked tokens of the block, jointly through the head or
    independently from the backbone's marginals, and commits those that the ranking prefers, as many
    as in every other step of the block. In a block no longer than the circuit, all masked tokens
    are drawn together, and the drawn ones are ranked (block diffusion). In a longer one, up to
    `gen_length`, the backbone's marginals rank positions, the fewest windows hold those to commit,
    and each window is drawn jointly (full diffusion). Without a head this is LLaDA's loop.

    Args:
        backbone: maps tokens [B, n] to logits [B, n, V].
        prompt: tokens [B, P] or [P], lists of them, which may differ in length, or what a tokenizer
            returns, with its attention mask; P may be 0.
        head: a `CircuitHead`; None draws independently.
        steps: backbone calls at most, spread evenly over the blocks; at least one for each.
        gen_length: number of tokens to generate.
        block_length: tokens per block, L; the last block may be shorter.
        decoding: how tokens are decided; `Decoding()` by default.
        show: what the backbone sees of the blocks to the right: "all" their masks, which tell it
            how much text is to come, as LLaDA and Dream were trained; "blocks" nothing, for models
            that write one block after another, such as BD3-LM and LLaDA2.
        context: how many tokens before the block the backbone sees; None shows all.
        circuit_context: how many tokens before what it decides the circuit sees at most, of those
            that the backbone sees. None shows as many as a circuit that is longer than the block
            has room for; 0 suits one that knows only how texts begin (see `pcflow.stationary`).
        align: count blocks from the first token of the text, as LLaDA2 does, and not from the end
            of the prompt: the first and the last one may be shorter.
        attention_mask: zero where the prompt is padded, which it may be on the left, [B, P]. It
            alone says what is padding. A backbone that takes an `attention_mask` is asked about all
            rows together; another never sees padding, and is asked one length after another.
        mask_token_id: the backbone's mask; by default the head's, or the `mask_token_id` of the
            backbone or of its `config`.
        pad_token_id: what fills shorter prompts up on the left, where no attention mask says what
            is padding.
        callback: is told of every step by a `Step`; what it returns is True to stop there, with
            masks where nothing is written yet.
        cache: keep what a backbone has computed of the text before a block (its `cache`, or
            `past_key_values`) until the block is full. Exact if the backbone lets no token see
            later blocks; else an approximation, as tokens before the block see it as it was at its
            first step. Adapters keep nothing: the model itself is the backbone.
        generator: source of randomness; torch's global one by default.

    Returns:
        Prompt and generated tokens, [B, P + gen_length].

    Raises:
        GenerationError: if lengths, steps or settings do not fit together, or ids of the mask
            contradict one another.
        PromptError: if the prompt holds a mask, or padding that is not on its left.
        TokenOutOfRange: if it holds an id outside of the vocabulary.
        SettingError: if a number is out of range.
        BackboneError: if the backbone does not return [B, n, V], or nothing that `cache` keeps.
        LogitsError: if the logits are no distribution at a masked position.
        EmptyLanguage: if no text of this length obeys the constraint.
        NotCompatible: if the circuit cannot be asked under one.
        PropertyRequired: likewise.
        NoMassError: if circuit and backbone hold all that may follow impossible.
        ShapeMismatch: if the prompt is not tokens [B, P], or no number is an id.
        TypeMismatch: likewise.

    Examples:
        >>> backbone = lambda tokens: torch.zeros(*tokens.shape, 4)
        >>> how = Decoding(temperature=1.0)
        >>> settings = dict(steps=2, gen_length=4, block_length=2, mask_token_id=4)
        >>> generate(backbone, [[0, 1, 2], [3, 0, 1]], **settings, decoding=how).shape
        torch.Size([2, 7])
    """
    text = read_text("prompt", prompt, attention_mask, device_of(head, backbone))
    text = padded_with(pad_token_id, text)
    _check_settings(steps, gen_length, block_length, show, context)
    for name, flag in (("align", align), ("cache", cache)):
        check_kind(name, flag, bool)
    how, mask = settled(backbone, head, decoding, mask_token_id)
    check_prompt(text, mask)
    check_known("prompt", text, mask, vocabulary_of(backbone))
    longer = _longer(text, gen_length, mask)
    new = pad(torch.zeros_like(text.real), (0, gen_length), value=True)
    canvas = canvas_of(
        backbone, head, longer, new, mask, how, circuit_context, generator, callback, cache
    )
    for rows in text.groups(backbone, apart=align):
        first = int(bounds(text.real)[0][rows].min())
        origin = first if align else text.tokens.shape[1]
        blocks = _blocks(text.tokens.shape[1], gen_length, block_length, origin)
        for block, share in zip(blocks, _shares(steps, len(blocks)), strict=True):
            low = first if context is None else max(first, block.start - context)
            high = longer.tokens.shape[1] if show == "all" else block.stop
            whole = block.start - (block.start - origin) % block_length
            canvas.fill(rows, slice(low, high), block, share, whole)
            rows = _unfinished(canvas.tokens, rows, block.start, how.end_token_id)
    return _ended(canvas.tokens, text.tokens.shape[1], how.end_token_id)


def lengths_of(tokens: Tensor, prompt_length: int, end_token_id: int) -> Tensor:
    """How many tokens [B] of every row were generated before it ended, the end not counted.

    Args:
        tokens: what `generate` returned, [B, P + gen_length].
        prompt_length: how many tokens a prompt has, P.
        end_token_id: as in `Decoding`.

    Returns:
        The lengths [B].

    Raises:
        TypeMismatch: if these are no tokens [B, N], or the end is no id.
        ShapeMismatch: likewise.
        SettingError: if the prompt's length is no whole number.

    Examples:
        >>> lengths_of(torch.tensor([[7, 5, 6, 2, 2], [7, 5, 6, 5, 6]]), 1, end_token_id=2)
        tensor([2, 4])
    """
    check_rows("tokens", tokens)
    check_count("prompt_length", prompt_length, least=0)
    ended = (tokens[:, prompt_length:] == check_id("end_token_id", end_token_id)).cumsum(dim=-1)
    return (ended == 0).sum(dim=-1)


def _check_settings(
    steps: int, gen_length: int, block_length: int, show: str, context: int | None
) -> None:
    """Refuse numbers out of range."""
    check_choice("show", show, get_args(Show))
    for name, count in (("gen_length", gen_length), ("block_length", block_length)):
        check_count(name, count)
    check_count("steps", steps)
    if context is not None:
        check_count("context", context, least=0)


def _longer(text: Text, gen_length: int, mask: int) -> Text:
    """A text with so many masks behind it."""
    return Text(
        pad(text.tokens, (0, gen_length), value=mask),
        pad(text.real, (0, gen_length), value=True),
        text.attended,
    )


def _blocks(start: int, count: int, length: int, origin: int) -> list[slice]:
    """Blocks that hold `count` tokens from `start` on and begin at whole lengths from an origin."""
    edges = range(start + length - (start - origin) % length, start + count, length)
    stops = [*edges, start + count]
    return [slice(*ends) for ends in zip([start, *edges], stops, strict=True)]


def _shares(steps: int, blocks: int) -> Iterator[int]:
    """How many steps each block gets: as many as the others, or one more."""
    if steps < blocks:
        raise GenerationError(f"{steps=}: each of the {blocks} blocks takes at least one")
    return (steps // blocks + (block < steps % blocks) for block in range(blocks))


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
