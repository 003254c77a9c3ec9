"""What the benchmarks of a card share: its own rates, runs that may fail, rows printed at once."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from measure import Run, interleaved
from toy import TOY, size

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
MEMORY = size(1 << 33, 1 << 30)  # bytes that `compile` may take: its default suits laptops
REPEATS, SECONDS = size((20, 1.0), (1, 0.1))  # per row

Outcome = float | str
"""Seconds of a run; or what went wrong, in one line."""


@dataclass(frozen=True)
class Work:
    """The least that a run must do.

    Attributes:
        flops: floating-point operations in float32.
        half_flops: more of them, in bfloat16.
        bytes: read from memory or written to it.
    """

    flops: float = 0.0
    half_flops: float = 0.0
    bytes: float = 0.0


@dataclass(frozen=True)
class Rates:
    """What no program on this card exceeds by much, per second.

    Attributes:
        flops: of a large float32 matrix product, without TF32.
        half_flops: of a large bfloat16 matrix product.
        bytes: read or written by a large copy.
    """

    flops: float
    half_flops: float
    bytes: float

    @classmethod
    def measured(cls) -> Rates:
        """Measure all three."""
        width = 8192 if DEVICE.type == "cuda" else 256
        source = torch.randn(1 << 28 if DEVICE.type == "cuda" else 1 << 20, device=DEVICE)
        target = torch.empty_like(source)
        products = [_product(width, dtype) for dtype in (torch.float32, torch.bfloat16)]
        sides = [synced(run) for run in (*products, lambda: target.copy_(source))]
        single, half, copy = interleaved(sides, REPEATS, SECONDS)
        flops = 2.0 * width**3
        return cls(flops / single, flops / half, 2.0 * source.nbytes / copy)

    def floor(self, work: Work) -> float:
        """Seconds that arithmetic or memory alone would take, whichever is longer."""
        arithmetic = work.flops / self.flops + work.half_flops / self.half_flops
        return max(arithmetic, work.bytes / self.bytes)

    def __str__(self) -> str:
        """In one line, with the name of the card."""
        return (
            f"{card()}, torch {torch.__version__}. GEMM {self.flops / 1e12:.1f} TFLOP/s in float32,"
            f" {self.half_flops / 1e12:.0f} in bfloat16; copy {self.bytes / 1e9:.0f} GB/s. "
            f"Medians of interleaved runs."
        )


class Table:
    """Rows of Markdown, printed as soon as they are known: the machine may be taken away.

    Attributes:
        failed: whether anything of ours went wrong.
    """

    def __init__(self, *columns: str) -> None:
        """Print the header."""
        self.failed = False
        self.row(*columns)
        self.row(*["---"] * len(columns))

    def row(self, *cells: str) -> None:
        """Print a row."""
        print(f"| {' | '.join(cells)} |", flush=True)

    def time(self, ours: Run, *others: Run) -> list[Outcome]:
        """Every run's outcome; what others fail at is their affair."""
        found = timed(ours, *others)
        self.failed |= isinstance(found[0], str)
        return found

    @contextmanager
    def attempt(self, name: str) -> Iterator[None]:
        """Go on with the next rows if these cannot be measured; all their memory is given back."""
        try:
            yield
        except Exception as error:
            self.failed = True
            self.row(name, in_a_line(error))
        give_back()

    def end(self, notes: object) -> None:
        """Print what was measured on, and say by the exit status whether all went well."""
        print(f"\n{notes}", flush=True)
        sys.exit(self.failed)


def require_card() -> None:
    """Refuse to measure what only a card can show."""
    if DEVICE.type != "cuda" and not TOY:
        sys.exit("no CUDA device: nothing is measured")
    torch.manual_seed(0)


def give_back() -> None:
    """Free what nobody holds any more."""
    gc.collect()
    if DEVICE.type == "cuda":
        torch.cuda.empty_cache()


def card() -> str:
    """The name of the card."""
    return torch.cuda.get_device_name() if DEVICE.type == "cuda" else DEVICE.type


def timed(*runs: Run) -> list[Outcome]:
    """Median seconds by turns of all runs that do not fail the first time."""
    failures = [_failure(run) for run in runs]
    working = [synced(run) for run, wrong in zip(runs, failures, strict=True) if wrong is None]
    times = iter(interleaved(working, REPEATS, SECONDS))
    return [next(times) if wrong is None else wrong for wrong in failures]


def synced(run: Run) -> Run:
    """The same, until the card is done with it."""

    def finished() -> None:
        run()
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()

    return finished


def in_a_line(error: Exception) -> str:
    """What went wrong, for a cell."""
    told = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {told[0][:120]}".replace("|", "/")


def milliseconds(outcome: Outcome) -> str:
    """For a cell."""
    return outcome if isinstance(outcome, str) else f"{1e3 * outcome:.3f}"


def ratio(outcome: Outcome, other: Outcome) -> str:
    """How many times longer the first takes; nothing if one of them failed."""
    if isinstance(outcome, str) or isinstance(other, str) or not other:
        return ""
    return f"{outcome / other:.2f} x"


def _failure(run: Run) -> str | None:
    try:
        synced(run)()
    except Exception as error:
        return in_a_line(error)
    return None


def _product(width: int, dtype: torch.dtype) -> Run:
    a, b = torch.randn(2, width, width, device=DEVICE).to(dtype)
    out = torch.empty_like(a)
    return lambda: torch.mm(a, b, out=out)
