"""Laws of how circuits split variables: near misses and their witnesses, vtrees, compatibility."""

from functools import cache
from itertools import chain, combinations, product

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import pcflow as pf
from pcflow.circuit import Layer, Part, walk
from pcflow.circuit.scopes import Scopes
from pcflow.structure import Region
from pcflow.testing import (
    broken,
    circuits,
    compatible_circuits,
    region_graphs,
)

STRUCTURED = circuits(properties=["structured_decomposable"])


def leaf(variable: int, units: int = 1) -> pf.InputLayer:
    return pf.InputLayer.random(variable, pf.Bernoulli(), units)


def mix(*layers: Layer) -> pf.SumLayer:
    return pf.SumLayer.random(layers)


def times(*layers: Layer) -> pf.ProductLayer:
    return pf.ProductLayer(layers)


# Near misses


@given(broken("smooth"))
def test_not_smooth_is_refused_with_scopes_that_differ(root: Layer) -> None:
    with pytest.raises(pf.NotSmooth) as refused:
        pf.Circuit(root)
    assert isinstance(refused.value.layer, pf.SumLayer)
    wanted = [tuple(sorted(variables(child))) for child in refused.value.layer.inputs]
    assert list(refused.value.scopes) == wanted
    assert len(set(wanted)) > 1


@given(broken("decomposable"))
def test_not_decomposable_is_refused_with_scopes_that_overlap(root: Layer) -> None:
    with pytest.raises(pf.NotDecomposable) as refused:
        pf.Circuit(root)
    assert isinstance(refused.value.layer, pf.ProductLayer)
    wanted = [variables(child) for child in refused.value.layer.inputs]
    assert [set(scope) for scope in refused.value.scopes] == wanted
    assert any(a & b for a, b in combinations(wanted, 2))


@given(broken("structured_decomposable"))
def test_not_structured_is_refused_with_scopes_that_cross(circuit: pf.Circuit) -> None:
    with pytest.raises(pf.NotStructuredDecomposable, match="cross") as refused:
        pf.prove_structured_decomposable(circuit)
    scopes = [variables(layer) for layer in refused.value.layers]  # type: ignore[arg-type]
    assert [set(scope) for scope in refused.value.scopes] == scopes
    assert cross(*scopes)
    assert set(refused.value.layers) <= set(circuit.layers)


@given(broken("omni_compatible"))
def test_not_omni_compatible_is_refused_and_some_circuit_does_not_fit(circuit: pf.Circuit) -> None:
    with pytest.raises(pf.NotOmniCompatible) as refused:
        pf.prove_omni_compatible(circuit)
    assert isinstance(refused.value.layer, pf.ProductLayer)
    wanted = [variables(child) for child in refused.value.layer.inputs]
    assert [set(scope) for scope in refused.value.scopes] == wanted
    assert any(len(scope) > 1 for scope in wanted)
    order = range(circuit.num_variables)
    others = [times(leaf(c), times(*(leaf(v) for v in order if v != c))) for c in order]
    assert not all(brute_compatible((circuit.root,), (other,)) for other in others)


@given(st.lists(st.sets(st.integers(0, 7), min_size=1), min_size=2, max_size=4))
def test_a_product_of_any_scopes_is_over_their_union_or_refused(parts: list[set[int]]) -> None:
    leaves = [leaf(v) for v in range(8)]

    def over(some: set[int]) -> Layer:
        return times(*(leaves[v] for v in some)) if len(some) > 1 else leaves[min(some)]

    union, factors = set().union(*parts), [over(part) for part in parts]
    product, whole = times(*factors), over(union)
    if len(union) < sum(map(len, parts)):
        with pytest.raises(pf.NotDecomposable) as refused:
            Scopes([*leaves, *factors, product])
        assert [set(scope) for scope in refused.value.scopes] == parts
        return
    scopes = Scopes([*leaves, *factors, product, whole])
    assert scopes.variables(scopes[product]) == tuple(sorted(union))
    assert scopes[product] == scopes[whole]


