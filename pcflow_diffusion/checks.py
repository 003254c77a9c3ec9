"""What arguments must be, asked at the door: tokens, their ids, logits, settings, command lines.

Legend: B batch, L positions, V tokens.
"""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from math import inf
from operator import index
from typing import Any, NoReturn

import torch
from torch import Tensor

from pcflow import SettingError
from pcflow_diffusion.errors import ShapeMismatch, TokenOutOfRange, TypeMismatch

WHOLE = (torch.int32, torch.int64)
"""Dtypes of tokens; smaller ones hold no vocabulary."""


def check_tokens(name: str, tokens: object, vocabulary_size: int) -> None:
    """Refuse what is no tensor of tokens, of any shape.

    Raises:
        TypeMismatch: if it is no tensor, or not of integers.
        TokenOutOfRange: if one is outside [0, vocabulary_size).

    Examples:
        >>> check_tokens("x", torch.tensor([[0, 4], [9, 1]]), vocabulary_size=5)
        Traceback (most recent call last):
        ...
        pcflow_diffusion.errors.TokenOutOfRange: x holds token 9, outside [0, 5), at [1, 0]
    """
    tokens = _whole(name, tokens)
    outside = (tokens < 0) | (tokens >= vocabulary_size)
    if bool(outside.any()):
        where = tuple(outside.nonzero()[0].tolist())
        raise TokenOutOfRange(name, int(tokens[where]), vocabulary_size, where)


def check_rows(name: str, tokens: object, columns: int | None = None) -> None:
    """Refuse what is no tensor of integers [B, L], or has another L than `columns`.

    Raises:
        TypeMismatch: if it is no tensor, or not of integers.
        ShapeMismatch: if it has another shape.
    """
    tokens = _whole(name, tokens)
    if tokens.dim() != 2 or columns not in (None, tokens.shape[1]):
        wanted = "L" if columns is None else columns
        raise ShapeMismatch(f"{name} must be [B, {wanted}], got {tuple(tokens.shape)}")


def check_alike(name: str, tokens: object, like: Tensor) -> None:
    """Refuse what is no tensor of integers of the same shape, on the same device.

    Raises:
        TypeMismatch: if it is no tensor, not of integers, or elsewhere.
        ShapeMismatch: if it has another shape.
    """
    tokens = _whole(name, tokens)
    if tokens.shape != like.shape:
        raise ShapeMismatch(f"{name} must be {tuple(like.shape)}, got {tuple(tokens.shape)}")
    if tokens.device != like.device:
        raise TypeMismatch(f"{name} must be on {like.device}, got {tokens.device}")


def check_flags(name: str, flags: object, like: Tensor) -> Tensor:
    """What says yes or no of every token, as bool.

    Raises:
        TypeMismatch: if it is no tensor, not real, without data or elsewhere.
        ShapeMismatch: if it is not of the shape of the tokens.

    Examples:
        >>> check_flags("at", torch.tensor([1, 0]), torch.tensor([7, 8]))
        tensor([ True, False])
    """
    if not isinstance(flags, Tensor) or flags.is_complex() or flags.is_meta:
        raise TypeMismatch(f"{name} must be a tensor of true and false, got {_kind(flags)}")
    flags = flags.bool()
    check_alike(name, flags.int(), like)
    return flags


def check_logits(name: str, logits: object, tokens: Tensor) -> None:
    """Refuse what cannot be logits [B, L, V] of tokens [B, L].

    Raises:
        TypeMismatch: if they are no tensor, not real floating point, or on another device.
        ShapeMismatch: if they have another shape, or V is zero.
    """
    if not isinstance(logits, Tensor) or not logits.is_floating_point():
        raise TypeMismatch(f"{name} must be a tensor of floating point, got {_kind(logits)}")
    if logits.shape[:-1] != tokens.shape or logits.shape[-1] == 0:
        wanted = f"({', '.join(map(str, tokens.shape))}, V)"
        raise ShapeMismatch(f"{name} must be {wanted}, got {tuple(logits.shape)}")
    if logits.device != tokens.device:
        raise TypeMismatch(f"{name} are on {logits.device}, tokens on {tokens.device}")


