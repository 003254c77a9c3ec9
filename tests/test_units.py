"""What is learned does not depend on what columns are measured in, nor on where their zero is.

Legend: N rows, D columns.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from device import DEVICE
from hypothesis import given, settings
from laws import of_fifty
from scipy import stats
from torch import Tensor

import pcflow as pf
from pcflow.estimator import CircuitDensity
from pcflow.testing import LawBroken, check_units, units

D = 2
Learn = Callable[[Tensor], Callable[[Tensor], Tensor]]
Build = Callable[[Tensor, Sequence[pf.InputFamily]], pf.Circuit]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def table(rows: int = 80) -> Tensor:
    """Two groups of rows, columns that depend on each other, gaps."""
    group = torch.randint(2, (rows, 1), generator=seeded(1)).double()
    x = torch.randn(rows, D, generator=seeded(2), dtype=torch.float64)
    x = x * torch.tensor([1.0, 0.5]) + group * torch.tensor([2.0, -1.5])
    x = (x - x.mean(0)) / x.std(0)
    return x.masked_fill(torch.rand(x.shape, generator=seeded(3)) < 0.1, torch.nan)


def mixture(x: Tensor, inputs: Sequence[pf.InputFamily]) -> pf.Circuit:
    return pf.initialize(pf.naive_bayes(inputs, 3, generator=seeded()), x, seeded())


def tied(x: Tensor, inputs: Sequence[pf.InputFamily]) -> pf.Circuit:
    """The same emission in every column, so that all are in one unit."""
    return pf.initialize(pf.hmm(D, 3, inputs[0], generator=seeded()), x, seeded())


def trees(x: Tensor, inputs: Sequence[pf.InputFamily]) -> pf.Circuit:
    return pf.hclt(x, 3, inputs, trees=2, generator=seeded())


def split(x: Tensor, inputs: Sequence[pf.InputFamily], clustering: Any = "em") -> pf.Circuit:
    return pf.learn_spn(x, inputs, min_rows=20, clustering=clustering, generator=seeded())


def along_a_tree(x: Tensor, inputs: Sequence[pf.InputFamily]) -> pf.Circuit:
    regions = pf.structure.chow_liu_tree(x)
    return pf.initialize(pf.build_circuit(regions, inputs, 3, generator=seeded()), x, seeded())


def learned(
    build: Build,
    inputs: Callable[[Tensor], Sequence[pf.InputFamily]],
    learner: pf.Learner | None,
    dtype: torch.dtype = torch.float64,
    batch_size: int = 32,
) -> Learn:
    def learn(x: Tensor) -> Callable[[Tensor], Tensor]:
        model = pf.compile(build(x, inputs(x)), DEVICE, dtype)
        if learner is not None:
            how = {"epochs": 3, "batch_size": batch_size, "generator": seeded()}
            pf.fit(model, x, learner, progress=False, **how)  # type: ignore[arg-type]
        return model.log_prob

    return learn


def all_of(family: pf.InputFamily) -> Callable[[Tensor], Sequence[pf.InputFamily]]:
    return lambda x: [family] * x.shape[1]


def histograms(x: Tensor) -> Sequence[pf.InputFamily]:
    return [pf.Histogram.of(column, bins=5) for column in x.t()]


FAMILIES = {
    "Gaussian": (all_of(pf.Gaussian()), True),
    "Histogram": (histograms, True),
    "LogNormal": (all_of(pf.LogNormal()), False),
    "Inflated": (all_of(pf.Inflated(pf.LogNormal())), False),
    "Exponential": (all_of(pf.Exponential()), False),
}
"""Inputs, and whether their values may be moved."""

LEARNERS = (pf.EM(), pf.MiniBatchEM(), pf.Anemone(), pf.Gradient())
BUILDS: dict[str, Build] = {
    "hclt": trees,
    "chow_liu_tree": along_a_tree,
    "learn_spn": split,
    "learn_spn by k-means": partial(split, clustering="kmeans"),
}


def ways() -> Iterator[Any]:
    """Every family with every learner, and with every structure."""
    for name, (inputs, moves) in FAMILIES.items():
        for learner in LEARNERS:
            way = learned(mixture, inputs, learner)
            yield pytest.param(way, moves, id=f"{name}, {type(learner).__name__}")
        for told, build in BUILDS.items():
            last = pf.EM() if told in ("hclt", "chow_liu_tree") else None
            yield pytest.param(learned(build, inputs, last), moves, id=f"{name}, {told}")


def values(moves: bool) -> Tensor:
    return table() if moves else table().exp()


@pytest.mark.parametrize("learn, moves", list(ways()))
def test_no_way_to_learn_depends_on_units(learn: Learn, moves: bool) -> None:
    scale = torch.tensor([1e-6, 1e6], dtype=torch.float64)
    shift = torch.tensor([1e9, -1e7], dtype=torch.float64) * moves
    check_units(learn, values(moves), scale, shift)


@given(units(D))
@settings(max_examples=of_fifty(10))
def test_no_units_make_a_difference(chosen: tuple[Tensor, Tensor]) -> None:
    check_units(learned(mixture, all_of(pf.Gaussian()), pf.EM()), table(), *chosen)


@pytest.mark.parametrize("learner", LEARNERS, ids=lambda each: type(each).__name__)
def test_tied_inputs_do_not_depend_on_their_unit(learner: pf.Learner) -> None:
    both = torch.ones(D, dtype=torch.float64)
    check_units(learned(tied, all_of(pf.Gaussian()), learner), table(), 1e-6 * both, 1e8 * both)


@pytest.mark.parametrize("learner", LEARNERS[1:], ids=lambda each: type(each).__name__)
def test_batches_of_one_row_do_not_depend_on_units(learner: pf.Learner) -> None:
    """The first batches do not tell yet how far a column spreads."""
    learn = learned(mixture, all_of(pf.Gaussian()), learner, batch_size=1)
    scale, shift = torch.tensor([[1e-6, 1e3], [1e6, 0.0]], dtype=torch.float64)
    check_units(learn, table(30), scale, shift)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("learner", LEARNERS, ids=lambda each: type(each).__name__)
def test_float32_holds_far_from_zero(name: str, learner: pf.Learner) -> None:
    inputs, moves = FAMILIES[name]
    learn = learned(mixture, inputs, learner, torch.float32)
    scale, shift = torch.tensor([[1e-6, 1e6], [1e5, -1e5]], dtype=torch.float64)
    check_units(learn, values(moves), scale, shift * moves, slack=1e-2)


def test_the_estimator_does_not_depend_on_units() -> None:
    def learn(x: Tensor) -> Callable[[Tensor], Tensor]:
        density = CircuitDensity(units=3, epochs=3, random_state=0).fit(x.numpy())
        return lambda rows: torch.from_numpy(density.score_samples(rows.numpy()))

    scale, shift = torch.tensor([[1e-6, 1e6], [1e9, -1e7]], dtype=torch.float64)
    check_units(learn, table(), scale, shift)


def test_whole_numbers_are_real_values_too() -> None:
    """A tree over a column in whole seconds is that over the same column in days."""
    x = (20 * table()).round() / 20
    learn = learned(trees, all_of(pf.Gaussian()), pf.EM())
    check_units(learn, x, 20 * torch.ones(D).double(), 100 * torch.ones(D).double())


def test_the_law_finds_a_floor_that_is_not_relative() -> None:
    def learn(x: Tensor) -> Callable[[Tensor], Tensor]:
        mean, std = x.nanmean(0), (x - x.nanmean(0)).square().nanmean(0).sqrt().clamp_min(1e-3)
        normal = torch.distributions.Normal(mean, std, validate_args=False)
        return lambda rows: normal.log_prob(rows).nansum(1)

    x, ones = table(), torch.ones(D, dtype=torch.float64)
    check_units(learn, x, ones, 5 * ones)
    with pytest.raises(LawBroken, match="other units"):
        check_units(learn, x, 1e-5 * ones, 0 * ones)


def by_hand(x: Tensor) -> float:
    """Mean log-density of the normal distribution that fits columns [N, D] best."""
    return float(
        torch.distributions.Normal(x.mean(0), x.std(0, correction=0)).log_prob(x).sum(1).mean()
    )


@pytest.mark.parametrize(
    "middle, std, dtype", [(3.2e7, 800, torch.float32), (1.7e9, 5, torch.float64)]
)
@pytest.mark.parametrize("start", [pf.initialize, lambda circuit, x: circuit])
def test_seconds_since_1970(
    middle: float, std: float, dtype: torch.dtype, start: Callable[..., pf.Circuit]
) -> None:
    x = middle + std * torch.randn(1000, 1, generator=seeded(), dtype=torch.float64)
    model = pf.compile(start(pf.naive_bayes([pf.Gaussian()], 1), x), DEVICE, dtype)
    found = pf.fit(model, x, pf.EM(pseudocount=0.0), epochs=4, progress=False).train
    assert found[-1] == pytest.approx(by_hand(x), abs=1e-4)
    assert all(later >= sooner - 1e-5 for sooner, later in pairwise(found))


def test_columns_in_small_units() -> None:
    x = torch.from_numpy(np.random.default_rng(0).random((200, 2)) * 1e-5)
    model = pf.compile(
        pf.initialize(pf.naive_bayes([pf.Gaussian()] * 2, 1), x), DEVICE, torch.float64
    )
    found = pf.fit(model, x, epochs=3, progress=False).train[-1]
    assert found == pytest.approx(by_hand(x)) == pytest.approx(22.633, abs=1e-3)


def test_floors_are_shares_of_the_whole_column() -> None:
    """One unit gets ten equal values, the other the rest: it is as narrow as allowed, no more."""
    x = torch.cat([torch.zeros(10), 1e-6 * torch.arange(1000, 1100)]).double()
    x = x.unsqueeze(1).repeat(1, 2)
    how = {"min_rows": 20, "pseudocount": 0.0}
    circuit = pf.learn_spn(x, pf.Gaussian(min_std=0.01), clustering="kmeans", **how)  # type: ignore[arg-type]
    leaves = [each for each in circuit.layers if isinstance(each, pf.InputLayer)]
    narrowest = min(float(leaf.parameters["log_std"].value.exp()) for leaf in leaves)
    assert narrowest == pytest.approx(0.01 * float(x[:, 0].std(correction=0)))


@pytest.mark.parametrize("learner", LEARNERS[:3], ids=lambda each: type(each).__name__)
def test_a_column_of_equal_values_stays_as_it_started(learner: pf.Learner) -> None:
    x = torch.full((20, 1), 1.7e9, dtype=torch.float64)
    model = pf.compile(pf.initialize(pf.naive_bayes([pf.Gaussian()], 2), x), DEVICE, torch.float64)
    before = model.log_prob(x).mean().item()
    assert before == pytest.approx(-math.log(1e-3 * math.sqrt(2 * math.pi)))
    pf.fit(model, x, learner, epochs=20, batch_size=5, progress=False)
    assert model.log_prob(x).mean().item() == pytest.approx(before)


def test_averages_of_anemone_move_with_the_parameters_they_are_counted_from() -> None:
    """The same as raw moments, which are counted from zero, averaged by hand."""
    batches = torch.randn(6, 5, 1, generator=seeded(), dtype=torch.float64) + 2
    mean, log_std = 0.5, 0.2
    named = {
        "mean": pf.Parameter(torch.tensor([mean])),
        "log_std": pf.Parameter(torch.tensor([log_std]).double()),
    }
    circuit = pf.Circuit(pf.SumLayer.random([pf.InputLayer(0, pf.Gaussian(), 1, named)]))
    model = pf.compile(circuit, DEVICE, torch.float64)
    run, averages = (
        pf.Anemone(step=0.3, momentum=0.8, pseudocount=0.0).start(model),
        torch.zeros(2).double(),
    )
    for times, batch in enumerate(batches, start=1):
        run.step([pf.Batch(batch)])
        averages = 0.8 * averages + 0.2 * torch.stack([batch.mean(), batch.square().mean()])
        present = torch.tensor([mean, mean**2 + math.exp(2 * log_std)], dtype=torch.float64)
        mean, square = torch.lerp(present, averages / (1 - 0.8**times), 0.3).tolist()
        log_std = 0.5 * math.log(square - mean**2)
        assert model.mean(torch.tensor([[torch.nan]])).item() == pytest.approx(mean)
        normal = torch.distributions.Normal(mean, math.exp(log_std))
        assert model.log_prob(batch[:1]).item() == pytest.approx(float(normal.log_prob(batch[:1])))


@pytest.mark.parametrize("learner", LEARNERS, ids=lambda each: type(each).__name__)
def test_intervals_do_not_depend_on_units(learner: pf.Learner) -> None:
    """Of which no spread of values is known; learning goes on from a start that is too wide."""
    z = torch.randn(100, 1, generator=seeded(), dtype=torch.float64).floor()

    def learned_std(scale: float) -> float:
        named = {"mean": torch.zeros(1), "log_std": torch.full((1,), math.log(5 * scale))}
        leaf = {name: pf.Parameter(value.double()) for name, value in named.items()}
        circuit = pf.Circuit(pf.SumLayer.random([pf.InputLayer(0, pf.Gaussian(), 1, leaf)]))
        model = pf.compile(circuit, DEVICE, torch.float64)
        batch = pf.Batch(pf.Evidence(lower=scale * z, upper=scale * (z + 1)))
        run = learner.start(model)
        for _ in range(5):
            run.step([batch])
        return float(pf.covariance(model)[0, 0].sqrt()) / scale

    assert learned_std(1.0) < 4.9
    assert learned_std(1e-6) == pytest.approx(learned_std(1.0))


def test_float32_warns_where_it_cannot_tell_values_apart() -> None:
    x = torch.stack([torch.randn(50, generator=seeded()), torch.full((50,), 1e9)], dim=1).double()
    x = torch.cat([x, x[:, :1] + 1e6, torch.arange(50).double().unsqueeze(1)], dim=1)
    inputs = [*[pf.Gaussian()] * 3, pf.Categorical(50)]
    model = pf.compile(pf.initialize(pf.naive_bayes(inputs, 2), x), DEVICE, torch.float32)
    with pytest.warns(UserWarning, match=r"column 2 lies 9e\+05 of its") as told:
        pf.fit(model, x, epochs=1, progress=False)
    assert len(told) == 1  # neither of the constant one, nor of the one that is near
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pf.fit(model.double(), x, epochs=1, progress=False)


def test_optimizers_move_a_location_by_shares_of_its_scale() -> None:
    """And decay leaves it where it is: zero is nowhere special."""
    leaf = {"mean": torch.tensor([5.0, -3e4]), "log_std": torch.tensor([0.0, 1e4]).log1p()}
    named = {name: pf.Parameter(value.double()) for name, value in leaf.items()}
    circuit = pf.Circuit(pf.SumLayer.random([pf.InputLayer(0, pf.Gaussian(), 2, named)]))
    model = pf.compile(circuit, DEVICE, torch.float64)
    (mean,) = (b for b in model.banks if torch.equal(b[0].cpu(), leaf["mean"].double()))
    run = pf.Gradient(partial(torch.optim.AdamW, lr=0.1, weight_decay=1.0)).start(model)
    run.step([pf.Batch(torch.tensor([[5.5], [-2e4]], dtype=torch.float64))])
    moved = (mean[0].detach().cpu() - leaf["mean"].double()) / (1 + torch.tensor([0.0, 1e4]))
    torch.testing.assert_close(moved, torch.full((2,), 0.1).double(), rtol=1e-5, atol=0.0)


# counts


@pytest.mark.parametrize("rate", [1e-3, 1.0, 30.0, 1e5, 1e6, 1e7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_poisson_is_right_at_every_rate(rate: float, dtype: torch.dtype) -> None:
    log_rate = torch.tensor([[rate]], dtype=dtype).log()
    near = 6 * math.sqrt(rate) + 8
    counts = torch.arange(max(0, int(rate - near)), int(rate + near)).to(dtype)
    found = pf.Poisson().log_prob({"log_rate": log_rate}, counts.unsqueeze(0)).flatten().double()
    wanted = stats.poisson.logpmf(counts.numpy(), log_rate.exp().double().item())
    slack = 5e-3 if dtype == torch.float32 else 1e-7
    torch.testing.assert_close(found, torch.from_numpy(wanted), rtol=1e-5, atol=slack)
    assert float(found.logsumexp(0).exp()) == pytest.approx(1, abs=1e-4 if rate > 1 else 1e-3)


@pytest.mark.parametrize("logit", [-12.0, 0.0, 0.3, 9.0])
@pytest.mark.parametrize("trials", [1, 5, 1000, 100_000])
def test_binomial_is_right_for_every_number_of_trials(trials: int, logit: float) -> None:
    logits = torch.tensor([[logit]])
    found = pf.Binomial(trials).log_table({"logits": logits}).flatten().double().numpy()
    wanted = stats.binom.logpmf(np.arange(trials + 1), trials, logits.double().sigmoid().item())
    some = wanted > -30
    assert found[some] == pytest.approx(wanted[some], rel=1e-5, abs=1e-3)
    assert np.exp(found).sum() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("dtype, log_std", [(torch.float32, -95.0), (torch.float64, -720.0)])
def test_a_normal_that_is_too_narrow_for_its_precision(dtype: torch.dtype, log_std: float) -> None:
    params = {
        "mean": torch.ones(1, 1, dtype=dtype),
        "log_std": torch.full((1, 1), log_std, dtype=dtype),
    }
    found = pf.Gaussian().log_prob(params, torch.ones(1, 1, dtype=dtype)).item()
    assert found == pytest.approx(-log_std - 0.5 * math.log(2 * math.pi))


@pytest.mark.parametrize("shape", ["chain", "flat", "mixture"])
def test_thousands_of_variables_do_not_add_up_rounding(shape: str) -> None:
    width, source = 2000, seeded()
    circuits = {
        "chain": lambda: pf.hmm(width, 2, pf.Gaussian(), generator=source),
        "flat": lambda: pf.build_circuit(
            pf.structure.fully_factorized(width), pf.Gaussian(), 2, generator=source
        ),
        "mixture": lambda: pf.naive_bayes([pf.Gaussian()] * width, 2, generator=source),
    }
    circuit = circuits[shape]()
    x = 25 * torch.randn(5, width, generator=source)
    narrow = pf.compile(circuit, DEVICE, torch.float32).log_prob(x).double()
    wide = pf.compile(circuit, DEVICE, torch.float64).log_prob(x)
    torch.testing.assert_close(narrow, wide, rtol=3e-7, atol=0.0)


def test_no_divergence_from_oneself_is_negative() -> None:
    for seed in range(20):
        data = torch.randint(3, (30, 4), generator=seeded(seed))
        tree = pf.chow_liu(data)
        assert pf.kl_divergence(tree, tree) >= 0


# structure


@pytest.mark.parametrize("make", [pf.hclt, pf.learn_spn], ids=lambda make: make.__name__)
def test_structure_does_not_grow_with_the_largest_count(make: Callable[..., pf.Circuit]) -> None:
    counts = torch.poisson(torch.full((60, 3), 3.0), generator=seeded())
    inputs = [pf.Poisson()] * 3
    how = {"units": 2} if make is pf.hclt else {"min_rows": 20}
    few = make(counts, inputs=inputs, generator=seeded(), **how)
    many = make(counts * 10**12, inputs=inputs, generator=seeded(), **how)
    assert len(many.layers) == len(few.layers)


def test_trees_of_values_refuse_counts_that_they_would_have_to_list() -> None:
    data = torch.tensor([[0, 3], [1, 10**6]])
    for learn in (pf.chow_liu, partial(pf.mixture_of_trees, components=1)):
        with pytest.raises(pf.EvidenceError, match=r"column 1 holds 1e\+06"):
            learn(data)
