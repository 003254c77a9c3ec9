"""The chain rule and filters: each variable given those before it, against enumeration."""

import copy
import pickle
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import pcflow as pf
from pcflow.circuit import Turns
from pcflow.engine import LogMatrix
from pcflow.inputs import log_sum
from pcflow.testing import (
    circuits,
    enumerate_log_prob,
    enumerate_marginals,
    evidence,
    intervals,
    mixed_families,
)

NAN = torch.nan
CLOSE = {"rtol": 1e-9, "atol": 1e-9}


def prefixes(known: pf.CheckedEvidence) -> Iterator[pf.Evidence]:
    """What is known of no variable, of the first, of the first two, ..."""
    count = known.values.shape[1]
    for end in range(count + 1):
        after = torch.arange(count) >= end
        soft = known.log_potentials
        soft = None if soft is None else soft.masked_fill(after.unsqueeze(-1), 0.0)
        bounds = (known.lower, known.upper)
        ends = (None if t is None else t.masked_fill(after.unsqueeze(-1), NAN) for t in bounds)
        lower, upper = ends
        yield pf.Evidence(known.values, known.missing | after, soft, lower=lower, upper=upper)


def differences(log_mass: list[Tensor]) -> Tensor:
    """Of log-masses [B] those of conditionals [B, D]; -inf from what is impossible on."""
    masses = torch.stack(log_mass, dim=1)
    return torch.where(masses[:, :-1] > -torch.inf, masses.diff(dim=1), -torch.inf)


def sharpened(circuit: pf.Circuit, power: float) -> pf.Circuit:
    """The same with logits so many times as large; in numbers of float32."""
    return circuit.replace({p: power * p.value.float() for p in circuit.parameters})


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(st.data())
def test_conditionals_are_ratios_of_prefixes(data: st.DataObject) -> None:
    circuit = data.draw(circuits())
    some = data.draw(evidence(circuit))
    model = pf.compile(circuit, dtype=torch.float64)
    found = model.conditionals(some)
    masses = [enumerate_log_prob(circuit, prefix) for prefix in prefixes(model.evidence(some))]
    torch.testing.assert_close(found, differences(masses), **CLOSE)
    torch.testing.assert_close(found.sum(dim=1), model.log_prob(some), **CLOSE)


@given(st.data())
def test_conditionals_of_real_values_and_intervals(data: st.DataObject) -> None:
    circuit = data.draw(circuits(4, mixed_families()))
    model = pf.compile(circuit, dtype=torch.float64)
    known = model.evidence(data.draw(intervals(circuit)))
    masses = [pf.reference_log_prob(circuit, prefix) for prefix in prefixes(known)]
    torch.testing.assert_close(model.conditionals(known), differences(masses), **CLOSE)


@given(st.data())
def test_what_comes_next_is_the_marginal_given_what_comes_before(data: st.DataObject) -> None:
    circuit = data.draw(circuits(5))
    some = data.draw(evidence(circuit))
    model = pf.compile(circuit, dtype=torch.float64)
    before = list(prefixes(model.evidence(some)))[:-1]
    wanted = [enumerate_marginals(circuit, prefix)[:, j] for j, prefix in enumerate(before)]
    possible = ~torch.stack(wanted).isnan().flatten(1).any(dim=1)
    asked = possible.nonzero().flatten().tolist()
    if not possible.all():
        with pytest.raises(pf.NoMassError, match="next_log_probs"):
            model.next_log_probs(some)
    found = model.next_log_probs(some, variables=asked[::-1])
    expected = torch.stack([wanted[j] for j in asked[::-1]], dim=1)
    torch.testing.assert_close(found.exp(), expected.exp(), **CLOSE)


@given(st.data())
def test_a_filter_says_what_conditionals_say(data: st.DataObject) -> None:
    """Of a mixture, which is no chain; of chains see test_sequences.py."""
    circuit = data.draw(circuits(5))
    circuit = pf.mixture([circuit, circuit], [0.5, 0.5])
    known = data.draw(evidence(circuit, potentials=False))
    model = pf.compile(circuit, dtype=torch.float64)
    wanted, seen = model.conditionals(known), model.filter(len(known.values))
    for j, (column, hidden) in enumerate(zip(known.values.t(), known.missing.t(), strict=True)):
        before = copy.copy(seen)
        found = seen.observe(column.double().masked_fill(hidden, NAN))
        torch.testing.assert_close(found, wanted[:, j], **CLOSE)
        if (before.log_prob > -torch.inf).all():
            ahead = model.next_log_probs(known, variables=[j])[:, 0]
            mine = before.next_log_probs()  # after the other one has gone on
            torch.testing.assert_close(mine.exp(), ahead[:, : mine.shape[1]].exp(), **CLOSE)
    torch.testing.assert_close(seen.log_prob, model.log_prob(known), **CLOSE)


