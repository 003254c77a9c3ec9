"""Learning: closed forms, textbook updates, and what `fit` promises."""

import math
from collections.abc import Iterable, Iterator
from itertools import product

import pytest
import torch
from device import DEVICE
from torch import Tensor

import pcflow as pf

Pattern = tuple[int, int, int]


def factorised(family: pf.Categorical | pf.Bernoulli | pf.Gaussian) -> pf.CompiledCircuit:
    circuit = pf.build_circuit(pf.structure.fully_factorized(3), family, units=1)
    return pf.compile(circuit, DEVICE, torch.float64)


def test_em_finds_frequencies_at_once() -> None:
    x = torch.randint(4, (200, 3))
    model = factorised(pf.Categorical(4))
    pf.fit(model, x, pf.EM(pseudocount=0.0), epochs=1, progress=False)
    wanted = torch.stack([torch.bincount(column, minlength=4) for column in x.t()]).double() / 200
    nothing = torch.full((1, 3), torch.nan)
    found = model.marginals(nothing)[0].exp().cpu()
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


def test_em_with_gaps_finds_frequencies_of_what_is_there() -> None:
    x = torch.randint(2, (200, 3)).double().masked_fill(torch.rand(200, 3) < 0.4, torch.nan)
    model = factorised(pf.Bernoulli())
    pf.fit(model, x, pf.EM(pseudocount=0.0), epochs=1, progress=False)
    found = model.marginals(torch.full((1, 3), torch.nan))[0, :, 1].exp().cpu()
    torch.testing.assert_close(found, x.nanmean(0), rtol=1e-9, atol=1e-9)


def test_em_finds_means_and_deviations_at_once() -> None:
    x = 3.0 * torch.randn(500, 3, dtype=torch.float64) + torch.tensor([1.0, -2.0, 50.0])
    model = factorised(pf.Gaussian())
    pf.fit(model, x, pf.EM(pseudocount=0.0), epochs=1, progress=False)
    wanted = torch.distributions.Normal(x.mean(0), x.std(0, correction=0))
    torch.testing.assert_close(
        model.log_prob(x[:5]).detach().cpu(), wanted.log_prob(x[:5]).sum(-1), rtol=1e-9, atol=1e-9
    )


NARROWEST: list[tuple[pf.InputFamily, int, float]] = [
    (pf.Gaussian(min_std=0.25), 1, -math.log(0.25 * math.sqrt(2 * math.pi))),
    (pf.LogNormal(min_std=0.25), 1, -math.log(0.25 * math.sqrt(2 * math.pi))),
    (pf.Exponential(min_mean=0.25), 0, -math.log(0.25)),
    (pf.Poisson(min_rate=0.25), 0, -0.25),
]


@pytest.mark.parametrize("family, value, peak", NARROWEST, ids=str)
def test_em_never_makes_a_family_narrower_than_allowed(
    family: pf.InputFamily, value: int, peak: float
) -> None:
    model, x = factorised(family), torch.full((10, 3), value)
    pf.fit(model, x, pf.EM(pseudocount=0.0), epochs=2, progress=False)
    assert model.log_prob(x[:1]).item() == pytest.approx(3 * peak)


def test_em_never_makes_a_logistic_narrower_than_allowed() -> None:
    def learned(min_scale: float) -> float:
        model, x = factorised(pf.DiscretizedLogistic(3, min_scale)), torch.ones(10, 3).long()
        pf.fit(model, x, pf.EM(pseudocount=0.0), epochs=2, progress=False)
        return model.log_prob(x[:1]).item()

    assert learned(0.25) <= 3 * math.log(math.tanh(1.0)) < learned(0.05)


def test_a_pseudocount_is_added_to_every_count() -> None:
    x = torch.tensor([[0, 0, 0], [0, 1, 2]])
    model = factorised(pf.Categorical(3))
    pf.fit(model, x, pf.EM(pseudocount=0.5), epochs=1, progress=False)
    found = model.marginals(torch.full((1, 3), torch.nan))[0].exp().cpu()
    counts = torch.tensor([[2.0, 0, 0], [1, 1, 0], [1, 0, 1]], dtype=torch.float64)
    torch.testing.assert_close(found, (counts + 0.5) / 3.5, rtol=1e-9, atol=1e-9)


