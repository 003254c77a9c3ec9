"""For tests and doctests: no windows, one thread, and torch draws the same numbers each time."""

from importlib.util import find_spec

import matplotlib
import pytest
import torch

collect_ignore = [] if find_spec("lm_eval") else ["pcflow_diffusion/evaluate/harness.py"]
matplotlib.use("Agg")
torch.set_num_threads(1)  # pytest-xdist runs a process per core


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
