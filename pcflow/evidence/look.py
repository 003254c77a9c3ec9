"""Between a device and its host: who looks at numbers waits for them, so one looks once at many."""

from __future__ import annotations

import torch
from torch import Tensor


def look(*asked: Tensor) -> list[Tensor]:
    """Bool tensors where they can be looked at, on the CPU: one copy, however many there are.

    Examples:
        >>> any_missing, missing = look(torch.tensor(True), torch.tensor([[True, False]]))
        >>> bool(any_missing), missing.shape
        (True, torch.Size([1, 2]))
    """
    there = [flags for flags in asked if flags.device.type != "cpu"]
    if not there:
        return list(asked)
    together = torch.cat([flags.flatten() for flags in there]).cpu()
    parts = iter(together.split([flags.numel() for flags in there]))
    return [f if f.device.type == "cpu" else next(parts).view(f.shape) for f in asked]


def send(found: Tensor, device: torch.device) -> Tensor:
    """A tensor of the CPU on a device; nobody waits."""
    if device.type != "cuda":
        return found.to(device)
    return found.pin_memory().to(device, non_blocking=True)
