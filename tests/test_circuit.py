"""The representation: what is refused, with which witness; ties; sizes; builders; determinism."""

import copy
from pathlib import Path

import networkx as nx
import pytest
import torch
from families import FAMILIES
from hypothesis import given
from hypothesis import strategies as st

import pcflow as pf
from pcflow.testing import circuits

BIT = pf.Bernoulli()


def bit(variable: int, units: int = 1) -> pf.InputLayer:
    return pf.InputLayer.random(variable, BIT, units)


def test_a_sum_over_other_variables_is_not_smooth() -> None:
    layer = pf.SumLayer.random([bit(0), bit(1)])
    with pytest.raises(pf.NotSmooth, match=r"\{0\} and \{1\}") as refused:
        pf.Circuit(layer)
    assert refused.value.layer is layer
    assert refused.value.scopes == ((0,), (1,))


def test_a_product_that_reads_a_layer_twice_is_not_decomposable() -> None:
    twice = bit(0)
    layer = pf.ProductLayer([twice, twice])
    with pytest.raises(pf.NotDecomposable, match="share variable 0") as refused:
        pf.Circuit(layer)
    assert refused.value.layer is layer


def test_structure_is_proved_deep_down() -> None:
    bad = pf.ProductLayer([bit(1), bit(1)])
    fine = pf.ProductLayer([bad, bit(0)])
    with pytest.raises(pf.NotDecomposable) as refused:
        pf.Circuit(pf.SumLayer.random([fine, fine]))
    assert refused.value.layer is bad


def test_circuits_refuse_gaps_and_disagreements() -> None:
    with pytest.raises(pf.StructureError, match=r"0..2, but 1 is in no input"):
        pf.Circuit(pf.ProductLayer([bit(0), bit(2)]))
    with pytest.raises(pf.StructureError, match="one unit"):
        pf.Circuit(bit(0, units=2))
    three = pf.InputLayer.random(0, pf.Categorical(3))
    with pytest.raises(pf.StructureError, match=r"variable 0 has 2 categories .* 3 in another"):
        pf.Circuit(pf.SumLayer.random([bit(0), three]))


def test_layers_refuse_shapes_that_do_not_fit() -> None:
    refused = pf.StructureError
    with pytest.raises(refused, match="needs parameters"):
        pf.InputLayer(0, BIT, 2, {"logits": pf.Parameter(torch.zeros(3))})
    with pytest.raises(refused, match="needs parameters"):
        pf.InputLayer(0, BIT, 1, {"odds": pf.Parameter(torch.zeros(1))})
    with pytest.raises(pf.SettingError, match="variable must be"):
        bit(-1)
    with pytest.raises(refused, match=r"weight must be \[K, 3\], got \(1, 2\)"):
        pf.SumLayer([bit(0, 2), bit(0)], pf.Parameter(torch.zeros(1, 2)))
    with pytest.raises(refused, match="mixing needs inputs of 2 units"):
        pf.SumLayer([bit(0, 2), bit(0, 3)], pf.Parameter(torch.zeros(2, 2)), mixing=True)
    with pytest.raises(refused, match="no weight at all"):
        pf.SumLayer([bit(0)], pf.Parameter(torch.tensor([[-torch.inf]])))
    with pytest.raises(refused, match="at least one input"):
        pf.SumLayer([], pf.Parameter(torch.zeros(1, 0)))
    with pytest.raises(refused, match="at least two inputs"):
        pf.ProductLayer([bit(0)])
    with pytest.raises(refused, match="equal units"):
        pf.ProductLayer([bit(0, 2), bit(1, 3)])
    with pytest.raises(pf.SettingError, match="'outer'"):
        pf.ProductLayer([bit(0), bit(1)], "outer")  # type: ignore[arg-type]
    with pytest.raises(refused, match="NaN"):
        pf.Parameter(torch.tensor([torch.nan]))
    with pytest.raises(refused, match="negative"):
        pf.Parameter.from_probs([[1.5, -0.5]])


def test_a_parameter_is_a_copy() -> None:
    given = torch.zeros(1)
    parameter = pf.Parameter(given)
    given.fill_(5.0)
    assert parameter.value.item() == 0.0
    assert copy.deepcopy(parameter) is parameter


def test_replace_keeps_ties_and_structure() -> None:
    circuit = pf.hmm(4, states=2, inputs=pf.Categorical(3))
    old = circuit.parameters
    new = circuit.replace({old[0]: torch.zeros_like(old[0].value)})
    assert len(new.parameters) == len(old) == 3
    assert (new.parameters[0].value == 0).all()
    assert torch.equal(new.parameters[1].value, old[1].value)
    assert [repr(layer) for layer in new.layers] == [repr(layer) for layer in circuit.layers]
    assert (old[0].value != 0).any()


