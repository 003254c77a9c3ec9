"""Numbers as users have them: tensors of any kind, arrays, nested lists, tables with columns."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pcflow.errors import EvidenceError

Numbers = Tensor | npt.NDArray[Any] | Sequence[Any]
"""A tensor, an array or nested lists of numbers; or a table with columns of them, such as a pandas
DataFrame. `None` and pandas' `NA` are NaN."""

_AS_THEY_ARE = {
    *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
}
_UNSIGNED = {torch.uint16, torch.uint32, torch.uint64}


def as_tensor(name: str, given: Numbers) -> Tensor:
    """The same numbers as a plain tensor of a type that torch computes with.

    Tensors of such types are returned as they are, all else is copied.

    Args:
        name: of the argument, for the error.
        given: the numbers.

    Raises:
        EvidenceError: if they are no real numbers, or not laid out as an array; names the row and
            column of what is none.

    Examples:
        >>> as_tensor("values", [[0, 1], [2, 0]]).dtype
        torch.int64
        >>> as_tensor("values", [[0, 1], [None, 0]])
        tensor([[0., 1.],
                [nan, 0.]], dtype=torch.float64)
    """
    tensor = given if isinstance(given, Tensor) else _from_array(name, given)
    if tensor.layout is not torch.strided or tensor.is_nested or tensor.is_meta:
        kind = "without data" if tensor.is_meta else f"of layout {tensor.layout}"
        raise EvidenceError(f"{name} must be a plain tensor, got one {kind}")
    if tensor.dtype in _AS_THEY_ARE:
        return tensor
    if tensor.dtype in _UNSIGNED:
        return _signed(name, tensor)
    if tensor.dtype.is_floating_point and tensor.dtype.itemsize == 1 and not tensor.is_quantized:
        try:
            return tensor.float()
        except RuntimeError:
            pass  # a type that holds parts of numbers
    raise EvidenceError(f"{name} must be real numbers, got {tensor.dtype}")


def _from_array(name: str, given: Any) -> Tensor:
    kind = f"{type(given).__name__} {getattr(given, 'dtype', '')}".rstrip()
    refusal = f"{name} must be numbers in rows of equal length, got {kind}"
    if isinstance(given, np.ma.MaskedArray):
        raise EvidenceError(f"{refusal}; say what is masked by `missing`")
    try:
        array = _of_columns(given) if _is_table(given) else _numbers(_array(given))
        native = np.array(array, dtype=array.dtype.newbyteorder("="), order="C")
        return torch.from_numpy(native)
    except _NoNumber as error:
        raise EvidenceError(f"{refusal}; {error}") from None
    except (TypeError, ValueError, RuntimeError) as error:
        raise EvidenceError(refusal) from error


class _NoNumber(Exception):
    """What is none, and where."""

    def __init__(self, value: object, place: tuple[Any, ...]) -> None:
        row, *column = place
        told = "".join(f", column {c!r}" for c in column)
        super().__init__(f"row {row}{told} is {value!r}")


def _array(given: Any) -> npt.NDArray[Any]:
    """An array; what numpy takes for texts as objects, which are still what they were."""
    array = np.asarray(given)
    return np.asarray(given, dtype=object) if array.dtype.kind in "US" else array


def _is_table(given: object) -> bool:
    return hasattr(given, "columns") and hasattr(given, "__array__")


def _of_columns(table: Any) -> npt.NDArray[Any]:
    """A table [N, D], each column read by itself, as they may be of different kinds."""
    found = []
    for number, name in enumerate(table.columns):
        column = table.iloc[:, number] if hasattr(table, "iloc") else table[name]
        found.append(_numbers(_array(column), (name,)))
    return np.stack(found, axis=-1)


def _numbers(array: npt.NDArray[Any], column: tuple[Any, ...] = ()) -> npt.NDArray[Any]:
    """Anything that is laid out as an array, as numbers.

    Raises:
        _NoNumber: naming the first that is none.
    """
    if array.dtype.kind in "biufcV":
        return array
    found = np.empty(array.shape)
    for place, value in np.ndenumerate(array):
        if not isinstance(value, Real) and not _is_nothing(value):
            raise _NoNumber(value, place + column)
        found[place] = float(value) if isinstance(value, Real) else np.nan
    return found


def _is_nothing(value: object) -> bool:
    """`None`, or pandas' `NA`, which is not imported for it."""
    return value is None or type(value).__name__ == "NAType"


def _signed(name: str, tensor: Tensor) -> Tensor:
    found = tensor.long()
    if bool((found < 0).any()):
        raise EvidenceError(f"{name} must be below 2^63")
    return found
