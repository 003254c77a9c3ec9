"""Models given a rule, against enumeration, dense multiplication and rejection."""

import copy
import itertools
import math
import pickle

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import assume, given, settings
from laws import of_fifty
from rules import automata
from torch import Tensor

import pcflow as pf
from pcflow.engine import memory, sparse
from pcflow.inputs import share

NONE = torch.nan


def strings(length: int, V: int) -> Tensor:
    return torch.tensor(list(itertools.product(range(V), repeat=length))).reshape(V**length, length)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def factorized(length: int, family: pf.InputFamily, seed: int, units: int = 1) -> pf.Circuit:
    graph = pf.structure.fully_factorized(length)
    return pf.build_circuit(graph, inputs=family, units=units, generator=seeded(seed))


@st.composite
def trees(draw, first: int, stop: int, units: int, K: int, family: pf.InputFamily, g):
    """Sums over ways to split neighbouring variables into two or three parts, in any order."""
    if stop - first == 1:
        return pf.InputLayer.random(first, family, units, g)
    terms = []
    for _ in range(draw(st.integers(1, 2))):
        cuts = draw(st.lists(st.integers(first + 1, stop - 1), min_size=1, max_size=2, unique=True))
        ends = [first, *sorted(cuts), stop]
        kind = draw(st.sampled_from(["hadamard", "kronecker"]))
        parts = [draw(trees(a, b, K, K, family, g)) for a, b in itertools.pairwise(ends)]
        if kind == "hadamard" or len(parts) == 2:
            parts = draw(st.permutations(parts))
        terms.append(pf.ProductLayer(parts, kind))
    return pf.SumLayer.random(terms, units, generator=g)


@st.composite
def chains(draw, V: int) -> pf.Circuit:
    """Hidden Markov chains, tied, free or with hard zeros; independent variables; trees.

    Also several emissions at a position, and families without logits.
    """
    seed, K = draw(st.integers(0, 999)), draw(st.integers(1, 3))
    length = draw(st.integers(1, 4))
    family = draw(st.sampled_from([pf.Categorical(V), pf.Binomial(V - 1)]))
    kinds = ["tied", "free", "zeros", "several", "independent", "mixture", "tree", "tree"]
    kind = draw(st.sampled_from(kinds))
    g = seeded(seed)
    if kind == "tree":
        return pf.Circuit(draw(trees(0, length, 1, K, family, g)))
    if kind == "zeros":
        table = torch.rand(K, V, generator=g) * (torch.rand(K, V, generator=g) < 0.6)
        table[:, 0] += 0.1
        move = torch.rand(K, K, generator=g).tril() + torch.eye(K)
        emission, transition = (t / t.sum(-1, keepdim=True) for t in (table.double(), move))
        return pf.hmm(length, K, pf.Categorical(V), transition=transition, emission=emission)
    if kind == "several":
        return pf.hmm(2, K, [[family, family]], generator=g)
    if kind in ("independent", "mixture"):
        return factorized(length, family, seed, units=1 if kind == "independent" else K)
    return pf.hmm(length, K, family, homogeneous=kind == "tied", generator=g)


@st.composite
def evidence(draw, length: int, V: int, kinds: tuple[str, ...]) -> pf.Evidence:
    """Three rows: observed, missing and soft, of all or of listed categories."""
    g = seeded(draw(st.integers(0, 999)))
    values = torch.randint(V, (3, length), generator=g)
    missing = torch.rand(3, length, generator=g) < draw(st.sampled_from([0.0, 0.6, 1.0]))
    soft = torch.randn(3, length, V, generator=g).double() * 3
    soft = soft.masked_fill(torch.rand(soft.shape, generator=g) < 0.2, -torch.inf)
    said = pf.Evidence(values, missing, soft)
    match draw(st.sampled_from(kinds)):
        case "hard":
            return pf.Evidence(values, missing)
        case "soft":
            return said
    return said.top_k(draw(st.integers(1, V)))