def test_scopes_are_sorted_and_layers_come_inputs_first() -> None:
    circuit = pf.build_circuit(pf.structure.quad_graph((2, 3)), BIT, units=2)
    place = {layer: i for i, layer in enumerate(circuit.layers)}
    for layer in circuit.layers:
        below = {v for child in layer.inputs for v in circuit.scope(child)}
        assert circuit.scope(layer) == tuple(sorted(below)) or not layer.inputs
        assert all(place[child] < place[layer] for child in layer.inputs)
    assert circuit.scope(circuit.root) == tuple(range(6))


def test_deep_circuits_need_no_recursion() -> None:
    circuit = pf.hmm(1_100, states=1, inputs=BIT)
    assert circuit.num_variables == 1_100
    model = pf.compile(circuit, dtype=torch.float64)
    x = torch.randint(2, (2, 1_100))
    wanted = pf.reference_log_prob(circuit, x)
    torch.testing.assert_close(model.log_prob(x).detach(), wanted, rtol=1e-9, atol=1e-9)
    model.log_prob(x).sum().backward()


@pytest.mark.parametrize(
    ("layer", "weights"),
    [
        ("cp", 2 * 3 * 3 + 3),  # a 3 x 3 sum per part, and the root over 3
        ("tucker", 3 * 9 + 3),  # 3 sums over 3 x 3 products, and the root over 3
    ],
)
def test_sizes_of_built_circuits_by_hand(layer: str, weights: int) -> None:
    graph = pf.structure.chain(2)
    circuit = pf.build_circuit(graph, pf.Categorical(4), units=3, layer=layer)  # type: ignore[arg-type]
    assert sum(p.value.numel() for p in circuit.parameters) == 2 * 4 * 3 + weights


def test_an_hmm_has_one_transition_and_one_emission() -> None:
    tied = pf.hmm(6, states=4, inputs=pf.Categorical(5))
    assert sorted(p.shape for p in tied.parameters) == [(1, 4), (4, 4), (5, 4)]
    free = pf.hmm(6, states=4, inputs=pf.Categorical(5), homogeneous=False)
    assert len(free.parameters) == 1 + 5 + 6


def test_builders_are_reproducible() -> None:
    graph = pf.structure.quad_graph((2, 2))
    for build in (
        lambda g: pf.build_circuit(graph, BIT, units=2, generator=g),
        lambda g: pf.hmm(3, 2, pf.Gaussian(), generator=g),
    ):
        one, two, three = (build(torch.Generator().manual_seed(s)).parameters for s in (1, 1, 2))
        assert all(torch.equal(a.value, b.value) for a, b in zip(one, two, strict=True))
        assert not all(torch.equal(a.value, b.value) for a, b in zip(one, three, strict=True))


def test_builders_refuse_arguments_by_name() -> None:
    graph = pf.structure.chain(3)
    with pytest.raises(pf.SettingError, match="units"):
        pf.build_circuit(graph, BIT, units=0)
    with pytest.raises(pf.SettingError, match="'dense'"):
        pf.build_circuit(graph, BIT, layer="dense")  # type: ignore[arg-type]
    with pytest.raises(pf.StructureError, match="3 variables need as many inputs, got 2"):
        pf.build_circuit(graph, [BIT, BIT])
    with pytest.raises(pf.SettingError, match=r"length|states"):
        pf.hmm(0, 2, BIT)
    with pytest.raises(pf.StructureError, match="same input family"):
        pf.hmm(2, 2, [BIT, pf.Categorical(3)])


def test_determinism_is_proved_from_zeros_only() -> None:
    literals = [pf.InputLayer(0, pf.Indicator(v)) for v in (0, 1)]
    weight = pf.Parameter(torch.zeros(1, 2))
    assert pf.is_deterministic(pf.Circuit(pf.SumLayer(literals, weight)))
    assert not pf.is_deterministic(pf.Circuit(pf.SumLayer([bit(0), bit(0)], weight)))
    certain = pf.InputLayer(0, BIT, 1, {"logits": pf.Parameter(torch.tensor([torch.inf]))})
    never = pf.InputLayer(0, BIT, 1, {"logits": pf.Parameter(torch.tensor([-torch.inf]))})
    assert pf.is_deterministic(pf.Circuit(pf.SumLayer([certain, never], weight)))
    assert not pf.is_deterministic(pf.Circuit(pf.SumLayer([certain, certain], weight)))
    one = pf.Parameter.from_probs([[1.0, 0.0]])
    assert pf.is_deterministic(pf.Circuit(pf.SumLayer([bit(0), bit(0)], one)))


