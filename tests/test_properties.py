"""Certificates: laws of determinism against enumeration, completeness, what is printed, size.

Laws of splits and compatibility, and near misses, are in test_laws_structure.py.

With many examples: PCFLOW_EXAMPLES=10000 pytest tests/test_properties.py -k enumeration
Legend: S states, K units.
"""

from collections.abc import Callable
from itertools import chain, combinations, product

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

import pcflow as pf
from pcflow.circuit import Layer, required_by
from pcflow.circuit.properties import PROOFS, Decision
from pcflow.circuit.supports import Supports
from pcflow.testing import (
    broken,
    circuits,
    compatible_circuits,
    count_active_inputs,
    enumerate_states,
    enumerate_support,
    mixed_families,
)
from pcflow.testing.by_property import PROPERTIES

SETS_OF_PROPERTIES = [some for n in range(1, 4) for some in combinations(PROPERTIES, n)]
DETERMINISTIC = circuits(properties=["deterministic"])
EITHER = circuits() | DETERMINISTIC


def test_products_of_crossing_splits_are_told_apart_pair_by_pair() -> None:
    """No variable tells all three apart, and no two split their variables alike."""

    def over(alone: int, **known: int) -> Layer:
        inputs = [
            pf.InputLayer(v, pf.Indicator(known[f"v{v}"], 2)) if f"v{v}" in known else leaf(v)
            for v in range(3)
        ]
        return pf.ProductLayer([inputs.pop(alone), pf.ProductLayer(inputs)])

    three = [over(0, v0=0, v2=0), over(2, v0=1, v1=0), over(1, v1=1, v2=1)]
    proof = pf.prove_deterministic(pf.Circuit(pf.SumLayer.random(three)))
    assert list(proof.decisions.values()) == [Decision(None)]


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


def parity(variables: int, start: int = 0) -> pf.SumLayer:
    """Two units: even and odd numbers of ones; nothing but both variables' values decides."""
    below: Layer = pf.InputLayer(start, pf.Indicator([0, 1]), units=2)
    for v in range(start + 1, start + variables):
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


@given(circuits(max_variables=4, properties=["deterministic"]))
def test_a_family_is_of_units_that_all_exclude_each_other(circuit: pf.Circuit) -> None:
    """Of units whose pairs exclude each other some are found by sets, and none by sets alone."""
    supports, support = Supports(circuit), enumerate_support(circuit)
    for layer in circuit.layers:
        supports.visit(layer)
    units = [(layer, k) for layer in circuit.layers for k in range(layer.units)][:12]
    for some in chain(combinations(units, 2), combinations(units, 3)):
        scopes = {circuit.scopes[layer] for layer, _ in some}
        if len(scopes) == 1 and supports.are_family(some):
            for (a, i), (b, j) in combinations(some, 2):
                assert not (support[a][:, i] & support[b][:, j]).any()
                assert supports.exclude((a, i), (b, j))


def test_a_family_is_found_below_sums() -> None:
    """Those of an even and of an odd number of ones, however many variables there are."""
    circuit = pf.Circuit(weighted(parity(9), [0.5, 0.5]))
    supports = Supports(circuit)
    for layer in circuit.layers:
        supports.visit(layer)
    (pair,) = circuit.root.inputs
    assert supports.are_family([(pair, 0), (pair, 1)])
    assert not supports.are_family([(pair, 0), (pair, 0)])


def test_a_family_may_share_a_factor_where_another_tells_apart() -> None:
    low, high = parity(2), parity(2, start=2)
    a, c = weighted(low, [1.0, 0.0]), weighted(low, [0.0, 1.0])
    x, y, again = (weighted(high, odds) for odds in ([1.0, 0.0], [0.0, 1.0], [1.0, 0.0]))
    for pairs, wanted in (
        ([(a, x), (a, y), (c, x)], True),
        ([(a, x), (a, y), (c, x), (c, y)], True),
        ([(a, x), (a, again), (c, y)], False),
        ([(a, x), (a, x), (c, y)], False),
    ):
        circuit = pf.Circuit(mix(*(times(*pair) for pair in pairs)))
        supports = Supports(circuit)
        for layer in circuit.layers:
            supports.visit(layer)
        assert supports.are_family([(layer, 0) for layer in circuit.root.inputs]) == wanted


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


def test_parts_are_told_apart_in_whichever_order_they_are_multiplied() -> None:
    even, odd = ([1.0, 0.0], [0.0, 1.0])
    both = parity(2)
    inputs = times(weighted(both, even), leaf(2)), times(leaf(2), weighted(both, odd))
    root = mix(*inputs)
    assert pf.prove_deterministic(pf.Circuit(root)).decisions[root, 0] == Decision(None)
    cells = pf.ProductLayer([leaf(0, units=2), leaf(1, units=3)], "kronecker")
    assert cells.factors(5) == [(cells.inputs[0], 1), (cells.inputs[1], 2)]


