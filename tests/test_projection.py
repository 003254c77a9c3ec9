"""Laws of `project`: on chains, on trees and elsewhere, against enumeration in float64.

Legend: B batch, S states, D variables, V categories, K units.
"""

import copy
import math
import pickle
from dataclasses import replace
from unittest.mock import patch

import pytest
import torch
from device import DEVICE
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import of_fifty
from torch import Tensor

import pcflow as pf
from pcflow.queries.gauss_seidel import tree_of
from pcflow.testing import circuits, enumerate_marginals, enumerate_weights, finite_families

SEEDS = st.integers(0, 10**6)


def compiled(circuit: pf.Circuit, dtype: torch.dtype = torch.float64) -> pf.CompiledCircuit:
    return pf.compile(circuit, DEVICE, dtype)


@st.composite
def chains(draw: st.DrawFn) -> pf.Circuit:
    """Hidden Markov models."""
    length, states = draw(st.integers(1, 5)), draw(st.integers(1, 3))
    generator = torch.Generator().manual_seed(draw(SEEDS))
    if draw(st.booleans()):
        return pf.hmm(length, states, draw(finite_families()), generator=generator)
    families = [draw(finite_families()) for _ in range(length)]
    return pf.hmm(length, states, families, homogeneous=False, generator=generator)


@st.composite
def trees(draw: st.DrawFn) -> pf.Circuit:
    """Hidden Chow-Liu trees, binary trees of CP layers, and naive Bayes."""
    count, units = draw(st.integers(1, 6)), draw(st.integers(1, 3))
    families = [draw(finite_families()) for _ in range(count)]
    generator = torch.Generator().manual_seed(draw(SEEDS))
    kind = draw(st.sampled_from(["hclt", "binary", "bayes"]))
    if kind == "bayes":
        return pf.naive_bayes(families, units, generator)
    if kind == "binary":
        graph = pf.structure.random_binary_tree(count, seed=draw(SEEDS))
        return pf.build_circuit(graph, families, units, generator=generator)
    sizes = torch.tensor([family.num_categories or 1 for family in families])
    data = (torch.rand(20, count, generator=generator) * sizes).long()
    return pf.hclt(data, units, families, generator=generator)


@st.composite
def questions(draw: st.DrawFn, circuit: pf.Circuit) -> tuple[pf.Evidence, Tensor]:
    """What is observed, and marginals that potentials can make: [B, D, V]."""
    generator = torch.Generator().manual_seed(draw(SEEDS))
    sizes = torch.tensor([int(n or 0) for n in circuit.num_categories])
    shape = (draw(st.integers(1, 3)), len(sizes))
    values = (torch.rand(shape, generator=generator) * sizes).long()
    missing = torch.rand(shape, generator=generator) < 0.7
    soft = torch.randn(*shape, int(sizes.max()), generator=generator)
    about = pf.Evidence(values, missing, soft)
    kept = (enumerate_weights(circuit, about).log_weight.amax(-1) > -torch.inf).nonzero()[:, 0]
    if len(kept) == 0:  # hard zeros: observe nothing
        return draw(questions(circuit))
    about = pf.Evidence(values[kept], missing[kept], soft[kept])
    return pf.Evidence(values[kept], missing[kept]), enumerate_marginals(circuit, about)


def dual(circuit: pf.Circuit, fitted: pf.Evidence, target: Tensor) -> Tensor:
    """Sum of m log lambda, less log Z: [B]."""
    assert fitted.log_potentials is not None and fitted.missing is not None
    potentials = fitted.log_potentials.cpu()
    about = pf.Evidence(
        None if fitted.values is None else fitted.values.cpu(), fitted.missing.cpu(), potentials
    )
    log_z = enumerate_weights(circuit, about).log_weight.logsumexp(-1)
    weight = target.exp().masked_fill(~about.missing.unsqueeze(-1), 0.0)
    return (weight * potentials.masked_fill(weight == 0, 0.0)).sum((1, 2)) - log_z


TREES = chains() | trees()
ANY = TREES | circuits(max_variables=4)


@given(TREES)
def test_chains_and_trees_are_recognised(circuit: pf.Circuit) -> None:
    nodes = tree_of(compiled(circuit).plan)
    assert nodes is not None
    assert len(nodes) == len(circuit.layers)


