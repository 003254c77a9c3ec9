"""Expectation maximisation by mini-batches: Anemone, and the plain kind.

Legend: B batch, K units, P parameters of a bank.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from pcflow.errors import PropertyRequired
from pcflow.inputs import DensityFamily, FiniteFamily
from pcflow.learn.checkpoint import Memoryless, State
from pcflow.learn.counts import Counts, PriorCounts
from pcflow.learn.data import Batch, Batches, Conditional, unconditional
from pcflow.queries import CompiledCircuit

Sums = list[dict[int, Tensor]]
"""Of `Counts.sums`: weights, input counts, input statistics, by bank."""


@dataclass(frozen=True)
class _Stochastic(ABC):
    shuffle = True

    def _check(self, step: float, pseudocount: float) -> None:
        if not 0 < step <= 1 or not pseudocount >= 0:
            raise ValueError(f"need 0 < step <= 1 and pseudocount >= 0: {step=}, {pseudocount=}")

    @torch.no_grad()
    def epoch(self, model: CompiledCircuit, batches: Batches) -> float:
        """One step per batch; returns the mean log-likelihood met on the way.

        Raises:
            NoMassError: if the model gives a row probability zero.
            TypeError: if a batch is `Conditional` and the learner does not learn from such.
            PropertyRequired: if it is, and an input unit has a density.
        """
        met = torch.zeros(2, dtype=torch.float64)
        for batch in batches:
            counts = Counts(model)
            self.count(batch, counts)
            counts.gather(batches.team)
            self.update(model, counts, batches.done)
            met += counts.met
        return float(met[0] / met[1])

    def count(self, batch: Batch, counts: Counts) -> None:
        """Add what a batch counts."""
        counts.add(unconditional(batch))

    @abstractmethod
    def update(self, model: CompiledCircuit, counts: Counts, done: float) -> None:
        """Move the parameters by what some rows count, a share of all learning being done."""


@dataclass(frozen=True)
class Anemone(_Stochastic):
    """Mini-batch EM in which every unit moves as much as it is used (arXiv 2505.19982).

    New parameters are relative counts of a mixture: `step` of the batch's mean flows, and the rest
    of what the model itself expects of a row of which nothing is known. A unit that the batch uses
    more than the model expects moves far, one that it does not use stays.

    From `Conditional` rows it learns by two flows: to what the model expects, `step` of the
    difference between the flows of the evidence and those of what is given is added, which is
    the growth transform of extended Baum-Welch (Gopalakrishnan et al. 1991) with the same steps.
    No count falls by more than that share. With potentials of one throughout as what is given it
    is the same as above. Conditional likelihoods may fall: judge by validation data.

    Args:
        step: share of the batch, in (0, 1].
        momentum: of the flows, in [0, 1).
        pseudocount: added to every mean count.
        decay: let the step fall linearly, to zero at the end of the last epoch.

    Raises:
        ValueError: if a number is out of range.

    Examples:
        >>> import pcflow as pf
        >>> model = pf.compile(pf.hmm(4, states=2, inputs=pf.Categorical(3)))
        >>> x = torch.randint(3, (50, 4))
        >>> result = pf.fit(model, x, pf.Anemone(), epochs=5, batch_size=10, progress=False)
        >>> result.train[0] < result.train[-1]
        True
    """

    step: float = 0.4
    momentum: float = 0.9
    pseudocount: float = 1e-6
    decay: bool = False
    _buffers: WeakKeyDictionary[CompiledCircuit, tuple[int, Sums]] = field(
        default_factory=WeakKeyDictionary, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        """Check the numbers."""
        self._check(self.step, self.pseudocount)
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must be in [0, 1), got {self.momentum}")

    def __reduce__(self) -> tuple[type[Anemone], tuple[float, float, float, bool]]:
        """Copies and pickles: the settings, without what was kept of models here."""
        return type(self), (self.step, self.momentum, self.pseudocount, self.decay)

    def count(self, batch: Batch, counts: Counts) -> None:
        """Flows, or differences of flows."""
        if not isinstance(batch, Conditional):
            counts.add(batch)
            return
        for family, _ in counts.kinds:
            if isinstance(family, DensityFamily):
                raise PropertyRequired(f"{family} has no two flows: learn by Gradient")
        counts.add_difference(batch)

    def update(self, model: CompiledCircuit, counts: Counts, done: float = 0.0) -> None:
        """Mix smoothed mean flows with those of the prior."""
        prior, step = PriorCounts(model), self.step * (1 - done if self.decay else 1.0)
        prior.add_nothing()
        flows = self._smooth(model, [s.found for s in counts.sums], float(counts.met[1]))
        for expected, flow, sums in zip(prior.sums, flows, counts.sums, strict=True):
            for bank, mean in flow.items():
                sums.found[bank] = _mix(expected.found[bank], mean, step, counts.of_differences)
        counts.write(self.pseudocount)

    def state(self, model: CompiledCircuit) -> State:
        """Smoothed flows, and of how many batches."""
        times, buffers = self._buffers.get(model, (0, [{}, {}, {}]))
        return {"times": times, "buffers": buffers}

    def restore(self, model: CompiledCircuit, state: State) -> None:
        """Smooth on from there."""
        device = model.engine.tables.like.device
        buffers = [{bank: t.to(device) for bank, t in b.items()} for b in state["buffers"]]
        self._buffers[model] = (state["times"], buffers)

    def _smooth(self, model: CompiledCircuit, found: Sums, rows: float) -> Sums:
        """Mean flows, averaged over batches with the weight of the first ones corrected."""
        times, buffers = self._buffers.get(model, (0, [{}, {}, {}]))
        for buffer, flows in zip(buffers, found, strict=True):
            for bank, flow in flows.items():
                mean = flow / rows
                before = buffer.get(bank, torch.zeros_like(mean))
                buffer[bank] = torch.lerp(mean, before, self.momentum)
        self._buffers[model] = (times + 1, buffers)
        share = 1 - self.momentum ** (times + 1)
        return [{bank: flow / share for bank, flow in buffer.items()} for buffer in buffers]


@dataclass(frozen=True)
class MiniBatchEM(Memoryless, _Stochastic):
    """EM by batches with one step size for all units (Peharz et al. 2020).

    Every unit that the batch uses moves from its parameters towards the relative counts.

    Args:
        step: how far, in (0, 1].
        pseudocount: added to every relative count.

    Raises:
        ValueError: if a number is out of range.

    Examples:
        >>> import pcflow as pf
        >>> model = pf.compile(pf.hmm(4, states=2, inputs=pf.Categorical(3)))
        >>> x = torch.randint(3, (50, 4))
        >>> result = pf.fit(model, x, pf.MiniBatchEM(), epochs=5, batch_size=10, progress=False)
        >>> result.train[0] < result.train[-1]
        True
    """

    step: float = 0.1
    pseudocount: float = 1e-6

    def __post_init__(self) -> None:
        """Check the numbers."""
        self._check(self.step, self.pseudocount)

    def update(self, model: CompiledCircuit, counts: Counts, done: float = 0.0) -> None:
        """Mix relative counts with present parameters."""
        weights, inputs, statistics = (s.found for s in counts.sums)
        tables, banks = counts.engine.tables, counts.engine.tables.banks
        for bank, flow in weights.items():
            weights[bank] = self._mix(tables.linear(bank), flow, flow.sum(dim=-1, keepdim=True))
        for family, named in counts.kinds:
            params, first = (
                {n: banks[b].detach() for n, b in named.items()},
                next(iter(named.values())),
            )
            if isinstance(family, DensityFamily):
                total = inputs[first].unsqueeze(-2)  # [P, 1, K]
                moments = family.moments(params)
                statistics[first] = self._mix(moments, statistics[first], total)
                inputs[first] = torch.ones_like(inputs[first])
            else:
                assert isinstance(family, FiniteFamily)
                total = inputs[first].sum(dim=-2, keepdim=True)
                inputs[first] = self._mix(family.table(params), inputs[first], total)
        counts.write(self.pseudocount)

    def _mix(self, present: Tensor, flow: Tensor, total: Tensor) -> Tensor:
        used = total > 0
        relative = torch.where(used, flow / total.masked_fill(~used, 1.0), present)
        return torch.lerp(present, relative, self.step)


def _mix(expected: Tensor, mean: Tensor, step: float, difference: bool) -> Tensor:
    """Go a step from expected counts to mean ones, or by a mean difference.

    A difference of counts is at least minus what is given, which is not always what is expected;
    so nothing may fall by more than it would if the evidence did not use it at all.
    """
    if not difference:
        return torch.lerp(expected, mean, step)
    return torch.maximum(expected + step * mean, (1 - step) * expected)
