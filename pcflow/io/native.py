"""pcflow's own format: one safetensors file whose metadata holds the circuit as JSON.

The file stores the circuit, not the plan: it does not depend on how the circuit was compiled.
Parameters of one shape are stacked into one tensor. Nothing in a file is ever executed.
"""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pcflow.circuit import Parameter
from pcflow.errors import FileFormatError, PcflowError
from pcflow.io.container import Json, read_file, write_file
from pcflow.io.description import build, describe
from pcflow.queries import CompiledCircuit, compile

VERSION = 1

# what reading a description that is not one can end in
_MALFORMED = (
    PcflowError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)


def save(model: CompiledCircuit, path: str | os.PathLike[str]) -> None:
    """Write a model's circuit and present parameters; an old file is replaced only when done.

    Args:
        model: the compiled circuit.
        path: the file to write, usually named *.safetensors.

    Raises:
        TypeError: if `model` is not a CompiledCircuit.
        OSError: if the file cannot be written; an existing one is left as it was.

    Examples:
        >>> import tempfile, pcflow as pf
        >>> model = pf.compile(pf.hmm(3, states=2, inputs=pf.Categorical(4)))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     pf.save(model, f"{folder}/hmm.safetensors")
        ...     pf.load(f"{folder}/hmm.safetensors").num_variables
        3
    """
    if not isinstance(model, CompiledCircuit):
        raise TypeError(f"save needs a CompiledCircuit, got {type(model).__name__}")
    circuit = model.circuit
    tensors, places = _stack(circuit.parameters)
    described = {"version": VERSION, "layers": describe(circuit, places)}
    write_file(path, tensors, described)


def load(path: str | os.PathLike[str], device: torch.device | str | None = None) -> CompiledCircuit:
    """Read a file written by `save`, prove its circuit again, and compile it.

    Args:
        path: the file.
        device: where to put the parameters.

    Returns:
        A compiled circuit in the precision that it was saved in.

    Raises:
        FileFormatError: if the file is truncated, of another format, or does not describe a smooth
            and decomposable circuit; the message names the file and the reason.
        OSError: if it cannot be read.
    """
    described, tensors = _read(Path(path))
    try:
        circuit = build(described["layers"], tensors)
    except _MALFORMED as error:
        reason = f"{type(error).__name__}: {error}"
        raise FileFormatError(f"{path}: does not describe a circuit ({reason})") from error
    dtype = next(iter(tensors.values())).dtype if tensors else None
    return compile(circuit, device, dtype)


def _read(path: Path) -> tuple[Json, dict[str, Tensor]]:
    described, tensors = read_file(path, VERSION)
    if len({t.dtype for t in tensors.values()} - {torch.float32, torch.float64}) > 0:
        raise FileFormatError(f"{path}: parameters must be float32 or float64")
    return described, tensors


def _stack(
    parameters: tuple[Parameter, ...],
) -> tuple[dict[str, Tensor], dict[Parameter, list[Any]]]:
    """Stacked tensors by name, and for every parameter its [name, row]."""
    shapes: dict[tuple[int, ...], list[Parameter]] = defaultdict(list)
    for parameter in parameters:
        shapes[parameter.shape].append(parameter)
    tensors, places = {}, {}
    for shape, members in shapes.items():
        name = "x".join(map(str, shape))
        tensors[name] = torch.stack([p.value for p in members])
        places.update({p: [name, row] for row, p in enumerate(members)})
    return tensors, places