@given(circuits(max_variables=4))
def test_what_is_taken_for_a_tree_is_one(circuit: pf.Circuit) -> None:
    nodes = tree_of(compiled(circuit).plan)
    if nodes is None:
        return
    assert len(nodes) == len(circuit.layers)
    readers = [child for layer in circuit.layers for child in layer.inputs]
    assert len(readers) == len(set(readers))
    sums = [layer for layer in circuit.layers if isinstance(layer, pf.SumLayer)]
    assert all(len(layer.inputs) == 1 and not layer.mixing for layer in sums)
    products = [layer for layer in circuit.layers if isinstance(layer, pf.ProductLayer)]
    assert all(layer.kind == "hadamard" for layer in products)


@settings(max_examples=of_fifty(30))
@given(st.data(), ANY)
def test_no_sweep_lets_the_dual_fall(data: st.DataObject, circuit: pf.Circuit) -> None:
    about, target = data.draw(questions(circuit))
    model, before = compiled(circuit), dual_at_rest(circuit, about, target)
    for sweeps in (1, 2, 3, 4, 6):
        after = dual(circuit, model.project(about, target, sweeps), target)
        assert (after >= before - 1e-9).all()
        before = after


def dual_at_rest(circuit: pf.Circuit, about: pf.Evidence, target: Tensor) -> Tensor:
    flat = pf.Evidence(about.values, about.missing, torch.zeros_like(target))
    return dual(circuit, flat, target)


@settings(max_examples=of_fifty(30))
@given(st.data(), TREES)
def test_converged_projections_keep_the_marginals(data: st.DataObject, circuit: pf.Circuit) -> None:
    about, target = data.draw(questions(circuit))
    fitted = compiled(circuit).project(about, target, 3_000, tolerance=1e-8)
    assert fitted.mismatch is not None and fitted.log_potentials is not None
    assert (fitted.mismatch < 1e-8).all()
    soft = pf.Evidence(about.values, about.missing, fitted.log_potentials.cpu())
    found = enumerate_marginals(circuit, soft)
    torch.testing.assert_close(found.exp(), target.exp(), rtol=0.0, atol=1e-6)


@settings(max_examples=of_fifty(20))
@given(st.data(), TREES)
def test_both_ways_lead_to_the_same_joint(data: st.DataObject, circuit: pf.Circuit) -> None:
    about, target = data.draw(questions(circuit))
    joints = []
    for nodes in (tree_of(compiled(circuit).plan), None):
        with patch("pcflow.queries.projection.tree_of", return_value=nodes):
            fitted = compiled(circuit).project(about, target, 3_000, tolerance=1e-9)
        assert fitted.log_potentials is not None
        soft = pf.Evidence(about.values, about.missing, fitted.log_potentials.cpu())
        joints.append(enumerate_weights(circuit, soft).log_weight.softmax(-1))
    torch.testing.assert_close(joints[0], joints[1], rtol=0.0, atol=1e-6)


@settings(max_examples=of_fifty(30))
@given(st.data(), ANY)
def test_rows_do_not_depend_on_each_other_nor_on_memory(
    data: st.DataObject, circuit: pf.Circuit
) -> None:
    about, target = data.draw(questions(circuit))
    assert about.values is not None and about.missing is not None
    together = compiled(circuit).project(about, target, 20, tolerance=0.01)
    small = pf.compile(circuit, DEVICE, torch.float64, memory=1)
    in_parts = small.project(about, target, 20, tolerance=0.01)
    assert together.log_potentials is not None and together.mismatch is not None
    for row in range(len(target)):
        alone = pf.Evidence(about.values[row : row + 1], about.missing[row : row + 1])
        fitted = compiled(circuit).project(alone, target[row : row + 1], 20, tolerance=0.01)
        assert fitted.log_potentials is not None and fitted.mismatch is not None
        for found in (together, in_parts):
            assert found.log_potentials is not None and found.mismatch is not None
            one = found.log_potentials[row : row + 1]
            torch.testing.assert_close(one, fitted.log_potentials, rtol=1e-9, atol=1e-9)
            assert found.mismatch[row].item() == pytest.approx(fitted.mismatch.item(), abs=1e-12)


