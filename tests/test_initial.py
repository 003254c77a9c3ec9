"""Parameters from data: units take on the scale of their columns, and differ."""

import math

import pytest
import torch

import pcflow as pf
from pcflow.construct.initial import initial_units
from pcflow.inputs import InputFamily


def wide(count: int = 200) -> torch.Tensor:
    """A code, a price in tens of thousands, a share in thousandths, and a tenth of it missing."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, 3, generator=generator).double()
    x[:, 0] = (x[:, 0] > 0).double()
    x[:, 1] = 50_000 + 8_000 * x[:, 1]
    x[:, 2] = 0.004 + 0.001 * x[:, 2]
    return x.masked_fill(torch.rand(count, 3, generator=generator) < 0.1, torch.nan)


def circuit(seed: int = 0) -> pf.Circuit:
    generator = torch.Generator().manual_seed(seed)
    columns = [pf.Bernoulli(), pf.Gaussian(), pf.Gaussian(min_std=1e-6)]
    regions = pf.structure.random_binary_tree(3)
    return pf.build_circuit(regions, columns, units=4, generator=generator)


def test_columns_of_any_scale_are_learned_at_once() -> None:
    x = wide()
    start = pf.compile(pf.initialize(circuit(), x), dtype=torch.float64)
    alone = pf.build_circuit(
        pf.structure.fully_factorized(3), [pf.Bernoulli(), *[pf.Gaussian(1e-6)] * 2]
    )
    independent = pf.compile(alone, dtype=torch.float64)
    pf.fit(independent, x, epochs=1, progress=False)
    wanted = independent.log_prob(x).mean().item()
    assert start.log_prob(x).mean().item() > wanted - 1.0
    pf.fit(start, x, epochs=30, progress=False)
    assert start.log_prob(x).mean().item() > wanted - 0.01


def test_units_differ_by_the_generator_and_the_rest_stays() -> None:
    x, old = wide(), circuit()
    one, same, other = (
        pf.initialize(old, x, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    for before, a, b, c in zip(old.layers, one.layers, same.layers, other.layers, strict=True):
        if isinstance(before, pf.InputLayer):
            name = "mean" if isinstance(before.family, pf.Gaussian) else "logits"
            units = [layer.parameters[name].value for layer in (a, b, c)]  # type: ignore[union-attr]
            assert torch.equal(units[0], units[1])
            assert not torch.equal(units[0], units[2])
            assert len(units[0].unique()) == before.units
        elif isinstance(before, pf.SumLayer):
            assert a.weight is before.weight  # type: ignore[union-attr]


@pytest.mark.parametrize("family", [pf.Bernoulli(), pf.Categorical(2), pf.Binomial(1)], ids=repr)
def test_logits_vary_about_those_of_the_column(family: pf.inputs.FiniteFamily) -> None:
    x = (torch.rand(2_000, 1) < 0.8).double()
    start = pf.initialize(pf.hmm(1, 4_000, family), x)
    (layer,) = (layer for layer in start.layers if isinstance(layer, pf.InputLayer))
    logits = layer.parameters["logits"].value
    odds = logits if logits.dim() == 1 else logits[1] - logits[0]
    assert odds.mean().item() == pytest.approx(math.log(4), abs=0.3)
    assert odds.std().item() == pytest.approx(2.0 * math.sqrt(logits.dim()), rel=0.1)


def test_tied_units_are_fitted_to_all_of_their_columns() -> None:
    x = torch.tensor([[0.0, 100.0], [0.0, 100.0]], dtype=torch.float64)
    start = pf.initialize(pf.hmm(2, 50, pf.Gaussian()), x)
    assert len(start.parameters) == 4  # mean, deviation, move, first
    (mean,) = {
        layer.parameters["mean"] for layer in start.layers if isinstance(layer, pf.InputLayer)
    }
    assert sorted(mean.value.round().unique().tolist()) == [25.0, 75.0]


@pytest.mark.parametrize("family", [pf.Gaussian(), pf.Bernoulli()], ids=repr)
def test_units_are_fitted_to_the_rows_that_count_and_hold_a_value(family: InputFamily) -> None:
    x = torch.tensor([0.0, 1.0] * 5 + [torch.nan] * 90 + [1.0] * 40, dtype=torch.float64)
    first = torch.cat([torch.ones(100), torch.zeros(40)]).double()
    found = initial_units(family, x, first, 4_000, None)
    middle = found["mean" if "mean" in found else "logits"]
    if "mean" in found:  # half the column, half one of its values
        assert middle.round(decimals=6).unique().tolist() == [0.25, 0.75]
    else:
        assert middle.mean().item() == pytest.approx(0.0, abs=0.2)
    nothing = first * x.isnan()  # only rows without a value: then the whole column counts
    middle = initial_units(family, x, nothing, 4_000, None)["mean" if "mean" in found else "logits"]
    assert middle.mean().item() > 0.85


def test_data_that_do_not_fit_are_refused() -> None:
    with pytest.raises(pf.EvidenceError, match=r"data must be \[N, 3\]"):
        pf.initialize(circuit(), torch.zeros(4, 2))
    with pytest.raises(pf.EvidenceError, match="column 1 holds no value"):
        pf.initialize(circuit(), wide().index_fill(1, torch.tensor(1), torch.nan))
    skewed = pf.Circuit(pf.InputLayer.random(0, pf.Exponential()))
    with pytest.raises(pf.EvidenceError, match=r"column 0 holds -1, not for Exponential"):
        pf.initialize(skewed, [[-1.0], [2.0]])
