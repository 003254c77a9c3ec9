"""What a row says nothing about teaches nothing: neither padding nor missing parts of a circuit."""

from itertools import pairwise

import pytest
import torch
from device import DEVICE
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import of_fifty
from torch import Tensor

import pcflow as pf
from pcflow.learn import Learner
from pcflow.learn.counts import Counts, Layout
from pcflow.testing import circuits, mixed_families

LEARNERS: dict[str, Learner] = {
    "em": pf.EM(),
    "smoothed em": pf.EM(0.1),
    "anemone": pf.Anemone(),
    "mini-batch": pf.MiniBatchEM(),
    "gradient": pf.Gradient(lambda p: torch.optim.SGD(p, lr=0.1)),
}
NAMES = ["ada", "alan", "barbara", "edsger", "grace", "john", "kurt", "leslie", "tim"]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def names(padding: int) -> Tensor:
    """Letters of names of different lengths, NaN behind the end of each."""
    longest = max(map(len, NAMES)) + padding
    rows = [[float(ord(c) - 97) for c in n] + [torch.nan] * (longest - len(n)) for n in NAMES]
    return torch.tensor(rows, dtype=torch.float64)


def words(padding: int) -> Tensor:
    """As many letters in each."""
    return torch.cat([names(0)[:, :3], torch.full((len(NAMES), padding), torch.nan).double()], 1)


def curve(x: Tensor, learner: Learner, machine: pf.Machine | None = None) -> list[float]:
    chain = pf.hmm(x.shape[1], 3, pf.Categorical(26), generator=seeded())
    model = pf.compile(chain, DEVICE, torch.float64, machine=machine)
    more = {"epochs": 6, "batch_size": 4, "progress": False, "generator": seeded()}
    return pf.fit(model, x, learner, **more).train  # type: ignore[arg-type]


@pytest.mark.parametrize("learner", LEARNERS.values(), ids=LEARNERS)
@pytest.mark.parametrize("rows", [names, words])
def test_padding_changes_no_curve(learner: Learner, rows: object) -> None:
    assert callable(rows)
    short = curve(rows(0), learner)
    assert curve(rows(40), learner) == pytest.approx(short, rel=1e-9)


def test_padding_changes_nothing_that_is_recorded() -> None:
    records = pf.Machine(records=True, sheets=6)
    for learner in (pf.EM(), pf.Anemone()):
        wanted = curve(names(0), learner)
        assert curve(names(9), learner, records) == pytest.approx(wanted, rel=1e-9)


def test_letters_are_counted_by_hand() -> None:
    """A chain of one state is a bag of letters."""
    x = names(4)
    model = pf.compile(pf.hmm(x.shape[1], 1, pf.Categorical(26)), DEVICE, torch.float64)
    pf.fit(model, x, pf.EM(pseudocount=0.0), epochs=1, progress=False)
    letters = x[~x.isnan()].long().bincount(minlength=26).double()
    first = torch.full((26, x.shape[1]), torch.nan)
    first[:, 0] = torch.arange(26)
    found = model.log_prob(first).detach().cpu().exp()
    torch.testing.assert_close(found, letters / letters.sum())


def gappy(circuit: pf.Circuit, seed: int, gaps: float, rows: int = 12) -> Tensor:
    """Possible rows with a share of the values missing."""
    x = pf.compile(circuit, dtype=torch.float64).sample(rows, generator=seeded(seed)).double()
    return x.masked_fill(torch.rand(x.shape, generator=seeded(seed)) < gaps, torch.nan)


def untied(circuit: pf.Circuit) -> tuple[pf.Circuit, dict[pf.Parameter, pf.SumLayer]]:
    """The same with parameters of their own for every layer, and whose the weights are."""
    twin: dict[pf.Layer, pf.Layer] = {}
    whose: dict[pf.Parameter, pf.SumLayer] = {}
    for layer in circuit.layers:
        inputs = [twin[child] for child in layer.inputs]
        match layer:
            case pf.InputLayer():
                own = {n: pf.Parameter(p.value.clone()) for n, p in layer.parameters.items()}
                twin[layer] = pf.InputLayer(layer.variable, layer.family, layer.units, own)
            case pf.SumLayer():
                weight = pf.Parameter(layer.weight.value.clone())
                twin[layer] = pf.SumLayer(inputs, weight, layer.mixing)
                whose[weight] = layer
            case pf.ProductLayer():
                twin[layer] = pf.ProductLayer(inputs, layer.kind)
    return pf.Circuit(twin[circuit.root]), whose