@given(broken("compatible"))
def test_not_compatible_is_refused_with_layers_that_split_in_ways_that_cross(
    pair: tuple[pf.Circuit, pf.Circuit],
) -> None:
    for a, b in (pair, pair[::-1]):
        with pytest.raises(pf.NotCompatible) as refused:
            pf.prove_compatible(a, b)
        here, there = ([set(scope) for scope in scopes] for scopes in refused.value.scopes)
        for layer, scopes in zip(refused.value.layers, (here, there), strict=True):
            children = layer.inputs if len(scopes) > 1 else [layer]
            assert scopes == [variables(child) for child in children]
        if set().union(*here) == set().union(*there):
            assert any(cross(x, y) for x in here for y in there)
        else:
            assert refused.value.layers == (a.root, b.root)


@cache
def variables(layer: Layer) -> set[int]:
    """The scope of a layer, written out again from the definition."""
    if isinstance(layer, pf.InputLayer):
        return {layer.variable}
    return set().union(*(variables(child) for child in layer.inputs))


def cross(a: set[int], b: set[int]) -> bool:
    return bool(a & b and a - b and b - a)


# Vtrees


@given(circuits() | STRUCTURED)
def test_structured_means_that_no_two_scopes_cross(circuit: pf.Circuit) -> None:
    scopes = {frozenset(variables(layer)) for layer in circuit.layers}
    nest = not any(cross(set(a), set(b)) for a, b in combinations(scopes, 2))
    assert nest == (circuit.properties.structured_decomposable is not None)


@given(circuits() | STRUCTURED)
def test_products_split_along_the_vtree(circuit: pf.Circuit) -> None:
    certificate = circuit.properties.structured_decomposable
    assume(certificate is not None)
    assert certificate is not None
    vtree = certificate.vtree
    scopes = {Region(variables(layer)) for layer in circuit.layers}
    assert set(vtree.regions) == scopes
    assert certificate.num_scopes == len(scopes)
    assert {len(region) for region in vtree.leaves} == {1}
    assert all(len(vtree.splits(region)) < 2 for region in vtree.regions)
    for layer in circuit.layers:
        if isinstance(layer, pf.ProductLayer):
            (split,) = vtree.splits(Region(variables(layer)))
            for child in layer.inputs:
                inside = [variables(child) <= set(part.variables) for part in split.parts]
                assert inside.count(True) == 1


@given(circuits() | STRUCTURED)
def test_a_circuit_built_on_the_vtree_is_compatible(circuit: pf.Circuit) -> None:
    certificate = circuit.properties.structured_decomposable
    assume(certificate is not None)
    assert certificate is not None
    families = [pf.Categorical(n or 0) for n in circuit.num_categories]
    built = pf.build_circuit(certificate.vtree, families, units=2)
    pf.prove_compatible(circuit, built)
    pf.prove_compatible(built, circuit)


def test_a_vtree_by_hand() -> None:
    """{0, 2} is met after 0, 1, 2 and so no interval; {3, 4} hangs below a product of three."""
    flat = times(leaf(0), leaf(1), leaf(2))
    nested = times(leaf(1), times(leaf(2), leaf(0)))
    circuit = pf.Circuit(times(mix(flat, nested), times(leaf(3), leaf(4)), leaf(5)))
    found = pf.prove_structured_decomposable(circuit)
    assert found.num_scopes == 10
    assert str(found) == "structured-decomposable: vtree (((0, 2), 1), (3, 4), 5)"
    crossing = pf.Circuit(
        times(mix(flat, nested, times(times(leaf(1), leaf(2)), leaf(0))), leaf(3))
    )
    with pytest.raises(pf.NotStructuredDecomposable) as refused:
        pf.prove_structured_decomposable(crossing)
    assert set(refused.value.scopes) == {(0, 2), (1, 2)}


# Compatibility


