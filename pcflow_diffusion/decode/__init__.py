"""Generation: which positions to commit, and which windows the circuit covers."""

from pcflow_diffusion.decode.canvas import Step
from pcflow_diffusion.decode.course import Course, Passage, constraint_of, turns
from pcflow_diffusion.decode.decoding import Decoding
from pcflow_diffusion.decode.generation import generate, lengths_of
from pcflow_diffusion.decode.infilling import infill
from pcflow_diffusion.decode.places import Look, looks
from pcflow_diffusion.decode.view import guided
from pcflow_diffusion.decode.windows import minimum_cover

__all__ = [
    "Course",
    "Decoding",
    "Look",
    "Passage",
    "Step",
    "constraint_of",
    "generate",
    "guided",
    "infill",
    "lengths_of",
    "looks",
    "minimum_cover",
    "turns",
]
