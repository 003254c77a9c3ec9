"""What a circuit is proved to be: every property is a certificate, or a refusal with a witness.

A certificate is a value that only a proof makes. A query that needs a property asks for it at the
door (`circuit.properties.require`), so that what it answers is exact or not answered at all; each
circuit keeps what it was proved, or why not, and no proof is made twice. Proofs look at
structure and at hard zeros, never at other parameter values: they are sound, and a refusal means
"not proved". What each property buys is in Vergari et al. 2021 (arXiv 2102.06137).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from typing import TypeVar

from pcflow.checks import check_kind
from pcflow.circuit.garbage import no_collection
from pcflow.circuit.layers import ProductLayer, SumLayer, Unit
from pcflow.circuit.pairing import CountPairs, Structure, walk
from pcflow.circuit.scopes import Scope, Scopes
from pcflow.circuit.supports import Supports, values_of
from pcflow.errors import (
    NotDeterministic,
    NotOmniCompatible,
    NotStructuredDecomposable,
    PropertyRequired,
)
from pcflow.structure import Partition, Region, RegionGraph


@dataclass(frozen=True)
class Smooth:
    """Every sum mixes units over the same variables: missing values can be summed out.

    Attributes:
        sums: number of sum layers.

    Examples:
        >>> import pcflow as pf
        >>> print(pf.hmm(3, states=2, inputs=pf.Bernoulli()).properties.smooth)
        smooth: 3 sum layers mix inputs of equal scopes
    """

    sums: int

    def __str__(self) -> str:
        """One line."""
        return f"smooth: {self.sums} sum layers mix inputs of equal scopes"


@dataclass(frozen=True)
class Decomposable:
    """Every product multiplies units over different variables: sums move past products.

    Attributes:
        products: number of product layers.

    Examples:
        >>> import pcflow as pf
        >>> print(pf.hmm(3, states=2, inputs=pf.Bernoulli()).properties.decomposable)
        decomposable: 2 product layers multiply inputs of disjoint scopes
    """

    products: int

    def __str__(self) -> str:
        """One line."""
        return f"decomposable: {self.products} product layers multiply inputs of disjoint scopes"


@dataclass(frozen=True, eq=False)
class StructuredDecomposable:
    """All products split variables along one tree, the vtree: the circuit can be squared.

    Attributes:
        num_scopes: number of different scopes, which all nest.

    Examples:
        >>> import pcflow as pf
        >>> print(pf.hmm(3, states=2, inputs=pf.Bernoulli()).properties.structured_decomposable)
        structured-decomposable: vtree (0, (1, 2))
    """

    num_scopes: int
    _parts: Mapping[Scope, list[Scope]] = field(repr=False)
    _scopes: Scopes = field(repr=False)

    @cached_property
    def vtree(self) -> RegionGraph:
        """The tree, as a region graph: a circuit built on it is compatible with this one."""
        region = {scope: Region(self._scopes.variables(scope)) for scope in self._parts}
        splits = ((region[s], tuple(region[p] for p in parts)) for s, parts in self._parts.items())
        partitions = [Partition(whole, parts) for whole, parts in splits if parts]
        return RegionGraph(max(region.values(), key=len), partitions)

    def __str__(self) -> str:
        """One line, with the vtree if it is small."""
        shown = _nested(self.vtree) if self.num_scopes <= 40 else f"of {self.num_scopes:,} scopes"
        return f"structured-decomposable: vtree {shown}"


@dataclass(frozen=True)
class Decision:
    """How a sum unit chooses among its inputs.

    Attributes:
        variable: the variable whose value decides; None if no single one does, and every two
            inputs exclude each other by what they inherit from the units below.
        values: for every input of weight above zero, the values of the variable that choose it.
    """

    variable: int | None
    values: tuple[tuple[int, ...], ...] = ()

    def __str__(self) -> str:
        """For example: variable 3: {0} | {1, 2}."""
        if self.variable is None:
            return "inherited from the units below"
        sets = ("{" + ", ".join(map(str, some)) + "}" for some in self.values)
        return f"variable {self.variable}: {' | '.join(sets)}"


@dataclass(frozen=True, eq=False)
class Deterministic:
    """At every sum unit, at most one input is positive: maxima and logarithms move past sums.

    Attributes:
        decisions: for every sum layer and unit with several inputs, how it chooses.

    Examples:
        >>> import pcflow as pf
        >>> circuit, _ = pf.compile_cnf(pf.CNF([[1, 2]], 2))
        >>> print(circuit.properties.deterministic)
        deterministic: sums decide on variable 0: {0} | {1}
    """

    decisions: Mapping[tuple[SumLayer, int], Decision] = field(repr=False)

    def __str__(self) -> str:
        """One line, with the first few decisions."""
        if not self.decisions:
            return "deterministic: no sum has two inputs to choose from"
        shown = [str(decision) for decision in list(self.decisions.values())[:3]]
        rest = len(self.decisions) - len(shown)
        more = f"; and {rest:,} more" if rest else ""
        return f"deterministic: sums decide on {'; '.join(shown)}{more}"


@dataclass(frozen=True)
class Compatible:
    """Two circuits split variables in ways that nest: their product is a circuit.

    Attributes:
        pairs: number of pairs of layers that the product has.

    Examples:
        >>> import pcflow as pf
        >>> chain = pf.hmm(3, states=2, inputs=pf.Bernoulli())
        >>> print(pf.prove_compatible(chain, chain))
        compatible: 8 pairs of layers meet
    """

    pairs: int

    def __str__(self) -> str:
        """One line."""
        return f"compatible: {self.pairs} pairs of layers meet"


@dataclass(frozen=True)
class OmniCompatible:
    """Products split variables one by one: compatible with every circuit over the same variables.

    Attributes:
        products: number of product layers.

    Examples:
        >>> import pcflow as pf
        >>> table = pf.naive_bayes([pf.Bernoulli(), pf.Gaussian()], units=2)
        >>> print(table.properties.omni_compatible)
        omni-compatible: products split variables one by one
    """

    products: int

    def __str__(self) -> str:
        """One line."""
        return "omni-compatible: products split variables one by one"


@no_collection()
def prove_structured_decomposable(circuit: Structure) -> StructuredDecomposable:
    """The certificate that all products split variables along one vtree.

    Any two scopes must nest or be disjoint (Pipatsrisawat and Darwiche 2008). The vtree may have
    nodes of more than two parts.

    Args:
        circuit: the circuit.

    Returns:
        The certificate: a vtree.

    Raises:
        NotStructuredDecomposable: naming two scopes that cross.

    Examples:
        >>> import pcflow as pf
        >>> print(prove_structured_decomposable(pf.hmm(3, states=2, inputs=pf.Bernoulli())))
        structured-decomposable: vtree (0, (1, 2))
    """
    check_kind("circuit", circuit, Structure, "a Circuit")
    scopes = dict.fromkeys(circuit.scopes[layer] for layer in circuit.layers)
    crossing, parts = _nest(list(scopes))
    if crossing is not None:
        owners = [next(la for la in circuit.layers if circuit.scopes[la] == s) for s in crossing]
        raise NotStructuredDecomposable(owners, [circuit.scopes.variables(s) for s in crossing])
    return StructuredDecomposable(len(scopes), parts, circuit.scopes)


@no_collection()
def prove_deterministic(circuit: Structure) -> Deterministic:
    """The certificate that every sum unit has at most one positive input for any full assignment.

    Any two inputs of non-zero weight must exclude each other: by the values that are possible for
    some variable, or because units below them do (Darwiche 2001; Choi and Darwiche 2017).

    Args:
        circuit: the circuit.

    Returns:
        The certificate: of every sum unit, what it decides on.

    Raises:
        NotDeterministic: naming a sum unit and two of its inputs that are not told apart.

    Examples:
        >>> import pcflow as pf
        >>> either = [pf.InputLayer(0, pf.Indicator(v)) for v in (0, 1)]
        >>> weight = pf.Parameter.from_probs([[0.6, 0.4]])
        >>> print(prove_deterministic(pf.Circuit(pf.SumLayer(either, weight))))
        deterministic: sums decide on variable 0: {0} | {1}
    """
    check_kind("circuit", circuit, Structure, "a Circuit")
    supports = Supports(circuit)
    decisions: dict[tuple[SumLayer, int], Decision] = {}
    for layer in circuit.layers:
        if isinstance(layer, SumLayer):
            for unit in range(layer.units):
                inputs = supports.active(layer, unit)
                if len(inputs) > 1:
                    decisions[layer, unit] = _decide(supports, layer, unit, inputs)
        supports.visit(layer)
    return Deterministic(decisions)


def prove_compatible(p: Structure, q: Structure) -> Compatible:
    """The certificate that the product of two circuits is one again, with pairs of their layers.

    Wherever products over the same variables meet, their splits must nest: inputs of equal scopes,
    in any order, or one input against several that make it up (Vergari et al. 2021).

    Args:
        p: a circuit.
        q: another one, over the same variables.

    Returns:
        The certificate.

    Raises:
        NotCompatible: naming two layers, and the scopes of their inputs.

    Examples:
        >>> import pcflow as pf
        >>> chain = pf.hmm(3, states=2, inputs=pf.Bernoulli())
        >>> print(prove_compatible(chain, pf.naive_bayes([pf.Bernoulli()] * 3, units=2)))
        compatible: 8 pairs of layers meet
    """
    for name, given in (("p", p), ("q", q)):
        check_kind(name, given, Structure, "a Circuit")
    count = CountPairs()
    walk(p, q, count)
    return Compatible(count.pairs)


def prove_omni_compatible(circuit: Structure) -> OmniCompatible:
    """The certificate that a circuit is compatible with every other one over its variables.

    Args:
        circuit: the circuit.

    Returns:
        The certificate.

    Raises:
        NotOmniCompatible: naming a product one of whose inputs has several variables.

    Examples:
        >>> import pcflow as pf
        >>> print(prove_omni_compatible(pf.naive_bayes([pf.Bernoulli()] * 3, units=2)))
        omni-compatible: products split variables one by one
    """
    check_kind("circuit", circuit, Structure, "a Circuit")
    products = [layer for layer in circuit.layers if isinstance(layer, ProductLayer)]
    for layer in products:
        scopes = [circuit.scopes.variables(circuit.scopes[child]) for child in layer.inputs]
        if any(len(scope) > 1 for scope in scopes):
            raise NotOmniCompatible(layer, scopes)
    return OmniCompatible(len(products))


@contextmanager
def required_by(query: str, instead: str = "") -> Iterator[None]:
    """Say in a refusal which query needs the property, and what there is without it."""
    try:
        yield
    except PropertyRequired as refusal:
        named = refusal.named(query, instead)
        raise named.with_traceback(refusal.__traceback__) from None


Certificate = TypeVar(
    "Certificate", Smooth, Decomposable, StructuredDecomposable, Deterministic, OmniCompatible
)


class Properties:
    """What one circuit is proved to be, or why not: each proved once, when first asked for.

    Print it. Attributes are None where there is no certificate; `require` says why.

    Examples:
        >>> import pcflow as pf
        >>> properties = pf.hmm(3, states=2, inputs=pf.Bernoulli()).properties
        >>> print(properties.smooth)
        smooth: 3 sum layers mix inputs of equal scopes
        >>> properties.deterministic is None
        True
    """

    def __init__(self, circuit: Structure) -> None:
        """Nothing is proved yet but what the circuit proved as it was built."""
        self._circuit = circuit
        kinds = [type(layer) for layer in circuit.layers]
        self.smooth = Smooth(kinds.count(SumLayer))
        self.decomposable = Decomposable(kinds.count(ProductLayer))
        self._found: dict[type, object] = {Smooth: self.smooth, Decomposable: self.decomposable}

    @property
    def structured_decomposable(self) -> StructuredDecomposable | None:
        """The certificate of `prove_structured_decomposable`, None if it refuses."""
        return self._certificate(StructuredDecomposable)

    @property
    def deterministic(self) -> Deterministic | None:
        """The certificate of `prove_deterministic`, None if it refuses."""
        return self._certificate(Deterministic)

    @property
    def omni_compatible(self) -> OmniCompatible | None:
        """The certificate of `prove_omni_compatible`, None if it refuses."""
        return self._certificate(OmniCompatible)

    def require(self, kind: type[Certificate]) -> Certificate:
        """The certificate of a kind.

        Args:
            kind: the class of the certificate: `Smooth`, `Deterministic`, ...

        Raises:
            PropertyRequired: if there is none; a refusal of its own each time, so that nobody's
                traceback is kept.

        Examples:
            >>> import pcflow as pf
            >>> pf.hmm(3, states=2, inputs=pf.Bernoulli()).properties.require(Smooth).sums
            3
        """
        found = self._find(kind)
        if isinstance(found, PropertyRequired):
            raise copy(found)
        assert isinstance(found, kind)
        return found

    def _certificate(self, kind: type[Certificate]) -> Certificate | None:
        found = self._find(kind)
        return found if isinstance(found, kind) else None

    def _find(self, kind: type) -> object:
        """The certificate, or the refusal."""
        if kind not in self._found:
            try:
                self._found[kind] = PROOFS[kind](self._circuit)
            except PropertyRequired as refusal:
                self._found[kind] = refusal.with_traceback(None)
        return self._found[kind]

    def __str__(self) -> str:
        """A line for every property: its certificate, or why there is none."""
        return "\n".join(str(self._find(kind)) for kind in (Smooth, Decomposable, *PROOFS))


PROOFS: dict[type, Callable[[Structure], object]] = {
    StructuredDecomposable: prove_structured_decomposable,
    Deterministic: prove_deterministic,
    OmniCompatible: prove_omni_compatible,
}


def _decide(supports: Supports, layer: SumLayer, unit: int, inputs: list[Unit]) -> Decision:
    """How one sum unit chooses among its inputs."""
    variable = supports.decides(inputs)
    if variable is not None:
        masks = (supports.of(one)[variable] for one in inputs)
        return Decision(variable, tuple(values_of(mask) for mask in masks))
    if supports.are_family(inputs):
        return Decision(None)
    for a, b in combinations(inputs, 2):
        if not supports.exclude(a, b):
            raise NotDeterministic(layer, unit, (a, b))
    return Decision(None)


Crossing = tuple[Scope, Scope]


def _nest(scopes: list[Scope]) -> tuple[Crossing | None, dict[Scope, list[Scope]]]:
    """The scopes directly below every scope; or two that cross."""
    parts: dict[Scope, list[Scope]] = {scope: [] for scope in scopes}
    if all(len(scope) == 1 for scope in scopes):
        return _nest_intervals(scopes, parts), parts
    owner: dict[int, Scope] = {}
    for scope in sorted(scopes, key=lambda s: -sum(stop - start for start, stop in s)):
        places = [place for start, stop in scope for place in range(start, stop)]
        above = [owner[place] for place in places if place in owner]
        if len(set(above)) > 1:
            smallest = min(set(above), key=lambda s: sum(stop - start for start, stop in s))
            return (smallest, scope), parts
        if above:
            parts[above[0]].append(scope)
        owner.update(dict.fromkeys(places, scope))
    return None, parts


def _nest_intervals(scopes: list[Scope], parts: dict[Scope, list[Scope]]) -> Crossing | None:
    """The same where every scope is one interval, in one pass from left to right."""
    open_: list[Scope] = []
    for scope in sorted(scopes, key=lambda s: (s[0][0], -s[0][1])):
        start, stop = scope[0]
        while open_ and open_[-1][0][1] <= start:
            open_.pop()
        if open_:
            if stop > open_[-1][0][1]:
                return open_[-1], scope
            parts[open_[-1]].append(scope)
        open_.append(scope)
    return None


def _nested(vtree: RegionGraph) -> str:
    """A small vtree in brackets."""
    shown: dict[Region, str] = {}
    for region in vtree.regions:
        splits = vtree.splits(region)
        parts = [shown[part] for part in splits[0].parts] if splits else map(str, region.variables)
        shown[region] = ", ".join(parts) if not splits else f"({', '.join(parts)})"
    return shown[vtree.root]
