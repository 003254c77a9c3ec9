"""Parameters by row: B rows are B circuits, in every query; and what is refused.

Legend: B batch, D variables, V categories, n draws.
"""

import copy
import gc
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from device import DEVICE
from families import FAMILIES
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import of_fifty
from rules import automata
from torch import Tensor

import pcflow as pf
from pcflow.testing import circuits, enumerate_log_prob, evidence, intervals, mixed_families

Parameters = dict[str, Tensor]
Model = pf.CompiledCircuit
CHAIN = pf.hmm(4, states=3, inputs=pf.Categorical(3), homogeneous=False)
TREE = pf.build_circuit(pf.structure.quad_tree((2, 2)), pf.Categorical(3), units=2)


def compiled(circuit: pf.Circuit, **settings: object) -> Model:
    return pf.compile(circuit, DEVICE, **{"dtype": torch.float64, **settings})


def some_by_row(data: st.DataObject, model: Model, rows: int) -> Parameters:
    """Some of the parameters, moved anew in every row; what is impossible stays so."""
    names = data.draw(st.sets(st.sampled_from(sorted(model.parameter_shapes)), min_size=1))
    return by_row(model, rows, sorted(names), data.draw(st.integers(0, 2**31 - 1)))


def by_row(model: Model, rows: int, names: list[str] | None = None, seed: int = 0) -> Parameters:
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name in names or list(model.parameter_shapes):
        noise = torch.randn(rows, *model.parameter_shapes[name], generator=generator)
        found[name] = model.get_parameter(name).detach() + noise.to(DEVICE, model.dtype)
    return found


def models_of(model: Model, parameters: Parameters, rows: int) -> list[Model]:
    """A model for every row, which has its parameters."""
    found = [copy.deepcopy(model) for _ in range(rows)]
    for row, one in enumerate(found):
        with torch.no_grad():
            for name, given in parameters.items():
                one.get_parameter(name).copy_(given[row])
    return found


def row_of(about: pf.Evidence, row: int) -> pf.Evidence:
    return about.rows(torch.tensor([row]))


def assert_equal(found: Tensor, wanted: list[Tensor], tolerance: float = 1e-9) -> None:
    wanted = torch.cat(wanted).to(found.dtype)
    torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance, equal_nan=True)


def rows_with_mass(model: Model, about: pf.Evidence, parameters: Parameters) -> Tensor:
    there = model.log_prob(about, parameters) > -torch.inf
    return there.nonzero().squeeze(-1).cpu()


@settings(max_examples=of_fifty(15))
@given(st.data(), circuits(max_variables=4))
def test_rows_have_the_log_prob_and_the_gradients_of_circuits_of_their_own(
    data: st.DataObject, circuit: pf.Circuit
) -> None:
    about = data.draw(evidence(circuit))
    fold, rows = data.draw(st.booleans()), about.batch_size
    model = compiled(circuit, fold=fold)
    if model.parameter_shapes:
        assert_gradients_are_theirs(model, about, some_by_row(data, model, rows), rows)


def assert_gradients_are_theirs(
    model: Model, about: pf.Evidence, parameters: Parameters, rows: int
) -> None:
    given = {name: tensor.requires_grad_() for name, tensor in parameters.items()}
    weight = torch.linspace(-1.0, 2.0, rows, dtype=model.dtype, device=DEVICE)
    log_prob = model.log_prob(about, given)
    there = log_prob.detach() > -torch.inf
    (weight * log_prob)[there].sum().backward()
    alone = models_of(model, {name: t.detach() for name, t in given.items()}, rows)
    found = [one.log_prob(row_of(about, row)) for row, one in enumerate(alone)]
    assert_equal(log_prob.detach(), [one.detach() for one in found])
    for row in there.nonzero().flatten().tolist():
        (weight[row] * found[row]).sum().backward()
    for name, shared in model.named_parameters():
        each = [one.get_parameter(name).grad for one in alone]
        theirs = [torch.zeros_like(shared) if g is None else g for g in each]
        mine = shared.grad.unsqueeze(0) if name not in given else given[name].grad
        wanted = torch.stack(theirs) if name in given else torch.stack(theirs).sum(0, keepdim=True)
        assert_equal(mine, [wanted])


