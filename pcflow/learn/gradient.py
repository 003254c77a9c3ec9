"""Gradient learning with any torch optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import torch

from pcflow.compiled import CompiledCircuit
from pcflow.learn.checkpoint import State
from pcflow.learn.data import Batches
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

    def epoch(self, model: CompiledCircuit, batches: Batches) -> float:
        """One step per batch; returns the mean log-likelihood met on the way.

        Raises:
            NoMassError: if the model gives a row probability zero.
        """
        optimizer, team = self._of(model), batches.team
        met = torch.zeros(2, dtype=torch.float64)
        for x in batches:
            log_prob = model.log_prob(x)
            refuse_impossible(log_prob.detach(), "fit")
            optimizer.zero_grad(set_to_none=True)
            (-log_prob.sum()).backward()
            here = torch.tensor([float(log_prob.detach().double().sum()), float(len(x))])
            grads = [p.grad for p in model.parameters() if p.grad is not None]
            team.add_up([here, *grads])
            torch._foreach_div_(grads, float(here[1]))
            optimizer.step()
            met += here
        return float(met[0] / met[1])

    def state(self, model: CompiledCircuit) -> State:
        """That of the optimizer."""
        return self._of(model).state_dict()

    def restore(self, model: CompiledCircuit, state: State) -> None:
        """Give the optimizer its state back."""
        self._of(model).load_state_dict(state)

    def _of(self, model: CompiledCircuit) -> torch.optim.Optimizer:
        if model not in self._made:
            self._made[model] = self.optimizer(model.parameters())
        return self._made[model]
