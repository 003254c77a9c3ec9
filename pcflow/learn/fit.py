"""`fit`: epochs, batches, validation, early stopping, checkpoints, progress."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from pcflow.checks import check_generator, check_kind, check_whole
from pcflow.errors import EvidenceError, FileFormatError, SettingError
from pcflow.evidence import Numbers
from pcflow.io import digest
from pcflow.learn.batch import Batch, Model, totals
from pcflow.learn.checkpoint import Checkpoint, about_learner, must_be_like
from pcflow.learn.data import Data, Source
from pcflow.learn.em import EM
from pcflow.learn.gradient import Gradient
from pcflow.learn.learner import Learner, State
from pcflow.learn.progress import Progress
from pcflow.learn.randomness import check_random_state, random_state, restore_random_state
from pcflow.learn.spread import warn_of_rounding
from pcflow.learn.stochastic import Anemone, MiniBatchEM
from pcflow.learn.team import Team
from pcflow.plot import training
from pcflow.queries import CompiledCircuit

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MODELS = CompiledCircuit | Model
_LEARNERS = EM | Anemone | MiniBatchEM | Gradient | Learner
"""Ours first: to look at all that a protocol asks for takes longer than a small step."""

_MODEL = "a CompiledCircuit (of a circuit: pf.compile(circuit)), or what learns like one"
_LEARNER = "a learner, such as EM(), Anemone() or Gradient(torch.optim.Adam)"
_log = logging.getLogger("pcflow.fit")


@dataclass
class FitResult:
    """What happened during `fit`.

    Attributes:
        train: mean training log-likelihood per epoch (nats), as met during the epoch; by weight.
        validation: mean validation log-likelihood after each epoch; empty without validation data.
        best_epoch: index of the epoch whose parameters the model has now.
        skipped: how many training rows were impossible and left out, per epoch; empty if that is
            not asked for.

    Examples:
        >>> FitResult([-2.0, -1.5], [-2.1, -1.7], best_epoch=1).validation[1]
        -1.7
    """

    train: list[float] = field(default_factory=list)
    validation: list[float] = field(default_factory=list)
    best_epoch: int = -1
    skipped: list[int] = field(default_factory=list)

    def plot(self, axes: Axes | None = None) -> Axes:
        """Draw log-likelihood by epoch, with the best epoch marked; see `pf.plot.training`.

        Args:
            axes: matplotlib axes to draw on; those of a new figure by default.

        Returns:
            The axes.

        Examples:
            >>> FitResult([-2.0, -1.5], [-2.1, -1.7], best_epoch=1).plot().get_xlabel()
            'epoch'
        """
        return training(self, axes)


class FitInterrupted(KeyboardInterrupt):
    """Somebody pressed Ctrl-C while `fit` ran: the model keeps the best parameters so far.

    It is a `KeyboardInterrupt`, so that loops and scripts end as they do anyway. In a notebook,
    where it is seen after the fact, the result is `sys.last_value.result`.

    Attributes:
        result: of the epochs that were done. Without validation data the parameters are those of
            now, a part of an epoch further on.

    Examples:
        >>> print(FitInterrupted(FitResult([-2.0, -1.5], [-2.1, -2.2], best_epoch=0)))
        interrupted after 2 epochs; the model has the parameters of epoch 1
    """

    def __init__(self, result: FitResult) -> None:
        """Keep the result."""
        super().__init__(result)
        self.result = result

    def __str__(self) -> str:
        """How far it came."""
        done, best = len(self.result.train), self.result.best_epoch + 1
        kept = f"; the model has the parameters of epoch {best}" if self.result.validation else ""
        return f"interrupted after {done} epoch{'s' * (done != 1)}{kept}"


def fit(
    model: Model,
    train: Data,
    learner: Learner | None = None,
    *,
    weights: Numbers | None = None,
    epochs: int = 50,
    batch_size: int = 512,
    validation: Data | None = None,
    validation_weights: Numbers | None = None,
    patience: int | None = None,
    impossible: Literal["refuse", "skip"] = "refuse",
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_seconds: float = 0.0,
    after_epoch: Callable[[FitResult], object] | None = None,
    distributed: bool = False,
    progress: bool | None = None,
    generator: torch.Generator | None = None,
) -> FitResult:
    """Learn the parameters of a model from data, in place; those without gradient are kept.

    Every call starts afresh: what a learner remembers from step to step (momentum, the state of an
    optimizer) ends with the call. Only a checkpoint is gone on from. A call that is interrupted, or
    ends in an error, leaves the best parameters so far. A model in float32 warns of columns that
    lie so far from zero that their differences are rounded away. Every epoch is a line of the
    logger "pcflow.fit", at level INFO.

    Args:
        model: the compiled circuit.
        train: rows [N, D], a tensor or a numpy array, mapped from disk too; NaN is a missing value.
            Or N rows of `Evidence`, soft or in intervals (censored values); or a `Batch` of all
            rows, with what is given of them, or with their features.
            Or a DataLoader of batches [B, D], which then sees to batch size and order itself. Or
            whatever has a length and a method `take` that makes the rows of given numbers [B]:
            values [B, D], or a `Batch` with weights or for learning conditional likelihoods; and,
            if it has a method `of_epoch`, other rows in every epoch: see `Examples`.
        learner: `EM()` by default.
        weights: how much every row counts [N], from zero up: a row of weight two counts as two, one
            of weight zero is not there. A mini-batch learner goes by the mean of a batch, so that
            all weights twice as large change nothing; to `EM` a pseudocount is measured in rows.
            What a loader or `take` makes has weights as a `Batch`; `weights` multiply the latter.
        epochs: how often to go over the data.
        batch_size: rows at a time; EM sums over all of them before it updates.
        validation: rows to judge by; the best parameters on them are kept.
        validation_weights: how much every row of `validation` counts.
        patience: stop after this many epochs without improvement; needs validation data.
        impossible: what becomes of rows that the model gives probability zero: "refuse" raises,
            naming those of the batch; "skip" leaves them out wherever they are met, also of the
            validation data, and counts them, for one more pass up.
        checkpoint: a file that is written after every epoch. If it is there already, `fit` goes on
            from it, to the same parameters that it would have reached without a stop; if it is of
            other data or settings, it is refused.
        checkpoint_seconds: write it at most so often, and at the end; for epochs that take less
            time than the file.
        after_epoch: called with what happened so far after every epoch; if it returns True, that
            was the last one. All processes have to agree about that.
        distributed: share every batch among the processes of `torch.distributed`, which all call
            `fit` alike. The result is that of a single process, up to rounding. A DataLoader loads
            each process's own share; a checkpoint must be where all of them can read it.
        progress: whether to show a progress bar; by default if standard error is a terminal.
        generator: source of the order of rows; torch's global one by default.

    Returns:
        What happened: log-likelihoods (nats per row) by epoch, and the best of them.

    Raises:
        TypeMismatch: if the data are not of such a kind.
        EvidenceError: if the data do not fit the circuit, or hold no observed value or none that is
            possible; or if weights are not as many as rows, not all numbers from zero up, or all
            zero; or if rows have no features, of which the model is told, or such as it knows
            nothing of.
        NoMassError: if the model gives a training row probability zero, which is not to be skipped.
        FileFormatError: if the checkpoint is of another fit, or broken; nothing has run then.
        SettingError: if a number is out of range.
        RuntimeError: if it is to be distributed and `torch.distributed` is not initialised.
        FitInterrupted: if somebody presses Ctrl-C; it has the result so far.

    Examples:
        >>> import pcflow as pf
        >>> model = pf.compile(pf.hmm(4, states=2, inputs=pf.Categorical(3)))
        >>> x = torch.randint(3, (80, 4))
        >>> pf.fit(model, x[:60], validation=x[60:], epochs=5, progress=False).best_epoch < 5
        True
    """
    check_kind("model", model, _MODELS, _MODEL)
    if learner is not None:
        check_kind("learner", learner, _LEARNERS, _LEARNER)
    check_kind("after_epoch", after_epoch, Callable | None, "a function of the result so far")
    check_generator(generator, device=None)
    _check(epochs, batch_size, patience, checkpoint_seconds)
    wanted = ("refuse", "skip")
    SettingError.check("impossible", impossible, '"refuse" or "skip"', lambda how: how in wanted)
    if validation is None:
        _refuse_without_validation(patience=patience, validation_weights=validation_weights)
    team, width = Team(distributed), model.num_variables
    source = Source("train", train, width, batch_size, team, weights)
    judge = None
    if validation is not None:
        judge = Source("validation", validation, width, batch_size, team, validation_weights)
    if source.numbers is not None and not model.engine.domain.is_finite:
        warn_of_rounding(source.numbers.fingerprint()[0], model.engine.domain)
    team.follow_first(held.detach() for held in _held(model))
    skip = impossible == "skip"
    course = _Course(model, EM() if learner is None else learner, source, judge, generator, skip)
    for one in (source,) if judge is None else (source, judge):
        one.check_told(model)
    file = None if checkpoint is None else Checkpoint(Path(checkpoint), course.about)
    if file is not None:
        file.take_up(course.restore)
    written = monotonic()

    def keep(at_once: bool) -> None:
        nonlocal written
        due = at_once or monotonic() - written >= checkpoint_seconds
        if file is not None and team.rank == 0 and due:
            file.write(course.state())
            written = monotonic()

    with ExitStack() as end:
        end.callback(course.finish)
        bar = end.enter_context(closing(course.bar(epochs, False if team.rank else progress)))
        try:
            while not course.is_over(epochs, patience):
                course.run_epoch(bar, epochs)
                bar.tell(**course.shown(epochs))
                keep(at_once=course.is_over(epochs, patience))
                if after_epoch is not None and after_epoch(course.result) is True:
                    keep(at_once=True)
                    break
        except KeyboardInterrupt as stop:
            raise FitInterrupted(course.result) from stop
    return course.result


@torch.no_grad()
def _mean(model: Model, source: Source, skip: bool) -> float:
    """Mean log-likelihood of all rows, or of all that are possible."""
    total = torch.zeros(2, dtype=torch.float64)
    for batch in source.in_order():
        found = batch.log_prob(model)
        weight = batch.weights.to(found)
        total += totals(found, weight.masked_fill(found == -torch.inf, 0.0) if skip else weight)
    source.team.add_up([total])
    return float(total[0] / total[1]) if total[1] else -math.inf


class _Course:
    """How far a fit has come: all that goes on changing."""

    def __init__(
        self,
        model: Model,
        learner: Learner,
        train: Source,
        validation: Source | None,
        generator: torch.Generator | None,
        skip: bool,
    ) -> None:
        self.model, self.learner, self.generator = model, learner, generator
        self.train, self.validation, self.skip = train, validation, skip
        self.run = learner.start(model, train.team)
        self.result = FitResult()
        self.best: list[Tensor] | None = None

    @property
    def epoch(self) -> int:
        """How many are done."""
        return len(self.result.train)

    def is_over(self, epochs: int, patience: int | None) -> bool:
        """Whether all epochs are done, or the best one is too long ago."""
        since = self.epoch - 1 - self.result.best_epoch
        return self.epoch >= epochs or (patience is not None and since >= patience)

    def run_epoch(self, bar: Progress, epochs: int) -> None:
        """Learn once from all data, and see how good that is."""
        skipped = torch.zeros(1, dtype=torch.long)
        met = self._learn(bar, epochs, skipped)
        judge = self.validation
        found = None if judge is None else _mean(self.model, judge, self.skip)
        self._note(met, found, int(skipped))
        _log.info(", ".join(f"{name} {value}" for name, value in self.shown(epochs).items()))

    def _note(self, met: float, validation: float | None, skipped: int) -> None:
        """An epoch is done: all of it is in the result, or, if it is interrupted, nothing."""
        self.result.train.append(met)
        if self.skip:
            self.result.skipped.append(skipped)
        if validation is None:
            self.result.best_epoch = self.epoch - 1
        else:
            self._see(validation)

    def _learn(self, bar: Progress, epochs: int, skipped: Tensor) -> float:
        """A step for all rows, or one for each batch; the mean log-likelihood met on the way."""
        whole, train = self.learner.full_batch, self.train.of_epoch(self.epoch)
        batches = train.in_order() if whole else train.shuffled(self.generator)
        batches = bar.counted(batches, train.team.size)
        batches = self._possible(batches, skipped) if self.skip else batches
        start, stop = self.epoch / epochs, (self.epoch + 1) / epochs
        met = torch.zeros(2, dtype=torch.float64)
        for number, some in enumerate([batches] if whole else ([batch] for batch in batches)):
            done = start + (stop - start) * min(1.0, number / train.count)
            met += self.run.step(some, done)
        if not met[1]:
            raise EvidenceError(f"{train.name} holds no row that the model gives any probability")
        return float(met[0] / met[1])

    def _possible(self, batches: Iterator[Batch], skipped: Tensor) -> Iterator[Batch]:
        """Without rows that have no mass, which are counted."""
        for batch in batches:
            there = batch.possible(self.model)
            skipped += len(batch) - len(there)
            yield there
        self.train.team.add_up([skipped])

    def _see(self, validation: float) -> None:
        """Keep the present parameters if they are the best."""
        self.result.validation.append(validation)
        if self.best is None or validation > self.result.validation[self.result.best_epoch]:
            self.result.best_epoch, self.best = self.epoch - 1, self._values()

    def finish(self) -> None:
        """Give the model its best parameters back."""
        if self.best is not None:
            self._put(self.best)

    def _values(self) -> list[Tensor]:
        """Copies of what the model holds."""
        return [held.detach().clone() for held in _held(self.model)]

    @torch.no_grad()
    def _put(self, values: list[Tensor]) -> None:
        """Give the model other values, in place."""
        for held, value in zip(_held(self.model), values, strict=True):
            held.copy_(value)

    def bar(self, epochs: int, shown: bool | None) -> Progress:
        """A progress bar, where the course is now; epochs are taken to have as many rows."""
        rows = self.train.of_epoch(self.epoch).rows
        return Progress(shown, None if rows is None else rows * epochs, (rows or 0) * self.epoch)

    def shown(self, epochs: int) -> dict[str, str]:
        """For the progress bar."""
        found = {"epoch": f"{self.epoch}/{epochs}", "train": f"{self.result.train[-1]:.4f}"}
        if self.result.validation:
            found["valid"] = f"{self.result.validation[-1]:.4f}"
        return found

    @property
    def about(self) -> dict[str, Any]:
        """What a checkpoint must agree with."""
        parameters = list(self.model.parameters())
        return {
            "learner": about_learner(self.learner, self.run),
            "circuit": digest(self.model.engine.structure),
            "parameters": [f"{p.dtype} {list(p.shape)}" for p in parameters],
            "learned": [p.requires_grad for p in parameters],
            "batch_size": self.train.size,
            "train": self.train.about,
            "validation": self.validation and self.validation.about,
            "generator": self.generator is not None,
            "skip": self.skip,
        }

    def state(self) -> State:
        """For a checkpoint."""
        return {
            "train": self.result.train,
            "validation": self.result.validation,
            "best_epoch": self.result.best_epoch,
            "skipped": self.result.skipped,
            "best": self.best,
            "values": self._values(),
            "learner": self.run.state(),
            "random": random_state(self.model, self.generator),
        }

    def restore(self, state: State) -> None:
        """From a checkpoint, all of which is checked first.

        Raises:
            FileFormatError: if it is not such a state.
        """
        parts = ("train", "validation", "best_epoch", "skipped")
        result = FitResult(*(state[part] for part in parts))
        learned, random = state.pop("learner"), state.pop("random")
        must_be_like(state, self._form(len(result.train)), "what it holds")
        if result.best_epoch != _best_epoch(result):
            raise FileFormatError(f"best_epoch is {result.best_epoch}, not {_best_epoch(result)}")
        check_random_state(random, self.model, self.generator)
        self.run.restore(learned)
        restore_random_state(random, self.model, self.generator)
        self.result, self.best = result, state["best"]
        self._put(state["values"])

    def _form(self, epochs: int) -> State:
        """What a state after so many epochs looks like, but for what others know."""
        values, judged = self._values(), self.validation is not None
        return {
            "train": [-1.0] * max(1, epochs),
            "validation": [-1.0] * epochs * judged,
            "best_epoch": 0,
            "skipped": [0] * epochs * self.skip,
            "best": values if judged else None,
            "values": values,
        }


def _held(model: Model) -> list[Tensor]:
    """Parameters, and buffers beside them, such as the units in which a network speaks."""
    buffers: Iterable[Tensor] = getattr(model, "buffers", tuple)()
    return [*model.parameters(), *(buffer for buffer in buffers if buffer.numel())]


def _best_epoch(result: FitResult) -> int:
    """The first of the best on validation data; the last one if there are none."""
    validation = result.validation
    if not validation:
        return len(result.train) - 1
    return max(range(len(validation)), key=validation.__getitem__)


def _check(epochs: int, batch_size: int, patience: int | None, seconds: float) -> None:
    numbers = {"epochs": epochs, "batch_size": batch_size, "patience": patience}
    for name, value in numbers.items():
        if value is not None or name != "patience":
            check_whole(name, value)
    SettingError.check("checkpoint_seconds", seconds, "not negative", lambda time: time >= 0)


def _refuse_without_validation(**settings: object) -> None:
    for name, value in settings.items():
        if value is not None:
            raise SettingError(name, value, "None where there are no validation data")