@settings(max_examples=of_fifty(15))
@given(st.data(), circuits(max_variables=4))
def test_rows_have_the_answers_of_circuits_of_their_own(
    data: st.DataObject, circuit: pf.Circuit
) -> None:
    model, about = compiled(circuit), data.draw(evidence(circuit))
    if not model.parameter_shapes:
        return
    parameters = some_by_row(data, model, about.batch_size)
    rows = rows_with_mass(model, about, parameters)
    if not len(rows):
        return
    about, parameters = about.rows(rows), {n: p[rows] for n, p in parameters.items()}
    alone = list(enumerate(models_of(model, parameters, len(rows))))

    def each(ask: Callable[[Model, pf.Evidence], Tensor]) -> list[Tensor]:
        return [ask(one, row_of(about, row)) for row, one in alone]

    known = model.evidence(about, parameters)
    assert_equal(model.marginals(about, parameters=parameters), each(Model.marginals))
    assert_equal(model.mean(about, parameters=parameters), each(Model.mean))
    best = model.mpe(about, parameters=parameters)
    assert_equal(best.log_value, each(lambda one, x: one.mpe(x).log_value))
    assert not best.exact or all(one.mpe(row_of(about, row)).exact for row, one in alone)
    last = torch.full((*known.values.shape, 1), max(circuit.num_categories) - 1)
    assert_equal(model.marginals(known, last), each(lambda one, x: one.marginals(x, last[:1])))
    drawn = model.sample_with_marginals(2, known)
    scored = model.marginals(known, drawn.values.movedim(0, -1)).movedim(-1, 0)
    torch.testing.assert_close(drawn.log_marginals, scored, atol=1e-9, rtol=1e-9)


@settings(max_examples=of_fifty(10))
@given(st.data(), circuits(max_variables=4))
def test_rows_are_fitted_to_marginals_like_circuits_of_their_own(
    data: st.DataObject, circuit: pf.Circuit
) -> None:
    model, rows = compiled(circuit), 3
    if not model.parameter_shapes:
        return
    parameters = some_by_row(data, model, rows)
    about = pf.Evidence(missing=torch.ones(rows, model.num_variables, dtype=torch.bool))
    if len(rows_with_mass(model, about, parameters)) < rows:
        return
    target = torch.randn(rows, model.num_variables, max(circuit.num_categories)).to(DEVICE)
    found = model.project(about, target, parameters=parameters)
    alone = models_of(model, parameters, rows)
    wanted = [
        one.project(row_of(about, r), target[r : r + 1]).log_potentials
        for r, one in enumerate(alone)
    ]
    assert_equal(found.log_potentials, wanted)
    assert_equal(model.log_prob(found), [model.log_prob(found.rows(torch.arange(rows)))])


@settings(max_examples=of_fifty(8))
@given(st.data(), automata(st.just(3)))
def test_rows_obey_a_rule_like_circuits_of_their_own(
    data: st.DataObject, rule: pf.Automaton
) -> None:
    model, rows = compiled(data.draw(st.sampled_from([CHAIN, TREE]))), 3
    try:
        under = model.given(rule)
    except pf.EmptyLanguage:
        return
    x = under.sample(rows)
    about = pf.Evidence(x, torch.rand(rows, 4, device=DEVICE) < 0.5)
    given = some_by_row(data, model, rows)
    learned = {name: tensor.requires_grad_() for name, tensor in given.items()}
    log_prob = under.log_prob(about, learned)
    log_prob.sum().backward()
    marginals = under.marginals(about, parameters=given)
    best = under.mpe(about, parameters=given).log_value
    assert bool(rule.accepts(under.sample(4, about, parameters=given).flatten(0, 1)).all())
    alone = models_of(model, {name: t.detach() for name, t in given.items()}, rows)
    for row, one in enumerate(alone):
        own, here = one.given(rule), row_of(about, row)
        mine = own.log_prob(here)
        mine.sum().backward()
        assert_equal(log_prob[row].detach().unsqueeze(0), [mine.detach()])
        assert_equal(marginals[row], [own.marginals(here)[0]])
        assert_equal(best[row].unsqueeze(0), [own.mpe(here).log_value])
        for name, tensor in learned.items():
            assert_equal(tensor.grad[row], [one.get_parameter(name).grad])


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: type(family).__name__)
@pytest.mark.parametrize("homogeneous", [True, False], ids=["tied", "untied"])
def test_every_family_reads_parameters_by_row(family: pf.InputFamily, homogeneous: bool) -> None:
    model = compiled(pf.hmm(3, 2, family, homogeneous=homogeneous))
    rows, names = 3, list(model.parameter_shapes)
    x = model.sample(rows).double()
    x[torch.rand(rows, 3, device=DEVICE) < 0.4] = torch.nan
    about = pf.Evidence(x)
    for some in (names, names[:1], names[1:]):
        model.zero_grad()
        parameters = by_row(model, rows, some)
        alone = list(enumerate(models_of(model, parameters, rows)))
        mean = model.mean(about, parameters=parameters)
        best = model.mpe(about, parameters=parameters)
        assert_equal(mean, [one.mean(row_of(about, row)) for row, one in alone])
        theirs = [one.mpe(row_of(about, row)) for row, one in alone]
        assert_equal(best.log_value, [one.log_value for one in theirs])
        bound = [pf.map_upper_bound(one, [0], row_of(about, row)) for row, one in alone]
        known = model.evidence(about, parameters)
        assert_equal(pf.map_upper_bound(model, [0], known), bound)
        assert model.sample(2, parameters=parameters).shape == (2, rows, 3)
        assert_gradients_are_theirs(model, about, parameters, rows)


