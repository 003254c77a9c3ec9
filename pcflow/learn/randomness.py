"""The random states that learning draws from, kept in checkpoints."""

from __future__ import annotations

import torch
from torch import Tensor

from pcflow.errors import FileFormatError
from pcflow.learn.batch import Model
from pcflow.learn.checkpoint import must_be_like
from pcflow.learn.learner import State


def random_state(model: Model, generator: torch.Generator | None) -> State:
    """Of every source that learning may draw from."""
    device = _device(model)
    return {
        "global": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        "generator": None if generator is None else generator.get_state(),
    }


def check_random_state(state: State, model: Model, generator: torch.Generator | None) -> None:
    """Check what `random_state` may have been.

    Raises:
        FileFormatError: if it cannot.
    """
    like = random_state(model, generator)
    if like["cuda"] is None or state["cuda"] is None:  # from another device: not used
        like["cuda"] = state["cuda"] if isinstance(state["cuda"], Tensor) else None
    must_be_like(state, like, "random")
    try:
        torch.Generator().set_state(state["global"])
        if generator is not None:
            torch.Generator(generator.device).set_state(state["generator"])
    except RuntimeError as error:
        raise FileFormatError(f"random is no state of a generator ({error})") from error


def restore_random_state(state: State, model: Model, generator: torch.Generator | None) -> None:
    """Draw on from where `random_state` was taken."""
    torch.set_rng_state(state["global"])
    device = _device(model)
    if state["cuda"] is not None and device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)
    if generator is not None:
        generator.set_state(state["generator"])


def _device(model: Model) -> torch.device:
    return next(model.parameters(), torch.empty(0)).device
