"""The training loop that transformers share: AdamW, a schedule, averaged weights, a bar."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeAlias, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils import clip_grad_norm_
from torch.optim.swa_utils import AveragedModel

from pcflow import SettingError
from pcflow_diffusion.checks import check_count, check_rate
from pcflow_diffusion.errors import CheckpointError, DiffusionError
from pcflow_diffusion.models.progress import bar
from pcflow_diffusion.models.unfinished import Parts, read_unfinished, write_unfinished

LOOK = 100
"""Steps between two looks at held-out text."""

Model = TypeVar("Model", bound=nn.Module)

Objective: TypeAlias = Callable[[Callable[..., Tensor]], tuple[Tensor, Tensor]]
"""Draws a batch and asks the model it is given: what is minimised, and nats per token to show."""


@dataclass(frozen=True)
class Optimisation:
    """How a transformer is optimised.

    Args:
        batch_size: rows per step.
        learning_rate: its highest value; it warms up linearly and decays as a cosine.
        warmup: steps of warm-up; 0 starts at the highest learning rate.
        weight_decay: of AdamW, on matrices only.
        gradient_clip: largest norm of the gradient.
        average: decay of the moving average of the weights, which is what is returned.
        bfloat16: run matrix products in bfloat16, weights and their moments stay in float32; None
            where the CPU has instructions for it (a step then takes two thirds of the time).

    Raises:
        SettingError: if one is out of range.

    Examples:
        >>> Optimisation(batch_size=8).warmup
        100
    """

    batch_size: int = 32
    learning_rate: float = 3e-3
    warmup: int = 100
    weight_decay: float = 0.1
    gradient_clip: float = 1.0
    average: float = 0.998
    bfloat16: bool | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        check_count("batch_size", self.batch_size)
        check_count("warmup", self.warmup, least=0)
        SettingError.check(
            "learning_rate", self.learning_rate, "positive", lambda r: 0 < r < math.inf
        )
        check_rate("weight_decay", self.weight_decay)
        SettingError.check("gradient_clip", self.gradient_clip, "positive", lambda norm: norm > 0)
        SettingError.check("average", self.average, "in [0, 1]", lambda share: 0 <= share <= 1)


@dataclass(frozen=True)
class Budget:
    """How long to train: a number of steps, or minutes of wall clock.

    Raises:
        DiffusionError: unless exactly one of `minutes` and `steps` is given, and positive.
    """

    minutes: float | None
    steps: int | None

    def __post_init__(self) -> None:
        """Check the amount."""
        amounts = [amount for amount in (self.minutes, self.steps) if amount is not None]
        if len(amounts) != 1 or not amounts[0] > 0:
            raise DiffusionError(
                f"give positive minutes or steps, got minutes={self.minutes} and steps={self.steps}"
            )

    def spent(self, steps: int, seconds: float) -> float:
        """The share of the budget that is used, at most 1."""
        whole = 60 * (self.minutes or 0) if self.steps is None else self.steps
        return min(1.0, (seconds if self.steps is None else steps) / whole)


class Loop(Generic[Model]):
    """The state of one training run; it draws from torch's global generator.

    Args:
        model: what is trained, in place.
        objective: what is minimised.
        how: the settings.
        score: held-out loss of the averaged model, by which the best weights are kept; None keeps
            the last.
    """

    def __init__(
        self,
        model: Model,
        objective: Objective,
        how: Optimisation,
        score: Callable[[Model], float] | None = None,
    ) -> None:
        """Set up the optimiser and the average."""
        self.model, self.objective, self.how, self.score = model, objective, how, score
        self.average = AveragedModel(model, avg_fn=_moving_average(how.average))
        matrices = [w for w in model.parameters() if w.ndim > 1]
        vectors = [w for w in model.parameters() if w.ndim <= 1]
        groups = [
            {"params": matrices, "weight_decay": how.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(
            groups, lr=how.learning_rate, betas=(0.9, 0.98), fused=True
        )
        self.best: dict[str, Any] | None = None
        self.lowest = self.smoothed = 0.0
        self.steps, self.seconds = 0, 0.0
        self.bfloat16 = _has_bfloat16() if how.bfloat16 is None else how.bfloat16

    def train(
        self,
        budget: Budget,
        progress: bool | None,
        checkpoint: Callable[[Model], None] | None = None,
        checkpoint_minutes: float = math.inf,
        unfinished: Path | None = None,
    ) -> Model:
        """Steps until the budget is spent, with a bar and checkpoints; the averaged model.

        Held-out loss is looked at every `LOOK` steps, and at the end. With `unfinished` the run
        goes on from that file, which is replaced with every checkpoint.
        """
        if unfinished is not None and unfinished.exists():
            self.go_on(unfinished)
        begun, saved = time.monotonic() - self.seconds, time.monotonic()
        spent = budget.spent(self.steps, self.seconds)
        with bar(None, progress, total=100, initial=100 * spent, bar_format=_BAR) as told:
            while spent < 1:
                self.step(spent)
                self.seconds = time.monotonic() - begun
                spent = budget.spent(self.steps, self.seconds)
                told.update(100 * spent - told.n)
                if self.steps % LOOK == 0 or spent == 1:
                    told.set_postfix(self.look())
                if time.monotonic() - saved > 60 * checkpoint_minutes or spent == 1:
                    self.save(checkpoint, unfinished, spent == 1)
                    saved = time.monotonic()
        return self.averaged()

    def save(
        self, checkpoint: Callable[[Model], None] | None, unfinished: Path | None, last: bool
    ) -> None:
        """What is needed to go on, and what is there already: at the end, the best there was."""
        if unfinished is not None:
            write_unfinished(unfinished, self.parts(), self.about())
        if last and self.best is not None:
            self.averaged().load_state_dict(self.best)
        if checkpoint is not None:
            checkpoint(self.averaged())

    def step(self, spent: float) -> None:
        """One step of the optimiser, when so much of the budget is spent."""
        self.model.train()
        minimised, nats = self.objective(self.ask)
        for group in self.optimizer.param_groups:
            group["lr"] = self.how.learning_rate * _schedule(self.steps, spent, self.how.warmup)
        self.optimizer.zero_grad()
        minimised.backward()
        clip_grad_norm_(self.model.parameters(), self.how.gradient_clip)
        self.optimizer.step()
        self.average.update_parameters(self.model)
        told = float(nats.detach())
        self.smoothed = 0.98 * self.smoothed + 0.02 * told if self.steps else told
        self.steps += 1

    def about(self) -> str:
        """What must be the same when it goes on."""
        return f"{self.model.config}, {self.how}"

    def parts(self) -> Parts:
        """All that the next step depends on, the random state too."""
        moments = self.optimizer.state_dict()["state"]
        counts = torch.tensor(
            (self.steps, self.seconds, self.smoothed, self.lowest), dtype=torch.double
        )
        return {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "best": self.best or {},
            "run": {"random": torch.get_rng_state(), "counts": counts},
        } | {f"moments of {number}": of for number, of in moments.items()}

    def go_on(self, unfinished: Path) -> None:
        """Take up what a file holds.

        Raises:
            CheckpointError: if it is of another run, or does not hold all.
        """
        parts = read_unfinished(unfinished, self.about())
        moments = {
            int(part.removeprefix("moments of ")): of
            for part, of in parts.items()
            if part.startswith("moments")
        }
        try:
            self.model.load_state_dict(parts["model"])
            self.average.load_state_dict(parts["average"])
            self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": moments})
            steps, self.seconds, self.smoothed, self.lowest = parts["run"]["counts"].tolist()
            torch.set_rng_state(parts["run"]["random"])
        except (LookupError, RuntimeError, TypeError, ValueError) as error:
            raise CheckpointError(f"{unfinished}: {error}") from error
        self.steps, self.best = int(steps), dict(parts.get("best", {})) or None

    def ask(self, *tokens: Tensor) -> Tensor:
        """What the model says of tokens, or of some, in the precision of the run."""
        exact = sdpa_kernel(SDPBackend.MATH)  # on a CPU its gradient is the quicker one
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bfloat16), exact:
            return cast(Tensor, self.model(*tokens))

    def look(self) -> dict[str, str]:
        """What the bar shows; weights that are better on held-out text than any before are kept."""
        shown = {"step": str(self.steps), "train": f"{self.smoothed:.3f}"}
        if self.score is not None:
            loss = self.score(self.averaged())
            shown["held-out"] = f"{loss:.3f}"
            if self.best is None or loss < self.lowest:
                self.lowest, self.best = loss, copy.deepcopy(self.averaged().state_dict())
        return shown

    def averaged(self) -> Model:
        """The model with averaged weights, in evaluation mode."""
        return cast(Model, self.average.module).eval()


_BAR = "{l_bar}{bar}| {elapsed}<{remaining}{postfix}"


def _has_bfloat16() -> bool:
    """Whether this CPU multiplies matrices in bfloat16 faster than in float32."""
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(bool(capabilities.get(name)) for name in ("avx512_bf16", "amx_bf16"))


def _moving_average(decay: float) -> Callable[[Tensor, Tensor, Tensor | int], Tensor]:
    """The exponential moving average, quicker in its first steps."""

    def update(average: Tensor, weight: Tensor, count: Tensor | int) -> Tensor:
        now = min(decay, (1 + float(count)) / (10 + float(count)))
        return average.lerp(weight, 1 - now)

    return update


def _schedule(step: int, spent: float, warmup: int) -> float:
    """The share of the learning rate: linear warm-up, then a cosine down to nothing."""
    return min(1.0, (step + 1) / max(1, warmup)) * 0.5 * (1 + math.cos(math.pi * min(1.0, spent)))
