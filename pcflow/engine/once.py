"""Gradients that have none themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from pcflow.errors import Unsupported


def once(*gradients: Tensor | None) -> tuple[Tensor | None, ...]:
    """The same, which torch refuses to differentiate again, if somebody wants to."""
    if not torch.is_grad_enabled():
        return gradients
    again = cast(Callable[..., tuple[Tensor, ...]], _Once.apply)
    there = iter(again(*(g.requires_grad_() for g in gradients if g is not None)))
    return tuple(None if g is None else next(there) for g in gradients)


class _Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        return tuple(gradient.view_as(gradient) for gradient in gradients)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        raise Unsupported(
            "log_prob can be differentiated once, not twice; second derivatives come from "
            "reference_log_prob"
        )