@settings(max_examples=of_fifty(15))
@given(st.data(), circuits(max_variables=3, families=mixed_families()))
def test_rows_of_any_evidence_have_the_log_prob_of_circuits_of_their_own(
    data: st.DataObject, circuit: pf.Circuit
) -> None:
    model = compiled(circuit)
    if not model.parameter_shapes:
        return
    about = model.evidence(data.draw(intervals(circuit)))
    parameters = some_by_row(data, model, len(about.values))
    alone = models_of(model, parameters, len(about.values))
    found = model.log_prob(about, parameters)
    assert_equal(found, [one.log_prob(row_of(about, row)) for row, one in enumerate(alone)])


@pytest.mark.parametrize("circuit", [CHAIN, TREE], ids=["chain", "tree"])
def test_values_are_drawn_as_often_as_their_own_circuits_say(circuit: pf.Circuit) -> None:
    model, rows, n = compiled(circuit), 3, 4000
    parameters = by_row(model, rows)
    x = torch.full((rows, 4), torch.nan)
    x[:, 1] = torch.tensor([0, 1, 2])
    soft = torch.randn(rows, 4, 3, generator=torch.Generator().manual_seed(1))
    for about in (pf.Evidence(x), pf.Evidence(x, log_potentials=soft)):
        generator = torch.Generator(DEVICE).manual_seed(0)
        drawn = model.sample(n, about, generator, parameters=parameters).long()  # [n, B, D]
        pairs = torch.nn.functional.one_hot(drawn[..., 0] * 3 + drawn[..., 3], 9)
        found = pairs.double().mean(dim=0)
        both = torch.cartesian_prod(torch.arange(3.0), torch.arange(3.0)).to(DEVICE)
        wanted = [joint(model, about, parameters, pair) for pair in both]
        share = torch.stack(wanted, dim=1).softmax(dim=1)  # [B, 9]
        assert float((found - share).abs().max()) < 5.5 * 0.5 / n**0.5


def joint(model: Model, about: pf.Evidence, parameters: Parameters, pair: Tensor) -> Tensor:
    """Log-probability of the first and last value, beside what is known, [B]."""
    known = model.evidence(about, parameters)
    values = torch.zeros_like(known.values)
    values[:, [0, 3]] = pair.long()
    where = torch.tensor([True, False, False, True], device=DEVICE).expand_as(known.missing)
    log_prob = model.log_prob(known.observing(values, where))
    if known.log_potentials is None:
        return log_prob
    soft = known.log_potentials.gather(-1, values.unsqueeze(-1)).squeeze(-1)
    return log_prob + soft[:, [0, 3]].sum(dim=-1)


def far_apart(dtype: torch.dtype) -> tuple[Model, pf.Evidence]:
    """A chain that sticks to a state whose emissions are nearly impossible: rows underflow."""
    model = compiled(pf.hmm(40, 2, pf.Categorical(3), homogeneous=False), dtype=dtype)
    with torch.no_grad():
        for bank in model.banks:
            if bank.shape[1:] == (3, 2):
                bank.copy_(torch.tensor([[0.0, 9.0], [9.0, 0.0], [0.0, 9.0]]).expand_as(bank))
            elif bank.shape[1:] == (2, 2):
                bank.copy_(torch.tensor([[30.0, -60.0], [-60.0, 30.0]]).expand_as(bank))
    return model, pf.Evidence(torch.tensor([[1] * 20 + [0] * 20, [0] * 20 + [1] * 20, [0] * 40]))


