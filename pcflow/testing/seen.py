"""What laws look at where states cannot be listed: rows, draws, and a density fitted to them.

Legend: N rows or draws, D variables, R rows of evidence.
"""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from pcflow.testing.fitted import Fitted
from pcflow.testing.report import CannotAsk
from pcflow.testing.subject import Subject

CONDITIONS = 4
"""So many rows of evidence are conditioned on by draws."""
FEWEST = 64
"""Fewer draws than that in each half say nothing."""


class Seen:
    """Rows, and draws that are made once, when they are first looked at.

    Attributes:
        subject: the density under test.
        rows: complete possible rows [N, D], which need not be draws.
        evidence: rows [R, D], NaN where missing.
    """

    def __init__(self, subject: Subject, rows: Tensor, evidence: Tensor) -> None:
        """Draw nothing yet."""
        self.subject, self.rows, self.evidence = subject, rows, evidence

    @cached_property
    def drawn(self) -> Tensor:
        """Draws [N, D]."""
        return self.subject.drawn()

    @cached_property
    def given(self) -> list[tuple[Tensor, Tensor]]:
        """Some rows [D] of evidence with draws [N, D] given each."""
        chosen = self.evidence[:: max(1, len(self.evidence) // CONDITIONS)]
        return [(row, self.subject.drawn(row)) for row in chosen]

    @cached_property
    def halves(self) -> tuple[Tensor, Tensor]:
        """Draws [N, D] to fit to, and as many others.

        Raises:
            CannotAsk: if some are impossible, which is another law, or they are few.
        """
        drawn = self.drawn
        inside = self.subject.possible(drawn)
        if not inside.all() or (self.subject.score("log_prob", drawn) == -torch.inf).any():
            raise CannotAsk("some draws are impossible")
        if len(drawn) < 2 * FEWEST:
            raise CannotAsk(f"fewer than {2 * FEWEST} draws")
        return drawn[: len(drawn) // 2], drawn[len(drawn) // 2 :]

    @cached_property
    def fitted(self) -> Fitted:
        """Fitted to the first half of the draws; to the rows, where there is no `sample`."""
        known = self.halves[0] if self.subject.knows("sample") else self.rows
        if len(known) < 2:
            raise CannotAsk("fewer than 2 rows of positive probability")
        return Fitted(self.subject.num_categories, known, self.subject.atoms)
