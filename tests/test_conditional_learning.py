"""Learning conditional likelihoods: gradients, flows of two kinds, steps by hand."""

import copy
from collections.abc import Callable, Iterator

import pytest
import torch
from device import DEVICE
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from laws import of_fifty
from torch import Tensor

import pcflow as pf
from pcflow.learn import Learner
from pcflow.learn.counts import Counts, Layout
from pcflow.testing import circuits


class Rows:
    """Rows with some of their values given, or weighed by potentials."""

    def __init__(
        self,
        x: Tensor,
        given: pf.Evidence,
        offset: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> None:
        self.x, self.given, self.offset, self.weight = x, given, offset, weight

    def __len__(self) -> int:
        return len(self.x)

    def take(self, rows: Tensor) -> pf.Batch:
        def part(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor[rows]

        given = pf.Evidence(
            part(self.given.values), part(self.given.missing), part(self.given.log_potentials)
        )
        return pf.Batch(self.x[rows], given, part(self.offset), part(self.weight))


LEARNERS: dict[str, Callable[[], Learner]] = {
    "Anemone": lambda: pf.Anemone(0.3, pseudocount=0.0),
    "Gradient": lambda: pf.Gradient(lambda p: torch.optim.SGD(p, lr=0.1)),
}
both = pytest.mark.parametrize("learner", LEARNERS)


def compiled(circuit: pf.Circuit) -> pf.CompiledCircuit:
    return pf.compile(circuit, DEVICE, torch.float64)


def some_rows(circuit: pf.Circuit, seed: int, rows: int = 6) -> Rows:
    """Possible rows of a circuit, of which some variables are hidden behind random potentials."""
    generator = torch.Generator().manual_seed(seed)
    x = compiled(circuit).sample(rows, generator=torch.Generator(DEVICE).manual_seed(seed)).cpu()
    missing = torch.rand(x.shape, generator=generator) < 0.7
    largest = max(n for n in circuit.num_categories if n is not None)
    potentials = torch.randn(*x.shape, largest, generator=generator).double()
    return Rows(x, pf.Evidence(x, missing, potentials))


def objective(model: pf.CompiledCircuit, rows: Rows) -> float:
    """Weighted mean, offset and all."""
    batch = rows.take(torch.arange(len(rows)))
    found = batch.log_prob(model).detach().cpu()
    weight = torch.ones(len(rows)) if rows.weight is None else rows.weight
    return float(weight.double() @ found / weight.sum())


def fitted(
    circuit: pf.Circuit | pf.CompiledCircuit, rows: object, learner: Learner, **more: object
) -> pf.CompiledCircuit:
    model = copy.deepcopy(circuit) if isinstance(circuit, pf.CompiledCircuit) else compiled(circuit)
    settings = {"epochs": 1, "batch_size": 100, "progress": False} | more
    pf.fit(model, rows, learner, **settings)  # type: ignore[arg-type]
    return model


@settings(max_examples=of_fifty(25))
@given(circuits(max_variables=4), st.integers(0, 999))
def test_the_gradient_is_the_flow_of_the_evidence_less_that_of_what_is_given(
    circuit: pf.Circuit, seed: int
) -> None:
    """For logits: counts less parameters times their total, summed by the plain evaluator."""
    model, rows = compiled(circuit), some_rows(circuit, seed)
    batch = rows.take(torch.arange(len(rows)))
    counts = Counts(Layout(model.engine.counting))
    with torch.no_grad():
        counts.add(batch)
    model.zero_grad()
    batch.log_prob(model).sum().backward()
    for bank, flow in counts.weights.found.items():
        weight = model.banks[bank].detach().softmax(-1)
        wanted = flow - weight * flow.sum(-1, keepdim=True)
        found = model.banks[bank].grad
        assert found is not None
        torch.testing.assert_close(found, wanted, rtol=1e-7, atol=1e-9)
    assert counts.met[1].item() == len(rows)
    total = batch.log_prob(model).sum().item()
    assert counts.met[0].item() == pytest.approx(total, rel=1e-9, abs=1e-9)


@settings(max_examples=of_fifty(25))
@given(circuits(max_variables=4), st.integers(0, 999))
def test_a_small_enough_step_of_two_flows_does_not_lower_the_objective(
    circuit: pf.Circuit, seed: int
) -> None:
    rows = some_rows(circuit, seed)
    before = objective(compiled(circuit), rows)
    for step in (1e-2, 1e-3, 1e-4, 1e-5, 1e-6):
        learner = pf.Anemone(step, momentum=0.0, pseudocount=0.0)
        gain = objective(fitted(circuit, rows, learner), rows) - before
        if gain >= -1e-12:
            return
    raise AssertionError(f"the last step loses {-gain}")


@settings(max_examples=of_fifty(25))
@given(circuits(max_variables=4), st.integers(0, 999), st.sampled_from([0.1, 0.4, 1.0]))
def test_where_nothing_is_given_it_is_anemone(circuit: pf.Circuit, seed: int, step: float) -> None:
    x = some_rows(circuit, seed).x
    largest = max(n for n in circuit.num_categories if n is not None)
    nothing = Rows(x, pf.Evidence(log_potentials=torch.zeros(*x.shape, largest)))
    learner = pf.Anemone(step, momentum=0.0, pseudocount=1e-3)
    one, other = fitted(circuit, nothing, learner), fitted(circuit, x, learner)
    torch.testing.assert_close(one.log_prob(x), other.log_prob(x), rtol=1e-7, atol=1e-7)


def coin() -> pf.Circuit:
    """.6 [x = 0] + .4 [x = 1]."""
    either = [pf.InputLayer(0, pf.Indicator(v)) for v in (0, 1)]
    return pf.Circuit(pf.SumLayer(either, pf.Parameter.from_probs([[0.6, 0.4]])))


def against(odds: float) -> Rows:
    """A one, where the potentials are for zero by these odds."""
    potentials = torch.tensor([[[odds, 1.0]]], dtype=torch.float64).log()
    return Rows(torch.ones(1, 1), pf.Evidence(log_potentials=potentials))


def of_one(model: pf.CompiledCircuit) -> float:
    return model.log_prob(torch.ones(1, 1)).exp().item()


@pytest.mark.parametrize(
    ("odds", "step", "wanted"),
    [
        (1 / 3, 0.3, 0.5),  # given (1/3, 2/3): (.6, .4) + .3 (-1/3, 1/3)
        (1 / 3, 0.9, 0.7),
        (6.0, 0.9, 1.21 / 1.27),  # given (.9, .1): .6 - .81 is cut off at .1 x .6
    ],
)
def test_two_flows_by_hand(odds: float, step: float, wanted: float) -> None:
    learner = pf.Anemone(step, pseudocount=0.0)
    assert of_one(fitted(coin(), against(odds), learner)) == pytest.approx(wanted)


def test_steps_that_decay_by_hand() -> None:
    """In the second of two epochs the step is half of .3, and the flow given is that of .5, .5."""
    learner = pf.Anemone(0.3, momentum=0.0, pseudocount=0.0, decay=True)
    model = fitted(coin(), against(1 / 3), learner, epochs=2)
    assert of_one(model) == pytest.approx(0.5 + 0.15 * (1 - 0.75))
    steady = pf.Anemone(0.3, momentum=0.0, pseudocount=0.0)
    model = fitted(coin(), against(1 / 3), steady, epochs=2)
    assert of_one(model) == pytest.approx(0.5 + 0.3 * (1 - 0.75))


def test_gradient_steps_that_decay_are_those_of_a_shorter_step() -> None:
    """Batches of 1 in 2 epochs over 2 rows: shares 1, 3/4, 1/2, 1/4 of the step."""
    x = torch.tensor([[1.0], [1.0]])
    seen: list[float] = []

    class Watched(torch.optim.SGD):
        def step(self, closure=None):  # type: ignore[no-untyped-def]
            seen.append(self.param_groups[0]["lr"])
            return super().step(closure)

    made: list[Watched] = []

    def watched(parameters: Iterator[torch.nn.Parameter]) -> Watched:
        made.append(Watched(parameters, lr=0.8))
        return made[-1]

    learner = pf.Gradient(watched, decay=True)
    fitted(coin(), x, learner, epochs=2, batch_size=1)
    assert seen == pytest.approx([0.8, 0.6, 0.4, 0.2])
    assert made[0].param_groups[0]["lr"] == 0.8
    steady = pf.Gradient(lambda p: Watched(p, lr=0.8))
    fitted(coin(), x, steady, epochs=2, batch_size=1)
    assert seen[4:] == [0.8] * 4


def test_a_copied_learner_has_the_same_settings() -> None:
    learner = pf.Anemone(0.3, 0.2, 0.1, decay=True)
    assert copy.deepcopy(learner) == learner


def test_steps_decay_over_the_batches_of_a_loader_too() -> None:
    x = (torch.arange(40) % 3 == 0).double()[:, None]
    loader = torch.utils.data.DataLoader(x, batch_size=10)  # type: ignore[arg-type]
    learner = pf.Anemone(0.5, momentum=0.0, decay=True)
    loaded = fitted(coin(), loader, learner, epochs=2)
    shares = [1 - number / 8 for number in range(8)]
    wanted = compiled(coin())
    for share, rows in zip(shares, [*x.split(10)] * 2, strict=True):
        wanted = fitted(wanted, rows, pf.Anemone(0.5 * share, momentum=0.0))
    torch.testing.assert_close(of_one(loaded), of_one(wanted))


@both
def test_parts_of_a_batch_larger_than_memory_count_as_a_whole(learner: str) -> None:
    circuit = pf.hmm(3, 2, pf.Categorical(3))
    rows = some_rows(circuit, 5, rows=9)
    rows.weight = torch.rand(9) + 0.5
    whole = fitted(circuit, rows, LEARNERS[learner]())
    small = pf.compile(circuit, DEVICE, torch.float64, memory=2000)
    assert len(small.engine.parts(small.engine.check(rows.x))) > 1
    parts = fitted(small, rows, LEARNERS[learner]())
    torch.testing.assert_close(whole.log_prob(rows.x), parts.log_prob(rows.x))


@both
def test_a_row_of_weight_two_counts_as_two_rows(learner: str) -> None:
    circuit = pf.hmm(3, 2, pf.Categorical(3))
    rows = some_rows(circuit, 5)
    weight = torch.tensor([2.0, 1.0, 1.0, 0.0, 1.0, 1.0])
    rows.weight = weight
    twice = rows.take(torch.tensor([0, 0, 1, 2, 4, 5]))
    assert isinstance(twice.evidence, Tensor)
    assert isinstance(twice.given, pf.Evidence)
    one = fitted(circuit, rows, LEARNERS[learner]())
    other = fitted(circuit, Rows(twice.evidence, twice.given), LEARNERS[learner]())
    torch.testing.assert_close(one.log_prob(rows.x), other.log_prob(rows.x))


@both
def test_the_course_of_learning_tells_the_weighted_mean(learner: str) -> None:
    circuit = pf.hmm(3, 2, pf.Categorical(3))
    rows = some_rows(circuit, 5)
    rows.weight, rows.offset = torch.rand(6) + 0.5, torch.randn(6).double()
    model = compiled(circuit)
    start = objective(model, rows)
    result = pf.fit(model, rows, LEARNERS[learner](), epochs=3, validation=rows, progress=False)
    assert result.train[0] == pytest.approx(start)
    assert result.train[1:] == pytest.approx(result.validation[:-1])
    assert objective(model, rows) == pytest.approx(max(result.validation))


def test_labels_are_learned_discriminatively() -> None:
    """Real features given, their label not: the gradient learns what likelihood does not."""
    generator = torch.Generator().manual_seed(0)
    label = torch.randint(2, (200,), generator=generator).double()
    noise = torch.randn(200, 2, generator=generator).double()
    x = torch.stack([label, 5 * noise[:, 0], label + 0.3 * noise[:, 1]], dim=1)
    hidden = torch.tensor([[True, False, False]]).expand(200, -1)
    columns = [pf.Categorical(2), pf.Gaussian(), pf.Gaussian()]
    circuit = pf.naive_bayes(columns, units=3, generator=generator)
    rows = Rows(x, pf.Evidence(x, hidden))
    before = objective(compiled(circuit), rows)
    after = objective(fitted(circuit, rows, pf.Gradient(), epochs=30), rows)
    assert after > max(before, -0.5)  # a guess costs .69


def test_learners_that_cannot_say_so() -> None:
    rows = against(2.0)
    for learner in (pf.EM(), pf.MiniBatchEM()):
        with pytest.raises(pf.TypeMismatch, match="Anemone or Gradient"):
            fitted(coin(), rows, learner)
    with pytest.raises(TypeError, match="Anemone or Gradient"):
        pf.prune(compiled(coin()), rows, keep=0.5)
    circuit = pf.naive_bayes([pf.Categorical(2), pf.Gaussian()], units=2)
    x = torch.zeros(2, 2)
    hidden = torch.tensor([[True, False]]).expand(2, -1)
    with pytest.raises(pf.PropertyRequired, match="Gaussian"):
        fitted(circuit, Rows(x, pf.Evidence(x, hidden)), pf.Anemone())


def test_rows_that_do_not_fit_and_impossible_ones() -> None:
    x = torch.ones(3, 1)
    with pytest.raises(pf.EvidenceError, match="equally many rows"):
        pf.Batch(x, x[:2])
    with pytest.raises(pf.EvidenceError, match="equally many rows"):
        pf.Batch(x, pf.Evidence(x), weight=torch.ones(2))
    potentials = torch.tensor([[[-torch.inf, -torch.inf]]]).double()
    impossible = Rows(torch.ones(1, 1), pf.Evidence(log_potentials=potentials))
    for make in LEARNERS.values():
        with pytest.raises(pf.NoMassError, match="row 0"):
            fitted(coin(), impossible, make())


@given(circuits(max_variables=3), st.integers(0, 99))
@settings(max_examples=of_fifty(15))
def test_any_circuit_stays_a_distribution(circuit: pf.Circuit, seed: int) -> None:
    rows = some_rows(circuit, seed)
    assume(len(rows) > 0)
    model = fitted(circuit, rows, pf.Anemone(1.0), epochs=3, batch_size=2)
    nothing = torch.full((1, circuit.num_variables), torch.nan)
    assert abs(model.log_prob(nothing).item()) < 1e-9


@both
@settings(max_examples=of_fifty(10))
@given(circuits(), st.integers(0, 10**6))
def test_a_batch_of_all_rows_is_data(learner: str, circuit: pf.Circuit, seed: int) -> None:
    made = some_rows(circuit, seed)
    made.offset, made.weight = torch.randn(2, len(made)).double().abs()
    whole = made.take(torch.arange(len(made)))
    found = []
    for rows in (made, whole):
        order = torch.Generator().manual_seed(0)
        found.append(fitted(circuit, rows, LEARNERS[learner](), batch_size=2, generator=order))
    for one, other in zip(*(model.parameters() for model in found), strict=True):
        assert torch.equal(one, other)
