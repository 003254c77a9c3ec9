"""Laws of a density that answers nothing but `log_prob`, and perhaps `sample`.

Legend: N draws, D variables, Q points of a quadrature, S states of finite variables.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from pcflow.testing.breach import Breach, LawBroken, generator, show_row
from pcflow.testing.frequencies import FALSE_ALARM, QUADRATURE, log_evidence, log_sign_test
from pcflow.testing.moves import Walk
from pcflow.testing.quadrature import integrate
from pcflow.testing.report import AT_MOST, DRAWS, SUMS, WEIGHTS, CannotAsk, Law
from pcflow.testing.seen import FEWEST, Seen
from pcflow.testing.subject import Subject, log_prob_is_a_number

LAID_BY = 2_000
"""By so many rows cells of a quadrature are laid, at most."""
POINTS = 400_000
"""So many rows a quadrature asks at most."""
COMBINATIONS = 64
"""So many states of finite variables are summed over in a quadrature."""
EFFECTIVE = 40.0
"""Uneven weights say as much as fewer even ones; of less than so many nothing is concluded."""


def untied_laws(seen: Seen) -> Iterator[Law]:
    """All of them."""
    if not seen.subject.knows("log_marginal"):  # of which there are laws that say more
        yield Law(AT_MOST, partial(_weights, seen), how=WEIGHTS)
        yield Law(SUMS, partial(_quadrature, seen), how="quadrature")
    yield Law(DRAWS, partial(_likelihood_ratio, seen), ("sample",), WEIGHTS)
    yield Law(DRAWS, partial(_moves, seen), ("sample",), "moves that keep log_prob")


def _numbers(subject: Subject, rows: Tensor) -> Tensor:
    """Log-probabilities [N] of rows [N, D] that nobody drew.

    Raises:
        LawBroken: if one is no number.
    """
    found = subject.score("log_prob", rows)
    if not (found < torch.inf).all():
        for breach in log_prob_is_a_number(subject, rows[~(found < torch.inf)][:1]):
            raise LawBroken([breach])
    return found


def _weights(seen: Seen) -> Iterator[Breach]:
    """Over draws of a fitted density q, p/q is 1 in the mean."""
    count = seen.subject.draws
    rows = seen.fitted.sample(count, generator())
    log_weight = _numbers(seen.subject, rows) - seen.fitted.log_prob(rows)
    if log_evidence(log_weight) > -math.log(FALSE_ALARM):
        mean = log_weight.exp().mean()
        witness = f"{count} draws of a density q that was fitted to rows"
        expected = "exp(log_prob) / q of 1 in the mean, or less"
        yield Breach(AT_MOST, witness, expected, f"{mean:.4g} in the mean")
    else:
        _worth(log_weight)


def _worth(log_weight: Tensor) -> None:
    """Refuse to conclude anything from weights [..., N] of which a few are all.

    Raises:
        CannotAsk: telling so.
    """
    squares = log_weight.softmax(-1).square().sum(-1)  # NaN where all weights are zero
    effective = float((1 / squares).nan_to_num(nan=0.0).max())
    if effective < EFFECTIVE:
        count = log_weight.shape[-1]
        raise CannotAsk(f"a fitted density is so far off that of {count} weights few count")


def _likelihood_ratio(seen: Seen) -> Iterator[Breach]:
    """Over draws, q/p is 1 in the mean, or less: q was fitted to other draws, in several ways."""
    rows = seen.halves[1]
    log_weight = seen.fitted.log_probs(rows) - seen.subject.score("log_prob", rows)  # [P, N]
    evidence = torch.tensor([log_evidence(each) for each in log_weight])
    if evidence.logsumexp(0) - math.log(len(evidence)) > -math.log(FALSE_ALARM):
        best = log_weight[evidence.argmax()]
        worst = int(best.argmax())
        witness = f"{len(rows)} draws, and a density q that was fitted to as many others"
        expected = "q / exp(log_prob) of 1 in the mean, or less, if probabilities sum to one"
        told = f"{best.exp().mean():.4g} in the mean, {best[worst].exp():.4g}"
        yield Breach(DRAWS, witness, expected, f"{told} at {show_row(rows[worst])}")
    else:
        _worth(log_weight)


def _moves(seen: Seen) -> Iterator[Breach]:
    """What is measured of a draw, and of where a walk from it ends, grew as often as it fell."""
    subject, fitted, rows = seen.subject, seen.fitted, seen.halves[1]
    walk = Walk(partial(_numbers, subject), subject.num_categories, fitted, generator())
    ends, before, after = walk.end(rows)
    if (ends != rows).any(-1).sum() < FEWEST:
        raise CannotAsk("walks led nowhere: no step was accepted")
    middle = torch.cat([rows, ends]).median(0).values
    measured = {"log_prob": (before, after)}
    for variable, (start, end) in enumerate(zip(rows.T, ends.T, strict=True)):
        measured[f"variable {variable}"] = (start, end)
        far = ((start - middle[variable]).abs(), (end - middle[variable]).abs())
        measured[f"the distance of variable {variable} from {middle[variable]:.6g}"] = far
    fits = (fitted.log_prob(rows) - before, fitted.log_prob(ends) - after)
    measured["how much likelier a density is that was fitted to other draws"] = fits
    for name, (start, end) in measured.items():
        rose, fell = int((end > start).sum()), int((end < start).sum())
        if log_sign_test(rose, fell) < math.log(FALSE_ALARM / len(measured)):
            witness = f"{len(rows)} draws, each after a walk that leaves the distribution as it is"
            expected = f"{name} grew as often as it fell"
            yield Breach(DRAWS, witness, expected, f"it grew {rose} times and fell {fell} times")


def _quadrature(seen: Seen) -> Iterator[Breach]:
    """The integral over one or two real variables, and the sum over finite ones, is 1.

    Only what is too much is a breach; what is too little the likelihood ratio of draws must say.
    """
    subject = seen.subject
    real, states = _grid(seen)
    rows = (seen.drawn if subject.knows("sample") else seen.rows)[:LAID_BY]

    def log_density(points: Tensor) -> Tensor:
        asked = states.repeat(len(points), 1)  # [Q * S, D]
        asked[:, real] = points.repeat_interleave(len(states), 0)
        parts = [_numbers(subject, part) for part in asked.split(50_000)]
        return torch.cat(parts).reshape(len(points), len(states)).logsumexp(-1)

    found = integrate(log_density, rows[:, real], POINTS // len(states))
    off, told = found.value - 1, f"{found.value:.6g}, to {found.error:.1g}"
    if off > QUADRATURE + 3 * found.error:
        names = " and ".join(str(v) for v in real.nonzero().flatten().tolist())
        witness = f"the integral over variable {names}, and the sum over all others"
        yield Breach(SUMS, witness, "1", f"{told}, by {found.points} points")
    elif off < -QUADRATURE or not found.error < QUADRATURE:
        # what is narrow and holds few of the rows may be overlooked: nobody is blamed for it
        raise CannotAsk(f"around the rows the integral is {told}; there may be more elsewhere")


def _grid(seen: Seen) -> tuple[Tensor, Tensor]:
    """Which variables [D] are integrated over, and all states [S, D] of the others.

    Raises:
        CannotAsk: if the variables are too many, or of a kind that is not integrated over.
    """
    fitted, sizes = seen.fitted, seen.subject.num_categories
    if fitted.whole.any():
        raise CannotAsk("whole numbers without a largest one")
    if any(seen.subject.atoms.values()):
        raise CannotAsk("atoms among real numbers")
    width, states = int(fitted.real.sum()), math.prod(n for n in sizes if n is not None)
    if width not in (1, 2) or states > COMBINATIONS:
        told = f"of one or two real variables, with up to {COMBINATIONS} states of others, only"
        raise CannotAsk(told)
    axes = [torch.arange(n or 1).double() for n in sizes]
    return fitted.real, torch.cartesian_prod(*axes).reshape(-1, len(sizes))
