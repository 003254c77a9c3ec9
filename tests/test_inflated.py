"""An atom beside a density, against the two variables that it stands for: which part, and where."""

import math
from typing import Any

import pytest
import torch
from device import DEVICE
from torch import Tensor

import pcflow as pf
from pcflow.testing import LawBroken, check_density

INF = math.inf
INNER = [pf.Gaussian(), pf.LogNormal(), pf.Exponential()]
ROWS = torch.tensor([0.0, 0.0, 0.0, 0.7, 2.0, math.nan, 5.5]).double().unsqueeze(-1)


def mixture(family: pf.DensityFamily, units: int = 3) -> pf.Circuit:
    """Of several units, in float64."""
    generator = torch.Generator().manual_seed(1)
    layer = pf.InputLayer.random(0, family, units, generator)
    named = {n: pf.Parameter(p.value.double()) for n, p in layer.parameters.items()}
    layer = pf.InputLayer(0, family, units, named)
    return pf.Circuit(pf.SumLayer.random([layer], generator=generator))


def apart(circuit: pf.Circuit) -> pf.Circuit:
    """The same with a variable that says whether it is the atom, before that of the value."""
    inflated, root = circuit.layers
    assert isinstance(inflated, pf.InputLayer) and isinstance(root, pf.SumLayer)
    assert isinstance(inflated.family, pf.Inflated)
    named = {n: p for n, p in inflated.parameters.items() if n != "atom_logit"}
    logits = pf.Parameter(inflated.parameters["atom_logit"].value)
    which = pf.InputLayer(0, pf.Bernoulli(), inflated.units, {"logits": logits})
    value = pf.InputLayer(1, inflated.family.density, inflated.units, named)
    return pf.Circuit(pf.SumLayer([pf.ProductLayer([which, value])], root.weight))


def told_apart(x: Tensor) -> Tensor:
    """Rows [N, 2]: whether it is the atom, and the value if not."""
    atom = (x == 0).double().masked_fill(x.isnan(), math.nan)
    return torch.cat([atom, x.masked_fill(x == 0, math.nan)], dim=1)


def compiled(circuit: pf.Circuit) -> pf.CompiledCircuit:
    return pf.compile(circuit, DEVICE, torch.float64)


@pytest.mark.parametrize("inner", INNER, ids=str)
def test_it_is_a_variable_for_the_part_and_one_for_the_value(inner: Any) -> None:
    circuit = mixture(pf.Inflated(inner))
    found = compiled(circuit).log_prob(ROWS)
    torch.testing.assert_close(found, compiled(apart(circuit)).log_prob(told_apart(ROWS)))


@pytest.mark.parametrize("inner", INNER, ids=str)
def test_em_learns_as_it_does_of_the_two_variables(inner: Any) -> None:
    circuit = mixture(pf.Inflated(inner))
    one, two = compiled(circuit), compiled(apart(circuit))
    for model, rows in ((one, ROWS), (two, told_apart(ROWS))):
        pf.fit(model, rows, pf.EM(pseudocount=0.0), epochs=4, progress=False)
    found, wanted = one.log_prob(ROWS), two.log_prob(told_apart(ROWS))
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("learner", [pf.Anemone(), pf.MiniBatchEM()], ids=str)
def test_without_an_atom_in_the_data_learners_do_as_with_the_density(learner: pf.Learner) -> None:
    """Means that move are told what was counted from where they were."""
    circuit = mixture(pf.Inflated(pf.Gaussian(), at=-99.0))
    inflated, root = circuit.layers
    assert isinstance(inflated, pf.InputLayer) and isinstance(root, pf.SumLayer)
    named = {n: p for n, p in inflated.parameters.items() if n != "atom_logit"}
    sure = pf.Parameter(torch.full((3,), -13.8).double())
    rest = pf.InputLayer(0, pf.Gaussian(), 3, named)
    whole = pf.InputLayer(0, inflated.family, 3, {**named, "atom_logit": sure})
    x = 100 + 3 * torch.randn(40, 1, generator=torch.Generator().manual_seed(3)).double()
    found = []
    for layer in (rest, whole):
        model = compiled(pf.Circuit(pf.SumLayer([layer], root.weight)))
        seeded = torch.Generator().manual_seed(0)
        pf.fit(model, x, learner, epochs=5, batch_size=8, progress=False, generator=seeded)
        found.append(model.log_prob(x))
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=1e-4)


def test_a_density_is_not_narrower_than_its_floor() -> None:
    x = torch.tensor([0.0] * 5 + [2.0] * 5).double().unsqueeze(-1)
    model = compiled(mixture(pf.Inflated(pf.LogNormal(min_std=0.25)), units=1))
    pf.fit(model, x, pf.EM(), epochs=3, progress=False)
    peak = -math.log(0.25 * math.sqrt(2 * math.pi)) - math.log(2.0)
    assert model.log_prob(x[-1:]).item() == pytest.approx(peak + math.log(0.5))