@pytest.mark.parametrize("soft", [False, True], ids=["observed", "soft"])
def test_rows_that_underflow_go_through_logarithms(soft: bool) -> None:
    model, about = far_apart(torch.float32)
    if soft:
        near = torch.nn.functional.one_hot(about.values, 3).double()
        about = pf.Evidence(log_potentials=40.0 * near + torch.rand(3, 40, 3))
    exact = far_apart(torch.float64)[0]
    given = {name: t.double() for name, t in by_row(model, 3).items()}
    before = model.rows.log_space
    low = {name: t.float().requires_grad_() for name, t in given.items()}
    high = {name: t.detach().float().double().requires_grad_() for name, t in given.items()}
    found, wanted = model.log_prob(about, low), exact.log_prob(about, high)
    assert model.rows.log_space > before
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-4)
    found.sum().backward()
    wanted.sum().backward()
    for name, tensor in low.items():
        torch.testing.assert_close(tensor.grad.double(), high[name].grad, rtol=1e-3, atol=1e-3)


@settings(max_examples=of_fifty(15))
@given(st.data(), circuits(max_variables=5), st.sampled_from([1.0, 10.0, 40.0]))
def test_float32_is_as_exact_by_row_as_it_says(
    data: st.DataObject, circuit: pf.Circuit, spread: float
) -> None:
    low, about = compiled(circuit, dtype=torch.float32), data.draw(evidence(circuit))
    if not low.parameter_shapes:
        return
    given = some_by_row(data, low, about.batch_size)
    given = {name: spread * tensor for name, tensor in given.items()}
    high = compiled(low.circuit)
    found = low.log_prob(about, given)
    wanted = high.log_prob(about, {name: tensor.double() for name, tensor in given.items()})
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-4 * spread)


@pytest.mark.parametrize("circuit", [CHAIN, TREE], ids=["chain", "tree"])
def test_batches_that_do_not_fit_run_in_parts_with_their_parameters(circuit: pf.Circuit) -> None:
    whole, small = compiled(circuit), compiled(circuit, memory=6000)
    small.load_state_dict(whole.state_dict())
    x = torch.rand(40, 4, generator=torch.Generator().manual_seed(0)).mul(3).floor().double()
    x[:, 2] = torch.nan
    given = [by_row(whole, 40) for _ in range(2)]
    known = small.evidence(x, given[1])
    assert len(small.engine.parts(known)) > len(small.engine.parts(small.evidence(x)))
    log_probs = []
    for model, parameters in zip((whole, small), given, strict=True):
        for tensor in parameters.values():
            tensor.requires_grad_()
        log_probs.append(model.log_prob(x, parameters))
        log_probs[-1].square().sum().backward()
    assert_equal(log_probs[0].detach(), [log_probs[1].detach()])
    for name in given[0]:
        assert_equal(given[0][name].grad, [given[1][name].grad])
    asked = (model.marginals(x, parameters=given[0]) for model in (whole, small))
    assert_equal(next(asked), [next(asked)])
    assert small.sample(3, parameters=given[0]).shape == (3, 40, 4)


def test_nothing_of_a_batch_stays_with_the_model() -> None:
    model = compiled(CHAIN, machine=pf.Machine(records=True))
    x = torch.randint(3, (5, 4), device=DEVICE)
    before = model.log_prob(x), model.marginals(x), model.sample(2, x), model.mpe(x)
    tables, gone = str(model.memory.tables), []
    for seed in range(3):
        parameters = by_row(model, 5, seed=seed)
        gone += [weakref.ref(tensor) for tensor in parameters.values()]
        model.log_prob(x, parameters), model.marginals(x, parameters=parameters)
        model.mpe(x, parameters=parameters), model.sample(2, x, parameters=parameters)
        wanted = [m.log_prob(x[r : r + 1]) for r, m in enumerate(models_of(model, parameters, 5))]
        assert_equal(model.log_prob(x, parameters), wanted)
        taped = model.engine.trace(model.evidence(x, parameters))
        gone += [weakref.ref(w.tensor) for w in taped.scaled.weights.values() if w.by_row]
        del parameters, taped
    gc.collect()
    assert str(model.memory.tables) == tables
    assert all(tensor() is None for tensor in gone)
    assert torch.equal(model.log_prob(x), before[0])
    assert torch.equal(model.marginals(x), before[1])


def test_threads_do_not_see_the_parameters_of_one_another() -> None:
    model, x = compiled(TREE), torch.randint(3, (6, 4), device=DEVICE)
    asked = [by_row(model, 6, seed=seed) for seed in range(8)]
    wanted = [model.log_prob(x, parameters).detach() for parameters in asked]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda p: model.log_prob(x, p).detach(), asked * 4))
    assert all(map(torch.equal, found, wanted * 4))


