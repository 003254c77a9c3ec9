"""Generation: which positions to commit, and which windows the circuit covers."""

from pcflow_diffusion.decode.decoding import Decoding
from pcflow_diffusion.decode.generation import generate
from pcflow_diffusion.decode.infilling import infill
from pcflow_diffusion.decode.windows import minimum_cover, window_starts

__all__ = [
    "Decoding",
    "generate",
    "infill",
    "minimum_cover",
    "window_starts",
]
