"""Laws of any tractable density, of any library, stated in callables that the user passes.

Legend: B batch, D variables, S states, R rows of evidence, N draws.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

from torch import Tensor

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
    rows: Tensor | None = None,
    draws: int = 2_000,
    tolerance: float = 1e-5,
    atoms: Mapping[int, Sequence[float]] | None = None,
) -> None:
    """Check the laws that every tractable density obeys; what is not passed is not asked.

    Queries are given float64 tensors, NaN where a value is missing, and may answer with anything
    that `torch.as_tensor` reads: tensors, numpy arrays, lists. They are never asked about evidence
    of probability zero, except `log_prob` and `log_marginal`, which must say -inf.

    Up to 16,384 states are enumerated. Where there are more, or a variable has no finite range,
    laws are checked on `rows`: sums and integrals over one variable, draws variable by variable,
    and most probable states against the rows.

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

    Raises:
        LawBroken: naming every law that does not hold, each with its smallest witness.
        ValueError: if the laws must be checked on rows, and there are none.

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
    subject = Subject(queries, tuple(num_categories), draws, tolerance, atoms or {})
    sizes = [n for n in num_categories if n is not None]
    if len(sizes) == len(num_categories) and prod(sizes) <= MOST_STATES:
        check_states(subject)
    else:
        check_rows(subject, rows)