@given(st.data())
def test_gradients_are_those_of_the_plain_evaluator(data: st.DataObject) -> None:
    """By parameters and potentials, every conditional with a weight of its own."""
    circuit = sharpened(data.draw(circuits(4)), data.draw(st.sampled_from([1.0, 1.0, 300.0])))
    some = data.draw(evidence(circuit))
    model = pf.compile(circuit, dtype=torch.float64)
    known = model.evidence(some)
    soft = known.log_potentials
    soft = None if soft is None else soft.double().requires_grad_()
    known = pf.Evidence(known.values, known.missing, soft)
    found = model.conditionals(known)
    weight = torch.randn(found.shape, generator=seeded(), dtype=torch.float64)
    weight = torch.where(found > -torch.inf, weight, 0.0)
    softs = [] if soft is None else [soft]
    mine = torch.autograd.grad(weighed(found, weight), [*model.banks, *softs])
    values = {p: p.value.double().requires_grad_() for p in circuit.parameters}
    each = prefixes(model.evidence(known))
    plain = differences([pf.reference_log_prob(circuit, prefix, values) for prefix in each])
    leaves = [*values.values(), *softs]
    its = torch.autograd.grad(weighed(plain, weight), leaves, materialize_grads=True)
    of = dict(zip(leaves, its, strict=True))
    banks = [torch.stack([of[values[p]] for p in bank]) for bank in model.plan.banks]
    for one, other in zip(mine, [*banks, *(of[s] for s in softs)], strict=True):
        torch.testing.assert_close(one, other.nan_to_num(), **CLOSE)  # NaN where a family's is


def weighed(found: Tensor, weight: Tensor) -> Tensor:
    return torch.where(weight != 0, weight * found, 0.0).sum()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@given(st.data())
def test_nothing_is_lost_where_units_are_far_apart(dtype: torch.dtype, data: st.DataObject) -> None:
    """Units of e^-900, and prefixes that only they explain."""
    circuit = sharpened(data.draw(circuits(4)), 300.0)
    some = data.draw(evidence(circuit))
    model = pf.compile(circuit, dtype=dtype)
    masses = [pf.reference_log_prob(circuit, p) for p in prefixes(model.evidence(some))]
    wanted = differences(masses)
    largest = max(1.0, *(mass[mass > -torch.inf].abs().sum().item() for mass in masses))
    off = 1e-6 if dtype == torch.float32 else 1e-13
    found = model.conditionals(some)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), wanted, rtol=0, atol=20 * off * largest)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@given(st.data())
def test_what_may_come_next_is_said_however_improbable(
    dtype: torch.dtype, data: st.DataObject
) -> None:
    """Of every value, also of one that only units of e^-900 explain."""
    circuit = sharpened(data.draw(circuits(4)), data.draw(st.sampled_from([100.0, 300.0])))
    model = pf.compile(circuit, dtype=dtype)
    known = model.evidence(data.draw(evidence(circuit)))
    off = 1e-6 if dtype == torch.float32 else 1e-13
    for j, prefix in enumerate(list(prefixes(known))[:-1]):
        before = pf.reference_log_prob(circuit, prefix)
        if not (before > -torch.inf).all():
            return
        found = model.next_log_probs(known, variables=[j])[:, 0].double()
        size = circuit.num_categories[j]
        assert size is not None
        after = pf.reference_log_prob(circuit, with_every_value(prefix, j, size))
        wanted = torch.full_like(found, -torch.inf)
        wanted[:, :size] = after.view(-1, size) - before.unsqueeze(-1)
        largest = 1.0 + before.abs().max().item() + -wanted[wanted > -torch.inf].min().item()
        torch.testing.assert_close(found, wanted, rtol=0, atol=20 * off * largest)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_may_come_last_is_said_however_improbable(dtype: torch.dtype) -> None:
    """No product behind the last variable would see that a state was lost."""
    emission = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]])
    chain = pf.hmm(2, 2, pf.Categorical(3), initial=[0.5, 0.5], emission=emission)
    away = torch.tensor([[0.0, -900.0], [0.0, -900.0]])
    chain = chain.replace({p: away for p in chain.parameters if p.value.shape == (2, 2)})
    found = pf.compile(chain, dtype=dtype).next_log_probs(torch.full((1, 2), NAN), variables=[1])
    assert found[0, 0, 2].item() == pytest.approx(-900.0)


