"""Density-estimation sets: read from files, or drawn at toy size."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from toy import TOY

import pcflow as pf


def read(name: str, folder: Path | None) -> pf.datasets.Splits:
    """The set of that name from a folder; by default `debd` in the folder PCFLOW_DATA."""
    if TOY and folder is None:
        return drawn()
    return pf.datasets.read_density_set(
        name, folder or Path(os.environ.get("PCFLOW_DATA", "")) / "debd"
    )


def drawn() -> pf.datasets.Splits:
    """Eight binary columns of two hidden kinds of rows."""
    chances = torch.tensor([0.1, 0.9])[torch.randint(2, (200, 1))].expand(-1, 8)
    return pf.datasets.Splits(*chances.bernoulli().long().split([100, 50, 50]))