@settings(max_examples=of_fifty(30))
@given(st.data(), ANY)
def test_listed_categories_are_those_with_all_others_ruled_out(
    data: st.DataObject, circuit: pf.Circuit
) -> None:
    about, target = data.draw(questions(circuit))
    k = data.draw(st.integers(1, target.shape[-1]))
    top = target.topk(k, dim=-1)
    listed = pf.Evidence(about.values, about.missing, torch.zeros_like(top.values), top.indices)
    dense = torch.full_like(target, -torch.inf).scatter(-1, top.indices, top.values)
    ruled_out = dense.masked_fill(dense > -torch.inf, 0.0)
    everything = pf.Evidence(about.values, about.missing, ruled_out)
    if (enumerate_weights(circuit, everything).log_weight.amax(-1) == -torch.inf).any():
        return
    model = compiled(circuit)
    found = model.project(listed, top.values, 3)
    wanted = model.project(everything, dense, 3)
    assert found.categories is not None and wanted.log_potentials is not None
    potentials = wanted.log_potentials.gather(-1, found.categories)
    missing = found.missing
    assert missing is not None and found.log_potentials is not None
    torch.testing.assert_close(
        found.log_potentials[missing], potentials[missing], rtol=1e-9, atol=1e-9
    )
    torch.testing.assert_close(found.mismatch, wanted.mismatch, rtol=1e-9, atol=1e-9)