@pytest.fixture(autouse=True)
def _small_classes_as_they_were(monkeypatch) -> None:
    monkeypatch.setattr(share, "MOST", share.MOST)


@st.composite
def cases(draw, kinds=("hard", "soft", "listed")):
    V = draw(st.integers(2, 3))
    share.MOST = draw(st.sampled_from([0, 1, 8]))  # classes of more values have a step each
    circuit = draw(chains(V))
    rule = draw(automata(st.integers(1, V)))
    rule |= pf.Automaton.options([[0] * circuit.num_variables])  # of this length
    return circuit, rule, draw(evidence(circuit.num_variables, V, kinds))


def weights(circuit: pf.Circuit, rule: pf.Automaton, known: pf.Evidence) -> tuple[Tensor, Tensor]:
    """All strings, and the log-weight [B, N] of each: probability, potentials, evidence, rule."""
    length, V = circuit.num_variables, circuit.num_categories[0]
    x = strings(length, V)
    log = pf.reference_log_prob(circuit, x)
    log = log.masked_fill(~rule.widened(V).accepts(x), -torch.inf)
    missing = known.missing if known.missing is not None else torch.zeros_like(known.values).bool()
    fits = ((known.values.unsqueeze(1) == x) | missing.unsqueeze(1)).all(dim=-1)  # [B, N]
    found = log.expand(len(missing), -1).masked_fill(~fits, -torch.inf)
    if known.potentials is not None:
        dense = known.potentials.dense(V)  # [B, D, V]
        said = dense.gather(-1, x.t().expand(len(dense), -1, -1)).masked_fill(
            ~missing.unsqueeze(-1), 0.0
        )
        found = found + said.sum(dim=1)
    return x, found


def log_probability(circuit: pf.Circuit, rule: pf.Automaton) -> Tensor:
    """Of the rule alone."""
    return weights(circuit, rule, nothing(circuit.num_variables))[1].logsumexp(dim=-1)[0]


def nothing(length: int) -> pf.Evidence:
    return pf.Evidence(torch.zeros(1, length).long(), torch.ones(1, length, dtype=torch.bool))


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a.detach(), b.detach(), rtol=1e-9, atol=1e-9)


@settings(max_examples=of_fifty(40))
@given(cases())
def test_masses_are_those_of_all_strings(case) -> None:
    circuit, rule, known = case
    model = pf.compile(circuit, dtype=torch.float64)
    _, log = weights(circuit, rule, known)
    close(model.given(rule).log_mass(known), log.logsumexp(dim=-1))
    close(model.given(rule).log_probability, log_probability(circuit, rule))


@settings(max_examples=of_fifty(40))
@given(cases())
def test_marginals_and_means_are_those_of_all_strings(case) -> None:
    circuit, rule, known = case
    x, log = weights(circuit, rule, known)
    possible = log.logsumexp(dim=-1) > -torch.inf
    assume(possible.any())
    known, log = known.rows(possible.nonzero().squeeze(-1)), log[possible]
    model = pf.compile(circuit, dtype=torch.float64)
    share, V = log.softmax(dim=-1), circuit.num_categories[0]
    wanted = torch.einsum("bn,ndv->bdv", share, torch.nn.functional.one_hot(x, V).double())
    found = model.given(rule)
    close(found.marginals(known).exp(), wanted)
    chosen = torch.arange(V).flip(0).expand(*wanted.shape)
    close(found.marginals(known, categories=chosen).exp(), wanted.flip(-1))
    close(found.mean(known), wanted @ torch.arange(V).double())
    drawn = found.sample_with_marginals(2, known, seeded(0))
    assert rule.widened(V).accepts(drawn.values.flatten(0, 1)).all()
    told = wanted.expand(2, -1, -1, -1).gather(-1, drawn.values.unsqueeze(-1)).squeeze(-1)
    close(drawn.log_marginals, told.log())