def with_every_value(known: pf.Evidence, variable: int, size: int) -> pf.Evidence:
    """Every row so many times, with one value after the other."""
    assert known.values is not None
    assert known.missing is not None
    every = known.rows(torch.arange(len(known.values)).repeat_interleave(size))
    assert every.values is not None
    assert every.missing is not None
    every.values[:, variable] = torch.arange(size).repeat(len(known.values))
    every.missing[:, variable] = False
    return every


@given(st.integers(0, 10_000), st.booleans(), st.sampled_from([1.0, 500.0]))
def test_products_of_logarithms_lose_nothing(seed: int, by_row: bool, spread: float) -> None:
    """A matrix for all rows, or one each, with numbers that no exponential can hold."""
    generator, shape = seeded(seed), (3, 4, 5) if by_row else (4, 5)
    rows, logs = (
        spread * torch.randn(s, generator=generator, dtype=torch.float64) for s in ((3, 4), shape)
    )
    rows, logs = (
        t.masked_fill(torch.rand(t.shape, generator=generator) < 0.2, -torch.inf)
        for t in (rows, logs)
    )
    rows.requires_grad_()
    logs.requires_grad_()
    found, plain = LogMatrix(logs).after(rows), log_sum(rows.unsqueeze(-1) + logs, dim=1)
    torch.testing.assert_close(found, plain, **CLOSE)
    weight = torch.randn(found.shape, generator=generator, dtype=torch.float64)
    weight = torch.where(plain > -torch.inf, weight, 0.0)
    mine, its = (torch.autograd.grad(weighed(f, weight), [rows, logs]) for f in (found, plain))
    torch.testing.assert_close(mine, tuple(g.nan_to_num() for g in its), **CLOSE)


def test_summands_of_what_is_small_are_made_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many entries are too small for a product: of a large vocabulary all may be."""
    monkeypatch.setattr("pcflow.engine.log_matrix.ENTRIES", 3)
    made, ways = [], LogMatrix._ways

    def count(self: LogMatrix, *given: Tensor) -> Tensor:
        made.append(len(found := ways(self, *given)))
        return found

    monkeypatch.setattr(LogMatrix, "_ways", count)
    rows = torch.tensor([[0.0, -900.0]] * 2, dtype=torch.float64, requires_grad=True)
    logs = torch.tensor([[-900.0] * 8, [0.0] * 8], dtype=torch.float64)
    found = LogMatrix(logs).after(rows)
    torch.testing.assert_close(found, log_sum(rows.unsqueeze(-1) + logs, dim=1), **CLOSE)
    found.sum().backward()
    assert (sum(made), max(made)) == (2 * 16, 3)


def test_gradients_of_real_values() -> None:
    circuit = pf.hmm(3, 2, pf.Gaussian(), generator=seeded())
    x = torch.randn(4, 3, generator=seeded(), dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4, 3, generator=seeded(1), dtype=torch.float64)
    model = pf.compile(circuit, dtype=torch.float64)
    (mine,) = torch.autograd.grad((weight * model.conditionals(x)).sum(), x)
    hidden = torch.ones(3, 3).triu(1).bool()  # row j: what is after j
    plain = [torch.zeros(4, dtype=torch.float64)]
    plain += [pf.reference_log_prob(circuit, pf.Evidence(x, h.expand(4, 3))) for h in hidden]
    (its,) = torch.autograd.grad((weight * differences(plain)).sum(), x)
    torch.testing.assert_close(mine, its, **CLOSE)
    gradient = torch.autograd.grad(model.conditionals(x).sum(), x, create_graph=True)
    with pytest.raises(pf.Unsupported, match="once, not twice"):
        gradient[0].sum().backward()


@given(st.data())
def test_rows_that_do_not_fit_into_memory_go_in_parts(data: st.DataObject) -> None:
    circuit = data.draw(circuits(5))
    whole = pf.compile(circuit, dtype=torch.float64)
    parts = pf.compile(circuit, dtype=torch.float64, memory=1)  # a row at a time
    x = whole.sample(2, generator=seeded())
    found = [model.conditionals(x) for model in (whole, parts)]
    torch.testing.assert_close(*found, **CLOSE)
    weight = torch.randn(found[0].shape, generator=seeded(), dtype=torch.float64)
    if parameters := list(whole.parameters()):
        mine, its = (
            torch.autograd.grad((weight * log_p).sum(), list(model.parameters()))
            for log_p, model in zip(found, (whole, parts), strict=True)
        )
        assert len(parameters) == len(mine)
        torch.testing.assert_close(mine, its, **CLOSE)
    ahead = [model.next_log_probs(x).exp() for model in (whole, parts)]
    torch.testing.assert_close(*ahead, **CLOSE)


@pytest.mark.parametrize("memory", [1, 1 << 30])
def test_parameters_edited_before_backward_are_refused(memory: int) -> None:
    model = pf.compile(pf.hmm(3, 2, pf.Categorical(3)), memory=memory)
    total = model.conditionals(torch.zeros(2, 3)).sum()
    with torch.no_grad():
        model.banks[0].add_(1.0)
    with pytest.raises(RuntimeError, match="edited between"):
        total.backward()


def products(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of products that are made from now on, to be cleared."""
    made: list[int] = []
    multiply = LogMatrix.multiply

    def count(self: LogMatrix, rows: Tensor) -> Tensor:
        made.append(self.linear.numel())
        return multiply(self, rows)

    monkeypatch.setattr(LogMatrix, "multiply", count)
    return made