@given(circuits())
def test_the_graph_is_what_layers_read(circuit: pf.Circuit) -> None:
    graph = circuit.to_networkx()
    assert set(graph) == set(circuit.layers)
    assert nx.is_directed_acyclic_graph(graph)
    assert nx.descendants(graph, circuit.root) | {circuit.root} == set(circuit.layers)
    for layer in circuit.layers:
        assert set(graph.successors(layer)) == set(layer.inputs)


# Numbers


def layer_with(family: pf.InputFamily, name: str, number: float, units: int = 3) -> pf.InputLayer:
    """Units of a family, of which the second has one number of a parameter replaced."""
    initial = family.initial(units, torch.Generator().manual_seed(0))
    named = {n: value.double() for n, value in initial.items()}
    named[name][..., 1].view(-1)[:1].fill_(number)
    return pf.InputLayer(0, family, units, {n: pf.Parameter(v) for n, v in named.items()})


DENSITIES = ("Exponential", "Gaussian", "Inflated", "LogNormal", "Poisson")


@pytest.mark.parametrize("number", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: type(family).__name__)
def test_units_of_numbers_that_make_no_distribution_are_refused(
    family: pf.InputFamily, number: float, tmp_path: Path
) -> None:
    kind = type(family).__name__
    never = kind in DENSITIES or number != number or (kind == "Categorical" and number > 0)
    for name in family.parameter_shapes(3):
        if never:
            with pytest.raises(pf.StructureError, match=r"unit 1 is no distribution|NaN"):
                layer_with(family, name, number)
        elif kind in ("Bernoulli", "Categorical", "Histogram") and number < 0:  # a hard zero
            model = pf.compile(pf.Circuit(pf.SumLayer.random([layer_with(family, name, number)])))
            pf.save(model, tmp_path / "kept")
            assert pf.load(tmp_path / "kept").num_variables == 1


@given(st.sampled_from(FAMILIES), st.floats(allow_nan=False), st.data())
def test_what_is_built_can_be_evaluated_whatever_its_numbers(
    family: pf.InputFamily, number: float, data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(sorted(family.parameter_shapes(3))))
    try:
        layer = layer_with(family, name, number)
    except pf.StructureError as refusal:
        assert "unit 1 is no distribution with" in str(refusal)
        assert abs(number) > 40  # unconstrained: moderate numbers are right for every family
        return
    circuit = pf.Circuit(pf.SumLayer.random([layer]))
    values = torch.tensor([[torch.nan], [0.0], [1.0]], dtype=torch.float64)
    found = pf.reference_log_prob(circuit, values)
    assert not found.isnan().any()
    assert found[0].item() == pytest.approx(0.0, abs=1e-2)
    assert pf.compile(circuit, dtype=torch.float64).mpe(values[:1]).log_value.isfinite().all()


def test_units_without_any_mass_are_refused() -> None:
    logits = pf.Parameter(torch.tensor([[0.0, -torch.inf], [1.0, -torch.inf]]))
    for family in (pf.Categorical(2), pf.Histogram([0.0, 1.0, 2.0])):
        with pytest.raises(pf.StructureError, match="unit 1 is no distribution"):
            pf.InputLayer(0, family, 2, {"logits": logits})
    with pytest.raises(pf.StructureError, match=r"\+inf or has no weight"):
        pf.SumLayer([bit(0)], pf.Parameter(torch.tensor([[torch.inf], [0.0]])))


def test_numbers_of_tied_parameters_are_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looked = []
    check = pf.Categorical.is_proper
    monkeypatch.setattr(
        pf.Categorical, "is_proper", lambda self, p: (looked.append(1), check(self, p))[1]
    )
    shared = {"logits": pf.Parameter(torch.tensor([[0.0], [-torch.inf]]))}
    layers = [pf.InputLayer(v, pf.Categorical(2), 1, shared) for v in range(5)]
    pf.Circuit(pf.ProductLayer(layers)).replace({})
    assert len(looked) == 1
    moderate = {"logits": pf.Parameter(torch.zeros(2, 1))}
    pf.InputLayer(0, pf.Categorical(2), 1, moderate)
    assert len(looked) == 1


@pytest.mark.parametrize(
    "value", [torch.tensor([[1]]), torch.tensor([[True]]), torch.zeros(1, 1) * 1j]
)
def test_parameters_are_of_real_numbers(value: torch.Tensor) -> None:
    with pytest.raises(pf.TypeMismatch, match="value must be"):
        pf.Parameter(value)