def test_one_step_of_em_on_a_hidden_markov_model_is_baum_welch() -> None:
    length, states, symbols = 4, 2, 3
    circuit = pf.hmm(length, states, pf.Categorical(symbols))
    model = pf.compile(circuit, DEVICE, torch.float64)
    start, move, emit = (torch.empty(0),) * 3
    for layer in circuit.layers:
        if isinstance(layer, pf.InputLayer):
            emit = layer.parameters["logits"].value.double().softmax(0)  # [V, K]
        elif layer is circuit.root:
            start = layer.weight.value.double().softmax(-1)[0]  # type: ignore[union-attr]
        elif isinstance(layer, pf.SumLayer):
            move = layer.weight.value.double().softmax(-1)
    x = torch.randint(symbols, (5, length))
    starts, moves, emits = (torch.zeros_like(t) for t in (start, move, emit))
    for row in x.tolist():
        weights = {}
        for path in product(range(states), repeat=length):
            weight = start[path[0]] * emit[row[0], path[0]]
            for t in range(1, length):
                weight = weight * move[path[t - 1], path[t]] * emit[row[t], path[t]]
            weights[path] = weight
        total = sum(weights.values())
        for path, weight in weights.items():
            share = weight / total
            starts[path[0]] += share
            for t in range(length):
                emits[row[t], path[t]] += share
                if t:
                    moves[path[t - 1], path[t]] += share
    pf.fit(model, x, pf.EM(pseudocount=0.0), epochs=1, batch_size=2, progress=False)
    learned = model.circuit
    for layer in learned.layers:
        if isinstance(layer, pf.InputLayer):
            found, wanted = layer.parameters["logits"].value.softmax(0), emits / emits.sum(0)
        elif layer is learned.root:
            assert isinstance(layer, pf.SumLayer)
            found, wanted = layer.weight.value.softmax(-1)[0], starts / starts.sum()
        elif isinstance(layer, pf.SumLayer):
            found, wanted = layer.weight.value.softmax(-1), moves / moves.sum(-1, keepdim=True)
        else:
            continue
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


def test_hard_zeros_stay() -> None:
    either = [pf.InputLayer.random(0, pf.Bernoulli()) for _ in range(3)]
    weight = pf.Parameter.from_probs([[0.5, 0.0, 0.5]])
    model = pf.compile(pf.Circuit(pf.SumLayer(either, weight)), DEVICE)
    for learner in (pf.EM(pseudocount=1.0), pf.Gradient()):
        pf.fit(model, torch.tensor([[0], [1]]), learner, epochs=3, progress=False)
        root = model.circuit.root
        assert isinstance(root, pf.SumLayer)
        assert (root.weight.value == -math.inf).tolist() == [[False, True, False]]


def test_what_is_never_reached_stays() -> None:
    """A pseudocount is no reason to make a row of weights uniform that no row of data counts."""
    moves, first = torch.tensor([[1.0, 0.0], [0.3, 0.7]]).double(), torch.tensor([1.0, 0.0])
    emission = torch.tensor([[0.5, 0.5], [0.1, 0.9]]).double()
    chain = pf.hmm(3, 2, pf.Bernoulli(), initial=first, transition=moves, emission=emission)
    model = pf.compile(chain, DEVICE, torch.float64)
    ones, move, _ = (bank.detach().clone() for bank in model.banks)
    pf.fit(model, torch.tensor([[0, 0, 0], [0, 1, 0]]), pf.EM(pseudocount=1.0), progress=False)
    assert torch.equal(model.banks[1], move)
    assert (model.banks[0] == ones).tolist() == [[False, True]]


def small_hmm() -> pf.CompiledCircuit:
    torch.manual_seed(0)
    return pf.compile(pf.hmm(4, states=3, inputs=pf.Categorical(3)), DEVICE, torch.float64)


DATA = torch.tensor([[0, 1, 2, 0], [1, 1, 1, 1], [2, 0, 1, 2], [0, 0, 0, 0]] * 8)


