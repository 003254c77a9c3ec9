"""Torch's modes of the moment do not reach into the engine, and its transforms are refused.

What is made in inference mode cannot be written on outside of it, and memory and tables outlive the
query that made them; autocast would round what the certificate takes for exact. Whether gradients
are recorded is left as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import ParamSpec, TypeVar, cast

import torch
from torch._compile import _disable_dynamo

from pcflow.errors import Unsupported

P = ParamSpec("P")
T = TypeVar("T")

DEVICES = "cpu", "cuda"
"""Where autocast may be on."""


def in_ordinary_modes(function: Callable[P, T]) -> Callable[P, T]:
    """The function, run outside of inference mode and without autocast."""
    aside = cast(Callable[P, T], _disable_dynamo(function))  # imports Dynamo when it is called

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        if torch.compiler.is_compiling():  # the plan is compiled already
            return aside(*args, **kwargs)
        if torch._C._are_functorch_transforms_active():
            raise Unsupported(
                "queries cannot be transformed by torch.func (vmap, grad, jacrev, ...): ask for "
                "all rows in one query, and for gradients by backward or torch.autograd.grad"
            )
        if _are_ordinary():
            return function(*args, **kwargs)
        with ordinary_modes():
            return function(*args, **kwargs)

    return run


def unrecorded(make: Callable[[], T]) -> T:
    """What is made in ordinary modes and without gradients, whatever the moment's modes are."""
    if _are_ordinary() and not torch.is_grad_enabled():  # the usual case, at no cost
        return make()
    with ordinary_modes(), torch.no_grad():
        return make()


@contextmanager
def ordinary_modes() -> Iterator[None]:
    """No inference mode and no autocast."""
    records = torch.is_grad_enabled()
    with ExitStack() as modes:
        modes.enter_context(torch.inference_mode(False))  # which turns gradients on
        modes.enter_context(torch.set_grad_enabled(records))
        for device in filter(torch.is_autocast_enabled, DEVICES):
            modes.enter_context(torch.autocast(device, enabled=False))
        yield


def _are_ordinary() -> bool:
    if torch.is_inference_mode_enabled():
        return False
    return not (torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"))
