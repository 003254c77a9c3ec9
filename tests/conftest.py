"""The Hypothesis profile, and figures, which pyplot keeps; the seed is set one folder above.

Laws run over 50 examples, or over as many as the environment variable PCFLOW_EXAMPLES says. Those
that say a number of their own say it `of_fifty` (`laws`).
"""

import os
import sys
from collections.abc import Iterator

import pytest


@pytest.hookimpl(tryfirst=True)  # --hypothesis-profile has the last word
def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput") or not config.getoption("numprocesses", 0):
        from pcflow.testing import register_profile

        register_profile(
            max_examples=int(os.environ.get("PCFLOW_EXAMPLES", "50")),
            derandomize=bool(os.environ.get("CI")),
        )


@pytest.fixture(autouse=True)
def _closed_figures() -> Iterator[None]:
    """Forget the figures of a test, of which pyplot warns when they are many."""
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")
