"""Gradient learning with any torch optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import torch

from pcflow.learn.checkpoint import State
from pcflow.learn.data import Batches, log_prob, totals, weight_of
from pcflow.queries import CompiledCircuit, refuse_impossible

MakeOptimizer = Callable[[Iterator[torch.nn.Parameter]], torch.optim.Optimizer]


@dataclass(frozen=True)
class Gradient:
    """Maximise the mean log-likelihood by steps of a torch optimizer, one per batch.

    Args:
        optimizer: makes the optimizer from the model's parameters; Adam with step size 0.05 by
            default. It is made once per model and keeps its state between epochs.
        decay: let the step sizes fall linearly, to zero at the end of the last epoch.

    Examples:
        >>> import pcflow as pf
        >>> model = pf.compile(pf.hmm(4, states=2, inputs=pf.Categorical(3)))
        >>> learner = pf.Gradient(lambda parameters: torch.optim.SGD(parameters, lr=0.1))
        >>> x = torch.randint(3, (50, 4))
        >>> len(pf.fit(model, x, learner, epochs=2, progress=False).train)
        2
    """

    optimizer: MakeOptimizer = lambda parameters: torch.optim.Adam(parameters, lr=0.05)
    decay: bool = False
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
        for batch in batches:
            found = log_prob(model, batch)
            # what is given may be impossible too, and the difference then is no number
            possible = found.detach().masked_fill(~found.isfinite(), -torch.inf)
            refuse_impossible(possible, "fit")
            weight = weight_of(batch, found)
            optimizer.zero_grad(set_to_none=True)
            (-weight @ found).backward()
            here = totals(found, weight)
            grads = [p.grad for p in model.parameters() if p.grad is not None]
            team.add_up([here, *grads])
            torch._foreach_div_(grads, float(here[1]))
            self._step(optimizer, 1 - batches.done if self.decay else 1.0)
            met += here
        return float(met[0] / met[1])

    def _step(self, optimizer: torch.optim.Optimizer, share: float) -> None:
        """One step with a share of the step sizes, which are put back."""
        before = [group["lr"] for group in optimizer.param_groups]
        for group in optimizer.param_groups:
            group["lr"] = share * group["lr"]
        optimizer.step()
        for group, size in zip(optimizer.param_groups, before, strict=True):
            group["lr"] = size

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
