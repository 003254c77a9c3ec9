"""pcflow's own format: one safetensors file whose metadata holds the circuit as JSON.

The file stores the circuit, not the plan: it does not depend on how the circuit was compiled.
Parameters of one shape are stacked into one tensor. Nothing in a file is ever executed.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from pcflow.checks import check_kind, check_kinds
from pcflow.circuit import Circuit, Parameter
from pcflow.engine import Machine
from pcflow.errors import FileFormatError, PcflowError, SettingError
from pcflow.io.container import INFINITE, Container, description_of, write_file
from pcflow.io.description import build, describe
from pcflow.io.rounding import logits_of, rounded, softmax_axes
from pcflow.queries import CompiledCircuit, compile

VERSION = 1

MALFORMED = (
    PcflowError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What reading a description that is not one can end in."""


def save(
    model: CompiledCircuit,
    path: str | os.PathLike[str],
    texts: Mapping[str, str] = MappingProxyType({}),
    tensors: Mapping[str, Tensor] = MappingProxyType({}),
    *,
    dtype: torch.dtype | None = None,
) -> None:
    """Write a model's circuit and present parameters; an old file is replaced only when done.

    Args:
        model: the compiled circuit.
        path: the file to write, usually named *.safetensors.
        texts: what else the file tells, by name, see `Container`.
        tensors: what else it holds, by names that begin with a letter.
        dtype: `torch.bfloat16` writes probabilities, of categories and of the inputs of sums, in
            half of float32's bytes and right to one part in 512; `load` makes parameters in float32
            of them, and an exact distribution. As they are by default.

    Raises:
        SettingError: if a tensor has another name, or `dtype` is neither None nor bfloat16.
        TypeMismatch: if `model` is not a CompiledCircuit, or the others are no mappings of such.
        OSError: if the file cannot be written; an existing one is left as it was.

    Examples:
        >>> import tempfile, pcflow as pf
        >>> model = pf.compile(pf.hmm(3, states=2, inputs=pf.Categorical(4)))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     pf.save(model, f"{folder}/hmm.safetensors")
        ...     pf.load(f"{folder}/hmm.safetensors").num_variables
        3
    """
    check_kind("model", model, CompiledCircuit, "a CompiledCircuit")
    check_kind("texts", texts, Mapping, "a mapping from names to texts")
    check_kind("tensors", tensors, Mapping, "a mapping from names to tensors")
    check_kinds("texts", (*texts, *texts.values()), str, "a text")
    check_kinds("tensors", tensors, str, "a name")
    check_kinds("tensors", tensors.values(), Tensor, "a tensor")
    for name in tensors:  # those of the circuit are called by their shapes
        SettingError.check("tensors", name, "named by a letter first", lambda n: n[:1].isalpha())
    either = (None, torch.bfloat16)
    SettingError.check("dtype", dtype, "None or bfloat16", lambda one: one in either)
    circuit = model.circuit
    stacks, places = _stack(circuit.parameters, {} if dtype is None else softmax_axes(circuit))
    described = {"version": VERSION, "layers": describe(circuit, places)}
    write_file(path, {**stacks, **tensors}, described, texts)


def load(
    path: str | os.PathLike[str] | Container,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    fold: bool = True,
    memory: int = 1 << 30,
    soft_dtype: torch.dtype | None = None,
    machine: Machine | None = None,
) -> CompiledCircuit:
    """Read a file written by `save`, prove its circuit again, and compile it.

    Args:
        path: the file, or a `Container` that was opened on it; other tensors in it are not read.
        device: where to put the parameters.
        dtype: float32 or float64; by default what it was saved in, float32 for bfloat16.
        fold: see `compile`, like what follows.
        memory: bytes that the values of one pass may take.
        soft_dtype: of products with potentials.
        machine: sizes; those of the device by default.

    Returns:
        A compiled circuit.

    Raises:
        FileFormatError: if the file is truncated, of another format, or does not describe a smooth
            and decomposable circuit with numbers that can be used; the message names the file and
            the reason.
        OSError: if it cannot be read, or is a folder, a pipe or a device.
        TypeError: if `compile` refuses a setting; likewise ValueError.

    Examples:
        >>> import tempfile, pcflow as pf
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     model = pf.compile(pf.hmm(3, states=2, inputs=pf.Categorical(4)))
        ...     pf.save(model, f"{folder}/hmm.safetensors")
        ...     pf.load(f"{folder}/hmm.safetensors", dtype=torch.float64).banks[0].dtype
        torch.float64
    """
    circuit, saved = _read(path if isinstance(path, Container) else Container(path))
    dtype = saved if dtype is None else dtype
    return compile(circuit, device, dtype, fold, memory, soft_dtype, machine)


def _read(file: Container) -> tuple[Circuit, torch.dtype | None]:
    """The circuit of a file, and the precision of its parameters if it has any."""
    described, stacks = description_of(file, VERSION), _Stacks(file)
    try:
        circuit = build(described["layers"], stacks)
    except MALFORMED as error:
        reason = f"{type(error).__name__}: {error}"
        raise FileFormatError(f"{file.path}: does not describe a circuit ({reason})") from error
    return circuit, next((stack.dtype for stack in stacks.values()), None)


class _Stacks(dict[str, Tensor]):
    """Stacked parameters by name, read when they are asked for."""

    def __init__(self, file: Container) -> None:
        super().__init__()
        self.file = file

    def __missing__(self, name: str) -> Tensor:
        dtype = self.file.dtypes.get(name, torch.float32)
        if dtype == torch.bfloat16:
            found = logits_of(self.file.read(name))
        elif dtype in (torch.float32, torch.float64):
            found = self.file.read(name, infinite=INFINITE)
        else:
            raise ValueError("parameters must be float32 or float64, or probabilities in bfloat16")
        self[name] = found
        return found


def _stack(
    parameters: tuple[Parameter, ...], axes: Mapping[Parameter, int]
) -> tuple[dict[str, list[Tensor]], dict[Parameter, list[Any]]]:
    """Values to be stacked by name, rounded along axes, and for every parameter its [name, row]."""
    names: dict[str, list[Parameter]] = defaultdict(list)
    for parameter in parameters:
        shape = "x".join(map(str, parameter.shape))
        names[f"{shape} probabilities" if parameter in axes else shape].append(parameter)
    tensors, places = {}, {}
    for name, members in names.items():
        tensors[name] = [rounded(p.value, axes[p]) if p in axes else p.value for p in members]
        places.update({p: [name, row] for row, p in enumerate(members)})
    return tensors, places
