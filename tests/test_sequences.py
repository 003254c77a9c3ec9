"""Hidden Markov models: paths, posteriors and filters against enumeration of all paths."""

import copy
import itertools
from collections.abc import Callable

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import one_hot

import pcflow as pf
from pcflow.testing import evidence

V = 3
NAN = torch.nan


@st.composite
def chains(draw: st.DrawFn) -> pf.Circuit:
    """Short chains, shared over time or not, some with hard zeros."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    length, states = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    homogeneous = draw(st.booleans())
    circuit = pf.hmm(length, states, pf.Categorical(V), homogeneous, generator)
    weights = {la.weight for la in circuit.layers if isinstance(la, pf.SumLayer)}
    ruled_out = draw(st.booleans())
    return circuit.replace({w: left_to_right(w.value) for w in weights if ruled_out})


def left_to_right(weight: Tensor) -> Tensor:
    """No way back to an earlier state."""
    return weight.masked_fill(torch.ones_like(weight).tril(-1).bool(), -torch.inf)


def every_path(circuit: pf.Circuit, known: pf.CheckedEvidence) -> tuple[Tensor, Tensor]:
    """All paths [P, L], and log p(path, evidence) [P, B], by the plain evaluator."""
    joint = pf.expose_latents(circuit)
    sizes = joint.num_categories[circuit.num_variables :]
    paths = torch.tensor(list(itertools.product(*(range(size or 0) for size in sizes))))
    given = [pf.reference_log_prob(joint, with_path(known, path)) for path in paths]
    return paths, torch.stack(given)


def with_path(known: pf.CheckedEvidence, path: Tensor) -> pf.Evidence:
    """The same evidence, with a path [L] behind it."""
    rows = len(known.values)
    seen = torch.zeros(rows, len(path), dtype=torch.bool)
    soft = None
    if known.potentials is not None:
        flat = torch.zeros(rows, len(path), V, dtype=torch.float64)
        soft = torch.cat([known.potentials.dense(V), flat], dim=1)
    values = torch.cat([known.values, path.expand(rows, -1)], dim=1)
    return pf.Evidence(values, torch.cat([known.missing, seen], dim=1), soft)


def checked(circuit: pf.Circuit, given: pf.Evidence | Tensor) -> pf.CheckedEvidence:
    return pf.compile(circuit, dtype=torch.float64).evidence(given)


def gapped(circuit: pf.Circuit, seed: int, rows: int = 4) -> Tensor:
    """Rows of a chain with gaps that differ, [B, D]."""
    generator = torch.Generator().manual_seed(seed)
    x = pf.compile(circuit, dtype=torch.float64).sample(rows, generator=generator).double()
    return x.masked_fill(torch.rand(x.shape, generator=generator) < 0.4, NAN)


@given(chains(), st.integers(0, 10_000))
def test_viterbi_is_the_best_of_all_paths_whatever_the_gaps(circuit: pf.Circuit, seed: int) -> None:
    x = gapped(circuit, seed)
    paths, log_p = every_path(circuit, checked(circuit, x))
    states, log_value = pf.viterbi(circuit, x)
    best = log_p.max(dim=0).values
    torch.testing.assert_close(log_value, best)
    place = (states == paths.unsqueeze(1)).all(dim=-1).long().argmax(dim=0)  # [B]
    torch.testing.assert_close(log_p[place, torch.arange(len(x))], best)


@given(chains(), st.integers(0, 10_000))
def test_what_is_behind_the_end_of_a_row_is_not_decoded(circuit: pf.Circuit, seed: int) -> None:
    """A row of t positions has the path of a chain of t positions."""
    x = gapped(circuit, seed)
    most = x.shape[1]
    ends = torch.randint(1, most + 1, (len(x),), generator=torch.Generator().manual_seed(seed))
    padded = x.masked_fill(torch.arange(most) >= ends.unsqueeze(1), NAN)
    states, log_value = pf.viterbi(circuit, padded, lengths=ends)
    for row, end in enumerate(ends.tolist()):
        alone = pf.viterbi(pf.unroll(circuit, end), x[row : row + 1, :end])
        assert states[row].tolist() == [*alone.states[0].tolist(), *[-1] * (most - end)]
        torch.testing.assert_close(log_value[row], alone.log_value[0])


def test_lengths_that_fit_no_row_are_refused() -> None:
    chain, x = pf.hmm(3, 2, pf.Categorical(V)), torch.zeros(2, 3)
    for lengths in ([3], [0, 3], [1, 4], [1.0, 2.0], [[1, 2]], 3):
        with pytest.raises(pf.EvidenceError, match="lengths"):
            pf.viterbi(chain, x, lengths)  # type: ignore[arg-type]


def shares(paths: Tensor, log_p: Tensor, states: int) -> Tensor:
    """Of every state at every position, [B, L, K]."""
    there = one_hot(paths, states).double()  # [P, L, K]
    return torch.einsum("pb,plk->blk", log_p.softmax(dim=0), there)


@given(chains(), st.integers(0, 10_000))
def test_posteriors_are_shares_of_all_paths(circuit: pf.Circuit, seed: int) -> None:
    x = gapped(circuit, seed)
    paths, log_p = every_path(circuit, checked(circuit, x))
    found = pf.state_posteriors(circuit, x).exp()
    torch.testing.assert_close(found, shares(paths, log_p, found.shape[-1]))


@given(st.data())
def test_potentials_are_summed_over_too(data: st.DataObject) -> None:
    circuit = pf.hmm(3, 2, pf.Categorical(V), generator=torch.Generator().manual_seed(1))
    known = data.draw(evidence(circuit))
    assume(bool((pf.reference_log_prob(circuit, known) > -torch.inf).all()))
    paths, log_p = every_path(circuit, checked(circuit, known))
    torch.testing.assert_close(pf.viterbi(circuit, known).log_value, log_p.max(dim=0).values)
    found = pf.state_posteriors(circuit, known).exp()
    torch.testing.assert_close(found, shares(paths, log_p, states=2))


def of_table(start: list[float], move: list[list[float]], emit: list[list[float]]) -> pf.Circuit:
    """A chain of three positions with these probabilities."""
    chain = pf.hmm(3, len(start), pf.Categorical(len(emit[0])))
    step = next(
        la.weight for la in chain.layers if isinstance(la, pf.SumLayer) and la is not chain.root
    )
    assert isinstance(chain.root, pf.SumLayer) and isinstance(chain.layers[0], pf.InputLayer)
    logits = chain.layers[0].parameters["logits"]
    given = {chain.root.weight: [start], step: move, logits: list(zip(*emit, strict=True))}
    return chain.replace({p: torch.tensor(v).log() for p, v in given.items()})


def test_viterbi_does_not_choose_what_is_missing() -> None:
    """The best values of a gap lure `mpe` of the joint circuit to another path."""
    chain = of_table([0.5, 0.5], [[0.6, 0.4], [0.4, 0.6]], [[0.34, 0.33, 0.33], [0.05, 0.05, 0.9]])
    row = torch.tensor([[0, NAN, NAN]])
    states, log_value = pf.viterbi(chain, row)
    assert states.tolist() == [[0, 0, 0]]
    assert log_value.exp().item() == pytest.approx(0.5 * 0.34 * 0.6 * 0.6, rel=1e-6)
    joint = pf.compile(pf.expose_latents(chain))
    lured = joint.mpe(torch.cat([row, torch.full((1, 3), NAN)], dim=1)).values[0, 3:]
    assert lured.tolist() == [0, 1, 1]


def tells_all(circuit: pf.Circuit, x: Tensor) -> None:
    """Log-probabilities of prefixes, and what comes next, by a filter and by the whole circuit."""
    model = pf.compile(circuit, dtype=torch.float64)
    seen, past = model.filter(len(x)), torch.full_like(x, NAN)
    for t in range(x.shape[1]):
        ahead = model.marginals(past)[:, t]
        torch.testing.assert_close(seen.next_log_probs().exp(), ahead.exp())
        before, past = model.log_prob(past), past.clone()
        past[:, t] = x[:, t]
        found = seen.observe(x[:, t])
        torch.testing.assert_close(found, model.log_prob(past) - before)
        torch.testing.assert_close(seen.log_prob, model.log_prob(past))
        assert seen.log_states is not None
        own = pf.state_posteriors(model, past)[:, t, : seen.log_states.shape[1]]
        torch.testing.assert_close(seen.log_states.exp(), own.exp())


@given(chains(), st.integers(0, 10_000))
def test_a_filter_says_what_prefixes_say(circuit: pf.Circuit, seed: int) -> None:
    tells_all(circuit, gapped(circuit, seed))


@given(st.integers(0, 10_000), st.integers(1, 3), st.integers(1, 9))
def test_a_filter_goes_on_past_the_end_like_a_longer_chain(
    seed: int, states: int, longer: int
) -> None:
    short = pf.hmm(2, states, pf.Categorical(V), generator=torch.Generator().manual_seed(seed))
    x = gapped(pf.unroll(short, longer), seed)
    seen = pf.compile(short).filter(len(x))
    for column in x.t():
        seen.observe(column)
    whole = pf.reference_log_prob(pf.unroll(short, longer), x)
    torch.testing.assert_close(seen.log_prob, whole, atol=1e-6, rtol=1e-6)


def test_a_filter_asks_nothing_of_the_past() -> None:
    """The model runs no pass at all, and what is kept does not grow."""
    model = pf.compile(pf.hmm(2, 3, pf.Categorical(V)))
    seen = model.filter(5)
    sizes = set()
    for _ in range(20):
        seen.observe(torch.zeros(5))
        tensors = [v for v in vars(seen).values() if isinstance(v, Tensor)]
        sizes.add((sum(t.numel() for t in tensors), len(seen._kept)))
    assert len(sizes - {(20, 2)}) == 1  # no transition leads to the first position
    assert model.rows.seen == 0


def test_a_copy_of_a_filter_goes_its_own_way() -> None:
    seen = pf.compile(pf.hmm(3, 2, pf.Categorical(V))).filter(1)
    seen.observe([0])
    other = copy.copy(seen)
    before = seen.next_log_probs()
    other.observe([1])
    torch.testing.assert_close(seen.next_log_probs(), before, rtol=0, atol=0)
    assert (seen.position, other.position) == (1, 2)


def test_nothing_is_lost_where_a_state_is_very_unlikely() -> None:
    """A state of e^-2000 that turns out to be the only possible one."""
    chain = of_table([0.5, 0.5], [[1.0, 0.0], [0.0, 1.0]], [[0.5, 0.5, 0.0], [0.5, 0.2, 0.3]])
    assert isinstance(chain.layers[0], pf.InputLayer)
    far = torch.tensor([[0.0, -2000.0], [0.0, 0.0], [-torch.inf, 0.0]])  # [V, K]
    chain = chain.replace({chain.layers[0].parameters["logits"]: far})
    seen = pf.compile(chain).filter(2)
    for symbols in ([0, 1], [0, 0], [2, 1]):
        seen.observe(symbols)
    x = torch.tensor([[0, 0, 2], [1, 0, 1]])
    torch.testing.assert_close(seen.log_prob, pf.reference_log_prob(chain, x))


def falling(length: int) -> pf.Circuit:
    """A chain whose first position is the last variable."""
    inputs = [pf.InputLayer.random(v, pf.Categorical(V), units=2) for v in range(length)]
    below = pf.SumLayer.random([inputs[0]], units=2)
    for layer in inputs[1:-1]:
        below = pf.SumLayer.random([pf.ProductLayer([layer, below])], units=2)
    return pf.Circuit(pf.SumLayer.random([pf.ProductLayer([inputs[-1], below])]))


@pytest.mark.parametrize("name", ["naive Bayes", "one position", "falling"])
def test_variables_are_observed_in_their_order(name: str) -> None:
    """Where a chain has them in another one, or all at once."""
    families = [pf.Categorical(V), pf.Gaussian(), pf.Categorical(2)]
    circuit = {
        "naive Bayes": pf.naive_bayes(families, units=3),
        "one position": pf.hmm(1, 3, [families]),
        "falling": falling(3),
    }[name]
    model = pf.compile(circuit, dtype=torch.float64)
    x, seen = model.sample(4).double(), model.filter(4)
    for column, wanted in zip(x.t(), model.conditionals(x).t(), strict=True):
        torch.testing.assert_close(seen.observe(column), wanted)
    with pytest.raises(pf.PropertyRequired, match="next_log_states needs a property"):
        seen.next_log_states()


def test_an_impossible_observation_is_told_and_stops_no_other_row() -> None:
    chain = of_table([1.0, 0.0], [[1.0, 0.0], [0.5, 0.5]], [[1.0, 0.0, 0.0], [0.0, 0.5, 0.5]])
    seen = pf.compile(chain).filter(2)
    assert seen.observe([0, 2]).tolist() == [0.0, -torch.inf]
    assert seen.observe([0, 0]).tolist() == [0.0, -torch.inf]
    assert seen.log_prob.tolist() == [0.0, -torch.inf]
    for ask in (seen.next_log_probs, seen.next_log_states):
        with pytest.raises(pf.NoMassError, match="row 1"):
            ask()


def test_a_filter_refuses_what_does_not_fit() -> None:
    seen = pf.compile(pf.hmm(2, 2, pf.Categorical(V), homogeneous=False)).filter(2)
    for bad in ([0], [0, 7], [[0, 1], [1, 0]], 3, [0.5, 1]):
        with pytest.raises(pf.EvidenceError):
            seen.observe(bad)  # type: ignore[arg-type]
    for none in (-1, 1, 0.0, "0"):
        with pytest.raises(pf.errors.SettingError, match="emission must be"):
            seen.next_log_probs(none)  # type: ignore[arg-type]
    assert seen.position == 0
    seen.observe([0, 1])
    seen.observe([NAN, 1.0])
    with pytest.raises(pf.EvidenceError, match="all 2 positions"):
        seen.observe([0, 0])
    with pytest.raises(pf.PropertyRequired, match="no finite range"):
        pf.compile(pf.hmm(2, 2, pf.Gaussian())).filter(1).next_log_probs()


@given(chains(), st.integers(1, 6), st.integers(0, 10_000))
def test_unrolled_shorter_is_a_marginal_and_longer_has_it(
    circuit: pf.Circuit, length: int, seed: int
) -> None:
    built = circuit.num_variables
    shared = len(circuit.parameters) == 3 and built > 1
    if length > built and not (shared or built == 2):
        with pytest.raises(pf.SettingError, match="length must be at most"):
            pf.unroll(circuit, length)
        return
    if length > built and not shared:
        return  # two positions of their own: told apart by their parameters
    other = pf.unroll(circuit, length)
    assert other.num_variables == length
    assert set(other.parameters) <= set(circuit.parameters)
    both = min(built, length)
    x = gapped(circuit, seed)[:, :both]
    pads = [torch.full((len(x), n - both), NAN) for n in (built, length)]
    one, two = (
        pf.reference_log_prob(c, torch.cat([x, pad], dim=1))
        for c, pad in zip((circuit, other), pads, strict=True)
    )
    torch.testing.assert_close(one, two)


QUERIES: list[Callable[[pf.Circuit], object]] = [
    lambda circuit: pf.viterbi(circuit, torch.zeros(1, 4)),
    lambda circuit: pf.state_posteriors(circuit, torch.zeros(1, 4)),
    lambda circuit: pf.unroll(circuit, 2),
    lambda circuit: pf.stationary(circuit),
    lambda circuit: pf.compile(circuit).filter(1).next_log_states(),
]


@pytest.mark.parametrize("query", QUERIES)
def test_what_is_no_chain_is_refused_with_the_layer(query: Callable[[pf.Circuit], object]) -> None:
    tree = pf.build_circuit(pf.structure.random_binary_tree(4), pf.Categorical(V), 2)
    mixed = pf.mixture([pf.hmm(4, 2, pf.Categorical(V))] * 2, [0.5, 0.5])
    for circuit in (tree, mixed):
        with pytest.raises(pf.NotAChain, match="needs a property") as refused:
            query(circuit)
        assert repr(refused.value.layer) in map(repr, circuit.layers)


def test_labels_are_counts_and_marginals_give_the_chain_back() -> None:
    """Partly labelled states: learn the joint with NaN where the state is not known."""
    circuit = pf.hmm(4, 2, pf.Categorical(V), generator=torch.Generator().manual_seed(0))
    x, z = torch.randint(V, (50, 4)).double(), torch.randint(2, (50, 4)).double()
    joint = pf.compile(pf.expose_latents(circuit), dtype=torch.float64)
    pf.fit(joint, torch.cat([x, z], dim=1), pf.EM(pseudocount=0.0), epochs=1, progress=False)
    found = pf.marginalize(joint, range(4))  # a chain again, with what was tied
    assert len(found.parameters) == len(circuit.parameters)
    first, step, *_ = (la for la in found.layers[::-1] if isinstance(la, pf.SumLayer))
    torch.testing.assert_close(first.log_weight().exp(), counts(torch.zeros(50, 1), z[:, :1]))
    torch.testing.assert_close(step.log_weight().exp(), counts(z[:, :-1], z[:, 1:]))
    assert pf.viterbi(found, x).states.shape == z.shape


def counts(before: Tensor, after: Tensor) -> Tensor:
    """How often bits follow one another, as shares of each that occurs before."""
    pairs = torch.zeros(2, 2, dtype=torch.float64)
    pairs.index_put_((before.long(), after.long()), torch.ones(1).double(), accumulate=True)
    pairs = pairs[pairs.sum(dim=1) > 0]
    return pairs / pairs.sum(dim=1, keepdim=True)


def sensors(length: int, seed: int = 0) -> pf.Circuit:
    """A measurement and a symbol at every position."""
    generator = torch.Generator().manual_seed(seed)
    return pf.hmm(length, 2, [[pf.Gaussian(), pf.Categorical(V)]], generator=generator)


def test_a_position_may_emit_several_things_shared_over_time() -> None:
    circuit = sensors(4)
    assert circuit.num_categories == (None, V) * 4
    assert len(circuit.parameters) == 2 + 1 + 2  # of normals, symbols, and the chain
    alone = [layer for layer in circuit.layers if isinstance(layer, pf.InputLayer)]
    assert len({tuple(layer.parameters.values()) for layer in alone}) == 2


def test_several_emissions_are_decoded_and_filtered_together() -> None:
    circuit = sensors(3)
    x = pf.compile(circuit, dtype=torch.float64).sample(
        5, generator=torch.Generator().manual_seed(0)
    )
    x[0, 0] = x[1, 3] = x[2, 4:] = NAN
    paths, log_p = every_path(circuit, checked(circuit, x))
    torch.testing.assert_close(pf.viterbi(circuit, x).log_value, log_p.max(dim=0).values)
    found = pf.state_posteriors(circuit, x).exp()
    torch.testing.assert_close(found, shares(paths, log_p, states=2))
    seen = pf.compile(circuit).filter(5)
    for t in range(3):
        known = x.clone()
        known[:, 2 * t :] = NAN
        ahead = [
            pf.reference_log_prob(circuit, known.index_fill(1, torch.tensor([2 * t + 1]), v))
            for v in range(V)
        ]
        symbols = torch.stack(ahead, dim=1).log_softmax(dim=1)
        torch.testing.assert_close(seen.next_log_probs(1), symbols)
        seen.observe(x[:, 2 * t : 2 * t + 2])
    torch.testing.assert_close(seen.log_prob, pf.reference_log_prob(circuit, x))
    with pytest.raises(pf.PropertyRequired, match="no finite range"):
        seen.next_log_probs(0)


def test_several_emissions_unroll_and_learn_as_before() -> None:
    short = sensors(2)
    longer = pf.unroll(short, 5)
    assert longer.num_categories == (None, V) * 5
    x = pf.compile(longer, dtype=torch.float64).sample(
        20, generator=torch.Generator().manual_seed(0)
    )
    curve = pf.fit(pf.compile(longer, dtype=torch.float64), x, epochs=8, progress=False).train
    assert all(b >= a - 1e-12 for a, b in itertools.pairwise(curve))


def test_positions_may_differ_in_what_they_emit_unless_they_share_it() -> None:
    kinds = [[pf.Gaussian(), pf.Categorical(V)], [pf.Bernoulli()]]
    with pytest.raises(pf.StructureError, match="the same input family"):
        pf.hmm(2, 2, kinds)
    assert pf.hmm(2, 2, kinds, homogeneous=False).num_categories == (None, V, 2)
    with pytest.raises(pf.StructureError, match="3 positions need as many lists"):
        pf.hmm(3, 2, kinds)
    with pytest.raises(pf.TypeMismatch, match=r"inputs\[1\]\[0\] must be an input family"):
        pf.hmm(2, 2, [[pf.Bernoulli()], [3]])  # type: ignore[list-item]


def test_one_emission_draws_the_parameters_it_always_drew() -> None:
    """A list of one family is that family."""
    one, other = (
        pf.hmm(3, 2, kind, generator=torch.Generator().manual_seed(0))
        for kind in (pf.Categorical(V), [[pf.Categorical(V)]])
    )
    for a, b in zip(one.parameters, other.parameters, strict=True):
        torch.testing.assert_close(a.value, b.value, rtol=0, atol=0)


@given(st.integers(1, 4), st.integers(2, 4), st.integers(0, 10_000))
def test_every_window_of_a_stationary_chain_has_the_same_distribution(
    states: int, length: int, seed: int
) -> None:
    g = torch.Generator().manual_seed(seed)
    circuit = pf.stationary(pf.hmm(length, states, pf.Categorical(V), generator=g))
    assert len(circuit.parameters) == 3
    longer = pf.unroll(circuit, length + 3)
    x = gapped(circuit, seed)
    wanted = pf.reference_log_prob(circuit, x)
    for place in range(4):
        pads = (torch.full((len(x), n), NAN) for n in (place, 3 - place))
        found = pf.reference_log_prob(longer, torch.cat([next(pads), x, next(pads)], dim=1))
        torch.testing.assert_close(found, wanted)


def test_a_stationary_chain_starts_where_its_own_start_leads_to() -> None:
    """Two ends, in one of which the states go in a circle; and the way there."""
    onwards = [[0.0, 0.5, 0.25, 0.25], [0, 1, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]]
    chain = pf.hmm(3, 4, pf.Categorical(V), initial=[1.0, 0, 0, 0], transition=onwards)
    for circuit in (chain, pf.compile(chain)):
        found = pf.stationary(circuit).root.weight.value.exp()
        torch.testing.assert_close(found, torch.tensor([[0.0, 0.5, 0.25, 0.25]]).double())
    slow = torch.eye(2).double() * (1 - 3e-12) + 1e-12
    slow[1] = torch.tensor([2e-12, 1 - 2e-12])
    circuit = pf.hmm(3, 2, pf.Categorical(V), initial=[1.0, 0.0], transition=slow)
    found = pf.stationary(circuit).root.weight.value.exp()
    torch.testing.assert_close(found, torch.tensor([[2 / 3, 1 / 3]]).double(), rtol=0, atol=1e-3)


def test_what_has_no_stationary_distribution_is_refused() -> None:
    differing = pf.hmm(3, 2, pf.Categorical(V), homogeneous=False)
    for circuit in (differing, pf.hmm(1, 2, pf.Categorical(V))):
        with pytest.raises(pf.StructureError, match="positions differ, or there is no transition"):
            pf.stationary(circuit)