@pytest.mark.parametrize("circuit", [CHAIN, TREE], ids=["chain", "tree"])
def test_no_rows_are_fine(circuit: pf.Circuit) -> None:
    model = compiled(circuit)
    parameters = {n: t.requires_grad_() for n, t in by_row(model, 0).items()}
    x = torch.zeros(0, 4).long()
    model.log_prob(x, parameters).sum().backward()
    assert all(tensor.grad.shape == tensor.shape for tensor in parameters.values())
    assert model.marginals(x, parameters=parameters).shape == (0, 4, 3)
    assert model.sample(2, x, parameters=parameters).shape == (2, 0, 4)
    assert model.mpe(x, parameters=parameters).values.shape == (0, 4)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: type(family).__name__)
def test_no_rows_of_any_family_are_fine(family: pf.InputFamily) -> None:
    model, x = compiled(pf.hmm(3, 2, family)), torch.zeros(0, 3, dtype=torch.float64)
    parameters = {n: t.requires_grad_() for n, t in by_row(model, 0).items()}
    model.log_prob(x, parameters).sum().backward()
    assert all(tensor.grad.shape == tensor.shape for tensor in parameters.values())
    assert model.sample(2, x, parameters=parameters).shape == (2, 0, 3)
    assert model.mean(x, parameters=parameters).shape == (0, 3)


FILTERED = {
    "chain": CHAIN,
    "homogeneous": pf.hmm(4, states=3, inputs=pf.Categorical(3)),
    "densities": pf.hmm(4, states=2, inputs=pf.Poisson()),
    "tree": TREE,
    "mixed": pf.mixture([pf.naive_bayes([pf.Gaussian(), pf.Categorical(3)], 2)] * 2, [0.3, 0.7]),
}


@settings(max_examples=of_fifty(8))
@given(st.data(), st.sampled_from(sorted(FILTERED)))
def test_rows_are_filtered_like_circuits_of_their_own(data: st.DataObject, name: str) -> None:
    model, rows = compiled(FILTERED[name]), 3
    parameters = some_by_row(data, model, rows)
    x = model.sample(rows).double()
    x[torch.rand(x.shape, device=DEVICE) < 0.3] = torch.nan
    seen, alone = model.filter(rows, parameters), models_of(model, parameters, rows)
    each = [one.filter(1) for one in alone]
    for tensor in parameters.values():
        tensor.zero_()  # which the filter does not see
    for column in x.t():
        if model.num_categories[seen.position] is not None:
            assert_equal(seen.next_log_probs(), [one.next_log_probs() for one in each])
        found = [one.observe(value.unsqueeze(0)) for one, value in zip(each, column, strict=True)]
        assert_equal(seen.observe(column), found)
    prefixes = [one.log_prob(row_of(pf.Evidence(x), row)) for row, one in enumerate(alone)]
    assert_equal(seen.log_prob, prefixes)


def test_a_filter_of_rows_asks_nothing_of_the_past() -> None:
    model = compiled(FILTERED["homogeneous"])
    seen, sizes = model.filter(5, by_row(model, 5)), set()
    for position in range(20):
        seen.observe(torch.zeros(5))
        if position:  # no transition leads to the first
            sizes.add(sum(one.linear.numel() for one in seen._kept.values()))
    assert len(sizes) == 1
    assert model.rows.seen == 0


def test_parameters_are_known_by_themselves_as_well() -> None:
    model, x = compiled(CHAIN), torch.randint(3, (5, 4), device=DEVICE)
    given = by_row(model, 5)
    by_themselves = {model.get_parameter(name): tensor for name, tensor in given.items()}
    assert torch.equal(model.log_prob(x, given), model.log_prob(x, by_themselves))
    assert dict(model.parameter_shapes) == {n: p.shape for n, p in model.named_parameters()}


def test_without_gradients_nothing_is_recorded() -> None:
    model, x = compiled(CHAIN), torch.randint(3, (5, 4), device=DEVICE)
    given = {name: tensor.requires_grad_() for name, tensor in by_row(model, 5).items()}
    with torch.no_grad():
        assert not model.log_prob(x, given).requires_grad
    with torch.inference_mode():
        made = {name: tensor + 0 for name, tensor in given.items()}
        model.log_prob(x, made)
        known = model.evidence(x, {"banks.0": made["banks.0"]})
    model.log_prob(known).sum().backward()
    model.conditionals(known).sum().backward()
    frozen = compiled(CHAIN).requires_grad_(False)
    assert frozen.log_prob(x, given).requires_grad
    assert frozen.log_prob(x, made).shape == (5,)


