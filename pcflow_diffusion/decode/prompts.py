"""Texts as people hand them over: tensors, lists, what a tokenizer returns; padded or not.

Legend: B batch, N positions of a text.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pcflow_diffusion.checks import check_alike, check_id, check_rows, check_tokens
from pcflow_diffusion.errors import PromptError, TypeMismatch
from pcflow_diffusion.models import takes

Tokens = Tensor | Sequence[int] | Sequence[Sequence[int]] | Mapping[str, Any]
"""Tokens [B, N], or of one row [N]; lists, which may differ in length; what a tokenizer returns."""


@dataclass(frozen=True, eq=False)
class Text:
    """Rows of tokens, some of them padded.

    Attributes:
        tokens: [B, N].
        real: which of them are no padding, bool [B, N].
        attended: whether an attention mask says so, which a backbone may be shown.

    Examples:
        >>> text = read_text("prompt", [[5, 6], [7]])
        >>> text.tokens[1], text.real[1]
        (tensor([0, 7]), tensor([False,  True]))
    """

    tokens: Tensor
    real: Tensor
    attended: bool

    def groups(self, backbone: object, apart: bool = False) -> list[Tensor]:
        """Rows that a backbone is asked about together, in the order in which they are met.

        All of them, if there is an attention mask that it takes; else, or if they must be `apart`,
        rows that are padded alike, whose padding it never sees.
        """
        device = self.tokens.device
        if self.attended and not apart and len(self.tokens) and takes("attention_mask", backbone):
            return [torch.arange(len(self.tokens), device=device)]
        groups: dict[tuple[int, int], list[int]] = defaultdict(list)
        for number, (first, stop) in enumerate(zip(*bounds(self.real), strict=True)):
            groups[int(first), int(stop)].append(number)
        return [torch.tensor(rows, device=device) for rows in groups.values()]


def read_text(
    name: str,
    given: Tokens,
    attention_mask: object = None,
    device: torch.device | str = "cpu",
) -> Text:
    """Tokens and what of them is no padding.

    Args:
        name: what the caller calls it.
        given: tokens [B, N] or [N], lists of them, or a mapping with "input_ids" and perhaps
            "attention_mask". Lists of different lengths are padded with zeros on the left.
        attention_mask: zero or false where there is padding, [B, N]. It alone says what is padding.
        device: where tokens of lists go.

    Raises:
        TypeMismatch: if these are no tokens, or the mask holds anything but zeros and ones.
        ShapeMismatch: if they are not [B, N], or the mask has another shape.
        PromptError: if there is padding between tokens.

    Examples:
        >>> text = read_text("prompt", [[5, 6], [7]])
        >>> text.tokens, text.real
        (tensor([[5, 6],
                [0, 7]]), tensor([[ True,  True],
                [False,  True]]))
    """
    if isinstance(given, Mapping):
        if "input_ids" not in given:
            raise TypeMismatch(f"{name} must hold input_ids, got {sorted(map(str, given))}")
        said = given.get("attention_mask") if attention_mask is None else attention_mask
        return read_text(name, given["input_ids"], said, device)
    tokens, real = _rows(name, given, device)
    if attention_mask is not None:
        real = real & _told("attention_mask", attention_mask, tokens)
    _refuse_gaps(name, real)
    return Text(tokens, real, attention_mask is not None or not bool(real.all()))


def padded_with(pad: int | None, text: Text) -> Text:
    """The same text, in which leading pads are padding, unless an attention mask has said what is.

    Raises:
        TypeMismatch: if the pad is no id.
        PromptError: if a row that is more than padding ends in it.
    """
    if pad is None:
        return text
    check_id("pad_token_id", pad)
    if text.attended:
        return text
    other = text.tokens != pad
    real = other.cumsum(dim=-1) > 0
    ends = real[:, -1:] & ~other[:, -1:]
    if bool(ends.any()):
        reason = "the prompt ends in padding: pad on the left, or give an attention_mask"
        raise PromptError(int(ends.nonzero()[0, 0]), text.tokens.shape[1] - 1, reason)
    return Text(text.tokens, real, False)


def check_prompt(text: Text, mask: int) -> None:
    """Refuse a prompt that holds the mask, or is padded on its right.

    Raises:
        PromptError: with row and position.
    """
    for wrong, reason in (
        (text.real & (text.tokens == mask), f"the prompt holds the mask, {mask}"),
        (
            ~text.real & (text.real.cumsum(dim=-1) > 0),
            "padding follows the prompt: pad on the left",
        ),
    ):
        if bool(wrong.any()):
            row, position = wrong.nonzero()[0].tolist()
            raise PromptError(row, position, reason)


def check_known(name: str, text: Text, mask: int, vocabulary_size: int | None) -> None:
    """Refuse tokens outside of the vocabulary, as far as it is known, the mask apart.

    Raises:
        TokenOutOfRange: with row and position.
    """
    size = torch.iinfo(text.tokens.dtype).max if vocabulary_size is None else vocabulary_size
    wanted = text.real & (text.tokens != mask)
    check_tokens(name, text.tokens.masked_fill(~wanted, 0), size)


def device_of(*places: object) -> torch.device:
    """Where the first of these is that says so: a head by its circuit, a model by itself."""
    for place in places:
        found = getattr(getattr(place, "model", place), "device", None)
        if isinstance(found, torch.device):
            return found
    return torch.device("cpu")


def bounds(real: Tensor) -> tuple[Tensor, Tensor]:
    """Where the tokens [B, N] of every row begin, and where they have ended, [B]; N without any."""
    first = (real.cumsum(dim=-1) == 0).sum(dim=-1)
    return first, first + real.sum(dim=-1)


def _rows(name: str, given: Any, device: torch.device | str) -> tuple[Tensor, Tensor]:
    """Tokens [B, N], and which of them are no padding."""
    if isinstance(given, list | tuple):
        tokens, real = _padded(name, given)
        return tokens.to(device), real.to(device)
    if isinstance(given, Tensor) and given.dim() == 1:
        given = given.unsqueeze(0)
    check_rows(name, given)
    return given, torch.ones_like(given, dtype=torch.bool)


def _padded(name: str, given: Sequence[Any]) -> tuple[Tensor, Tensor]:
    """Lists as tokens [B, N], with zeros on the left, and which of them are no padding."""
    rows = given if given and isinstance(given[0], list | tuple) else [given]
    try:
        width = max(map(len, rows))
        tokens = torch.tensor([[0] * (width - len(row)) + list(row) for row in rows])
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise TypeMismatch(f"{name} must be ids of tokens: {error}") from error
    lengths = torch.tensor([[len(row)] for row in rows])
    tokens = tokens if width else tokens.long()
    check_rows(name, tokens)
    return tokens, torch.arange(width) >= width - lengths


def _told(name: str, given: object, tokens: Tensor) -> Tensor:
    """What an attention mask says of tokens [B, N], bool [B, N]."""
    if isinstance(given, list | tuple):
        given = _padded(name, given)[0].to(tokens.device)
    if isinstance(given, Tensor) and given.dim() == 1:
        given = given.unsqueeze(0)
    if not isinstance(given, Tensor) or given.is_complex() or given.is_meta:
        raise TypeMismatch(f"{name} must be zeros and ones, got {type(given).__name__}")
    real = given != 0
    check_alike(name, real.int(), tokens)
    if bool((real & (given != 1)).any()):
        raise TypeMismatch(f"{name} must be zeros and ones")
    return real


def _refuse_gaps(name: str, real: Tensor) -> None:
    """Refuse padding [B, N] with tokens on both sides of it."""
    before = real.cumsum(dim=-1) > 0
    after = real.flip(-1).cumsum(dim=-1).flip(-1) > 0
    gaps = before & after & ~real
    if bool(gaps.any()):
        row, position = gaps.nonzero()[0].tolist()
        raise PromptError(row, position, f"there is padding between tokens of the {name}")
