"""A head as a part of itself: over some of its positions, or of all texts those that obey a rule.

Legend: B batch, L positions.
"""

from __future__ import annotations

from copy import copy
from typing import Self

from pcflow import Automaton, CompiledCircuit, Given, SettingError
from pcflow_diffusion.checks import check_count, check_kind
from pcflow_diffusion.errors import CouplingError, ShapeMismatch
from pcflow_diffusion.head.derived import Derived, Stretch, narrowed
from pcflow_diffusion.head.kept import Kept
from pcflow_diffusion.head.transitions import TransitionModulation

NO_RULE = "a modulated head takes no constraint: rules are about tokens, and controls are none"
NO_START = "transitions by row begin at the first position: take range(0, n), or windows as long"


class Parts(Kept):
    """What others are made of a head; `CircuitHead` has the rest."""

    stretch: Stretch | None
    derived: Derived

    @property
    def has_controls(self) -> bool:
        """Whether every position has a control behind it, by which the circuit is steered."""
        return not isinstance(self.modulation, TransitionModulation | None)

    def over(self, positions: int | range) -> Self:
        """The head over neighbouring positions alone, with the circuit's others summed out.

        It has coupling, modulation and `top_k` of this one as they are now, and its rule, which is
        then about the fewer tokens; its circuit is a copy, made anew when parameters change. The
        four that were asked for last are kept.

        Args:
            positions: neighbours, as in `range(2, 5)`, or the number of those from the first on.

        Raises:
            ShapeMismatch: if the circuit does not have them all.
            CouplingError: if it has transitions by row, and the first position is left out: where
                they lead from there depends on what the backbone says of it.
            SettingError: if it is no number of positions, or they are no neighbours.

        Examples:
            >>> import pcflow as pf
            >>> from pcflow_diffusion import CircuitHead
            >>> model = pf.compile(pf.hmm(4, states=2, inputs=pf.Categorical(5)))
            >>> head = CircuitHead(model, mask_token_id=5)
            >>> head.over(3).length, head.over(range(2, 4)).length
            (3, 2)
        """
        span = self._span(positions)
        if span == range(self.length):
            return self
        if isinstance(self.modulation, TransitionModulation) and span.start > 0:
            raise CouplingError(NO_START)
        given = {"coupling": self.coupling, "modulation": self.modulation, **self._settings}
        short = self.derived.over(self.model, self._variables(span))
        head = type(self)(short, constraint=self.constraint, **given)
        head.derived, head.stretch = self.derived, self.stretch
        return head

    def under(self, rule: Automaton | Stretch | None) -> Self:
        """The head under a rule for its L tokens, in place of the one that it has; None for none.

        Under a stretch of a rule what is asked has as many rows as that.

        Args:
            rule: over as many tokens as the circuit knows.

        Returns:
            Another head, on the same circuit.

        Raises:
            CouplingError: if it is modulated.
            TypeMismatch: if `rule` is none.

        Examples:
            >>> import torch, pcflow as pf
            >>> from pcflow_diffusion import CircuitHead
            >>> head = CircuitHead(pf.compile(pf.hmm(2, 2, pf.Categorical(4))), mask_token_id=4)
            >>> rule = pf.Automaton.options([[0, 3], [3, 0]])
            >>> x = torch.tensor([[4, 0]])
            >>> head.under(rule).sample(torch.zeros(1, 2, 4), x).tokens
            tensor([[3, 0]])
        """
        head = copy(self)
        head.constraint = self.checked_rule(rule.rule if isinstance(rule, Stretch) else rule)
        head.stretch = rule if isinstance(rule, Stretch) else None
        return head

    def check_takes_rules(self) -> None:
        """Refuse a circuit that cannot be asked under a rule.

        Raises:
            CouplingError: if the head is modulated.
            NotCompatible: see `pcflow.CompiledCircuit.given`.
            PropertyRequired: likewise.
        """
        _ = self.under(Automaton.lengths(0, None, self.vocabulary_size)).law

    @property
    def law(self) -> CompiledCircuit | Given:
        """What is asked of the coupled evidence: the circuit, or the circuit given the rule.

        Raises:
            NotCompatible: see `pcflow.CompiledCircuit.given`.
            PropertyRequired: likewise.
            EmptyLanguage: likewise.
        """
        if self.constraint is None:
            return self.model
        under = self.stretch or narrowed(self.constraint, self.vocabulary_size)
        return self.derived.given(self.model, under)

    def _span(self, positions: int | range) -> range:
        """Neighbouring positions, once the circuit has them."""
        if not isinstance(positions, range):
            check_count("positions", positions)
            positions = range(positions)
        wanted = "a whole number, or neighbours such as range(2, 5)"
        SettingError.check("positions", positions, wanted, lambda span: span and span.step == 1)
        if positions.start < 0 or positions.stop > self.length:
            raise ShapeMismatch(f"the circuit has {self.length} positions: {positions=}")
        return positions

    def checked_rule(self, constraint: Automaton | None) -> Automaton | None:
        """A rule, if it is one that this head can be under; it may be about more tokens."""
        if constraint is not None:
            check_kind("constraint", constraint, Automaton)
            if self.modulation is not None:
                raise CouplingError(NO_RULE)
            _ = narrowed(constraint, self.vocabulary_size)  # refuses what nothing obeys
        return constraint

    def _variables(self, span: range) -> tuple[int, ...]:
        """Some positions and their controls."""
        firsts = [0, self.length] if self.has_controls else [0]
        return tuple(first + place for first in firsts for place in span)
