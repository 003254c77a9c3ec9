"""Laws of the properties: certificates against enumeration, refusals against their witnesses.

With many examples: PCFLOW_EXAMPLES=10000 pytest tests/test_properties.py -k enumeration
Legend: S states, K units.
"""

from functools import cache
from itertools import chain, combinations, product

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

import pcflow as pf
from pcflow.layers import Layer
from pcflow.properties import Decision
from pcflow.region_graph import Region
from pcflow.supports import Supports
from pcflow.testing import (
    broken,
    circuits,
    compatible_circuits,
    count_active_inputs,
    enumerate_states,
    enumerate_support,
    mixed_families,
    region_graphs,
)
from pcflow.testing.by_property import PROPERTIES

SETS_OF_PROPERTIES = [some for n in range(1, 4) for some in combinations(PROPERTIES, n)]
STRUCTURED = circuits(properties=["structured_decomposable"])
DETERMINISTIC = circuits(properties=["deterministic"])
EITHER = circuits() | DETERMINISTIC
PROVE = {
    "structured_decomposable": pf.prove_structured_decomposable,
    "deterministic": pf.prove_deterministic,
    "omni_compatible": pf.prove_omni_compatible,
}


def leaf(variable: int, units: int = 1) -> pf.InputLayer:
    return pf.InputLayer.random(variable, pf.Bernoulli(), units)


def literal(variable: int, value: int) -> pf.InputLayer:
    return pf.InputLayer(variable, pf.Indicator(value))


def among(variable: int, *sets: set[int], values: int = 3) -> pf.InputLayer:
    """Input units, each positive at a set of values."""
    logits = torch.full((values, len(sets)), -torch.inf)
    for unit, some in enumerate(sets):
        logits[list(some), unit] = 0.0
    return pf.InputLayer(
        variable, pf.Categorical(values), len(sets), {"logits": pf.Parameter(logits)}
    )


def mix(*layers: Layer) -> pf.SumLayer:
    return pf.SumLayer.random(layers)


def times(*layers: Layer) -> pf.ProductLayer:
    return pf.ProductLayer(layers)


def weighted(layer: Layer, *rows: list[float]) -> pf.SumLayer:
    return pf.SumLayer([layer], pf.Parameter.from_probs(list(rows)))


def parity(variables: int) -> pf.SumLayer:
    """Two units: even and odd numbers of ones; nothing but both variables' values decides."""
    below: Layer = pf.InputLayer(0, pf.Indicator([0, 1]), units=2)
    for v in range(1, variables):
        bit = pf.InputLayer(v, pf.Indicator([0, 1]), units=2)
        cells = pf.ProductLayer([below, bit], "kronecker")
        below = weighted(cells, [0.5, 0, 0, 0.5], [0, 0.5, 0.5, 0])
    assert isinstance(below, pf.SumLayer)
    return below


# Determinism


@given(EITHER)
def test_a_certificate_of_determinism_is_never_contradicted_by_enumeration(
    circuit: pf.Circuit,
) -> None:
    certificate = circuit.properties.deterministic
    if certificate is not None:
        assert count_active_inputs(circuit) <= 1


@given(EITHER)
def test_the_input_that_is_positive_is_the_one_that_a_decision_names(circuit: pf.Circuit) -> None:
    certificate = circuit.properties.deterministic
    assume(certificate is not None)
    assert certificate is not None
    states, support = enumerate_states(circuit), enumerate_support(circuit)
    several = {unit for unit in sum_units(circuit) if len(active_inputs(*unit)) > 1}
    assert certificate.decisions.keys() == several
    for (layer, unit), decision in certificate.decisions.items():
        if decision.variable is None:
            assert decision.values == ()
            continue
        inputs = active_inputs(layer, unit)
        for (child, k), values in zip(inputs, decision.values, strict=True):
            chosen = torch.isin(states[:, decision.variable], torch.tensor(values))
            assert chosen[support[child][:, k]].all()
        listed = list(chain(*decision.values))
        assert len(set(listed)) == len(listed)


