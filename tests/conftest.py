"""The Hypothesis profile; the seed is set in the conftest.py above.

Laws run over 50 examples, or over as many as the environment variable PCFLOW_EXAMPLES says.
"""

import os

import torch
from hypothesis import register_random, settings


class TorchRandom:
    """torch's global generators: Hypothesis seeds them before each example, so failures replay.

    Devices only if they are in use: of others torch notes who asks, by a millisecond's look at the
    whole stack.
    """

    @staticmethod
    def seed(number: int) -> None:
        torch.default_generator.manual_seed(number)
        if torch.cuda.is_initialized():
            torch.cuda.manual_seed_all(number)

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
