"""Circuits whose parameters a network moves: every row against a circuit of its own.

Legend: B rows, f features, D variables.
"""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from device import DEVICE
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import of_fifty
from torch import Tensor, nn

import pcflow as pf
from pcflow.testing import circuits

FEATURES, ROWS = 3, 4
SEEDS = st.integers(0, 10**6)
NETWORKS = st.fixed_dictionaries(
    {"hidden": st.sampled_from([(), (5,), (4, 6)]), "rank": st.sampled_from([None, 1, 2])}
)
MIXED = st.sampled_from([pf.Gaussian(), pf.LogNormal(), pf.Poisson(), pf.Categorical(3)])


def conditional_of(circuit: pf.Circuit, seed: int, **sizes: Any) -> pf.ConditionalCircuit:
    torch.manual_seed(seed)
    model = pf.compile(circuit, DEVICE, torch.float64)
    return pf.ConditionalCircuit(model, FEATURES, **sizes)


def talking(conditional: pf.ConditionalCircuit) -> pf.ConditionalCircuit:
    """The same with a network that says something."""
    with torch.no_grad():
        for parameter in conditional.network.parameters():
            parameter.normal_(std=0.4)
    return conditional


def features_of(seed: int, rows: int = ROWS) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, FEATURES, generator=generator, dtype=torch.float64).to(DEVICE)


def rows_of(model: pf.CompiledCircuit, seed: int, rows: int = ROWS) -> Tensor:
    """Draws, a third of whose values are missing."""
    generator = torch.Generator(DEVICE).manual_seed(seed)
    x = model.sample(rows, generator=generator).double()
    hidden = torch.rand(x.shape, generator=generator, device=DEVICE) < 1 / 3
    return x.masked_fill(hidden, torch.nan)


def each(conditional: pf.ConditionalCircuit, features: Tensor) -> Iterator[pf.CompiledCircuit]:
    """A model for every row."""
    moved = conditional(features).parameters
    for row in range(len(features)):
        model = copy.deepcopy(conditional.model)
        theta = dict(model.named_parameters())
        with torch.no_grad():
            for name, values in moved.items():
                theta[name].copy_(values[row])
        yield model


@given(circuits(families=MIXED), SEEDS, NETWORKS)
def test_a_new_network_leaves_every_row_the_circuit_as_it_is(
    circuit: pf.Circuit, seed: int, sizes: dict[str, Any]
) -> None:
    conditional, features = conditional_of(circuit, seed, **sizes), features_of(seed)
    model = conditional.model
    for name, parameter in model.named_parameters():
        for row in conditional(features).parameters[name]:
            assert torch.equal(row, parameter)  # bit for bit
    x = rows_of(model, seed)
    found = conditional.log_prob(x, features)
    torch.testing.assert_close(found, model.log_prob(x), rtol=1e-12, atol=1e-12)


@settings(max_examples=of_fifty(20))
@given(circuits(), SEEDS, NETWORKS)
def test_every_row_is_a_circuit_of_its_own(
    circuit: pf.Circuit, seed: int, sizes: dict[str, Any]
) -> None:
    conditional = talking(conditional_of(circuit, seed, **sizes))
    features, x = features_of(seed), rows_of(conditional.model, seed)
    given = conditional(features)
    log_prob, log_m, mean, best = (
        given.log_prob(x),
        given.marginals(x),
        given.mean(x),
        given.mpe(x).log_value,
    )
    for row, model in enumerate(each(conditional, features)):
        own = x[row : row + 1]
        close = {"rtol": 1e-9, "atol": 1e-9}
        torch.testing.assert_close(log_prob[row : row + 1], model.log_prob(own), **close)
        torch.testing.assert_close(log_m[row : row + 1], model.marginals(own), **close)
        torch.testing.assert_close(mean[row : row + 1], model.mean(own), **close)
        torch.testing.assert_close(best[row : row + 1], model.mpe(own).log_value, **close)