@given(circuits(max_variables=4) | circuits(max_variables=4, properties=["deterministic"]))
def test_supports_hold_all_values_with_mass_and_exclusion_is_exclusion(circuit: pf.Circuit) -> None:
    supports, states = Supports(circuit), enumerate_states(circuit)
    support = enumerate_support(circuit)
    for layer in circuit.layers:
        supports.visit(layer)
    units = [(layer, k) for layer in circuit.layers for k in range(layer.units)][:40]
    for layer, k in units:
        for variable, mask in supports.of((layer, k)).items():
            values = states[support[layer][:, k], variable].tolist()
            assert all(mask >> value & 1 for value in values)
    for (a, i), (b, j) in product(units, units):
        if supports.exclude((a, i), (b, j)):
            assert not (support[a][:, i] & support[b][:, j]).any()


def sum_units(circuit: pf.Circuit) -> list[tuple[pf.SumLayer, int]]:
    sums = (layer for layer in circuit.layers if isinstance(layer, pf.SumLayer))
    return [(layer, unit) for layer in sums for unit in range(layer.units)]


def active_inputs(layer: pf.SumLayer, unit: int) -> list[tuple[Layer, int]]:
    """The units that a sum unit reads, written out again from the definition."""
    if layer.mixing:
        inputs = [(child, unit) for child in layer.inputs]
    else:
        inputs = [(child, k) for child in layer.inputs for k in range(child.units)]
    weight = layer.weight.value[unit]
    return [one for one, logit in zip(inputs, weight, strict=True) if logit > -torch.inf]


def test_decisions_on_values_sets_and_by_inheritance() -> None:
    sets = pf.prove_deterministic(pf.Circuit(mix(among(0, {0}, {1, 2}))))
    assert str(sets) == "deterministic: sums decide on variable 0: {0} | {1, 2}"
    assert [*sets.decisions.values()] == [Decision(0, ((0,), (1, 2)))]
    cells = mix(times(literal(0, 0), literal(1, 0)), times(literal(0, 1), literal(1, 0)))
    both = weighted(parity(2), [0.5, 0.5])
    circuit = pf.Circuit(both)
    found = pf.prove_deterministic(circuit)
    assert found.decisions[both, 0] == Decision(None)
    even = (both.inputs[0], 0)
    assert found.decisions[even] == Decision(0, ((0,), (1,)))  # type: ignore[index]
    assert str(found) == (
        "deterministic: sums decide on variable 0: {0} | {1}; variable 0: {0} | {1}; "
        "inherited from the units below"
    )
    assert str(pf.prove_deterministic(pf.Circuit(cells))) == (
        "deterministic: sums decide on variable 0: {0} | {1}"
    )


def test_three_inputs_that_only_exclude_each_other_pairwise() -> None:
    """01*, *01 and 1*0: each two differ somewhere, no variable tells all three apart."""
    free = [leaf(v) for v in range(3)]
    inputs = [
        times(literal(0, 0), literal(1, 1), free[2]),
        times(free[0], literal(1, 0), literal(2, 1)),
        times(literal(0, 1), free[1], literal(2, 0)),
    ]
    found = pf.prove_deterministic(pf.Circuit(mix(*inputs)))
    assert str(found) == "deterministic: sums decide on inherited from the units below"
    with pytest.raises(pf.NotDeterministic) as refused:
        pf.prove_deterministic(pf.Circuit(mix(*inputs, inputs[1])))
    assert refused.value.inputs == ((inputs[1], 0), (inputs[1], 0))


def test_weights_of_zero_and_one_input_need_no_decision() -> None:
    root = weighted(leaf(0, units=2), [0.0, 1.0])
    assert str(pf.prove_deterministic(pf.Circuit(root))) == (
        "deterministic: no sum has two inputs to choose from"
    )


def test_many_decisions_are_counted() -> None:
    found = pf.prove_deterministic(pf.Circuit(weighted(parity(4), [0.5, 0.5])))
    assert str(found).endswith("; and 4 more")
    assert len(found.decisions) == 7


def test_mixing_sums_are_read_unit_by_unit() -> None:
    zero, one = among(0, {0}, {1}), among(0, {1}, {0})
    weight = pf.Parameter(torch.zeros(2, 2))
    crossed = weighted(pf.SumLayer([zero, one], weight, mixing=True), [1.0, 0.0])
    found = pf.prove_deterministic(pf.Circuit(crossed))
    assert [d.values for d in found.decisions.values()] == [((0,), (1,)), ((1,), (0,))]
    with pytest.raises(pf.NotDeterministic, match="unit 0 of"):
        pf.prove_deterministic(
            pf.Circuit(weighted(pf.SumLayer([zero, zero], weight, mixing=True), [1.0, 0.0]))
        )


