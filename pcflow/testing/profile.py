"""A Hypothesis profile for tests of circuits: what they need, and nothing of the user's lost."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import HealthCheck, register_random, settings


class TorchRandom:
    """torch's global generators: Hypothesis seeds them before each example, so failures replay.

    Devices only if they are in use: of others torch notes who asks, by a millisecond's look at the
    whole stack.
    """

    @staticmethod
    def seed(number: int) -> None:
        """Seed them."""
        torch.default_generator.manual_seed(number)
        if torch.cuda.is_initialized():
            torch.cuda.manual_seed_all(number)

    getstate = staticmethod(torch.get_rng_state)
    setstate = staticmethod(torch.set_rng_state)


TORCH_RANDOM = TorchRandom()
"""Hypothesis keeps only a weak reference."""


def register_profile(name: str = "pcflow", **chosen: Any) -> None:
    """Load a Hypothesis profile in which tests of circuits run: call it before `@given`.

    No deadline, because the first query of a process compiles; no complaint that circuits are
    slow to draw, because machines are busy; and torch's global generator is seeded before every
    example, as those of Python and numpy are, so that what failed fails again. All else stays as
    the profile in use has it.

    Args:
        name: of the profile, as `--hypothesis-profile` takes it.
        **chosen: more settings of Hypothesis, such as `max_examples` or `derandomize`.

    Raises:
        hypothesis.errors.InvalidArgument: if a setting is none of Hypothesis'.

    Examples:
        >>> from hypothesis import settings
        >>> register_profile()
        >>> settings().deadline is None
        True
    """
    register_random(TORCH_RANDOM)
    quiet = {*settings().suppress_health_check, HealthCheck.too_slow}
    wanted: dict[str, Any] = {"deadline": None, "suppress_health_check": sorted(quiet, key=str)}
    settings.register_profile(name, settings(), **{**wanted, **chosen})
    settings.load_profile(name)