def test_parameters_that_are_edited_before_backward_are_noticed() -> None:
    model, x = compiled(CHAIN), torch.randint(3, (5, 4), device=DEVICE)
    given = {name: (tensor.requires_grad_() + 0) for name, tensor in by_row(model, 5).items()}
    log_prob = model.log_prob(x, given)
    next(iter(given.values())).detach().zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        log_prob.sum().backward()


def test_logits_are_normalised_once_unless_they_are_edited(monkeypatch: pytest.MonkeyPatch) -> None:
    """By who looks for numbers that are none; passes read what was found, of some rows as well."""
    model, x = compiled(CHAIN), torch.randint(3, (5, 4), device=DEVICE)
    given = {name: tensor.requires_grad_() for name, tensor in by_row(model, 5).items()}
    of_which: list[int] = []
    whole = pf.Machine.log_normalizer

    def normalize(self: pf.Machine, logits: Tensor) -> tuple[Tensor, Tensor, bool]:
        of_which.append(len(logits))
        return whole(self, logits)

    monkeypatch.setattr(pf.Machine, "log_normalizer", normalize)
    known = model.evidence(x, given)
    model.log_prob(known).sum().backward()
    some = model.log_prob(known.rows(torch.tensor([3, 1])))
    assert of_which == [5 * 4]
    assert torch.equal(some, model.log_prob(known)[[3, 1]])
    for about in (known, copy.deepcopy(known)):
        with torch.no_grad():
            about.parameters.by_bank[0].mul_(-2.0)
        edited = {f"banks.{n}": t.detach().clone() for n, t in about.parameters.by_bank.items()}
        torch.testing.assert_close(model.log_prob(about), model.log_prob(x, edited))


def test_second_derivatives_are_refused() -> None:
    model, x = compiled(CHAIN), torch.randint(3, (5, 4), device=DEVICE)
    given = {name: tensor.requires_grad_() for name, tensor in by_row(model, 5).items()}
    log_prob = model.log_prob(x, given)
    (first, *_) = torch.autograd.grad(log_prob.sum(), list(given.values()), create_graph=True)
    with pytest.raises(pf.Unsupported):
        first.sum().backward()


def wrong_parameters(model: Model) -> list[tuple[object, type[Exception], str]]:
    good = by_row(model, 5)
    name, tensor = next(iter(good.items()))
    nan, inf = tensor.clone(), tensor.clone()
    nan[3, 0, 0, 0], inf[2, 0, 0, 0] = torch.nan, torch.inf
    none, idle = tensor.clone(), good["banks.1"].clone()
    none[4, 1, :, 2] = idle[1, 0, 2] = -torch.inf  # a unit without a value, and one without inputs
    quoted = rf"parameters\['{name}'\]"
    return [
        ([tensor], pf.TypeMismatch, "parameters must be a dict of tensors"),
        ({name: tensor.tolist()}, pf.TypeMismatch, quoted),
        ({name: 0.5}, pf.TypeMismatch, quoted),
        ({name: torch.tensor(0.5)}, pf.SettingError, quoted),
        ({"weights": tensor}, pf.SettingError, "banks.0"),
        ({3: tensor}, pf.SettingError, "those of the model"),
        ({torch.nn.Parameter(tensor): tensor}, pf.SettingError, "those of the model"),
        ({name: tensor[:4]}, pf.SettingError, quoted),
        ({name: tensor[0]}, pf.SettingError, quoted),
        ({name: tensor.long()}, pf.SettingError, quoted),
        ({name: tensor.to("meta")}, pf.SettingError, quoted),
        ({name: tensor.to_sparse()}, pf.SettingError, quoted),
        ({name: tensor.to(torch.complex64)}, pf.SettingError, quoted),
        ({name: nan}, pf.SettingError, f"{quoted}.*row 3"),
        ({name: inf}, pf.SettingError, f"{quoted}.*row 2"),
        ({name: none}, pf.SettingError, f"{quoted}.*nothing but -inf for a unit in row 4"),
        ({"banks.1": idle}, pf.SettingError, "nothing but -inf for a unit in row 1"),
        ({name: tensor, model.get_parameter(name): tensor}, pf.SettingError, name),
    ]


