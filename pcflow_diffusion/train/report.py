"""What came of training on text: a table, a picture, and the news on the way."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pcflow as pf
from pcflow_diffusion.models.progress import tell
from pcflow_diffusion.train.plan import Plan

Nats = dict[str, float]

USE = """
from pcflow_diffusion import CircuitHead, generate

head = CircuitHead.load("{path}")
tokens = generate(model, prompt, head, steps=16, gen_length=128, block_length=head.length)
""".strip()


@dataclass(frozen=True)
class Files:
    """What lies beside the head, by its name."""

    out: Path

    def __getitem__(self, kind: str) -> Path:
        """The file of a kind."""
        return self.out.with_name(f"{self.out.name.removesuffix('.safetensors')}.{kind}")

    def made(self) -> list[Path]:
        """Those that are there for who uses the head."""
        kinds = (self.out, self["png"], self["tokenizer.json"])
        return [path for path in kinds if path.exists()]


@dataclass
class News:
    """A line after every epoch of the text, for who reads a log; on a terminal there is a bar.

    Attributes:
        plan: what is to be done.
        tokens: how many the windows hold in the mean, in training and held out.
        train: nats per token as they were met in every part.
        held_out: nats per token after every part.
    """

    plan: Plan
    tokens: tuple[float, float]
    told: bool = True
    train: list[float] = field(default_factory=list)
    held_out: list[float] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)
    begun: int | None = None

    def take_up(self, result: pf.FitResult) -> None:
        """Remember what happened so far, per token."""
        self.train = [-value / self.tokens[0] for value in result.train]
        self.held_out = [-value / self.tokens[1] for value in result.validation]

    def __call__(self, result: pf.FitResult) -> None:
        """Remember it, and tell it at the end of an epoch."""
        self.take_up(result)
        done = len(result.train)
        self.begun = done - 1 if self.begun is None else self.begun
        if self.told and not sys.stderr.isatty() and self._is_end(done):
            tell(self._line(done))

    def shorter(self) -> Plan:
        """The plan, or a shorter one if parts take longer than it says."""
        assert self.begun is not None
        return self.plan.kept_to(self.begun, len(self.train), time.monotonic() - self.started)

    def _is_end(self, done: int) -> bool:
        """Whether an epoch of the text ends with that part, or all of it."""
        return done % self.plan.per_epoch == 0 or done == self.plan.parts

    def _line(self, done: int) -> str:
        assert self.begun is not None
        per_part = (time.monotonic() - self.started) / (done - self.begun)
        left = clock((self.plan.parts - done) * per_part)
        epoch = f"epoch {done / self.plan.per_epoch:.3g}/{self.plan.epochs:.3g}"
        nats = f"train {self.train[-1]:.3f}, held out {self.held_out[-1]:.3f} nats per token"
        return f"{epoch}: {nats}, {left} left"


def clock(seconds: float) -> str:
    """Hours, minutes and seconds.

    Examples:
        >>> clock(59.6), clock(3700)
        ('1:00', '1:01:40')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def counted(count: float, what: str) -> str:
    """How many, to four digits.

    Examples:
        >>> counted(1, "epoch"), counted(0.714, "epoch"), counted(12, "part")
        ('1 epoch', '0.714 epochs', '12 parts')
    """
    return f"{count:.4g} {what}{'' if count == 1 else 's'}"


def table(nats: Nats) -> str:
    """Nats per token by what says them, in Markdown.

    Examples:
        >>> print(table({"unigram": 5.0, "circuit": 4.25}))
        | nats per token | |
        |---|---|
        | unigram | 5.000 |
        | circuit | 4.250 |
    """
    rows = [f"| {name} | {value:.3f} |" for name, value in nats.items()]
    return "\n".join(["| nats per token | |", "|---|---|", *rows])


def draw(path: Path, news: News, nats: Nats) -> None:
    """Draw nats per token by epoch, with lines for what it is compared with, as a PNG.

    Raises:
        OSError: if the file cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4.5), layout="constrained")
    axes = figure.subplots()
    for name, values in (("train", news.train), ("held out", news.held_out)):
        axes.plot(_epochs(values, news.plan), values, label=name)
    for number, (name, value) in enumerate(nats.items()):
        axes.axhline(value, color="grey", linestyle=("-", "--", ":")[number % 3], label=name)
    axes.set_xlabel("epochs")
    axes.set_ylabel("nats per token")
    axes.legend()
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=150)
    pf.replace_file(path, [image.getvalue()])


def _epochs(values: Sequence[float], plan: Plan) -> list[float]:
    return [(number + 1) / plan.per_epoch for number in range(len(values))]