def check_real(name: str, numbers: object, *shape: int | str) -> Tensor:
    """A tensor of floating point of a shape, of which words stand for any length.

    Raises:
        TypeMismatch: if it is no tensor of floating point, or without data.
        ShapeMismatch: if it has another shape.

    Examples:
        >>> check_real("log_p", torch.zeros(2, 3), 2, "V").shape
        torch.Size([2, 3])
    """
    if not isinstance(numbers, Tensor) or not numbers.is_floating_point() or numbers.is_meta:
        raise TypeMismatch(f"{name} must be a tensor of floating point, got {_kind(numbers)}")
    sizes = [size if isinstance(size, int) else None for size in shape]
    pairs = zip(numbers.shape, sizes, strict=False)
    if numbers.dim() != len(shape) or any(size not in (None, found) for found, size in pairs):
        wanted = ", ".join(map(str, shape))
        raise ShapeMismatch(f"{name} must be [{wanted}], got {tuple(numbers.shape)}")
    return numbers


def check_weights(name: str, weights: object, count: int) -> None:
    """Refuse what is not a real number for each of so many rows.

    Raises:
        TypeMismatch: if it is no tensor, not real, or without data.
        ShapeMismatch: if it is not of shape [count].
    """
    if not isinstance(weights, Tensor) or weights.is_complex() or weights.is_meta:
        raise TypeMismatch(f"{name} must be a tensor of real numbers, got {_kind(weights)}")
    if weights.shape != (count,):
        raise ShapeMismatch(f"{name} must be [{count}], got {tuple(weights.shape)}")


def check_kind(name: str, given: object, kind: type) -> None:
    """Refuse what is not of a class, or does not do what a protocol asks.

    Raises:
        TypeMismatch: naming both.
    """
    if not isinstance(given, kind):
        article = "an" if kind.__name__[0] in "AEIOU" else "a"
        raise TypeMismatch(f"{name} must be {article} {kind.__name__}, got {_kind(given)}")


def check_id(name: str, token: object) -> int:
    """The id of a token as an int.

    Raises:
        TypeMismatch: if it is no whole number, or one that no tensor of ids could hold.

    Examples:
        >>> check_id("mask_token_id", torch.tensor(4))
        4
    """
    try:
        found = _integer(token)
    except TypeError as error:
        raise TypeMismatch(f"{name} must be a whole number, got {token!r}") from error
    if not -(1 << 63) <= found < 1 << 63:
        raise TypeMismatch(f"{name} must be of 64 bits, got one of {found.bit_length()}")
    return found


def check_ids(name: str, tokens: Iterable[object]) -> tuple[int, ...]:
    """Ids of tokens as ints.

    Raises:
        TypeMismatch: if there is something else among them, or nothing that could hold them.
    """
    if not isinstance(tokens, Iterable):
        raise TypeMismatch(f"{name} must be a sequence of ids, got {_kind(tokens)}")
    return tuple(check_id(name, token) for token in tokens)


def check_choice(name: str, value: object, among: Sequence[str]) -> None:
    """Refuse what is not one of several words.

    Raises:
        SettingError: naming them.
    """
    SettingError.check(name, value, f"one of {', '.join(among)}", lambda v: v in among)


def check_count(name: str, value: Any, least: int = 1) -> None:
    """Refuse what is no whole number, or too small a one.

    Raises:
        SettingError: naming it.
    """
    SettingError.check(
        name, value, f"a whole number of at least {least}", lambda n: _integer(n) >= least
    )


def _integer(given: Any) -> int:
    """An int; truth values are none."""
    if isinstance(given, bool) or getattr(given, "dtype", None) is torch.bool:
        raise TypeError("a truth value is no whole number")
    return index(given)


