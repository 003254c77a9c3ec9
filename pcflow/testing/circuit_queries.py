"""Laws of the queries of a compiled circuit, against the plain evaluator and enumeration.

Legend: B batch, D variables, V categories, N draws, Q points.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from pcflow.circuit import reference_log_prob
from pcflow.evidence import Evidence, Intervals
from pcflow.testing.breach import Breach, compare, compare_entries, show_row
from pcflow.testing.circuit_cases import Case
from pcflow.testing.density import check_density
from pcflow.testing.frequencies import FALSE_ALARM, axis, chi_square
from pcflow.testing.oracle import enumerate_mpe, enumerate_weights

EXACT = 1e-9
QUADRATURE = 5e-3
DRAWS = 2_000
VARIABLES = 8
"""Posteriors of so many variables are looked at."""
MEANS = "means are those of the posteriors"


def _log_prob(case: Case) -> Iterator[Breach]:
    found, wanted = case.model.log_prob(case.about), reference_log_prob(case.circuit, case.about)
    yield from compare("log_prob is that of the plain evaluator", case.rows, found, wanted, EXACT)


def _density(case: Case) -> Iterator[Breach]:
    model, generator = case.model, case.generator()
    exact = model.mpe(torch.full((1, model.num_variables), torch.nan)).exact
    check_density(
        model.log_prob,
        model.num_categories,
        log_marginal=model.log_prob,
        sample=lambda n: model.sample(n, generator=generator),
        sample_given=lambda n, row: model.sample(n, row.unsqueeze(0), generator).squeeze(1),
        mpe=(lambda rows: model.mpe(rows).values) if exact else None,
        rows=None if case.small else model.sample(DRAWS, generator=generator),
        draws=DRAWS,
        tolerance=EXACT,
        atoms=case.atoms,
    )
    yield from ()


def _posterior(case: Case, variable: int) -> Tensor:
    """Log-probabilities [B, V] of a variable's values, by the plain evaluator."""
    about, size = case.about, case.circuit.num_categories[variable]
    assert about.values is not None and about.missing is not None and size is not None
    scores = []
    for value in range(size):
        values, missing = about.values.clone(), about.missing.clone()
        values[:, variable], missing[:, variable] = value, False
        score = reference_log_prob(case.circuit, Evidence(values, missing, about.log_potentials))
        if about.log_potentials is not None:
            score = score + about.log_potentials[:, variable, value].double()
        scores.append(score)
    posterior = torch.stack(scores, dim=-1).log_softmax(dim=-1)
    observed = torch.arange(size) == about.values[:, variable, None]
    return posterior.where(about.missing[:, variable, None], observed.double().log())