def test_a_sum_has_the_values_of_all_its_inputs() -> None:
    ends = weighted(among(0, {0}, {1}, {2}), [0.5, 0.5, 0.0])
    root = mix(ends, among(0, {2}))
    found = pf.prove_deterministic(pf.Circuit(root)).decisions[root, 0]
    assert str(found) == "variable 0: {0, 1} | {2}"


def test_a_weight_that_is_nearly_zero_is_not_zero() -> None:
    faint = pf.SumLayer([leaf(0, units=2)], pf.Parameter(torch.tensor([[0.0, -1e35]])))
    with pytest.raises(pf.NotDeterministic):
        pf.prove_deterministic(pf.Circuit(faint))


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
    assert pf.prove_omni_compatible(pf.Circuit(mix(*rows))) == pf.OmniCompatible(2)


def test_certificates_of_large_circuits_are_short() -> None:
    for variables, shown in ((39, f"({', '.join(map(str, range(39)))})"), (40, "of 41 scopes")):
        flat = pf.build_circuit(pf.structure.fully_factorized(variables), pf.Bernoulli())
        certificate = pf.prove_structured_decomposable(flat)
        assert str(certificate) == f"structured-decomposable: vtree {shown}"
        assert repr(certificate) == f"StructuredDecomposable(num_scopes={variables + 1})"
    assert repr(pf.prove_deterministic(flat)) == "Deterministic()"
    assert pf.is_deterministic(flat) is True
    assert pf.is_deterministic(pf.Circuit(mix(leaf(0), leaf(0)))) is False


def test_a_query_that_needs_a_property_says_so() -> None:
    refuse = pf.Circuit(mix(leaf(0), leaf(0)))
    with pytest.raises(pf.NotDeterministic) as refused, required_by("entropy", "sample"):
        pf.prove_deterministic(refuse)
    text = str(refused.value)
    assert text.startswith("entropy needs a property that the circuit lacks: not deterministic: ")
    assert text.endswith("; without it: sample")
    with pytest.raises(pf.NotDeterministic, match=r"tell apart$"), required_by("entropy"):
        pf.prove_deterministic(refuse)


@given(circuits())
def test_a_property_is_proved_once_whether_it_holds_or_not(circuit: pf.Circuit) -> None:
    asked: list[type] = []

    def counted(kind: type, prove: Callable[[pf.Circuit], object]) -> Callable[..., object]:
        def proof(of: pf.Circuit) -> object:
            asked.append(kind)
            return prove(of)

        return proof

    with pytest.MonkeyPatch.context() as patch:
        for kind, prove in PROOFS.items():
            patch.setitem(PROOFS, kind, counted(kind, prove))
        for _ in range(2):
            printed = str(circuit.properties).splitlines()
            pf.is_deterministic(circuit)
            for line, kind in zip(printed[2:], PROOFS, strict=True):
                try:
                    told = circuit.properties.require(kind)  # type: ignore[type-var]
                except pf.PropertyRequired as refusal:
                    told = refusal
                assert str(told) == line
    assert asked == list(PROOFS)


def test_a_refusal_that_is_kept_is_never_changed() -> None:
    refuse = pf.Circuit(mix(leaf(0), leaf(0)))
    refusals = []
    for query in (pf.entropy, pf.entropy, lambda c: pf.power(c, 0.5)):
        with pytest.raises(pf.NotDeterministic) as refused:
            query(refuse)
        refusals.append(refused.value)
    assert str(refusals[0]) == str(refusals[1]) and refusals[0] is not refusals[1]
    assert str(refusals[2]).startswith("power(0.5) needs a property")
    assert all(refusal.layer is refuse.root for refusal in refusals)
    assert str(refuse.properties).splitlines()[3].startswith("not deterministic: unit 0")


# Size


def test_long_chains_are_proved_without_recursion() -> None:
    length = 1_500
    chain_of = pf.hmm(length, states=2, inputs=pf.Bernoulli())
    found = pf.prove_structured_decomposable(chain_of)
    assert str(found) == "structured-decomposable: vtree of 2,999 scopes"
    assert pf.prove_compatible(chain_of, chain_of).pairs == 3 * length - 1
    assert not pf.is_deterministic(chain_of)
    even_or_odd = pf.Circuit(weighted(parity(length), [0.5, 0.5]))
    decided = pf.prove_deterministic(even_or_odd)
    assert len(decided.decisions) == 2 * (length - 1) + 1
    assert decided.decisions[even_or_odd.root, 0] == Decision(None)  # type: ignore[index]
