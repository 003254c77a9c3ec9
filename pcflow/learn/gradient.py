"""Gradient learning with any torch optimizer."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pcflow.engine import Engine, InputStep
from pcflow.errors import FileFormatError, TypeMismatch
from pcflow.learn.batch import Batch, Model, totals
from pcflow.learn.checkpoint import must_be_like
from pcflow.learn.learner import State
from pcflow.learn.team import ALONE, Team

MakeOptimizer = Callable[[Iterator[nn.Parameter]], torch.optim.Optimizer]

SQUARES = {"exp_avg_sq", "max_exp_avg_sq", "exp_inf", "square_avg", "acc_delta", "sum"}
"""What torch's optimizers take roots of: it is never negative."""

WAYS = {"foreach", "fused"}
"""What optimizers are told of how to compute a step, which may change when a run goes on."""


def adam(parameters: Iterator[nn.Parameter]) -> torch.optim.Optimizer:
    """Adam with step size 0.05, which reads every number once.

    Args:
        parameters: what it moves.
    """
    return torch.optim.Adam(parameters, lr=0.05, fused=True)


@dataclass(frozen=True)
class Gradient:
    """Maximise the mean log-likelihood by steps of a torch optimizer, one per batch.

    Steps do not depend on units: what the optimizer sees of the location of an input unit (the mean
    of a `Gaussian`) is how far it moves in this step, in multiples of its present scale. So weight
    decay leaves locations alone.

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
            wanted = "what makes an optimizer from parameters, such as torch.optim.Adam"
            raise TypeMismatch("optimizer", self.optimizer, wanted)

    def __repr__(self) -> str:
        """A function by its name, not by where it is in memory."""
        name = getattr(self.optimizer, "__qualname__", repr(self.optimizer))
        return f"Gradient({name}, decay={self.decay})"

    def start(self, model: Model, team: Team = ALONE) -> GradientRun:
        """Begin to learn the parameters of a model, among the processes of a team.

        Args:
            model: what learns, in place.
            team: the processes that share its batches; this one alone if not given.

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
        if not met[1]:  # no row counts
            return met
        if grads:
            torch._foreach_div_(grads, float(met[1]))
        self._move(1 - done if self.learner.decay else 1.0)
        return met

    def _move(self, share: float) -> None:
        """One step with a share of the step sizes, which are put back."""
        before = [group["lr"] for group in self.optimizer.param_groups]
        for group in self.optimizer.param_groups:
            group["lr"] = share * group["lr"]
        with _in_units_of_scale(self.model.engine):
            self.optimizer.step()
        for group, size in zip(self.optimizer.param_groups, before, strict=True):
            group["lr"] = size
        self.times += 1

    def state(self) -> State:
        """That of the optimizer, and after how many steps."""
        return {"times": self.times, "optimizer": _without_ways(self.optimizer.state_dict())}

    def restore(self, state: State) -> None:
        """Give the optimizer its state back."""
        present = self.optimizer.state_dict()
        like = _without_ways(self._stepped() if state["times"] else present)
        found = _without_ways(state["optimizer"])
        must_be_like({**state, "optimizer": found}, {"times": 0, "optimizer": like}, "learner")
        for number, kept in found["state"].items():
            for name in SQUARES & kept.keys():
                if bool((kept[name] < 0).any()):
                    raise FileFormatError(f"learner.optimizer.state.{number}.{name} is negative")
        groups = zip(present["param_groups"], found["param_groups"], strict=True)
        self.optimizer.load_state_dict({**found, "param_groups": [a | b for a, b in groups]})
        self.times = state["times"]

    def _stepped(self) -> State:
        """The state of a copy of the optimizer after its first step."""
        twin = copy.deepcopy(self.optimizer)
        for group in twin.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
        twin.step()
        return twin.state_dict()


def _without_ways(state: State) -> State:
    """An optimizer's state without `WAYS`."""
    groups = [{n: v for n, v in g.items() if n not in WAYS} for g in state["param_groups"]]
    return {**state, "param_groups": groups}


@contextmanager
def _in_units_of_scale(engine: Engine) -> Iterator[None]:
    """Meanwhile locations are moves from where they are, in units of their scale."""
    with torch.no_grad():
        banks = engine.tables.banks
        moved = {b: s for b, s in scales(engine).items() if banks[b].grad is not None}
        before = {bank: banks[bank].clone() for bank in moved}
        for bank, scale in moved.items():
            gradient = banks[bank].grad
            assert gradient is not None
            gradient.mul_(scale)
            banks[bank].zero_()
        yield
        for bank, scale in moved.items():
            banks[bank].copy_(torch.addcmul(before[bank], scale, banks[bank]))


def scales(engine: Engine) -> dict[int, Tensor]:
    """By bank of locations, the scale [P, K] of every one of them."""
    tables, found = engine.tables, dict[int, Tensor]()
    for step in engine.plan.steps:
        if isinstance(step, InputStep):
            for location, log_scale in step.family.locations.items():
                read, scale = step.parameters[location], tables.parameters(step)[log_scale].exp()
                bank = found.setdefault(read.bank, torch.ones_like(tables.banks[read.bank]))
                # a location that many scales share moves by the smallest
                bank[read.rows] = scale.amin(dim=0, keepdim=True) if read.shared else scale
    return found
