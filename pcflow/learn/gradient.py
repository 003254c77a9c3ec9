"""Gradient learning with any torch optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from pcflow.compiled import CompiledCircuit
from pcflow.queries import refuse_impossible

MakeOptimizer = Callable[[Iterator[torch.nn.Parameter]], torch.optim.Optimizer]


@dataclass(frozen=True)
class Gradient:
    """Maximise the mean log-likelihood by steps of a torch optimizer, one per batch.

    Args:
        optimizer: makes the optimizer from the model's parameters; Adam with step size 0.05 by
            default. It is made once per model and keeps its state between epochs.

    Examples:
        >>> import pcflow as pf
        >>> model = pf.compile(pf.hmm(4, states=2, inputs=pf.Categorical(3)))
        >>> learner = pf.Gradient(lambda parameters: torch.optim.SGD(parameters, lr=0.1))
        >>> x = torch.randint(3, (50, 4))
        >>> len(pf.fit(model, x, learner, epochs=2, progress=False).train)
        2
    """

    optimizer: MakeOptimizer = lambda parameters: torch.optim.Adam(parameters, lr=0.05)
    shuffle = True
    _made: WeakKeyDictionary[CompiledCircuit, torch.optim.Optimizer] = field(
        default_factory=WeakKeyDictionary, init=False, repr=False, compare=False
    )

    def epoch(self, model: CompiledCircuit, batches: Iterable[Tensor]) -> float:
        """One step per batch; returns the mean log-likelihood met on the way.

        Raises:
            NoMassError: if the model gives a row probability zero.
        """
        optimizer = self._made.get(model)
        if optimizer is None:
            optimizer = self._made[model] = self.optimizer(model.parameters())
        total, rows = 0.0, 0
        for x in batches:
            log_prob = model.log_prob(x)
            refuse_impossible(log_prob.detach(), "fit")
            optimizer.zero_grad(set_to_none=True)
            (-log_prob.mean()).backward()
            optimizer.step()
            total += float(log_prob.detach().double().sum())
            rows += len(x)
        return total / rows
