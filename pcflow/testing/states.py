"""Laws of a density whose states can be listed: every answer is a sum, or a maximum, over states.

Legend: B batch, D variables, S states, R rows of evidence, N draws.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from math import prod

import torch
from torch import Tensor

from pcflow.testing.breach import Breach, compare, generator, show_row
from pcflow.testing.frequencies import FALSE_ALARM, chi_square
from pcflow.testing.report import (
    COMPLETIONS,
    DRAWS,
    DRAWS_GIVEN,
    SUMS,
    Law,
    Outcome,
    shape_law,
    try_laws,
)
from pcflow.testing.subject import (
    BEST,
    MPE_COMPLETES,
    NUMBER,
    Subject,
    a_batch_is_its_rows,
    batch_law,
    log_prob_is_a_number,
    not_best,
    not_completions,
    order_does_not_matter,
    order_law,
)

MOST_EVIDENCE = 512
"""Of more rows of evidence than that, so many are drawn."""
CONDITIONS = 8
"""So many rows of evidence are conditioned on by draws."""
MARGINALS = "a marginal is the sum over completions"


def check_states(subject: Subject) -> list[Outcome]:
    """All laws.

    Raises:
        LawBroken: if any does not hold.
    """
    sizes = [n for n in subject.num_categories if n is not None]
    states = torch.cartesian_prod(*(torch.arange(n).double() for n in sizes))
    states = states.reshape(-1, len(sizes))
    evidence = _evidence(sizes)
    rows = {"log_prob": states, "log_marginal": evidence, "sample": evidence}
    shapes = try_laws(subject, map(partial(shape_law, subject), rows, rows.values()))
    numbers = Law(NUMBER, partial(log_prob_is_a_number, subject, states))
    number = try_laws(subject, [numbers])
    table = _Table(states, subject.score("log_prob", states), evidence)
    names = ("mpe", "sample_given")
    more = try_laws(subject, (shape_law(subject, name, table.possible) for name in names))
    return [*shapes, *more, *number, *try_laws(subject, _laws(subject, table))]


class _Table:
    """Every state, and how much it weighs under every row of evidence.

    Attributes:
        states: [S, D].
        log_weight: [S], log-probabilities of the states, as the density says.
        evidence: [R, D], those of fewest observed values first.
        possible: the rows of it that have any mass.
    """

    def __init__(self, states: Tensor, log_weight: Tensor, evidence: Tensor) -> None:
        """Find out which evidence is possible."""
        self.states, self.log_weight, self.evidence = states, log_weight, evidence
        self.possible = evidence[self.sums(evidence) > -torch.inf]

    def weights(self, rows: Tensor) -> Tensor:
        """[R, S], -inf for states that disagree with the evidence."""
        agrees = (rows.isnan().unsqueeze(1) | (rows.unsqueeze(1) == self.states)).all(dim=-1)
        return self.log_weight.expand(len(rows), -1).masked_fill(~agrees, -torch.inf)

    def sums(self, rows: Tensor) -> Tensor:
        """Log-probabilities [R] of evidence."""
        return torch.cat([self.weights(part).logsumexp(dim=-1) for part in rows.split(64)])

    def count(self, drawn: Tensor) -> Tensor:
        """How often every state [S] is in draws [N, D] that are states."""
        place = torch.zeros(len(drawn), dtype=torch.long)
        for column, size in zip(drawn.long().T, self.states.amax(0).long() + 1, strict=True):
            place = place * size + column
        return torch.bincount(place, minlength=len(self.states))


def _evidence(sizes: list[int]) -> Tensor:
    """Rows [R, D] of evidence, all of them if they are few; those of fewest values first."""
    if prod(n + 1 for n in sizes) <= MOST_EVIDENCE:
        rows = torch.cartesian_prod(*(torch.arange(n + 1) for n in sizes)).reshape(-1, len(sizes))
        rows = rows.double().where(rows < torch.tensor(sizes), torch.nan)
    else:
        shape = (MOST_EVIDENCE, len(sizes))
        rows = (torch.rand(shape, generator=generator()) * torch.tensor(sizes)).floor().double()
        share = torch.linspace(0, 1, len(rows)).unsqueeze(-1)
        rows = rows.where(torch.rand(shape, generator=generator(1)) < share, torch.nan)
    return rows[(~rows.isnan()).sum(-1).argsort(stable=True)]


def _laws(subject: Subject, table: _Table) -> Iterator[Law]:
    asked = {"log_prob": table.states, "log_marginal": table.evidence, "mpe": table.possible}
    yield Law(SUMS, partial(_sums_to_one, table, subject.tolerance), how="all states")
    yield Law(MARGINALS, partial(_marginals, subject, table), ("log_marginal",))
    for name, rows in asked.items():
        yield Law(batch_law(name), partial(a_batch_is_its_rows, subject, name, rows), (name,))
    yield Law(MPE_COMPLETES, partial(_mpe_keeps_the_evidence, subject, table), ("mpe",))
    yield Law(BEST, partial(_mpe_is_best, subject, table), ("mpe",))
    for name, rows in asked.items():
        ask = partial(order_does_not_matter, subject, name, rows, table.possible)
        yield Law(order_law(name), ask, (name,))
    yield Law(DRAWS, partial(_draws, subject, table), ("sample",), "all states")
    yield Law(COMPLETIONS, partial(_draws_keep_the_evidence, subject, table), ("sample_given",))
    yield Law(DRAWS_GIVEN, partial(_draws_given, subject, table), ("sample_given",), "all states")


def _sums_to_one(table: _Table, tolerance: float) -> Iterator[Breach]:
    total = table.log_weight.logsumexp(0).exp().item()
    # every state may be off by so much, and by more the rarer it is
    slack = tolerance * (1 + float((table.log_weight.exp() * -table.log_weight).nansum()))
    if not abs(total - 1) <= slack:
        witness = f"the sum over all {len(table.states)} states"
        yield Breach(SUMS, witness, "1", f"{total:.8g}")


def _marginals(subject: Subject, table: _Table) -> Iterator[Breach]:
    found = subject.score("log_marginal", table.evidence)
    wanted = table.sums(table.evidence)
    yield from compare(MARGINALS, table.evidence, found, wanted, subject.tolerance)


def _mpe_keeps_the_evidence(subject: Subject, table: _Table) -> Iterator[Breach]:
    found = subject.completions(table.possible)
    yield from not_completions(subject, MPE_COMPLETES, table.possible, found)


def _mpe_is_best(subject: Subject, table: _Table) -> Iterator[Breach]:
    completed = subject.completions(table.possible)
    for row, state in zip(table.possible, completed, strict=True):
        weights = table.weights(row.unsqueeze(0))[0]
        chosen = (table.states == state).all(dim=-1)
        value = weights.masked_fill(~chosen, -torch.inf).max()
        if (row.isnan() | (row == state)).all() and chosen.any():
            yield from not_best(subject, row, state, value, table.states, weights)


def _draws(subject: Subject, table: _Table) -> Iterator[Breach]:
    drawn, nothing = subject.drawn(), torch.full_like(table.states[0], torch.nan)
    yield from not_completions(subject, DRAWS, nothing.expand_as(drawn), drawn)
    yield from _wrong_frequency(DRAWS, nothing, drawn, table)


def _conditions(table: _Table) -> Tensor:
    """Rows of evidence that leave something to draw, those of fewest values first."""
    open_rows = table.possible[table.possible.isnan().any(dim=-1)]
    return open_rows[:: max(1, -(-len(open_rows) // CONDITIONS))]


def _draws_keep_the_evidence(subject: Subject, table: _Table) -> Iterator[Breach]:
    for row in _conditions(table):
        drawn = subject.drawn(row)
        yield from not_completions(subject, COMPLETIONS, row.expand_as(drawn), drawn)


def _draws_given(subject: Subject, table: _Table) -> Iterator[Breach]:
    for row in _conditions(table):
        drawn = subject.drawn(row)
        if next(not_completions(subject, DRAWS_GIVEN, row.expand_as(drawn), drawn), None) is None:
            yield from _wrong_frequency(DRAWS_GIVEN, row, drawn, table)


def _wrong_frequency(law: str, row: Tensor, drawn: Tensor, table: _Table) -> Iterator[Breach]:
    probability = table.weights(row.unsqueeze(0))[0].softmax(0)
    counts = table.count(drawn)
    if chi_square(counts, probability) < FALSE_ALARM:
        share = counts / counts.sum()
        worst = int(((share - probability) / probability.clamp_min(1e-12).sqrt()).abs().argmax())
        state = show_row(table.states[worst])
        expected = f"{state} in {probability[worst]:.4g} of the draws"
        yield Breach(law, show_row(row), expected, f"in {share[worst]:.4g} of {len(drawn)}")