@pytest.mark.parametrize("inner", INNER, ids=str)
def test_masses_and_means_of_intervals_are_those_of_the_parts(inner: Any) -> None:
    circuit = mixture(pf.Inflated(inner))
    one, two = compiled(circuit), compiled(apart(circuit))
    ends = [(-INF, INF), (-1.0, 2.0), (0.0, 1.0), (0.5, 2.0), (0.0, INF), (3.0, INF)]
    lower, upper = zip(*ends, strict=True)
    about = pf.Evidence(lower=[[x] for x in lower], upper=[[x] for x in upper])
    nan = math.nan
    of_value = pf.Evidence(
        [[0.0, nan]] * len(ends),
        lower=[[nan, x] for x in lower],
        upper=[[nan, x] for x in upper],
    )
    atom = two.log_prob(torch.tensor([[1.0, nan]])).exp()
    holds = torch.tensor([a <= 0 <= b for a, b in ends]).to(atom)
    rest = two.log_prob(of_value).exp()
    mass = one.log_prob(about).exp()
    torch.testing.assert_close(mass, atom * holds + rest)
    mean = two.mean(of_value)[:, 1] * rest / mass
    torch.testing.assert_close(one.mean(about)[:, 0], mean)


@pytest.mark.parametrize("inner", INNER, ids=str)
def test_draws_hold_the_atom_as_often_as_it_is_probable(inner: Any) -> None:
    model = compiled(mixture(pf.Inflated(inner)))
    generator = torch.Generator(DEVICE).manual_seed(0)
    bounded = pf.Evidence(lower=[[-0.5]], upper=[[1.5]])
    for drawn, given in (
        (model.sample(20_000, generator=generator), pf.Evidence(lower=[[-INF]])),
        (model.sample(20_000, bounded, generator=generator)[:, 0], bounded),
    ):
        share = (model.log_prob(torch.zeros(1, 1)) - model.log_prob(given)).exp().item()
        off = (drawn == 0).double().mean().item() - share
        assert abs(off) < 6 * math.sqrt(share * (1 - share) / 20_000)
        assert abs(drawn.mean() - model.mean(given)[0, 0]) < 6 * drawn.std() / math.sqrt(20_000)


def test_the_most_probable_value_is_the_atom_where_the_density_is_below_it() -> None:
    for logit, wanted in ((3.0, 0.0), (-3.0, 0.5)):
        params = {"atom_logit": torch.tensor([logit]), "mean": torch.tensor([0.5])}
        params |= {"log_std": torch.tensor([-1.0])}
        named = {name: pf.Parameter(value) for name, value in params.items()}
        layer = pf.InputLayer(0, pf.Inflated(pf.Gaussian()), 1, named)
        model = compiled(pf.Circuit(layer))
        assert model.mpe(torch.full((1, 1), math.nan)).values.item() == wanted
        bounded = model.mpe(pf.Evidence(lower=[[-1.0]], upper=[[0.0]])).values.item()
        assert (bounded == 0.0) == (logit > 0) and -1e-300 <= bounded <= 0.0


def test_entropy_and_moments_are_those_of_both_parts() -> None:
    params = {n: torch.zeros(1, 1).double() for n in ("atom_logit", "mean", "log_std")}
    family = pf.Inflated(pf.Gaussian(), at=2.0)
    normal = 0.5 * math.log(2 * math.pi * math.e)
    assert family.entropy(params).item() == pytest.approx(math.log(2) + normal / 2)
    assert [family.raw_moment(params, p).item() for p in (1, 2)] == pytest.approx([1.0, 2.5])


@pytest.mark.parametrize(
    "density, at, error",
    [
        (pf.Poisson(), 0.0, pf.SettingError),
        (pf.Inflated(pf.Gaussian()), 1.0, pf.SettingError),
        (pf.Categorical(2), 0.0, pf.TypeMismatch),
        (3, 0.0, pf.TypeMismatch),
        (pf.Gaussian(), INF, pf.SettingError),
        (pf.Gaussian(), "zero", pf.SettingError),
    ],
)
def test_what_has_atoms_already_has_no_other(density: Any, at: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        pf.Inflated(density, at)


def test_the_kit_checks_a_density_beside_atoms_that_it_is_told_of() -> None:
    model = compiled(mixture(pf.Inflated(pf.Exponential())))

    def check(**told: Any) -> None:
        generator = torch.Generator(DEVICE).manual_seed(0)
        sample = {"sample": lambda n: model.sample(n, generator=generator)}
        with torch.no_grad():
            check_density(model.log_prob, [None], log_marginal=model.log_prob, **sample, **told)

    check(atoms={0: [0.0]})
    with pytest.raises(LawBroken, match="draws follow the distribution"):
        check()
