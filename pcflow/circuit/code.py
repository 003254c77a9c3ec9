"""Small circuits as Python that builds them again, number by number.

One expression, so that it can be pasted after `import torch` and `from pcflow import *`. What is
read twice, a layer or a tied parameter, gets a name where it comes first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from pcflow.circuit.layers import (
    Fixed,
    InputLayer,
    Layer,
    Parameter,
    ProductLayer,
    layer_parameters,
)

MOST_LAYERS, MOST_NUMBERS = 32, 100


def code(layers: Sequence[Layer]) -> str | None:
    """An expression whose value is a circuit of such layers, the last of which is the root.

    None if they are too large, or of a kind that nobody makes by hand.
    """
    if len(layers) > MOST_LAYERS:
        return None
    parameters = dict.fromkeys(p for layer in layers for p in layer_parameters(layer))
    internal = any(isinstance(parameter, Fixed) for parameter in parameters)
    if internal or sum(parameter.value.numel() for parameter in parameters) > MOST_NUMBERS:
        return None
    return f"Circuit({_Writer(layers).layer(layers[-1])})"


class _Writer:
    """Writes what it meets first in full, and by its name from then on."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        self.uses: Counter[Layer | Parameter] = Counter(
            p for x in layers for p in layer_parameters(x)
        )
        self.uses.update(child for layer in layers for child in layer.inputs)
        self.names: dict[Layer | Parameter, str] = {}

    def layer(self, layer: Layer) -> str:
        return self._named(layer, "layer", lambda: self._layer(layer))

    def parameter(self, parameter: Parameter) -> str:
        written = f"Parameter({_tensor(parameter.value)})"
        return self._named(parameter, "parameter", lambda: written)

    def _layer(self, layer: Layer) -> str:
        if isinstance(layer, InputLayer):
            told = (f"{name!r}: {self.parameter(p)}" for name, p in layer.parameters.items())
            about = f"{layer.variable}, {layer.family!r}"
            if layer.units > 1 or layer.parameters:
                about += f", {layer.units}, {{{', '.join(told)}}}"
            return f"InputLayer({about})"
        inputs = f"[{', '.join(map(self.layer, layer.inputs))}]"
        if isinstance(layer, ProductLayer):
            kind = "" if layer.kind == "hadamard" else f", {layer.kind!r}"
            return f"ProductLayer({inputs}{kind})"
        mixing = ", mixing=True" if layer.mixing else ""
        return f"SumLayer({inputs}, {self.parameter(layer.weight)}{mixing})"

    def _named(self, what: Layer | Parameter, noun: str, write: Callable[[], str]) -> str:
        if self.uses[what] < 2:
            return write()
        if what in self.names:
            return self.names[what]
        written = write()
        self.names[what] = f"{noun}{len(self.names)}"
        return f"({self.names[what]} := {written})"


def _tensor(value: Tensor) -> str:
    """A tensor with as many digits as tell its numbers apart."""
    flat = value.double().numpy() if value.dtype != torch.float32 else value.numpy()
    told = np.array2string(
        flat, separator=", ", threshold=flat.size + 1, max_line_width=10**9,
        formatter={"float_kind": _number}
    )  # fmt: skip
    return f"torch.tensor({' '.join(told.split())}, dtype={value.dtype})"


def _number(number: object) -> str:
    return f"{number!s}".replace("inf", "torch.inf")
