"""`fit`: epochs, batches, validation, early stopping, checkpoints, progress."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from matplotlib.axes import Axes
from torch import Tensor
from tqdm import tqdm

from pcflow.errors import NoMassError
from pcflow.io import digest
from pcflow.learn.checkpoint import (
    Checkpoint,
    State,
    put_values,
    random_state,
    restore_random_state,
    values_of,
)
from pcflow.learn.data import Batch, Batches, Data, Source, Team, log_prob, totals, weight_of
from pcflow.learn.em import EM
from pcflow.queries import CompiledCircuit


class Learner(Protocol):
    """One way to improve a model on data."""

    @property
    def shuffle(self) -> bool:
        """Whether the order of the rows matters, and is drawn anew for every epoch."""
        ...

    def epoch(self, model: CompiledCircuit, batches: Batches) -> float:
        """Go over the data once; returns the mean training log-likelihood (nats)."""
        ...

    def state(self, model: CompiledCircuit) -> State:
        """What it remembers about a model between epochs; asked for by checkpoints only."""
        ...

    def restore(self, model: CompiledCircuit, state: State) -> None:
        """Remember that again."""
        ...


@dataclass
class FitResult:
    """What happened during `fit`.

    Attributes:
        train: mean training log-likelihood per epoch (nats), as met during the epoch.
        validation: mean validation log-likelihood after each epoch; empty without validation data.
        best_epoch: index of the epoch whose parameters the model has now.
    """

    train: list[float] = field(default_factory=list)
    validation: list[float] = field(default_factory=list)
    best_epoch: int = -1

    def plot(self, axes: Axes | None = None) -> Axes:
        """Draw log-likelihood by epoch, with the best epoch marked.

        Args:
            axes: where to draw; a new figure by default.

        Examples:
            >>> FitResult([-2.0, -1.5], [-2.1, -1.7], best_epoch=1).plot().get_xlabel()
            'epoch'
        """
        from matplotlib import pyplot

        axes = pyplot.subplots()[1] if axes is None else axes
        for name, values in (("train", self.train), ("validation", self.validation)):
            if values:
                axes.plot(range(1, len(values) + 1), values, label=name)
        axes.axvline(self.best_epoch + 1, color="grey", linewidth=0.8, linestyle=":")
        axes.set_xlabel("epoch")
        axes.set_ylabel("log-likelihood (nats per row)")
        axes.legend()
        return axes


def fit(
    model: CompiledCircuit,
    train: Data,
    learner: Learner | None = None,
    *,
    epochs: int = 50,
    batch_size: int = 512,
    validation: Data | None = None,
    patience: int | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    distributed: bool = False,
    progress: bool = True,
    generator: torch.Generator | None = None,
) -> FitResult:
    """Learn the parameters of a model from data, in place.

    Args:
        model: the compiled circuit.
        train: rows [N, D], a tensor or a numpy array, mapped from disk too; NaN is a missing value.
            Or a DataLoader of batches [B, D], which then sees to batch size and order itself. Or
            whatever has a length and a method `take` that makes the rows of given numbers [B]:
            values [B, D], or a `Conditional` for learning conditional likelihoods.
        learner: `EM()` by default.
        epochs: how often to go over the data.
        batch_size: rows at a time; EM sums over all of them before it updates.
        validation: rows to judge by; the best parameters on them are kept.
        patience: stop after this many epochs without improvement; needs validation data.
        checkpoint: a file that is written after every epoch. If it is there already, `fit` goes on
            from it, to the same parameters that it would have reached without a stop.
        distributed: share every batch among the processes of `torch.distributed`, which all call
            `fit` alike. The result is that of a single process, up to rounding. A DataLoader loads
            each process's own share; a checkpoint must be where all of them can read it.
        progress: whether to show a progress bar.
        generator: source of the order of rows; torch's global one by default.

    Raises:
        TypeError: if the data are not of such a kind.
        EvidenceError: if the data do not fit the circuit, or hold no observed value.
        NoMassError: if the model gives a training row probability zero.
        FileFormatError: if the checkpoint is of another fit, or broken.
        ValueError: if a number is out of range.
        RuntimeError: if it is to be distributed and `torch.distributed` is not initialised.

    Examples:
        >>> import pcflow as pf
        >>> model = pf.compile(pf.hmm(4, states=2, inputs=pf.Categorical(3)))
        >>> x = torch.randint(3, (80, 4))
        >>> pf.fit(model, x[:60], validation=x[60:], epochs=5, progress=False).best_epoch < 5
        True
    """
    _check(epochs, batch_size, validation, patience)
    team, width = Team(distributed), model.num_variables
    source = Source("train", train, width, batch_size, team)
    judge = None
    if validation is not None:
        judge = Source("validation", validation, width, batch_size, team)
    team.follow_first(p.detach() for p in model.parameters())
    course = _Course(model, EM() if learner is None else learner, source, judge, generator)
    file = None if checkpoint is None else Checkpoint(Path(checkpoint), course.about)
    if file is not None:
        file.take_up(course.restore)
    with _bar(course, epochs, progress and team.rank == 0) as bar:
        while course.epoch < epochs and not course.is_over(patience):
            course.run_epoch(bar, epochs)
            bar.set_postfix(course.shown(epochs), refresh=False)
            if file is not None and team.rank == 0:
                file.write(course.state())
    course.finish()
    return course.result


@torch.no_grad()
def _mean(model: CompiledCircuit, source: Source) -> float:
    """Mean log-likelihood of all rows."""
    total = torch.zeros(2, dtype=torch.float64)
    for batch in source.in_order():
        found = log_prob(model, batch)
        total += totals(found, weight_of(batch, found))
    source.team.add_up([total])
    return float(total[0] / total[1])


class _Course:
    """How far a fit has come: all that goes on changing."""

    def __init__(
        self,
        model: CompiledCircuit,
        learner: Learner,
        train: Source,
        validation: Source | None,
        generator: torch.Generator | None,
    ) -> None:
        self.model, self.learner, self.generator = model, learner, generator
        self.train, self.validation = train, validation
        self.result = FitResult()
        self.best: list[Tensor] | None = None

    @property
    def epoch(self) -> int:
        """How many are done."""
        return len(self.result.train)

    def is_over(self, patience: int | None) -> bool:
        """Whether the best epoch is too long ago."""
        return patience is not None and self.epoch - 1 - self.result.best_epoch >= patience

    def run_epoch(self, bar: tqdm[Any], epochs: int) -> None:
        """Learn once from all data, and see how good that is."""
        shuffle, generator = self.learner.shuffle, self.generator
        batches = self.train.shuffled(generator) if shuffle else self.train.in_order()
        batches.source = _counted(batches.source, bar, self.train.team)
        batches.span = (self.epoch / epochs, (self.epoch + 1) / epochs)
        try:
            self.result.train.append(self.learner.epoch(self.model, batches))
        except NoMassError as error:
            raise batches.rename(error) from None
        if self.validation is None:
            self.result.best_epoch = self.epoch - 1
        else:
            self._see(_mean(self.model, self.validation))

    def _see(self, validation: float) -> None:
        """Keep the present parameters if they are the best."""
        self.result.validation.append(validation)
        if self.best is None or validation > self.result.validation[self.result.best_epoch]:
            self.result.best_epoch, self.best = self.epoch - 1, values_of(self.model)

    def finish(self) -> None:
        """Give the model its best parameters back."""
        if self.best is not None:
            put_values(self.model, self.best)

    def shown(self, epochs: int) -> dict[str, str]:
        """For the progress bar."""
        found = {"epoch": f"{self.epoch}/{epochs}", "train": f"{self.result.train[-1]:.4f}"}
        if self.result.validation:
            found["valid"] = f"{self.result.validation[-1]:.4f}"
        return found

    @property
    def about(self) -> dict[str, object]:
        """What a checkpoint must agree with."""
        return {
            "the learner": type(self.learner).__name__,
            "the circuit": digest(self.model.engine.circuit),
            "batch_size": self.train.size,
            "rows of train": self.train.rows,
            "rows of validation": self.validation and self.validation.rows,
            "whether there is a generator": self.generator is not None,
        }

    def state(self) -> State:
        """For a checkpoint."""
        return {
            "train": self.result.train,
            "validation": self.result.validation,
            "best_epoch": self.result.best_epoch,
            "best": self.best,
            "values": values_of(self.model),
            "learner": self.learner.state(self.model),
            "random": random_state(self.model, self.generator),
        }

    def restore(self, state: State) -> None:
        """From a checkpoint."""
        self.result = FitResult(state["train"], state["validation"], state["best_epoch"])
        device = next(self.model.parameters(), torch.empty(0)).device
        self.best = state["best"] and [value.to(device) for value in state["best"]]
        self.learner.restore(self.model, state["learner"])
        restore_random_state(state["random"], self.model, self.generator)
        put_values(self.model, state["values"])


def _bar(course: _Course, epochs: int, shown: bool) -> tqdm[Any]:
    """Counts rows, so that the time left is known before the first epoch ends."""
    rows = course.train.rows
    return tqdm(
        total=None if rows is None else rows * epochs,
        initial=(rows or 0) * course.epoch,
        disable=not shown,
        unit="row",
        unit_scale=True,
        mininterval=0.5,
        desc="fit",
    )


def _counted(
    source: Iterable[tuple[Tensor, Batch]], bar: tqdm[Any], team: Team
) -> Iterator[tuple[Tensor, Batch]]:
    for rows, batch in source:
        yield rows, batch
        bar.update(len(batch) * team.size)


def _check(epochs: int, batch_size: int, validation: Data | None, patience: int | None) -> None:
    if epochs < 1 or batch_size < 1 or (patience is not None and patience < 1):
        raise ValueError(f"need at least 1: {epochs=}, {batch_size=}, {patience=}")
    if patience is not None and validation is None:
        raise ValueError("patience needs validation data")
