"""Gradient learning with any torch optimizer."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pcflow.errors import FileFormatError, TypeMismatch
from pcflow.learn.batch import Batch, Model, totals
from pcflow.learn.checkpoint import must_be_like
from pcflow.learn.learner import State
from pcflow.learn.team import ALONE, Team

MakeOptimizer = Callable[[Iterator[nn.Parameter]], torch.optim.Optimizer]

SQUARES = {"exp_avg_sq", "max_exp_avg_sq", "exp_inf", "square_avg", "acc_delta", "sum"}
"""What torch's optimizers take roots of: it is never negative."""


def adam(parameters: Iterator[nn.Parameter]) -> torch.optim.Optimizer:
    """Adam with step size 0.05."""
    return torch.optim.Adam(parameters, lr=0.05)


@dataclass(frozen=True)
class Gradient:
    """Maximise the mean log-likelihood by steps of a torch optimizer, one per batch.

    Args:
        optimizer: makes the optimizer from the model's parameters: a class, a function, a
            `functools.partial` of a class with its settings, or a lambda, which alone cannot be
            pickled; Adam with step size 0.05 by default. It is made once for every run.
        decay: let the step sizes fall linearly, to zero at the end of the last epoch.

    Raises:
        TypeMismatch: if the optimizer is nothing to call.

    Examples:
        >>> import pcflow as pf
        >>> from functools import partial
        >>> model = pf.compile(pf.hmm(4, states=2, inputs=pf.Categorical(3)))
        >>> learner = pf.Gradient(partial(torch.optim.SGD, lr=0.1))
        >>> x = torch.randint(3, (50, 4))
        >>> len(pf.fit(model, x, learner, epochs=2, progress=False).train)
        2
    """

    optimizer: MakeOptimizer = adam
    decay: bool = False
    full_batch = False

    def __post_init__(self) -> None:
        """Check that it can be called; what it makes is checked when a run starts."""
        if not callable(self.optimizer):
            wanted = "a function that makes an optimizer from parameters"
            raise TypeMismatch("optimizer", self.optimizer, wanted)

    def start(self, model: Model, team: Team = ALONE) -> GradientRun:
        """See `Learner`.

        Raises:
            TypeMismatch: if what the optimizer should be is none.
        """
        return GradientRun(self, model, team)


class GradientRun:
    """An optimizer at work on a model."""

    def __init__(self, learner: Gradient, model: Model, team: Team) -> None:
        """Make the optimizer."""
        self.learner, self.model, self.team, self.times = learner, model, team, 0
        self.optimizer = learner.optimizer(model.parameters())
        if not isinstance(self.optimizer, torch.optim.Optimizer):
            wanted = "a torch.optim.Optimizer"
            raise TypeMismatch("what `optimizer` makes", self.optimizer, wanted)

    def step(self, batches: Iterable[Batch], done: float = 0.0) -> Tensor:
        """See `Run`.

        Raises:
            NoMassError: if the model gives a row probability zero.
        """
        met = torch.zeros(2, dtype=torch.float64)
        self.optimizer.zero_grad(set_to_none=True)
        for batch in batches:
            found = batch.log_prob(self.model)
            batch.refuse_impossible(found.detach())
            weight = batch.weights.to(found)
            if found.requires_grad:
                (-weight @ found.masked_fill(weight == 0, 0.0)).backward()
            met += totals(found, weight)
        grads = [p.grad for p in self.model.parameters() if p.grad is not None]
        self.team.add_up([met, *grads])
        if grads:
            torch._foreach_div_(grads, float(met[1]))
        self._move(1 - done if self.learner.decay else 1.0)
        return met

    def _move(self, share: float) -> None:
        """One step with a share of the step sizes, which are put back."""
        before = [group["lr"] for group in self.optimizer.param_groups]
        for group in self.optimizer.param_groups:
            group["lr"] = share * group["lr"]
        self.optimizer.step()
        for group, size in zip(self.optimizer.param_groups, before, strict=True):
            group["lr"] = size
        self.times += 1

    def state(self) -> State:
        """That of the optimizer, and after how many steps."""
        return {"times": self.times, "optimizer": self.optimizer.state_dict()}

    def restore(self, state: State) -> None:
        """Give the optimizer its state back."""
        optimizer = self._stepped() if state["times"] else self.optimizer.state_dict()
        must_be_like(state, {"times": 0, "optimizer": optimizer}, "learner")
        for number, kept in state["optimizer"]["state"].items():
            for name in SQUARES & kept.keys():
                if bool((kept[name] < 0).any()):
                    raise FileFormatError(f"learner.optimizer.state.{number}.{name} is negative")
        self.optimizer.load_state_dict(state["optimizer"])
        self.times = state["times"]

    def _stepped(self) -> State:
        """The state of a copy of the optimizer after its first step."""
        twin = copy.deepcopy(self.optimizer)
        for group in twin.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
        twin.step()
        return twin.state_dict()