@settings(max_examples=of_fifty(40))
@given(cases())
def test_the_best_string_is_the_best_of_all(case) -> None:
    circuit, rule, known = case
    x, log = weights(circuit, rule, known)
    possible = log.logsumexp(dim=-1) > -torch.inf
    assume(possible.any())
    known, log = known.rows(possible.nonzero().squeeze(-1)), log[possible]
    values, log_value, exact = pf.compile(circuit, dtype=torch.float64).given(rule).mpe(known)
    place = (values.unsqueeze(1) == x).all(dim=-1).int().argmax(dim=-1, keepdim=True)
    log_value = log_value + log_probability(circuit, rule)
    close(log_value, log.gather(-1, place).squeeze(-1))
    if exact or pf.is_deterministic(circuit):
        assert exact
        close(log_value, log.amax(dim=-1))


@settings(max_examples=of_fifty(40))
@given(cases(kinds=("soft", "listed")))
def test_gradients_are_those_of_all_strings(case) -> None:
    circuit, rule, known = case
    log_potentials = known.log_potentials
    soft = log_potentials.clone().requires_grad_()
    mine = pf.Evidence(known.values, known.missing, soft, known.categories)
    model = pf.compile(circuit, dtype=torch.float64)
    mass = model.given(rule).log_mass(mine)
    possible = mass > -torch.inf
    assume(possible.any())
    theirs = {p: p.value.double().requires_grad_() for p in circuit.parameters}
    again = log_potentials.clone().requires_grad_()
    x = strings(circuit.num_variables, circuit.num_categories[0])
    said = pf.Evidence(known.values, known.missing, again, known.categories)
    log = weights(circuit, rule, said)[1] - pf.reference_log_prob(circuit, x)
    log = log.nan_to_num(nan=-torch.inf) + pf.reference_log_prob(circuit, x, theirs)
    wanted = log[possible].logsumexp(dim=-1).sum()
    mass[possible].sum().backward()
    grads = torch.autograd.grad(wanted, [again, *theirs.values()], allow_unused=True)
    close(soft.grad, grads[0].nan_to_num(nan=0.0))
    for bank, members in zip(model.banks, model.plan.banks, strict=True):
        for found, parameter in zip(bank.grad, members, strict=True):
            place = list(theirs).index(parameter)
            close(found, grads[1 + place].nan_to_num(nan=0.0))


def test_a_dense_product_says_the_same() -> None:
    circuit = pf.hmm(5, 3, pf.Categorical(4), generator=seeded(0))
    rule = ~pf.Automaton.phrases([[0, 1], [2, 2, 2]], num_categories=4)
    dense = pf.compile(pf.multiply(circuit, rule.circuit(5)), dtype=torch.float64)
    lazy = pf.compile(circuit, dtype=torch.float64).given(rule)
    soft = pf.Evidence(log_potentials=torch.randn(3, 5, 4, generator=seeded(1)).double())
    x = torch.tensor([[0.0, NONE, NONE, 3, NONE], [NONE] * 5])
    for known in (soft, soft.top_k(2), x):
        close(lazy.log_prob(known), dense.log_prob(known))
        wanted = dense.marginals(known).exp()
        close(lazy.marginals(known).exp(), wanted)
        chosen = torch.arange(4).flip(0).expand(wanted.shape)
        close(lazy.marginals(known, categories=chosen).exp(), wanted.flip(-1))


@given(automata(), st.integers(1, 4))
def test_the_circuit_of_a_rule_is_uniform(rule, length) -> None:
    rule |= pf.Automaton.options([[0] * length])
    circuit = rule.circuit(length)
    x = strings(length, rule.num_categories)
    wanted = torch.zeros(len(x)).double().masked_fill(~rule.accepts(x), -math.inf)
    close(pf.reference_log_prob(circuit, x), wanted - wanted.logsumexp(dim=0))
    assert pf.is_deterministic(circuit)
    assert math.isclose(pf.entropy(circuit), rule.log_count(length), abs_tol=1e-9)