def test_gradient_does_what_a_loop_with_that_optimizer_does() -> None:
    by_fit, by_hand = small_hmm(), small_hmm()
    pf.fit(
        by_fit,
        DATA,
        pf.Gradient(lambda parameters: torch.optim.SGD(parameters, lr=0.5, momentum=0.9)),
        epochs=3,
        batch_size=len(DATA),
        progress=False,
    )
    optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.5, momentum=0.9)
    for _ in range(3):
        optimizer.zero_grad()
        (-by_hand.log_prob(DATA).mean()).backward()
        optimizer.step()
    for a, b in zip(by_fit.banks, by_hand.banks, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_a_gradient_learner_raises_the_likelihood() -> None:
    model = small_hmm()
    result = pf.fit(model, DATA, pf.Gradient(), epochs=20, batch_size=8, progress=False)
    assert result.train[-1] > result.train[0] + 0.5
    assert len(result.train) == 20


class Scripted:
    """A learner that makes every state emit symbol 0 more and more surely, epoch by epoch."""

    full_batch = True

    def __init__(self, scales: list[float]) -> None:
        self.scales = iter(scales)

    def start(self, model: pf.CompiledCircuit, team: pf.Team) -> "Scripted":
        self.model = model
        return self

    @torch.no_grad()
    def step(self, batches: Iterable[pf.Batch], done: float) -> Tensor:
        list(batches)
        scale = next(self.scales)
        for bank in self.model.banks:
            bank.zero_()[:, 0] = scale  # tables are [V, K], weights [K, J] stay uniform
        return torch.tensor([scale, 1.0]).double()


def test_fit_keeps_the_best_parameters_and_stops_when_patience_ends() -> None:
    scales = [0.0, 0.5, 20.0, 30.0, 40.0]  # always symbol 0 fits worse and worse
    model = small_hmm()
    learner = Scripted(scales)
    result = pf.fit(model, DATA, learner, epochs=5, validation=DATA[:4], patience=2, progress=False)
    best = result.best_epoch
    assert best < 2
    assert result.validation[-1] < max(result.validation) - 1.0
    assert result.validation[best] == max(result.validation)
    assert len(result.validation) == best + 3
    assert model.log_prob(DATA[:4]).mean().item() == pytest.approx(max(result.validation))


def test_the_same_seed_gives_the_same_model() -> None:
    ends = []
    for seed in (1, 1, 2):
        model = small_hmm()
        generator = torch.Generator().manual_seed(seed)
        pf.fit(
            model, DATA, pf.Gradient(), epochs=2, batch_size=8, generator=generator, progress=False
        )
        ends.append(torch.cat([bank.detach().flatten() for bank in model.banks]))
    assert torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])


def test_batches_do_not_change_em() -> None:
    ends = []
    for size in (len(DATA), 5):
        model = small_hmm()
        pf.fit(model, DATA, pf.EM(pseudocount=0.0), epochs=3, batch_size=size, progress=False)
        ends.append(torch.cat([bank.detach().flatten() for bank in model.banks]).softmax(0))
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-9, atol=1e-12)


def test_an_interrupted_fit_leaves_a_model_that_works() -> None:
    class Interrupted(pf.EM):
        def start(self, model: pf.CompiledCircuit, team: pf.Team) -> pf.Run:  # type: ignore[override]
            run = super().start(model, team)
            step, self_count = run.step, iter(range(2))

            def stopped_step(batches: Iterable[pf.Batch], done: float) -> Tensor:
                if next(self_count, None) is None:
                    raise KeyboardInterrupt
                return step(batches, done)

            run.step = stopped_step  # type: ignore[method-assign, assignment]
            return run

    stopped, whole = small_hmm(), small_hmm()
    with pytest.raises(KeyboardInterrupt):
        pf.fit(stopped, DATA, Interrupted(pseudocount=0.0), epochs=5, progress=False)
    pf.fit(whole, DATA, pf.EM(pseudocount=0.0), epochs=2, progress=False)
    assert torch.equal(stopped.log_prob(DATA), whole.log_prob(DATA))


def test_the_bar_shows_and_is_quiet_when_asked(capsys: pytest.CaptureFixture[str]) -> None:
    pf.fit(small_hmm(), DATA, epochs=2, progress=False)
    assert capsys.readouterr() == ("", "")
    pf.fit(small_hmm(), DATA, epochs=2)  # nobody looks
    assert capsys.readouterr() == ("", "")
    pf.fit(small_hmm(), DATA, epochs=2, validation=DATA, progress=True)
    shown = capsys.readouterr().err
    assert "2/2" in shown
    assert "valid=" in shown


