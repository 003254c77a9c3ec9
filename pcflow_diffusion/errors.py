"""Typed errors of `pcflow_diffusion`: each is a ValueError and names the argument and the value."""

from pcflow import PcflowError


class DiffusionError(PcflowError, ValueError):
    """Base class of the errors that this package raises on purpose."""


class ShapeMismatch(DiffusionError):
    """Two tensors that must share axes do not, or an axis has the wrong length."""


class TokenOutOfRange(DiffusionError):
    """A token id lies outside the vocabulary.

    Attributes:
        token: the first offending id.
    """

    def __init__(self, name: str, token: int, vocabulary_size: int) -> None:
        """Keep the token that does not fit."""
        self.token = token
        super().__init__(f"{name} holds token {token}, outside [0, {vocabulary_size})")


class RatioOutOfRange(DiffusionError):
    """A mask ratio, time or count lies outside its range."""


class BackboneError(DiffusionError):
    """A backbone returned something that is not logits of shape [B, L, V]."""


class CheckpointError(DiffusionError):
    """A checkpoint file is truncated, foreign, or does not match its own configuration."""


class TextError(DiffusionError):
    """A text is too short, or a token list cannot be decoded."""


class PuzzleError(DiffusionError):
    """A file of puzzles is malformed, or holds none to be judged on; the message names the line."""


class CouplingError(DiffusionError):
    """A coupling does not exist, or its settings are out of range."""


class GenerationError(DiffusionError):
    """The numbers given to `generate` do not fit together."""


class WindowError(DiffusionError):
    """A window has no width, or a position lies where no window may be."""


class StoreError(DiffusionError):
    """A folder of logits is unfinished, truncated, foreign, or about something else."""