def test_circuits_that_split_variables_that_are_no_neighbours_are_refused() -> None:
    rule = pf.Automaton.phrases([[1, 2]], num_categories=3)
    tree = pf.build_circuit(pf.structure.random_binary_tree(6), pf.Categorical(3), 2)
    with pytest.raises(pf.NotCompatible, match="given needs") as refused:
        pf.compile(tree).given(rule)
    layer, (apart, _) = refused.value.layers[0], refused.value.scopes
    assert apart == tuple(tree.scope(part) for part in layer.inputs)
    assert any(a[-1] + 1 != b[0] for a, b in itertools.pairwise(sorted(apart)))
    with pytest.raises(pf.NotCompatible):
        pf.multiply(tree, rule.circuit(6))


def test_a_tree_says_the_same_as_a_dense_product() -> None:
    """Where both ways are open; and the parameters are those of now."""
    rule = pf.Automaton.phrases([[1, 2]], num_categories=3)
    two = [pf.InputLayer.random(v, pf.Categorical(3), 2, seeded(v)) for v in range(4)]
    pair = pf.ProductLayer(two[2:], "kronecker")
    root = pf.SumLayer.random([pf.ProductLayer([*two[:2], pair], "kronecker")], 1)
    model = pf.compile(pf.Circuit(root), dtype=torch.float64)
    under, x = model.given(rule), strings(4, 3)
    for _ in range(2):
        dense = pf.compile(pf.multiply(model, rule.circuit(4)), dtype=torch.float64)
        close(under.log_prob(x), dense.log_prob(x))
        with torch.no_grad():
            for bank in model.banks:
                bank.add_(torch.randn(bank.shape, generator=seeded(1)))


def test_draws_are_those_that_rejection_leaves() -> None:
    circuit = pf.hmm(4, 3, pf.Categorical(3), generator=seeded(3))
    model = pf.compile(circuit, dtype=torch.float64)
    rule = pf.Automaton.phrases([[1, 2], [0, 0]], num_categories=3)
    soft = pf.Evidence(log_potentials=torch.randn(1, 4, 3, generator=seeded(1)).double())
    hard = pf.Evidence([[NONE, 1, NONE, NONE]])
    for known in (soft, soft.top_k(2), hard, nothing(4)):
        free = model.sample(60_000, known, seeded(4))[:, 0]
        left = free[rule.accepts(free)]
        mine = model.given(rule).sample(len(left), known, seeded(5))[:, 0]
        power = 3 ** torch.arange(4)
        a, b = (torch.bincount(d @ power, minlength=81).double() for d in (left, mine))
        used = a + b > 0
        statistic = ((a - b) ** 2 / (a + b))[used].sum()
        freedom = int(used.sum()) - 1
        assert statistic < freedom + 6 * math.sqrt(2 * freedom)
        share = (model.given(rule).log_mass(known) - model.log_prob(known)).detach()
        error = math.sqrt(share.exp() * (1 - share.exp()) / len(free))
        assert abs(len(left) / len(free) - share.exp()) < 5 * error


def dingo(log_p: Tensor, rule: pf.Automaton) -> tuple[list[int], float]:
    """The best string [L] of independent positions [L, V] that a rule accepts."""
    best = {0: (0.0, [])}
    for row in log_p:
        after: dict[int, tuple[float, list[int]]] = {}
        for state, (score, text) in best.items():
            for v, log in enumerate(row.tolist()):
                there = int(rule.next[state, rule.classes[v]])
                if there >= 0 and score + log > after.get(there, (-math.inf, []))[0]:
                    after[there] = score + log, [*text, v]
        best = after
    score, text = max(
        (found for s, found in best.items() if rule.accept[s]), default=(-math.inf, [])
    )
    return text, score


@given(automata(st.just(3)), st.integers(0, 999))
def test_one_state_and_the_best_is_the_dynamic_program_of_decoders(rule, seed) -> None:
    assume(rule.log_count(4) > -math.inf)
    circuit = factorized(4, pf.Categorical(3), seed)
    model = pf.compile(circuit, dtype=torch.float64)
    nothing = torch.full((1, 4), NONE)
    soft = torch.randn(1, 4, 3, generator=seeded(seed)).double()
    text, score = dingo((model.marginals(nothing) + soft)[0], rule)
    found = model.given(rule)
    values, log_value, exact = found.mpe(pf.Evidence(log_potentials=soft))
    assert exact and values[0].tolist() == text
    close(log_value + found.log_probability, torch.tensor([score], dtype=torch.float64))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("spread", [20.0, 200.0, 2000.0])