def test_numbers_that_only_float32_takes_for_zero_are_not_hard_zeros() -> None:
    """The middle one of three values has mass about e^-200, the ends one half each."""
    named = {"mean": torch.tensor([1.0]), "log_scale": torch.tensor([200.0])}
    wide = pf.InputLayer(
        0, pf.DiscretizedLogistic(3), 1, {name: pf.Parameter(p) for name, p in named.items()}
    )
    with pytest.raises(pf.NotDeterministic):
        pf.prove_deterministic(pf.Circuit(mix(wide, pf.InputLayer(0, pf.Indicator(1, 3)))))


def test_densities_are_positive_everywhere() -> None:
    normal = [pf.InputLayer.random(0, pf.Gaussian()) for _ in range(2)]
    with pytest.raises(pf.NotDeterministic):
        pf.prove_deterministic(pf.Circuit(mix(*normal)))
    decided = [times(n, literal(1, v)) for v, n in enumerate(normal)]
    assert pf.is_deterministic(pf.Circuit(mix(*decided)))


# Completeness, as far as promised


@pytest.mark.parametrize("properties", SETS_OF_PROPERTIES)
@given(st.data())
def test_circuits_drawn_with_properties_are_proved_to_have_them(
    properties: tuple[str, ...], data: st.DataObject
) -> None:
    families = data.draw(st.sampled_from([None, mixed_families()]))
    circuit = data.draw(circuits(5, families, properties))  # type: ignore[arg-type]
    proved = circuit.properties
    assert all(getattr(proved, name) is not None for name in properties)
    for name in PROPERTIES:
        assert str(getattr(proved, name) or "not ") in str(proved)


@given(st.sampled_from([(), *SETS_OF_PROPERTIES]), st.data())
def test_pairs_drawn_as_compatible_are_proved_to_be(
    properties: tuple[str, ...], data: st.DataObject
) -> None:
    families = data.draw(st.sampled_from([None, mixed_families()]))
    a, b = data.draw(compatible_circuits(4, families, properties))  # type: ignore[arg-type]
    assert pf.prove_compatible(a, b).pairs >= max(len(a.scope(a.root)), 1)
    assert a.num_categories == b.num_categories
    assert all(getattr(c.properties, name) is not None for c in (a, b) for name in properties)


def test_a_property_that_nobody_knows_is_refused() -> None:
    with pytest.raises(pf.StructureError, match="omni_compatible; got 'smooth'"):
        circuits(properties=["smooth"])  # type: ignore[list-item]
    with pytest.raises(pf.StructureError, match="compatible; got 'small'"):
        broken("small")  # type: ignore[call-overload]


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


@given(broken("deterministic"))
def test_not_deterministic_is_refused_with_two_inputs_positive_at_once(circuit: pf.Circuit) -> None:
    with pytest.raises(pf.NotDeterministic) as refused:
        pf.prove_deterministic(circuit)
    layer, unit, ((a, i), (b, j)) = refused.value.layer, refused.value.unit, refused.value.inputs
    assert isinstance(layer, pf.SumLayer)
    inputs = active_inputs(layer, unit)
    assert inputs.count((a, i)) == 2 if (a, i) == (b, j) else {(a, i), (b, j)} <= set(inputs)
    support = enumerate_support(circuit)
    assert (support[a][:, i] & support[b][:, j]).any()  # type: ignore[index]
    assert count_active_inputs(circuit) >= 2


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


@given(broken("compatible"))
def test_not_compatible_is_refused_with_layers_that_split_in_ways_that_cross(
    pair: tuple[pf.Circuit, pf.Circuit],
) -> None:
    for a, b in (pair, pair[::-1]):
        with pytest.raises(pf.NotCompatible) as refused:
            pf.prove_compatible(a, b)
        here, there = ([set(scope) for scope in scopes] for scopes in refused.value.scopes)
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


