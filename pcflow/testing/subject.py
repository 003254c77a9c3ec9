"""A density under test: its queries, how their answers are read, and laws that need no sums.

Legend: B batch, D variables, R rows of evidence, N draws.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pcflow.testing.breach import Breach, LawBroken, compare, show_row

ASKED_SINGLY = 32
"""So many rows of a batch are asked one by one too."""
TWICE = 4
"""So many rows are asked again after other queries."""
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
    """

    queries: Mapping[str, Callable[..., Any]]
    num_categories: tuple[int | None, ...]
    draws: int
    tolerance: float
    atoms: Mapping[int, Sequence[float]] = field(default_factory=dict)

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
            LawBroken: if it has another shape, or if the evidence was edited.
        """
        given = [a.clone() if isinstance(a, Tensor) else a for a in asked]
        try:
            answer = self.queries[name](*given)
        except Exception as error:
            error.add_note(f"{name} was asked: {_tell(asked)}")
            raise
        found = torch.as_tensor(answer).detach().to("cpu", torch.float64)
        if tuple(found.shape) != shape:
            law = f"{name} answers with the shape that it was asked for"
            raise LawBroken([Breach(law, _tell(asked), str(shape), str(tuple(found.shape)))])
        for before, after in zip(asked, given, strict=True):
            if isinstance(before, Tensor) and not torch.equal(
                before.nan_to_num(nan=-1.5), after.nan_to_num(nan=-1.5)
            ):
                law = f"{name} does not edit what it is given"
                raise LawBroken([Breach(law, _tell(asked), _tell([before]), _tell([after]))])
        return found


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
            "no completion is better than the most probable state",
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
        yield Breach(
            "a log-probability is a number", show_row(rows[row]), expected, f"{found[row]:.8g}"
        )


def a_batch_is_its_rows(subject: Subject, name: str, rows: Tensor) -> Iterator[Breach]:
    """Rows asked at once, and one by one."""
    few = rows[:: max(1, -(-len(rows) // ASKED_SINGLY))]
    together = subject.score(name, few)
    alone = torch.cat([subject.score(name, row.unsqueeze(0)) for row in few])
    law = f"{name}: a batch is answered like its rows one by one"
    yield from compare(law, few, together, alone, subject.tolerance)


def order_does_not_matter(
    subject: Subject, name: str, rows: Tensor, others: Tensor
) -> Iterator[Breach]:
    """Rows asked before and after every other query, about other evidence."""
    for row in rows[:: max(1, -(-len(rows) // TWICE))].split(1):
        before = subject.score(name, row)
        for other in others[-TWICE:]:
            for query in subject.queries:
                _ask(subject, query, other)
        law = f"{name}: a query does not see the evidence of the one before"
        yield from compare(law, row, subject.score(name, row), before, subject.tolerance)


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