@given(circuits(families=mixed_families()), st.integers(0, 999), st.sampled_from([0.3, 0.7, 1.0]))
def test_sums_below_which_nothing_is_known_count_nothing(
    circuit: pf.Circuit, seed: int, gaps: float
) -> None:
    """Flows of every row and layer by ordinary ways down, added up where something is known."""
    x = gappy(circuit, seed, gaps)
    model = pf.compile(circuit, DEVICE, torch.float64)
    counts = Counts(Layout(model.engine.counting))
    counts.add(pf.Batch(x))
    plain, whose = untied(circuit)
    alone = pf.compile(plain, DEVICE, torch.float64)
    wanted = {p: torch.zeros_like(p.value).double() for p in circuit.parameters}
    for row in x:
        flows = Counts(Layout(alone.engine.counting))
        evaluation = alone.engine.evaluate(alone.engine.check(row.unsqueeze(0)))
        one = torch.ones_like(evaluation.log_value)
        evaluation.down(one, lambda leaf, slope: None, flows.at_weights)
        for bank, found in flows.weights.found.items():
            for flow, parameter in zip(found, alone.plan.banks[bank], strict=True):
                if not row[list(circuit.scope(whose[parameter]))].isnan().all():
                    wanted[whose[parameter].weight] += flow.cpu()
    for bank, found in counts.weights.found.items():
        for flow, parameter in zip(found, model.plan.banks[bank], strict=True):
            torch.testing.assert_close(flow.cpu(), wanted[parameter], rtol=1e-7, atol=1e-9)


@settings(max_examples=of_fifty(30))
@given(circuits(families=mixed_families()), st.integers(0, 999), st.sampled_from([0.5, 0.8]))
def test_em_never_lowers_the_likelihood_of_what_is_there(
    circuit: pf.Circuit, seed: int, gaps: float
) -> None:
    x = gappy(circuit, seed, gaps)
    if x.isnan().all():
        return
    elsewhere = circuit.replace({p: 0.7 * p.value for p in circuit.parameters})
    model = pf.compile(elsewhere, DEVICE, torch.float64)
    x = x[model.log_prob(x).cpu() > -torch.inf]
    if len(x) == 0 or x.isnan().all():
        return
    found = pf.fit(model, x, pf.EM(pseudocount=0.0), epochs=4, batch_size=5, progress=False).train
    for before, after in pairwise(found):
        assert after >= before - 1e-9 * max(1.0, abs(before))


@pytest.mark.parametrize("learner", [v for k, v in LEARNERS.items() if k != "gradient"])
@settings(max_examples=of_fifty(15))
@given(circuits(families=mixed_families()), st.integers(0, 999))
def test_rows_of_nothing_teach_nothing(learner: Learner, circuit: pf.Circuit, seed: int) -> None:
    """But their log-likelihood of zero is in the mean."""
    x = gappy(circuit, seed, 0.2)
    if x.isnan().all():
        return
    nothing = torch.full((20, circuit.num_variables), torch.nan)
    fitted = []
    for rows in (x, torch.cat([x, nothing])):
        model = pf.compile(circuit, DEVICE, torch.float64)
        pf.fit(model, rows, learner, epochs=2, batch_size=99, progress=False, generator=seeded())
        fitted.append(model.log_prob(x))
    torch.testing.assert_close(fitted[1], fitted[0], rtol=1e-8, atol=1e-8)


def test_what_no_row_tells_of_yet_is_kept_by_anemone() -> None:
    """A pseudocount would make all states alike, and they could never part again."""
    chain = pf.hmm(3, 4, pf.Categorical(5), homogeneous=False, generator=seeded())
    model = pf.compile(chain, DEVICE, torch.float64)
    rows = torch.tensor([[1.0, 2.0, torch.nan]])
    pf.fit(model, rows, pf.Anemone(), epochs=2, progress=False)

    def emissions(circuit: pf.Circuit) -> list[Tensor]:
        inputs = [layer for layer in circuit.layers if isinstance(layer, pf.InputLayer)]
        inputs.sort(key=lambda layer: layer.variable)
        return [layer.parameters["logits"].value.double().softmax(0) for layer in inputs]

    pairs = zip(emissions(chain), emissions(model.circuit), strict=True)
    moved = [bool((before - after.cpu()).abs().max() > 1e-4) for before, after in pairs]
    assert moved == [True, True, False]