TREES = {
    "chain": pf.hmm(6, 2, pf.Categorical(3), generator=seeded()),
    "halves": pf.build_circuit(pf.structure.quad_tree((1, 6)), pf.Categorical(3), 2),
    "from the right": pf.build_circuit(pf.structure.chain(6), pf.Categorical(3), 2),
    "independent": pf.build_circuit(pf.structure.fully_factorized(6), pf.Categorical(3), 2),
}


@pytest.mark.parametrize("name", TREES)
def test_trees_in_order_take_one_pass(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not one product is made variable by variable."""
    made = products(monkeypatch)
    model = pf.compile(TREES[name], dtype=torch.float64)
    x = model.sample(4, generator=seeded())
    found = model.conditionals(x)
    assert not made
    masses = [pf.reference_log_prob(TREES[name], prefix) for prefix in prefixes(model.evidence(x))]
    torch.testing.assert_close(found, differences(masses), **CLOSE)


def steps(model: pf.CompiledCircuit, made: list[int]) -> list[tuple[int, int]]:
    """Per step of a filter the products, and the numbers that are kept."""
    seen, found = model.filter(1), []
    for _ in range(model.num_variables):
        made.clear()
        seen.observe(torch.zeros(1))
        walk = seen._walk  # type: ignore[attr-defined]
        kept = sum(t.numel() for held in (walk._contexts, walk._values) for t in held.values())
        found.append((len(made), kept))
    return found


def test_a_step_along_a_chain_costs_the_same_however_long_the_past(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A mixture of two chains, which is none."""
    parts = [pf.hmm(50, 3, pf.Categorical(2), generator=seeded(s)) for s in (0, 1)]
    model = pf.compile(pf.mixture(parts, [0.5, 0.5]), dtype=torch.float64)
    found = steps(model, products(monkeypatch))
    assert len(set(found[1:-2])) == 1
    assert found[1][0] == 2  # one product with the transitions of each


def test_a_step_along_a_tree_costs_the_path_and_all_of_them_two_passes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    order = pf.structure.quad_tree((1, 64))  # halves, and halves of halves
    circuit = pf.build_circuit(order, pf.Categorical(2), 3, generator=seeded())
    model = pf.compile(circuit, dtype=torch.float64)
    sums = sum(isinstance(layer, pf.SumLayer) for layer in circuit.layers)
    found = steps(model, products(monkeypatch))
    assert sum(made for made, _ in found) < 2 * sums
    assert max(made for made, _ in found) <= 2 * 7
    assert max(kept for _, kept in found) < 7 * 3 * 6


def test_wide_products_are_no_longer_than_they_are_deep() -> None:
    """Independent variables, one after another in whatever order: each is seen once."""
    order = torch.randperm(200, generator=seeded()).tolist()
    coins = [pf.InputLayer.random(v, pf.Categorical(2), generator=seeded(v)) for v in order]
    circuit = pf.Circuit(pf.ProductLayer(coins))
    turns = Turns.of(circuit).turns
    assert sum(len(turn.enter) + len(turn.renew) for turn in turns) < 200 * 4
    model, x = pf.compile(circuit, dtype=torch.float64), torch.zeros(1, 200)
    torch.testing.assert_close(model.conditionals(x).sum(dim=1), model.log_prob(x))


def test_contexts_are_kept_of_layers_above_the_next_variable_alone() -> None:
    """Of a tree whose leaves are in no order, which enters and leaves layers many times."""
    circuit = pf.build_circuit(pf.structure.quad_tree((4, 4)), pf.Categorical(2), 2)
    seen = pf.compile(circuit).filter(1)
    for variable in range(1, 16):
        seen.observe([0])
        walk = seen._walk  # type: ignore[attr-defined]
        assert all(variable in walk._turns.circuit.scope(layer) for layer in walk._contexts)


@pytest.mark.parametrize("circuit", TREES.values(), ids=TREES)
def test_a_filter_goes_on_elsewhere(circuit: pf.Circuit) -> None:
    """In another process, by a pickle."""
    seen = pf.compile(circuit).filter(2)
    seen.observe([0, 1])
    other = pickle.loads(pickle.dumps(seen))
    for symbols in ([2, 0], [1, 1]):
        assert torch.equal(other.next_log_probs(), seen.next_log_probs())
        assert torch.equal(other.observe(symbols), seen.observe(symbols))


def test_a_filter_of_a_circuit_refuses_what_does_not_fit() -> None:
    circuit = pf.build_circuit(
        pf.structure.random_binary_tree(2), [pf.Categorical(3), pf.Gaussian()]
    )
    seen = pf.compile(circuit).filter(2)
    for bad in ([0], [0, 7], [[0, 1], [1, 0]], 3, [0.5, 1]):
        with pytest.raises(pf.EvidenceError):
            seen.observe(bad)  # type: ignore[arg-type]
    with pytest.raises(pf.NotAChain, match="next_log_states needs a property"):
        seen.next_log_states()
    seen.observe([0, 1])
    with pytest.raises(pf.PropertyRequired, match="no finite range"):
        seen.next_log_probs()
    with pytest.raises(pf.PropertyRequired, match="no finite range"):
        pf.compile(circuit).next_log_probs(torch.zeros(1, 2))
    seen.observe([0.5, NAN])
    with pytest.raises(pf.EvidenceError, match="all 2 variables"):
        seen.observe([0, 0])
    with pytest.raises(pf.EvidenceError, match="all 2 variables"):
        seen.next_log_probs()


@given(st.data())
def test_parameters_by_row_are_circuits_of_their_own(data: st.DataObject) -> None:
    """Some parameters by row, others shared; values and gradients."""
    circuit = data.draw(circuits(4))
    some = data.draw(evidence(circuit))
    model = pf.compile(circuit, dtype=torch.float64)
    known, rows = model.evidence(some), some.batch_size
    names = data.draw(st.sets(st.sampled_from([*model.parameter_shapes, "none"]))) - {"none"}
    given_ = {
        name: torch.randn(rows, *model.parameter_shapes[name], generator=seeded(n)).double()
        for n, name in enumerate(sorted(names))
    }
    for tensor in given_.values():
        tensor.requires_grad_()
    found = model.conditionals(known, parameters=given_)
    weight = torch.randn(found.shape, generator=seeded(), dtype=torch.float64)
    weight = torch.where(found > -torch.inf, weight, 0.0)
    each = []
    for row in range(rows):
        held = dict(model.named_parameters()) | {name: t[row] for name, t in given_.items()}
        values = {
            p: v
            for bank, members in zip(held.values(), model.plan.banks, strict=True)
            for p, v in zip(members, bank, strict=True)
        }
        part = known.rows(torch.tensor([row]))
        plain = [pf.reference_log_prob(circuit, prefix, values) for prefix in prefixes(part)]
        each.append(differences(plain))
    plain = torch.cat(each)
    torch.testing.assert_close(found, plain, **CLOSE)
    inputs = list(given_.values())
    if inputs and (weight != 0).any():
        mine = torch.autograd.grad(weighed(found, weight), inputs, materialize_grads=True)
        its = torch.autograd.grad(weighed(plain, weight), inputs, materialize_grads=True)
        torch.testing.assert_close(mine, tuple(g.nan_to_num() for g in its), **CLOSE)
    if (model.log_prob(known, given_) > -torch.inf).all():
        ahead = model.next_log_probs(known, parameters=given_).exp()
        torch.testing.assert_close(ahead.sum(dim=-1), torch.ones_like(found), **CLOSE)
        if known.potentials is None:
            said = ahead.gather(-1, known.values.unsqueeze(-1)).squeeze(-1)
            said = said.masked_fill(known.missing, 1.0)
            torch.testing.assert_close(said, found.exp(), **CLOSE)