def _looked_at(case: Case) -> list[int]:
    return list(range(0, case.circuit.num_variables, -(-case.circuit.num_variables // VARIABLES)))


def _posteriors(case: Case) -> Iterator[Breach]:
    if case.finite and len(case.rows):
        found = case.model.marginals(case.about).exp()
        for variable in _looked_at(case):
            wanted = _posterior(case, variable).exp()
            for row, here, there in zip(case.rows, found[:, variable], wanted, strict=True):
                law = "marginals are the posterior of every variable"
                many = row.expand(len(there), -1)
                yield from compare(law, many, here[: len(there)], there, EXACT)


def _means(case: Case) -> Iterator[Breach]:
    if len(case.rows):
        found = case.model.mean(case.about)
        for variable in _looked_at(case):
            size = case.circuit.num_categories[variable]
            here = found[:, variable]
            if size is None:
                yield from _integrated_mean(case, variable, here)
            else:
                wanted = _posterior(case, variable).exp() @ torch.arange(size).double()
                yield from compare(MEANS, case.rows, here, wanted, EXACT)


def _integrated_mean(case: Case, variable: int, found: Tensor) -> Iterator[Breach]:
    for row, mean in zip(case.rows, found, strict=True):
        if not row[variable].isnan():
            yield from compare(MEANS, row[None], mean[None], row[variable][None], EXACT)
            continue
        drawn = case.model.sample(DRAWS, row.unsqueeze(0), case.generator())[:, 0, variable]
        points, width = axis(drawn, case.atoms[variable])
        asked = row.repeat(len(points), 1)
        asked[:, variable] = points
        share = (reference_log_prob(case.circuit, asked) + width.log()).softmax(dim=0)
        slack = QUADRATURE * (share @ (points - mean).abs() + mean.abs())
        if not (mean - share @ points).abs() <= slack:
            witness, wanted = f"{show_row(row)}, variable {variable}", share @ points
            yield Breach(MEANS, witness, f"{wanted:.6g}", f"{mean:.6g}")


def _draws(case: Case) -> Iterator[Breach]:
    """With soft evidence; hard evidence is among the laws of densities."""
    if case.small and len(case.rows):
        known = enumerate_weights(case.circuit, case.about)
        drawn = case.model.sample(DRAWS, case.about, case.generator())  # [N, B, D]
        for row, weight, values in zip(case.rows, known.log_weight, drawn.unbind(1), strict=True):
            counts = (values.unsqueeze(1) == known.states).all(dim=-1).sum(dim=0)
            if counts.sum() < DRAWS or chi_square(counts, weight.softmax(-1)) < FALSE_ALARM:
                law = "draws given soft evidence follow the posterior"
                wanted, found = (t.tolist() for t in (weight.softmax(-1), counts / DRAWS))
                yield Breach(law, show_row(row), str(wanted), str(found))


def _mpe(case: Case) -> Iterator[Breach]:
    if len(case.rows):
        values, log_value, exact = case.model.mpe(case.about)
        for row, state in zip(case.rows, values, strict=True):
            law = "a most probable state keeps the evidence"
            known = ~row.isnan()
            yield from compare_entries(
                law, state.double()[known], row[known], 0.0, "observed values"
            )
        law = "the value of a most probable state is its log-probability"
        yield from compare(law, case.rows, log_value, _score(case, values), EXACT)
        if case.small:
            best = enumerate_mpe(case.circuit, case.about)[1]
            wanted = best if exact else log_value.minimum(best)
            law = "the value of a most probable state is a bound, and exact if it says so"
            yield from compare(law, case.rows, log_value, wanted, EXACT)


def _score(case: Case, values: Tensor) -> Tensor:
    """Log-weights [B] of complete states."""
    score, soft = reference_log_prob(case.circuit, values), case.about.log_potentials
    if soft is None:
        return score
    chosen = soft.gather(-1, values.long().unsqueeze(-1)).squeeze(-1).double()
    assert case.about.missing is not None
    return score + chosen.masked_fill(~case.about.missing, 0.0).sum(dim=-1)


def within_intervals(case: Case) -> Iterator[Breach]:
    """Of intervals: the plain evaluator, sums of parts, and that answers lie inside."""
    if case.within is None:
        return
    model, about = case.model, case.model.evidence(case.within)
    rows = about.values.double().masked_fill(about.missing, torch.nan)
    found, wanted = model.log_prob(about), reference_log_prob(case.circuit, case.within)
    yield from compare("intervals are those of the plain evaluator", rows, found, wanted, EXACT)
    law = "the mass of an interval is that of its parts"
    for variable in _looked_at(case)[:3]:
        parts, cut = _halves(case.within, variable), rows[:, variable].isnan()
        halves = torch.stack([model.log_prob(part) for part in parts]).logsumexp(dim=0)
        yield from compare(law, rows[cut], halves[cut], found[cut], EXACT)
    assert about.lower is not None and about.upper is not None
    unions = Intervals(about.lower, about.upper)
    answers = [model.mpe(about).values, *model.sample(4, about, case.generator())]
    for row, held in zip(rows, [unions.holds(x.unsqueeze(-1)) for x in answers], strict=False):
        if not (held.squeeze(-1) | ~about.missing).all():
            law = "draws and most probable states lie in the intervals"
            yield Breach(law, show_row(row), "all inside", "one outside")


def _halves(within: Evidence, variable: int) -> tuple[Evidence, Evidence]:
    """What lies below the middle of a variable's first interval, and what above."""
    assert within.lower is not None and within.upper is not None
    unions = Intervals.of(within.lower, within.upper)
    low, high = unions.lower[:, variable], unions.upper[:, variable]  # [B, U]
    unbound = low.isnan().all(dim=-1)
    low[unbound, 0], high[unbound, 0] = -torch.inf, torch.inf
    middle = (low[:, :1].clamp_min(-1e3) + high[:, :1].clamp_max(1e3)) / 2
    beyond = torch.nextafter(middle, torch.full_like(middle, torch.inf))
    below, above = (
        (low.where(low <= middle, torch.nan), high.minimum(middle).where(low <= middle, torch.nan)),
        (low.maximum(beyond).where(high > middle, torch.nan), high.where(high > middle, torch.nan)),
    )
    return _bounded(within, variable, *below), _bounded(within, variable, *above)


def _bounded(within: Evidence, variable: int, low: Tensor, high: Tensor) -> Evidence:
    """The same evidence with other intervals [B, U] of a variable."""
    assert within.lower is not None and within.upper is not None
    lower, upper = within.lower.clone(), within.upper.clone()
    lower[:, variable], upper[:, variable] = low, high
    return Evidence(within.values, lower=lower, upper=upper)


QUERIES = (_density, _log_prob, _posteriors, _means, _draws, _mpe, within_intervals)
