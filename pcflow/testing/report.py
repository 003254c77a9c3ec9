"""Which laws a check tried, which it could not try and why, and how long each took."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from time import perf_counter

from torch import Tensor

from pcflow.testing.breach import Breach, LawBroken
from pcflow.testing.subject import Subject, answers_have_shape, shape_of

SUMS = "probabilities sum to one"
AT_MOST = "probabilities sum to one at most"
NOTHING = "of nothing at all the log-probability is 0"
DRAWS = "draws follow the distribution"
WEIGHTS = "importance weights"
COMPLETIONS = "conditional draws are completions of the evidence"
DRAWS_GIVEN = "conditional draws follow the conditional distribution"


@dataclass(frozen=True)
class Outcome:
    """One law that was tried, and held, or that could not be tried.

    Attributes:
        law: the law, as a sentence.
        how: by which of several ways, where there are some.
        skipped: why it was not tried; empty if it held.
        cases: rows that queries were asked about, and draws that they made.
        seconds: that it took.

    Examples:
        >>> print(Outcome("probabilities sum to one", "quadrature", "5 real variables"))
        not asked: probabilities sum to one, by quadrature (5 real variables)
    """

    law: str
    how: str = ""
    skipped: str = ""
    cases: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        """One line."""
        name = f"{self.law}, by {self.how}" if self.how else self.law
        return f"not asked: {name} ({self.skipped})" if self.skipped else f"held: {name}"


@dataclass(frozen=True)
class Report:
    """What a check asked, law by law; `print` shows it as a table.

    Attributes:
        outcomes: one `Outcome` for every law and way of asking it, in the order of trial.

    Examples:
        >>> report = Report((Outcome("sums to one"), Outcome("draws follow", skipped="no sample")))
        >>> [outcome.law for outcome in report.skipped]
        ['draws follow']
        >>> print(report)
        1 of 2 laws held, 1 not asked   cases  seconds
        held: sums to one                   0     0.00
        not asked: draws follow (no sample)
    """

    outcomes: tuple[Outcome, ...]

    @property
    def held(self) -> tuple[Outcome, ...]:
        """Those that were tried; none was broken, or there would be no report."""
        return tuple(outcome for outcome in self.outcomes if not outcome.skipped)

    @property
    def skipped(self) -> tuple[Outcome, ...]:
        """Those that were not tried; each says why."""
        return tuple(outcome for outcome in self.outcomes if outcome.skipped)

    @property
    def normalised(self) -> bool:
        """Whether it was asked, in any way, if all probabilities sum to one."""
        held = {(outcome.law, outcome.how) for outcome in self.held}
        laws = {law for law, _ in held}
        # draws that log_prob calls too unlikely are how less than one is seen
        return not {SUMS, NOTHING}.isdisjoint(laws) or (
            AT_MOST in laws and (DRAWS, WEIGHTS) in held
        )

    @property
    def tied(self) -> bool:
        """Whether it was asked, in any way, if `sample` draws what `log_prob` says."""
        return any(outcome.law == DRAWS for outcome in self.held)

    def __str__(self) -> str:
        """A line per law that held, with cases and seconds, and one per reason to ask no more."""
        kept, left = len(self.held), len(self.skipped)
        head = f"{kept} of {kept + left} laws held, {left} not asked"
        width = max(len(head), *(len(str(outcome)) for outcome in self.held), 0)
        lines = [f"{head:<{width}}  {'cases':>6}  seconds"]
        for one in self.held:
            lines.append(f"{one!s:<{width}}  {one.cases:>6}  {one.seconds:>7.2f}")
        reasons: dict[str, list[Outcome]] = {}
        for outcome in self.skipped:
            reasons.setdefault(outcome.skipped, []).append(outcome)
        for reason, laws in reasons.items():
            lines.append(str(laws[0]) if len(laws) == 1 else f"not asked: {len(laws)} ({reason})")
        return "\n".join(lines)


class CannotAsk(Exception):
    """A law cannot be tried, and why; raised by the law itself."""


@dataclass(frozen=True)
class Law:
    """A law that is ready to be tried.

    Attributes:
        name: as its breaches name it.
        ask: yields a breach if it does not hold; raises `CannotAsk` if nothing can be said.
        needs: queries without which it cannot be asked.
        how: by which of several ways it is asked.
    """

    name: str
    ask: Callable[[], Iterator[Breach]]
    needs: tuple[str, ...] = ()
    how: str = ""


def shape_law(subject: Subject, name: str, rows: Tensor) -> Law:
    """That a query answers with the shape that it was asked for; rows [N, D] are some of these."""
    return Law(shape_of(name), partial(answers_have_shape, subject, name, rows), (name,))


def try_laws(subject: Subject, laws: Iterable[Law]) -> list[Outcome]:
    """Try every law, and raise once, with the first breach of each that does not hold.

    Raises:
        LawBroken: if any law does not hold.
    """
    outcomes, breaches = [], dict[str, Breach]()
    for law in laws:
        outcome, found = _tried(subject, law)
        outcomes.append(outcome)
        for breach in found:
            breaches.setdefault(breach.law, breach)
    if breaches:
        raise LawBroken(tuple(breaches.values()))
    return outcomes


def _tried(subject: Subject, law: Law) -> tuple[Outcome, list[Breach]]:
    absent = [name for name in law.needs if not subject.knows(name)]
    if absent:
        return Outcome(law.name, law.how, f"no {' and no '.join(absent)}"), []
    started, before = perf_counter(), subject.answered.total()
    skipped, found = "", list[Breach]()
    try:
        found = list(islice(law.ask(), 1))
    except CannotAsk as reason:
        skipped = str(reason)
    except LawBroken as error:  # of an answer that could not even be read
        found = list(error.breaches)
    cases, seconds = subject.answered.total() - before, perf_counter() - started
    return Outcome(law.name, law.how, skipped, cases, seconds), found
