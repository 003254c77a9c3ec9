"""A density under test: its queries, how their answers are read, and laws that need no sums.

Legend: B batch, D variables, R rows of evidence, N draws.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pcflow.testing.breach import Breach, LawBroken, compare, show_row

ASKED_SINGLY = 32
"""So many rows of a batch are asked one by one too."""
TWICE = 4
"""So many rows are asked again, each after all queries about another one."""
MOST_CAUSES = 1_000
"""Of so many rows each is asked by itself, to find which one a query raises an error for."""
NUMBER = "a log-probability is a number"
BEST = "no completion is better than the most probable state"
MPE_COMPLETES = "a most probable state is a completion of the evidence"


@dataclass(frozen=True)
class Subject:
    """Somebody's density.

    Attributes:
        queries: what it answers, by the names of `check_density`.
        num_categories: per variable, None if it has no finite range.
        draws: how many draws are compared with a distribution.
        tolerance: of log-probabilities.
        atoms: of variables without a finite range, values that have a probability of their own.
        answered: how many rows, or draws, every query has answered with.
    """

    queries: Mapping[str, Callable[..., Any]]
    num_categories: tuple[int | None, ...]
    draws: int
    tolerance: float
    atoms: Mapping[int, Sequence[float]] = field(default_factory=dict)
    answered: Counter[str] = field(default_factory=Counter, compare=False)

    def knows(self, name: str) -> bool:
        """Whether there is such a query."""
        return name in self.queries

    def score(self, name: str, rows: Tensor) -> Tensor:
        """Log-probabilities [B] of rows [B, D]; of `mpe`, those of its completions.

        Raises:
            LawBroken: if `mpe` answers with anything but completions.
        """
        if name == "mpe":
            values = self.completions(rows)
            for breach in not_completions(self, MPE_COMPLETES, rows, values):
                raise LawBroken([breach])
            return self.score("log_prob", values)
        return self._answer(name, (len(rows),), rows)

    def completions(self, rows: Tensor) -> Tensor:
        """What `mpe` makes [B, D] of evidence [B, D]."""
        return self._answer("mpe", tuple(rows.shape), rows)

    def drawn(self, row: Tensor | None = None, count: int | None = None) -> Tensor:
        """Draws [N, D], given a row [D] of evidence if there is one."""
        count = self.draws if count is None else count
        shape = (count, len(self.num_categories))
        if row is None:
            return self._answer("sample", shape, count)
        return self._answer("sample_given", shape, count, row)

    def possible(self, values: Tensor) -> Tensor:
        """Which of the values [N, D] are in the range of their variables."""
        sizes = torch.tensor([n or 0 for n in self.num_categories])
        inside = (values >= 0) & (values < sizes) & (values == values.round())
        return torch.where(sizes == 0, values.isfinite(), inside)

    def _answer(self, name: str, shape: tuple[int, ...], *asked: Any) -> Tensor:
        """The answer in float64 on the CPU.

        Raises:
            LawBroken: if it is no numbers, or of another shape, or if the evidence was edited.
        """
        given = [a.clone() if isinstance(a, Tensor) else a for a in asked]
        try:
            answer = self.queries[name](*given)
        except Exception as error:
            error.add_note(f"{name} was asked: {self._cause(name, asked)}")
            raise
        found = _read(name, answer, _tell(asked))
        self.answered[name] += shape[0]
        if tuple(found.shape) != shape:
            told = str(tuple(found.shape))
            if not found.dim() and shape == (1,):
                told += ", a number for one row: answer with np.atleast_1d(...)"
            raise LawBroken([Breach(shape_of(name), _tell(asked), str(shape), told)])
        for before, after in zip(asked, given, strict=True):
            if isinstance(before, Tensor) and not torch.equal(
                before.nan_to_num(nan=-1.5), after.nan_to_num(nan=-1.5)
            ):
                law = f"{name} does not edit what it is given"
                raise LawBroken([Breach(law, _tell(asked), _tell([before]), _tell([after]))])
        return found

    def _cause(self, name: str, asked: tuple[Any, ...]) -> str:
        """What was asked; of several rows, the first that is not answered by itself either."""
        rows = asked[0]
        if isinstance(rows, Tensor):
            for number, row in enumerate(rows[:MOST_CAUSES]):
                try:
                    self.queries[name](row.unsqueeze(0).clone())
                except Exception:  # whatever it raises, this row is why
                    return f"{_tell([row])}, row {number} of {len(rows)}"
        return _tell(asked)


def _read(name: str, answer: object, asked: str) -> Tensor:
    """Numbers of any kind, in float64 on the CPU.

    Raises:
        LawBroken: if they are none.
    """
    try:
        if not isinstance(answer, Tensor):
            answer = torch.as_tensor(np.asarray(answer))  # nested lists of tensors, data frames
        return answer.detach().to("cpu", torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        breach = Breach(f"{name} answers with numbers", asked, "an array", f"{answer!r:.80}")
        raise LawBroken([breach]) from error


def not_completions(subject: Subject, law: str, rows: Tensor, values: Tensor) -> Iterator[Breach]:
    """The first of the values [N, D] that contradicts its row [N, D], or is out of range."""
    kept = rows.isnan() | (rows == values)
    wrong = (~(kept & subject.possible(values)).all(dim=-1)).nonzero()
    if len(wrong):
        row = int(wrong[0, 0])
        yield Breach(law, show_row(rows[row]), "a completion of it", show_row(values[row]))


def not_best(
    subject: Subject, row: Tensor, state: Tensor, value: Tensor, rivals: Tensor, known: Tensor
) -> Iterator[Breach]:
    """A state [D] of a row [D], if a rival [N, D] is likelier: log-probability `value`, `known`."""
    best = known.max()
    if value < best - subject.tolerance * best.abs().clamp_min(1.0):
        yield Breach(
            BEST,
            show_row(row),
            f"{show_row(rivals[known.argmax()])} of log-probability {best:.8g}",
            f"{show_row(state)} of log-probability {value:.8g}",
        )


def log_prob_is_a_number(subject: Subject, rows: Tensor) -> Iterator[Breach]:
    """No NaN, no infinity but -inf; of finite variables, none above zero."""
    found = subject.score("log_prob", rows)
    finite = all(n is not None for n in subject.num_categories)
    most = subject.tolerance if finite else float("inf")
    wrong = (~(found <= most) | (found == torch.inf)).nonzero()
    if len(wrong):
        row = int(wrong[0, 0])
        expected = "a number of at most 0, or -inf" if finite else "a number, or -inf"
        yield Breach(NUMBER, show_row(rows[row]), expected, f"{found[row]:.8g}")


def shape_of(name: str) -> str:
    """The law that answers have their shape."""
    return f"{name} answers with the shape that it was asked for"


def batch_law(name: str) -> str:
    """The law that rows do not see each other."""
    return f"{name}: a batch is answered like its rows one by one"


def order_law(name: str) -> str:
    """The law that queries do not see each other."""
    return f"{name}: a query does not see the evidence of the one before"


def answers_have_shape(subject: Subject, name: str, rows: Tensor) -> Iterator[Breach]:
    """Asked of two rows and of one, or for as many draws: quick, and said before all else."""
    for few in (rows[:2], rows[:1]):
        if name in ("sample", "sample_given"):
            subject.drawn(few[0] if name == "sample_given" else None, len(few))
        else:
            subject.score(name, few)
    yield from ()


def a_batch_is_its_rows(subject: Subject, name: str, rows: Tensor) -> Iterator[Breach]:
    """Rows asked at once, and one by one."""
    few = rows[:: max(1, -(-len(rows) // ASKED_SINGLY))]
    together = subject.score(name, few)
    alone = torch.cat([subject.score(name, row.unsqueeze(0)) for row in few])
    law = batch_law(name)
    yield from compare(law, few, together, alone, subject.tolerance)


def order_does_not_matter(
    subject: Subject, name: str, rows: Tensor, others: Tensor
) -> Iterator[Breach]:
    """Rows asked at first, and each again right after all queries about some other evidence."""
    asked = rows[:: max(1, -(-len(rows) // TWICE))].split(1)
    before = [subject.score(name, row) for row in asked]
    law = order_law(name)
    for row, answer, other in zip(asked, before, cycle(others[-TWICE:]), strict=False):
        for query in subject.queries:
            _ask(subject, query, other)
        yield from compare(law, row, subject.score(name, row), answer, subject.tolerance)


def _ask(subject: Subject, name: str, row: Tensor) -> None:
    if name in ("sample", "sample_given"):
        subject.drawn(row if name == "sample_given" else None, 1)
    elif name == "log_prob":
        if not row.isnan().any():
            subject.score(name, row.unsqueeze(0))
    else:
        subject.score(name, row.unsqueeze(0))


def _tell(asked: Any) -> str:
    return ", ".join(
        (show_row(a) if a.dim() == 1 else f"{len(a)} rows, the first {show_row(a[0])}")
        if isinstance(a, Tensor) and len(a)
        else str(a)
        for a in asked
    )
