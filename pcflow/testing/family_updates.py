"""Laws of what EM and structure learning ask of an input family: weighted maximum likelihood.

Legend: F columns, N rows, V categories, K units.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from pcflow.inputs import DensityFamily, FiniteFamily, InputFamily
from pcflow.testing.breach import Breach, compare_entries, generator
from pcflow.testing.family_densities import draws

Parameters = dict[str, Tensor]

ROWS = 60
NEARBY = 40
STEPS = (1e-2, 1e-4)
PSEUDOCOUNT = 2.0
EXACT = 1e-9
FITTED = 1e-6
"""Where a maximum is found by iteration, a second way there ends so near."""


def _columns(family: InputFamily, params: Parameters) -> tuple[Tensor, Tensor]:
    """Columns [F, N] that the units could have drawn, with gaps, and weights [N, K]."""
    units = next(iter(params.values())).shape[-1]
    if isinstance(family, DensityFamily):
        x = draws(family, params, -(-ROWS // units)).flatten(1)[:, :ROWS]
    else:
        assert isinstance(family, FiniteFamily)
        table = family.table(params).double().mean(dim=-1)  # [F, V]
        x = torch.multinomial(table, ROWS, replacement=True, generator=generator()).double()
    x = x.masked_fill(torch.arange(ROWS) % 7 == 3, torch.nan)
    return x, torch.rand(ROWS, units, generator=generator(1), dtype=torch.float64)


def _log_prob(family: InputFamily, params: Parameters, x: Tensor) -> Tensor:
    """Log-probabilities [F, N, K] of columns, zero where a value is missing."""
    missing = x.isnan()
    if isinstance(family, DensityFamily):
        possible = x[~missing][0]
        found = family.log_prob(params, x.where(~missing, possible))
    else:
        assert isinstance(family, FiniteFamily)
        table = family.log_table(params)  # [F, V, K]
        place = x.nan_to_num(nan=0.0).long().unsqueeze(-1).expand(-1, -1, table.shape[-1])
        found = table.expand(len(x), -1, -1).gather(1, place)
    return found.masked_fill(missing.unsqueeze(-1), 0.0)


def _likelihood(family: InputFamily, params: Parameters, x: Tensor, weight: Tensor) -> Tensor:
    """[F, K]."""
    terms = weight * _log_prob(family, params, x)
    return terms.masked_fill(weight == 0, 0.0).sum(dim=1)


def _never_lowers(family: InputFamily, params: Parameters) -> Iterator[Breach]:
    x, weight = _columns(family, params)
    smallest = x.nan_to_num(nan=torch.inf).amin(dim=1, keepdim=True)
    constant = smallest.expand_as(x).masked_fill(x.isnan(), torch.nan)
    for name, column in (("columns with gaps", x), ("constant columns", constant)):
        before = _likelihood(family, params, column, weight)
        after = _likelihood(family, family.update(params, column, weight, 0.0), column, weight)
        wrong = ~(after >= before - EXACT * before.abs().clamp_min(1.0))
        if wrong.any():
            expected, found = (f"{t[wrong][0]:.8g}" for t in (before, after))
            yield Breach(
                "an update never lowers the likelihood", name, f"at least {expected}", found
            )


def _is_the_maximum(family: InputFamily, params: Parameters) -> Iterator[Breach]:
    x, weight = _columns(family, params)
    best = family.update(params, x, weight, 0.0)
    reached = _likelihood(family, best, x, weight)
    source = generator(2)
    for trial in range(NEARBY):
        step = STEPS[trial % len(STEPS)]
        near = {n: p + step * torch.randn(p.shape, generator=source).to(p) for n, p in best.items()}
        gain = _likelihood(family, near, x, weight) - reached
        if (gain > EXACT * reached.abs().clamp_min(1.0)).any():
            place = int(gain.argmax())
            witness = f"parameters {step} away"
            expected, found = f"at most {reached.flatten()[place]:.10g}", float(gain.max())
            law = "an update is the maximum of the weighted likelihood"
            yield Breach(law, witness, expected, f"{found:.3g} more")


def _no_rows_change_nothing(family: InputFamily, params: Parameters) -> Iterator[Breach]:
    x, weight = _columns(family, params)
    found = family.update(params, x, torch.zeros_like(weight), 0.0)
    for name, value in params.items():
        law = "a unit without any weight keeps its parameters"
        yield from compare_entries(law, found[name], value, 0.0, name)


def _pseudocounts(family: InputFamily, params: Parameters) -> Iterator[Breach]:
    x, weight = _columns(family, params)
    found = _log_prob(family, family.update(params, x, weight, PSEUDOCOUNT), x)
    law = "pseudocounts are observations"
    wanted = [_log_prob(family, smooth, x) for smooth in _smoothed(family, params, x, weight)]
    breaches = [list(compare_entries(law, found, w, EXACT, "values")) for w in wanted]
    if all(breaches):
        yield breaches[-1][0]


def _smoothed(
    family: InputFamily, params: Parameters, x: Tensor, weight: Tensor
) -> Iterator[Parameters]:
    """Updates from rows and so many observations distributed as the present parameters say.

    Of a free table, so many of every value is right as well.
    """
    known = (~x.isnan()).double()
    if isinstance(family, DensityFamily):
        flow = family.tally(params, x, weight.expand(len(x), -1, -1))
        flow = flow + PSEUDOCOUNT * family.moments(params)
        yield family.maximize(params, known @ weight + PSEUDOCOUNT, flow, 0.0)
    else:
        assert isinstance(family, FiniteFamily)
        counts = family.tally(x, weight)
        yield family.maximize(params, counts + PSEUDOCOUNT, 0.0)
        yield family.maximize(params, counts + PSEUDOCOUNT * family.table(params), 0.0)


def _nothing_is_edited(family: InputFamily, params: Parameters) -> Iterator[Breach]:
    x, weight = _columns(family, params)
    given = {**{n: p.clone() for n, p in params.items()}, "x": x.clone(), "weight": weight.clone()}
    family.update({n: given[n] for n in params}, given["x"], given["weight"], PSEUDOCOUNT)
    for name, before in {**params, "x": x, "weight": weight}.items():
        law = "an update edits nothing that it is given"
        yield from compare_entries(
            law, given[name].nan_to_num(nan=-1.5), before.nan_to_num(nan=-1.5), 0.0, name
        )


def _fitted_to_their_rows(family: InputFamily, params: Parameters) -> Iterator[Breach]:
    columns, weight = _columns(family, params)
    x, weight = columns[0], weight[:, :1].repeat(1, 3)
    weight[ROWS // 2 :, 0] = 0.0
    weight[:, 2] = 0.0
    law = "`fitted` fits every unit to its own rows, and one without rows to all of them"
    together = family.fitted(x, weight)
    whole = torch.ones(ROWS, 1, dtype=torch.float64)
    for unit, own in enumerate((weight[:, :1], weight[:, 1:2], whole)):
        known = (own[:, 0] > 0) & ~x.isnan()
        apart = family.fitted(x[known], own[known])
        found = {n: p[..., unit : unit + 1] for n, p in together.items()}
        told = [_log_prob(family, _one(p), x[known].unsqueeze(0)) for p in (found, apart)]
        yield from compare_entries(law, told[0], told[1], FITTED, f"unit {unit}, values")


def _one(params: Parameters) -> Parameters:
    """As the only parameter set."""
    return {n: p.unsqueeze(0) for n, p in params.items()}


def _smoothed_nothing_is_impossible(family: InputFamily, params: Parameters) -> Iterator[Breach]:
    if isinstance(family, FiniteFamily):
        fitted = family.fitted(torch.zeros(4), torch.ones(4, 1).double(), PSEUDOCOUNT)
        table = family.log_table(_one(fitted))
        if not table.isfinite().all():
            law = "fitted to one value with pseudocounts, no value is impossible"
            yield Breach(law, "four zeros", "finite numbers", str(table.flatten().tolist()))


LEARNING = (
    _never_lowers,
    _is_the_maximum,
    _no_rows_change_nothing,
    _pseudocounts,
    _nothing_is_edited,
    _fitted_to_their_rows,
    _smoothed_nothing_is_impossible,
)