@cache
def brute_compatible(a: tuple[Layer, ...], b: tuple[Layer, ...]) -> bool:
    """Products of layers, by definition: inputs can be put into two groups of equal scopes,
    which are compatible again (Vergari et al. 2021, Def. 2.5)."""
    if set().union(*map(variables, a)) != set().union(*map(variables, b)):
        return False
    for here, there in ((a, b), (b, a)):
        if len(here) == 1 and isinstance(here[0], pf.SumLayer):
            return all(brute_compatible((x,), there) for x in here[0].inputs)
        if len(here) == 1 and isinstance(here[0], pf.ProductLayer):
            return brute_compatible(here[0].inputs, there)
    if len(a) == 1 or len(b) == 1:
        return len(a) == len(b)
    return any(
        brute_compatible(some_a, some_b) and brute_compatible(rest_a, rest_b)
        for (some_a, rest_a), (some_b, rest_b) in product(in_two(a), in_two(b))
    )


def in_two(layers: tuple[Layer, ...]) -> list[tuple[tuple[Layer, ...], tuple[Layer, ...]]]:
    """All ways to put layers into two groups."""
    places = range(len(layers))
    chosen = (some for n in places[1:] for some in combinations(places, n))
    return [
        (tuple(layers[i] for i in some), tuple(layers[i] for i in places if i not in some))
        for some in chosen
    ]


def proved(a: pf.Circuit, b: pf.Circuit) -> pf.Compatible | None:
    try:
        return pf.prove_compatible(a, b)
    except pf.NotCompatible:
        return None


@st.composite
def pairs(draw: st.DrawFn) -> tuple[pf.Circuit, pf.Circuit]:
    """Two circuits over equally many variables that know nothing of each other."""
    count = draw(st.integers(3, 4))
    graphs = region_graphs(count).filter(lambda graph: graph.num_variables == count)
    a, b = (pf.build_circuit(draw(graphs), pf.Bernoulli()) for _ in range(2))
    return a, b


@given(pairs() | compatible_circuits() | broken("compatible"))
def test_compatible_is_what_the_definition_says_either_way_round(
    pair: tuple[pf.Circuit, pf.Circuit],
) -> None:
    a, b = pair
    assert (proved(a, b) is not None) == brute_compatible((a.root,), (b.root,))
    assert proved(a, b) == proved(b, a)


@given(circuits(5) | circuits(5, properties=["structured_decomposable"]))
def test_structured_means_compatible_with_itself(circuit: pf.Circuit) -> None:
    structured = circuit.properties.structured_decomposable
    assert (structured is not None) == (proved(circuit, circuit) is not None)


@given(circuits(5), st.data())
def test_omni_compatible_means_compatible_with_all(
    circuit: pf.Circuit, data: st.DataObject
) -> None:
    same = circuits(5, properties=["omni_compatible"]).filter(
        lambda other: other.num_variables == circuit.num_variables
    )
    families = [pf.Bernoulli()] * circuit.num_variables
    omni = data.draw(same | st.just(pf.naive_bayes(families, units=2)))
    assert proved(circuit, omni)
    assert proved(omni, circuit)


class Fits:
    """An algebra whose values are the pairs themselves; sees that all it is given fits together."""

    def __init__(self) -> None:
        self.met: list[tuple[Layer, Layer]] = []

    def pair(self, a: Layer, b: Layer) -> tuple[Layer, Layer]:
        assert variables(a) == variables(b)
        self.met.append((a, b))
        return a, b

    def inputs(self, a: pf.InputLayer, b: pf.InputLayer) -> tuple[Layer, Layer]:
        return self.pair(a, b)

    def sums(
        self, a: Layer, b: Layer, grid: list[list[tuple[Layer, Layer]]]
    ) -> tuple[Layer, Layer]:
        assert isinstance(a, pf.SumLayer) or isinstance(b, pf.SumLayer)
        rows, columns = ([*x.inputs] if isinstance(x, pf.SumLayer) else [x] for x in (a, b))
        assert grid == [[(x, y) for y in columns] for x in rows]
        return self.pair(a, b)

    def products(
        self, a: pf.ProductLayer, b: pf.ProductLayer, parts: list[Part[tuple[Layer, Layer]]]
    ) -> tuple[Layer, Layer]:
        for side, whole in enumerate((a, b)):
            places = [part.right if side else part.left for part in parts]
            assert sorted(chain(*places)) == [*range(len(whole.inputs))]
            for some, part in zip(places, parts, strict=True):
                layer = part.value[side]
                inputs = tuple(whole.inputs[i] for i in some)
                assert (layer,) == inputs or layer.inputs == inputs
                assert (layer,) == inputs or getattr(layer, "kind", None) == whole.kind
        return self.pair(a, b)


