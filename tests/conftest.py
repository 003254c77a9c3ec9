"""The Hypothesis profile; the seed is set in the conftest.py above.

Laws run over 50 examples, or over as many as the environment variable PCFLOW_EXAMPLES says.
"""

import os

import torch
from hypothesis import register_random, settings


class TorchRandom:
    """torch's global generator: Hypothesis resets it before each example, so failures replay.

    That of the CPU: for devices that are not in use yet, torch notes who asks, by a millisecond's
    look at the whole stack.
    """

    seed = staticmethod(torch.default_generator.manual_seed)
    getstate = staticmethod(torch.get_rng_state)
    setstate = staticmethod(torch.set_rng_state)


TORCH_RANDOM = TorchRandom()  # Hypothesis keeps only a weak reference
register_random(TORCH_RANDOM)

settings.register_profile(
    "pcflow",
    deadline=None,
    max_examples=int(os.environ.get("PCFLOW_EXAMPLES", "50")),
    derandomize=bool(os.environ.get("CI")),
)
settings.load_profile("pcflow")