def test_pairs_are_counted_by_hand() -> None:
    """Both orders: root and root, two times inputs; nested against flat: a group in between."""
    a, b = (pf.Circuit(times(leaf(x), leaf(1 - x))) for x in (0, 1))
    assert pf.prove_compatible(a, b) == pf.Compatible(3)
    nested = pf.Circuit(times(leaf(2), times(leaf(0), leaf(1))))
    flat = pf.Circuit(times(leaf(0), leaf(2), leaf(1)))
    assert str(pf.prove_compatible(nested, flat)) == "compatible: 5 pairs of layers meet"
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


# What is printed


def test_refusals_by_hand() -> None:
    a, b, c = (leaf(v) for v in range(3))
    ab, bc = times(a, b), times(b, c)
    one, other = times(ab, c), times(a, bc)
    circuit = pf.Circuit(mix(one, other))
    product_text = "ProductLayer(hadamard, 2 inputs, 1 units)"
    assert str(circuit.properties).splitlines() == [
        "smooth: 1 sum layers mix inputs of equal scopes",
        "decomposable: 4 product layers multiply inputs of disjoint scopes",
        f"not structured-decomposable: scopes {{0, 1}} and {{1, 2}}, of {product_text} and "
        f"{product_text}, cross",
        f"not deterministic: unit 0 of SumLayer(2 inputs, 1 units) may add up unit 0 of "
        f"{product_text} and unit 0 of {product_text}, which nothing is proved to tell apart",
        f"not omni-compatible: {product_text} multiplies inputs of scopes {{0, 1}} and {{2}}",
    ]
    assert circuit.properties.structured_decomposable is None
    assert circuit.properties.deterministic is None
    assert circuit.properties.omni_compatible is None
    assert not pf.is_deterministic(circuit)
    with pytest.raises(pf.NotStructuredDecomposable) as crossing:
        pf.prove_structured_decomposable(circuit)
    assert crossing.value.layers == (ab, bc)
    with pytest.raises(pf.NotDeterministic) as undecided:
        pf.prove_deterministic(circuit)
    assert undecided.value.inputs == ((one, 0), (other, 0))
    assert undecided.value.layer is circuit.root
    with pytest.raises(pf.NotOmniCompatible) as nested:
        pf.prove_omni_compatible(circuit)
    assert nested.value.layer is one
    with pytest.raises(pf.NotCompatible) as apart:
        pf.prove_compatible(pf.Circuit(one), pf.Circuit(other))
    assert str(apart.value) == (
        f"not compatible: {product_text} is over {{0, 1}} and {{2}}, {product_text} over "
        "{0} and {1, 2}"
    )


def test_certificates_by_hand() -> None:
    rows = [times(literal(0, v), leaf(1), leaf(2)) for v in (0, 1)]
    assert str(pf.Circuit(mix(*rows)).properties).splitlines() == [
        "smooth: 1 sum layers mix inputs of equal scopes",
        "decomposable: 2 product layers multiply inputs of disjoint scopes",
        "structured-decomposable: vtree (0, 1, 2)",
        "deterministic: sums decide on variable 0: {0} | {1}",
        "omni-compatible: products split variables one by one",
    ]


def test_a_query_that_needs_a_property_says_so() -> None:
    refuse = pf.Circuit(mix(leaf(0), leaf(0)))
    from pcflow.properties import required_by

    with pytest.raises(pf.NotDeterministic) as refused, required_by("entropy", "sample instead"):
        pf.prove_deterministic(refuse)
    text = str(refused.value)
    assert text.startswith("entropy needs a property that the circuit lacks: not deterministic: ")
    assert text.endswith("; sample instead")
    with pytest.raises(pf.NotDeterministic, match=r"tell apart$"), required_by("entropy"):
        pf.prove_deterministic(refuse)


# Size


def test_long_chains_are_proved_without_recursion() -> None:
    length = 20_000
    chain_of = pf.hmm(length, states=2, inputs=pf.Bernoulli())
    found = pf.prove_structured_decomposable(chain_of)
    assert str(found) == "structured-decomposable: vtree of 39,999 scopes"
    assert pf.prove_compatible(chain_of, chain_of).pairs == 3 * length - 1
    assert not pf.is_deterministic(chain_of)
    even_or_odd = pf.Circuit(weighted(parity(length), [0.5, 0.5]))
    decided = pf.prove_deterministic(even_or_odd)
    assert len(decided.decisions) == 2 * (length - 1) + 1
    assert decided.decisions[even_or_odd.root, 0] == Decision(None)  # type: ignore[index]
