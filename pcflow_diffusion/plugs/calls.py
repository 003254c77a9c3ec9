"""Calls of a model, as samplers make them: what is said under which name, and what comes back.

Legend: B batch, N positions of what a call is about, T of all that is known of a text, H heads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy
from inspect import signature
from typing import Any

from torch import Tensor
from torch.nn.functional import pad

from pcflow_diffusion.models import PAST


def by_name(
    model: Callable[..., Any], x: Tensor, rest: tuple[Any, ...], named: dict[str, Any]
) -> dict[str, Any]:
    """What a model is called with under its names, as far as its signature says them."""
    try:
        bound = signature(getattr(model, "forward", model)).bind_partial(x, *rest, **named)
    except (TypeError, ValueError):
        return named
    return bound.arguments | named


def past_of(said: Mapping[str, Any]) -> Any:
    """The cache of a call, if there is something in it."""
    kept = (said[name] for name in PAST if said.get(name) is not None)
    return next((past for past in kept if length_of(past) != 0), None)


def length_of(past: Any) -> int | None:
    """How many positions a cache holds, if it says so."""
    length = getattr(past, "get_seq_length", None)
    return None if length is None else int(length())


def place(replaced: Any, length: int | None, text: Tensor, x: Tensor, mask: int) -> int:
    """Where in a text [B, T] a call with a cache begins: it replaces, follows, or is the rest."""
    if (start := replaced_from(replaced)) is not None:
        return start
    if length is not None:
        return length
    return text.shape[1] if bool((text != mask).all()) else max(0, text.shape[1] - x.shape[1])


def replaced_from(replaced: Any) -> int | None:
    """The first position that a call replaces in a cache of all of the text, if that is said."""
    if isinstance(replaced, Tensor):
        return int(replaced[0].byte().argmax())
    return int(replaced[0]) if isinstance(replaced, tuple) else None


def attended_in(said: Mapping[str, Any], left: Tensor, x: Tensor) -> Tensor | None:
    """What is no padding [B, C + N] of visible tokens [B, C] and those of a call [B, N].

    By its mask of keys [B, T] or [B, H, Q, T], of which they are the last, unless they replace some
    that are in a cache.
    """
    mask, width = said.get("attention_mask"), left.shape[1] + x.shape[1]
    if not isinstance(mask, Tensor) or mask.dim() not in (2, 4):
        return None
    seen = mask >= 0 if mask.is_floating_point() and mask.dim() == 4 else mask != 0
    seen = seen.flatten(1, -2).any(dim=1) if mask.dim() == 4 else seen  # [B, T]
    if (start := replaced_from(said.get("replace_position"))) is not None:
        seen = seen[:, : start + x.shape[1]]
    known = seen[:, -width:].expand(len(x), -1)
    return pad(known, (width - known.shape[1], 0), value=True)


def with_logits(output: Any, old: Tensor, new: Tensor) -> Any:
    """What a model returned, with other logits.

    Examples:
        >>> import torch
        >>> with_logits((old := torch.zeros(1), 7), old, torch.ones(1))
        (tensor([1.]), 7)
    """
    if output is old:
        return new
    if isinstance(output, tuple):
        make = getattr(output, "_make", tuple)  # a named one is made by this
        return make(new if part is old else part for part in output)
    changed = copy(output)
    if isinstance(output, Mapping):
        changed["logits"] = new
    else:
        changed.logits = new
    return changed
