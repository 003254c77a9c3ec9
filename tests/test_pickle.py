"""Circuits, their parts and what is proved of them travel: by pickle, to a copy, to a process."""

import copy
import pickle

import pytest
import torch
from hypothesis import given

import pcflow as pf
from pcflow.inputs import FAMILIES
from pcflow.io.description import digest
from pcflow.testing import circuits, region_graphs

DEEP = 10_000
SETTINGS: dict[str, tuple[object, ...]] = {  # of families that have no defaults
    "Binomial": (3,),
    "Categorical": (3,),
    "DiscretizedLogistic": (4, 0.5),
    "Histogram": ([0.0, 1.0, 3.0],),
    "Indicator": ([0, 2], 3),
    "Inflated": (pf.Exponential(),),
}


def sent(value: object) -> object:
    return pickle.loads(pickle.dumps(value))


@given(circuits())
def test_a_circuit_can_be_pickled_and_what_is_tied_stays_tied(circuit: pf.Circuit) -> None:
    twin = sent(circuit)
    assert isinstance(twin, pf.Circuit)
    assert digest(twin) == digest(circuit)  # structure, settings, and which parameters are shared
    for mine, its in zip(circuit.parameters, twin.parameters, strict=True):
        assert mine.value.dtype == its.value.dtype and torch.equal(mine.value, its.value)
    assert str(twin.properties) == str(circuit.properties)


@given(circuits())
def test_what_is_pickled_together_is_still_about_the_same_layers(circuit: pf.Circuit) -> None:
    proved = circuit.properties
    certificates = [
        proved.smooth,
        proved.decomposable,
        proved.structured_decomposable,
        proved.deterministic,
        proved.omni_compatible,
        proved,
    ]
    twin, found, root = pickle.loads(pickle.dumps((circuit, certificates, circuit.root)))
    assert list(map(str, found)) == list(map(str, certificates))
    assert root is twin.root
    if found[3] is not None:
        assert {layer for layer, _ in found[3].decisions} <= set(twin.layers)


@given(circuits())
def test_a_copy_of_what_never_changes_is_itself(circuit: pf.Circuit) -> None:
    for value in (circuit, *circuit.layers, *circuit.parameters):
        assert copy.copy(value) is value
        assert copy.deepcopy(value) is value
    together = copy.deepcopy({"circuit": circuit, "layers": list(circuit.layers)})
    assert together["circuit"] is circuit


def test_a_deep_circuit_does_not_recurse() -> None:
    layer: pf.InputLayer | pf.SumLayer = pf.InputLayer.random(0, pf.Bernoulli())
    weight = pf.Parameter(torch.zeros(1, 1))
    for _ in range(DEEP):
        layer = pf.SumLayer([layer], weight)
    twin = sent(pf.Circuit(layer))
    assert isinstance(twin, pf.Circuit)
    assert len(twin.layers) == DEEP + 1 and len(twin.parameters) == 2


@given(region_graphs())
def test_region_graphs_can_be_pickled(graph: pf.RegionGraph) -> None:
    for twin in (sent(graph), copy.deepcopy(graph)):
        assert twin == graph


@pytest.mark.parametrize("name", FAMILIES)
def test_families_can_be_pickled(name: str) -> None:
    family = FAMILIES[name](*SETTINGS.get(name, ()))
    for twin in (sent(family), copy.copy(family), copy.deepcopy(family)):
        assert twin == family and twin.num_categories == family.num_categories


def test_layers_that_are_pickled_with_a_refusal_are_those_that_it_names() -> None:
    bits = [pf.InputLayer.random(0, pf.Bernoulli()) for _ in range(2)]
    circuit = pf.Circuit(pf.SumLayer.random(bits))
    with pytest.raises(pf.NotDeterministic) as refused:
        pf.prove_deterministic(circuit)
    twin, refusal = pickle.loads(pickle.dumps((circuit, refused.value)))
    assert refusal.layer is twin.root
    assert [layer for layer, _ in refusal.inputs] == list(twin.layers[:2])
