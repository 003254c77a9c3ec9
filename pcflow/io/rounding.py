"""Logits as probabilities in bfloat16: half the bytes, and exact distributions all the same.

A logit rounded to 8 bits would be off by the more the less likely its value is; a probability is
off by one part in 512, however small it is. Its logarithm is read back as a logit, which is
normalised like any other.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pcflow.circuit import Circuit, InputLayer, Parameter, SumLayer
from pcflow.inputs import FiniteFamily

LEAST = torch.finfo(torch.bfloat16).tiny
"""What is possible is not rounded below this: a zero would be one for ever."""


def softmax_axes(circuit: Circuit) -> dict[Parameter, int]:
    """Over which axis a softmax makes probabilities of a parameter, of those where one does."""
    axes: dict[Parameter, set[int]] = {}
    for layer in circuit.layers:
        match layer:
            case SumLayer():
                axes.setdefault(layer.weight, set()).add(-1)
            case InputLayer(family=FiniteFamily(logits=str(name))):
                axes.setdefault(layer.parameters[name], set()).add(-2)
    return {parameter: axis for parameter, (axis, *more) in axes.items() if not more}


def rounded(logits: Tensor, axis: int) -> Tensor:
    """Probabilities in bfloat16; none is zero that was not."""
    possible = logits.softmax(axis).clamp_min_(LEAST)
    return possible.masked_fill_(logits == -torch.inf, 0.0).bfloat16()


def logits_of(probabilities: Tensor) -> Tensor:
    """Logits in float32 whose softmax they are, once they are normalised.

    Raises:
        ValueError: if one is negative.
    """
    if (probabilities < 0).any():
        raise ValueError("a probability is negative")
    return probabilities.float().log_()
