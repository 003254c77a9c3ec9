"""What arguments must be, asked at the door of every function that users call.

Whether evidence fits a circuit is asked in `evidence`, data in `data` and `learn`.
"""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Integral
from operator import index
from typing import Any, cast

import torch
from torch import Tensor

from pcflow.errors import SettingError, TypeMismatch

CPU = torch.device("cpu")
"""Where circuits are built."""


def check_kind(name: str, given: object, kind: Any, wanted: str) -> None:
    """Refuse what is not of a class; a class itself only looks as if it did what objects do.

    Raises:
        TypeMismatch: naming the argument, what is wanted, and what was given.
    """
    missing_brackets = isinstance(given, type) and not isinstance(object, kind)
    if missing_brackets or not isinstance(given, kind):
        raise TypeMismatch(name, given, wanted)


def check_kinds(name: str, given: object, kind: Any, wanted: str) -> None:
    """Refuse what holds anything that is not of a class, or cannot be gone over.

    Raises:
        TypeMismatch: naming the first that is not.
    """
    for number, one in enumerate(as_iterable(name, given)):
        check_kind(f"{name}[{number}]", one, kind, wanted)


def check_whole(name: str, value: object, least: int = 1) -> None:
    """Refuse what is no whole number, of Python or numpy, or is too small.

    Raises:
        SettingError: naming the setting and its value.

    Examples:
        >>> check_whole("units", 1.5)
        Traceback (most recent call last):
        ...
        pcflow.errors.SettingError: units must be a whole number, at least 1, got 1.5
    """
    SettingError.check(
        name, value, f"a whole number, at least {least}", lambda n: as_whole(n) >= least
    )


def as_whole(given: Any) -> int:
    """A whole number, of Python, numpy or torch, as an int; truth values are none.

    Raises:
        TypeError: if it is none.

    Examples:
        >>> as_whole(True)
        Traceback (most recent call last):
        ...
        TypeError: a truth value is no whole number
    """
    if isinstance(given, bool) or getattr(given, "dtype", None) is torch.bool:
        raise TypeError("a truth value is no whole number")
    return index(given)


def check_device(device: object) -> None:
    """Refuse what is no device, or none that torch has here.

    Raises:
        SettingError: naming it.

    Examples:
        >>> check_device("gpu")
        Traceback (most recent call last):
        ...
        pcflow.errors.SettingError: device must be one that torch has here, got 'gpu'
    """
    SettingError.check("device", device, "one that torch has here", _is_here)


def _is_here(device: Any) -> bool:
    try:
        torch.empty(0, device=device)
    except AssertionError:  # torch was built without
        return False
    return True


def check_generator(generator: object, device: torch.device | None = CPU) -> None:
    """Refuse what is no source of randomness, such as a seed, or draws on another device.

    Args:
        generator: what was given.
        device: where it must draw; None lets it draw anywhere.

    Raises:
        TypeMismatch: if it is neither None nor a `torch.Generator`.
        SettingError: if it draws on another device.

    Examples:
        >>> check_generator(0)
        Traceback (most recent call last):
        ...
        pcflow.errors.TypeMismatch: generator must be a torch.Generator or None (of a seed: ...
    """
    if not isinstance(generator, torch.Generator | None):
        wanted = "a torch.Generator or None (of a seed: torch.Generator().manual_seed(seed))"
        raise TypeMismatch("generator", generator, wanted)
    if generator is not None and device is not None and generator.device.type != device.type:
        raise SettingError("generator", f"one on {generator.device}", f"on {device}, as the draws")


def check_tensor(name: str, given: object) -> None:
    """Refuse what is no tensor of real numbers, or one on the meta device, which has none.

    Raises:
        TypeMismatch: naming the argument.
    """
    if not isinstance(given, Tensor) or given.is_complex() or given.is_meta:
        raise TypeMismatch(name, given, "a tensor of real numbers")


def as_reals(name: str, given: Any) -> list[float]:
    """Real numbers, of Python, numpy or torch.

    Raises:
        TypeMismatch: naming the first that is none.
    """
    found = []
    for number, one in enumerate(as_iterable(name, given)):
        try:
            found.append(float(one))
        except (TypeError, ValueError, RuntimeError) as error:
            raise TypeMismatch(f"{name}[{number}]", one, "a number") from error
    return found


def as_numbers(name: str, given: Any) -> Tensor:
    """Real numbers as a tensor in float64.

    Raises:
        TypeMismatch: if torch cannot read them as such.
    """
    try:
        return torch.as_tensor(given, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeMismatch(name, given, "numbers") from error


def as_iterable(name: str, given: Any, wanted: str = "an iterable") -> Iterable[Any]:
    """What can be gone over, and is no text.

    Raises:
        TypeMismatch: if it is none.
    """
    try:
        iter(given)
    except TypeError as error:
        raise TypeMismatch(name, given, wanted) from error
    if isinstance(given, str):
        raise TypeMismatch(name, given, wanted)
    return cast(Iterable[Any], given)


def as_wholes(name: str, given: Any) -> list[int]:
    """Whole numbers, of Python, numpy or torch; a single one is a list of one.

    Raises:
        TypeMismatch: naming the first that is none.

    Examples:
        >>> as_wholes("values", range(3)), as_wholes("values", 7)
        ([0, 1, 2], [7])
    """
    if isinstance(given, Integral) and not isinstance(given, bool):
        return [index(given)]
    found = []
    for number, one in enumerate(as_iterable(name, given)):
        try:
            found.append(as_whole(one))
        except TypeError as error:
            raise TypeMismatch(f"{name}[{number}]", one, "a whole number") from error
    return found
