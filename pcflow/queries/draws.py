"""Draws, alone or with the marginals of what is drawn.

Legend: B batch, D variables, n draws.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pcflow.checks import check_generator, check_whole
from pcflow.engine import Drawn, Engine, Taped
from pcflow.errors import SettingError
from pcflow.evidence import CheckedEvidence
from pcflow.queries.marginals import Chosen
from pcflow.queries.possible import refuse_nan, refuse_unbounded, trace


class Draws(NamedTuple):
    """Draws, and how probable each drawn value is by itself.

    Attributes:
        values: [n, B, D], observed values kept.
        log_marginals: [n, B, D], posterior log-probability (nats) of every value; 0 where observed.
        drawn: [B, D] bool, what was not observed.

    Examples:
        >>> import pcflow as pf
        >>> model = pf.compile(pf.hmm(3, states=2, inputs=pf.Categorical(4)))
        >>> draws = model.sample_with_marginals(5, [[1, torch.nan, torch.nan]])
        >>> draws.log_marginals.shape, draws.drawn
        (torch.Size([5, 1, 3]), tensor([[False,  True,  True]]))
    """

    values: Tensor
    log_marginals: Tensor
    drawn: Tensor


def sample(engine: Engine, n: int, checked: CheckedEvidence, route: Drawn) -> Tensor:
    """Draws [n, B, D]."""
    _check(engine, n, route)
    drawn = [
        _draws(engine, trace(engine, part, "sample"), n, part, route)
        for part in engine.parts(checked)
    ]
    return refuse_nan(torch.cat(drawn, dim=1), "sample")


def sample_with_marginals(engine: Engine, n: int, checked: CheckedEvidence, route: Drawn) -> Draws:
    """Draws, and the marginal of every drawn value, in one upward pass."""
    _check(engine, n, route)
    refuse_unbounded(engine, "sample_with_marginals")
    found = Chosen(engine, checked.values.new_zeros(*checked.values.shape, n))
    for part in engine.parts(checked):
        taped = trace(engine, part, "sample")
        drawn = _draws(engine, taped, n, part, route).movedim(0, -1)  # [B, D, n]
        found.categories[slice(None) if part.origin is None else part.origin] = drawn
        found.ask(taped)
    values, log_marginals = found.categories.movedim(-1, 0), found.log_probability.movedim(-1, 0)
    return Draws(values, log_marginals, checked.missing)


def _check(engine: Engine, n: int, route: Drawn) -> None:
    check_whole("n", n, least=0)
    SettingError.check("temperature", route.temperature, "at least 0", lambda t: t >= 0)
    check_generator(route.generator, engine.tables.like.device)


def _draws(engine: Engine, taped: Taped, n: int, part: CheckedEvidence, route: Drawn) -> Tensor:
    """Draws [n, B, D]."""
    most = max(1, engine.plan.samples_at_a_time // max(1, len(part.values)))
    copies = [min(most, n - done) for done in range(0, n, most)]
    blocks = [taped.follow(route, some) for some in copies]  # [C, B, D] each
    return torch.cat(blocks) if blocks else part.values.expand(0, *part.values.shape)