@pytest.mark.parametrize("number", range(18))
def test_what_does_not_fit_is_refused_by_name(number: int) -> None:
    model, x = compiled(CHAIN), torch.zeros(5, 4).long()
    wrong, error, said = wrong_parameters(model)[number]
    with pytest.raises(error, match=said):
        model.log_prob(x, wrong)  # type: ignore[arg-type]
    with pytest.raises(error, match=said):
        model.filter(5, wrong)  # type: ignore[arg-type]


def test_parameters_of_one_model_are_refused_by_another() -> None:
    model, other, x = compiled(CHAIN), compiled(CHAIN), torch.zeros(5, 4).long()
    known = model.evidence(x, by_row(model, 5))
    assert torch.equal(copy.deepcopy(model).log_prob(known), model.log_prob(known))
    for stranger in (other, compiled(CHAIN, dtype=torch.float32)):
        with pytest.raises(pf.EvidenceError, match="another model"):
            stranger.log_prob(known)


def test_what_reads_the_same_parameters_in_all_rows_refuses() -> None:
    model, x = compiled(CHAIN), torch.zeros(5, 4).long()
    known = model.evidence(x, by_row(model, 5))
    with pytest.raises(pf.EvidenceError, match="viterbi takes no parameters by row"):
        pf.viterbi(model, known)
    soft = model.evidence(pf.Evidence(log_potentials=torch.zeros(5, 4, 3)), by_row(model, 5))
    with pytest.raises(pf.EvidenceError, match="with_potentials takes no parameters by row"):
        soft.top_k(2)
    with pytest.raises(pf.EvidenceError, match="a learner that counts takes no parameters by row"):
        pf.fit(model, known, epochs=1, progress=False)
    for reads in (pf.reference_log_prob, enumerate_log_prob):
        with pytest.raises(pf.EvidenceError, match="parameters by row"):
            reads(model.circuit, known)
    with pytest.raises(pf.EvidenceError, match="parameters by row"):
        pf.marginal_map(model, range(4), known)
    assert pf.state_posteriors(model, known).shape == (5, 4, 3)


def test_an_empty_dict_is_no_parameters() -> None:
    model, x = compiled(CHAIN), torch.zeros(5, 4).long()
    assert model.evidence(x, {}).parameters is None
    assert model.sample(3, parameters={}).shape == (3, 4)
    known = model.evidence(x, by_row(model, 5))
    assert model.evidence(known, {}).parameters is known.parameters
    assert torch.equal(model.filter(2, {}).next_log_probs(), model.filter(2).next_log_probs())
    with pytest.raises(pf.TypeMismatch, match="a dict of tensors"):
        model.sample(3, parameters=[])  # type: ignore[arg-type]


@pytest.mark.parametrize("family", [pf.Bernoulli(), pf.Binomial(3)], ids=["bit", "count"])
def test_what_is_certain_may_be_so_by_row(family: pf.InputFamily) -> None:
    """Log-odds of plus infinity, as the parameter itself may hold; weights may not."""
    model, x = compiled(pf.hmm(3, 2, family)), torch.tensor([[1, 0, 1], [1, 1, 1]])
    parameters = by_row(model, 2)
    (name,) = [n for n, tensor in parameters.items() if tensor.dim() == 3]
    parameters[name][1, 0, 0], parameters[name][0, 0, 1] = torch.inf, -torch.inf
    assert_gradients_are_theirs(model, pf.Evidence(x), parameters, 2)
    for wrong in (torch.full_like(parameters[name], torch.nan), parameters[name]):
        other = parameters | {name: wrong}
        if wrong is parameters[name]:
            other["banks.1"] = torch.full_like(parameters["banks.1"].detach(), torch.inf)
        with pytest.raises(pf.SettingError, match="row 0"):
            model.log_prob(x, other)


def test_checkpoints_tell_parameters_by_row_apart(tmp_path: Path) -> None:
    model, x = compiled(CHAIN), torch.randint(3, (5, 4), device=DEVICE)
    some = by_row(model, 5, ["banks.0"])
    how = {"epochs": 1, "progress": False, "checkpoint": tmp_path / "fit"}
    learner = pf.Gradient(torch.optim.SGD)
    pf.fit(model, model.evidence(x, some), learner, **how)
    for others in ({"banks.0": some["banks.0"] + 1.0}, by_row(model, 5, ["banks.1"]), {}):
        with pytest.raises(pf.FileFormatError, match="train"):
            pf.fit(model, model.evidence(x, others), learner, **how)


