"""Generation: which positions to commit, and which windows the circuit covers."""

from pcflow_diffusion.decode.decode import Decoding, generate, infill
from pcflow_diffusion.decode.windows import minimum_cover

__all__ = [
    "Decoding",
    "generate",
    "infill",
    "minimum_cover",
]