def check_rate(name: str, value: Any) -> None:
    """Refuse a learning rate below zero, or one that is not finite.

    Raises:
        SettingError: naming it.
    """
    SettingError.check(name, value, "finite and not negative", lambda rate: 0 <= rate < inf)


def check_generator(generator: object, device: torch.device) -> None:
    """Refuse what is no source of randomness, such as a seed, or draws on another device.

    Raises:
        TypeMismatch: if it is neither None nor a `torch.Generator` on that device.
    """
    if not isinstance(generator, torch.Generator | None):
        wanted = "a torch.Generator or None (of a seed: torch.Generator().manual_seed(seed))"
        raise TypeMismatch(f"generator must be {wanted}, got {_kind(generator)}")
    if generator is not None and generator.device.type != device.type:
        raise TypeMismatch(f"generator is on {generator.device}, what it draws for on {device}")


def _whole(name: str, tokens: object) -> Tensor:
    if not isinstance(tokens, Tensor) or tokens.dtype not in WHOLE:
        raise TypeMismatch(f"{name} must be a tensor of int64 or int32, got {_kind(tokens)}")
    if tokens.is_meta:
        raise TypeMismatch(f"{name} is on the meta device, where there are no numbers")
    return tokens


def _kind(given: object) -> str:
    if not isinstance(given, Tensor):
        return type(given).__name__
    return f"{given.dtype} on {given.device}"


def as_count(word: str) -> int:
    """How many there are, at least one.

    Raises:
        ValueError: if it is no whole number.
        ArgumentTypeError: if it is below 1.

    Examples:
        >>> as_count("0")
        Traceback (most recent call last):
        ...
        argparse.ArgumentTypeError: 0 is below 1
    """
    number = int(word)
    if number < 1:
        raise ArgumentTypeError(f"{word} is below 1")
    return number


def as_whole(word: str) -> int:
    """How many there are, or the number of a token.

    Raises:
        ValueError: if it is no whole number.
        ArgumentTypeError: if it is negative.
    """
    number = int(word)
    if number < 0:
        raise ArgumentTypeError(f"{word} is negative")
    return number


def as_seed(word: str) -> int:
    """The seed of a generator.

    Raises:
        ValueError: if it is no whole number.
        ArgumentTypeError: if it is too large.
    """
    number = int(word)
    if abs(number) >= 1 << 63:
        raise ArgumentTypeError(f"{word} has more than 63 bits")
    return number


def as_not_negative(word: str) -> float:
    """A time, or a temperature.

    Raises:
        ValueError: if it is no number.
        ArgumentTypeError: if it is below 0, or not finite.
    """
    number = float(word)
    if not 0 <= number < inf:
        raise ArgumentTypeError(f"{word} is negative or no number")
    return number


def as_positive(word: str) -> float:
    """A time that something takes.

    Raises:
        ValueError: if it is no number.
        ArgumentTypeError: if it is not above 0, or not finite.
    """
    number = float(word)
    if not 0 < number < inf:
        raise ArgumentTypeError(f"{word} is not above 0")
    return number


class Command(ArgumentParser):
    """A command: its options, of which those that are misspelt are understood.

    Args:
        name: as it is called, behind `python -m`.
        told: what it does; its first line is shown.
    """

    def __init__(self, name: str, told: str | None) -> None:
        """Every command can be quiet."""
        super().__init__(name, description=(told or "").partition("\n")[0])
        self.add_argument("--quiet", action="store_true", help="results alone: no bars, no news")

    def error(self, message: str) -> NoReturn:
        """Say what may have been meant."""
        unknown = [word for word in message.split() if word.startswith("--")]
        if message.startswith("unrecognized") and unknown:
            known = [name for action in self._actions for name in action.option_strings]
            message += did_you_mean(unknown[0].partition("=")[0], known)
        super().error(message)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A question to end an error with, if something known is like a word."""
    near = get_close_matches(word, list(known), 1)
    return f"; did you mean {near[0]}?" if near else ""
