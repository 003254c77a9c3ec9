"""Laws of any tractable density, of any library, stated in callables that the user passes.

Legend: B batch, D variables, S states, R rows of evidence, N draws.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import inf, prod
from typing import Any
from warnings import warn

from torch import Tensor

from pcflow.checks import check_kind, check_whole
from pcflow.errors import NotAskedWarning, SettingError, TypeMismatch
from pcflow.evidence import Numbers, as_tensor
from pcflow.testing.report import AT_MOST, DRAWS, NOTHING, SUMS, Report
from pcflow.testing.rows import check_rows
from pcflow.testing.states import check_states
from pcflow.testing.subject import Subject

MOST_STATES = 1 << 14
"""Distributions of more states are checked on rows."""


def check_density(
    log_prob: Callable[[Tensor], Any],
    num_categories: Sequence[int | None],
    *,
    log_marginal: Callable[[Tensor], Any] | None = None,
    sample: Callable[[int], Any] | None = None,
    sample_given: Callable[[int, Tensor], Any] | None = None,
    mpe: Callable[[Tensor], Any] | None = None,
    rows: Numbers | None = None,
    draws: int = 2_000,
    tolerance: float = 1e-5,
    atoms: Mapping[int, Sequence[float]] | None = None,
) -> Report:
    """Check the laws that every tractable density obeys; what is not passed is not asked.

    Queries are given float64 tensors, NaN where a value is missing, and may answer with anything
    that `torch.as_tensor` reads: tensors, numpy arrays, lists. They are never asked about evidence
    of probability zero, except `log_prob` and `log_marginal`, which must say -inf.

    Up to 16,384 states are enumerated. Where there are more, or a variable has no finite range,
    laws are checked on `rows`: sums and integrals over one variable, draws variable by variable,
    and most probable states against the rows. Without `log_marginal`, one or two real variables are
    integrated over, and `log_prob` is tied to `sample` by importance weights and by walks that keep
    the distribution (split likelihood ratios: Wasserman, Ramdas and Balakrishnan, 2020).
    `log_prob` is then also asked about rows that nobody drew, and must say -inf where it is zero.

    Draws are compared at a level at which less than one check in 100,000 fails by chance.

    Args:
        log_prob: log-probabilities [B] (nats) of complete rows [B, D].
        num_categories: per variable its number of values 0, 1, ..., or None if it has no finite
            range.
        log_marginal: log-probabilities [B] of evidence [B, D], what is missing summed out.
        sample: `n` draws [n, D].
        sample_given: `n` draws [n, D] given one row of evidence [D].
        mpe: the most probable completions [B, D] of evidence [B, D], claimed to be exact.
        rows: complete rows [N, D] to check on where states cannot be enumerated; draws by default.
        draws: how many draws are compared with a distribution.
        tolerance: of log-probabilities, as a share of the number, or of 1 if that is more.
        atoms: of variables without a finite range, values that have a probability of their own,
            which `log_prob` tells in place of a density.

    Returns:
        Which laws held, and which were not asked and why; prints as a table. Warns with
        `NotAskedWarning` if it could not ask in any way whether probabilities sum to one, or, where
        there is `sample`, whether it draws what `log_prob` says.

    Raises:
        LawBroken: naming every law that does not hold, each with its smallest witness.
        EvidenceError: if the laws must be checked on rows, and there are none, or these do not fit.
        TypeMismatch: if a query is no function, or an argument of another kind.
        SettingError: if `num_categories`, `draws`, `tolerance` or `atoms` is out of range.

    Examples:
        >>> import torch
        >>> log = torch.tensor([0.25, 0.75]).log()
        >>> check_density(lambda x: log[x[:, 0].long()], [2], sample=lambda n: torch.ones(n, 1))
        Traceback (most recent call last):
        pcflow.testing.breach.LawBroken: 1 law does not hold
        draws follow the distribution
            witness   [?]
            expected  [0] in 0.25 of the draws
            found     in 0 of 2000
    """
    given = {
        "log_prob": log_prob,
        "log_marginal": log_marginal,
        "sample": sample,
        "sample_given": sample_given,
        "mpe": mpe,
    }
    queries = {name: query for name, query in given.items() if query is not None}
    sizes = _checked(log_prob, queries, num_categories, draws, tolerance, atoms)
    subject = Subject(queries, sizes, draws, tolerance, atoms or {})
    finite = [n for n in sizes if n is not None]
    if len(finite) == len(sizes) and prod(finite) <= MOST_STATES:
        outcomes = check_states(subject)
    else:
        outcomes = check_rows(subject, None if rows is None else as_tensor("rows", rows).double())
    report = Report(tuple(outcomes))
    _warn(report, subject)
    return report


def _checked(
    log_prob: object,
    queries: Mapping[str, object],
    num_categories: object,
    draws: object,
    tolerance: object,
    atoms: object,
) -> tuple[int | None, ...]:
    """Refuse what is not understood.

    Raises:
        TypeMismatch: naming the argument, and what it must be.
        SettingError: the same, of a number.
    """
    for name, query in {**queries, "log_prob": log_prob}.items():
        check_kind(name, query, Callable, "a function")
    wanted = "a list with the number of values of every variable, None where it has no finite range"
    if isinstance(num_categories, str | bytes) or not isinstance(num_categories, Iterable):
        raise TypeMismatch("num_categories", num_categories, wanted)
    sizes = tuple(num_categories)
    for variable, size in enumerate(sizes):
        if size is not None:
            check_whole(f"num_categories[{variable}]", size)
    SettingError.check("num_categories", sizes, "of one variable or more", bool)
    check_whole("draws", draws)
    SettingError.check("tolerance", tolerance, "a number above 0", lambda t: 0 < t < inf)
    check_kind("atoms", atoms, Mapping | None, "a mapping from variables to lists of values")
    endless = {variable for variable, size in enumerate(sizes) if size is None}
    keys = "keyed by variables without a finite range"
    SettingError.check("atoms", atoms, keys, lambda given: {*(given or ())} <= endless)
    return tuple(None if size is None else int(size) for size in sizes)


def _warn(report: Report, subject: Subject) -> None:
    """Say it, if what matters most could not be asked."""
    unasked = [] if report.normalised else ["probabilities sum to one"]
    if subject.knows("sample") and not report.tied:
        unasked.append("sample draws what log_prob says")
    if unasked:
        about = (SUMS, AT_MOST, NOTHING, DRAWS)
        reasons = "; ".join(str(one) for one in report.skipped if one.law in about)
        told = f"check_density could not ask whether {' and whether '.join(unasked)}: {reasons}"
        warn(told, NotAskedWarning, stacklevel=3)