@settings(max_examples=of_fifty(15))
@given(circuits(max_variables=4, families=MIXED), SEEDS, NETWORKS)
def test_gradients_are_those_of_the_reference(
    circuit: pf.Circuit, seed: int, sizes: dict[str, Any]
) -> None:
    conditional = talking(conditional_of(circuit, seed, **sizes))
    features, x = features_of(seed).requires_grad_(), rows_of(conditional.model, seed)
    inputs = [features, *conditional.parameters()]
    found = torch.autograd.grad(conditional.log_prob(x, features).sum(), inputs)
    moved, total = conditional(features).parameters, torch.zeros((), device=DEVICE).double()
    names, banks = conditional.model.parameter_shapes, conditional.engine.plan.banks
    for row in range(ROWS):
        own = {
            parameter: moved[name][row, place]
            for name, bank in zip(names, banks, strict=True)
            for place, parameter in enumerate(bank)
        }
        total = total + pf.reference_log_prob(circuit, x[row : row + 1], own).sum()
    wanted = torch.autograd.grad(total, inputs)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)


def some(**sizes: Any) -> pf.ConditionalCircuit:
    circuit = pf.build_circuit(pf.structure.chain(3), inputs=pf.Gaussian(), units=3)
    return conditional_of(circuit, 0, **sizes)


def test_parameters_that_are_not_named_are_shared() -> None:
    weights = {name for name, _ in some().model.weight_places}
    conditional = talking(some(per_row=weights))
    assert set(conditional(features_of(0)).parameters) == weights
    x = torch.zeros(ROWS, 3, device=DEVICE)
    (-conditional.log_prob(x, features_of(0)).sum()).backward()
    assert all(p.grad is not None for p in conditional.parameters())  # all of them learn


def test_low_rank_deltas_have_low_rank() -> None:
    circuit = pf.hmm(4, states=6, inputs=pf.Categorical(9))
    conditional = talking(conditional_of(circuit, 0, rank=2))
    theta = dict(conditional.model.named_parameters())
    for name, moved in conditional(features_of(1)).parameters.items():
        ranks = torch.linalg.matrix_rank(moved - theta[name], rtol=1e-9)
        assert int(ranks.max()) == min(2, *moved.shape[-2:])


def test_draws_keep_what_is_known() -> None:
    conditional, features = talking(some()), features_of(2)
    assert conditional(features).sample(5).shape == (5, ROWS, 3)
    known = torch.tensor([[0.5, torch.nan, torch.nan]]).to(DEVICE).expand(ROWS, -1)
    drawn = conditional(features).sample(5, known)
    assert bool((drawn[..., 0] == 0.5).all())
    again = [
        conditional(features).sample(5, known, torch.Generator(DEVICE).manual_seed(0))
        for _ in range(2)
    ]
    assert torch.equal(*again)


