"""Laws of a density whose states cannot be listed: checked on rows, one variable at a time.

Legend: B batch, D variables, R rows, N draws, V values, Q points of a quadrature.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from pcflow.errors import EvidenceError
from pcflow.testing.breach import Breach, compare, generator, show_row
from pcflow.testing.frequencies import FALSE_ALARM, QUADRATURE, axis, band, chi_square
from pcflow.testing.report import (
    COMPLETIONS,
    DRAWS,
    DRAWS_GIVEN,
    NOTHING,
    CannotAsk,
    Law,
    Outcome,
    shape_law,
    try_laws,
)
from pcflow.testing.seen import Seen
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
from pcflow.testing.untied import untied_laws

ROWS = 24
"""So many rows are looked at."""
FLOOR = "log-probabilities have no floor"
COMPLETE = "a marginal of a complete row is its log-probability"
ONE_MORE = "a marginal is the sum over one more variable"
POSSIBLE = "draws are possible"
SINGLE = "single variables"
FAR = (1e3, 1e6, 1e9)


def check_rows(subject: Subject, rows: Tensor | None) -> list[Outcome]:
    """All laws.

    Raises:
        LawBroken: if any does not hold.
        EvidenceError: if there are no rows, and none can be drawn.
    """
    width = len(subject.num_categories)
    nothing = torch.full((2, width), torch.nan, dtype=torch.float64)
    drawing = try_laws(subject, [shape_law(subject, "sample", nothing)])
    if rows is None:
        if not subject.knows("sample"):
            raise EvidenceError("too many states to enumerate: check_density needs rows, or sample")
        rows = subject.drawn()
    if rows.dim() != 2 or rows.shape[1] != width or not subject.possible(rows).all():
        raise EvidenceError(
            f"rows must be complete, [N, {width}], and in the range of the variables"
        )
    scoring = try_laws(subject, [shape_law(subject, "log_prob", rows)])
    numbers = Law(NUMBER, partial(log_prob_is_a_number, subject, rows))
    number = try_laws(subject, [numbers])
    rows = rows[subject.score("log_prob", rows) > -torch.inf]
    evidence = _with_gaps(rows[:ROWS])
    names = ("log_marginal", "mpe", "sample_given") if len(rows) else ()
    more = try_laws(subject, (shape_law(subject, name, evidence) for name in names))
    laws = try_laws(subject, _laws(Seen(subject, rows, evidence)))
    return [*drawing, *scoring, *more, *number, *laws]


def _laws(seen: Seen) -> Iterator[Law]:
    subject, rows, evidence = seen.subject, seen.rows, seen.evidence
    few = rows[:ROWS]
    asked = {"log_prob": few, "log_marginal": evidence, "mpe": evidence}
    yield Law(FLOOR, partial(_no_floor, subject, few))
    marginal = ("log_marginal",)
    yield Law(NOTHING, partial(_nothing_known, subject, few), marginal)
    yield Law(COMPLETE, partial(_complete, subject, few), marginal)
    yield Law(ONE_MORE, partial(_one_variable_summed_out, subject, evidence, rows), marginal)
    for name, x in asked.items():
        yield Law(batch_law(name), partial(a_batch_is_its_rows, subject, name, x), (name,))
    yield Law(MPE_COMPLETES, partial(_mpe_keeps_the_evidence, subject, evidence), ("mpe",))
    yield Law(BEST, partial(_mpe_is_best, subject, evidence, few), ("mpe",))
    for name, x in asked.items():
        ask = partial(order_does_not_matter, subject, name, x, evidence)
        yield Law(order_law(name), ask, (name,))
    yield Law(POSSIBLE, partial(_draws_are_possible, seen), ("sample",))
    yield Law(DRAWS, partial(_draws, seen), ("sample", "log_marginal"), SINGLE)
    yield from untied_laws(seen)
    yield Law(COMPLETIONS, partial(_draws_are_completions, seen), ("sample_given",))
    yield Law(DRAWS_GIVEN, partial(_draws_given, seen), ("sample_given", "log_marginal"), SINGLE)


def _with_gaps(rows: Tensor) -> Tensor:
    """Some of every row's values are missing; rows of fewest values first."""
    gaps = torch.rand(rows.shape, generator=generator())
    share = torch.linspace(0.9, 0.1, len(rows)).unsqueeze(-1)
    gaps.scatter_(1, torch.randint(rows.shape[1], (len(rows), 1), generator=generator(1)), 0.0)
    return rows.masked_fill(gaps < share, torch.nan)


def _no_floor(subject: Subject, rows: Tensor) -> Iterator[Breach]:
    """Far out, different rows are differently improbable."""
    real = torch.tensor([n is None for n in subject.num_categories])
    base = rows[(rows[:, real] != 0).any(dim=-1)][:1]
    if len(base) == 0:
        return
    far = torch.cat([base.where(~real, base.sign() * c) for c in FAR])
    found = subject.score("log_prob", far)
    if found[0].isfinite() and (found == found[0]).all():
        yield Breach(
            FLOOR,
            " and ".join(map(show_row, far)),
            "different numbers, or -inf",
            f"{found[0]:.8g} for all of them",
        )


def _nothing_known(subject: Subject, rows: Tensor) -> Iterator[Breach]:
    nothing = torch.full_like(rows[:1], torch.nan)
    found = subject.score("log_marginal", nothing)
    wanted = torch.zeros(1, dtype=torch.float64)
    yield from compare(NOTHING, nothing, found, wanted, subject.tolerance)


