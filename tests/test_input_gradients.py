"""The derivative of log p in observed real values is that of the plain evaluator, in float64."""

import pytest
import torch
from device import DEVICE
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import pcflow as pf
from pcflow.circuit import reference_log_prob

FAMILIES = {
    "gaussian": pf.Gaussian(),
    "log-normal": pf.LogNormal(),
    "exponential": pf.Exponential(),
    "inflated": pf.Inflated(pf.Exponential()),
    "poisson": pf.Poisson(),
    "histogram": pf.Histogram([0.0, 1.0, 2.5, 4.0]),
}
REAL = [pf.Gaussian(), pf.LogNormal(), pf.Exponential(), pf.Gaussian()]


def by_reference(circuit: pf.Circuit, about: pf.Evidence, x: Tensor, slope: Tensor) -> Tensor:
    found = reference_log_prob(circuit, pf.Evidence(x, about.missing, about.log_potentials))
    flat = 0.0 * x.nan_to_num(0.0).sum()  # a histogram does not know x
    (gradient,) = torch.autograd.grad(found @ slope + flat, x)
    return gradient


def by_engine(model: pf.CompiledCircuit, about: pf.Evidence, x: Tensor, slope: Tensor) -> Tensor:
    found = model.log_prob(pf.Evidence(x, about.missing, about.log_potentials))
    (gradient,) = torch.autograd.grad(found @ slope.to(found), x)
    return gradient


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("units", [1, 3])
def test_every_family_of_real_values_has_a_slope(name: str, units: int) -> None:
    family = FAMILIES[name]
    circuit = pf.build_circuit(pf.structure.chain(3), inputs=family, units=units)
    model = pf.compile(circuit, DEVICE, torch.float64).requires_grad_(False)
    x = model.sample(5, generator=torch.Generator(DEVICE).manual_seed(0)).requires_grad_()
    slope = torch.randn(5, dtype=torch.float64)
    about = pf.Evidence(x)
    wanted = by_reference(circuit, about, x, slope)
    torch.testing.assert_close(by_engine(model, about, x, slope), wanted, rtol=1e-9, atol=1e-9)
    if name in ("gaussian", "log-normal", "exponential"):  # the others are flat, or of counts
        assert wanted.abs().min() > 0
        torch.autograd.gradcheck(model.log_prob, x)


@settings(deadline=None)
@given(st.integers(0, 2**31 - 1), st.booleans(), st.booleans())
def test_beside_missing_and_soft_ones_and_in_parts(seed: int, parts: bool, tree: bool) -> None:
    generator = torch.Generator(DEVICE).manual_seed(seed)
    columns = [*REAL, pf.Categorical(3), pf.Bernoulli()]
    graph = pf.structure.random_binary_tree(6, seed=seed % 5) if tree else pf.structure.chain(6)
    circuit = pf.build_circuit(graph, inputs=columns, units=2)
    model = pf.compile(circuit, DEVICE, torch.float64, memory=2000 if parts else 1 << 30)
    values = model.sample(6, generator=generator)
    missing = torch.rand(6, 6, generator=generator, device=DEVICE) < 0.4
    soft = torch.randn(6, 6, 3, generator=generator, dtype=torch.float64, device=DEVICE)
    soft[:, :4] = 0.0
    about, slope = pf.Evidence(values, missing, soft), torch.randn(6).double()
    assert (len(model.engine.parts(model.evidence(about))) > 1) == parts
    x = values.masked_fill(missing, torch.nan).requires_grad_()
    found = by_engine(model, about, x, slope)
    torch.testing.assert_close(found, by_reference(circuit, about, x, slope), rtol=1e-9, atol=1e-9)
    assert (found[missing] == 0).all() and (found[:, 4:] == 0).all()


def test_several_inputs_of_one_variable_add_up() -> None:
    inputs = [[pf.InputLayer.random(v, pf.Gaussian(), 1) for v in range(2)] for _ in range(3)]
    circuit = pf.Circuit(pf.SumLayer.random([pf.ProductLayer(pair) for pair in inputs]))
    x = torch.randn(4, 2, dtype=torch.float64, requires_grad=True)
    slope = torch.ones(4, dtype=torch.float64)
    found = by_engine(pf.compile(circuit, DEVICE, torch.float64), pf.Evidence(x), x, slope)
    wanted = by_reference(circuit, pf.Evidence(x), x, slope)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


def test_rows_that_go_through_log_space() -> None:
    """Two states so far apart that the other one underflows, and the chain must change over."""
    mean = pf.Parameter(torch.tensor([0.0, 90.0]))
    inputs = [
        pf.InputLayer(v, pf.Gaussian(), 2, {"mean": mean, "log_std": pf.Parameter(torch.zeros(2))})
        for v in range(3)
    ]
    circuit = pf.Circuit(pf.SumLayer.random([pf.ProductLayer(inputs)]))
    model = pf.compile(circuit, DEVICE, torch.float64)
    x = torch.tensor([[0.3, 0.1, 89.0], [0.1, 0.2, 0.3]], dtype=torch.float64, requires_grad=True)
    slope = torch.tensor([1.0, -2.0], dtype=torch.float64)
    found = by_engine(model, pf.Evidence(x), x, slope)
    assert model.rows.log_space == 1
    wanted = by_reference(circuit, pf.Evidence(x), x, slope)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


def test_the_slope_is_of_the_values_as_they_were() -> None:
    model = pf.compile(pf.hmm(3, states=2, inputs=pf.Gaussian()), DEVICE, torch.float64)
    x = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    (wanted,) = torch.autograd.grad(model.log_prob(x).sum(), x)
    found = model.log_prob(x).sum()
    with torch.no_grad():
        x.zero_()
    (gradient,) = torch.autograd.grad(found, x)
    assert torch.equal(gradient, wanted)


def test_integers_have_none() -> None:
    model = pf.compile(pf.hmm(3, states=2, inputs=pf.Categorical(3)), DEVICE)
    x = torch.zeros(1, 3, requires_grad=True)
    with pytest.raises(pf.EvidenceError, match="values: integers have no gradient; detach"):
        model.log_prob(x)
    with torch.no_grad():
        model.log_prob(x)
    model.log_prob(x.detach())
    model.sample(1, x)
