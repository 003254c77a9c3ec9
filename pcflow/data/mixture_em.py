"""Expectation maximisation for a mixture of whatever can be fitted to weighted rows.

Legend: N rows, K components.
"""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

Model = TypeVar("Model")

STEPS = 100
"""Rounds after which EM stops, settled or not."""
GAIN = 1e-4
"""Nats per row below which it has settled."""


def fit_mixture(
    label: Tensor, components: int, step: Callable[[Tensor], tuple[Model, Tensor]]
) -> tuple[Model, Tensor]:
    """The best mixture met, and how its components share every row [N, K].

    Args:
        label: a component [N] for every row to start from.
        components: how many, K.
        step: fits the components to shares [N, K], whose columns' means are their weights;
            returns them and the log-probability [N, K] (nats) of every row in each, weight
            included.
    """
    share = torch.nn.functional.one_hot(label, components).double()
    share = 0.8 * share + 0.2 / components  # a hard start could never be left
    model, score = step(share)
    for _ in range(STEPS):
        new_model, new_score = step(score.softmax(dim=1))
        gain = float((new_score.logsumexp(dim=1) - score.logsumexp(dim=1)).mean())
        if gain > 0:
            model, score = new_model, new_score
        if gain < GAIN:  # smoothing can make it negative
            break
    return model, score.softmax(dim=1)