def _complete(subject: Subject, rows: Tensor) -> Iterator[Breach]:
    found, wanted = subject.score("log_marginal", rows), subject.score("log_prob", rows)
    yield from compare(COMPLETE, rows, found, wanted, subject.tolerance)


def _one_variable_summed_out(subject: Subject, evidence: Tensor, rows: Tensor) -> Iterator[Breach]:
    for number, row in enumerate(evidence[:: max(1, len(evidence) // 8)]):
        missing = row.isnan().nonzero().flatten().tolist()
        variable = missing[number % len(missing)]
        known = _values(subject, variable, rows)
        if known is None:
            continue
        values, widths = known
        terms = _scores(subject, row, variable, values) + widths.log()
        found = subject.score("log_marginal", row.unsqueeze(0))
        real = subject.num_categories[variable] is None
        tolerance = QUADRATURE if real else subject.tolerance
        wanted = terms.logsumexp(0).unsqueeze(0)
        yield from compare(ONE_MORE, row.unsqueeze(0), found, wanted, tolerance)


def _values(subject: Subject, variable: int, rows: Tensor) -> tuple[Tensor, Tensor] | None:
    """Values [V] of a variable and the width of each; None for counts, which have no last one."""
    size = subject.num_categories[variable]
    if size is not None:
        return torch.arange(size).double(), torch.ones(size).double()
    column, atoms = rows[:, variable], subject.atoms.get(variable, ())
    apart = column[~torch.isin(column, column.new_tensor(atoms))]
    return None if (apart == apart.round()).all() else axis(column, atoms)


def _scores(subject: Subject, row: Tensor, variable: int, values: Tensor) -> Tensor:
    """Log-marginals [V] of a row with each of the values put in."""
    asked = row.repeat(len(values), 1)
    asked[:, variable] = values
    return torch.cat([subject.score("log_marginal", part) for part in asked.split(5_000)])


def _mpe_keeps_the_evidence(subject: Subject, evidence: Tensor) -> Iterator[Breach]:
    yield from not_completions(subject, MPE_COMPLETES, evidence, subject.completions(evidence))


def _mpe_is_best(subject: Subject, evidence: Tensor, rows: Tensor) -> Iterator[Breach]:
    """Against completions by the values of other rows."""
    for row in evidence:
        rivals = rows.where(row.isnan(), row)
        known = subject.score("log_prob", rivals)
        state = subject.completions(row.unsqueeze(0))
        value = subject.score("log_prob", state)[0]
        yield from not_best(subject, row, state[0], value, rivals, known)


def _draws_are_possible(seen: Seen) -> Iterator[Breach]:
    nothing = torch.full_like(seen.drawn[0], torch.nan)
    yield from _impossible(seen.subject, POSSIBLE, nothing, seen.drawn)


def _draws_are_completions(seen: Seen) -> Iterator[Breach]:
    for row, drawn in seen.given:
        yield from _impossible(seen.subject, COMPLETIONS, row, drawn)


def _impossible(subject: Subject, law: str, row: Tensor, drawn: Tensor) -> Iterator[Breach]:
    yield from not_completions(subject, law, row.expand_as(drawn), drawn)
    impossible = subject.score("log_prob", drawn) == -torch.inf
    if impossible.any():
        state = show_row(drawn[impossible][0])
        yield Breach(law, show_row(row), "rows of positive probability", state)


def _draws(seen: Seen) -> Iterator[Breach]:
    nothing = torch.full_like(seen.drawn[0], torch.nan)
    yield from _wrong_frequencies(seen, DRAWS, nothing, seen.drawn)


def _draws_given(seen: Seen) -> Iterator[Breach]:
    for row, drawn in seen.given:
        yield from _wrong_frequencies(seen, DRAWS_GIVEN, row, drawn)


def _wrong_frequencies(seen: Seen, law: str, row: Tensor, drawn: Tensor) -> Iterator[Breach]:
    """Draws of which one variable has other frequencies than it should.

    Raises:
        CannotAsk: if they are none, which another law says.
    """
    subject = seen.subject
    if next(_impossible(subject, law, row, drawn), None) is not None:
        raise CannotAsk("some draws are impossible")
    for variable in row.isnan().nonzero().flatten().tolist():
        known = _values(subject, variable, seen.rows)
        if known is not None:
            terms = _scores(subject, row, variable, known[0]) + known[1].log()
            off = _distance(subject, variable, drawn[:, variable], known[0], terms.softmax(0))
            if off:
                yield Breach(law, show_row(row), f"variable {variable} as its marginal", off)


def _distance(subject: Subject, variable: int, drawn: Tensor, values: Tensor, share: Tensor) -> str:
    """How draws [N] differ from shares [V] of values [V]; empty if not by more than chance."""
    if subject.num_categories[variable] is not None:
        counts = torch.bincount(drawn.long(), minlength=len(values))
        far = chi_square(counts, share) < FALSE_ALARM
        return f"frequencies {show_row(counts / len(drawn))}, not {show_row(share)}" if far else ""
    ordered = drawn.sort().values
    below = torch.cat([share.new_zeros(1), share.cumsum(0)])
    # of an atom: up to it, and up to and with it
    lower = below[torch.searchsorted(values, ordered)]
    upper = below[torch.searchsorted(values, ordered, right=True)]
    steps = torch.arange(len(drawn) + 1).double() / len(drawn)
    off = torch.maximum(steps[1:] - upper, lower - steps[:-1]).max()
    far = bool(off > band(len(drawn)) + QUADRATURE)
    return f"distribution functions up to {off:.3g} apart" if far else ""