def test_evidence_that_has_parameters_takes_no_others() -> None:
    model, x = compiled(CHAIN), torch.zeros(5, 4).long()
    some, others = by_row(model, 5, ["banks.0"]), by_row(model, 5, ["banks.1"])
    known, under = model.evidence(x, some), model.given(~pf.Automaton.options([[0, 1, 1, 0]]))
    for ask in (model.log_prob, model.evidence, under.log_prob, under.evidence):
        with pytest.raises(pf.EvidenceError, match="has parameters by row already"):
            ask(known, others)


def test_what_is_wrong_with_a_row_is_not_told_by_the_parameters_of_others() -> None:
    model, x = compiled(CHAIN), torch.zeros(5, 4).long()
    given = {"banks.0": torch.zeros(5, *model.parameter_shapes["banks.0"], device=DEVICE)}
    given["banks.0"][3, 2, 0] = -torch.inf  # in row 3 variable 2 is never zero
    with torch.no_grad():
        model.banks[0][0, 0] = -torch.inf  # of the model, the first is never zero
    with pytest.raises(pf.NoMassError, match="row 3") as caught:
        model.mpe(x, parameters=given)
    assert caught.value.never is None


@dataclass(frozen=True)
class Only(pf.FiniteFamily):
    """One value, whichever the parameter is nearest to."""

    num_categories: int = 2

    def parameter_shapes(self, units: int) -> dict[str, tuple[int, ...]]:
        return {"at": (units,)}

    def initial(self, units: int, generator: torch.Generator | None = None) -> Parameters:
        return {"at": torch.zeros(units)}

    def log_table(self, params: Parameters) -> Tensor:
        at = params["at"].unsqueeze(-2).round()
        return (at == torch.arange(self.num_categories).to(at).unsqueeze(-1)).to(at).log()

    def maximize(self, params: Parameters, flow: Tensor, pseudocount: float) -> Parameters:
        return dict(params)


def test_mpe_is_not_exact_where_the_largest_parameter_rules_out_more_than_a_row_does() -> None:
    inputs = pf.InputLayer(0, Only(), 2, {"at": pf.Parameter(torch.tensor([0.0, 1.0]))})
    model = compiled(pf.Circuit(pf.SumLayer([inputs], pf.Parameter(torch.zeros(1, 2)))))
    nothing = torch.full((2, 1), torch.nan)
    (name,) = [n for n, shape in model.parameter_shapes.items() if shape == (1, 2)]
    given = torch.tensor([[[0.0, 1.0]], [[1.0, 0.0]]], device=DEVICE)
    assert model.mpe(nothing, parameters={name: given}).exact
    given[0] = 0.0  # both units have the same value, though the largest of all rows differ
    given[1] = torch.tensor([0.0, 1.0])
    assert not model.mpe(nothing, parameters={name: given}).exact


def test_mpe_is_exact_by_what_is_impossible_in_all_rows() -> None:
    zeros = torch.tensor([[0.0, -torch.inf], [-torch.inf, 0.0]])
    logits = {"logits": pf.Parameter(zeros)}
    inputs = pf.InputLayer(0, pf.Categorical(2), 2, logits)
    model = compiled(pf.Circuit(pf.SumLayer([inputs], pf.Parameter(torch.zeros(1, 2)))))
    nothing = torch.full((2, 1), torch.nan)
    (name,) = [n for n, shape in model.parameter_shapes.items() if shape == (1, 2, 2)]
    given = zeros.double().to(DEVICE).expand(2, 1, 2, 2).clone()
    assert model.mpe(nothing, parameters={name: given + 1.0}).exact
    given[1] = 0.0  # in one row both units have both values
    assert not model.mpe(nothing, parameters={name: given}).exact
    with torch.no_grad():
        model.get_parameter(name).zero_()
    assert model.mpe(nothing[:1], parameters={name: given[:1]}).exact


def test_parts_are_of_as_many_rows_as_fit_with_their_parameters() -> None:
    """Those of a part, and as many numbers that are computed; twice that, if slopes are as well."""
    model = compiled(CHAIN, memory=30_000)
    known = model.evidence(torch.zeros(100, 4, device=DEVICE), by_row(model, 100))
    assert known.parameters is not None
    own, lean = known.parameters.numbers_per_row, model.plan.lean.numbers_per_row
    assert own == sum(tensor[0].numel() for tensor in by_row(model, 1).values())
    sizes = {True: lean + 2 * own, False: lean + model.plan.numbers_per_row + 4 * own}
    for up_alone, numbers in sizes.items():
        parts = model.engine.parts(known, lean=up_alone)
        assert len(parts[0].values) == 30_000 // (8 * numbers) < 100