@settings(max_examples=of_fifty(30))
@given(st.data(), ANY)
def test_marginals_may_list_what_they_are_of(data: st.DataObject, circuit: pf.Circuit) -> None:
    """What is not listed has no mass: potentials and mismatch are the same from one sweep on."""
    about, target = data.draw(questions(circuit))
    k, sweeps = data.draw(st.integers(1, target.shape[-1])), data.draw(st.integers(1, 3))
    top = target.topk(k, dim=-1)
    dense = torch.full_like(target, -torch.inf).scatter(-1, top.indices, top.values)
    nothing, model = pf.Evidence(about.values, about.missing), compiled(circuit)
    try:
        wanted = model.project(nothing, dense, sweeps)
    except pf.NoMassError:
        return
    found = model.project(nothing, pf.Potentials.of(top.values, top.indices), sweeps)
    assert found.categories is not None
    sizes = torch.tensor([n or 0 for n in circuit.num_categories], device=DEVICE)
    read = found.missing.unsqueeze(-1) & (found.categories < sizes.unsqueeze(-1))
    listed = wanted.log_potentials.gather(-1, found.categories)
    torch.testing.assert_close(found.log_potentials[read], listed[read], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.mismatch, wanted.mismatch, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("k", [None, 2])
@pytest.mark.parametrize("kind", ["chain", "graph"])
def test_a_batch_without_rows_is_fitted_without_rows(kind: str, k: int | None) -> None:
    graph = pf.structure.quad_graph((2, 2))
    many = pf.Categorical(5)
    model = compiled(pf.hmm(4, 2, many) if kind == "chain" else pf.build_circuit(graph, many, 2))
    target = pf.Evidence(log_potentials=torch.zeros(0, 4, 5))
    target = target if k is None else target.top_k(k)
    assert target.potentials is not None
    found = model.project(torch.empty(0, 4), target.potentials)
    assert found.log_potentials is not None
    assert found.log_potentials.shape == (0, 4, k or 5) and found.mismatch.shape == (0,)


def test_marginals_of_other_categories_than_the_potentials_are_refused() -> None:
    model = pf.compile(pf.hmm(2, 2, pf.Categorical(4)))
    some, others = torch.tensor([[[0, 1]] * 2]), torch.tensor([[[0, 2]] * 2])
    zeros, hidden = torch.zeros(1, 2, 2), torch.ones(1, 2, dtype=torch.bool)
    listed = pf.Evidence(None, hidden, zeros, some)
    assert model.project(listed, pf.Potentials.of(zeros, some.clone())).categories is not None
    everything = pf.Evidence(None, hidden, torch.zeros(1, 2, 4))
    for about, wanted in ((listed, others), (everything, some)):
        with pytest.raises(pf.EvidenceError, match="of the categories that the evidence lists"):
            model.project(about, pf.Potentials.of(zeros, wanted))


def test_entries_past_a_variable_s_own_categories_are_not_read() -> None:
    generator = torch.Generator().manual_seed(0)
    families = [pf.Categorical(3), pf.Categorical(2), pf.Categorical(3)]
    chain = pf.hmm(3, 2, families, homogeneous=False, generator=generator)
    regions = pf.structure.random_binary_tree(3, replicas=2, seed=0)
    for circuit in (chain, pf.build_circuit(regions, families, 2, generator=generator)):
        target = torch.randn(1, 3, 3, generator=generator)
        nothing = torch.full((1, 3), math.nan)
        found = compiled(circuit).project(nothing, target, 3)
        assert found.log_potentials is not None
        target[0, 1, 2] = 9.0  # variable 1 has no category 2
        wanted = compiled(circuit).project(nothing, target, 3)
        assert torch.equal(found.mismatch, wanted.mismatch)
        assert torch.equal(found.log_potentials[:, 1, :2], wanted.log_potentials[:, 1, :2])


def test_fitting_goes_on_from_given_potentials_and_never_frees_what_they_rule_out() -> None:
    circuit = pf.hmm(4, 3, pf.Categorical(3), generator=torch.Generator().manual_seed(0))
    wide = pf.build_circuit(pf.structure.random_binary_tree(4, replicas=2), pf.Categorical(3), 2)
    target = torch.randn(2, 4, 3, dtype=torch.float64).log_softmax(-1)
    start = torch.zeros(2, 4, 3)
    start[:, 1, 2] = -torch.inf
    for model in (compiled(circuit), compiled(wide)):
        two = model.project(pf.Evidence(log_potentials=start), target, 2)
        four = model.project(pf.Evidence(log_potentials=start), target, 4)
        assert two.log_potentials is not None and four.log_potentials is not None
        torch.testing.assert_close(model.project(two, target, 2).mismatch, four.mismatch)
        assert (four.log_potentials[:, 1, 2] == -torch.inf).all()
        assert (start[:, 1, :2] == 0).all()  # not edited


@pytest.mark.parametrize("kind", ["chain", "graph"])
def test_the_tolerance_stops_each_row_by_itself(kind: str) -> None:
    generator = torch.Generator().manual_seed(2)
    regions = pf.structure.random_binary_tree(5, replicas=2, seed=0)
    circuit = (
        pf.hmm(5, 4, pf.Categorical(3), generator=generator)
        if kind == "chain"
        else pf.build_circuit(regions, pf.Categorical(3), 2, generator=generator)
    )
    model, nothing = compiled(circuit), torch.full((2, 5), math.nan)
    assert (tree_of(model.plan) is None) == (kind == "graph")
    own = model.marginals(nothing[:1]).exp()
    easy = (own + 1e-3 * torch.rand(1, 5, 3, generator=generator).to(own)).log()  # once is enough
    hard = torch.randn(1, 5, 3, dtype=torch.float64, generator=generator).to(DEVICE)
    target = torch.cat([easy, hard]).log_softmax(-1)
    loose = model.project(nothing, target, 50, tolerance=1e-3)
    assert loose.mismatch is not None and loose.log_potentials is not None
    assert (loose.mismatch < 1e-3).all()
    assert (loose.mismatch > 1e-9).all()  # or they would not have stopped
    off = (model.marginals(loose).exp() - target.exp()).abs().amax((1, 2))
    assert (off < 1e-3).all()
    for row in range(2):
        sweeps = (model.project(nothing, target, n) for n in range(1, 50))
        first = next(f for f in sweeps if f.mismatch is not None and f.mismatch[row] < 1e-3)
        assert first.log_potentials is not None
        torch.testing.assert_close(loose.log_potentials[row], first.log_potentials[row])


def test_two_bits_by_hand() -> None:
    """P(x, y) = .4 if equal, else .1; from (.5, .5) each to (.8, .2) and (.5, .5).

    One sweep: x gets potentials 8 : 2, which leaves y at .8 * .8 + .2 * .2 = .68 where x tends, so
    y gets .5 / .68 : .5 / .32, and was off by .18.
    """
    equal = pf.Parameter.from_probs([[0.8, 0.2], [0.2, 0.8]])
    x, y = (pf.InputLayer(v, pf.Indicator((0, 1), 2), 2) for v in range(2))
    root = pf.SumLayer(
        [pf.ProductLayer([x, pf.SumLayer([y], equal)])], pf.Parameter.from_probs([[0.5, 0.5]])
    )
    target = torch.tensor([[[0.8, 0.2], [0.5, 0.5]]], dtype=torch.float64).log()
    fitted = compiled(pf.Circuit(root)).project(torch.full((1, 2), math.nan), target, 1)
    assert fitted.log_potentials is not None and fitted.mismatch is not None
    odds = fitted.log_potentials.softmax(-1)[0].cpu()
    wanted = torch.tensor([[0.8, 0.2], [0.32, 0.68]], dtype=torch.float64)
    torch.testing.assert_close(odds, wanted)
    assert fitted.mismatch.item() == pytest.approx(0.3)  # x was at .5
    again = compiled(pf.Circuit(root)).project(fitted, target, 1)
    assert again.mismatch is not None
    assert again.mismatch.item() == pytest.approx(0.8 - 0.8 * 0.5 * (0.8 / 0.68 + 0.2 / 0.32))


def disagreeing(length: int) -> pf.Circuit:
    """Two states that never change: one likes category 0, the other all but never emits it."""
    log_table = torch.tensor([[0.0, -80.0], [-80.0, 0.0]], dtype=torch.float64)
    table = {"logits": pf.Parameter(log_table)}
    stay = pf.Parameter(torch.eye(2).log())
    below: pf.Layer = pf.InputLayer(length - 1, pf.Categorical(2), 2, table)
    for variable in reversed(range(length - 1)):
        leaf = pf.InputLayer(variable, pf.Categorical(2), 2, table)
        below = pf.ProductLayer([leaf, pf.SumLayer([below], stay)])
    return pf.Circuit(pf.SumLayer([below], pf.Parameter.from_probs([[0.5, 0.5]])))


def test_messages_that_underflow_are_not_believed() -> None:
    """Visible 0 0 0 and 1 1 1 around a hole: in float32 each state is e^-240 to somebody."""
    circuit = disagreeing(7)
    values = torch.tensor([[0, 0, 0, 0, 1, 1, 1]])
    about = pf.Evidence(values, torch.arange(7).unsqueeze(0) == 3)
    target = torch.tensor([0.3, 0.7]).log().expand(1, 7, 2)
    fitted = compiled(circuit, torch.float32).project(about, target, 5)
    assert fitted.log_potentials is not None
    found = compiled(circuit).marginals(fitted)[0, 3].exp().cpu()
    torch.testing.assert_close(found, torch.tensor([0.3, 0.7]).double(), rtol=1e-5, atol=1e-5)


def test_what_a_table_cannot_hold_is_not_lost() -> None:
    """A category of probability e^-160 is zero in float32; the target wants it, so it stays."""
    logits = torch.tensor([[0.0], [0.0], [-160.0]], dtype=torch.float64)
    leaves = [
        pf.InputLayer(v, pf.Categorical(3), 1, {"logits": pf.Parameter(logits)}) for v in (0, 1)
    ]
    model = compiled(pf.Circuit(pf.ProductLayer(leaves)), torch.float32)
    target = torch.tensor([0.2, 0.3, 0.5]).log().expand(1, 2, 3)
    fitted = model.project(torch.full((1, 2), math.nan), target, 1)
    assert fitted.log_potentials is not None
    assert fitted.log_potentials.isfinite().all()
    odds = fitted.log_potentials[0, 0, :2].softmax(-1).cpu()
    torch.testing.assert_close(odds, torch.tensor([0.4, 0.6]))


def test_impossible_rows_are_named() -> None:
    stay = torch.eye(2, dtype=torch.float64).log()
    circuit = pf.hmm(3, 2, pf.Categorical(2))
    emit, move = circuit.parameters[:2]
    sure = circuit.replace({emit: stay, move: stay})
    wide = pf.Circuit(pf.SumLayer([sure.root, sure.root], pf.Parameter.from_probs([[0.5, 0.5]])))
    values = torch.tensor([[0, 0, 0], [0, 0, 1], [1, 0, 1], [0, 0, 1]])
    about = pf.Evidence(values, torch.tensor([[False, True, False]]).expand(4, 3))
    for memory in (1, 1 << 30):
        for circuit in (sure, wide):
            model = pf.compile(circuit, DEVICE, torch.float64, memory=memory)
            with pytest.raises(pf.NoMassError, match="project") as refused:
                model.project(about, torch.zeros(4, 3, 2))
            assert refused.value.rows == (1, 3)


def test_bad_numbers_are_refused() -> None:
    model = compiled(pf.hmm(3, 2, pf.Categorical(2)))
    nothing = torch.full((1, 3), math.nan)
    for tolerance in (-0.1, math.nan, math.inf):
        with pytest.raises(ValueError, match="tolerance"):
            model.project(nothing, torch.zeros(1, 3, 2), tolerance=tolerance)
    listed = pf.Evidence(
        log_potentials=torch.zeros(1, 3, 1), categories=torch.zeros(1, 3, 1, dtype=torch.long)
    )
    with pytest.raises(pf.EvidenceError, match=r"\(1, 3, 1\)"):
        model.project(listed, torch.zeros(1, 3, 2))


@settings(max_examples=20)
@given(st.data(), TREES)
def test_what_sweeps_made_of_potentials_is_what_a_pass_would_read(
    data: st.DataObject, circuit: pf.Circuit
) -> None:
    about, target = data.draw(questions(circuit))
    model = pf.compile(circuit, "cpu", torch.float64)  # elsewhere nothing is kept
    fitted = model.project(about, target, 2)
    plain = pf.Evidence(fitted.values, fitted.missing, fitted.log_potentials)
    assert (fitted.weighed is not None) == bool(fitted.missing.any())
    for known in (fitted, fitted.observing(fitted.values, fitted.missing & (fitted.values >= 0))):
        again = pf.Evidence(known.values, known.missing, known.log_potentials)
        found, wanted = model.marginals(known), model.marginals(again)
        torch.testing.assert_close(found.exp(), wanted.exp(), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(model.log_prob(fitted), model.log_prob(plain), rtol=1e-9, atol=1e-9)


def test_what_sweeps_made_of_potentials_is_read_only_while_all_is_as_it_was() -> None:
    generator = torch.Generator().manual_seed(0)
    circuit = pf.hmm(4, 3, pf.Categorical(5), generator=generator)
    model = pf.compile(circuit, "cpu", torch.float64)
    target = torch.randn(2, 4, 5, generator=generator)
    fitted = model.project(torch.full((2, 4), math.nan), target, 2)
    assert fitted.weighed is not None
    for wrong in fitted.weighed.units.values():
        wrong.mul_(torch.rand(wrong.shape, dtype=wrong.dtype, generator=generator).to(wrong))

    def is_read(known: pf.Evidence) -> bool:
        plain = pf.Evidence(known.values, known.missing, known.log_potentials)
        return not torch.allclose(model.log_prob(known), model.log_prob(plain))

    assert is_read(fitted) and is_read(fitted.observing(fitted.values, fitted.values > 0))
    assert not is_read(fitted.rows(torch.tensor([1, 0])))
    other = replace(fitted, log_potentials=fitted.log_potentials + 0.5)
    assert not is_read(other)
    with torch.no_grad():
        next(model.parameters()).mul_(1.5)
    assert not is_read(fitted)
    again = model.project(torch.full((2, 4), math.nan), target, 2)
    assert again.weighed is not None and again.log_potentials is not None
    again.log_potentials[0, 0, 0] = 0.7
    assert not is_read(again)
    known = model.project(torch.tensor([[0.0, math.nan, 1.0, math.nan]]), target[:1], 2)
    assert not is_read(replace(known, missing=known.missing | True))


def test_steps_of_other_widths_read_their_own_units() -> None:
    """One of two variables of a step is observed, so that nothing was made of its potentials."""
    generator = torch.Generator().manual_seed(0)
    narrow, *wide = (
        pf.InputLayer.random(v, pf.Categorical(4), units, generator)
        for v, units in enumerate((2, 3, 3))
    )
    below = [pf.SumLayer.random([narrow], 3, generator=generator), *wide]
    product = pf.ProductLayer(below, "hadamard")
    circuit = pf.Circuit(pf.SumLayer.random([product], generator=generator))
    model = pf.compile(circuit, "cpu", torch.float64)
    target = torch.randn(1, 3, 4, generator=generator)
    fitted = model.project(torch.tensor([[math.nan, math.nan, 1.0]]), target, 2)
    assert fitted.weighed is not None and set(fitted.weighed.units) == {0, 1}
    plain = pf.Evidence(fitted.values, fitted.missing, fitted.log_potentials)
    torch.testing.assert_close(model.log_prob(fitted), model.log_prob(plain), rtol=1e-9, atol=1e-9)


def test_files_and_copies_of_what_was_found_hold_no_parameters() -> None:
    model = pf.compile(pf.hmm(2, 64, pf.Categorical(500)), "cpu", torch.float64)
    fitted = model.project(torch.full((1, 2), math.nan), torch.zeros(1, 2, 500), 1)
    stored = pickle.dumps(fitted)
    assert fitted.weighed is not None and len(stored) < 64 * 500 * 8
    for twin in (pickle.loads(stored), copy.deepcopy(fitted)):
        assert twin.weighed is None
        torch.testing.assert_close(model.log_prob(twin), model.log_prob(fitted))