def test_the_certificate_is_never_optimistic(seed, spread) -> None:
    """In float32, with numbers that no float32 holds."""
    g = seeded(seed)
    logits = pf.Parameter(torch.randn(4, 3, generator=g) * spread)
    below: pf.Layer = pf.InputLayer(5, pf.Categorical(4), 3, {"logits": logits})
    move = pf.Parameter(torch.randn(3, 3, generator=g) * spread / 4)
    for t in reversed(range(5)):
        here = pf.InputLayer(t, pf.Categorical(4), 3, {"logits": logits})
        below = pf.ProductLayer([here, pf.SumLayer([below], move)])
    circuit = pf.Circuit(pf.SumLayer.random([below], 1, generator=g))
    rule = ~pf.Automaton.phrases([[0, 1], [3, 3]], num_categories=4)
    soft = pf.Evidence(log_potentials=torch.randn(2, 6, 4, generator=g) * spread)
    hard = pf.Evidence([[NONE, 1, NONE, NONE, 2, NONE], [0, 0, 2, NONE, NONE, 1]])
    final = torch.randn(2, len(rule.next), generator=g) * spread
    models = [pf.compile(circuit, dtype=dtype) for dtype in (torch.float32, torch.float64)]
    for ends in ((), ([0, 1], final)):
        both = [model.given(rule, *ends) for model in models]
        for known in (soft, soft.top_k(2), hard):
            low, high = (one.log_mass(known).double() for one in both)
            torch.testing.assert_close(low, high, rtol=2e-5, atol=2e-4)


def test_parts_recordings_and_long_chains_come_for_nothing() -> None:
    circuit = pf.hmm(12, 4, pf.Categorical(5), generator=seeded(0))
    rule = pf.Automaton.phrases([[1, 2]], num_categories=5)
    soft = pf.Evidence(log_potentials=torch.randn(9, 12, 5, generator=seeded(1)).double())
    plain = pf.compile(circuit, dtype=torch.float64)
    wanted = plain.given(rule)
    for how in (
        {"memory": 1 << 15},
        {"machine": pf.Machine(records=True)},
        {"machine": pf.Machine(long=4)},
        {"fold": False},
    ):
        model = pf.compile(circuit, dtype=torch.float64, **how)
        found = model.given(rule)
        for _ in range(3):
            close(found.log_mass(soft), wanted.log_mass(soft))
        close(found.marginals(soft), wanted.marginals(soft))
        found.log_mass(soft).sum().backward()
        wanted.log_mass(soft).sum().backward()
        for a, b in zip(model.parameters(), plain.parameters(), strict=True):
            close(a.grad, b.grad)
        plain.zero_grad()
    only = pf.Automaton.template([{0, 1}] * 12, num_categories=5)  # a chain again
    halves = pf.compile(circuit, dtype=torch.float64, machine=pf.Machine(long=4)).given(only)
    close(halves.log_mass(soft), plain.given(only).log_mass(soft))


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_that_are_zero_need_not_be_read(monkeypatch, batch, dtype) -> None:
    """Passes that leave them out say what passes say that do not."""
    V, length = 30, 9
    model = pf.compile(pf.hmm(length, 5, pf.Categorical(V), generator=seeded(0)), dtype=dtype)
    rule = ~pf.Automaton.phrases([[0, 1, 2], [3, 4]], num_categories=V)
    soft = pf.Evidence(log_potentials=torch.randn(batch, length, V, generator=seeded(1))).top_k(9)
    found = []
    for steps in (sparse.sparse_steps, lambda *sheet: {}):
        monkeypatch.setattr(memory, "sparse_steps", steps)
        under = pf.compile(model.circuit, dtype=dtype).given(rule)
        drawn = under.sample(5, soft, seeded(2))
        found.append((under.log_prob(soft).detach(), under.marginals(soft).detach(), drawn))
    for here, there in zip(*found, strict=True):
        torch.testing.assert_close(here, there)
    dense = pf.Evidence(log_potentials=soft.potentials.dense(V))
    torch.testing.assert_close(model.given(rule).log_prob(dense).detach(), found[0][0])


