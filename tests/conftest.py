"""The Hypothesis profile; the seed is set in the conftest.py above.

Laws run over 50 examples, or over as many as the environment variable PCFLOW_EXAMPLES says.
"""

import os

from pcflow.testing import register_profile

register_profile(
    max_examples=int(os.environ.get("PCFLOW_EXAMPLES", "50")),
    derandomize=bool(os.environ.get("CI")),
)