@given(compatible_circuits(properties=["structured_decomposable"]) | compatible_circuits())
def test_what_is_computed_of_a_pair_is_given_what_became_of_the_pairs_below(
    pair: tuple[pf.Circuit, pf.Circuit],
) -> None:
    fits = Fits()
    assert walk(*pair, fits) == (pair[0].root, pair[1].root)
    assert len(set(fits.met)) == len(fits.met) == pf.prove_compatible(*pair).pairs


def test_groups_multiply_as_the_product_that_they_are_part_of() -> None:
    """The same three inputs, unit by unit and in all combinations, against a nested product."""
    inputs = [leaf(v, units=2) for v in range(3)]
    flat = pf.ProductLayer(inputs), pf.ProductLayer(inputs, "kronecker")
    nested = times(times(leaf(0), leaf(1)), leaf(2))
    fits = Fits()
    walk(pf.Circuit(mix(*flat)), pf.Circuit(nested), fits)
    groups = {repr(a) for a, b in fits.met if b is nested.inputs[0]}
    assert groups == {
        "ProductLayer(hadamard, 2 inputs, 2 units)",
        "ProductLayer(kronecker, 2 inputs, 4 units)",
    }


def test_pairs_are_counted_by_hand() -> None:
    """Both orders: root and root, two times inputs; nested against flat: a group in between."""
    a, b = (pf.Circuit(times(leaf(x), leaf(1 - x))) for x in (0, 1))
    assert pf.prove_compatible(a, b) == pf.Compatible(3)
    nested = pf.Circuit(times(leaf(2), times(leaf(0), leaf(1))))
    flat = pf.Circuit(times(leaf(0), leaf(2), leaf(1)))
    assert str(pf.prove_compatible(nested, flat)) == "compatible: 5 pairs of layers meet"
    below = times(leaf(0), leaf(1)), leaf(2)
    both = pf.Circuit(mix(times(*below), times(*reversed(below))))
    grouped = pf.prove_compatible(both, flat)  # root, two products; one group and inputs once
    assert grouped == pf.Compatible(1 + 2 + 1 + 3)
    shared = leaf(0)
    twice = pf.Circuit(mix(shared, shared))
    assert pf.prove_compatible(twice, twice) == pf.Compatible(2)


def test_groups_on_both_sides_by_hand() -> None:
    """01|2|3 against 0|1|23: two groups, one on either side."""
    left = pf.Circuit(times(times(leaf(0), leaf(1)), leaf(2), leaf(3)))
    right = pf.Circuit(times(leaf(0), leaf(1), times(leaf(2), leaf(3))))
    assert pf.prove_compatible(left, right) == pf.Compatible(7)
    assert pf.prove_compatible(right, left) == pf.Compatible(7)


def test_circuits_over_other_variables_are_not_compatible() -> None:
    small, large = pf.Circuit(leaf(0)), pf.Circuit(times(leaf(0), leaf(1)))
    with pytest.raises(pf.NotCompatible, match=r"over \{0\}, .* over \{0, 1\}") as refused:
        pf.prove_compatible(small, large)
    assert refused.value.layers == (small.root, large.root)