def test_the_model_is_asked_as_it_is_now() -> None:
    model = pf.compile(pf.hmm(3, 2, pf.Categorical(3), generator=seeded(0)), dtype=torch.float64)
    rule = pf.Automaton.phrases([[1, 2]], num_categories=3)
    found = model.given(rule)
    assert model.given(pf.Automaton.phrases([[1, 2]], num_categories=3)).engine is found.engine
    before = found.log_probability.item()
    with torch.no_grad():
        for bank in model.banks:
            bank.add_(torch.randn(bank.shape, generator=seeded(1)))
    assert found.log_probability.item() != before
    again = pf.compile(model.circuit, dtype=torch.float64).given(rule)
    close(found.log_probability, again.log_probability)
    learner = torch.optim.SGD(model.parameters(), lr=0.5)
    for _ in range(3):  # towards the rule
        before = found.log_probability.item()
        learner.zero_grad()
        (-found.log_probability).backward()
        learner.step()
        assert found.log_probability.item() > before


@pytest.mark.parametrize("again", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_copies_and_pickles_have_a_model_of_their_own(again) -> None:
    model = pf.compile(pf.hmm(3, 2, pf.Categorical(3), generator=seeded(0)), dtype=torch.float64)
    asked, x = model.given(~pf.Automaton.phrases([[0, 1]], num_categories=3)), strings(3, 3)
    found, before = again(asked), asked.log_prob(x).detach()
    with torch.no_grad():
        model.banks[0].add_(1.0 + torch.arange(model.banks[0].numel()).view_as(model.banks[0]))
    torch.testing.assert_close(found.log_prob(x), before, rtol=0.0, atol=0.0)
    assert not torch.equal(asked.log_prob(x), before)


def test_nothing_as_large_as_states_times_squared_units() -> None:
    circuit = pf.hmm(8, 64, pf.Categorical(300), generator=seeded(0))
    model = pf.compile(circuit)
    rule = pf.Automaton.phrases([range(8)], num_categories=300)
    found = model.given(rule)
    assert sum(math.prod(p.shape) for bank in found.engine.plan.banks[3:] for p in bank) < 64 * 64
    found.sample(1, generator=seeded(0))
    weights = found.engine.held.tables["weights"]
    assert weights < 2 * model.engine.held.parameters


@pytest.mark.parametrize(
    ("error", "circuit", "rule"),
    [
        (pf.PropertyRequired, pf.hmm(3, 2, pf.Gaussian()), pf.Automaton.lengths(0, None, 2)),
        (pf.PropertyRequired, pf.naive_bayes([pf.Categorical(2), pf.Categorical(3)], 2),
         pf.Automaton.lengths(0, None, 2)),
        (pf.EmptyLanguage, pf.hmm(3, 2, pf.Categorical(2)), pf.Automaton.options([[1, 1]])),
        (pf.SettingError, pf.hmm(3, 2, pf.Categorical(2)), pf.Automaton.lengths(0, None, 3)),
        (pf.TypeMismatch, pf.hmm(3, 2, pf.Categorical(2)), "a+"),
    ],
)  # fmt: skip
def test_what_cannot_be_given_is_refused(error, circuit, rule) -> None:
    with pytest.raises(error):
        pf.compile(circuit).given(rule)


def test_rows_that_break_the_rule_are_named() -> None:
    found = pf.compile(pf.hmm(3, 2, pf.Categorical(2))).given(pf.Automaton.options([[0, 1, 1]]))
    x = torch.tensor([[0, NONE, 1], [1, NONE, 1]])
    assert found.log_mass(x)[1] == -torch.inf
    for query in (found.marginals, found.mpe, found.mean, lambda e: found.sample(1, e)):
        with pytest.raises(pf.NoMassError) as refused:
            query(x)
        assert refused.value.rows == (1,)
        assert "never has the value 1 under the rule" in str(refused.value)
    assert found.sample(2, x[:1])[:, 0].tolist() == [[0, 1, 1]] * 2


def between_cases():
    return st.tuples(cases(), st.integers(0, 999))


@settings(max_examples=of_fifty(40))
@given(between_cases())
def test_stretches_lead_from_any_state_to_weighed_ones(case) -> None:
    """Every row from a state of its own: masses, draws, marginals and the best of all strings."""
    (circuit, rule, known), seed = case
    V, S = circuit.num_categories[0], len(rule.next)
    wide, g = rule.widened(V), seeded(seed)
    start = torch.randint(-1, S, (3,), generator=g)
    final = torch.randn(3, S, generator=g).double()
    final = final.masked_fill(torch.rand(3, S, generator=g) < 0.3, -torch.inf)
    x, log = weights(circuit, pf.Automaton.lengths(0, None, V), known)
    ends = torch.stack([wide.run(x, start=s.expand(len(x))) for s in start])  # [B, N]
    log = log + final.gather(-1, ends.clamp_min(0)).masked_fill(ends < 0, -torch.inf)
    found = pf.compile(circuit, dtype=torch.float64).given(rule, start, final)
    close(found.log_mass(known), log.logsumexp(dim=-1))
    rows = (log.logsumexp(dim=-1) > -torch.inf).nonzero().squeeze(-1)
    if not len(rows):
        return
    found = pf.compile(circuit, dtype=torch.float64).given(rule, start[rows], final[rows])
    known, log = known.rows(rows), log[rows]
    share = log.softmax(dim=-1)
    wanted = torch.einsum("bn,ndv->bdv", share, torch.nn.functional.one_hot(x, V).double())
    close(found.marginals(known).exp(), wanted)
    drawn = found.sample_with_marginals(2, known, seeded(0))
    for one in drawn.values:
        place = (one.unsqueeze(1) == x).all(dim=-1).int().argmax(dim=-1, keepdim=True)
        assert (log.gather(-1, place) > -torch.inf).all()
    values, log_value, exact = found.mpe(known)
    place = (values.unsqueeze(1) == x).all(dim=-1).int().argmax(dim=-1, keepdim=True)
    close(log_value + found.log_probability, log.gather(-1, place).squeeze(-1))
    if exact:
        close(log_value + found.log_probability, log.amax(dim=-1))


def test_stretches_are_weighed_row_by_row() -> None:
    """Two halves drawn one after the other, by the mass of what may come: as the whole at once."""
    rule = pf.Automaton.phrases([[1, 2], [0, 0]], num_categories=3)
    half = pf.compile(factorized(2, pf.Categorical(3), 0), dtype=torch.float64)
    S, start = len(rule.next), torch.zeros(40_000).long()
    future = half.given(rule, start=torch.arange(S)).log_probability
    first = half.given(rule, start, future).sample(1, generator=seeded(1))[0]
    second = half.given(rule, rule.run(first)).sample(1, generator=seeded(2))[0]
    x = strings(4, 3)
    log = sum(pf.reference_log_prob(half.circuit, part) for part in (x[:, :2], x[:, 2:]))
    wanted = log.masked_fill(~rule.accepts(x), -torch.inf).softmax(dim=0) * len(start)
    counts = torch.bincount(torch.cat([first, second], -1) @ 3 ** torch.arange(3, -1, -1), None, 81)
    used = wanted > 0
    assert not counts[~used].any()
    statistic = ((counts - wanted) ** 2 / wanted)[used].sum()
    assert statistic < used.sum() + 6 * math.sqrt(2 * used.sum())
    whole = half.given(rule, final=future).log_probability
    close(whole, log[rule.accepts(x)].logsumexp(dim=0, keepdim=True))


def test_stretches_have_gradients_parts_and_copies() -> None:
    circuit = pf.hmm(6, 3, pf.Categorical(3), generator=seeded(0))
    rule = ~pf.Automaton.phrases([[1, 2], [0, 0]], num_categories=3)
    start, final = torch.tensor([0, 1, 2, 0]), torch.randn(4, 3, generator=seeded(1)).double()
    soft = torch.randn(4, 6, 3, generator=seeded(2)).double().requires_grad_()
    found = []
    for how in ({}, {"memory": 1 << 14}, {"machine": pf.Machine(records=True)}, {"fold": False}):
        model = pf.compile(circuit, dtype=torch.float64, **how)
        given = model.given(rule, start, final)
        for asked in (given, copy.deepcopy(given)):
            mass = asked.log_mass(pf.Evidence(log_potentials=soft))
            (slope,) = torch.autograd.grad(mass.sum(), soft)
            found.append((mass, slope))
        mass.sum()
    for mass, slope in found:
        close(mass, found[0][0])
        close(slope, found[0][1])
    x = strings(6, 3)
    log = pf.reference_log_prob(circuit, x) + soft.gather(-1, x.t().expand(4, -1, -1)).sum(dim=1)
    ends = torch.stack([rule.run(x, start=s.expand(len(x))) for s in start])
    log = log + final.gather(-1, ends.clamp_min(0)).masked_fill(ends < 0, -torch.inf)
    wanted = log.logsumexp(dim=-1)
    close(found[0][0], wanted)
    close(found[0][1], torch.autograd.grad(wanted.sum(), soft)[0])


@pytest.mark.parametrize("ends", [(), ([0],), ([],), (None, [0.0] * 3)])
def test_batches_without_rows_give_answers_without_rows(ends) -> None:
    model = pf.compile(pf.hmm(4, 3, pf.Categorical(5), generator=seeded(0)))
    found = model.given(~pf.Automaton.phrases([[1, 2], [0, 0]], num_categories=5), *ends)
    soft = pf.Evidence(log_potentials=torch.zeros(0, 4, 5))
    known = [torch.empty(0, 4), soft, soft.top_k(2)]
    if ends == ([],):  # one row goes with every start
        assert found.log_probability.shape == (0,) and found.sample(2).shape == (2, 0, 4)
        known.append(torch.full((1, 4), NONE))
    for x in known:
        assert found.log_mass(x).shape == found.log_prob(x).shape == (0,)
        assert found.marginals(x).shape == (0, 4, 5)
        assert found.mean(x).shape == found.mpe(x).values.shape == (0, 4)
        assert found.sample(2, x).shape == (2, 0, 4)


def test_stretches_that_do_not_fit_are_refused() -> None:
    model = pf.compile(pf.hmm(3, 2, pf.Categorical(2)))
    rule = ~pf.Automaton.phrases([[0, 1]], num_categories=2)
    for start, final in (([0, 5], None), ([[0]], None), ([0, 0], [[0.0, 0.0]] * 3),
                         (None, [0.0, 0.0, 0.0]), (None, [NONE, 0.0]), ([0.5], None)):  # fmt: skip
        with pytest.raises(pf.EvidenceError):
            model.given(rule, start, final)
    given = model.given(rule, [0, 1, -1])
    assert given.log_mass(torch.ones(1, 3)).isfinite().tolist() == [True, False, False]
    assert given.log_prob(torch.ones(1, 3)).isnan().tolist() == [False, False, True]
    with pytest.raises(pf.EvidenceError, match="2 rows for 3 states"):
        given.log_mass(torch.zeros(2, 3))
    with pytest.raises(pf.NoMassError):
        given.sample(1)
    assert model.given(rule, [0, 0]).sample(4).shape == (4, 2, 3)
    assert model.given(rule, [0]).sample(4).shape == (4, 1, 3)
    final = torch.zeros(len(rule.next))
    alone = model.given(rule, None, final)
    assert alone.sample(4).shape == copy.copy(alone).sample(4).shape == (4, 3)
    assert model.given(rule, None, final[None]).sample(4).shape == (4, 1, 3)
