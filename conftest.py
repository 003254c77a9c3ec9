"""For tests and doctests: no windows, one thread, and torch draws the same numbers each time."""

import matplotlib
import pytest
import torch

matplotlib.use("Agg")
torch.set_num_threads(1)  # pytest-xdist runs a process per core


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
