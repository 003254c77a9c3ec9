"""Typed errors of `pcflow_diffusion`: each is a ValueError and names the argument and the value.

A setting out of its range is a `pcflow.SettingError`, as in the core.
"""

from pcflow import PcflowError


class DiffusionError(PcflowError, ValueError):
    """Base class of the errors that only this package raises on purpose."""


class ShapeMismatch(DiffusionError):
    """Two tensors that must share axes do not, or an axis has the wrong length."""


class TypeMismatch(DiffusionError, TypeError):
    """An argument is of another type, dtype or device than it must be."""


class TokenOutOfRange(DiffusionError):
    """A token id lies outside the vocabulary.

    Attributes:
        token: the first offending id.
        where: its place in the tensor, such as row and position.
    """

    def __init__(
        self, name: str, token: int, vocabulary_size: int, where: tuple[int, ...] = ()
    ) -> None:
        """Keep the token that does not fit."""
        self.token, self.where = token, where
        place = f", at {list(where)}" if where else ""
        super().__init__(f"{name} holds token {token}, outside [0, {vocabulary_size}){place}")


class LogitsError(DiffusionError):
    """Logits are no distribution over tokens at a masked position.

    Attributes:
        row: of the batch.
        position: in the row.
        reason: what is wrong there.
    """

    def __init__(self, row: int, position: int, reason: str) -> None:
        """Keep the place."""
        self.row, self.position, self.reason = row, position, reason
        super().__init__(f"row {row}, position {position}: the backbone's logits {reason}")


class RatioOutOfRange(DiffusionError):
    """A mask ratio or a time lies outside its range."""


class NothingMasked(DiffusionError):
    """There are no masked tokens, so nothing is to be learned or decided."""


class BackboneError(DiffusionError):
    """A backbone returned something that is not logits of shape [B, L, V]."""


class CheckpointError(DiffusionError):
    """A checkpoint file is truncated, foreign, or does not match its own configuration."""


class TokenizerMismatch(DiffusionError):
    """A head was made for the ids of another tokenizer, or does not say for whose.

    Attributes:
        known: the fingerprint that the head has, None if it has none.
        given: the fingerprint of the tokenizer that it was to be used with.
    """

    def __init__(self, known: str | None, given: str) -> None:
        """Keep both."""
        self.known, self.given = known, given
        made = "a tokenizer it does not name" if known is None else f"the tokenizer {known}"
        super().__init__(f"the head was made for {made}, not for {given}")


class TextError(DiffusionError):
    """A text is too short, or a token list cannot be decoded."""


class PuzzleError(DiffusionError):
    """A file of puzzles is malformed, or holds none to be judged on; the message names the line."""


class CouplingError(DiffusionError):
    """A coupling does not exist, or its settings are out of range."""


class GenerationError(DiffusionError):
    """What is asked of `generate`, `infill` or a plug does not fit together."""


class PromptError(DiffusionError):
    """A text holds what it may not: masks where it is a prompt, or padding between its tokens.

    Attributes:
        row: of the batch.
        position: in the row.
        reason: what is wrong there.
    """

    def __init__(self, row: int, position: int, reason: str) -> None:
        """Keep the place."""
        self.row, self.position, self.reason = row, position, reason
        super().__init__(f"row {row}, position {position}: {reason}")


class AnswerError(DiffusionError):
    """An answer does not fit its slot, or answers and slots do not fit together.

    Attributes:
        question: whose answer it is.
        reason: what is wrong with it.
    """

    def __init__(self, question: str, reason: str) -> None:
        """Keep both."""
        self.question, self.reason = question, reason
        super().__init__(f"{question!r}: {reason}")


class WindowError(DiffusionError):
    """A position lies where no window may be."""


class AlreadyRunning(DiffusionError):
    """Another run is at work on the same files.

    Attributes:
        path: the file that it holds.
    """

    def __init__(self, path: object) -> None:
        """Keep the path."""
        self.path = path
        super().__init__(f"{path} is held by another run: wait for it, or give another --out")


class StoreError(DiffusionError):
    """A folder of logits is unfinished, truncated, foreign, or about something else."""