def simulated(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Two outputs whose place and correlation follow a feature."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(count, 1, generator=generator, dtype=torch.float64) * 2 - 1
    noise = torch.randn(count, 2, generator=generator, dtype=torch.float64)
    second = x * noise[:, :1] + 0.3 * noise[:, 1:]
    return x.to(DEVICE), torch.cat([3 * x + 0.5 * noise[:, :1], second], 1).to(DEVICE)


def learner(step: float = 0.02) -> pf.Gradient:
    return pf.Gradient(lambda parameters: torch.optim.Adam(parameters, lr=step))


def fresh(y: Tensor, seed: int = 0) -> pf.ConditionalCircuit:
    torch.manual_seed(seed)
    circuit = pf.naive_bayes([pf.Gaussian()] * 2, units=3)
    model = pf.compile(pf.initialize(circuit, y.cpu()), DEVICE, torch.float64)
    return pf.ConditionalCircuit(model, features=1, hidden=(16,))


def fitted(conditional: pf.ConditionalCircuit, data: pf.Batch, **more: Any) -> pf.FitResult:
    how = {"epochs": 4, "batch_size": 50, "progress": False} | more
    generator = torch.Generator().manual_seed(0)
    return pf.fit(conditional, data, learner(), generator=generator, **how)


def test_fit_learns_what_depends_on_features() -> None:
    (x, y), (x1, y1) = simulated(400, 0), simulated(400, 1)
    conditional = fresh(y)
    judge = pf.Batch(y1, features=x1)
    result = fitted(conditional, pf.Batch(y, features=x), epochs=15, validation=judge)
    plain = copy.deepcopy(conditional.model)
    pf.fit(plain, y, pf.EM(), epochs=100, progress=False)
    with torch.no_grad():
        given, blind = conditional.log_prob(y1, x1).mean(), plain.log_prob(y1).mean()
    torch.testing.assert_close(float(given), max(result.validation))
    assert given > blind + 1.0  # of the entropy of a place that the feature tells, 1.4 nats


def test_learning_does_not_depend_on_units() -> None:
    x, y = simulated(200, 0)
    found = []
    for scale, shift in ((1.0, 0.0), (1000.0, 5000.0)):
        units = scale * y + shift
        conditional = fresh(units)
        result = fitted(conditional, pf.Batch(units, features=x))
        found.append(result.train[-1] + 2 * torch.tensor(scale).log().item())
    assert found[0] == pytest.approx(found[1], abs=1e-6)


def test_fit_goes_on_from_a_checkpoint_bit_for_bit(tmp_path: Path) -> None:
    x, y = simulated(200, 0)
    data = pf.Batch(y, features=x)
    whole, parts = fresh(y), [fresh(y), fresh(y, seed=1)]  # begun anew, with other scales
    fitted(whole, data, epochs=4, validation=data, checkpoint=tmp_path / "whole")
    for conditional, stop in zip(parts, (2, 4), strict=True):
        fitted(
            conditional,
            data,
            epochs=4,
            validation=data,
            checkpoint=tmp_path / "part",
            after_epoch=lambda result, stop=stop: len(result.train) >= stop,
        )
    there, again = whole.state_dict(), parts[1].state_dict()
    assert all(torch.equal(there[name], again[name]) for name in there)
    other_features = pf.Batch(y, features=x + 1)
    with pytest.raises(pf.FileFormatError, match="train"):
        fitted(fresh(y), other_features, checkpoint=tmp_path / "part")


@settings(max_examples=of_fifty(10))
@given(circuits(families=MIXED), SEEDS, NETWORKS)
def test_files_say_the_same(
    tmp_path_factory: pytest.TempPathFactory, circuit: pf.Circuit, seed: int, sizes: dict[str, Any]
) -> None:
    conditional = talking(conditional_of(circuit, seed, **sizes))
    path = tmp_path_factory.mktemp("files") / "conditional.safetensors"
    conditional.save(path)
    state = torch.get_rng_state()
    again = pf.ConditionalCircuit.load(path, DEVICE)
    assert torch.equal(torch.get_rng_state(), state)  # as reading any file
    assert again.sizes == conditional.sizes
    features, x = features_of(seed), rows_of(conditional.model, seed)
    assert torch.equal(conditional.log_prob(x, features), again.log_prob(x, features))


def test_files_that_contradict_themselves_are_refused(tmp_path: Path) -> None:
    conditional, path = talking(some(hidden=(4,))), tmp_path / "conditional"
    conditional.save(path)
    file = pf.Container(path)
    told, tensors = file.told("conditional"), file.tensors()
    for change in (
        {"features": 10**12},
        {"hidden": [5]},
        {"hidden": "4"},
        {"rank": -1},
        {"per_row": ["banks.99"]},
        {"more": 1},
    ):
        texts = file.texts | {"conditional": json.dumps(told | {"sizes": told["sizes"] | change})}
        pf.Container.write(path, tensors, texts)
        with pytest.raises(pf.FileFormatError):
            pf.ConditionalCircuit.load(path)
    texts = file.texts | {"conditional": json.dumps(told | {"order": told["order"][::-1]})}
    pf.Container.write(path, tensors, texts)
    with pytest.raises(pf.FileFormatError, match="other settings"):
        pf.ConditionalCircuit.load(path)
    name = next(name for name in tensors if name.startswith("network."))
    for other in ({name: tensors[name].long()}, {"network.more": torch.zeros(2)}):
        pf.Container.write(path, tensors | other, file.texts)
        with pytest.raises(pf.FileFormatError, match="not those of such a network"):
            pf.ConditionalCircuit.load(path)
    pf.save(conditional.model, path)
    with pytest.raises(pf.FileFormatError, match="conditional"):
        pf.ConditionalCircuit.load(path)


def test_wrong_arguments_are_named() -> None:
    model = some().model
    with pytest.raises(pf.TypeMismatch, match="model"):
        pf.ConditionalCircuit(nn.Linear(2, 2), 3)  # type: ignore[arg-type]
    for change, name in (
        ({"features": 0}, "features"),
        ({"features": 2, "hidden": (0,)}, r"hidden\[0\]"),
        ({"features": 2, "rank": 0}, "rank"),
        ({"features": 2, "per_row": ["banks.99"]}, "per_row"),
    ):
        with pytest.raises(pf.SettingError, match=name):
            pf.ConditionalCircuit(model, **change)  # type: ignore[arg-type]
    conditional = some()
    y = torch.zeros(ROWS, 3)
    with pytest.raises(pf.EvidenceError, match=r"features must be \[B, 3\], got \[4, 2\]"):
        conditional.log_prob(y, torch.zeros(ROWS, 2))
    bad = features_of(0)
    bad[1, 2] = torch.nan
    with pytest.raises(pf.EvidenceError, match=r"features\[1, 2\] is nan"):
        conditional.log_prob(y, bad)
    with pytest.raises(pf.EvidenceError):
        conditional.log_prob(y, features_of(0, rows=ROWS + 1))


def test_rows_without_features_are_refused_before_anything_is_learned() -> None:
    """By themselves, to judge by, or as a loader makes them; and features where none are known."""
    conditional, (x, y) = fresh(simulated(40, 0)[1]), simulated(40, 0)
    before, good = copy.deepcopy(conditional.state_dict()), pf.Batch(y, features=x)
    loader = torch.utils.data.DataLoader(y, batch_size=8)
    cases: list[tuple[Any, Any, Any, str]] = [
        (conditional, y, None, r"train has no features.*Batch\(y, features=x\)"),
        (conditional, pf.Batch(y), None, "train has no features"),
        (conditional, good, y, "validation has no features"),
        (conditional, loader, None, "a batch has no features"),
        (conditional.model, good, None, "train has features, of which a CompiledCircuit"),
        (conditional.model, y, good, "validation has features.*learn a ConditionalCircuit"),
    ]
    for model, train, validation, said in cases:
        with pytest.raises(pf.EvidenceError, match=said):
            pf.fit(model, train, learner(), validation=validation, progress=False)
    after = conditional.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_feature_that_is_no_number_is_named_by_its_row_of_the_data() -> None:
    x, y = simulated(40, 0)
    x[33] = torch.nan
    with pytest.raises(pf.FeatureError, match=r"features\[33, 0\] is nan") as caught:
        fitted(fresh(y), pf.Batch(y, features=x), batch_size=4)
    assert (caught.value.row, caught.value.column) == (33, 0)


@pytest.mark.parametrize("counting", [pf.EM(), pf.MiniBatchEM(), pf.Anemone()])
def test_counting_learns_no_network(counting: pf.Learner) -> None:
    y = torch.zeros(ROWS, 3)
    for data in (y, pf.Batch(y, features=features_of(0).cpu())):
        with pytest.raises(pf.TypeMismatch, match="Gradient"):
            pf.fit(some(), data, counting, progress=False)


@pytest.mark.parametrize("counting", [pf.EM(), pf.MiniBatchEM(), pf.Anemone()])
def test_counting_passes_no_features_over(counting: pf.Learner) -> None:
    """Neither a network that stays as it is, nor what a plain circuit is told of rows."""
    conditional, y = some(), torch.zeros(ROWS, 3)
    conditional.network.requires_grad_(requires_grad=False)
    with pytest.raises(pf.TypeMismatch, match="Gradient"):
        pf.fit(conditional, y, counting, progress=False)
    data = pf.Batch(y, features=features_of(0).cpu())
    with pytest.raises(pf.EvidenceError, match="features"):
        pf.fit(conditional.model, data, counting, progress=False)
