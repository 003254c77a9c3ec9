"""Evidence of intervals: masses, truncated means and draws, most probable states, learning."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
import torch
from device import DEVICE
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import of_fifty
from scipy import stats
from torch import Tensor

import pcflow as pf
from pcflow.evidence import Intervals
from pcflow.inputs import DensityFamily
from pcflow.testing import circuits, enumerate_states, intervals, mixed_families
from pcflow.testing.frequencies import FALSE_ALARM, chi_square

NAN, INF = torch.nan, torch.inf
POINTS, WEIGHTS = np.polynomial.legendre.leggauss(24)


def one(family: pf.InputFamily, **params: float | list[float]) -> pf.Circuit:
    """A circuit of a single unit."""
    given = {n: torch.tensor(p, dtype=torch.float64) for n, p in params.items()}
    shapes = family.parameter_shapes(1)
    named = {n: pf.Parameter(p.view(shapes[n])) for n, p in given.items()}
    return pf.Circuit(pf.InputLayer(0, family, 1, named))


def model_of(circuit: pf.Circuit) -> pf.CompiledCircuit:
    return pf.compile(circuit, DEVICE, torch.float64)


def bounds(*ends: tuple[float, float]) -> pf.Evidence:
    """A row for each interval, of a single variable."""
    lower, upper = zip(*ends, strict=True)
    return pf.Evidence(lower=[[x] for x in lower], upper=[[x] for x in upper])


# masses and means, against quadrature and scipy


@dataclass(frozen=True)
class Known:
    """A unit, what scipy calls it, and where its mass is."""

    family: DensityFamily
    params: Mapping[str, float | list[float]]
    ends: tuple[tuple[float, float], ...]
    breaks: tuple[float, ...] = ()

    @property
    def circuit(self) -> pf.Circuit:
        return one(self.family, **self.params)

    def log_density(self, x: np.ndarray) -> np.ndarray:
        params = {n: p.value.double()[None] for n, p in self.circuit.layers[0].parameters.items()}  # type: ignore[union-attr]
        found: np.ndarray = self.family.log_prob(params, torch.from_numpy(x)[None])[0, :, 0].numpy()
        return found


CASES = [
    Known(
        pf.Gaussian(),
        {"mean": 0.5, "log_std": math.log(2)},
        ((-1, 2), (-INF, 0.5), (3, INF), (0.5, 0.5 + 1e-9), (40, 41), (-90, -80), (-1e3, 1e3)),
    ),
    Known(
        pf.LogNormal(),
        {"mean": 0.3, "log_std": -0.2},
        ((-1, 2), (0.1, 1), (3, INF), (1, 1 + 1e-9), (1e4, 2e4), (1e-6, 1e-5), (0, INF)),
    ),
    Known(
        pf.Exponential(),
        {"log_mean": math.log(3)},
        ((-1, 2), (0, 1e-9), (3, INF), (1, 1.001), (500, 501), (0, INF)),
    ),
    Known(
        pf.Histogram([0.0, 1.0, 3.0, 7.0]),
        {"logits": [0.3, -1.0, 0.5]},
        ((-1, 2), (0.5, 0.5 + 1e-9), (2, INF), (-INF, 6.5), (1, 3), (0, 7)),
        (0.0, 1.0, 3.0, 7.0),
    ),
]


def quadrature(case: Known, lower: float, upper: float) -> tuple[float, float]:
    """Log-mass and mean of an interval: Gauss and Legendre, in pieces that grow with the value."""
    scale = np.concatenate([[0.0], np.geomspace(1e-12, 400.0, 600)])
    grid = np.concatenate([-scale[::-1], scale, lower + scale, upper - scale, case.breaks])
    grid = np.unique(np.clip(grid[np.isfinite(grid)], max(lower, -1e3), min(upper, 3e4)))
    half = np.diff(grid)[:, None] / 2
    x = grid[:-1, None] + half * (1 + POINTS)
    log_term = case.log_density(x.ravel()).reshape(x.shape) + np.log(half * WEIGHTS)
    peak = log_term.max()
    term = np.exp(log_term - peak)
    return peak + math.log(term.sum()), float((term * x).sum() / term.sum())


@pytest.mark.parametrize("case", CASES, ids=lambda case: type(case.family).__name__)
def test_masses_and_means_are_integrals(case: Known) -> None:
    model, wanted = model_of(case.circuit), [quadrature(case, *ends) for ends in case.ends]
    about = bounds(*case.ends)
    for (mass, mean), found, expected in zip(
        wanted, model.log_prob(about).tolist(), model.mean(about).flatten().tolist(), strict=True
    ):
        assert found == pytest.approx(mass, rel=1e-9, abs=1e-9)
        assert expected == pytest.approx(mean, rel=1e-9)


@pytest.mark.parametrize("rate", [1e-3, 0.7, 20.0, 3e3, 1e6])
def test_masses_of_counts_are_sums(rate: float) -> None:
    spread = math.sqrt(rate)
    inside = [(0, 3), (1, math.inf), (rate - 3 * spread, rate + 2 * spread), (2, 2), (0.5, 40.2)]
    tails = [(rate + 20 * spread + 5, INF), (0, rate - 8 * spread), (rate + 12 * spread, rate + 50)]
    ends = [(a, b) for a, b in (*inside, *tails) if math.floor(b if b < INF else 1e9) >= max(0, a)]
    about, model = bounds(*ends), model_of(one(pf.Poisson(), log_rate=math.log(rate)))
    for (a, b), found, mean in zip(ends, model.log_prob(about), model.mean(about), strict=True):
        first = max(0, math.ceil(a))
        last = min(math.floor(b) if b < INF else 10**9, int(max(first, rate) + 40 * spread + 200))
        counts = np.arange(first, last + 1)
        log_term = stats.poisson(rate).logpmf(counts)
        share = np.exp(log_term - log_term.max())
        wanted = math.log(share.sum()) + log_term.max()
        assert found.item() == pytest.approx(wanted, rel=2e-9, abs=2e-9), (a, b)
        assert mean.item() == pytest.approx(float(share @ counts / share.sum()), rel=1e-8)


def test_truncated_means_are_those_of_scipy() -> None:
    normal = model_of(one(pf.Gaussian(), mean=1.0, log_std=math.log(2)))
    for a, b in ((-1.0, 4.0), (5.0, INF), (-INF, -3.0), (9.0, 9.5)):
        wanted = stats.truncnorm((a - 1) / 2, (b - 1) / 2, loc=1, scale=2).mean()
        assert normal.mean(bounds((a, b))).item() == pytest.approx(wanted, rel=1e-9)
    wait = model_of(one(pf.Exponential(), log_mean=math.log(2)))
    wanted = stats.truncexpon(1.5, loc=1.0, scale=2.0).mean()  # from 1 to 1 + 2 * 1.5
    assert wait.mean(bounds((1.0, 4.0))).item() == pytest.approx(wanted, rel=1e-9)
    size = model_of(one(pf.LogNormal(), mean=0.3, log_std=math.log(0.5)))
    wanted = stats.lognorm(0.5, scale=math.exp(0.3)).expect(lb=1, ub=3, conditional=True)
    assert size.mean(bounds((1.0, 3.0))).item() == pytest.approx(wanted, rel=1e-9)


def test_by_hand() -> None:
    wait = model_of(one(pf.Exponential(), log_mean=0.0))
    late = bounds((1.0, INF))
    assert wait.log_prob(late).item() == pytest.approx(-1.0, abs=1e-15)
    assert wait.mean(late).item() == pytest.approx(2.0, abs=1e-15)
    assert wait.mpe(late).values.item() == 1.0
    normal = model_of(one(pf.Gaussian(), mean=0.0, log_std=0.0))
    assert normal.log_prob(bounds((-1, 1))).exp().item() == pytest.approx(0.6826894921370859)
    assert normal.mean(bounds((0, INF))).item() == pytest.approx(math.sqrt(2 / math.pi))
    counts = model_of(one(pf.Poisson(), log_rate=0.0))
    assert counts.log_prob(bounds((1, 2))).exp().item() == pytest.approx(1.5 / math.e)
    grades = model_of(one(pf.Categorical(4), logits=[0.0, 0.0, 0.0, 0.0]))
    assert grades.log_prob(bounds((1, 3), (1.5, INF), (NAN, NAN))).exp().tolist() == pytest.approx(
        [0.75, 0.5, 1.0]
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tails_are_finite_and_learn(dtype: torch.dtype) -> None:
    far = [
        (1e3, INF),
        (-INF, -1e3),
        (1e3, 1001.0),
        (1e3, 1000.001),
        (30, INF),
        (0, 1e-20),
        (7, 7.5),
    ]
    for circuit in (
        one(pf.Gaussian(), mean=0.0, log_std=0.0),
        one(pf.Exponential(), log_mean=0.0),
        one(pf.LogNormal(), mean=0.0, log_std=-3.0),
        one(pf.Poisson(), log_rate=0.0),
    ):
        model = pf.compile(circuit, DEVICE, dtype)
        possible = [e for e in far if e[1] > 0 or isinstance(circuit.layers[0].family, pf.Gaussian)]  # type: ignore[union-attr]
        log_prob = model.log_prob(bounds(*possible))
        held = log_prob > -INF
        assert held.sum() >= 4
        assert log_prob[held].isfinite().all()
        log_prob[held].sum().backward()
        assert all(bank.grad.isfinite().all() for bank in model.banks)  # type: ignore[union-attr]
        about = bounds(*[e for e, good in zip(possible, held.tolist(), strict=True) if good])
        mean, drawn = model.mean(about), model.sample(20, about)
        for values in (mean[None], drawn):
            assert (values >= about.lower.to(values)).all()  # type: ignore[union-attr]
            assert (values <= about.upper.to(values)).all()  # type: ignore[union-attr]


# circuits


def program() -> pf.Circuit:
    """A mixed program: a category decides on a normal, a count and a wait."""
    columns = [pf.Categorical(3), pf.Gaussian(), pf.Poisson(), pf.Exponential()]
    generator = torch.Generator().manual_seed(3)
    return pf.naive_bayes(columns, 3, generator=generator)


def test_questions_to_a_mixed_program() -> None:
    """Equality on one column, unions of intervals on others: by enumeration and quadrature."""
    circuit = program()
    model = model_of(circuit)
    lower = torch.tensor([[[NAN, NAN], [-1.0, 2.0], [NAN, NAN], [0.5, NAN]]])
    upper = torch.tensor([[[NAN, NAN], [0.5, INF], [NAN, NAN], [2.5, NAN]]])
    values = torch.tensor([[NAN, NAN, 3.0, NAN]])
    about = pf.Evidence(values, lower=lower, upper=upper)

    def integral(a: float, b: float, count: int) -> tuple[Tensor, Tensor]:
        points = torch.from_numpy(POINTS)
        half = (b - a) / count / 2
        middles = a + half * (2 * torch.arange(count).double() + 1)
        grid = (middles[:, None] + half * points).flatten()
        return grid, (half * torch.from_numpy(WEIGHTS)).repeat(count)

    first, second = integral(-1.0, 0.5, 4), integral(2.0, 40.0, 12)
    wait, wait_weight = integral(0.5, 2.5, 4)
    normal, weight = (torch.cat(parts) for parts in zip(first, second, strict=True))
    joint = []
    for category in range(3):
        x = torch.cartesian_prod(normal, wait)
        rows = torch.stack([torch.full_like(x[:, 0], v) for v in (category, 0.0, 3.0, 0.0)], dim=1)
        rows[:, 1], rows[:, 3] = x[:, 0], x[:, 1]
        mass = torch.cartesian_prod(weight, wait_weight).prod(dim=1)
        joint.append((pf.reference_log_prob(circuit, rows).exp() * mass).sum())
    wanted = torch.stack(joint)
    assert model.log_prob(about).exp().item() == pytest.approx(wanted.sum().item(), rel=1e-9)
    posterior = model.marginals(about, variables=[0])[0, 0].exp().cpu()
    torch.testing.assert_close(posterior, wanted / wanted.sum(), rtol=1e-9, atol=0)
    ordered = pf.Evidence(
        values, lower=lower.clone().index_fill_(1, torch.tensor(0), 1.0), upper=upper
    )
    some = model.log_prob(ordered).exp().item()
    assert some == pytest.approx(wanted[1:].sum().item(), rel=1e-9)


def test_draws_follow_the_posterior() -> None:
    model = model_of(program())
    lower = torch.tensor([[[0.0, 2.0], [-1.0, 2.0], [2.0, NAN], [1.0, NAN]]])
    upper = torch.tensor([[[0.0, 2.0], [0.5, INF], [6.0, NAN], [INF, NAN]]])
    about = pf.Evidence(lower=lower, upper=upper)
    drawn = model.sample(20_000, about, torch.Generator(DEVICE).manual_seed(0))[:, 0].cpu()
    held = Intervals.of(lower, upper).holds(drawn.T[None])
    assert held.all()
    total = model.log_prob(about).item()
    cuts = {
        0: [0.0, 2.0],
        1: [-1.0, -0.4, 0.1, 0.5, 2.2, INF],
        2: [2.0, 3, 4, 5, 6],
        3: [1, 2, 3, INF],
    }
    for variable, ends in cuts.items():
        whole = variable in (0, 2)
        cells = [(a, a) for a in ends] if whole else list(pairwise(ends))
        shares, counts = [], []
        for a, b in cells:
            low, high = lower.clone(), upper.clone()
            low[0, variable] = torch.maximum(low[0, variable], torch.tensor(a))
            high[0, variable] = torch.minimum(high[0, variable], torch.tensor(b))
            gone = ~(low[0, variable] <= high[0, variable])
            low[0, variable, gone], high[0, variable, gone] = NAN, NAN
            bounded = bool((~gone).any())
            mass = model.log_prob(pf.Evidence(lower=low, upper=high)).item() if bounded else -INF
            shares.append(math.exp(mass - total))
            x = drawn[:, variable]
            counts.append(int(((x == a) if whole else (x > a) & (x <= b)).sum()))
        assert sum(shares) == pytest.approx(1.0, abs=1e-9)
        assert chi_square(torch.tensor(counts), torch.tensor(shares)) > FALSE_ALARM


def test_means_are_those_of_draws_and_states_are_inside() -> None:
    model = model_of(program())
    about = pf.Evidence(
        lower=[[1.0, -1.0, 2.0, 1.0], [NAN, 0.0, NAN, NAN]],
        upper=[[2.0, 0.5, 9.0, 2.0], [NAN, NAN, NAN, 0.3]],
    )
    drawn = model.sample(10_000, about, torch.Generator(DEVICE).manual_seed(0)).double()
    mean, error = drawn.mean(dim=0), drawn.std(dim=0) / math.sqrt(len(drawn))
    assert ((model.mean(about) - mean).abs() < 5 * error).all()
    values, log_value, _ = model.mpe(about)
    torch.testing.assert_close(log_value, model.log_prob(values))
    for column, state in enumerate(values.T.cpu()):
        low, high = (
            end[:, column].nan_to_num(nan=s * INF)
            for end, s in ((about.lower, -1), (about.upper, 1))
        )  # type: ignore[index]
        assert ((state >= low) & (state <= high)).all()


@given(st.data(), circuits(max_variables=3, families=mixed_families()))
@settings(max_examples=of_fifty(25))
def test_log_prob_and_its_slopes_are_those_of_the_plain_evaluator(
    data: st.DataObject, circuit: pf.Circuit
) -> None:
    about = data.draw(intervals(circuit))
    model = model_of(circuit)
    values = {p: p.value.double().requires_grad_() for p in circuit.parameters}
    wanted = pf.reference_log_prob(circuit, about, values)
    torch.testing.assert_close(model.log_prob(about).cpu(), wanted, rtol=1e-9, atol=1e-9)
    slopes = torch.autograd.grad(wanted.sum(), list(values.values()), allow_unused=True)
    slope = dict(zip(values, slopes, strict=True))
    model.log_prob(about).sum().backward()
    for bank, members in zip(model.banks, model.plan.banks, strict=True):
        for row, parameter in enumerate(members):
            expected = slope[parameter]
            if expected is not None and bank.grad is not None:
                torch.testing.assert_close(bank.grad[row].cpu(), expected, rtol=1e-7, atol=1e-8)


@given(st.data(), circuits(max_variables=4))
@settings(max_examples=of_fifty(25))
def test_of_finite_variables_an_interval_is_the_values_in_it(
    data: st.DataObject, circuit: pf.Circuit
) -> None:
    about = data.draw(intervals(circuit))
    states = enumerate_states(circuit)
    log_prob = pf.reference_log_prob(circuit, states)
    for row, found in enumerate(model_of(circuit).log_prob(about).tolist()):
        allowed = torch.ones(len(states), dtype=torch.bool)
        for variable, x in enumerate(states.T):
            value = about.values[row, variable]  # type: ignore[index]
            low, high = about.lower[row, variable], about.upper[row, variable]  # type: ignore[index]
            if not value.isnan():
                allowed &= x == value
                continue
            inside = [
                (x >= a if a == a else x == x) & (x <= b if b == b else x == x)
                for a, b in zip(low.tolist(), high.tolist(), strict=True)
                if a == a or b == b
            ]
            if inside:
                allowed &= torch.stack(inside).any(dim=0)
        assert math.exp(found) == pytest.approx(log_prob[allowed].exp().sum().item(), abs=1e-9)


@given(st.data(), circuits(max_variables=3, families=mixed_families()))
@settings(max_examples=of_fifty(15))
def test_parts_of_a_batch_say_what_all_of_it_says(data: st.DataObject, circuit: pf.Circuit) -> None:
    about = data.draw(intervals(circuit))
    small = pf.compile(circuit, DEVICE, torch.float64, memory=1)
    for ask in (pf.CompiledCircuit.log_prob, pf.CompiledCircuit.mean):
        asked: Callable[..., Tensor] = ask
        torch.testing.assert_close(asked(small, about), asked(model_of(circuit), about))


def test_rows_with_and_without_intervals_are_drawn_together() -> None:
    layers = [one(pf.Gaussian(), mean=0.0, log_std=s).layers[0] for s in (0.0, 0.1)]
    for model in (model_of(pf.Circuit(pf.SumLayer.random(some))) for some in (layers, layers[:1])):
        about = pf.Evidence(
            [[NAN], [0.5], [NAN], [NAN]],
            lower=[[[3.0, -4.0]], [[NAN, NAN]], [[NAN, NAN]], [[7.0, NAN]]],
            upper=[[[4.0, -3.0]], [[NAN, NAN]], [[NAN, NAN]], [[NAN, NAN]]],
        )
        drawn = model.sample(500, about, torch.Generator(DEVICE).manual_seed(0))[..., 0].cpu()
        assert ((drawn[:, 0].abs() >= 3) & (drawn[:, 0].abs() <= 4)).all()
        assert drawn[:, 0].sign().unique().tolist() == [-1, 1]
        assert (drawn[:, 1] == 0.5).all()
        assert drawn[:, 2].std() > 0.5
        assert (drawn[:, 3] >= 7).all()
        rare = pf.Evidence([[0.1]] * 3, lower=[[NAN]] * 3)
        assert model.sample(2, rare).shape == (2, 3, 1)


def test_without_bounds_nothing_changes() -> None:
    model, circuit = model_of(program()), program()
    x = model.sample(20, generator=torch.Generator(DEVICE).manual_seed(1)).cpu()
    x = x.masked_fill(torch.rand(x.shape, generator=torch.Generator().manual_seed(2)) < 0.5, NAN)
    nothing = torch.full_like(x, NAN)
    same = [
        pf.Evidence(x),
        pf.Evidence(x, lower=nothing, upper=nothing),
        pf.Evidence(x, lower=nothing - INF, upper=nothing),
        pf.Evidence(x, lower=torch.full_like(x, -INF)),
        pf.Evidence(x, lower=torch.where(x.isnan(), NAN, x + 1)),  # of what is observed: not read
    ]
    answers = [
        (
            model.log_prob(e),
            model.mean(e),
            model.sample(2, e, torch.Generator(DEVICE).manual_seed(0)),
        )
        for e in same
    ]
    for found in answers[1:]:
        for a, b in zip(found, answers[0], strict=True):
            assert torch.equal(a, b)
    assert circuit.num_variables == 4


def test_unions_are_sets() -> None:
    model = model_of(pf.naive_bayes([pf.Gaussian(), pf.Poisson(), pf.Categorical(9)], 2))

    def about(*ends: tuple[float, float]) -> pf.Evidence:
        lower, upper = (torch.tensor(x).expand(1, 3, -1) for x in zip(*ends, strict=True))
        return pf.Evidence(lower=lower, upper=upper)

    for one_by_one, together in (
        ([(0.0, 2.0), (1.0, 3.0)], [(0.0, 3.0)]),
        ([(2.0, 4.0), (0.0, 2.0)], [(0.0, 4.0)]),
        ([(0.0, 5.0), (1.0, 2.0)], [(0.0, 5.0)]),
        ([(3.0, 3.0), (NAN, NAN), (3.0, 7.0)], [(3.0, 7.0)]),
        ([(-INF, 1.0), (5.0, INF), (NAN, 2.0)], [(NAN, 2.0), (5.0, NAN)]),
        ([(3.0, INF), (1.0, NAN)], [(1.0, INF)]),
    ):
        many, few = about(*one_by_one), about(*together)
        torch.testing.assert_close(model.log_prob(many), model.log_prob(few))
        torch.testing.assert_close(model.mean(many), model.mean(few))
        torch.testing.assert_close(model.mpe(many).log_value, model.mpe(few).log_value)
        again = pf.compile(model.circuit, DEVICE).log_prob(model.evidence(many)).double()
        torch.testing.assert_close(again, model.log_prob(few), rtol=1e-5, atol=1e-5)


def test_intervals_and_potentials_are_multiplied() -> None:
    model = model_of(one(pf.Categorical(4), logits=[0.0, 1.0, 2.0, 3.0]))
    soft = torch.tensor([[[0.5, 1.0, 2.0, 4.0]]]).log()
    both = pf.Evidence(log_potentials=soft, lower=[[1.0]], upper=[[2.0]])
    weights = torch.arange(4.0).softmax(0) * soft.exp()[0, 0]
    assert model.log_prob(both).exp().item() == pytest.approx(weights[1:3].sum().item())
    listed = pf.Evidence(
        log_potentials=soft[..., [3, 1]], categories=[[[3, 1]]], lower=[[1.0]], upper=[[2.0]]
    )
    assert model.log_prob(listed).exp().item() == pytest.approx(weights[1].item())
    assert model.log_prob(both.top_k(2)).exp().item() == pytest.approx(weights[2].item())


# marginals of chosen variables


@given(st.data(), circuits(max_variables=4))
@settings(max_examples=of_fifty(20))
def test_marginals_of_chosen_variables_are_those_of_all(
    data: st.DataObject, circuit: pf.Circuit
) -> None:
    about = data.draw(intervals(circuit))
    model, every = model_of(circuit), range(circuit.num_variables)
    asked = data.draw(st.lists(st.sampled_from(every), unique=True))
    torch.testing.assert_close(
        model.marginals(about, variables=asked), model.marginals(about)[:, asked]
    )
    some = torch.ones(len(about.lower), circuit.num_variables, 1).long()  # type: ignore[arg-type]
    torch.testing.assert_close(
        model.marginals(about, some[:, asked], variables=asked),
        model.marginals(about, some)[:, asked],
    )


def test_marginals_in_a_mixed_circuit() -> None:
    model = model_of(pf.naive_bayes([pf.Gaussian(), pf.Categorical(2), pf.Categorical(3)], 3))
    x = torch.tensor([[0.7, NAN, NAN]])
    complete = torch.tensor([[0.7, value, NAN] for value in (0.0, 1.0)])
    wanted = (model.log_prob(complete) - model.log_prob(x)).detach()
    torch.testing.assert_close(model.marginals(x, variables=[2, 1])[0, 1, :2], wanted)
    chosen = model.marginals(x, [[[1]]], variables=[1])
    torch.testing.assert_close(chosen.flatten(), wanted[1:])
    for asked in ({}, {"variables": [1, 0]}):
        with pytest.raises(
            pf.PropertyRequired, match=r"variable 0 has no finite range.*variables="
        ):
            model.marginals(x, **asked)  # type: ignore[arg-type]
    for wrong in ([3], [1, 1], [-1]):
        with pytest.raises(pf.EvidenceError, match=r"different integers in 0\.\.2"):
            model.marginals(x, variables=wrong)
    with pytest.raises(pf.TypeMismatch, match="variables"):
        model.marginals(x, variables=["job"])  # type: ignore[list-item]
    with pytest.raises(pf.EvidenceError, match=r"categories: row 0, variable 2 must be in 0\.\.2"):
        model.marginals(x, [[[0], [5]]], variables=[1, 2])


# learning


def censored(x: Tensor, width: float, share: float) -> pf.Evidence:
    """Rows of which some values are known to an interval only."""
    hidden = torch.rand(x.shape, generator=torch.Generator().manual_seed(5)) < share
    lower = torch.where(hidden, (x / width).floor() * width, NAN)
    return pf.Evidence(x.masked_fill(hidden, NAN), lower=lower, upper=lower + width)


LEARNED: list[pf.Circuit] = [
    one(pf.Gaussian(), mean=2.0, log_std=0.5),
    one(pf.LogNormal(), mean=1.0, log_std=-0.5),
    one(pf.Inflated(pf.LogNormal()), atom_logit=0.0, mean=1.0, log_std=-0.5),
    one(pf.Exponential(), log_mean=1.0),
    one(pf.Poisson(), log_rate=1.5),
    one(pf.Histogram([0.0, 1.0, 2.0, 5.0]), logits=[0.0, 1.0, 0.5]),
    one(pf.DiscretizedLogistic(9), mean=4.0, log_scale=0.2),
]


@pytest.mark.parametrize("share", [0.5, 1.0])
@pytest.mark.parametrize("truth", LEARNED, ids=lambda c: type(c.layers[0].family).__name__)
def test_em_finds_the_maximum_for_censored_data(truth: pf.Circuit, share: float) -> None:
    x = model_of(truth).sample(500, generator=torch.Generator(DEVICE).manual_seed(0)).double().cpu()
    rows = censored(x, 1.5, share)
    start = pf.Circuit(
        pf.InputLayer.random(0, truth.layers[0].family, 1, torch.Generator().manual_seed(0))  # type: ignore[union-attr]
    )
    model = pf.compile(start, DEVICE, torch.float64)
    before, steepest = -INF, INF
    for _ in range(15):
        found = pf.fit(model, rows, pf.EM(pseudocount=0.0), epochs=10, progress=False).train
        assert all(b >= a - 1e-12 for a, b in pairwise(found))
        assert found[-1] >= before - 1e-12
        arrived, before = steepest < 1e-3, found[-1]
        model.zero_grad()
        model.log_prob(rows).mean().backward()
        steepest = max(float(bank.grad.abs().max()) for bank in model.banks)  # type: ignore[union-attr]
        if arrived:
            break
    assert steepest < 1e-3


def test_em_learns_mixtures_of_which_nothing_else_is_known() -> None:
    """Intervals tell something, so the sums above them are counted."""
    truth = pf.Circuit(
        pf.SumLayer(
            [pf.ProductLayer([*map(normal, range(2), [at, at])]) for at in (-4.0, 4.0)],
            pf.Parameter.from_probs([[0.2, 0.8]]),
        )
    )
    rows = censored(model_of(truth).sample(400).cpu(), 2.0, 1.0)
    start = pf.naive_bayes([pf.Gaussian()] * 2, 2, generator=torch.Generator().manual_seed(0))
    model = model_of(start)
    found = pf.fit(model, rows, pf.EM(pseudocount=0.0), epochs=80, progress=False).train
    assert all(b >= a - 1e-12 for a, b in pairwise(found))
    model.zero_grad()
    model.log_prob(rows).mean().backward()
    assert all(float(bank.grad.abs().max()) < 1e-3 for bank in model.banks)  # type: ignore[union-attr]
    shares = model.circuit.layers[-1].weight.value.softmax(-1)  # type: ignore[union-attr]
    assert shares.min().item() == pytest.approx(0.2, abs=0.07)


def normal(variable: int, mean: float) -> pf.InputLayer:
    zero = torch.zeros(1, dtype=torch.float64)
    named = {"mean": pf.Parameter(zero + mean), "log_std": pf.Parameter(zero)}
    return pf.InputLayer(variable, pf.Gaussian(), 1, named)


def test_censored_columns_may_be_in_small_units() -> None:
    """The floor of a width is a share of how the intervals spread."""
    x = torch.randn(300, 1, generator=torch.Generator().manual_seed(0)).double()
    found = []
    for unit in (1.0, 1e-6):
        rows, start = censored(x * unit, unit, 1.0), pf.Gaussian()
        model = model_of(one(start, mean=unit, log_std=math.log(3 * unit)))
        pf.fit(model, rows, pf.EM(pseudocount=0.0), epochs=30, progress=False)
        found.append(model.log_prob(rows).sum().item())
    assert found[1] == pytest.approx(found[0], rel=1e-6)


def test_learners_learn_from_censored_rows() -> None:
    circuit = pf.naive_bayes([pf.Gaussian(), pf.Poisson(), pf.Categorical(4)], 2)
    x = model_of(circuit).sample(200).double().cpu()
    for learner in (pf.EM(), pf.Anemone(), pf.MiniBatchEM(), pf.Gradient()):
        model = model_of(pf.naive_bayes([pf.Gaussian(), pf.Poisson(), pf.Categorical(4)], 2))
        found = pf.fit(model, censored(x, 2.0, 0.7), learner, epochs=8, progress=False).train
        assert found[-1] > found[0]


# refusals


class Bare(pf.Gaussian):
    """Says nothing of intervals."""

    log_mass = DensityFamily.log_mass
    moments_within = DensityFamily.moments_within
    mean_within = DensityFamily.mean_within


class Masses(pf.Gaussian):
    """Says their mass, and no more."""

    moments_within = DensityFamily.moments_within
    mean_within = DensityFamily.mean_within


def test_families_that_do_not_say_are_named() -> None:
    bare = model_of(pf.Circuit(pf.InputLayer.random(0, Bare(), 1)))
    with pytest.raises(pf.PropertyRequired, match=r"Bare\(.*`log_mass`"):
        bare.log_prob(bounds((0, 1)))
    model = model_of(pf.Circuit(pf.InputLayer.random(0, Masses(), 1)))
    with pytest.raises(pf.PropertyRequired, match=r"Masses\(.*`mean_within`"):
        model.mean(bounds((0, 1)))
    rows = censored(torch.randn(30, 1).double(), 1.0, 0.5)
    with pytest.raises(pf.PropertyRequired, match=r"Masses\(.*`moments_within`.*Gradient"):
        pf.fit(model, rows, pf.EM(pseudocount=0.0), epochs=2, progress=False)
    assert len(pf.fit(model, rows, pf.Gradient(), epochs=2, progress=False).train) > 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"lower": [[1.0, NAN]], "upper": [[0.0, NAN]]}, "row 0, variable 0 has no number from 1"),
        ({"lower": [[NAN, INF]]}, "row 0, variable 1 has no number from inf"),
        ({"lower": [[NAN, 5.0]], "upper": [[1.0, 4.0]]}, "row 0, variable 1 has no number"),
        ({"lower": [[0.0]]}, r"lower must be \[1, 2\] or \[1, 2, U\], got \(1, 1\)"),
        ({"upper": torch.zeros(1, 2, 0)}, r"upper must be \[1, 2\]"),
        ({"lower": torch.zeros(1, 2, 1), "upper": torch.zeros(1, 2, 2)}, "must have one shape"),
        ({"lower": torch.zeros(1, 2), "upper": torch.zeros(2, 2)}, "one common number of rows"),
        ({"lower": [["a", "b"]]}, "lower must be numbers"),
    ],
)
def test_bad_bounds_are_refused(given: dict[str, Tensor], message: str) -> None:
    model = model_of(pf.naive_bayes([pf.Gaussian(), pf.Categorical(5)], 2))
    with pytest.raises(pf.EvidenceError, match=message):
        model.log_prob(pf.Evidence(**given))


def test_bounds_have_no_gradient() -> None:
    model = model_of(one(pf.Gaussian(), mean=0.0, log_std=0.0))
    with pytest.raises(pf.EvidenceError, match="lower: bounds have no gradient"):
        model.log_prob(pf.Evidence(lower=torch.zeros(1, 1, requires_grad=True)))


def test_what_has_no_mass_is_refused_by_row() -> None:
    model = model_of(one(pf.Poisson(), log_rate=0.0))
    about = bounds((0, 1), (0.2, 0.8), (-3, -1))
    assert model.log_prob(about).tolist()[1:] == [-INF, -INF]
    for ask in (model.mean, model.mpe, lambda e: model.sample(2, e)):
        with pytest.raises(pf.NoMassError) as caught:
            ask(about)
        assert caught.value.rows == (1, 2)


def test_marginal_map_refuses_what_it_would_not_heed() -> None:
    tree = pf.chow_liu(torch.randint(2, (50, 2)))
    with pytest.raises(pf.EvidenceError, match="no potentials or intervals"):
        pf.marginal_map(tree, [0], pf.Evidence(lower=[[NAN, 1.0]]))
    mixed = pf.naive_bayes([pf.Gaussian(), pf.Bernoulli()], 1)
    with pytest.raises(pf.EvidenceError, match="no potentials or intervals"):
        pf.marginal_map(mixed, [1], pf.Evidence(lower=[[1.0, NAN]]))


def test_bounds_of_map_heed_intervals() -> None:
    circuit = pf.naive_bayes([pf.Gaussian(), pf.Categorical(3)], 2)
    about = pf.Evidence(lower=[[0.5, NAN]], upper=[[0.8, NAN]])
    best = model_of(circuit).log_prob(
        pf.Evidence([[NAN, v] for v in range(3)], lower=[[0.5, NAN]] * 3, upper=[[0.8, NAN]] * 3)
    )
    nothing = pf.map_upper_bound(circuit, [], about)
    torch.testing.assert_close(nothing, pf.compile(circuit, dtype=torch.float64).log_prob(about))
    low, high = pf.map_lower_bound(circuit, [1], about), pf.map_upper_bound(circuit, [1], about)
    assert low.item() <= best.max().item() + 1e-12 <= high.item() + 2e-12
    grid = torch.linspace(0.5, 0.8, 101).double()
    states = torch.cartesian_prod(grid, torch.arange(3).double())
    peak = model_of(circuit).log_prob(states).max().item()
    assert pf.mpe_lower_bound(circuit, about).item() <= pf.mpe_upper_bound(circuit, about).item()
    assert peak <= pf.mpe_upper_bound(circuit, about).item() + 1e-12


def test_restrict_names_the_way_for_real_columns() -> None:
    with pytest.raises(pf.EvidenceError, match=r"variable 0 needs a finite range.*lower=.*upper="):
        pf.restrict(one(pf.Gaussian(), mean=0.0, log_std=0.0), {0: [1]})