def test_fit_refuses_what_it_cannot_use() -> None:
    model = small_hmm()
    with pytest.raises(pf.EvidenceError, match=r"train must be \[N, 4\]"):
        pf.fit(model, DATA[:, :3], progress=False)
    with pytest.raises(pf.EvidenceError, match="with rows"):
        pf.fit(model, DATA[:0], progress=False)
    with pytest.raises(pf.EvidenceError, match="validation must be"):
        pf.fit(model, DATA, validation=DATA[:, :2], progress=False)
    with pytest.raises(pf.EvidenceError, match="no observed value"):
        pf.fit(model, torch.full((3, 4), torch.nan), progress=False)
    with pytest.raises(pf.EvidenceError, match="row 0, variable 0 is 7"):
        pf.fit(model, DATA + 7, progress=False)
    for wrong in ({"epochs": 0}, {"batch_size": 0}, {"patience": 0}):
        wanted = f"{next(iter(wrong))} must be a whole number, at least 1"
        with pytest.raises(pf.SettingError, match=wanted):
            pf.fit(model, DATA, validation=DATA, progress=False, **wrong)  # type: ignore[arg-type]
    with pytest.raises(pf.SettingError, match="patience must be None where there are no valid"):
        pf.fit(model, DATA, patience=3, progress=False)
    with pytest.raises(pf.SettingError, match="pseudocount must be at least 0, got -1"):
        pf.EM(pseudocount=-1.0)


PATTERNS = [(0, 0, 0), (0, 0, 1), (0, 1, 1), (0, 1, 2)]


@pytest.mark.parametrize(("means", "widths"), list(product(PATTERNS, PATTERNS)))
def test_only_what_is_tied_alike_is_counted(means: Pattern, widths: Pattern) -> None:
    shared = [[pf.Parameter(torch.tensor([0.1 * n])) for n in range(3)] for _ in range(2)]
    leaves = []
    for variable, ties in enumerate(zip(means, widths, strict=True)):
        mean, log_std = (some[n] for some, n in zip(shared, ties, strict=True))
        named = {"mean": mean, "log_std": log_std}
        leaves.append(pf.InputLayer(variable, pf.Gaussian(), 1, named))
    model = pf.compile(pf.Circuit(pf.ProductLayer(leaves)), DEVICE)
    x = torch.linspace(-1.0, 1.0, 30).view(10, 3)
    if means != widths:
        with pytest.raises(pf.StructureError, match=r"Gaussian.* are tied in different ways"):
            pf.fit(model, x, pf.EM(), epochs=1, progress=False)
        return
    pf.fit(model, x, pf.EM(), epochs=1, progress=False)
    for ties in set(means):
        values = x[:, [variable for variable, tie in enumerate(means) if tie == ties]]
        found = model.mean(torch.full((1, 3), torch.nan))[0, means.index(ties)]
        assert found.item() == pytest.approx(values.mean().item(), abs=1e-3)


def _still(parameters: Iterator[torch.nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.0)


def test_an_impossible_row_is_named_and_nothing_changes() -> None:
    literal = pf.Circuit(
        pf.ProductLayer(
            [pf.InputLayer(0, pf.Indicator(1)), pf.InputLayer.random(1, pf.Bernoulli())]
        )
    )
    x = torch.tensor([[1, 0], [1, 1], [1, 0], [0, 1]])
    for learner in (pf.EM(), pf.Gradient(_still)):
        model = pf.compile(literal, DEVICE)
        before = [bank.detach().clone() for bank in model.banks]
        with pytest.raises(pf.NoMassError, match=r"fit.* row 3"):
            pf.fit(model, x, learner, epochs=1, batch_size=2, progress=False)
        assert all(torch.equal(a, b) for a, b in zip(model.banks, before, strict=True))


@pytest.mark.parametrize("mixing", [True, False])
def test_tied_weights_have_the_gradients_of_all_sums_that_share_them(mixing: bool) -> None:
    tables = [[pf.Parameter(torch.randn(3, 2)) for _ in range(2)] for _ in range(2)]
    logits, x = torch.randn(2, 2 if mixing else 4), torch.randint(3, (5, 2))

    def gradient(*weights: pf.Parameter) -> Tensor:
        sums = []
        for variable, weight in enumerate(weights):
            over = [
                pf.InputLayer(variable, pf.Categorical(3), 2, {"logits": table})
                for table in tables[variable]
            ]
            sums.append(pf.SumLayer(over, weight, mixing))
        top = pf.Parameter(torch.zeros(1, 2))
        model = pf.compile(pf.Circuit(pf.SumLayer([pf.ProductLayer(sums)], top)))
        assert max(step.folds for step in model.plan.steps[1:]) == 2  # both in one step
        model.log_prob(x).sum().backward()
        (found,) = (p.grad for p in model.parameters() if p.shape[1:] == logits.shape)
        assert found is not None
        return found

    tied = pf.Parameter(logits)
    apart = gradient(pf.Parameter(logits), pf.Parameter(logits.clone()))  # [2, K, J or H]
    torch.testing.assert_close(gradient(tied, tied), apart.sum(dim=0, keepdim=True))
