"""`fit`: epochs, batches, validation, early stopping, progress."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor
from tqdm import tqdm

from pcflow.compiled import CompiledCircuit
from pcflow.errors import EvidenceError, NoMassError
from pcflow.learn.em import EM


class Learner(Protocol):
    """One way to improve a model on data."""

    @property
    def shuffle(self) -> bool:
        """Whether the order of the rows matters, and is drawn anew for every epoch."""
        ...

    def epoch(self, model: CompiledCircuit, batches: Iterable[Tensor]) -> float:
        """Go over the data once; returns the mean training log-likelihood (nats)."""
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


def fit(
    model: CompiledCircuit,
    train: Tensor,
    learner: Learner | None = None,
    *,
    epochs: int = 50,
    batch_size: int = 512,
    validation: Tensor | None = None,
    patience: int | None = None,
    progress: bool = True,
    generator: torch.Generator | None = None,
) -> FitResult:
    """Learn the parameters of a model from data, in place.

    Args:
        model: the compiled circuit.
        train: rows [N, D]; NaN is a missing value.
        learner: `EM()` by default.
        epochs: how often to go over the data.
        batch_size: rows at a time; EM sums over all of them before it updates.
        validation: rows to judge by; the best parameters on them are kept.
        patience: stop after this many epochs without improvement; needs validation data.
        progress: whether to show a progress bar.
        generator: source of the order of rows; torch's global one by default.

    Raises:
        EvidenceError: if the data do not fit the circuit, or hold no observed value.
        NoMassError: if the model gives a training row probability zero.
        ValueError: if a number is out of range.

    Examples:
        >>> import pcflow as pf
        >>> model = pf.compile(pf.hmm(4, states=2, inputs=pf.Categorical(3)))
        >>> x = torch.randint(3, (80, 4))
        >>> pf.fit(model, x[:60], validation=x[60:], epochs=5, progress=False).best_epoch < 5
        True
    """
    _check(model, train, epochs, batch_size, validation, patience)
    learner = EM() if learner is None else learner
    result, best = FitResult(), _Best(model)
    with tqdm(range(epochs), disable=not progress, unit="epoch", desc="fit") as bar:
        for epoch in bar:
            batches = _Batches(train, batch_size, learner.shuffle, generator)
            try:
                result.train.append(learner.epoch(model, batches))
            except NoMassError as error:
                raise batches.rename(error) from None
            shown = {"train": f"{result.train[-1]:.4f}"}
            result.best_epoch = epoch
            if validation is not None:
                result.validation.append(mean_log_prob(model, validation, batch_size))
                shown["valid"] = f"{result.validation[-1]:.4f}"
                result.best_epoch = best.see(epoch, result.validation[-1])
            bar.set_postfix(shown, refresh=False)
            if patience is not None and epoch - result.best_epoch >= patience:
                break
    best.restore()
    return result


@torch.no_grad()
def mean_log_prob(model: CompiledCircuit, x: Tensor, batch_size: int = 512) -> float:
    """Mean log-likelihood (nats) of rows [N, D], a batch at a time.

    Raises:
        EvidenceError: if the rows do not fit the circuit.

    Examples:
        >>> import pcflow as pf
        >>> model = pf.compile(pf.hmm(2, states=2, inputs=pf.Bernoulli()))
        >>> abs(mean_log_prob(model, torch.full((3, 2), torch.nan))) < 1e-5
        True
    """
    total = sum(float(model.log_prob(part).double().sum()) for part in x.split(batch_size))
    return total / len(x)


class _Best:
    """The best parameters on the validation data so far."""

    def __init__(self, model: CompiledCircuit) -> None:
        self.model, self.epoch, self.score = model, -1, -float("inf")
        self.values: list[Tensor] | None = None

    def see(self, epoch: int, score: float) -> int:
        """Keep the present parameters if they are better; returns the best epoch."""
        if score > self.score or self.values is None:
            self.epoch, self.score = epoch, score
            self.values = [p.detach().clone() for p in self.model.parameters()]
        return self.epoch

    @torch.no_grad()
    def restore(self) -> None:
        """Give the model its best parameters back."""
        if self.values is not None:
            for parameter, value in zip(self.model.parameters(), self.values, strict=True):
                parameter.copy_(value)


class _Batches:
    """Rows of the data, a batch at a time, which remembers where it is."""

    def __init__(
        self, x: Tensor, size: int, shuffle: bool, generator: torch.Generator | None
    ) -> None:
        device = x.device if generator is None else generator.device
        self.x, self.size, self.now = x, size, torch.arange(0)
        self.order = torch.arange(len(x))
        if shuffle:
            self.order = torch.randperm(len(x), generator=generator, device=device)

    def __iter__(self) -> Iterator[Tensor]:
        for rows in self.order.to(self.x.device).split(self.size):
            self.now = rows
            yield self.x[rows]

    def rename(self, error: NoMassError) -> NoMassError:
        """The same error with rows of the data in place of rows of the batch."""
        return NoMassError(self.now[list(error.rows)].tolist(), "fit")


def _check(
    model: CompiledCircuit,
    train: Tensor,
    epochs: int,
    batch_size: int,
    validation: Tensor | None,
    patience: int | None,
) -> None:
    if epochs < 1 or batch_size < 1 or (patience is not None and patience < 1):
        raise ValueError(f"need at least 1: {epochs=}, {batch_size=}, {patience=}")
    if patience is not None and validation is None:
        raise ValueError("patience needs validation data")
    for name, x in (("train", train), ("validation", validation)):
        if x is None:
            continue
        if x.dim() != 2 or x.shape[1] != model.num_variables or len(x) == 0:
            wanted = f"[N, {model.num_variables}] with at least one row"
            raise EvidenceError(f"{name} must be {wanted}, got {tuple(x.shape)}")
        if x.is_floating_point() and x.isnan().all():
            raise EvidenceError(f"{name} holds no observed value")
