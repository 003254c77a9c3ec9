"""Numbers as users have them: tensors of any kind, arrays, nested lists."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pcflow.errors import EvidenceError

Numbers = Tensor | npt.NDArray[Any] | Sequence[Any]
"""A tensor, an array or nested lists of numbers."""

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
        EvidenceError: if they are no real numbers, or not laid out as an array.

    Examples:
        >>> as_tensor("values", [[0, 1], [2, 0]]).dtype
        torch.int64
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
        except (RuntimeError, NotImplementedError):
            pass  # a type that holds parts of numbers
    raise EvidenceError(f"{name} must be real numbers, got {tensor.dtype}")


def _from_array(name: str, given: npt.NDArray[Any] | Sequence[Any]) -> Tensor:
    kind = f"{type(given).__name__} {getattr(given, 'dtype', '')}".rstrip()
    refusal = f"{name} must be numbers in rows of equal length, got {kind}"
    if isinstance(given, np.ma.MaskedArray):
        raise EvidenceError(f"{refusal}; say what is masked by `missing`")
    try:
        array = np.asarray(given)
        native = np.array(array, dtype=array.dtype.newbyteorder("="), order="C")
        return torch.from_numpy(native)
    except (TypeError, ValueError, RuntimeError) as error:
        raise EvidenceError(refusal) from error


def _signed(name: str, tensor: Tensor) -> Tensor:
    found = tensor.long()
    if bool((found < 0).any()):
        raise EvidenceError(f"{name} must be below 2^63")
    return found
