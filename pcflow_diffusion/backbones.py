"""Backbones: anything that maps tokens with masks [B, L] to logits [B, L, V].

The protocol, and adapters for the conventions of known models.

Tensor letters: B batch, L positions, V categories (real tokens).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from pcflow_diffusion.checks import check_logits
from pcflow_diffusion.errors import BackboneError, ShapeMismatch, TypeMismatch


class Backbone(Protocol):
    """A masked diffusion language model, seen from outside."""

    def __call__(self, tokens: Tensor, /) -> Tensor:
        """Logits [B, L, V] of tokens with masks [B, L]; row i is about token i."""
        ...


def logits_of(backbone: Callable[[Tensor], Any], tokens: Tensor) -> Tensor:
    """What a backbone returns, or its `.logits`, checked to be numbers [B, L, V] where tokens are.

    Args:
        backbone: maps tokens to logits [B, L, V], or to an object with `.logits`.
        tokens: tokens with masks, [B, L].

    Raises:
        BackboneError: if it returns anything else.

    Examples:
        >>> logits_of(lambda tokens: torch.zeros(*tokens.shape, 5), torch.tensor([[1, 2]])).shape
        torch.Size([1, 2, 5])
    """
    if not callable(backbone):
        raise BackboneError(f"a backbone maps tokens to logits, got {type(backbone).__name__}")
    output = backbone(tokens)
    logits: Tensor = getattr(output, "logits", output)
    try:
        check_logits("the backbone's logits", logits, tokens)
    except (ShapeMismatch, TypeMismatch) as error:
        raise BackboneError(str(error)) from None
    return logits


@dataclass(frozen=True, eq=False)
class _Adapted:
    """A model, and what turns tokens and its logits into logits about each token.

    Attributes:
        mask_token_id: the id of the mask, if it is known.
    """

    model: Callable[[Tensor], Any]
    convention: Callable[[Tensor, Tensor], Tensor]
    mask_token_id: int | None

    def __call__(self, tokens: Tensor, /) -> Tensor:
        """Logits [B, L, V] of tokens [B, L]."""
        return self.convention(tokens, logits_of(self.model, tokens))


def _mask_of(model: Callable[[Tensor], Any]) -> int | None:
    found = getattr(model, "mask_token_id", None)
    return found if isinstance(found, int) else None


def llada(model: Callable[[Tensor], Any]) -> Backbone:
    """LLaDA's convention: logits at position i are about token i (Nie et al. 2025).

    Args:
        model: maps tokens to logits [B, L, V], or to an object with `.logits`. The backbone has the
            model's own `mask_token_id`, if that is an int.

    Examples:
        >>> backbone = llada(lambda tokens: torch.zeros(*tokens.shape, 5))
        >>> backbone(torch.tensor([[1, 2, 3]])).shape
        torch.Size([1, 3, 5])
    """
    return _Adapted(model, lambda tokens, logits: logits, _mask_of(model))


def dream(model: Callable[[Tensor], Any]) -> Backbone:
    """Dream's convention: logits at position i - 1 are about token i (Ye et al. 2025).

    Nothing is about token 0, which is visible in practice; it gets the logits at position 0.

    Args:
        model: maps tokens to logits [B, L, V], or to an object with `.logits`. The backbone has the
            model's own `mask_token_id`, if that is an int.

    Examples:
        >>> backbone = dream(lambda tokens: tokens[..., None].float())
        >>> backbone(torch.tensor([[5, 6, 7]]))[0, :, 0]
        tensor([5., 5., 6.])
    """

    def shifted(tokens: Tensor, logits: Tensor) -> Tensor:
        return torch.cat([logits[:, :1], logits[:, :-1]], dim=1)

    return _Adapted(model, shifted, _mask_of(model))


def mdlm(model: Callable[[Tensor], Any], mask_token_id: int) -> Backbone:
    """MDLM's SUBS parameterisation (Sahoo et al. 2024, Sec. 3.2.3), normalised.

    The mask token has probability zero, and a visible token is carried over with probability one.

    Args:
        model: maps tokens to logits [B, L, V] whose V counts the mask, or an object with `.logits`.
        mask_token_id: the id of the mask; the backbone has it as an attribute.

    Examples:
        >>> backbone = mdlm(lambda tokens: torch.zeros(*tokens.shape, 3), mask_token_id=2)
        >>> backbone(torch.tensor([[2, 0]])).exp()
        tensor([[[0.5000, 0.5000, 0.0000],
                 [1.0000, 0.0000, 0.0000]]])
    """

    def substituted(tokens: Tensor, logits: Tensor) -> Tensor:
        ids = torch.arange(logits.shape[-1], device=logits.device)
        never = torch.full((), -torch.inf, dtype=logits.dtype, device=logits.device)
        proposed = torch.where(ids == mask_token_id, never, logits).log_softmax(dim=-1)
        carried = torch.where(ids == tokens[..., None], torch.zeros_like(never), never)
        return torch.where((tokens == mask_token_id)[..., None], proposed, carried)

    return _Adapted(model, substituted, mask_token_id)
