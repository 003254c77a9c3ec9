"""Formulas in negation normal form to circuits: literals, conjunctions, disjunctions.

What others compiled comes so: decomposable (conjuncts share no variable) and deterministic
(disjuncts exclude one another), but not smooth. A circuit is smooth, so variables that a disjunct
does not name stand beside it, free. Sets of variables are integers, bit v for variable v.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import reduce
from math import exp, log
from operator import or_
from typing import NamedTuple

import torch

from pcflow.circuit import (
    Circuit,
    Deterministic,
    InputLayer,
    Layer,
    Parameter,
    ProductLayer,
    SumLayer,
)
from pcflow.errors import StructureError
from pcflow.inputs import Bernoulli, Indicator
from pcflow.logic.search import positions

MOST_FREE = 1 << 22
"""How many free variables may be added in all: a small formula can ask for any number."""

MOST_BITS = 1 << 31
"""How many bits the scopes of all nodes may take."""


class Node(NamedTuple):
    """A formula that some assignment satisfies.

    Attributes:
        layer: a circuit over its models, all alike; None if it always holds.
        log_share: logarithm of the share of all assignments that are models.
        scope: the variables that it names.
    """

    layer: Layer | None
    log_share: float
    scope: int


TRUE = Node(None, 0.0, 0)
Formula = Node | None
"""None is what never holds."""


class NormalForm:
    """Makes nodes of a formula over D variables, parts first; equal parts may be shared.

    Args:
        num_variables: how many variables there are, D.

    Examples:
        >>> form = NormalForm(3)
        >>> one = form.conjunction([form.literal(1), form.literal(2)])
        >>> print(form.circuit(form.disjunction([one, form.literal(-1)])))
        Circuit(3 variables, 9 layers, 3 parameters)
    """

    def __init__(self, num_variables: int) -> None:
        """Nothing is made yet."""
        if not 1 <= num_variables <= MOST_FREE:
            raise StructureError(f"{num_variables} variables, but must be 1..{MOST_FREE}")
        self.num_variables = num_variables
        self._literals: dict[int, Node] = {}
        self._free: dict[int, InputLayer] = {}
        self._fair = Parameter(torch.zeros(1, dtype=torch.float64))
        self._smooth: dict[tuple[Layer | None, int], Layer] = {}
        self._added = self._bits = 0

    def literal(self, literal: int) -> Node:
        """A variable, counted from 1, that is 1; or 0, if negative.

        Raises:
            StructureError: if there is no such variable.
        """
        if not 1 <= abs(literal) <= self.num_variables:
            raise StructureError(f"literal {literal}, but variables are 1..{self.num_variables}")
        if literal not in self._literals:
            variable = abs(literal) - 1
            layer = InputLayer(variable, Indicator(int(literal > 0)))
            self._literals[literal] = Node(layer, -log(2), 1 << variable)
        return self._literals[literal]

    def conjunction(self, parts: Iterable[Formula]) -> Formula:
        """All of them hold."""
        found = []
        for part in parts:
            if part is None:
                return None
            found.append(part)
        layers = [part.layer for part in found if part.layer is not None]
        if not layers:
            return TRUE
        layer = layers[0] if len(layers) == 1 else ProductLayer(layers)
        return Node(layer, sum(part.log_share for part in found), self._named(found))

    def disjunction(self, parts: Iterable[Formula]) -> Formula:
        """One of them holds; what never holds is left out."""
        found = [part for part in parts if part is not None]
        if len(found) < 2:
            return found[0] if found else None
        scope = self._named(found)
        if scope == 0:
            raise StructureError("two disjuncts always hold, so they do not exclude one another")
        layers = [self.smooth(part, scope) for part in found]
        peak = max(part.log_share for part in found)
        total = peak + log(sum(exp(part.log_share - peak) for part in found))
        shares = [[part.log_share - total for part in found]]
        weight = Parameter(torch.tensor(shares, dtype=torch.float64))
        return Node(SumLayer(layers, weight), total, scope)

    def smooth(self, part: Node, scope: int) -> Layer:
        """The same beside the variables of a scope that it does not name, which are free.

        Raises:
            StructureError: if too many were added in all.
        """
        gap = scope & ~part.scope
        if gap == 0 and part.layer is not None:
            return part.layer
        key = part.layer, gap
        if key not in self._smooth:
            self._added += gap.bit_count()
            if self._added > MOST_FREE:
                raise StructureError(f"to be smooth it needs more than {MOST_FREE:,} more factors")
            self._smooth[key] = self._beside(part.layer, [self.free(v) for v in positions(gap)])
        return self._smooth[key]

    def free(self, variable: int) -> InputLayer:
        """A variable that may be 0 or 1."""
        if variable not in self._free:
            logits = {"logits": self._fair}
            self._free[variable] = InputLayer(variable, Bernoulli(), parameters=logits)
        return self._free[variable]

    def circuit(self, root: Node) -> Circuit:
        """The uniform distribution over the models.

        Raises:
            NotDecomposable: if conjuncts share a variable.
            NotDeterministic: if disjuncts are not proved to exclude one another.
        """
        circuit = Circuit(self.smooth(root, (1 << self.num_variables) - 1))
        circuit.properties.require(Deterministic)
        return circuit

    def _beside(self, layer: Layer | None, free: Sequence[Layer]) -> Layer:
        layers = [*free] if layer is None else [layer, *free]
        return layers[0] if len(layers) == 1 else ProductLayer(layers)

    def _named(self, parts: Sequence[Node]) -> int:
        """The variables that parts name."""
        scope = reduce(or_, (part.scope for part in parts), 0)
        self._bits += scope.bit_length()
        if self._bits > MOST_BITS:
            raise StructureError(f"its scopes take more than {MOST_BITS:,} bits")
        return scope
