"""For tests and doctests: no windows, one thread, and torch draws the same numbers each time.

What takes long to import is imported by who runs tests: not by the process that hands them out.
"""

import gc
import sys
from collections.abc import Iterator
from importlib.util import find_spec

import pytest

collect_ignore = [] if find_spec("lm_eval") else ["pcflow_diffusion/evaluate/harness.py"]


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput") or not config.getoption("numprocesses", 0):
        import matplotlib
        import torch

        matplotlib.use("Agg")
        torch.set_num_threads(1)  # pytest-xdist runs a process per core


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """What is collected stays to the end: half a million objects that no search need meet."""
    gc.disable()
    yield
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)  # laws make and drop tens of thousands of objects each
    gc.enable()


@pytest.fixture(autouse=True)
def _seed() -> None:
    """As torch.manual_seed, which notes the whole stack for every device that is not in use."""
    torch = sys.modules["torch"]
    torch.default_generator.manual_seed(0)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(0)
